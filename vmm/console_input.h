// What has been typed and not yet taken by the guest: a bounded queue before the serial port's
// FIFO.
#ifndef VIREO_VMM_CONSOLE_INPUT_H_
#define VIREO_VMM_CONSOLE_INPUT_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string_view>

#include "absl/functional/any_invocable.h"
#include "base/mutex.h"

namespace vireo {

// Thread-safe.
class ConsoleInput {
 public:
  static constexpr size_t kCapacity = 64 << 10;

  // Gives bytes to the port and returns how many it took. Called with this object's lock held, on
  // any thread.
  using Port = absl::AnyInvocable<size_t(std::span<const uint8_t>)>;

  // Called with the lock held too: whoever was refused may try again.
  using Room = absl::AnyInvocable<void()>;

  ConsoleInput(Port port, Room room) : port_(std::move(port)), room_(std::move(room)) {}

  // Queues what fits and returns how much that was. If less than all, `room` is called once half of
  // the queue is free: not for every byte that the guest takes.
  size_t Write(std::string_view bytes);
  // The port has room again.
  void Pump();
  // A machine reset: what was typed before is gone.
  void Clear();

 private:
  void PumpLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellOfRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  Port port_ ABSL_GUARDED_BY(mutex_);
  Room room_ ABSL_GUARDED_BY(mutex_);
  bool refused_ ABSL_GUARDED_BY(mutex_) = false;  // Somebody waits for room_.
  std::deque<uint8_t> queue_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vireo

#endif  // VIREO_VMM_CONSOLE_INPUT_H_
