// vireo-img convert: copies one or several disks, one behind the other, into a new image or into
// one that is there.

#include <sys/stat.h>

#include <cstdint>
#include <cstdio>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/img/arguments.h"
#include "storage/img/copy_bitmaps.h"
#include "storage/img/image_copy.h"
#include "storage/img/new_image.h"
#include "storage/img/opened.h"
#include "storage/img/progress.h"
#include "storage/img/size_argument.h"
#include "storage/img/snapshot_argument.h"
#include "storage/img/tool.h"
#include "storage/img/unfinished_files.h"
#include "storage/qcow2/packed_writer.h"

namespace vireo::img {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kMaxSparseBytes = 16 << 20;
constexpr int kMaxWorkers = 16;

// What the command line asks for.
struct Request {
  std::vector<std::string> sources;
  std::string target;
  std::optional<std::string> source_format;
  std::optional<qcow2::SnapshotChoice> snapshot;
  std::string target_format = "raw";
  bool source_opts = false;
  bool target_opts = false;
  bool share = false;
  CacheMode source_cache;
  CacheMode target_cache;
  std::string options;  // Of the new image.
  std::optional<std::string> backing_file;
  std::optional<std::string> backing_format;
  bool create = true;
  bool target_is_zero = false;
  bool compress = false;
  bool offload = false;
  bool quiet = false;
  bool progress = false;
  bool in_order = true;
  bool salvage = false;
  bool bitmaps = false;
  bool skip_broken_bitmaps = false;
  std::optional<uint64_t> sparse_bytes;
  uint64_t bytes_per_second = 0;
  int workers = 8;
};

// False, having said why, when the command line is wrong.
bool ReadRequest(const Tool& tool, const Arguments& parsed, Request& request) {
  for (const auto& [option, text] : parsed.options) {
    if (option == "o") {
      if (const absl::Status list = CheckOptionList(text); !list.ok()) {
        tool.Fail("%s", std::string(list.message()));
        return false;
      }
      absl::StrAppend(&request.options, request.options.empty() ? "" : ",", text);
    } else if (option == "S") {
      request.sparse_bytes = SizeArgument(tool, "buffer size for sparse output", text);
      if (!request.sparse_bytes.has_value()) return false;
      if (*request.sparse_bytes % kSector != 0 || *request.sparse_bytes > kMaxSparseBytes) {
        tool.Fail(
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of %d up "
            "to %d. Select 0 to disable sparse detection (fully allocates output).",
            kSector, kMaxSparseBytes);
        return false;
      }
    } else if (option == "m") {
      if (!absl::SimpleAtoi(text, &request.workers) || request.workers < 1 ||
          request.workers > kMaxWorkers) {
        tool.Fail("Invalid number of coroutines. Allowed number of coroutines is between 1 and %d",
                  kMaxWorkers);
        return false;
      }
    } else if (option == "r") {
      const std::optional<uint64_t> rate = SizeArgument(tool, "rate limit", text);
      if (!rate.has_value()) return false;
      request.bytes_per_second = *rate;
    } else if (option == "l") {
      request.snapshot = SnapshotArgument(tool, text);
      if (!request.snapshot.has_value()) return false;
    }
  }
  request.source_format = parsed.Value("f");
  request.source_opts = parsed.Has("image-opts");
  request.target_opts = parsed.Has("target-image-opts");
  request.share = parsed.Has("U");
  request.backing_file = parsed.Value("B");
  request.backing_format = parsed.Value("F");
  request.create = !parsed.Has("n");
  request.target_is_zero = parsed.Has("target-is-zero");
  request.compress = parsed.Has("c");
  request.quiet = parsed.Has("q");
  request.progress = parsed.Has("p") && !request.quiet;
  request.in_order = !parsed.Has("W");
  request.salvage = parsed.Has("salvage");
  request.bitmaps = parsed.Has("bitmaps");
  request.skip_broken_bitmaps = parsed.Has("skip-broken-bitmaps");
  request.offload = parsed.Has("C");

  const auto refuse = [&tool](const char* why) {
    tool.Fail("%s", why);
    return false;
  };
  if (parsed.Has("skip-broken-bitmaps") && !parsed.Has("bitmaps")) {
    return refuse("Use of --skip-broken-bitmaps requires --bitmaps");
  }
  if (request.offload && request.compress) {
    return refuse("Cannot enable copy offloading when -c is used");
  }
  if (request.offload && request.sparse_bytes.has_value()) {
    return refuse("Cannot enable copy offloading when -S is used");
  }
  if (request.offload && request.salvage) {
    return refuse("Cannot use copy offloading in salvaging mode");
  }
  if (request.target_opts && request.create) {
    return refuse("--target-image-opts requires use of -n flag");
  }
  if (!request.create && !request.options.empty()) {
    return refuse("-o has no effect when skipping image creation");
  }
  if (request.target_is_zero && request.create) {
    return refuse("--target-is-zero requires use of -n flag");
  }
  if (const auto format = parsed.Value("O")) request.target_format = *format;
  return true;
}

bool ReadCacheModes(const Tool& tool, const Arguments& parsed, Request& request) {
  const std::string source = parsed.Value("T").value_or("writeback");
  const std::string target = parsed.Value("t").value_or("unsafe");
  const std::optional<CacheMode> source_mode = ParseCacheMode(source);
  const std::optional<CacheMode> target_mode = ParseCacheMode(target);
  if (!source_mode.has_value()) {
    tool.Fail("Invalid source cache option: %s", source);
    return false;
  }
  if (!target_mode.has_value()) {
    tool.Fail("Invalid cache option: %s", target);
    return false;
  }
  request.source_cache = *source_mode;
  request.target_cache = *target_mode;
  return true;
}

// Fills `wanted` with the options of the image that shall be made.
bool SettleNewImage(const Tool& tool, const Request& request, uint64_t size, NewImage& wanted) {
  if (const absl::Status added = wanted.Add(request.options); !added.ok()) {
    tool.Fail("%s", std::string(added.message()));
    return false;
  }
  if (const absl::Status set = wanted.Set("size", absl::StrCat(size)); !set.ok()) {
    tool.Fail("%s", std::string(set.message()));
    return false;
  }
  if (request.backing_file.has_value() && !wanted.Set("backing_file", *request.backing_file).ok()) {
    tool.Fail("Backing file not supported for file format '%s'", request.target_format);
    return false;
  }
  if (request.backing_format.has_value() &&
      !wanted.Set("backing_fmt", *request.backing_format).ok()) {
    tool.Fail("Backing file format not supported for file format '%s'", request.target_format);
    return false;
  }
  return true;
}

bool IsBlockDevice(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 && S_ISBLK(info.st_mode);
}

// The size of the target's backing file, as the target sees it: what is behind it reads as zeros.
std::optional<uint64_t> BackingBytes(const Tool& tool, const Request& request,
                                     const std::string& backing_file,
                                     const std::string& backing_format) {
  const absl::StatusOr<std::string> path = BackingFilePath(request.target, backing_file);
  const std::optional<ImageFormat> format = ImageFormatFromName(backing_format);
  if (!path.ok() || !format.has_value()) return std::nullopt;
  absl::StatusOr<std::unique_ptr<BlockBackend>> disk = tool.loop.RunTask(
      OpenImage(tool.loop, tool.opener, {.path = *path, .format = *format, .read_only = true}));
  if (!disk.ok()) return std::nullopt;
  const uint64_t bytes = (*disk)->geometry().size_bytes;
  static_cast<void>(tool.loop.RunTask((*disk)->Close()));
  return bytes;
}

// The bitmaps to copy. Nothing, having said why, if they cannot be copied.
std::optional<std::vector<qcow2::BitmapRecord>> ChooseBitmaps(const Tool& tool,
                                                              const Request& request,
                                                              const Opened& source,
                                                              const SourceOptions& options) {
  if (request.sources.size() > 1) {
    tool.Fail("Copying bitmaps only possible with single source");
    return std::nullopt;
  }
  const qcow2::Image* const image = source.source().image;
  if (image == nullptr || image->header().layout.version < 3) {
    tool.Fail("Source lacks bitmap support");
    return std::nullopt;
  }
  absl::StatusOr<std::vector<qcow2::BitmapRecord>> records =
      tool.loop.RunTask(ListBitmaps(tool.loop, tool.opener, options));
  if (!records.ok()) {
    tool.Fail("%s", std::string(records.status().message()));
    return std::nullopt;
  }
  std::vector<qcow2::BitmapRecord> chosen;
  for (qcow2::BitmapRecord& record : *records) {
    if (record.usable()) {
      chosen.push_back(std::move(record));
    } else if (request.skip_broken_bitmaps) {
      tool.Fail("warning: Skipping inconsistent bitmap '%s'", record.name);
    } else {
      tool.Fail("Cannot copy inconsistent bitmap '%s'", record.name);
      std::fputs("Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove'\n", tool.err);
      return std::nullopt;
    }
  }
  return chosen;
}

// The new image, written by a PackedWriter.
struct PackedTarget {
  std::unique_ptr<File> file;
  std::unique_ptr<qcow2::PackedWriter> writer;
};

Task<absl::StatusOr<PackedTarget>> OpenPacked(EventLoop& loop, Opener& opener,
                                              HostFile::Options options) {
  PackedTarget target;
  CO_ASSIGN_OR_RETURN(target.file, co_await HostFile::Open(loop, opener, std::move(options)));
  absl::StatusOr<std::unique_ptr<qcow2::PackedWriter>> writer =
      co_await qcow2::PackedWriter::Open(loop, *target.file);
  if (!writer.ok()) {
    const absl::Status closed = co_await target.file->Close();
    static_cast<void>(closed);
    co_return writer.status();
  }
  target.writer = *std::move(writer);
  co_return target;
}

// Ends the image that `copied` says is filled.
Task<absl::Status> ClosePacked(PackedTarget& target, absl::Status copied) {
  if (copied.ok()) {
    copied = co_await target.writer->Finish();
  }
  co_await target.writer->Abandon();
  const absl::Status closed = co_await target.file->Close();
  co_return copied.ok() ? closed : copied;
}

int RunConvert(const Tool& tool, const Request& request) {
  Progress progress({.out = tool.out, .err = tool.err, .shown = request.progress});
  std::deque<Opened> sources;
  uint64_t size = 0;
  SourceOptions source_options = {.format = request.source_format,
                                  .image_opts = request.source_opts,
                                  .share = request.share,
                                  .snapshot = request.snapshot,
                                  .cache = request.source_cache,
                                  .secrets = tool.secrets};
  for (const std::string& name : request.sources) {
    source_options.name = name;
    sources.emplace_back(tool, source_options);
    if (!sources.back().ok()) return 1;
    size += sources.back().size_bytes();
  }

  const std::optional<ImageFormat> format = ImageFormatFromName(request.target_format);
  std::optional<std::string> backing_file = request.backing_file;
  std::string backing_format = request.backing_format.value_or("");
  std::optional<std::vector<qcow2::BitmapRecord>> bitmaps;
  UnfinishedFiles files;
  std::optional<std::string> key_secret;
  if (request.create) {
    if (!format.has_value()) return tool.Fail("Unknown file format '%s'", request.target_format);
    NewImage wanted(*format);
    wanted.set_secrets(tool.secrets);
    if (!SettleNewImage(tool, request, size, wanted)) return 1;
    backing_file = wanted.Get("backing_file");
    key_secret = wanted.Get("encrypt.key-secret");
    backing_format = wanted.Get("backing_fmt").value_or("");
    if (backing_file.has_value() && sources.size() > 1) {
      return tool.Fail(
          "Having a backing file for the target makes no sense when concatenating multiple input "
          "images");
    }
    if (backing_file.has_value() && backing_format.empty()) {
      return tool.Fail("Use of backing file requires explicit backing format");
    }
    if (request.bitmaps) {
      bitmaps = ChooseBitmaps(tool, request, sources.front(), source_options);
      if (!bitmaps.has_value()) return 1;
    }
    if (request.compress) {
      if (*format != ImageFormat::kQcow2) {
        return tool.Fail("Compression not supported for this file format");
      }
      if (wanted.Get("preallocation").value_or("off") != "off") {
        return tool.Fail("Compression and preallocation not supported at the same time");
      }
      if (wanted.IsSet("encrypt.format") || wanted.Get("encryption") == "on") {
        return tool.Fail("Compression and encryption not supported at the same time");
      }
    }
    const absl::Status made =
        tool.loop.RunTask(MakeImage(tool.loop, tool.opener, request.target, wanted, &files));
    if (!made.ok()) {
      return tool.Fail("%s: error while converting %s: %s", request.target, request.target_format,
                       std::string(made.message()));
    }
  }

  SourceOptions target_options = {.name = request.target,
                                  .image_opts = request.target_opts,
                                  .read_only = false,
                                  .cache = request.target_cache,
                                  .key_secret = std::move(key_secret),
                                  .secrets = tool.secrets};
  if (!request.target_opts) target_options.format = request.target_format;
  ImageCopy::Options options = {.target_is_zero = request.target_is_zero,
                                .target_has_backing = backing_file.has_value(),
                                .workers = request.workers,
                                .in_order = request.in_order,
                                .salvage = request.salvage,
                                .bytes_per_second = request.bytes_per_second};
  for (Opened& source : sources) options.sources.push_back(&source.disk());
  const qcow2::Image* const source_image = sources.front().source().image;
  options.source_has_backing =
      source_image != nullptr && source_image->header().backing_file.has_value();
  if (request.sparse_bytes.has_value()) options.sparse_bytes = *request.sparse_bytes;

  std::optional<Opened> target;
  PackedTarget packed;
  const bool pack = request.compress && request.create;
  if (pack) {
    absl::StatusOr<PackedTarget> opened =
        tool.loop.RunTask(OpenPacked(tool.loop, tool.opener,
                                     {.path = request.target,
                                      .direct = request.target_cache.direct,
                                      .no_flush = request.target_cache.no_flush,
                                      .lock = LockMode::kExclusive}));
    if (!opened.ok()) return tool.Fail("%s", std::string(opened.status().message()));
    packed = *std::move(opened);
    options.packer = packed.writer.get();
    options.unit_bytes = packed.writer->header().layout.cluster_bytes();
    options.target_is_zero = !backing_file.has_value() && options.sparse_bytes != 0;
  } else {
    target.emplace(tool, target_options);
    if (!target->ok()) return 1;
    if (target->size_bytes() < size) {
      return tool.Fail("output file is smaller than input file");
    }
    options.target = &target->disk();
    options.compress = request.compress;
    options.offload = request.offload;
    const bool is_qcow2 = target->source().format == ImageFormat::kQcow2;
    if (is_qcow2) options.unit_bytes = target->source().image->header().layout.cluster_bytes();
    if (request.create && !backing_file.has_value() && options.sparse_bytes != 0 &&
        (is_qcow2 || !IsBlockDevice(request.target))) {
      options.target_is_zero = true;
    }
    if (request.compress && !is_qcow2) {
      return tool.Fail("Compression not supported for this file format");
    }
    if (request.bitmaps && !bitmaps.has_value()) {  // Into an image that is there.
      bitmaps = ChooseBitmaps(tool, request, sources.front(), source_options);
      if (!bitmaps.has_value()) return 1;
    }
    if (request.bitmaps && !is_qcow2) {
      return tool.Fail("Format driver '%s' does not support bitmaps",
                       ImageFormatName(target->source().format));
    }
  }
  if (backing_file.has_value()) {
    options.target_backing_bytes =
        BackingBytes(tool, request, *backing_file, backing_format).value_or(UINT64_MAX);
  }

  ImageCopy copy(tool.loop, std::move(options), progress);
  absl::Status status = tool.loop.RunTask(copy.Run());
  for (const std::string& warning : copy.TakeWarnings()) {
    if (!request.quiet) tool.Fail("warning: %s", warning);
  }
  if (pack) {
    status = tool.loop.RunTask(ClosePacked(packed, status));
  } else {
    const absl::Status closed = target->Close();
    if (status.ok()) status = closed;
  }
  if (status.ok() && bitmaps.has_value()) {
    status = tool.loop.RunTask(
        CopyBitmaps(tool.loop, tool.opener, source_options, target_options, *std::move(bitmaps)));
  }
  if (!status.ok()) return tool.Fail("%s", std::string(status.message()));
  progress.Set(100);
  files.Finish();
  return 0;
}

}  // namespace

