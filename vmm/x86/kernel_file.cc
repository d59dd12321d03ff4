#include "vmm/x86/kernel_file.h"

#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"
#include "base/iovecs.h"
#include "base/status.h"

namespace vireo::x86 {
namespace {

bool StartsWith(std::span<const uint8_t> head, std::string_view magic, size_t offset = 0) {
  return head.size() >= offset + magic.size() &&
         std::memcmp(head.data() + offset, magic.data(), magic.size()) == 0;
}

// What people pass by mistake.
std::string_view Resemblance(std::span<const uint8_t> head) {
  using namespace std::string_view_literals;
  if (head.empty()) return "the file is empty";
  if (StartsWith(head, "\x1f\x8b"sv)) return "it looks gzip-compressed (an initrd?)";
  if (StartsWith(head, "\x28\xb5\x2f\xfd"sv)) return "it looks zstd-compressed (an initrd?)";
  if (StartsWith(head,
                 "\xfd"
                 "7zXZ"sv))
    return "it looks xz-compressed (an initrd?)";
  if (StartsWith(head, "07070"sv)) return "it looks like a cpio archive (an initrd?)";
  if (StartsWith(head, "QFI\xfb"sv)) return "it looks like a QCOW2 image";
  if (StartsWith(head, "MZ"sv)) return "it looks like an EFI program without a Linux kernel in it";
  if (StartsWith(head,
                 "\x7f"
                 "ELF"sv))
    return "it is an ELF file of 32 bits";
  return "neither the bzImage signature at offset 0x202 nor an ELF header is there";
}

// Returns how many bytes of `part` there are; fewer only at the end of the file.
absl::StatusOr<size_t> ReadUpTo(InputFile file, uint64_t offset, std::span<uint8_t> part) {
  size_t done = 0;
  while (done < part.size()) {
    const ssize_t got = ::pread(file.fd.get(), part.data() + done, part.size() - done,
                                static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, file.name);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

absl::Status Ended(InputFile file, uint64_t at, uint64_t wanted) {
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: the file ends at byte %d, before its contents do (at %d)", file.name, at, wanted));
}

}  // namespace

absl::StatusOr<uint64_t> InputFileSize(InputFile file) {
  struct stat info = {};
  if (::fstat(file.fd.get(), &info) != 0) return ErrnoStatus(errno, file.name);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: not a regular file", file.name));
  }
  return static_cast<uint64_t>(info.st_size);
}

absl::StatusOr<std::vector<uint8_t>> ReadInputFile(InputFile file, uint64_t offset,
                                                   uint64_t bytes) {
  std::vector<uint8_t> data(bytes);
  ASSIGN_OR_RETURN(const size_t done, ReadUpTo(file, offset, data));
  data.resize(done);
  return data;
}

absl::Status ReadInputFileExactly(InputFile file, uint64_t offset, std::span<uint8_t> part) {
  ASSIGN_OR_RETURN(const size_t done, ReadUpTo(file, offset, part));
  if (done < part.size()) return Ended(file, offset + done, offset + part.size());
  return absl::OkStatus();
}

absl::Status ReadInputFileToGuest(InputFile file, uint64_t offset, uint64_t bytes,
                                  GuestAddress destination, GuestMemory& memory) {
  GuestWritable target(memory);
  if (!target.Append(destination, bytes)) {
    return absl::OutOfRangeError(absl::StrFormat("%s: the guest has no memory for %d bytes at 0x%x",
                                                 file.name, bytes, destination.value()));
  }
  constexpr size_t kMostVectors = 1024;  // IOV_MAX
  uint64_t done = 0;
  absl::Status status;
  while (done < bytes) {
    const IoVecList rest = Slice(target.iovecs(), done, bytes - done);
    const ssize_t got =
        ::preadv(file.fd.get(), rest.data(), static_cast<int>(std::min(rest.size(), kMostVectors)),
                 static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      status = ErrnoStatus(errno, file.name);
      break;
    }
    if (got == 0) {
      status = Ended(file, offset + done, offset + bytes);
      break;
    }
    done += static_cast<uint64_t>(got);
  }
  target.Complete(bytes);  // Also of a read that failed: what it wrote is not known.
  return status;
}

absl::StatusOr<KernelKind> DetectKernelKind(std::span<const uint8_t> head, std::string_view name) {
  using namespace std::string_view_literals;
  // Linux boot protocol: boot_flag at 0x1fe, "HdrS" at 0x202.
  if (StartsWith(head, "\x55\xaa"sv, 0x1fe) && StartsWith(head, "HdrS"sv, 0x202)) {
    return KernelKind::kBzImage;
  }
  constexpr uint8_t kElfClass64 = 2;
  if (StartsWith(head,
                 "\x7f"
                 "ELF"sv) &&
      head.size() > 4 && head[4] == kElfClass64) {
    return KernelKind::kElf64;
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: not a bzImage or PVH ELF kernel: %s", name, Resemblance(head)));
}

}  // namespace vireo::x86
