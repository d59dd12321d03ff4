#include "vmm/option_rom.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"
#include "base/status.h"

namespace vireo {
namespace {

// PCI 3.0 §6.3.1.1 and §6.3.1.2: the header of an image, and the data structure that it points to.
constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kUnit = 512;  // Of lengths.
constexpr size_t kDataPointer = 0x18;
constexpr size_t kHeaderBytes = 0x1a;
// In an image for the PC-AT, whose bytes sum up to 0, one that is there to make them do so: where
// iPXE has it.
constexpr size_t kChecksum = 6;
constexpr char kDataSignature[] = {'P', 'C', 'I', 'R'};
constexpr size_t kVendorId = 4;
constexpr size_t kDeviceId = 6;
constexpr size_t kImageLength = 0x10;
constexpr size_t kCodeType = 0x14;
constexpr size_t kIndicator = 0x15;
constexpr size_t kDataBytes = 0x18;
constexpr uint8_t kCodePcAt = 0;
constexpr uint8_t kLastImage = 0x80;

uint16_t Load16(std::span<const uint8_t> bytes, size_t at) {
  return static_cast<uint16_t>(bytes[at] | bytes[at + 1] << 8);
}

uint8_t SumOf16(uint16_t value) { return static_cast<uint8_t>((value & 0xff) + (value >> 8)); }

void Store16(std::span<uint8_t> bytes, size_t at, uint16_t value) {
  bytes[at] = static_cast<uint8_t>(value);
  bytes[at + 1] = static_cast<uint8_t>(value >> 8);
}

absl::Status NoRom(const std::string& problem) { return absl::InvalidArgumentError(problem); }

}  // namespace

absl::Status AdaptOptionRom(std::span<uint8_t> rom, uint16_t vendor_id, uint16_t device_id) {
  for (size_t at = 0;;) {
    const std::span<uint8_t> rest = rom.subspan(at);
    if (rest.size() < kHeaderBytes || rest[0] != 0x55 || rest[1] != 0xaa) {
      return NoRom(absl::StrFormat("no image begins at byte %d", at));
    }
    const size_t data_at = Load16(rest, kDataPointer);
    if (data_at < kHeaderBytes || data_at + kDataBytes > rest.size() ||
        std::memcmp(rest.data() + data_at, kDataSignature, sizeof(kDataSignature)) != 0) {
      return NoRom(absl::StrFormat("the image at byte %d says not for which device it is", at));
    }
    const std::span<uint8_t> data = rest.subspan(data_at);
    const uint64_t length = Load16(data, kImageLength) * kUnit;
    if (length == 0 || length > rest.size()) {
      return NoRom(
          absl::StrFormat("the image at byte %d has %d bytes of %d", at, length, rest.size()));
    }
    if (data[kCodeType] == kCodePcAt) {
      rest[kChecksum] += SumOf16(Load16(data, kVendorId)) + SumOf16(Load16(data, kDeviceId));
      rest[kChecksum] -= SumOf16(vendor_id) + SumOf16(device_id);
    }
    Store16(data, kVendorId, vendor_id);
    Store16(data, kDeviceId, device_id);
    if ((data[kIndicator] & kLastImage) != 0) return absl::OkStatus();
    at += length;
  }
}

absl::StatusOr<MappedRegion> LoadOptionRom(const UniqueFd& fd, const std::string& path,
                                           uint16_t vendor_id, uint16_t device_id) {
  struct stat file;
  if (::fstat(fd.get(), &file) != 0) return ErrnoStatus(errno, path);
  const auto size = static_cast<uint64_t>(file.st_size);
  if (!S_ISREG(file.st_mode) || size == 0 || size > kMaxOptionRomBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is no expansion ROM: it is no file of 1 byte to %d MiB", path,
                        kMaxOptionRomBytes >> 20));
  }
  ASSIGN_OR_RETURN(MappedRegion rom,
                   MappedRegion::Anonymous(std::bit_ceil(std::max(size, kPageBytes))));
  const std::span<uint8_t> bytes = rom.bytes().first(size);
  for (size_t done = 0; done < size;) {
    const ssize_t count =
        ::pread(fd.get(), bytes.data() + done, size - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, path);
    if (count == 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s became shorter while it was read", path));
    }
    done += static_cast<size_t>(count);
  }
  const absl::Status adapted = AdaptOptionRom(bytes, vendor_id, device_id);
  if (!adapted.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is no expansion ROM: %s", path, adapted.message()));
  }
  return rom;
}

}  // namespace vireo
