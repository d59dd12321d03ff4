#include "cmd/stdio_console.h"

#include <sys/uio.h>

#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "base/async/async_event.h"
#include "base/mutex.h"
#include "cmd/terminal.h"

namespace vireo {
namespace {

constexpr size_t kMaxPending = size_t{1} << 20;
// After POLLOUT a pipe takes this much without blocking (PIPE_BUF).
constexpr size_t kWriteBytes = 4096;

}  // namespace

class StdioConsole::Reader final : public ConsoleReader,
                                   public std::enable_shared_from_this<Reader> {
 public:
  struct Output {
    std::string bytes;
    uint64_t lost_bytes = 0;  // Before `bytes`.
    bool closed = false;      // Nothing more comes after them.
  };

  explicit Reader(EventLoop& loop) : loop_(loop) {}

  // On the controller's thread.
  void OnOutput(std::string_view bytes) override {
    MutexLock lock(mutex_);
    output_.bytes.append(bytes);
    if (output_.bytes.size() > kMaxPending) {
      const size_t excess = output_.bytes.size() - kMaxPending / 2;
      output_.bytes.erase(0, excess);
      output_.lost_bytes += excess;
    }
    Tell();
  }
  void OnInputRoom() override {
    loop_.Post([self = shared_from_this()] { self->there_is_room_.Set(); });
  }
  void OnClosed() override {
    MutexLock lock(mutex_);
    output_.closed = true;
    Tell();
  }

  // On the loop.
  AsyncEvent& there_is_output() { return there_is_output_; }
  AsyncEvent& there_is_room() { return there_is_room_; }
  Output Take() {
    MutexLock lock(mutex_);
    there_is_output_.Reset();
    Output taken = std::exchange(output_, {});
    output_.closed = taken.closed;
    return taken;
  }

 private:
  void Tell() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (told_) return;
    told_ = true;
    loop_.Post([self = shared_from_this()] {
      {
        MutexLock lock(self->mutex_);
        self->told_ = false;
      }
      self->there_is_output_.Set();
    });
  }

  EventLoop& loop_;
  AsyncEvent there_is_output_;
  AsyncEvent there_is_room_;
  Mutex mutex_;
  Output output_ ABSL_GUARDED_BY(mutex_);
  bool told_ ABSL_GUARDED_BY(mutex_) = false;
};

StdioConsole::StdioConsole(EventLoop& loop, VmController& controller, Options options)
    : loop_(loop),
      controller_(controller),
      options_(std::move(options)),
      reader_(std::make_shared<Reader>(loop)) {
  controller_.AddConsoleReader(reader_);
}

StdioConsole::~StdioConsole() { controller_.RemoveConsoleReader(reader_.get()); }

Task<void> StdioConsole::CarryInput(StopToken stop) {
  std::array<char, 4096> buffer;
  while (true) {
    const iovec free = {.iov_base = buffer.data(), .iov_len = buffer.size()};
    const absl::StatusOr<size_t> got = co_await loop_.ReadSome(options_.in_fd, {&free, 1}, stop);
    if (!got.ok() || *got == 0) co_return;  // End of input: the machine goes on without.
    std::string_view typed(buffer.data(), *got);
    while (!typed.empty()) {
      const TypedKeys keys = SplitAtEscape(typed, options_.escape_key);
      std::string_view rest = keys.before;
      while (!rest.empty()) {
        reader_->there_is_room().Reset();  // Before asking: what is said from here on counts.
        rest.remove_prefix(controller_.WriteConsole(rest));
        if (rest.empty()) break;
        const absl::Status told = co_await reader_->there_is_room().Wait(stop);
        if (!told.ok()) co_return;
      }
      if (keys.escape) options_.on_escape();
      typed = keys.rest;
    }
  }
}

Task<void> StdioConsole::CarryOutput(StopToken abandon) {
  while (true) {
    const absl::Status waited = co_await reader_->there_is_output().Wait(abandon);
    if (!waited.ok()) co_return;
    Reader::Output output = reader_->Take();
    if (output.lost_bytes > 0) {
      output.bytes.insert(0, absl::StrFormat("\r\n[%d bytes lost]\r\n", output.lost_bytes));
    }
    std::string_view rest = output.bytes;
    while (!rest.empty()) {
      const std::string_view part = rest.substr(0, kWriteBytes);
      const iovec bytes = {.iov_base = const_cast<char*>(part.data()), .iov_len = part.size()};
      const absl::StatusOr<size_t> put =
          co_await loop_.WriteSome(options_.out_fd, {&bytes, 1}, abandon);
      if (!put.ok()) co_return;
      rest.remove_prefix(*put);
    }
    if (output.closed) co_return;
  }
}

}  // namespace vireo
