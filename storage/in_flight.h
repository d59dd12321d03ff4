// The operations of a backend that are under way, oldest first.
//
// Tells when everything that was under way at one moment has ended: space freed before that moment
// is then seen by nobody, and Close() has nothing left to wait for. One loop; allocates nothing.

#ifndef VIREO_STORAGE_IN_FLIGHT_H_
#define VIREO_STORAGE_IN_FLIGHT_H_

#include <cstdint>

#include "base/async/async_event.h"
#include "base/async/task.h"
#include "base/check.h"

namespace vireo {

class InFlight {
 public:
  // Lives in the frame of the operation, from its first look at a mapping to its last byte.
  class Operation {
   public:
    explicit Operation(InFlight& list) : list_(list), moment_(++list.last_moment_) {
      previous_ = list_.newest_;
      (previous_ == nullptr ? list_.oldest_ : previous_->next_) = this;
      list_.newest_ = this;
    }
    ~Operation() {
      (previous_ == nullptr ? list_.oldest_ : previous_->next_) = next_;
      (next_ == nullptr ? list_.newest_ : next_->previous_) = previous_;
      if (previous_ == nullptr) list_.oldest_ended_.Set();
    }
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;

   private:
    friend class InFlight;

    InFlight& list_;
    const uint64_t moment_;
    Operation* previous_ = nullptr;
    Operation* next_ = nullptr;
  };

  InFlight() = default;
  ~InFlight() { VIREO_CHECK(oldest_ == nullptr, "a backend outlives its operations"); }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

  bool empty() const { return oldest_ == nullptr; }

  // A moment, to ask HasPassed() about later.
  uint64_t Now() const { return last_moment_; }
  // All operations that were under way at `moment` have ended.
  bool HasPassed(uint64_t moment) const { return oldest_ == nullptr || oldest_->moment_ > moment; }

  // Ends when HasPassed(moment).
  Task<void> WaitUntilPassed(uint64_t moment) {
    while (!HasPassed(moment)) {
      oldest_ended_.Reset();
      co_await oldest_ended_.Wait();
    }
  }

  // Ends when none is under way.
  Task<void> Drain() {
    while (oldest_ != nullptr) {
      oldest_ended_.Reset();
      co_await oldest_ended_.Wait();
    }
  }

 private:
  uint64_t last_moment_ = 0;
  Operation* oldest_ = nullptr;
  Operation* newest_ = nullptr;
  AsyncEvent oldest_ended_;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_IN_FLIGHT_H_
