// The events of one machine: the last 256, numbered without gaps, and those who watch them.
#ifndef VIREO_VMM_EVENT_LOG_H_
#define VIREO_VMM_EVENT_LOG_H_

#include <cstdint>
#include <deque>
#include <memory>

#include "base/mutex.h"
#include "vmm/reader_list.h"
#include "vmm/vm_controller.h"

namespace vireo {

// Add() and Dispatch() belong to the control loop; watchers come and go on any thread.
class EventLog {
 public:
  static constexpr size_t kKept = 256;

  // Numbers and stamps `event`, keeps it and hands it to every watcher.
  void Add(VmEvent event);

  // The watcher gets kept events after `after_sequence` with the next Dispatch(), which the caller
  // arranges.
  void AddWatcher(std::shared_ptr<EventWatcher> watcher, uint64_t after_sequence);
  void RemoveWatcher(const EventWatcher* watcher);
  void Dispatch();

  // No event comes any more: OnClosed() to every watcher, and to later ones after their history.
  void Close();

 private:
  void CloseWatchers();

  ReaderList<EventWatcher> watchers_;  // Position: the last sequence number delivered.
  Mutex mutex_;
  std::deque<VmEvent> events_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace vireo

#endif  // VIREO_VMM_EVENT_LOG_H_
