#include "vmm/event_log.h"

#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace vireo {

void EventLog::Add(VmEvent event) {
  {
    MutexLock lock(mutex_);
    event.sequence = ++last_sequence_;
    event.unix_ms = absl::ToUnixMillis(absl::Now());
    events_.push_back(std::move(event));
    if (events_.size() > kKept) events_.pop_front();
  }
  Dispatch();
}

void EventLog::AddWatcher(std::shared_ptr<EventWatcher> watcher, uint64_t after_sequence) {
  watchers_.Add(std::move(watcher), after_sequence);
}

void EventLog::RemoveWatcher(const EventWatcher* watcher) { watchers_.Remove(watcher); }

void EventLog::Dispatch() {
  watchers_.ForEach([this](EventWatcher& watcher, uint64_t position) {
    std::vector<VmEvent> fresh;
    {
      MutexLock lock(mutex_);
      for (const VmEvent& event : events_) {
        if (event.sequence > position) fresh.push_back(event);
      }
    }
    for (const VmEvent& event : fresh) watcher.OnEvent(event);
    return fresh.empty() ? position : fresh.back().sequence;
  });
  bool closed;
  {
    MutexLock lock(mutex_);
    closed = closed_;
  }
  if (closed) CloseWatchers();
}

void EventLog::Close() {
  {
    MutexLock lock(mutex_);
    closed_ = true;
  }
  Dispatch();
}

void EventLog::CloseWatchers() {
  watchers_.ForEach([this](EventWatcher& watcher, uint64_t position) {
    watcher.OnClosed();
    watchers_.Remove(&watcher);
    return position;
  });
}

}  // namespace vireo