int Convert(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed =
      ParseArguments(args, {{'f', nullptr, true},         {'O', nullptr, true},
                            {'B', nullptr, true},         {'F', nullptr, true},
                            {'o', nullptr, true},         {'l', nullptr, true},
                            {'S', nullptr, true},         {'t', nullptr, true},
                            {'T', nullptr, true},         {'m', nullptr, true},
                            {'r', nullptr, true},         {'C', nullptr, false},
                            {'W', nullptr, false},        {'c', nullptr, false},
                            {'n', nullptr, false},        {'p', nullptr, false},
                            {'q', nullptr, false},        {'U', "force-share", false},
                            {0, "image-opts", false},     {0, "target-image-opts", false},
                            {0, "target-is-zero", false}, {0, "salvage", false},
                            {0, "bitmaps", false},        {0, "skip-broken-bitmaps", false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  Request request;
  if (!ReadRequest(tool, *parsed, request)) return 1;
  if (AsksForHelp(request.options)) {
    const std::optional<ImageFormat> format = ImageFormatFromName(request.target_format);
    if (!format.has_value()) return tool.Fail("Unknown file format '%s'", request.target_format);
    tool.Print("%s", OptionsHelp(*format, parsed->operands.size() < 2 ? HelpOf::kFormat
                                                                      : HelpOf::kFormatAndFile));
    return 0;
  }
  if (parsed->operands.size() < 2) return tool.Fail("Must specify image file name");
  request.sources.assign(parsed->operands.begin(), parsed->operands.end() - 1);
  request.target = parsed->operands.back();
  if (!ReadCacheModes(tool, *parsed, request)) return 1;
  if (request.source_opts && request.source_format.has_value()) {
    return tool.Fail("--image-opts and --format are mutually exclusive");
  }
  if (request.target_opts && parsed->Has("O")) {
    return tool.Fail("--image-opts and --format are mutually exclusive");
  }
  if (request.snapshot.has_value() && request.sources.size() > 1) {
    return tool.Fail("No support for concatenating multiple snapshot");
  }
  return RunConvert(tool, request);
}

}  // namespace vireo::img
