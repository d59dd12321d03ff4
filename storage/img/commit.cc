// vireo-img commit: writes what an overlay, and the layers below it, hold into a backing file.

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/async/task_scope.h"
#include "base/status.h"
#include "storage/backing_options.h"
#include "storage/buffer_pool.h"
#include "storage/driver_options.h"
#include "storage/img/arguments.h"
#include "storage/img/pace.h"
#include "storage/img/progress.h"
#include "storage/img/size_argument.h"
#include "storage/img/source.h"
#include "storage/img/tool.h"
#include "storage/img/whole_file.h"
#include "storage/open_image.h"
#include "storage/qcow2/image_empty.h"

namespace vireo::img {
namespace {

constexpr uint64_t kPieceBytes = 1 << 20;
constexpr int kInFlight = 4;
constexpr size_t kMaxLayers = 200;

struct Request {
  SourceOptions image;
  std::optional<std::string> base;  // As given; nothing = the image's own backing file.
  bool keep = false;                // The overlay keeps what it holds.
  uint64_t bytes_per_second = 0;    // 0 = as fast as it goes.
};

// An image of the chain, as the node that it is.
struct Layer {
  DriverOptions options;  // What is beneath it included, where somebody has said that.
  std::string path;       // Of the file at the bottom.
  ImageFormat format = ImageFormat::kRaw;
};

// Copies what a disk stores itself to another of at least its size, several pieces at once.
class Copy {
 public:
  Copy(EventLoop& loop, BlockBackend& from, BlockBackend& to, uint64_t bytes_per_second,
       Progress& progress)
      : from_(from), to_(to), pace_(loop, bytes_per_second), progress_(progress), workers_(loop) {}

  Task<absl::Status> Run() {
    progress_.Set(0);
    for (int i = 0; i < kInFlight; ++i) workers_.Spawn(Work());
    co_await workers_.Join();
    co_return status_;
  }

 private:
  struct Piece {
    uint64_t offset;
    uint64_t length;
    bool zeros;
  };

  // The next stretch that is stored; nothing at the end.
  Task<absl::StatusOr<std::optional<Piece>>> Next() {
    const uint64_t size = from_.geometry().size_bytes;
    while (next_ < size) {
      const uint64_t at = next_;
      CO_ASSIGN_OR_RETURN(const RangeStatus range, co_await from_.Status(at, size - at));
      if (next_ != at) continue;  // Another worker was here meanwhile.
      if (!range.present) {
        next_ += range.length;
        continue;
      }
      const bool zeros = range.kind != RangeKind::kData || range.reads_as_zeros;
      const uint64_t length = zeros ? range.length : std::min(range.length, kPieceBytes);
      next_ += length;
      co_return Piece{at, length, zeros};
    }
    co_return std::nullopt;
  }

  Task<void> Work() {
    const AlignedBytes bytes = AllocateAligned(kPieceBytes);
    while (status_.ok()) {
      const absl::StatusOr<std::optional<Piece>> next = co_await Next();
      if (!next.ok()) {
        status_ = next.status();
        co_return;
      }
      if (!next->has_value()) co_return;
      const Piece piece = **next;
      absl::Status done;
      if (piece.zeros) {
        const ZeroFlags unmap = {.may_unmap = true};
        done = co_await to_.WriteZeroes(piece.offset, piece.length, unmap);
      } else {
        co_await pace_.Admit(piece.length);
        const iovec part = {bytes.get(), piece.length};
        done = co_await from_.Read(piece.offset, IoVecs(&part, 1));
        const WriteFlags none;
        if (done.ok()) done = co_await to_.Write(piece.offset, IoVecs(&part, 1), none);
      }
      if (!done.ok()) {
        status_ = done;
        co_return;
      }
      progress_.Set(static_cast<float>(next_) / static_cast<float>(from_.geometry().size_bytes) *
                    100);
    }
  }

