// What a PC has from 0xc0000 to 1 MiB: RAM with the last part of the firmware's ROM over it, and
// seven registers of the host bridge (PAM: Intel 3 Series Express Chipset datasheet, "Programmable
// Attribute Map") that say, for each 16 KiB, which of the two reads and writes reach. Firmware
// copies itself into the RAM below and then protects it from writes.
//
//   0xc0000  0xc4000  ...  0xec000   0xf0000
//   | PAM1            ...    PAM6  | PAM0       |   bit 0 (4): reads go to RAM,
//   | 3:0    7:4             7:4   | 7:4        |   bit 1 (5): writes go to RAM
//                    | 0xe0000  ROM             |
//
// Pieces of one kind that touch are one window of the address space, so that a change costs few
// memory slots. Set() may be called on any thread; it takes nobody else's lock but the address
// space's.

#ifndef VIREO_DEVICES_FIRMWARE_SHADOW_MEMORY_H_
#define VIREO_DEVICES_FIRMWARE_SHADOW_MEMORY_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/log.h"
#include "base/memory/guest_memory.h"
#include "base/mutex.h"
#include "devices/address_space.h"
#include "devices/bus.h"

namespace vireo {

class ShadowMemory final {
 public:
  static constexpr uint64_t kBase = 0xc0000;
  static constexpr uint64_t kEnd = 0x100000;
  static constexpr uint64_t kPieceBytes = 0x4000;
  static constexpr uint64_t kMaxRomBytes = 0x20000;
  static constexpr size_t kRegisters = 7;
  using Registers = std::array<uint8_t, kRegisters>;

  // `memory` has RAM in all of the range; `rom`, page-aligned host memory, is the whole of the
  // firmware: its last 128 KiB are seen here, or what of them are whole pieces. As after power-on:
  // all registers 0. All outlive this object.
  ShadowMemory(AddressSpace& address_space, GuestMemory& memory, std::span<uint8_t> rom);
  ~ShadowMemory();
  ShadowMemory(const ShadowMemory&) = delete;
  ShadowMemory& operator=(const ShadowMemory&) = delete;

  // The registers as they are now.
  void Set(const Registers& registers);

 private:
  static constexpr size_t kPieces = (kEnd - kBase) / kPieceBytes;

  enum class Kind {
    kNothing,      // Reads as ones, takes no writes.
    kWriteOnly,    // Reads as ones, writes go to RAM.
    kRom,          // Takes no writes.
    kRomOverRam,   // Reads come from ROM, writes go to RAM.
    kReadOnlyRam,  // Takes no writes.
    kRam,
  };

  // Takes the writes that go to RAM where reads do not come from it.
  class RamBelow final : public BusDevice {
   public:
    RamBelow(GuestMemory& memory, uint64_t base) : memory_(memory), base_(base) {}
    void Read(uint64_t offset, std::span<uint8_t> data) override;
    std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

   private:
    GuestMemory& memory_;
    const uint64_t base_;
  };

  struct Run {
    Kind kind = Kind::kNothing;
    uint64_t base = 0;
    uint64_t size = 0;
    uint32_t window = 0;              // Not of kNothing.
    std::unique_ptr<RamBelow> below;  // Of kWriteOnly and kRomOverRam.
  };

  Kind KindOf(size_t piece, const Registers& registers) const;
  std::vector<Run> RunsOf(const Registers& registers) const;
  // False when the address space has no room for it.
  bool Place(Run& run);

  AddressSpace& address_space_;
  GuestMemory& memory_;
  std::span<uint8_t> ram_;  // Of the whole range.
  std::span<uint8_t> rom_;  // What is seen of it.
  RateLimited log_limit_;
  Mutex mutex_;
  std::vector<Run> runs_ ABSL_GUARDED_BY(mutex_);  // Those that are placed.
};

}  // namespace vireo

#endif  // VIREO_DEVICES_FIRMWARE_SHADOW_MEMORY_H_
