// Routes an access of a vCPU (port or memory-mapped) to the device that claims the address. One Bus
// is a flat address space; the machine has one for ports and one for MMIO.
//
// Reads and writes come from all vCPU threads at once and hold no lock of the bus while the device
// works, so a device may insert, move or withdraw windows (its own included) from within an access.

#ifndef VIREO_DEVICES_BUS_H_
#define VIREO_DEVICES_BUS_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "devices/fair_shared_mutex.h"

namespace vireo {

// Holds a vCPU back from the guest until something that its write began has ended: a device reset
// must have drained every request before the guest goes on (virtio 1.2 §2.4). Shared by the vCPU
// that waits and the loop that finishes, either of which may be the last to let go: hence a
// shared_ptr.
class Parking {
 public:
  Parking() = default;
  Parking(const Parking&) = delete;
  Parking& operator=(const Parking&) = delete;

  // What the write began has ended: every wait returns, now and from now on. Any thread.
  void Finish();

  // True once Finish() was called.
  bool done() const;

  // Returns when done(), or when `interrupted()` says so: it is asked at once and after every
  // Wake(). The vCPU may then handle its kick (a pause, a stop) and Wait() again; it re-enters the
  // guest only when done(). `interrupted` runs with the parking's lock held: it looks at a flag, no
  // more.
  void Wait(absl::FunctionRef<bool()> interrupted);

  // Makes every Wait() ask `interrupted()` again; called after whatever that reads has changed. Any
  // thread.
  void Wake();

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
};

// What a Bus routes to. Called on any vCPU thread, several at once: the device locks inside.
class BusDevice {
 public:
  virtual ~BusDevice() = default;

  // `offset` is relative to where the device was inserted, offset + data.size() within its size.
  // Sizes are 1 to 8 bytes, and a guest may choose any of them at any offset. Read fills all of
  // `data`, with ones where there is nothing to read.
  virtual void Read(uint64_t offset, std::span<uint8_t> data) = 0;

  // As Read. Returns null when the vCPU may go on, which is the rule.
  virtual std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) = 0;
};

class Bus {
 public:
  Bus();
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;
  ~Bus();

  // Routes [base, base + size) to `device`, which stays alive until it was Removed or Drained. One
  // device may have several ranges. ALREADY_EXISTS names the range that it would overlap;
  // INVALID_ARGUMENT for an empty range or one that runs past 2^64.
  absl::Status Insert(uint64_t base, uint64_t size, BusDevice& device);

  // The range that starts at `base` is routed no more. Accesses that are running go on: call this
  // while holding a lock that the device takes. NOT_FOUND when no range starts there.
  absl::Status Withdraw(uint64_t base);

  // Moves the range that starts at `from` to `to` in one step, as Withdraw and Insert would;
  // nothing has changed if it fails. NOT_FOUND, ALREADY_EXISTS and INVALID_ARGUMENT as there.
  absl::Status Move(uint64_t from, uint64_t to);

  // Withdraw, then Drain of its device: afterwards the device may go away unless it has other
  // ranges.
  absl::Status Remove(uint64_t base);

  // Returns when no access to a withdrawn range of `device` is running, the caller's own excepted.
  // Call it without a lock that the device takes, and not from an access to another device which in
  // turn waits for this one.
  void Drain(const BusDevice& device);

  // False when nobody is at `address`; `data` is then all ones. An access that begins in a range
  // and crosses its end reaches the device for the bytes within, the rest reads as ones and is
  // written nowhere. One that begins in a hole reaches nobody.
  bool Read(uint64_t address, std::span<uint8_t> data) const;

  // As Read. The parking, if not null, is to be waited for before this vCPU enters the guest again.
  std::pair<bool, std::shared_ptr<Parking>> Write(uint64_t address,
                                                  std::span<const uint8_t> data) const;

 private:
  struct Range;
  class Access;

  std::shared_ptr<Range> Find(uint64_t address) const;
  absl::Status InsertLocked(uint64_t base, uint64_t size, BusDevice& device);
  std::vector<std::shared_ptr<Range>>::iterator FindStart(uint64_t base);
  void WithdrawLocked(std::vector<std::shared_ptr<Range>>::iterator at);

  // Held shared to look an address up, never while a device works.
  mutable FairSharedMutex mutex_;
  // By base. Shared with running accesses, which may outlive the range's place in here.
  std::vector<std::shared_ptr<Range>> ranges_;
  // Withdrawn while an access was running; forgotten when it has ended.
  std::vector<std::shared_ptr<Range>> withdrawn_;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_BUS_H_
