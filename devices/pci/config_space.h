// The configuration registers of one PCI function as bytes with access rules (PCI 3.0 §6, PCIe 4.0
// §7.5): what the device set, which bits the guest may change, and which it clears by writing ones.
//
// No locks, no side effects: whoever owns it guards it and acts on what was written.

#ifndef VIREO_DEVICES_PCI_CONFIG_SPACE_H_
#define VIREO_DEVICES_PCI_CONFIG_SPACE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/state.h"

namespace vireo::pci {

// Register offsets of a type 0 header.
inline constexpr uint16_t kVendorId = 0x00;
inline constexpr uint16_t kDeviceId = 0x02;
inline constexpr uint16_t kCommand = 0x04;
inline constexpr uint16_t kStatus = 0x06;
inline constexpr uint16_t kRevisionId = 0x08;
inline constexpr uint16_t kClassCode = 0x09;  // 24 bits.
inline constexpr uint16_t kCacheLineSize = 0x0c;
inline constexpr uint16_t kLatencyTimer = 0x0d;
inline constexpr uint16_t kHeaderType = 0x0e;
inline constexpr uint16_t kBar0 = 0x10;
inline constexpr uint16_t kSubsystemVendorId = 0x2c;
inline constexpr uint16_t kSubsystemId = 0x2e;
inline constexpr uint16_t kExpansionRom = 0x30;
inline constexpr uint16_t kCapabilityPointer = 0x34;
inline constexpr uint16_t kInterruptLine = 0x3c;
inline constexpr uint16_t kInterruptPin = 0x3d;

inline constexpr uint32_t kExpansionRomEnable = 1 << 0;

inline constexpr uint16_t kCommandIo = 1 << 0;
inline constexpr uint16_t kCommandMemory = 1 << 1;
inline constexpr uint16_t kCommandBusMaster = 1 << 2;
inline constexpr uint16_t kCommandParity = 1 << 6;
inline constexpr uint16_t kCommandSerr = 1 << 8;
inline constexpr uint16_t kCommandIntxDisable = 1 << 10;

inline constexpr uint16_t kStatusInterrupt = 1 << 3;
inline constexpr uint16_t kStatusCapabilities = 1 << 4;

inline constexpr uint8_t kHeaderTypeMultifunction = 0x80;

inline constexpr uint8_t kCapabilityVendorSpecific = 0x09;
inline constexpr uint8_t kCapabilityPciExpress = 0x10;
inline constexpr uint8_t kCapabilityMsix = 0x11;

class ConfigSpace {
 public:
  static constexpr uint16_t kConventionalBytes = 256;
  static constexpr uint16_t kExtendedBytes = 4096;

  // `bytes` is one of the two sizes above. All zero, nothing writable.
  explicit ConfigSpace(uint16_t bytes = kConventionalBytes);

  uint16_t size() const { return static_cast<uint16_t>(bytes_.size()); }

  // The device's own access, past the rules. `offset` + width lies within size().
  uint8_t Get8(uint16_t offset) const;
  uint16_t Get16(uint16_t offset) const;
  uint32_t Get32(uint16_t offset) const;
  uint64_t Get64(uint16_t offset) const;
  void Set8(uint16_t offset, uint8_t value);
  void Set16(uint16_t offset, uint16_t value);
  void Set32(uint16_t offset, uint32_t value);
  void Set64(uint16_t offset, uint64_t value);

  // The guest may change exactly the bits of `mask` in the `width` (1 to 8) bytes at `offset`.
  void SetWritable(uint16_t offset, uint64_t mask, int width);
  // A guest that writes ones to bits of `mask` clears them; zeros leave them.
  void SetWriteOneToClear(uint16_t offset, uint64_t mask, int width);

  // Appends a capability of `bytes` bytes, header (id and next pointer) included, to the list at
  // 0x34 and returns its offset, a multiple of four. The body is zero and read-only until said
  // otherwise. RESOURCE_EXHAUSTED when the first 256 bytes are full.
  absl::StatusOr<uint8_t> AddCapability(uint8_t id, uint8_t bytes);

  // The same for the extended list at 0x100, whose header is four bytes.
  absl::StatusOr<uint16_t> AddExtendedCapability(uint16_t id, uint8_t version, uint16_t bytes);

  // The guest's access: any offset, any size. Bytes beyond size() read as ones and are not written.
  void Read(uint16_t offset, std::span<uint8_t> data) const;
  void Write(uint16_t offset, std::span<const uint8_t> data);

  // What is stored now is the power-on state; Reset() returns to it.
  void SetPowerOnState();
  void Reset();

  // The values only: masks and capabilities come from construction.
  void Save(StateWriter& writer) const;
  // INVALID_ARGUMENT, and nothing has changed, unless the state has this space's size and its
  // identity: the bytes that neither the guest nor (the status register) the device changes.
  absl::Status Restore(StateReader& reader);

 private:
  std::vector<uint8_t> bytes_;
  std::vector<uint8_t> power_on_;
  std::vector<uint8_t> writable_;
  std::vector<uint8_t> clearable_;
  uint16_t next_capability_ = 0x40;
  uint16_t last_capability_link_ = kCapabilityPointer;
  uint16_t next_extended_ = 0x100;
  uint16_t last_extended_ = 0;
};

}  // namespace vireo::pci

#endif  // VIREO_DEVICES_PCI_CONFIG_SPACE_H_
