#include "vmm/firmware_log.h"

#include <fcntl.h>

#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

class FirmwareLogTest : public testing::Test {
 protected:
  UniqueFd Open() {
    return UniqueFd(
        ::open(folder_.File("log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  }
  std::string Contents() {
    std::ostringstream text;
    text << std::ifstream(folder_.File("log")).rdbuf();
    return text.str();
  }
  static void Append(FirmwareLog& log, std::string_view text) {
    for (const char c : text) log.Append(static_cast<uint8_t>(c));
  }

  TempDir folder_;
};

TEST_F(FirmwareLogTest, WritesWholeLinesAndTheRestAtTheEnd) {
  {
    FirmwareLog log(Open(), "log");
    Append(log, "one\ntwo");
    EXPECT_EQ(Contents(), "one\n");
    Append(log, "\nthree");
    log.Restart();
    EXPECT_EQ(Contents(), "one\ntwo\nthree");
    Append(log, " four");
  }
  EXPECT_EQ(Contents(), "one\ntwo\nthree four");
}

TEST_F(FirmwareLogTest, AGuestThatWritesForEverFillsNoDisk) {
  FirmwareLog log(Open(), "log");
  const std::string line = std::string(1023, 'x') + "\n";
  for (int i = 0; i < 2000; ++i) Append(log, line);
  EXPECT_LT(Contents().size(), FirmwareLog::kMaxBytes + 100);
  EXPECT_THAT(Contents(), testing::EndsWith("the rest is dropped]\n"));
  log.Restart();
  Append(log, "again\n");
  EXPECT_THAT(Contents(), testing::EndsWith("again\n"));
}

TEST_F(FirmwareLogTest, AFullDiskIsNoFaultOfTheGuest) {
  FirmwareLog log(UniqueFd(::open("/dev/full", O_WRONLY | O_CLOEXEC)), "/dev/full");
  Append(log, "one\ntwo\n");
}

}  // namespace
}  // namespace vireo
