#include "devices/pci/config_space.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/check.h"

namespace vireo::pci {
namespace {

// Little-endian, as PCI is whatever the host.
uint64_t GetBytes(const std::vector<uint8_t>& bytes, uint16_t offset, int width) {
  VIREO_CHECK(offset + width <= static_cast<int>(bytes.size()));
  uint64_t value = 0;
  for (int i = 0; i < width; ++i) value |= uint64_t{bytes[offset + i]} << (8 * i);
  return value;
}

void SetBytes(std::vector<uint8_t>& bytes, uint16_t offset, uint64_t value, int width) {
  VIREO_CHECK(offset + width <= static_cast<int>(bytes.size()));
  for (int i = 0; i < width; ++i) bytes[offset + i] = static_cast<uint8_t>(value >> (8 * i));
}

}  // namespace

ConfigSpace::ConfigSpace(uint16_t bytes)
    : bytes_(bytes), power_on_(bytes), writable_(bytes), clearable_(bytes) {
  VIREO_CHECK(bytes == kConventionalBytes || bytes == kExtendedBytes);
}

uint8_t ConfigSpace::Get8(uint16_t offset) const {
  return static_cast<uint8_t>(GetBytes(bytes_, offset, 1));
}
uint16_t ConfigSpace::Get16(uint16_t offset) const {
  return static_cast<uint16_t>(GetBytes(bytes_, offset, 2));
}
uint32_t ConfigSpace::Get32(uint16_t offset) const {
  return static_cast<uint32_t>(GetBytes(bytes_, offset, 4));
}
uint64_t ConfigSpace::Get64(uint16_t offset) const { return GetBytes(bytes_, offset, 8); }

void ConfigSpace::Set8(uint16_t offset, uint8_t value) { SetBytes(bytes_, offset, value, 1); }
void ConfigSpace::Set16(uint16_t offset, uint16_t value) { SetBytes(bytes_, offset, value, 2); }
void ConfigSpace::Set32(uint16_t offset, uint32_t value) { SetBytes(bytes_, offset, value, 4); }
void ConfigSpace::Set64(uint16_t offset, uint64_t value) { SetBytes(bytes_, offset, value, 8); }

void ConfigSpace::SetWritable(uint16_t offset, uint64_t mask, int width) {
  SetBytes(writable_, offset, mask, width);
}

void ConfigSpace::SetWriteOneToClear(uint16_t offset, uint64_t mask, int width) {
  SetBytes(clearable_, offset, mask, width);
}

absl::StatusOr<uint8_t> ConfigSpace::AddCapability(uint8_t id, uint8_t bytes) {
  VIREO_CHECK(bytes >= 2);
  const uint16_t offset = next_capability_;
  if (offset + bytes > kConventionalBytes) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("capability %#x of %d bytes does not fit at %#x", id, bytes, offset));
  }
  next_capability_ = static_cast<uint16_t>(AlignUp<uint32_t>(offset + bytes, 4));
  Set8(last_capability_link_, static_cast<uint8_t>(offset));
  last_capability_link_ = offset + 1;
  Set8(offset, id);
  Set8(offset + 1, 0);
  Set16(kStatus, Get16(kStatus) | kStatusCapabilities);
  return static_cast<uint8_t>(offset);
}

absl::StatusOr<uint16_t> ConfigSpace::AddExtendedCapability(uint16_t id, uint8_t version,
                                                            uint16_t bytes) {
  VIREO_CHECK(bytes >= 4);
  const uint16_t offset = next_extended_;
  if (offset + bytes > size()) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "extended capability %#x of %d bytes does not fit at %#x", id, bytes, offset));
  }
  next_extended_ = static_cast<uint16_t>(AlignUp<uint32_t>(offset + bytes, 4));
  // PCIe 4.0 §7.6.3: id in bits 15:0, version in 19:16, next in 31:20.
  if (last_extended_ != 0) {
    Set32(last_extended_, (Get32(last_extended_) & 0x000fffff) | uint32_t{offset} << 20);
  }
  last_extended_ = offset;
  Set32(offset, id | uint32_t{version & 0xfu} << 16);
  return offset;
}

void ConfigSpace::Read(uint16_t offset, std::span<uint8_t> data) const {
  for (size_t i = 0; i < data.size(); ++i) {
    data[i] = offset + i < bytes_.size() ? bytes_[offset + i] : 0xff;
  }
}

void ConfigSpace::Write(uint16_t offset, std::span<const uint8_t> data) {
  for (size_t i = 0; i < data.size() && offset + i < bytes_.size(); ++i) {
    const size_t at = offset + i;
    const uint8_t kept = bytes_[at] & ~writable_[at] & ~(clearable_[at] & data[i]);
    bytes_[at] = kept | (data[i] & writable_[at]);
  }
}

void ConfigSpace::SetPowerOnState() { power_on_ = bytes_; }

void ConfigSpace::Reset() { bytes_ = power_on_; }

void ConfigSpace::Save(StateWriter& writer) const { writer.Bytes(bytes_); }

absl::Status ConfigSpace::Restore(StateReader& reader) {
  const std::vector<uint8_t> saved = reader.Bytes();
  if (!reader.status().ok()) return reader.status();
  if (saved.size() != bytes_.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("config space of %d bytes, not %d", saved.size(), bytes_.size()));
  }
  for (size_t i = 0; i < saved.size(); ++i) {
    if (i == kStatus || i == kStatus + 1) continue;
    const uint8_t fixed = ~(writable_[i] | clearable_[i]);
    if (((saved[i] ^ bytes_[i]) & fixed) != 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "config space byte %#x is %#04x, not %#04x: another function", i, saved[i], bytes_[i]));
    }
  }
  bytes_ = saved;
  return absl::OkStatus();
}

}  // namespace vireo::pci
