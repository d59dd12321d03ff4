// The image of a firmware: a file of code whose end is at 4 GiB, where processors begin.
#ifndef VIREO_VMM_FIRMWARE_ROM_H_
#define VIREO_VMM_FIRMWARE_ROM_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/mapped_region.h"
#include "base/unique_fd.h"

namespace vireo {

inline constexpr uint64_t kMinFirmwareBytes = uint64_t{64} << 10;
inline constexpr uint64_t kMaxFirmwareBytes = uint64_t{16} << 20;  // What layout.h leaves for it.
inline constexpr uint64_t kFirmwareGranule = 4096;

// A copy of it, in pages of its own. INVALID_ARGUMENT for what cannot be firmware: it is no file,
// of a wrong size, or has nothing where the first instruction must be. `path` is for messages.
absl::StatusOr<MappedRegion> LoadFirmwareRom(const UniqueFd& fd, const std::string& path);

// As above, of a part of it that is not where processors begin.
absl::StatusOr<MappedRegion> LoadFirmwarePart(const UniqueFd& fd, const std::string& path);

}  // namespace vireo

#endif  // VIREO_VMM_FIRMWARE_ROM_H_
