// vireo-img compare: whether two images hold the same bytes. Exit status: 0 the same, 1 different,
// 2 could not be opened, 3 could not be mapped, 4 could not be read.

#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/async/async_event.h"
#include "base/async/task_scope.h"
#include "base/status.h"
#include "storage/buffer_pool.h"
#include "storage/img/arguments.h"
#include "storage/img/opened.h"
#include "storage/img/progress.h"
#include "storage/img/tool.h"

namespace vireo::img {
namespace {

constexpr uint64_t kChunkBytes = 2 << 20;
constexpr size_t kInFlight = 4;
constexpr uint64_t kSector = 512;

enum Exit { kSame = 0, kDifferent = 1, kNotOpened = 2, kNotMapped = 3, kNotRead = 4 };

// A stretch of both images, on its way to an answer.
struct Chunk {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool read[2] = {false, false};  // One that is not read is known to be zeros.
  AlignedBytes bytes[2];
  absl::Status failed[2];
  std::optional<uint64_t> mismatch;  // Offset of the first sector that differs.
  AsyncEvent done;
};

std::optional<uint64_t> FirstDifference(const Chunk& chunk) {
  const uint8_t* const first = chunk.bytes[0].get();
  const uint8_t* const second = chunk.bytes[1].get();
  static constexpr uint8_t kZeros[kSector] = {};
  if (first != nullptr && second != nullptr && std::memcmp(first, second, chunk.length) == 0) {
    return std::nullopt;
  }
  for (uint64_t at = 0; at < chunk.length; at += kSector) {
    const uint8_t* const a = first != nullptr ? first + at : kZeros;
    const uint8_t* const b = second != nullptr ? second + at : kZeros;
    if (std::memcmp(a, b, kSector) != 0) return chunk.offset + at;
  }
  return std::nullopt;
}

// What strict mode wants to be the same.
struct Allocation {
  bool data, zeros, present, mapped, last;
  friend bool operator==(const Allocation&, const Allocation&) = default;
};

class Comparison {
 public:
  struct Options {
    bool strict = false;
    bool quiet = false;
  };
  Comparison(const Tool& tool, const Opened& first, const Opened& second, Options options,
             Progress& progress)
      : tool_(tool),
        images_{&first, &second},
        options_(options),
        progress_(progress),
        reads_(tool.loop) {}

  Task<int> Run();

 private:
  uint64_t size(int i) const { return images_[i]->size_bytes(); }
  void Say(const std::string& text) const {
    if (!options_.quiet) tool_.Print("%s\n", text);
  }
  int NotMapped(int i) const {
    tool_.Fail("Sector allocation test failed for %s", images_[i]->source().name);
    return kNotMapped;
  }

  Task<int> CompareShared();
  Task<int> CompareRest(int longer);
  // Both answer an exit status: kSame to go on.
  Task<int> Add(uint64_t offset, uint64_t length, bool read_first, bool read_second);
  Task<int> TakeOldest();
  Task<int> TakeAll();
  Task<void> Look(Chunk* chunk);
  Task<void> ReadOne(Chunk* chunk, int i);

