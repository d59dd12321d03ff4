// vireo-img resize: grows an image, and shrinks it when told to.

#include "storage/img/resize.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/buffer_pool.h"
#include "storage/host_file.h"
#include "storage/image_lock.h"
#include "storage/img/arguments.h"
#include "storage/img/size.h"
#include "storage/img/source.h"
#include "storage/img/tool.h"
#include "storage/img/whole_file.h"
#include "storage/qcow2/image.h"
#include "storage/qcow2/offline_resize.h"

namespace vireo::img {
namespace {

constexpr uint64_t kZeroPieceBytes = 1 << 20;

struct Request {
  SourceOptions image;
  uint64_t bytes = 0;  // Or the difference, if relative.
  int sign = 0;        // 0 = absolute.
  bool shrink = false;
  std::string preallocation = "off";
};

Task<absl::Status> WriteZeroBytes(File& file, uint64_t begin, uint64_t end) {
  std::vector<iovec> zeros;
  AppendZeros(kZeroPieceBytes, zeros);
  for (uint64_t at = begin; at < end; at += kZeroPieceBytes) {
    const IoVecList piece = Slice(zeros, 0, std::min(kZeroPieceBytes, end - at));
    CO_RETURN_IF_ERROR(co_await file.Write(at, piece));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> ResizeRawFile(File& file, uint64_t size, std::string preallocation) {
  const uint64_t old = file.size();
  if (!file.traits().growable) {
    if (size <= old) co_return absl::OkStatus();
    co_return absl::InvalidArgumentError("Cannot grow device files");
  }
  if (preallocation == "off") {
    CO_RETURN_IF_ERROR(co_await file.Truncate(size));
  } else {
    CO_RETURN_IF_ERROR(co_await file.Extend(size));
    if (preallocation == "full") CO_RETURN_IF_ERROR(co_await WriteZeroBytes(file, old, size));
  }
  const absl::Status status = co_await file.Sync();
  co_return status;
}

Task<absl::Status> ResizeRaw(EventLoop& loop, Opener& opener, SourceOptions options, uint64_t size,
                             std::string preallocation) {
  absl::StatusOr<WholeFile> whole = co_await OpenWholeFile(loop, opener, std::move(options));
  CO_RETURN_IF_ERROR(whole.status());
  const absl::Status resized = co_await ResizeRawFile(*whole->file, size, std::move(preallocation));
  const absl::Status closed = co_await whole->file->Close();
  co_return resized.ok() ? closed : resized;
}

// An image's file with its data file, which is null without one.
struct WholeImage {
  WholeFile whole;
  std::unique_ptr<File> data;
};

Task<absl::StatusOr<WholeImage>> OpenWholeImage(EventLoop& loop, Opener& opener,
                                                SourceOptions options,
                                                std::optional<std::string> data_file) {
  WholeImage image;
  CO_ASSIGN_OR_RETURN(image.whole, co_await OpenWholeFile(loop, opener, options));
  if (!data_file.has_value()) co_return image;
  absl::StatusOr<std::string> path = DataFilePath(image.whole.file->name(), *data_file);
  absl::Status status = path.status();
  if (path.ok()) {
    HostFile::Options data_options = {.path = *std::move(path),
                                      .direct = options.cache.direct,
                                      .no_flush = options.cache.no_flush,
                                      .lock = LockMode::kExclusive};
    auto opened = co_await HostFile::Open(loop, opener, std::move(data_options));
    status = opened.status();
    if (opened.ok()) image.data = *std::move(opened);
  }
  if (!status.ok()) {
    const absl::Status closed = co_await image.whole.file->Close();
    static_cast<void>(closed);
    co_return status;
  }
  co_return image;
}

Task<absl::Status> CloseWholeImage(WholeImage& image, absl::Status done) {
  if (image.data != nullptr) {
    const absl::Status closed = co_await image.data->Close();
    if (done.ok()) done = closed;
  }
  const absl::Status closed = co_await image.whole.file->Close();
  co_return done.ok() ? closed : done;
}

Task<absl::Status> Shrink(EventLoop& loop, Opener& opener, SourceOptions options,
                          std::optional<std::string> data_file, uint64_t size) {
  CO_ASSIGN_OR_RETURN(WholeImage image, co_await OpenWholeImage(loop, opener, std::move(options),
                                                                std::move(data_file)));
  absl::Status shrunk =
      co_await qcow2::ShrinkImage(loop, *image.whole.file, image.data.get(), size);
  const absl::Status status = co_await CloseWholeImage(image, std::move(shrunk));
  co_return status;
}

// What an encrypted image shall store has to be written.
Task<absl::Status> WriteZerosOut(BlockBackend& disk, uint64_t begin, uint64_t end) {
  std::vector<iovec> zeros;
  AppendZeros(kZeroPieceBytes, zeros);
  for (uint64_t at = begin; at < end; at += kZeroPieceBytes) {
    const IoVecList piece = Slice(zeros, 0, std::min(kZeroPieceBytes, end - at));
    const WriteFlags none;
    CO_RETURN_IF_ERROR(co_await disk.Write(at, piece, none));
  }
  co_return absl::OkStatus();
}

struct NewSpace {
  uint64_t begin;
  uint64_t end;
  std::string preallocation;
};

Task<absl::Status> Preallocate(EventLoop& loop, Opener& opener, SourceOptions options,
                               std::optional<std::string> data_file, NewSpace space) {
  const qcow2::Preallocation mode =
      space.preallocation == "metadata" ? qcow2::Preallocation::kMetadata
      : space.preallocation == "falloc" ? qcow2::Preallocation::kFalloc
                                        : qcow2::Preallocation::kFull;
  CO_ASSIGN_OR_RETURN(WholeImage image, co_await OpenWholeImage(loop, opener, std::move(options),
                                                                std::move(data_file)));
  absl::Status done = co_await qcow2::PreallocateRange(loop, *image.whole.file, image.data.get(),
                                                       space.begin, space.end, mode);
  const absl::Status status = co_await CloseWholeImage(image, std::move(done));
  co_return status;
}

// What qemu-img says about those that mean something else to it.
absl::Status InOtherWords(const absl::Status& status) {
  if (absl::IsUnimplemented(status) &&
      absl::StrContains(std::string(status.message()), "snapshots")) {
    return absl::UnimplementedError("Can't resize a v2 image which has snapshots");
  }
  if (absl::IsInvalidArgument(status) &&
      absl::StrContains(std::string(status.message()), "L1 entries")) {
    return absl::InvalidArgumentError("Failed to grow the L1 table: File too large");
  }
  return status;
}

Task<absl::Status> ResizeOpened(EventLoop& loop, Opener& opener, Source& source, uint64_t size,
                                const ResizeOptions& options, bool* closed) {
  BlockBackend& disk = *source.disk;
  const uint64_t old = disk.geometry().size_bytes;
  if (size <= old && options.preallocation != "off") {
    co_return absl::InvalidArgumentError("Preallocation can only be used for growing images");
  }
  if (size < old && !options.shrink) {
    co_return absl::FailedPreconditionError(
        "Use the --shrink option to perform a shrink operation.");
  }
  if (source.image == nullptr) {
    if (options.preallocation == "metadata") {
      co_return absl::InvalidArgumentError("Unsupported preallocation mode: metadata");
    }
    if (options.image.image_opts) {
      if (size >= old && options.preallocation == "off") {
        absl::Status grown;
        if (size > old) grown = co_await disk.Resize(size);
        co_return grown;
      }
      co_return absl::UnimplementedError(
          "--shrink and --preallocation with --image-opts are not supported for this image");
    }
    *closed = true;
    CO_RETURN_IF_ERROR(co_await disk.Close());
    const absl::Status resized =
        co_await ResizeRaw(loop, opener, options.image, size, options.preallocation);
    co_return resized;
  }
  if (size % 512 != 0) {
    co_return absl::InvalidArgumentError("The new size must be a multiple of 512");
  }
  const qcow2::Layout layout = source.image->header().layout;
  std::optional<std::string> data_file;
  if (layout.external_data) data_file = source.image->header().data_file;
  if (size < old) {
    if (layout.version < 3 && source.image->header().snapshot_count > 0) {
      co_return absl::UnimplementedError("Can't resize a v2 image which has snapshots");
    }
    // What the last table in use maps behind the new end becomes zeros, so that nothing old shows
    // when the disk grows again; whole tables go with the shrinking.
    const uint64_t stop = std::min(old, layout.l1_entries_for(size) * layout.guest_bytes_per_l2());
    if (stop > size) {
      const ZeroFlags unmap = {.may_unmap = true};
      CO_RETURN_IF_ERROR(co_await disk.WriteZeroes(size, stop - size, unmap));
    }
    *closed = true;
    CO_RETURN_IF_ERROR(co_await disk.Close());
    const absl::Status shrunk =
        co_await Shrink(loop, opener, options.image, std::move(data_file), size);
    co_return shrunk;
  }
  if (size > old) {
    const absl::Status grown = co_await disk.Resize(size);
    if (!grown.ok()) co_return InOtherWords(grown);
  }
  if (options.preallocation == "off") co_return absl::OkStatus();
  if (source.image->header().encryption.has_value()) {
    const absl::Status written = co_await WriteZerosOut(disk, old, size);
    co_return written;
  }
  *closed = true;
  CO_RETURN_IF_ERROR(co_await disk.Close());
  NewSpace space = {.begin = AlignUp<uint64_t>(old, layout.cluster_bytes()),
                    .end = AlignUp<uint64_t>(size, layout.cluster_bytes()),
                    .preallocation = options.preallocation};
  const absl::Status done =
      co_await Preallocate(loop, opener, options.image, std::move(data_file), std::move(space));
  co_return done;
}

Task<absl::Status> Perform(const Tool& tool, const Request& request) {
  SourceOptions image = request.image;
  absl::StatusOr<Source> source = co_await OpenSource(tool.loop, tool.opener, image);
  CO_RETURN_IF_ERROR(source.status());
  std::fputs(source->warning.c_str(), tool.err);
  const uint64_t old = source->disk->geometry().size_bytes;
  uint64_t size = request.bytes;
  bool positive = size > 0;
  if (request.sign > 0) positive = !__builtin_add_overflow(old, request.bytes, &size);
  if (request.sign < 0) positive = !__builtin_sub_overflow(old, request.bytes, &size) && size > 0;
  absl::Status status = absl::InvalidArgumentError("New image size must be positive");
  bool closed = false;
  if (positive && size <= INT64_MAX) {
    const ResizeOptions options = {
        .image = image, .shrink = request.shrink, .preallocation = request.preallocation};
    status = co_await ResizeOpened(tool.loop, tool.opener, *source, size, options, &closed);
  }
  if (!closed) {
    const absl::Status done = co_await source->disk->Close();
    if (status.ok()) status = done;
  }
  co_return status;
}

}  // namespace

Task<absl::Status> ResizeSource(EventLoop& loop, Opener& opener, uint64_t size,
                                ResizeOptions options) {
  absl::StatusOr<Source> source = co_await OpenSource(loop, opener, options.image);
  CO_RETURN_IF_ERROR(source.status());
  bool closed = false;
  absl::Status status = co_await ResizeOpened(loop, opener, *source, size, options, &closed);
  if (!closed) {
    const absl::Status done = co_await source->disk->Close();
    if (status.ok()) status = done;
  }
  co_return status;
}

int Resize(const Tool& tool, const std::vector<std::string>& args) {
  if (args.empty()) return tool.FailUsage("Not enough arguments");
  // The size comes last and may look like an option.
  std::string size = args.back();
  const std::vector<std::string> rest(args.begin(), args.end() - 1);
  const absl::StatusOr<Arguments> parsed = ParseArguments(rest, {{'f', nullptr, true},
                                                                 {'q', "quiet", false},
                                                                 {0, "object", true},
                                                                 {0, "image-opts", false},
                                                                 {0, "preallocation", true},
                                                                 {0, "shrink", false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  Request request;
  if (const auto mode = parsed->Value("preallocation")) {
    if (*mode != "off" && *mode != "metadata" && *mode != "falloc" && *mode != "full") {
      return tool.Fail("Invalid preallocation mode '%s'", *mode);
    }
    request.preallocation = *mode;
  }
  if (rest.empty()) return tool.FailUsage("Not enough arguments");
  if (parsed->operands.size() != 1) return tool.FailUsage("Expecting image file name and size");
  if (!size.empty() && (size[0] == '+' || size[0] == '-')) {
    request.sign = size[0] == '+' ? 1 : -1;
    size.erase(0, 1);
  }
  const std::optional<uint64_t> bytes = ParseSize(size);
  if (!bytes.has_value()) {
    // One that is a number, but too large for a disk, is said to be that.
    if (absl::IsOutOfRange(ReadSize(size).status())) {
      return tool.Fail("New image size must be positive");
    }
    tool.Fail("Parameter 'size' expects a non-negative number below 2^64");
    std::fputs(
        "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
        "and exabytes, respectively.\n",
        tool.err);
    return 1;
  }
  request.bytes = *bytes;
  request.shrink = parsed->Has("shrink");
  request.image = {.name = parsed->operands[0],
                   .format = parsed->Value("f"),
                   .image_opts = parsed->Has("image-opts"),
                   .read_only = false,
                   .secrets = tool.secrets};
  const absl::Status status = tool.loop.RunTask(Perform(tool, request));
  if (!status.ok()) {
    const std::string why(status.message());
    tool.Fail("%s", why);
    if (absl::StartsWith(why, "Use the --shrink option")) {
      tool.Fail(
          "warning: Shrinking an image will delete all data beyond the shrunken image's end. "
          "Before "
          "performing such an operation, make sure there is no important data there.");
    }
    if (absl::EndsWith(why, "is inconsistent and cannot be used")) {
      std::fputs("Try block-dirty-bitmap-remove to delete this bitmap from disk\n", tool.err);
    }
    return 1;
  }
  if (!parsed->Has("q")) tool.Print("Image resized.\n");
  return 0;
}

}  // namespace vireo::img
