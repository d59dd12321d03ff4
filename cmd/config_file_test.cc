#include "cmd/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class ConfigFile : public testing::Test {
 protected:
  absl::StatusOr<VmConfig> Load(const std::string& json) {
    std::ofstream(path_) << json;
    return LoadConfigFile(path_);
  }
  TempDir directory_;
  const std::string path_ = directory_.File("vm.json");
};

TEST_F(ConfigFile, IsTheJsonOfAVmConfig) {
  const absl::StatusOr<VmConfig> config =
      Load(R"({"name": "web1", "cpus": {"boot": 2}, "boot": {"kernel": "vmlinuz"}})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "web1");
  EXPECT_EQ(config->cpus.boot, 2u);
  EXPECT_EQ(config->boot.kernel, "vmlinuz");
}

TEST_F(ConfigFile, MistakesNameTheFileAndTheField) {
  const absl::Status status = Load(R"({"memroy": {}})").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), StartsWith(path_ + ": "));
  EXPECT_THAT(std::string(status.message()), HasSubstr("memroy"));
}

TEST_F(ConfigFile, MissingFileIsNamed) {
  const absl::Status status = LoadConfigFile(path_).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
}

TEST_F(ConfigFile, DirectoryIsRefused) {
  const absl::Status status = LoadConfigFile(directory_.path()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
}

TEST_F(ConfigFile, DiskImageIsNotReadWhole) {
  const absl::Status status = Load(std::string((1 << 20) + 1, ' ')).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
}

}  // namespace
}  // namespace vireo
