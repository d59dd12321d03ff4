// ioctl(2) on a KVM descriptor, with a Status that names the request. Private to vmm/kvm.

#ifndef VIREO_VMM_KVM_IOCTL_H_
#define VIREO_VMM_KVM_IOCTL_H_

#include <sys/ioctl.h>

#include <cerrno>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace vireo::kvm {

// Retries EINTR; KVM_RUN must see it (a kick), so Vcpu::Run() calls ioctl itself.
template <typename Arg>
absl::StatusOr<int> Ioctl(const UniqueFd& fd, unsigned long request, std::string_view name,
                          Arg arg) {
  int result;
  do {
    result = ::ioctl(fd.get(), request, arg);
  } while (result < 0 && errno == EINTR);
  if (result < 0) return ErrnoStatus(errno, name);
  return result;
}

}  // namespace vireo::kvm

#endif  // VIREO_VMM_KVM_IOCTL_H_
