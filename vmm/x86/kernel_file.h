// A file with a kernel or an initrd in it, read straight into guest memory, and the question what
// kind of kernel it is. Every message begins with the file's name as the user gave it.

#ifndef VIREO_VMM_X86_KERNEL_FILE_H_
#define VIREO_VMM_X86_KERNEL_FILE_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/memory/guest_address.h"
#include "base/memory/guest_memory.h"
#include "base/unique_fd.h"

namespace vireo::x86 {

// Outlives nothing: both members are borrowed for the length of a call.
struct InputFile {
  const UniqueFd& fd;
  std::string_view name;
};

// INVALID_ARGUMENT when it is not a regular file.
absl::StatusOr<uint64_t> InputFileSize(InputFile file);

// Up to `bytes` from `offset`; shorter only at the end of the file.
absl::StatusOr<std::vector<uint8_t>> ReadInputFile(InputFile file, uint64_t offset, uint64_t bytes);

// Fills `part` from `offset` on. INVALID_ARGUMENT when the file is shorter.
absl::Status ReadInputFileExactly(InputFile file, uint64_t offset, std::span<uint8_t> part);

// Reads exactly `bytes` from `offset` into RAM at `destination`. OUT_OF_RANGE when that is not RAM,
// INVALID_ARGUMENT when the file is shorter. Memory may be partly written then.
absl::Status ReadInputFileToGuest(InputFile file, uint64_t offset, uint64_t bytes,
                                  GuestAddress destination, GuestMemory& memory);

enum class KernelKind { kBzImage, kElf64 };

// From the first bytes of the file. INVALID_ARGUMENT "NAME: not a bzImage or PVH ELF kernel: ..."
// saying what it looks like instead.
absl::StatusOr<KernelKind> DetectKernelKind(std::span<const uint8_t> head, std::string_view name);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_KERNEL_FILE_H_
