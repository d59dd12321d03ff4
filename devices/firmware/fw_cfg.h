// fw_cfg: what a machine tells its firmware and hands over to it, as numbered items, some of which
// have names besides (QEMU, "QEMU Firmware Configuration (fw_cfg) Device"; SeaBIOS and OVMF know a
// virtual machine by it).
//
//   port 0x510  selector: 16 bits, write-only; chooses an item and goes to its start
//        0x511  data: each read takes the item's next byte, or 0 past its end
//        0x514  DMA address, high half; reads as "QEMU"    (big-endian, as all of DMA)
//        0x518  low half, whose write runs the request there; reads as " CFG"
//
//   request in guest memory:  control (32 bits) | length (32) | address (64)
//
// Items are set while the machine is built and fixed from then on. Registers are used by vCPU
// threads: one mutex, held while a request is served. It is held in an item's callbacks too, so
// those do not call the device.

#ifndef VIREO_DEVICES_FIRMWARE_FW_CFG_H_
#define VIREO_DEVICES_FIRMWARE_FW_CFG_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/log.h"
#include "base/memory/guest_memory.h"
#include "base/mutex.h"
#include "devices/bus.h"
#include "devices/lifecycle.h"

namespace vireo {

class FwCfg final : public BusDevice, public Lifecycle {
 public:
  static constexpr uint16_t kPort = 0x510;
  static constexpr uint64_t kPorts = 12;
  static constexpr size_t kNameBytes = 56;  // Of a file, with its terminator.

  // Keys of items without a name.
  static constexpr uint16_t kSignature = 0x0000;  // Set by the device, as is the next.
  static constexpr uint16_t kInterfaces = 0x0001;
  static constexpr uint16_t kUuid = 0x0002;        // 16 bytes in the order in which it is written.
  static constexpr uint16_t kRamBytes = 0x0003;    // 64 bits, as all little-endian.
  static constexpr uint16_t kNoGraphics = 0x0004;  // 16 bits
  static constexpr uint16_t kCpus = 0x0005;        // 16 bits: there at boot.
  // Of a kernel to be started: where a BIOS puts each part (32 bits), how long it is, its bytes.
  static constexpr uint16_t kKernelAddress = 0x0007;
  static constexpr uint16_t kKernelBytes = 0x0008;
  static constexpr uint16_t kInitrdAddress = 0x000a;
  static constexpr uint16_t kInitrdBytes = 0x000b;
  static constexpr uint16_t kBootMenu = 0x000e;  // 16 bits: 1 to offer it.
  static constexpr uint16_t kMaxCpus = 0x000f;   // 16 bits: one more than the last APIC ID.
  static constexpr uint16_t kKernel = 0x0011;
  static constexpr uint16_t kInitrd = 0x0012;
  static constexpr uint16_t kCommandLineAddress = 0x0013;
  static constexpr uint16_t kCommandLineBytes = 0x0014;  // With its closing NUL.
  static constexpr uint16_t kCommandLine = 0x0015;
  static constexpr uint16_t kSetupAddress = 0x0016;
  static constexpr uint16_t kSetupBytes = 0x0017;
  static constexpr uint16_t kSetup = 0x0018;  // The real-mode part.
  static constexpr uint16_t kFiles = 0x0019;  // The directory; made by the device.
  static constexpr uint16_t kFirstFile = 0x0020;
  static constexpr uint16_t kIrq0Override = 0x8002;  // 8 bits: 1, IRQ 0 arrives at input 2.

  // `memory` outlives the device.
  explicit FwCfg(GuestMemory& memory);

  // --- Before the guest runs. ---

  void SetItem(uint16_t key, std::vector<uint8_t> bytes);
  // Little-endian.
  void SetNumber(uint16_t key, uint64_t value, size_t bytes);
  // Fills a buffer with the bytes at an offset. What it answers instead, the guest's request fails
  // with, and the log tells.
  using ReadPart = absl::AnyInvocable<absl::Status(uint64_t offset, std::span<uint8_t> part)>;
  // An item of `bytes` bytes that are read when the guest does, not kept.
  void SetItem(uint16_t key, uint64_t bytes, ReadPart read);
  // ALREADY_EXISTS, or INVALID_ARGUMENT for a name of no bytes or too many.
  absl::Status AddFile(const std::string& name, std::vector<uint8_t> bytes);
  // A file whose bytes are made each time it is selected, from what the guest has set up by then.
  // `make` gives as many bytes each time; it is called at once for their number.
  absl::Status AddFile(const std::string& name, absl::AnyInvocable<std::vector<uint8_t>()> make);

  void Read(uint64_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

  Task<void> Quiesce() override;
  void Resume() override {}
  Task<void> Reset() override;
  EncodedState Save() const override;
  absl::Status Restore(const EncodedState& state) override;

 private:
  struct Item {
    std::vector<uint8_t> bytes;
    absl::AnyInvocable<std::vector<uint8_t>()> make = nullptr;  // May be null.
    // When not null, this gives the bytes, so many, and `bytes` is empty.
    ReadPart read = nullptr;
    uint64_t read_bytes = 0;

    uint64_t size() const { return read == nullptr ? bytes.size() : read_bytes; }
  };
  struct File {
    std::string name;
    uint16_t key;
  };

  absl::Status AddItemAsFile(const std::string& name, Item item);
  void Select(uint16_t key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of the selected item; 0 when there is none.
  uint64_t SelectedSize() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The item's bytes from offset_ on: all, or some, or none at its end. Good until the next call.
  absl::StatusOr<std::span<const uint8_t>> Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunDma(GuestAddress request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The next `length` bytes of the item, then zeros, to guest memory. False when that is not all
  // RAM (nothing has moved then), or the item cannot be read.
  bool CopyOut(uint64_t address, uint32_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  GuestMemory& memory_;
  mutable Mutex mutex_;
  std::map<uint16_t, Item> items_ ABSL_GUARDED_BY(mutex_);
  std::vector<File> files_ ABSL_GUARDED_BY(mutex_);  // In the order of keys.
  uint16_t selected_ ABSL_GUARDED_BY(mutex_) = 0;    // Without its flags.
  uint64_t offset_ ABSL_GUARDED_BY(mutex_) = 0;      // Within the item; at most its size.
  // What was read ahead of an item that is not kept.
  std::vector<uint8_t> window_ ABSL_GUARDED_BY(mutex_);
  uint64_t window_offset_ ABSL_GUARDED_BY(mutex_) = 0;
  RateLimited log_limit_;
  uint32_t dma_high_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_FIRMWARE_FW_CFG_H_