  BlockBackend& from_;
  BlockBackend& to_;
  Pace pace_;
  Progress& progress_;
  TaskScope workers_;
  uint64_t next_ = 0;
  absl::Status status_;
};

// Whether nodes are written, and whether they are shared, is not for options to say here.
DriverOptions WithoutAccess(const DriverOptions& options) {
  DriverOptions rest = options;
  for (const auto& [key, value] : options.values()) {
    for (const char* access : {"read-only", "auto-read-only", "force-share"}) {
      if (key == access || absl::EndsWith(key, absl::StrCat(".", access))) rest.Take(key);
    }
  }
  return rest;
}

// `options` as an image of its own, without what is beneath it.
Task<absl::StatusOr<Source>> OpenAlone(const Tool& tool, DriverOptions options) {
  SourceOptions alone = {.share = true, .no_backing = true, .secrets = tool.secrets};
  if (const std::optional<std::string> name = DriverOptions(options).Take("file.filename")) {
    alone.name = *name;
  }
  alone.drivers = std::move(options);
  absl::StatusOr<Source> source = co_await OpenSource(tool.loop, tool.opener, std::move(alone));
  co_return source;
}

// What is beneath `layer`: as its options have it, or its header; nothing if there is nothing.
Task<absl::StatusOr<std::optional<Layer>>> BackingOf(const Tool& tool, Layer layer) {
  std::optional<Layer> backing;
  if (layer.format != ImageFormat::kQcow2) co_return backing;
  BackingOptions said = TakeBacking(layer.options);
  absl::StatusOr<Source> image = co_await OpenAlone(tool, std::move(layer.options));
  CO_RETURN_IF_ERROR(image.status());
  absl::StatusOr<std::optional<DriverOptions>> options =
      CompleteBacking(std::move(said), image->image->header(), layer.path);
  CO_RETURN_IF_ERROR(co_await image->disk->Close());
  CO_RETURN_IF_ERROR(options.status());
  if (!options->has_value()) co_return backing;
  absl::StatusOr<Source> below = co_await OpenAlone(tool, **options);
  CO_RETURN_IF_ERROR(below.status());
  CO_RETURN_IF_ERROR(co_await below->disk->Close());
  backing = Layer{.options = **std::move(options),
                  .path = std::move(below->file_name),
                  .format = below->format};
  co_return backing;
}

// `layers` as one disk, the last of them without its backing file.
DriverOptions ChainOf(const std::vector<Layer>& layers) {
  DriverOptions chain;
  std::string prefix;
  for (const Layer& layer : layers) {
    DriverOptions own = layer.options;
    TakeBacking(own);
    for (const auto& [key, value] : own.values()) {
      if (value.has_value()) chain.Set(absl::StrCat(prefix, key), *value);
    }
    absl::StrAppend(&prefix, "backing.");
  }
  prefix.pop_back();
  if (layers.back().format == ImageFormat::kQcow2) chain.Set(prefix, "");
  return chain;
}

Task<absl::Status> CopyInto(const Tool& tool, const Request& request, DriverOptions chain,
                            Layer base, Progress& progress) {
  SourceOptions base_options = {.name = base.path,
                                .read_only = false,
                                .cache = request.image.cache,
                                .secrets = tool.secrets,
                                .drivers = std::move(base.options)};
  // The image's lock is ours already.
  SourceOptions from = {.name = request.image.name,
                        .share = true,
                        .cache = request.image.cache,
                        .secrets = tool.secrets,
                        .drivers = std::move(chain)};
  absl::StatusOr<Source> to = co_await OpenSource(tool.loop, tool.opener, std::move(base_options));
  CO_RETURN_IF_ERROR(to.status());
  absl::StatusOr<Source> source = co_await OpenSource(tool.loop, tool.opener, std::move(from));
  absl::Status status = source.status();
  if (source.ok()) {
    const uint64_t size = source->disk->geometry().size_bytes;
    if (size > to->disk->geometry().size_bytes) status = co_await to->disk->Resize(size);
    if (status.ok()) {
      Copy copy(tool.loop, *source->disk, *to->disk, request.bytes_per_second, progress);
      status = co_await copy.Run();
    }
    if (status.ok()) status = co_await to->disk->Flush();
    const absl::Status closed = co_await source->disk->Close();
    if (status.ok()) status = closed;
  }
  const absl::Status closed = co_await to->disk->Close();
  co_return status.ok() ? closed : status;
}

Task<absl::Status> CommitOpened(const Tool& tool, const Request& request, WholeFile& whole,
                                Progress& progress) {
  // From the image down to what it is written into.
  std::vector<Layer> layers;
  CO_ASSIGN_OR_RETURN(const DriverOptions named, DriversOf(request.image));
  layers.push_back(
      {.options = WithoutAccess(named), .path = whole.file->name(), .format = whole.format});
  if (!named.Has("driver")) layers[0].options.Set("driver", ImageFormatName(whole.format));
  std::optional<Layer> base;
  while (layers.size() < kMaxLayers) {
    const absl::StatusOr<std::optional<Layer>> below = co_await BackingOf(tool, layers.back());
    CO_RETURN_IF_ERROR(below.status());
    if (!below->has_value()) break;
    base = **below;
    if (!request.base.has_value()) break;
    // Named as its overlay does, or as a path.
    if (base->path == *request.base) break;
    const auto named = co_await IdentifyFile(tool.loop, tool.opener, *request.base);
    const auto found = co_await IdentifyFile(tool.loop, tool.opener, base->path);
    if (named.ok() && found.ok() && *named == *found) break;
    layers.push_back(*base);
    base.reset();
  }
  if (!base.has_value()) {
    if (request.base.has_value()) {
      co_return absl::NotFoundError(absl::StrFormat(
          "Did not find '%s' in the backing chain of '%s'", *request.base, request.image.name));
    }
    co_return absl::FailedPreconditionError("Image does not have a backing file");
  }
  DriverOptions chain = ChainOf(layers);
  CO_RETURN_IF_ERROR(
      co_await CopyInto(tool, request, std::move(chain), *std::move(base), progress));
  if (request.keep) co_return absl::OkStatus();
  // The base has it all, durably.
  const absl::Status emptied = co_await qcow2::EmptyImage(tool.loop, *whole.file);
  co_return Annotate(emptied, absl::StrFormat("Could not empty %s", request.image.name));
}

Task<absl::Status> Perform(const Tool& tool, const Request& request, Progress& progress) {
  // Opened with its whole chain once, so that what is wrong with it is said; then alone.
  absl::StatusOr<WholeFile> whole = co_await OpenWholeFile(tool.loop, tool.opener, request.image);
  CO_RETURN_IF_ERROR(whole.status());
  std::fputs(whole->warning.c_str(), tool.err);
  const absl::Status status = co_await CommitOpened(tool, request, *whole, progress);
  const absl::Status closed = co_await whole->file->Close();
  co_return status.ok() ? closed : status;
}

}  // namespace

int Commit(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'f', nullptr, true},
                                                                 {'t', nullptr, true},
                                                                 {'b', nullptr, true},
                                                                 {'d', nullptr, false},
                                                                 {'p', nullptr, false},
                                                                 {'q', nullptr, false},
                                                                 {'r', nullptr, true},
                                                                 {0, "object", true},
                                                                 {0, "image-opts", false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  uint64_t bytes_per_second = 0;
  if (const auto rate = parsed->Value("r")) {
    const std::optional<uint64_t> bytes = SizeArgument(tool, "rate limit", *rate);
    if (!bytes.has_value()) return 1;
    bytes_per_second = *bytes;
  }
  if (parsed->operands.size() != 1) return tool.FailUsage("Expecting one image file name");
  const std::string cache_name = parsed->Value("t").value_or("writeback");
  const std::optional<CacheMode> cache = ParseCacheMode(cache_name);
  if (!cache.has_value()) return tool.Fail("Invalid cache option: %s", cache_name);
  const bool quiet = parsed->Has("q");
  // A base that is named is not the image's own: what lies between them still wants its layers.
  const Request request = {.image = {.name = parsed->operands[0],
                                     .format = parsed->Value("f"),
                                     .image_opts = parsed->Has("image-opts"),
                                     .read_only = false,
                                     .cache = *cache,
                                     .secrets = tool.secrets},
                           .base = parsed->Value("b"),
                           .keep = parsed->Has("d") || parsed->Has("b"),
                           .bytes_per_second = bytes_per_second};
  absl::Status status;
  {
    Progress progress({.out = tool.out, .err = tool.err, .shown = parsed->Has("p") && !quiet});
    status = tool.loop.RunTask(Perform(tool, request, progress));
    if (status.ok()) progress.Set(100);
  }
  if (!status.ok()) return tool.Fail("%s", std::string(status.message()));
  if (!quiet) tool.Print("Image committed.\n");
  return 0;
}

}  // namespace vireo::img
