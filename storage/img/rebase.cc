// vireo-img rebase: gives an image another backing file, or none. Safe: what the image shows stays
// the same; unsafe (-u): only the name in its header changes.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/async/task_scope.h"
#include "base/status.h"
#include "storage/buffer_pool.h"
#include "storage/img/arguments.h"
#include "storage/img/progress.h"
#include "storage/img/source.h"
#include "storage/img/tool.h"
#include "storage/img/whole_file.h"
#include "storage/open_image.h"
#include "storage/qcow2/header_rewrite.h"
#include "storage/qcow2/image.h"

namespace vireo::img {
namespace {

constexpr uint64_t kPieceBytes = 2 << 20;

struct Request {
  SourceOptions image;
  std::optional<std::string> backing;  // As it will stand in the header; nothing = none.
  std::string backing_format;
  CacheMode backing_cache;
  bool share = false;
  bool safe = true;
};

// Writes to an overlay what it shows of its old backing file and would not show of the new one.
class Copier {
 public:
  // `fresh` is the new backing file, or null for none.
  Copier(EventLoop& loop, BlockBackend& overlay, uint64_t unit, BlockBackend* fresh,
         Progress& progress)
      : loop_(loop),
        overlay_(overlay),
        unit_(unit),
        fresh_(fresh),
        progress_(progress),
        old_(AllocateAligned(kPieceBytes)),
        new_(AllocateAligned(kPieceBytes)) {}

  Task<absl::Status> Run() {
    const uint64_t size = overlay_.geometry().size_bytes;
    progress_.Set(0);
    for (uint64_t at = 0; at < size;) {
      CO_ASSIGN_OR_RETURN(const RangeStatus range, co_await overlay_.Status(at, size - at));
      uint64_t length = range.length;
      const bool own = range.depth == 0 && range.present;
      if (!own) {
        // What both read as zeros is skipped as far as it goes.
        uint64_t fresh_length = length;
        const bool zeros = range.reads_as_zeros;
        bool fresh_zeros = true;
        if (fresh_ != nullptr && at < fresh_->geometry().size_bytes) {
          const uint64_t stored = std::min(length, fresh_->geometry().size_bytes - at);
          CO_ASSIGN_OR_RETURN(const RangeStatus fresh, co_await fresh_->Status(at, stored));
          fresh_zeros = fresh.reads_as_zeros;
          fresh_length = fresh.length;
        }
        length = std::min(length, fresh_length);
        if (!zeros || !fresh_zeros) {
          // Pieces end where clusters do.
          const uint64_t stop = AlignDown<uint64_t>(at + kPieceBytes, unit_);
          length = std::min(length, std::max(stop, at + 512) - at);
          CO_RETURN_IF_ERROR(co_await CopyPiece(at, length));
        }
      }
      at += length;
      progress_.Set(static_cast<float>(at) / static_cast<float>(size) * 100);
    }
    const absl::Status flushed = co_await overlay_.Flush();
    co_return flushed;
  }

 private:
  Task<void> ReadOld(uint64_t at, uint64_t length, absl::Status* status) {
    const iovec part = {old_.get(), length};
    const absl::Status read = co_await overlay_.Read(at, IoVecs(&part, 1));
    if (!read.ok()) *status = Annotate(read, "error while reading from old backing file");
  }
  Task<void> ReadNew(uint64_t at, uint64_t length, absl::Status* status) {
    const uint64_t end = fresh_ == nullptr ? 0 : fresh_->geometry().size_bytes;
    const uint64_t stored = at < end ? std::min(length, end - at) : 0;
    std::memset(new_.get() + stored, 0, length - stored);
    if (stored == 0) co_return;
    const iovec part = {new_.get(), stored};
    const absl::Status read = co_await fresh_->Read(at, IoVecs(&part, 1));
    if (!read.ok()) *status = Annotate(read, "error while reading from new backing file");
  }

