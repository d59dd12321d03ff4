// vireo-img bench: sends a regular pattern of requests to an image and says how long they took.
//
// Options and output are those of qemu-img bench, and so are the order of requests and the moments
// of flushes, so that the two can be compared on one file. Of our own is --latency, which adds a
// line.

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/async/async_event.h"
#include "base/async/task_scope.h"
#include "base/status.h"
#include "storage/block_backend.h"
#include "storage/buffer_pool.h"
#include "storage/img/arguments.h"
#include "storage/img/size.h"
#include "storage/img/source.h"
#include "storage/img/tool.h"

namespace vireo::img {
namespace {

struct Plan {
  uint64_t count = 75000;
  uint64_t depth = 64;
  uint64_t offset = 0;
  uint64_t size_bytes = 4096;  // Of a request.
  uint64_t step_bytes = 0;     // From one to the next; 0 = size_bytes.
  uint64_t flush_interval = 0;
  uint8_t pattern = 0;
  bool write = false;
  bool drain = true;     // Before each flush no request is in flight.
  bool latency = false;  // Keep the time that each request takes.
};

// As many slots as the depth; each sends a request, waits for it, and sends the next.
class RequestSeries {
 public:
  // All of them outlive the object.
  RequestSeries(EventLoop& loop, BlockBackend& disk, const Plan& plan)
      : loop_(loop),
        disk_(disk),
        plan_(plan),
        disk_bytes_(disk.geometry().size_bytes),
        offset_(plan.offset),
        bytes_(AllocateAligned(std::max<uint64_t>(plan.size_bytes, 1))),
        part_{bytes_.get(), plan.size_bytes} {
    std::memset(bytes_.get(), plan.pattern, plan.size_bytes);
    if (plan.latency) microseconds_.reserve(plan.count);
  }

  Task<absl::Status> Run() {
    TaskScope slots(loop_);
    begin_ = end_ = absl::Now();
    for (uint64_t i = 0; i < std::min(plan_.depth, plan_.count); ++i) slots.Spawn(Slot());
    co_await slots.Join();
    co_return status_;
  }

  double seconds() const { return absl::ToDoubleSeconds(end_ - begin_); }
  // The time that `share` of the requests did not exceed.
  double Percentile(double share) {
    if (microseconds_.empty()) return 0;
    const size_t rank = static_cast<size_t>(share * static_cast<double>(microseconds_.size() - 1));
    const auto at = microseconds_.begin() + static_cast<ptrdiff_t>(rank);
    std::nth_element(microseconds_.begin(), at, microseconds_.end());
    return *at;
  }

 private:
  Task<void> Slot() {
    while (sent_ < plan_.count && status_.ok()) {
      const uint64_t at = offset_;
      offset_ = (offset_ + (plan_.step_bytes != 0 ? plan_.step_bytes : plan_.size_bytes)) %
                std::max<uint64_t>(disk_bytes_, 1);
      ++sent_;
      ++in_flight_;
      const absl::Time sent_at = plan_.latency ? absl::Now() : absl::Time();
      absl::Status status;
      // All share one buffer, as qemu-img's do.
      if (plan_.write) {
        status = co_await disk_.Write(at, IoVecs(&part_, 1));
      } else {
        status = co_await disk_.Read(at, IoVecs(&part_, 1));
      }
      --in_flight_;
      if (plan_.latency) {
        microseconds_.push_back(
            static_cast<float>(absl::ToDoubleMicroseconds(absl::Now() - sent_at)));
      }
      if (++ended_ == plan_.count) end_ = absl::Now();
      Note(status);
      if (plan_.flush_interval != 0 && (plan_.count - sent_) % plan_.flush_interval == 0) {
        co_await FlushBetween();
      }
    }
  }

