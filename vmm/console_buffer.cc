#include "vmm/console_buffer.h"

#include <algorithm>
#include <cstring>

#include "absl/time/time.h"

namespace vireo {
namespace {

constexpr absl::Duration kMaxStall = absl::Milliseconds(50);

}  // namespace

struct ConsoleBuffer::Shared : std::enable_shared_from_this<ConsoleBuffer::Shared> {
  Shared(EventLoop& loop_in, size_t history_bytes) : loop(loop_in) { SetHistory(history_bytes); }

  // Not cleared: pages that the guest's output does not reach are never touched.
  void SetHistory(size_t history_bytes) {
    MutexLock lock(mutex);
    ring.reset(new char[history_bytes]);
    capacity = history_bytes;
  }

  // Bytes [from, end) that the ring still holds; `from` moves up to the first of them.
  std::string CopyFrom(uint64_t* from) {
    MutexLock lock(mutex);
    *from = std::max(*from, end > capacity ? end - capacity : 0);
    std::string bytes;
    bytes.reserve(end - *from);
    for (uint64_t at = *from; at < end;) {
      const size_t index = at % capacity;
      const size_t run = std::min<uint64_t>(capacity - index, end - at);
      bytes.append(ring.get() + index, run);
      at += run;
    }
    return bytes;
  }

  void ScheduleDispatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (dispatch_scheduled) return;
    dispatch_scheduled = true;
    loop.Post([self = shared_from_this()] { self->Dispatch(); });
  }

  void Dispatch() {
    {
      MutexLock lock(mutex);
      dispatch_scheduled = false;
    }
    readers.ForEach([this](ConsoleReader& reader, uint64_t position) {
      const std::string bytes = CopyFrom(&position);
      if (!bytes.empty()) reader.OnOutput(bytes);
      return position + bytes.size();
    });
    MutexLock lock(mutex);
    delivered = readers.LowestPosition(end);
    caught_up.NotifyAll();
  }

  EventLoop& loop;
  ReaderList<ConsoleReader> readers;
  Mutex mutex;
  CondVar caught_up;
  std::unique_ptr<char[]> ring ABSL_GUARDED_BY(mutex);  // Byte n of the output is at n % capacity.
  size_t capacity ABSL_GUARDED_BY(mutex) = 0;
  uint64_t end ABSL_GUARDED_BY(mutex) = 0;        // Bytes ever appended.
  uint64_t delivered ABSL_GUARDED_BY(mutex) = 0;  // Every reader has those before it.
  bool dispatch_scheduled ABSL_GUARDED_BY(mutex) = false;
  bool closed ABSL_GUARDED_BY(mutex) = false;
};

ConsoleBuffer::ConsoleBuffer(EventLoop& loop, size_t history_bytes)
    : shared_(std::make_shared<Shared>(loop, history_bytes)) {}

ConsoleBuffer::~ConsoleBuffer() = default;

void ConsoleBuffer::SetHistory(size_t history_bytes) { shared_->SetHistory(history_bytes); }

void ConsoleBuffer::Append(std::span<const uint8_t> bytes) {
  Shared& s = *shared_;
  MutexLock lock(s.mutex);
  while (!bytes.empty()) {
    const size_t capacity = s.capacity;
    const size_t run = std::min({bytes.size(), capacity, capacity - s.end % capacity});
    const bool has_readers = !s.readers.empty();
    if (has_readers && s.end + run - s.delivered > capacity && !s.closed) {
      s.ScheduleDispatch();
      s.caught_up.WaitFor(s.mutex, kMaxStall);
      // Whoever is still behind loses history, and the guest is not made to wait for it again.
      if (s.end + run - s.delivered > capacity) s.delivered = s.end;
    }
    std::memcpy(s.ring.get() + s.end % capacity, bytes.data(), run);
    s.end += run;
    bytes = bytes.subspan(run);
    if (has_readers) {
      s.ScheduleDispatch();
    } else {
      s.delivered = s.end;
    }
  }
}

void ConsoleBuffer::TellOfInputRoom() {
  shared_->loop.Post([shared = shared_] {
    shared->readers.ForEach([](ConsoleReader& reader, uint64_t position) {
      reader.OnInputRoom();
      return position;
    });
  });
}

void ConsoleBuffer::AddReader(std::shared_ptr<ConsoleReader> reader) {
  shared_->readers.Add(std::move(reader), 0);
  MutexLock lock(shared_->mutex);
  shared_->ScheduleDispatch();
  if (shared_->closed)
    shared_->loop.Post([self = shared_] {
      self->Dispatch();
      self->readers.ForEach([&self](ConsoleReader& late, uint64_t position) {
        late.OnClosed();
        self->readers.Remove(&late);
        return position;
      });
    });
}

void ConsoleBuffer::RemoveReader(const ConsoleReader* reader) { shared_->readers.Remove(reader); }

void ConsoleBuffer::Close() {
  {
    MutexLock lock(shared_->mutex);
    if (shared_->closed) return;
    shared_->closed = true;
  }
  shared_->Dispatch();
  shared_->readers.ForEach([this](ConsoleReader& reader, uint64_t position) {
    reader.OnClosed();
    shared_->readers.Remove(&reader);
    return position;
  });
}

}  // namespace vireo
