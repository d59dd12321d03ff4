#include "vmm/kvm/system.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "vmm/kvm/abi.h"
#include "vmm/kvm/capabilities.h"
#include "vmm/kvm/ioctl.h"

namespace vireo::kvm {
namespace {

constexpr int kWantedApiVersion = 12;  // Has not changed since 2007.

// Capabilities newer than some headers that Vireo is built with.
constexpr int kCapDisableQuirks2 = 213;

std::string ReadCpuinfo() {
  std::ifstream file("/proc/cpuinfo");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

constexpr std::string_view kBlanks = " \t";

// The words of the first line "KEY : WORD WORD ...".
std::vector<std::string_view> CpuinfoWords(std::string_view cpuinfo, std::string_view key) {
  while (!cpuinfo.empty()) {
    const size_t end = std::min(cpuinfo.find('\n'), cpuinfo.size());
    const std::string_view line = cpuinfo.substr(0, end);
    cpuinfo.remove_prefix(std::min(end + 1, cpuinfo.size()));
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view name = line.substr(0, colon);
    if (name.substr(0, name.find_last_not_of(kBlanks) + 1) != key) continue;
    std::vector<std::string_view> words;
    size_t start = line.find_first_not_of(kBlanks, colon + 1);
    while (start != std::string_view::npos) {
      const size_t stop = std::min(line.find_first_of(kBlanks, start), line.size());
      words.push_back(line.substr(start, stop - start));
      start = line.find_first_not_of(kBlanks, stop);
    }
    return words;
  }
  return {};
}

absl::Status ExplainOpenFailure(const absl::Status& status, const std::string& path) {
  const int error = StatusErrno(status);
  if (error == ENOENT || error == ENODEV || error == ENXIO || absl::IsNotFound(status)) {
    return absl::NotFoundError(
        absl::StrFormat("%s: this host offers no KVM; load its module (modprobe %s), and see that "
                        "virtualization is enabled in the firmware",
                        path, KvmModuleFor(ReadCpuinfo())));
  }
  if (error == EACCES || error == EPERM || absl::IsPermissionDenied(status)) {
    return absl::PermissionDeniedError(
        absl::StrCat(path, ": no permission; the user must be root or in the group kvm"));
  }
  return status;
}

}  // namespace

bool HasHardwareVirtualization(std::string_view cpuinfo) {
  for (std::string_view flag : CpuinfoWords(cpuinfo, "flags")) {
    if (flag == "svm" || flag == "vmx") return true;
  }
  return false;
}

std::string_view KvmModuleFor(std::string_view cpuinfo) {
  const std::vector<std::string_view> vendor = CpuinfoWords(cpuinfo, "vendor_id");
  if (!vendor.empty() && (vendor[0] == "AuthenticAMD" || vendor[0] == "HygonGenuine")) {
    return "kvm_amd";
  }
  return "kvm_intel";
}

absl::StatusOr<System> System::Open(Opener& opener, const std::string& path) {
  absl::StatusOr<UniqueFd> fd = opener.Open(path, O_RDWR | O_CLOEXEC);
  if (!fd.ok()) return ExplainOpenFailure(fd.status(), path);
  return Adopt(*std::move(fd));
}

absl::StatusOr<System> System::Adopt(UniqueFd fd) {
  System system(std::move(fd));
  RETURN_IF_ERROR(system.Probe());
  return system;
}

int System::CheckExtension(int capability) const {
  return Ioctl(fd_, KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", capability).value_or(0);
}

absl::Status System::Probe() {
  const absl::StatusOr<int> version = Ioctl(fd_, KVM_GET_API_VERSION, "KVM_GET_API_VERSION", 0);
  if (!version.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("the device given as /dev/kvm is not KVM: ",
                                                      std::string(version.status().message())));
  }
  if (*version != kWantedApiVersion) {
    return absl::FailedPreconditionError(
        absl::StrFormat("KVM's API has version %d, not %d", *version, kWantedApiVersion));
  }
  RETURN_IF_ERROR(CheckRequiredCapabilities([this](int number) { return CheckExtension(number); }));
  ASSIGN_OR_RETURN(const int mapping,
                   Ioctl(fd_, KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE", 0));
  vcpu_mapping_bytes_ = static_cast<size_t>(mapping);

  const int max_vcpus = CheckExtension(KVM_CAP_MAX_VCPUS);
  const int soft_vcpus = CheckExtension(KVM_CAP_NR_VCPUS);
  const int xsave_bytes = CheckExtension(KVM_CAP_XSAVE2);
  const int clock_flags = CheckExtension(KVM_CAP_ADJUST_CLOCK);
  features_ = {
      .max_vcpus = static_cast<uint32_t>(max_vcpus > 0    ? max_vcpus
                                         : soft_vcpus > 0 ? soft_vcpus
                                                          : 4),
      .memslots = static_cast<uint32_t>(CheckExtension(KVM_CAP_NR_MEMSLOTS)),
      .kvmclock_ctrl = CheckExtension(KVM_CAP_KVMCLOCK_CTRL) > 0,
      .tsc_control = CheckExtension(KVM_CAP_TSC_CONTROL) > 0,
      .tsc_deadline_timer = CheckExtension(KVM_CAP_TSC_DEADLINE_TIMER) > 0,
      .quirks2 = static_cast<uint32_t>(CheckExtension(kCapDisableQuirks2)),
      .split_irqchip = CheckExtension(KVM_CAP_SPLIT_IRQCHIP) > 0,
      .x2apic_api = CheckExtension(KVM_CAP_X2APIC_API) > 0,
      .clock_realtime = (clock_flags & KVM_CLOCK_REALTIME) != 0,
      .xsave_bytes = xsave_bytes > 4096 ? static_cast<size_t>(xsave_bytes) : 4096,
  };
  return absl::OkStatus();
}

absl::StatusOr<std::vector<x86::CpuidEntry>> System::SupportedCpuid() const {
  // E2BIG says that there are more; the number is never told.
  for (size_t capacity = 128; capacity <= 4096; capacity *= 2) {
    abi::Cpuid cpuid(capacity);
    cpuid.header().nent = static_cast<uint32_t>(capacity);
    const absl::StatusOr<int> result =
        Ioctl(fd_, abi::kGetSupportedCpuid, "KVM_GET_SUPPORTED_CPUID", cpuid.data());
    if (!result.ok() && StatusErrno(result.status()) == E2BIG) continue;
    if (!result.ok()) return result.status();
    std::vector<x86::CpuidEntry> entries;
    for (const kvm_cpuid_entry2& entry : cpuid.entries().first(cpuid.header().nent)) {
      entries.push_back({.function = entry.function,
                         .index = entry.index,
                         .has_index = (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0,
                         .eax = entry.eax,
                         .ebx = entry.ebx,
                         .ecx = entry.ecx,
                         .edx = entry.edx});
    }
    return entries;
  }
  return absl::InternalError("KVM_GET_SUPPORTED_CPUID: more than 4096 entries");
}

absl::StatusOr<std::vector<uint32_t>> System::MsrsToSave() const {
  abi::MsrList none(0);
  // Fails with E2BIG, leaving the number.
  const absl::StatusOr<int> asked =
      Ioctl(fd_, abi::kGetMsrIndexList, "KVM_GET_MSR_INDEX_LIST", none.data());
  if (!asked.ok() && StatusErrno(asked.status()) != E2BIG) return asked.status();
  abi::MsrList list(none.header().nmsrs);
  list.header().nmsrs = none.header().nmsrs;
  RETURN_IF_ERROR(
      Ioctl(fd_, abi::kGetMsrIndexList, "KVM_GET_MSR_INDEX_LIST", list.data()).status());
  const std::span<uint32_t> indices = list.entries().first(list.header().nmsrs);
  return std::vector<uint32_t>(indices.begin(), indices.end());
}

std::optional<std::string> System::SoftwareVirtualizationNotice() const {
  if (HasHardwareVirtualization(ReadCpuinfo())) return std::nullopt;
  return "this host's KVM has no hardware virtualization beneath it (no svm or vmx in "
         "/proc/cpuinfo): "
         "an ordinary guest kernel is interpreted here and may never finish booting";
}

absl::StatusOr<UniqueFd> System::CreateVm() const {
  ASSIGN_OR_RETURN(const int fd, Ioctl(fd_, KVM_CREATE_VM, "KVM_CREATE_VM", 0));
  return UniqueFd(fd);
}

}  // namespace vireo::kvm
