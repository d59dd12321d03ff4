#include "vmm/firmware_descriptors.h"

#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

class FirmwareDescriptorsTest : public testing::Test {
 protected:
  FirmwareDescriptorsTest() {
    Write("50-secure.json", R"({"mapping": {"executable": {"filename": "/fw/secure.fd"}},
                               "features": ["acpi-s3", "requires-smm"]})");
    Write("60-plain.json", R"({"mapping": {"executable": {"filename": "/fw/plain.fd"}},
                              "features": ["acpi-s3"]})");
    Write("70-other.txt", R"("/fw/plain.fd" "requires-smm")");
  }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_.File(name)) << text;
  }
  std::string Find(const std::vector<std::string>& images) {
    return DescriptorThatRequiresSmm({"/nowhere", folder_.path()}, images);
  }

  TempDir folder_;
};

TEST_F(FirmwareDescriptorsTest, FindsWhatNeedsSystemManagementMode) {
  EXPECT_EQ(Find({"/fw/secure.fd"}), folder_.File("50-secure.json"));
  EXPECT_EQ(Find({"/fw/alias.fd", "/fw/secure.fd"}), folder_.File("50-secure.json"));
}

TEST_F(FirmwareDescriptorsTest, SaysNothingOfOthers) {
  EXPECT_EQ(Find({"/fw/plain.fd"}), "");
  EXPECT_EQ(Find({"/fw/secure"}), "");
  EXPECT_EQ(Find({}), "");
}

}  // namespace
}  // namespace vireo
