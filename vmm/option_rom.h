// Expansion ROMs, also called option ROMs: programs for a PCI function that firmware finds on it
// and starts.
#ifndef VIREO_VMM_OPTION_ROM_H_
#define VIREO_VMM_OPTION_ROM_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mapped_region.h"
#include "base/unique_fd.h"

namespace vireo {

inline constexpr uint64_t kMaxOptionRomBytes = uint64_t{4} << 20;

// A copy of the file for the function with these ids, in pages of its own, a power of two of them.
// INVALID_ARGUMENT for what is no expansion ROM, or a larger one. `path` is for messages.
absl::StatusOr<MappedRegion> LoadOptionRom(const UniqueFd& fd, const std::string& path,
                                           uint16_t vendor_id, uint16_t device_id);

// Firmware starts an image only on the function that it names: has every image in `rom` name this
// one (PCI 3.0 §6.3.1). INVALID_ARGUMENT, and `rom` may have changed in part, where the images do
// not follow each other as they must.
absl::Status AdaptOptionRom(std::span<uint8_t> rom, uint16_t vendor_id, uint16_t device_id);

}  // namespace vireo

#endif  // VIREO_VMM_OPTION_ROM_H_