  Task<absl::Status> CopyPiece(uint64_t begin, uint64_t length) {
    absl::Status status;
    TaskScope reads(loop_);
    reads.Spawn(ReadOld(begin, length, &status));
    reads.Spawn(ReadNew(begin, length, &status));
    co_await reads.Join();
    CO_RETURN_IF_ERROR(status);
    // Neighbouring clusters that differ are written together.
    const uint64_t end = begin + length;
    uint64_t at = begin;
    while (at < end) {
      const uint64_t next = std::min(end, AlignDown<uint64_t>(at, unit_) + unit_);
      if (Same(at - begin, next - at)) {
        at = next;
        continue;
      }
      const bool zeros = IsZero(at - begin, next - at);
      uint64_t stop = next;
      while (stop < end) {
        const uint64_t following = std::min(end, stop + unit_);
        if (Same(stop - begin, following - stop) ||
            IsZero(stop - begin, following - stop) != zeros) {
          break;
        }
        stop = following;
      }
      CO_RETURN_IF_ERROR(co_await WriteRange(at, stop - at, at - begin, zeros));
      at = stop;
    }
    co_return absl::OkStatus();
  }

  Task<absl::Status> WriteRange(uint64_t at, uint64_t length, uint64_t offset, bool zeros) {
    absl::Status status;
    if (zeros) {
      const ZeroFlags unmap = {.may_unmap = true};
      status = co_await overlay_.WriteZeroes(at, length, unmap);
    } else {
      const iovec part = {old_.get() + offset, length};
      const WriteFlags none;
      status = co_await overlay_.Write(at, IoVecs(&part, 1), none);
    }
    co_return Annotate(status, "Error while writing to COW image");
  }

  bool Same(uint64_t offset, uint64_t length) const {
    return std::memcmp(old_.get() + offset, new_.get() + offset, length) == 0;
  }
  bool IsZero(uint64_t offset, uint64_t length) const {
    const uint8_t* const bytes = old_.get() + offset;
    return bytes[0] == 0 && std::memcmp(bytes, bytes + 1, length - 1) == 0;
  }

