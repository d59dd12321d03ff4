// NOR flash that the guest maps and programs, where UEFI firmware keeps its variables (the command
// set of Intel's and Micron's parallel flash, JEDEC JESD68 "CFI" ID 0001, as OVMF's driver uses it,
// on a bus of 8 bits):
//
//   0xff        array: reads are the contents again
//   0x10, 0x40  program: the next write's bytes; as flash can, from 1 to 0 only
//   0x20, 0xd0  erase the block of 4 KiB that is written to: all ones
//   0x70        status: bit 7 done, bits 5 and 4 an erase or a program that could not be
//   0x50        clear the status
//
// While it is an array the contents are a read-only memory slot and cost no exit; every write, and
// everything in between, traps. Registers are used by vCPU threads: one mutex.

#ifndef VIREO_DEVICES_FIRMWARE_PFLASH_H_
#define VIREO_DEVICES_FIRMWARE_PFLASH_H_

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "devices/address_space.h"
#include "devices/bus.h"
#include "devices/lifecycle.h"

namespace vireo {

class Pflash final : public BusDevice, public Lifecycle {
 public:
  static constexpr uint64_t kBlockBytes = 4096;

  // `contents`, page-aligned host memory of whole blocks, is what the flash holds, and written in
  // place; it and `address_space` outlive the device. What AddressSpace answers when it cannot be
  // at `base`.
  static absl::StatusOr<std::unique_ptr<Pflash>> Create(AddressSpace& address_space, uint64_t base,
                                                        std::span<uint8_t> contents);
  ~Pflash() override;

  void Read(uint64_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

  Task<void> Quiesce() override;
  void Resume() override {}
  // An array again; the contents stay, as over any loss of power.
  Task<void> Reset() override;
  // Without the contents, which are whoever's they were.
  EncodedState Save() const override;
  absl::Status Restore(const EncodedState& state) override;

 private:
  enum class Mode : uint8_t {
    kArray,
    kStatus,   // Reads are the status.
    kProgram,  // As kStatus, and the next write is data.
    kErase,    // As kStatus, and the next write confirms.
  };

  Pflash(AddressSpace& address_space, uint64_t base, std::span<uint8_t> contents)
      : address_space_(address_space), base_(base), contents_(contents) {}

  void Command(uint8_t command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Puts the window of the mode in the place of the other one.
  absl::Status Show(bool array) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enter(Mode mode) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  AddressSpace& address_space_;
  const uint64_t base_;
  const std::span<uint8_t> contents_;
  uint32_t array_window_ = 0;
  uint32_t command_window_ = 0;
  mutable Mutex mutex_;
  Mode mode_ ABSL_GUARDED_BY(mutex_) = Mode::kArray;
  uint8_t status_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_FIRMWARE_PFLASH_H_