  const Tool& tool_;
  const Opened* images_[2];
  const Options options_;
  Progress& progress_;
  TaskScope reads_;
  std::deque<std::unique_ptr<Chunk>> chunks_;
  std::vector<AlignedBytes> spare_;  // Of kChunkBytes.
};

Task<void> Comparison::ReadOne(Chunk* chunk, int i) {
  if (spare_.empty()) spare_.push_back(AllocateAligned(kChunkBytes));
  chunk->bytes[i] = std::move(spare_.back());
  spare_.pop_back();
  const iovec part = {chunk->bytes[i].get(), chunk->length};
  chunk->failed[i] = co_await images_[i]->disk().Read(chunk->offset, IoVecs(&part, 1));
}

Task<void> Comparison::Look(Chunk* chunk) {
  {
    TaskScope both(tool_.loop);
    for (int i = 0; i < 2; ++i) {
      if (chunk->read[i]) both.Spawn(ReadOne(chunk, i));
    }
    co_await both.Join();
  }
  if (chunk->failed[0].ok() && chunk->failed[1].ok()) chunk->mismatch = FirstDifference(*chunk);
  for (AlignedBytes& bytes : chunk->bytes) {
    if (bytes != nullptr) spare_.push_back(std::move(bytes));
  }
  chunk->done.Set();
}

Task<int> Comparison::Add(uint64_t offset, uint64_t length, bool read_first, bool read_second) {
  auto chunk = std::make_unique<Chunk>();
  chunk->offset = offset;
  chunk->length = length;
  chunk->read[0] = read_first;
  chunk->read[1] = read_second;
  Chunk* const added = chunk.get();
  chunks_.push_back(std::move(chunk));
  reads_.Spawn(Look(added));
  if (chunks_.size() < kInFlight) co_return kSame;
  const int result = co_await TakeOldest();
  co_return result;
}

Task<int> Comparison::TakeOldest() {
  Chunk& chunk = *chunks_.front();
  co_await chunk.done.Wait();
  for (int i = 0; i < 2; ++i) {
    if (chunk.failed[i].ok()) continue;
    const int error = StatusErrno(chunk.failed[i]);
    tool_.Fail(
        "Error while reading offset %d of %s: %s", chunk.offset, images_[i]->source().name,
        error != 0 ? std::string(std::strerror(error)) : std::string(chunk.failed[i].message()));
    co_return kNotRead;
  }
  if (chunk.mismatch.has_value()) {
    Say(absl::StrCat("Content mismatch at offset ", *chunk.mismatch, "!"));
    co_return kDifferent;
  }
  const uint64_t longer = std::max(size(0), size(1));
  progress_.Add(static_cast<float>(chunk.length) / static_cast<float>(longer) * 100);
  chunks_.pop_front();
  co_return kSame;
}

Task<int> Comparison::TakeAll() {
  while (!chunks_.empty()) {
    const int result = co_await TakeOldest();
    if (result != kSame) co_return result;
  }
  co_return kSame;
}

Task<int> Comparison::CompareShared() {
  const uint64_t end = std::min(size(0), size(1));
  for (uint64_t offset = 0; offset < end;) {
    RangeStatus status[2];
    Allocation allocation[2];
    for (int i = 0; i < 2; ++i) {
      const absl::StatusOr<RangeStatus> answer =
          co_await images_[i]->disk().Status(offset, size(i) - offset);
      if (!answer.ok()) co_return NotMapped(i);
      status[i] = *answer;
      allocation[i] = {.data = answer->kind == RangeKind::kData,
                       .zeros = answer->reads_as_zeros,
                       .present = answer->present,
                       .mapped = answer->host_offset.has_value(),
                       .last = offset + answer->length == size(i)};
    }
    uint64_t length = std::min(std::min(status[0].length, status[1].length), end - offset);
    if (options_.strict && !(allocation[0] == allocation[1])) {
      const int before = co_await TakeAll();
      if (before != kSame) co_return before;
      Say(absl::StrCat("Strict mode: Offset ", offset, " block status mismatch!"));
      co_return kDifferent;
    }
    const bool read_first = !status[0].reads_as_zeros;
    const bool read_second = !status[1].reads_as_zeros;
    if (read_first || read_second) length = std::min(length, kChunkBytes);
    const int result = co_await Add(offset, length, read_first, read_second);
    if (result != kSame) co_return result;
    offset += length;
  }
  const int result = co_await TakeAll();
  co_return result;
}

Task<int> Comparison::CompareRest(int longer) {
  for (uint64_t offset = size(1 - longer); offset < size(longer);) {
    const absl::StatusOr<RangeStatus> status =
        co_await images_[longer]->disk().Status(offset, size(longer) - offset);
    if (!status.ok()) co_return NotMapped(longer);
    uint64_t length = status->length;
    const bool read = !status->reads_as_zeros;
    if (read) length = std::min(length, kChunkBytes);
    const int result = co_await Add(offset, length, read && longer == 0, read && longer == 1);
    if (result != kSame) co_return result;
    offset += length;
  }
  const int result = co_await TakeAll();
  co_return result;
}

Task<int> Comparison::Run() {
  progress_.Set(0);
  int result = kSame;
  if (options_.strict && size(0) != size(1)) {
    Say("Strict mode: Image size mismatch!");
    co_return kDifferent;
  }
  result = co_await CompareShared();
  if (result == kSame && size(0) != size(1)) {
    Say("Warning: Image size mismatch!");
    result = co_await CompareRest(size(0) > size(1) ? 0 : 1);
  }
  if (result == kSame) Say("Images are identical.");
  co_await reads_.Join();
  co_return result;
}

}  // namespace

int Compare(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'f', nullptr, true},
                                                                 {'F', nullptr, true},
                                                                 {'T', nullptr, true},
                                                                 {'p', nullptr, false},
                                                                 {'q', nullptr, false},
                                                                 {'s', nullptr, false},
                                                                 {'U', "force-share", false},
                                                                 {0, "image-opts", false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  if (parsed->operands.size() != 2) return tool.FailUsage("Expecting two image file names");
  const std::string cache_name = parsed->Value("T").value_or("writeback");
  const std::optional<CacheMode> cache = ParseCacheMode(cache_name);
  if (!cache.has_value()) {
    tool.Fail("Invalid source cache option: %s", cache_name);
    return kNotOpened;
  }
  SourceOptions options = {.name = parsed->operands[0],
                           .format = parsed->Value("f"),
                           .image_opts = parsed->Has("image-opts"),
                           .share = parsed->Has("U"),
                           .cache = *cache};
  const bool quiet = parsed->Has("q");
  Progress progress(
      {.out = tool.out, .err = tool.err, .shown = parsed->Has("p") && !quiet, .step_percent = 2});
  const Opened first(tool, options);
  if (!first.ok()) return kNotOpened;
  options.name = parsed->operands[1];
  options.format = parsed->Value("F");
  const Opened second(tool, options);
  if (!second.ok()) return kNotOpened;
  Comparison comparison(tool, first, second, {.strict = parsed->Has("s"), .quiet = quiet},
                        progress);
  return tool.loop.RunTask(comparison.Run());
}

}  // namespace vireo::img
