// The readers of a stream that is dispatched on one loop: each has a position of its own, is called
// in order and never concurrently with itself, and is gone for certain once Remove() has returned.
#ifndef VIREO_VMM_READER_LIST_H_
#define VIREO_VMM_READER_LIST_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace vireo {

// Thread-safe. `Reader` is any class with virtual calls; the list shares its ownership, since a
// reader may be removed by one thread while the dispatching one is inside it.
template <class Reader>
class ReaderList {
 public:
  void Add(std::shared_ptr<Reader> reader, uint64_t position) {
    MutexLock lock(mutex_);
    entries_.push_back(std::make_shared<Entry>(Entry{std::move(reader), position}));
  }

  // Returns when the reader is not being called, except when the call is this thread's own.
  void Remove(const Reader* reader) {
    MutexLock lock(mutex_);
    std::erase_if(entries_, [reader](const auto& entry) { return entry->reader.get() == reader; });
    while (current_ == reader && dispatcher_ != std::this_thread::get_id()) idle_.Wait(mutex_);
  }

  bool empty() const {
    MutexLock lock(mutex_);
    return entries_.empty();
  }

  // Calls `deliver(reader, position) -> new position` for each, without the list's lock. On one
  // thread only.
  template <class Deliver>
  void ForEach(Deliver deliver) {
    std::vector<std::shared_ptr<Entry>> entries;
    {
      MutexLock lock(mutex_);
      entries = entries_;
    }
    for (const std::shared_ptr<Entry>& entry : entries) {
      {
        MutexLock lock(mutex_);
        if (std::find(entries_.begin(), entries_.end(), entry) == entries_.end()) continue;
        current_ = entry->reader.get();
        dispatcher_ = std::this_thread::get_id();
      }
      entry->position = deliver(*entry->reader, entry->position);
      MutexLock lock(mutex_);
      current_ = nullptr;
      idle_.NotifyAll();
    }
  }

  // The lowest position of all readers; `otherwise` when there is none.
  // On the dispatching thread only.
  uint64_t LowestPosition(uint64_t otherwise) const {
    MutexLock lock(mutex_);
    for (const auto& entry : entries_) otherwise = std::min(otherwise, entry->position);
    return otherwise;
  }

 private:
  struct Entry {
    std::shared_ptr<Reader> reader;
    uint64_t position;  // The dispatching thread's, once added.
  };

  mutable Mutex mutex_;
  CondVar idle_;
  std::vector<std::shared_ptr<Entry>> entries_ ABSL_GUARDED_BY(mutex_);
  const Reader* current_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::thread::id dispatcher_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vireo

#endif  // VIREO_VMM_READER_LIST_H_