  EventLoop& loop_;
  BlockBackend& overlay_;
  const uint64_t unit_;
  BlockBackend* const fresh_;
  Progress& progress_;
  const AlignedBytes old_;
  const AlignedBytes new_;
};

Task<absl::StatusOr<Source>> OpenNewBacking(const Tool& tool, const Request& request,
                                            const std::string& image_path) {
  std::string path = *request.backing;
  const absl::StatusOr<std::string> found = BackingFilePath(image_path, path);
  if (found.ok()) path = *found;
  SourceOptions options = {.name = path,
                           .share = request.share,
                           .cache = request.backing_cache,
                           .secrets = tool.secrets};
  if (!request.backing_format.empty()) options.format = request.backing_format;
  absl::StatusOr<Source> source = co_await OpenSource(tool.loop, tool.opener, std::move(options));
  if (!source.ok()) {
    // Said once.
    std::string why(source.status().message());
    const std::string opening = absl::StrFormat("Could not open '%s': ", path);
    if (absl::StartsWith(why, absl::StrCat(opening, opening))) why.erase(0, opening.size());
    co_return absl::Status(
        source.status().code(),
        absl::StrFormat("Could not open new backing file '%s': %s", *request.backing, why));
  }
  co_return source;
}

Task<absl::Status> CopyDifferences(const Tool& tool, const Request& request, Source& overlay,
                                   Progress& progress) {
  const uint64_t unit = overlay.image->header().layout.cluster_bytes();
  Source fresh;
  if (request.backing.has_value()) {
    absl::StatusOr<Source> opened = co_await OpenNewBacking(tool, request, overlay.file_name);
    CO_RETURN_IF_ERROR(opened.status());
    fresh = *std::move(opened);
  }
  absl::Status status;
  {
    Copier copier(tool.loop, *overlay.disk, unit, fresh.disk.get(), progress);
    status = co_await copier.Run();
  }
  if (fresh.disk != nullptr) {
    const absl::Status closed = co_await fresh.disk->Close();
    if (status.ok()) status = closed;
  }
  co_return status;
}

std::string CouldNotChange(const Request& request, const std::string& why) {
  return absl::StrFormat("Could not change the backing file to '%s': %s",
                         request.backing.value_or(""), why);
}

Task<absl::Status> ChangeHeader(const Tool& tool, const Request& request) {
  SourceOptions image = request.image;
  image.no_backing = true;
  absl::StatusOr<WholeFile> whole = co_await OpenWholeFile(tool.loop, tool.opener, image);
  CO_RETURN_IF_ERROR(whole.status());
  std::string format;
  if (request.backing.has_value()) format = request.backing_format;
  std::optional<std::string> name = request.backing;
  absl::Status status =
      co_await qcow2::ChangeBackingFile(*whole->file, std::move(name), std::move(format));
  if (absl::IsResourceExhausted(status) && StatusErrno(status) == 0) {
    status =
        absl::ResourceExhaustedError(CouldNotChange(request, "No space left in the file header"));
  } else if (absl::IsInvalidArgument(status)) {
    status = absl::InvalidArgumentError(CouldNotChange(request, std::string(status.message())));
  }
  const absl::Status closed = co_await whole->file->Close();
  co_return status.ok() ? closed : status;
}

Task<absl::Status> Perform(const Tool& tool, const Request& request, Progress& progress) {
  SourceOptions image = request.image;
  image.no_backing = !request.safe;
  absl::StatusOr<Source> overlay = co_await OpenSource(tool.loop, tool.opener, image);
  CO_RETURN_IF_ERROR(overlay.status());
  std::fputs(overlay->warning.c_str(), tool.err);
  absl::Status status;
  if (!request.backing_format.empty() && !ImageFormatFromName(request.backing_format).has_value()) {
    status = absl::InvalidArgumentError(
        absl::StrFormat("Invalid format name: '%s'", request.backing_format));
  } else if (overlay->image == nullptr) {
    status = absl::UnimplementedError(CouldNotChange(request, "Operation not supported"));
  } else if (request.backing.has_value() && request.backing_format.empty()) {
    status =
        absl::InvalidArgumentError(CouldNotChange(request, "backing format must be specified"));
  } else if (request.safe) {
    status = co_await CopyDifferences(tool, request, *overlay, progress);
  }
  // What was copied is durable before the header says so.
  const absl::Status closed = co_await overlay->disk->Close();
  if (status.ok()) status = closed;
  if (status.ok()) status = co_await ChangeHeader(tool, request);
  co_return status;
}

}  // namespace

int Rebase(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'f', nullptr, true},
                                                                 {'F', nullptr, true},
                                                                 {'b', nullptr, true},
                                                                 {'u', nullptr, false},
                                                                 {'p', nullptr, false},
                                                                 {'t', nullptr, true},
                                                                 {'T', nullptr, true},
                                                                 {'q', nullptr, false},
                                                                 {'U', "force-share", false},
                                                                 {0, "object", true},
                                                                 {0, "image-opts", false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  if (parsed->operands.size() != 1) return tool.FailUsage("Expecting one image file name");
  Request request = {.safe = !parsed->Has("u")};
  const std::optional<std::string> backing = parsed->Value("b");
  if (request.safe && !backing.has_value()) {
    return tool.FailUsage("Must specify backing file (-b) or use unsafe mode (-u)");
  }
  const std::string cache_name = parsed->Value("t").value_or("writeback");
  const std::optional<CacheMode> cache = ParseCacheMode(cache_name);
  if (!cache.has_value()) return tool.Fail("Invalid cache option: %s", cache_name);
  const std::string backing_cache_name = parsed->Value("T").value_or("writeback");
  const std::optional<CacheMode> backing_cache = ParseCacheMode(backing_cache_name);
  if (!backing_cache.has_value()) {
    return tool.Fail("Invalid source cache option: %s", backing_cache_name);
  }
  request.image = {.name = parsed->operands[0],
                   .format = parsed->Value("f"),
                   .image_opts = parsed->Has("image-opts"),
                   .read_only = false,
                   .share = parsed->Has("U"),
                   .cache = *cache,
                   .secrets = tool.secrets};
  if (backing.has_value() && !backing->empty()) request.backing = *backing;
  request.backing_format = parsed->Value("F").value_or("");
  request.backing_cache = *backing_cache;
  request.share = parsed->Has("U");
  const bool quiet = parsed->Has("q");
  Progress progress({.out = tool.out, .err = tool.err, .shown = parsed->Has("p") && !quiet});
  const absl::Status status = tool.loop.RunTask(Perform(tool, request, progress));
  if (!status.ok()) return tool.Fail("%s", std::string(status.message()));
  progress.Set(100);
  return 0;
}

}  // namespace vireo::img
