#include "vmm/firmware_rom.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_format.h"
#include "base/status.h"

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
  const std::span<uint8_t> bytes = rom.bytes();
  for (size_t done = 0; done < size;) {
    const ssize_t count =
        ::pread(fd.get(), bytes.data() + done, size - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, path);
    if (count == 0) return NoFirmware(path, "it became shorter while it was read");
    done += static_cast<size_t>(count);
  }
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
