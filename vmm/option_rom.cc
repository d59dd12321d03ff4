#include "vmm/option_rom.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_format.h"
#include "base/endian.h"
#include "base/status.h"
#include "vmm/x86/kernel_file.h"

namespace vireo {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kUnit = 512;  // Of lengths.

// PCI 3.0 §6.3.1.1: how an image begins.
struct ImageHeader {
  uint8_t signature[2];
  uint8_t for_the_code[0x16];
  Le16 data_at;
};
static_assert(sizeof(ImageHeader) == 0x1a);

// PCI 3.0 §6.3.1.2: what the image is for.
struct PciData {
  char signature[4];
  Le16 vendor_id;
  Le16 device_id;
  uint8_t unused_here[8];
  Le16 image_units;
  Le16 code_revision;
  uint8_t code_type;
  uint8_t indicator;
  Le16 reserved;
};
static_assert(sizeof(PciData) == 0x18 && offsetof(PciData, code_type) == 0x14);

constexpr uint8_t kSignature[] = {0x55, 0xaa};
constexpr char kDataSignature[] = {'P', 'C', 'I', 'R'};
constexpr uint8_t kCodePcAt = 0;
constexpr uint8_t kLastImage = 0x80;
// All bytes of an image for the PC-AT sum up to 0. Where iPXE has the one that makes them do so.
constexpr size_t kChecksum = 6;

uint8_t SumOfIds(const PciData& data) {
  const uint16_t vendor = data.vendor_id;
  const uint16_t device = data.device_id;
  return static_cast<uint8_t>(vendor + (vendor >> 8) + device + (device >> 8));
}

}  // namespace

absl::Status AdaptOptionRom(std::span<uint8_t> rom, uint16_t vendor_id, uint16_t device_id) {
  for (size_t at = 0;;) {
    const std::span<uint8_t> rest = rom.subspan(at);
    ImageHeader header = {};
    if (rest.size() >= sizeof(header)) std::memcpy(&header, rest.data(), sizeof(header));
    if (std::memcmp(header.signature, kSignature, sizeof(kSignature)) != 0) {
      return absl::InvalidArgumentError(absl::StrFormat("no image begins at byte %d", at));
    }
    const size_t data_at = header.data_at;
    PciData data = {};
    if (data_at >= sizeof(header) && data_at + sizeof(data) <= rest.size()) {
      std::memcpy(&data, rest.data() + data_at, sizeof(data));
    }
    if (std::memcmp(data.signature, kDataSignature, sizeof(kDataSignature)) != 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the image at byte %d says not for which device it is", at));
    }
    const uint64_t length = data.image_units * kUnit;
    if (length == 0 || length > rest.size()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the image at byte %d has %d bytes of %d", at, length, rest.size()));
    }
    const uint8_t sum_before = SumOfIds(data);
    data.vendor_id = vendor_id;
    data.device_id = device_id;
    if (data.code_type == kCodePcAt) {
      rest[kChecksum] = static_cast<uint8_t>(rest[kChecksum] + sum_before - SumOfIds(data));
    }
    std::memcpy(rest.data() + data_at, &data, sizeof(data));
    if ((data.indicator & kLastImage) != 0) return absl::OkStatus();
    at += length;
  }
}

absl::StatusOr<MappedRegion> LoadOptionRom(const UniqueFd& fd, const std::string& path,
                                           uint16_t vendor_id, uint16_t device_id) {
  const x86::InputFile file = {fd, path};
  ASSIGN_OR_RETURN(const uint64_t size, x86::InputFileSize(file));
  if (size == 0 || size > kMaxOptionRomBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is no expansion ROM: it has %d bytes; 1 to %d are possible", path, size,
                        kMaxOptionRomBytes));
  }
  ASSIGN_OR_RETURN(MappedRegion rom,
                   MappedRegion::Anonymous(std::bit_ceil(std::max(size, kPageBytes))));
  const std::span<uint8_t> bytes = rom.bytes().first(size);
  RETURN_IF_ERROR(x86::ReadInputFileExactly(file, 0, bytes));
  const absl::Status adapted = AdaptOptionRom(bytes, vendor_id, device_id);
  if (!adapted.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is no expansion ROM: %s", path, adapted.message()));
  }
  return rom;
}

}  // namespace vireo