  // The last one in does it, or with --no-drain each at its moment.
  Task<void> FlushBetween() {
    if (plan_.drain && in_flight_ > 0) {
      co_await flushed_.Wait();
      co_return;
    }
    Note(co_await disk_.Flush());
    if (!plan_.drain) co_return;
    flushed_.Set();
    flushed_.Reset();
  }

  void Note(const absl::Status& status) {
    if (status_.ok()) status_ = status;
  }

  EventLoop& loop_;
  BlockBackend& disk_;
  const Plan& plan_;
  const uint64_t disk_bytes_;
  uint64_t offset_;  // Of the next request.
  uint64_t sent_ = 0;
  uint64_t ended_ = 0;
  uint64_t in_flight_ = 0;
  AsyncEvent flushed_;
  absl::Status status_;
  AlignedBytes bytes_;
  iovec part_;
  absl::Time begin_;
  absl::Time end_;
  std::vector<float> microseconds_;  // Of each request.
};

// What went wrong, in the words of the system.
std::string Words(const absl::Status& status) {
  int error = StatusErrno(status);
  if (error == 0) error = absl::IsResourceExhausted(status) ? ENOSPC : EIO;
  return std::strerror(error);
}

// A number as strtoul(3) reads it, at most `limit`.
std::optional<uint64_t> ParseNumber(const std::string& text, uint64_t limit) {
  char* end = nullptr;
  errno = 0;
  const unsigned long number = std::strtoul(text.c_str(), &end, 0);
  const bool negative = text.find('-') != std::string::npos;
  if (end == text.c_str() || *end != 0 || errno != 0 || negative || number > limit) {
    return std::nullopt;
  }
  return number;
}

// False after it has said what is wrong with the option called `what`.
bool TakeSize(const Tool& tool, const Arguments& arguments, const char* option, const char* what,
              uint64_t limit, uint64_t* bytes) {
  const std::optional<std::string> text = arguments.Value(option);
  if (!text.has_value()) return true;
  const std::optional<uint64_t> size = ParseSize(*text);
  if (size.has_value() && *size <= limit) {
    *bytes = *size;
    return true;
  }
  if (size.has_value()) {
    tool.Fail("Invalid %s specified. Must be between 0 and %d.", what, limit);
  } else {
    tool.Fail("Invalid %s specified. You may use k, M, G, T, P or E suffixes for", what);
    tool.Fail("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
  }
  return false;
}

bool TakeNumber(const Tool& tool, const Arguments& arguments, const char* option, const char* what,
                uint64_t limit, uint64_t* number) {
  const std::optional<std::string> text = arguments.Value(option);
  if (!text.has_value()) return true;
  const std::optional<uint64_t> parsed = ParseNumber(*text, limit);
  if (parsed.has_value()) {
    *number = *parsed;
  } else {
    tool.Fail("Invalid %s specified", what);
  }
  return parsed.has_value();
}

Task<int> RunSeries(Tool tool, SourceOptions options, Plan plan) {
  absl::StatusOr<Source> source = co_await OpenSource(tool.loop, tool.opener, std::move(options));
  if (!source.ok()) co_return tool.Fail("%s", std::string(source.status().message()));
  BlockBackend& disk = *source->disk;
  tool.Print(
      "Sending %d %s requests, %d bytes each, %d in parallel (starting at offset %d, step size "
      "%d)\n",
      plan.count, plan.write ? "write" : "read", plan.size_bytes, plan.depth, plan.offset,
      plan.step_bytes != 0 ? plan.step_bytes : plan.size_bytes);
  if (plan.flush_interval != 0) {
    tool.Print("Sending flush every %d requests\n", plan.flush_interval);
  }
  absl::Status status;
  {
    RequestSeries series(tool.loop, disk, plan);
    status = co_await series.Run();
    if (status.ok()) {
      tool.Print("Run completed in %3.3f seconds.\n", series.seconds());
      if (plan.latency) {
        tool.Print("Latency in microseconds: 50%% %.1f, 99%% %.1f, 99.9%% %.1f, longest %.1f\n",
                   series.Percentile(0.5), series.Percentile(0.99), series.Percentile(0.999),
                   series.Percentile(1));
      }
    }
  }
  const absl::Status closed = co_await disk.Close();
  if (!status.ok()) co_return tool.Fail("Failed request: %s", Words(status));
  if (!closed.ok()) co_return tool.Fail("%s", std::string(closed.message()));
  co_return 0;
}

}  // namespace

int Bench(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'c', nullptr, true},
                                                                 {'d', nullptr, true},
                                                                 {'f', nullptr, true},
                                                                 {'i', nullptr, true},
                                                                 {'n', nullptr, false},
                                                                 {'o', nullptr, true},
                                                                 {'q', nullptr, false},
                                                                 {'s', nullptr, true},
                                                                 {'S', nullptr, true},
                                                                 {'t', nullptr, true},
                                                                 {'w', nullptr, false},
                                                                 {'U', "force-share", false},
                                                                 {0, "flush-interval", true},
                                                                 {0, "image-opts", false},
                                                                 {0, "latency", false},
                                                                 {0, "no-drain", false},
                                                                 {0, "pattern", true}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  Plan plan = {.write = parsed->Has("w"),
               .drain = !parsed->Has("no-drain"),
               .latency = parsed->Has("latency")};
  uint64_t pattern = 0;
  if (!TakeNumber(tool, *parsed, "c", "request count", INT_MAX, &plan.count) ||
      !TakeNumber(tool, *parsed, "d", "queue depth", INT_MAX, &plan.depth) ||
      !TakeSize(tool, *parsed, "o", "offset", INT64_MAX, &plan.offset) ||
      !TakeSize(tool, *parsed, "s", "buffer size", INT_MAX, &plan.size_bytes) ||
      !TakeSize(tool, *parsed, "S", "step_size", INT_MAX, &plan.step_bytes) ||
      !TakeNumber(tool, *parsed, "pattern", "pattern byte", 0xff, &pattern) ||
      !TakeNumber(tool, *parsed, "flush-interval", "flush interval", INT_MAX,
                  &plan.flush_interval)) {
    return 1;
  }
  plan.pattern = static_cast<uint8_t>(pattern);
  // Ours is io_uring whatever is asked for.
  if (const auto aio = parsed->Value("i");
      aio.has_value() && *aio != "threads" && *aio != "native" && *aio != "io_uring") {
    return tool.Fail("Invalid aio option: %s", *aio);
  }
  SourceOptions options = {.format = parsed->Value("f"),
                           .image_opts = parsed->Has("image-opts"),
                           .read_only = !plan.write,
                           .share = parsed->Has("U"),
                           .secrets = tool.secrets};
  if (const auto name = parsed->Value("t")) {
    const std::optional<CacheMode> cache = ParseCacheMode(*name);
    if (!cache.has_value()) return tool.Fail("Invalid cache mode");
    options.cache = *cache;
  }
  if (parsed->operands.size() != 1) return tool.FailUsage("Expecting one image file name");
  options.name = parsed->operands[0];
  // qemu-img waits for ever.
  if (plan.depth == 0) return tool.Fail("Invalid queue depth specified");
  if (!plan.write && plan.flush_interval != 0) {
    return tool.Fail("--flush-interval is only available in write tests");
  }
  if (plan.flush_interval != 0 && plan.flush_interval < plan.depth) {
    return tool.Fail("Flush interval can't be smaller than depth");
  }
  if (options.image_opts && options.format.has_value()) {
    return tool.Fail("--image-opts and --format are mutually exclusive");
  }
  if (options.share && plan.write) {
    return tool.Fail("Could not open '%s': force-share=on can only be used with read-only images",
                     options.name);
  }
  return tool.loop.RunTask(RunSeries(tool, std::move(options), plan));
}

}  // namespace vireo::img
