#include "vmm/firmware_rom.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "vmm/x86/kernel_file.h"

namespace vireo {
namespace {

constexpr size_t kResetVectorBytes = 16;

absl::Status NoFirmware(const std::string& path, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrFormat("%s is no firmware: %s", path, problem));
}

}  // namespace

absl::StatusOr<MappedRegion> LoadFirmwarePart(const UniqueFd& fd, const std::string& path) {
  struct stat file;
  if (::fstat(fd.get(), &file) != 0) return ErrnoStatus(errno, path);
  if (!S_ISREG(file.st_mode)) return NoFirmware(path, "it is not a regular file");
  const auto size = static_cast<uint64_t>(file.st_size);
  if (size < kMinFirmwareBytes || size > kMaxFirmwareBytes || size % kFirmwareGranule != 0) {
    return NoFirmware(
        path,
        absl::StrFormat("it has %d bytes; use a multiple of 4 KiB from 64 KiB to 16 MiB", size));
  }
  ASSIGN_OR_RETURN(MappedRegion rom, MappedRegion::Anonymous(size));
  RETURN_IF_ERROR(x86::ReadInputFileExactly({fd, path}, 0, rom.bytes()));
  return rom;
}

absl::StatusOr<MappedRegion> LoadFirmwareRom(const UniqueFd& fd, const std::string& path) {
  ASSIGN_OR_RETURN(MappedRegion rom, LoadFirmwarePart(fd, path));
  // Processors begin 16 bytes below 4 GiB; neither 0 nor 0xff begins an instruction there.
  const std::span<uint8_t> vector = rom.bytes().last(kResetVectorBytes);
  if (vector[0] == 0 || vector[0] == 0xff) {
    return NoFirmware(path,
                      "there is no instruction where a processor begins, 16 bytes before its end");
  }
  return rom;
}

}  // namespace vireo
