#include "vmm/variable_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status.h"
#include "vmm/firmware_rom.h"

namespace vireo {
namespace {

// UEFI Platform Initialization 1.7 vol. 3 §3.2.1: a firmware volume's signature.
constexpr std::string_view kVolumeSignature = "_FVH";
constexpr size_t kVolumeSignatureOffset = 40;

absl::Status NoStore(const std::string& path, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrFormat("%s is no variable store: %s", path, problem));
}

absl::Status Lock(const UniqueFd& fd, const std::string& path) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;  // All of it, whatever it grows to.
  if (::fcntl(fd.get(), F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
  if (errno == EAGAIN || errno == EACCES) {
    return absl::AbortedError(absl::StrFormat("%s: another machine uses it", path));
  }
  return ErrnoStatus(errno, path);
}

absl::Status WriteAll(const UniqueFd& fd, std::span<const uint8_t> bytes, const std::string& path) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count =
        ::pwrite(fd.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const absl::Status failed = ErrnoStatus(errno, path);
      // Empty, it is made anew next time; half of it would be refused.
      if (::ftruncate(fd.get(), 0) != 0) LogWarning("%s: %s", path, std::strerror(errno));
      return failed;
    }
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VariableStore> VariableStore::Open(Opener& opener, const std::string& path,
                                                  std::span<const uint8_t> initial) {
  const int create = initial.empty() ? 0 : O_CREAT;
  ASSIGN_OR_RETURN(UniqueFd fd, opener.Open(path, O_RDWR | O_NONBLOCK | create, 0600));
  struct stat file;
  if (::fstat(fd.get(), &file) != 0) return ErrnoStatus(errno, path);
  if (!S_ISREG(file.st_mode)) return NoStore(path, "it is not a regular file");
  RETURN_IF_ERROR(Lock(fd, path));
  // Looked at under the lock: another machine may just have made it.
  if (::fstat(fd.get(), &file) != 0) return ErrnoStatus(errno, path);
  if (file.st_size == 0 && !initial.empty()) {
    RETURN_IF_ERROR(WriteAll(fd, initial, path));
    file.st_size = static_cast<off_t>(initial.size());
  }
  const auto size = static_cast<uint64_t>(file.st_size);
  if (!initial.empty() && size != initial.size()) {
    return NoStore(
        path, absl::StrFormat("it has %d bytes; this firmware's have %d", size, initial.size()));
  }
  if (size == 0 || size > kMaxFirmwareBytes || size % kFirmwareGranule != 0) {
    return NoStore(path,
                   absl::StrFormat("it has %d bytes; use a multiple of 4 KiB up to 16 MiB", size));
  }
  ASSIGN_OR_RETURN(MappedRegion contents, MappedRegion::File(fd, size, {}));
  if (std::memcmp(contents.bytes().data() + kVolumeSignatureOffset, kVolumeSignature.data(),
                  kVolumeSignature.size()) != 0) {
    return NoStore(path, "there is no firmware volume at its start");
  }
  return VariableStore(std::move(fd), std::move(contents));
}

absl::StatusOr<VariableStore> VariableStore::InMemory(std::span<const uint8_t> initial) {
  ASSIGN_OR_RETURN(MappedRegion contents, MappedRegion::Anonymous(initial.size()));
  std::ranges::copy(initial, contents.bytes().begin());
  return VariableStore(UniqueFd(), std::move(contents));
}

VariableStore::~VariableStore() {
  if (!fd_.valid() || !contents_.valid()) return;
  const std::span<uint8_t> bytes = contents_.bytes();
  if (::msync(bytes.data(), bytes.size(), MS_SYNC) != 0) {
    LogError("the variable store: %s", std::strerror(errno));
  }
}

}  // namespace vireo
