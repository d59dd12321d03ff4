// A request to stop, made once, heard by everything that was given the token. One thread: that of
// the loop. Stopping asks; what was asked still ends in its own time, and whoever asked waits for
// that.

#ifndef VIREO_BASE_ASYNC_STOP_TOKEN_H_
#define VIREO_BASE_ASYNC_STOP_TOKEN_H_

#include "base/async/intrusive_list.h"
#include "base/check.h"

namespace vireo {

class StopSource;

// Copyable; the source outlives it. A default-constructed one never stops.
class StopToken {
 public:
  StopToken() = default;
  bool stop_requested() const;

 private:
  friend class StopSource;
  friend class StopListener;
  explicit StopToken(StopSource* source) : source_(source) {}

  StopSource* source_ = nullptr;
};

// Hears of the stop while it is registered. For operations in flight; plain code asks
// stop_requested().
class StopListener : private ListNode<StopListener> {
 public:
  virtual void OnStopRequested() = 0;

 protected:
  ~StopListener() { StopListening(); }
  // Nothing happens when `token` has been stopped already: ask first.
  void StartListening(StopToken token);
  void StopListening() {
    if (IntrusiveList<StopListener>::IsLinked(*this)) IntrusiveList<StopListener>::Remove(*this);
  }

 private:
  friend class StopSource;
  friend class ListNode<StopListener>;
  friend class IntrusiveList<StopListener>;
};

class StopSource {
 public:
  StopSource() = default;
  StopSource(const StopSource&) = delete;
  StopSource& operator=(const StopSource&) = delete;

  // Tells every listener, once. Listeners must not destroy the source.
  void RequestStop() {
    stop_requested_ = true;
    while (StopListener* const listener = listeners_.PopFront()) listener->OnStopRequested();
  }
  bool stop_requested() const { return stop_requested_; }
  StopToken token() { return StopToken(this); }
  // Ready for use again; nobody listens.
  void Rearm() {
    VIREO_CHECK(listeners_.empty());
    stop_requested_ = false;
  }

 private:
  friend class StopListener;

  bool stop_requested_ = false;
  IntrusiveList<StopListener> listeners_;
};

inline bool StopToken::stop_requested() const {
  return source_ != nullptr && source_->stop_requested();
}

inline void StopListener::StartListening(StopToken token) {
  if (token.source_ != nullptr && !token.stop_requested()) {
    token.source_->listeners_.PushBack(*this);
  }
}

}  // namespace vireo

#endif  // VIREO_BASE_ASYNC_STOP_TOKEN_H_
