// MSI-X of one function (PCI 3.0 §6.8.2): the table that the guest programs, the pending bits, and
// a Signal() that any thread may call without a lock.
//
// Each vector has one atomic word of why it may not be delivered now, and whether it is pending:
//
//   bit 0 disabled   MSI-X is off in the capability: signals are lost (the function uses INTx)
//   bit 1 function   the function mask in the capability
//   bit 2 vector     the mask bit of the table entry
//   bit 3 pending    a signal came while masked
//
// Signal() either finds bits 0 to 2 clear and delivers, or sets bit 3 in one step with finding a
// mask, and unmasking takes bit 3 in one step with clearing the last mask: no signal falls in
// between.

#ifndef VIREO_DEVICES_PCI_MSIX_H_
#define VIREO_DEVICES_PCI_MSIX_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/state.h"
#include "devices/interrupt.h"

namespace vireo::pci {

class Msix {
 public:
  // PCI 3.0 §6.8.2.3, "Message Control".
  static constexpr uint16_t kControlEnable = 1 << 15;
  static constexpr uint16_t kControlFunctionMask = 1 << 14;
  static constexpr uint64_t kEntryBytes = 16;

  // `sink` has at least one vector and at most 2048, and outlives this.
  explicit Msix(MsiSink& sink);
  ~Msix();

  uint16_t vectors() const { return static_cast<uint16_t>(words_.size()); }
  uint64_t table_bytes() const { return vectors() * kEntryBytes; }
  uint64_t pba_bytes() const { return (vectors() + 63) / 64 * 8; }

  // The guest's accesses, any offset and size: relative to the start of the table or the pending
  // bits. Bytes outside read as zero (both share their BAR with nothing that ends there).
  void ReadTable(uint64_t offset, std::span<uint8_t> data) const;
  void WriteTable(uint64_t offset, std::span<const uint8_t> data);
  void ReadPba(uint64_t offset, std::span<uint8_t> data) const;

  // The guest wrote Message Control; Function calls this.
  void SetControl(uint16_t control);

  // MSI-X is on: the function signals vectors and leaves INTx alone. Any thread, no lock.
  bool enabled() const { return enabled_.load(std::memory_order_acquire); }

  // Raises `vector`, or marks it pending while it is masked. A vector out of range (virtio's "no
  // vector", or what a guest made up) raises nothing. Any thread, no lock.
  void Signal(uint16_t vector);

  // Power-on state: off, every vector masked, nothing pending.
  void Reset();

  void Save(StateWriter& writer) const;
  // Programs the sink again; INVALID_ARGUMENT for another number of vectors.
  absl::Status Restore(StateReader& reader);

 private:
  struct Entry {
    MsiMessage message;
    bool masked = true;
    std::optional<MsiMessage> programmed;  // What the sink raises now.
  };

  uint8_t TableByte(uint64_t offset) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetTableByte(uint64_t offset, uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Brings the sink and the vector's word in line with its entry and the control bits.
  void Update(uint16_t vector) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  MsiSink& sink_;
  std::atomic<bool> enabled_{false};
  std::vector<std::atomic<uint8_t>> words_;

  mutable Mutex mutex_;
  bool function_masked_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  RateLimited log_limit_;
};

}  // namespace vireo::pci

#endif  // VIREO_DEVICES_PCI_MSIX_H_
