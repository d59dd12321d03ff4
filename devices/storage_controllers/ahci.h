// An AHCI controller as the ICH9 of a Q35 machine has it (00:1f.2; AHCI 1.3.1, Intel I/O Controller
// Hub 9 datasheet, "SATA Controller Registers (D31:F2)"), with a CD/DVD drive on each of its one to
// six ports. INTx only. The registers of a port and everything that happens behind it are
// ahci_port.h's.
//
//   BAR 5 (ABAR), 4 KiB: 0x000 generic host control, 0x100 + 0x80 * n port n
//
// Registers are accessed on vCPU threads; commands and the lifecycle belong to the loop.

#ifndef VIREO_DEVICES_STORAGE_CONTROLLERS_AHCI_H_
#define VIREO_DEVICES_STORAGE_CONTROLLERS_AHCI_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/async_mutex.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/memory/guest_memory.h"
#include "base/mutex.h"
#include "devices/address_space.h"
#include "devices/bus.h"
#include "devices/interrupt.h"
#include "devices/pci/function.h"
#include "devices/storage_controllers/ahci_port.h"
#include "devices/storage_controllers/atapi_cdrom.h"
#include "storage/block_backend.h"

namespace vireo {

class Ahci final : public pci::Function, public BusDevice {
 public:
  static constexpr int kBarIndex = 5;
  static constexpr uint64_t kBarBytes = 4096;
  static constexpr size_t kMaxPorts = 6;

  struct Drive {
    std::string serial;                    // The guest sees its first 20 characters.
    std::string product = "CD-ROM";        // And 16 of this.
    std::unique_ptr<BlockBackend> medium;  // Opened on the loop; null for an empty drive.
    std::function<void()> on_eject;        // As in AtapiCdrom::Options.
  };

  // All references outlive the controller.
  struct Options {
    std::string name = "00:1f.2 AHCI";  // For messages.
    EventLoop& loop;
    GuestMemory& memory;
    AddressSpace& address_space;
    InterruptLine& intx;
    std::vector<Drive> drives;  // One to kMaxPorts, in order of port.
  };

  // Before the loop runs, or on it. Errors are AddressSpace's; media are then not closed.
  static absl::StatusOr<std::unique_ptr<Ahci>> Create(Options options);

  // No command is running: Reset() was the last thing done to it, but for Close().
  ~Ahci() override;

  size_t ports() const { return ports_.size(); }
  // A driver lets it access memory. Any thread.
  bool driver_ready() const;
  // To change its medium; on the loop.
  AtapiCdrom& drive(size_t port) { return ports_.at(port)->drive(); }

  // Lifecycle, of the function, the ports and the drives together. On the loop.
  Task<void> Quiesce() override;
  void Resume() override;
  Task<void> Reset() override;
  EncodedState Save() const override;
  // When other media are in the drives than were saved, the guest sees them come and go.
  absl::Status Restore(const EncodedState& state) override;

  // Closes the media; the first error, if any, after all of them. Reset() came before, and nothing
  // but destruction comes after.
  Task<absl::Status> Close();

  // The ABAR. Any vCPU thread.
  void Read(uint64_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

 protected:
  std::shared_ptr<Parking> OnConfigWritten(uint16_t offset, std::span<const uint8_t> data) override;

 private:
  explicit Ahci(Options& options);
  absl::Status Construct();

  uint32_t ReadRegister(uint32_t offset) const;
  void WriteRegister(uint32_t offset, uint32_t value, uint32_t mask);
  void WriteControl(uint32_t value, uint32_t mask);
  // The port whose register is at `offset`; null where there is none.
  AhciPort* PortAt(uint32_t offset) const;
  void SetPending(size_t port, bool pending);
  void UpdateInterrupt() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateBusMaster();

  std::vector<std::unique_ptr<AhciPort>> ports_;  // Fixed once constructed.

  // Taken before a port's mutex.
  Mutex bus_master_mutex_;
  // Taken after a port's mutex, and before the function's.
  mutable Mutex mutex_;
  bool interrupts_enabled_ ABSL_GUARDED_BY(mutex_) = false;  // GHC.IE
  uint32_t pending_ ABSL_GUARDED_BY(mutex_) = 0;             // IS: a bit for each port.

  AsyncMutex transition_;  // Quiesce and reset, one at a time; on the loop.
};

}  // namespace vireo

#endif  // VIREO_DEVICES_STORAGE_CONTROLLERS_AHCI_H_
