#include "vmm/firmware_rom.h"

#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

using testing::HasSubstr;

class FirmwareRomTest : public testing::Test {
 protected:
  absl::StatusOr<MappedRegion> Load(const std::string& bytes) {
    const std::string path = folder_.File("rom");
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    return LoadFirmwareRom(UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), "rom");
  }
  // Of `bytes` bytes, all 0x11 but for the first instruction.
  static std::string Image(size_t bytes, char first = '\xea') {
    std::string image(bytes, '\x11');
    if (bytes >= 16) image[bytes - 16] = first;
    return image;
  }

  TempDir folder_;
};

TEST_F(FirmwareRomTest, ReadsAllOfIt) {
  for (const size_t bytes : {size_t{64} << 10, size_t{256} << 10, size_t{16} << 20}) {
    const absl::StatusOr<MappedRegion> rom = Load(Image(bytes));
    ASSERT_TRUE(rom.ok()) << rom.status();
    ASSERT_EQ(rom->bytes().size(), bytes);
    EXPECT_EQ(rom->bytes()[0], 0x11);
    EXPECT_EQ(rom->bytes()[bytes - 16], 0xea);
  }
}

TEST_F(FirmwareRomTest, RefusesOtherSizes) {
  for (const size_t bytes : {size_t{0}, size_t{512}, size_t{60} << 10, (size_t{256} << 10) + 512,
                             (size_t{16} << 20) + 4096}) {
    const absl::Status status = Load(Image(bytes)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bytes;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("rom is no firmware: it has " + std::to_string(bytes)));
  }
}

TEST_F(FirmwareRomTest, RefusesWhatHoldsNoCodeAtItsEnd) {
  for (const char first : {'\0', '\xff'}) {
    const absl::Status status = Load(Image(256 << 10, first)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("there is no instruction"));
  }
}

TEST_F(FirmwareRomTest, APartOfItNeedNoCode) {
  const std::string path = folder_.File("part");
  std::ofstream(path, std::ios::binary) << Image(128 << 10, '\xff');
  EXPECT_TRUE(LoadFirmwarePart(UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), "part").ok());
}

TEST_F(FirmwareRomTest, RefusesWhatIsNoFile) {
  const absl::Status status =
      LoadFirmwareRom(UniqueFd(::open("/dev/zero", O_RDONLY | O_CLOEXEC)), "/dev/zero").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/dev/zero is no firmware"));
}

}  // namespace
}  // namespace vireo
