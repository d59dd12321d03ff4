#include "vmm/kvm/system.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "base/opener.h"
#include "base/status.h"

namespace vireo::kvm {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

constexpr std::string_view kAmdHardware =
    "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu svm nx\nbugs\t\t: vmx\n";
constexpr std::string_view kIntelHardware =
    "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx nx\n";
constexpr std::string_view kNoHardware =
    "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu svmx nx\nvmx flags\t: svm\n";

TEST(CpuinfoTest, HardwareVirtualizationIsAFlagOfItsOwn) {
  EXPECT_TRUE(HasHardwareVirtualization(kAmdHardware));
  EXPECT_TRUE(HasHardwareVirtualization(kIntelHardware));
  EXPECT_FALSE(HasHardwareVirtualization(kNoHardware));
  EXPECT_FALSE(HasHardwareVirtualization(""));
  EXPECT_FALSE(HasHardwareVirtualization("flags"));
}

TEST(CpuinfoTest, ModuleFollowsTheVendor) {
  EXPECT_EQ(KvmModuleFor(kAmdHardware), "kvm_amd");
  EXPECT_EQ(KvmModuleFor(kIntelHardware), "kvm_intel");
}

class FailingOpener final : public Opener {
 public:
  explicit FailingOpener(int error) : error_(error) {}
  absl::StatusOr<UniqueFd> Open(const std::string& path, int, mode_t) override {
    return ErrnoStatus(error_, path);
  }
  absl::StatusOr<std::string> Canonical(const std::string& path) override { return path; }

 private:
  int error_;
};

TEST(SystemTest, AbsentDeviceNamesTheModule) {
  FailingOpener opener(ENOENT);
  const absl::Status status = System::Open(opener).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/dev/kvm"));
  EXPECT_THAT(std::string(status.message()), AnyOf(HasSubstr("kvm_amd"), HasSubstr("kvm_intel")));
}

TEST(SystemTest, ForbiddenDeviceNamesTheGroup) {
  FailingOpener opener(EACCES);
  const absl::Status status = System::Open(opener).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("group kvm"));
}

TEST(SystemTest, OtherFailuresStayWhatTheyAre) {
  FailingOpener opener(EMFILE);
  const absl::Status status = System::Open(opener).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
}

TEST(SystemTest, AFileThatIsNotKvmIsRefused) {
  DirectOpener opener;
  const absl::Status status = System::Open(opener, "/dev/null").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("not KVM"));
}

}  // namespace
}  // namespace vireo::kvm
