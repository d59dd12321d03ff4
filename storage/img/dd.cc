// vireo-img dd: copies blocks of one image into a new one.

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/async/task_scope.h"
#include "base/status.h"
#include "storage/buffer_pool.h"
#include "storage/img/arguments.h"
#include "storage/img/new_image.h"
#include "storage/img/opened.h"
#include "storage/img/size_argument.h"
#include "storage/img/tool.h"
#include "storage/img/unfinished_files.h"

namespace vireo::img {
namespace {

constexpr uint64_t kPieceBytes = 1 << 20;
constexpr int kInFlight = 4;
constexpr uint64_t kSector = 512;

// Copies [skip, end) of one disk to the start of another, several pieces at once.
class Copy {
 public:
  Copy(EventLoop& loop, BlockBackend& source, BlockBackend& target, uint64_t skip, uint64_t end)
      : source_(source), target_(target), skip_(skip), end_(end), workers_(loop) {}

  Task<std::string> Run() {  // What went wrong; empty if nothing.
    for (int i = 0; i < kInFlight; ++i) workers_.Spawn(Work());
    co_await workers_.Join();
    co_return error_;
  }

 private:
  Task<void> Work() {
    // A source offset of any alignment: up to a sector more is read before and behind.
    const AlignedBytes bytes = AllocateAligned(kPieceBytes + 2 * kSector);
    while (error_.empty() && skip_ + next_ < end_) {
      const uint64_t at = next_;
      const uint64_t length = std::min(kPieceBytes, end_ - skip_ - at);
      next_ += length;
      const uint64_t first = AlignDown<uint64_t>(skip_ + at, kSector);
      const uint64_t behind =
          std::min(AlignUp<uint64_t>(skip_ + at + length, kSector), source_.geometry().size_bytes);
      const iovec src = {bytes.get(), behind - first};
      const absl::Status read = co_await source_.Read(first, IoVecs(&src, 1));
      if (!read.ok()) {
        Stop("error while reading from input image file", read);
        co_return;
      }
      const uint64_t shift = skip_ + at - first;
      if (shift != 0) std::memmove(bytes.get(), bytes.get() + shift, length);
      const uint64_t padded = AlignUp<uint64_t>(length, kSector);
      std::memset(bytes.get() + length, 0, padded - length);
      const iovec dst = {bytes.get(), padded};
      const absl::Status written = co_await target_.Write(at, IoVecs(&dst, 1));
      if (!written.ok()) {
        Stop("error while writing to output image file", written);
        co_return;
      }
    }
  }

  void Stop(const char* what, const absl::Status& status) {
    if (!error_.empty()) return;
    const int error = StatusErrno(status);
    error_ =
        absl::StrCat(what, ": ", error != 0 ? std::strerror(error) : std::string(status.message()));
  }

  BlockBackend& source_;
  BlockBackend& target_;
  const uint64_t skip_;
  const uint64_t end_;
  uint64_t next_ = 0;
  std::string error_;
  TaskScope workers_;
};

}  // namespace

int Dd(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'f', nullptr, true},
                                                                 {'O', nullptr, true},
                                                                 {'U', "force-share", false},
                                                                 {0, "image-opts", false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  std::map<std::string, std::string> names;  // "if" and "of".
  uint64_t block_bytes = 512;
  std::optional<uint64_t> count;
  uint64_t skip = 0;
  for (const std::string& operand : parsed->operands) {
    const size_t equals = operand.find('=');
    const std::string key = operand.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : operand.substr(equals + 1);
    if (equals != std::string::npos && (key == "if" || key == "of")) {
      names[key] = value;
    } else if (equals != std::string::npos && (key == "bs" || key == "count" || key == "skip")) {
      SizeLimits limits;
      if (key == "bs") limits = {.min = 1, .max = std::numeric_limits<int32_t>::max()};
      const std::optional<uint64_t> number = SizeArgument(tool, key.c_str(), value, limits);
      if (!number.has_value()) return 1;
      if (key == "bs") block_bytes = *number;
      if (key == "count") count = *number;
      if (key == "skip") skip = *number;
    } else {
      return tool.Fail("unrecognized operand %s", key);
    }
  }
  if (!names.contains("if") || !names.contains("of")) {
    return tool.Fail("Must specify both input and output files");
  }
  const Opened source(tool, {.name = names["if"],
                             .format = parsed->Value("f"),
                             .image_opts = parsed->Has("image-opts"),
                             .share = parsed->Has("U")});
  if (!source.ok()) return 1;
  const std::optional<ImageFormat> format = ImageFormatFromName(parsed->Value("O").value_or("raw"));
  if (!format.has_value()) return tool.Fail("Unknown file format");

  const uint64_t size = source.size_bytes();
  const std::optional<uint64_t> skipped = CheckedMul<uint64_t>(skip, block_bytes);
  const bool past_end = !skipped.has_value() || *skipped > size;
  const uint64_t begin = past_end ? size : *skipped;
  uint64_t length = size - begin;
  if (count.has_value()) {
    length = std::min(length, CheckedMul<uint64_t>(*count, block_bytes).value_or(length));
  }
  NewImage wanted(*format);
  absl::Status made = wanted.Set("size", absl::StrCat(length));
  UnfinishedFiles files;
  if (made.ok()) {
    made = tool.loop.RunTask(MakeImage(tool.loop, tool.opener, names["of"], wanted, &files));
  }
  if (!made.ok()) {
    return tool.Fail("%s: error while creating output image: %s", names["of"],
                     std::string(made.message()));
  }
  Opened target(tool,
                {.name = names["of"], .format = ImageFormatName(*format), .read_only = false});
  if (!target.ok()) return 1;
  if (past_end) tool.Fail("%s: cannot skip to specified offset", names["if"]);
  Copy copy(tool.loop, source.disk(), target.disk(), begin, begin + length);
  std::string error = tool.loop.RunTask(copy.Run());
  const absl::Status closed = target.Close();
  if (error.empty() && !closed.ok()) {
    error =
        absl::StrCat("error while writing to output image file: ", std::string(closed.message()));
  }
  if (!error.empty()) return tool.Fail("%s", error);
  files.Finish();
  return 0;
}

}  // namespace vireo::img
