// vireo-img bitmap: adds, removes, clears, enables, disables and merges persistent dirty bitmaps.

#include <algorithm>
#include <bit>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/img/arguments.h"
#include "storage/img/size.h"
#include "storage/img/source.h"
#include "storage/img/tool.h"
#include "storage/img/whole_file.h"
#include "storage/qcow2/bitmap_directory.h"
#include "storage/qcow2/bitmap_store.h"
#include "storage/qcow2/header_reader.h"

namespace vireo::img {
namespace {

constexpr uint64_t kMinDefaultGranularity = 4096;
constexpr uint64_t kMaxDefaultGranularity = 65536;

struct Action {
  std::string name;
  std::string merged;  // The bitmap that is merged.
};

struct Request {
  SourceOptions image;
  std::string bitmap;
  std::vector<Action> actions;
  std::optional<uint64_t> granularity;
  std::optional<SourceOptions> merged_from;
};

// A message as qemu-img prints it, after "vireo-img: ".
absl::Status Failed(const Action& action, const std::string& bitmap, const std::string& why) {
  return absl::FailedPreconditionError(
      absl::StrFormat("Operation %s on bitmap %s failed: %s", action.name, bitmap, why));
}

Task<absl::StatusOr<qcow2::DirtyBitmap>> LoadFrom(EventLoop& loop, Opener& opener,
                                                  SourceOptions options, std::string name) {
  absl::StatusOr<WholeFile> whole = co_await OpenWholeFile(loop, opener, std::move(options));
  CO_RETURN_IF_ERROR(whole.status());
  absl::StatusOr<qcow2::DirtyBitmap> bits =
      absl::NotFoundError(absl::StrFormat("Dirty bitmap '%s' not found", name));
  if (whole->format == ImageFormat::kQcow2) {
    const absl::StatusOr<qcow2::Header> header =
        co_await qcow2::ReadHeader(*whole->file, qcow2::Access::kReadOnly);
    if (header.ok()) {
      const absl::StatusOr<std::vector<qcow2::BitmapRecord>> records =
          co_await qcow2::ReadBitmapDirectory(*whole->file, *header);
      if (!records.ok()) bits = records.status();
      for (size_t i = 0; records.ok() && i < records->size(); ++i) {
        const qcow2::BitmapRecord& record = (*records)[i];
        if (record.name != name) continue;
        if (record.usable()) {
          bits =
              co_await qcow2::LoadBitmap(*whole->file, header->layout, record, header->size_bytes);
        } else {
          bits = absl::FailedPreconditionError(
              absl::StrFormat("Bitmap '%s' is inconsistent and cannot be used", name));
        }
      }
    } else {
      bits = header.status();
    }
  }
  const absl::Status closed = co_await whole->file->Close();
  if (!closed.ok()) co_return closed;
  co_return bits;
}

Task<absl::Status> Merge(EventLoop& loop, Opener& opener, qcow2::BitmapStore& store,
                         const Request& request, const Action& action) {
  CO_ASSIGN_OR_RETURN(qcow2::DirtyBitmap bits, co_await store.Load(request.bitmap));
  absl::StatusOr<qcow2::DirtyBitmap> merged = absl::InternalError("");
  if (request.merged_from.has_value()) {
    merged = co_await LoadFrom(loop, opener, *request.merged_from, action.merged);
  } else {
    merged = co_await store.Load(action.merged);
  }
  CO_RETURN_IF_ERROR(merged.status());
  if (merged->disk_bytes() != bits.disk_bytes()) {
    co_return absl::InvalidArgumentError(absl::StrFormat(
        "Bitmaps are of different sizes (destination size is %d, source size is %d) and can't be "
        "merged",
        bits.disk_bytes(), merged->disk_bytes()));
  }
  bits.Merge(*merged);
  std::vector<qcow2::BitmapStore::Stored> stored;
  stored.push_back({.name = request.bitmap, .bits = &bits});
  const absl::Status status = co_await store.Store(std::move(stored));
  co_return status;
}

Task<absl::Status> Clear(qcow2::BitmapStore& store, const Request& request) {
  CO_ASSIGN_OR_RETURN(qcow2::DirtyBitmap bits, co_await store.Load(request.bitmap));
  bits.MarkAllClean();
  std::vector<qcow2::BitmapStore::Stored> stored;
  stored.push_back({.name = request.bitmap, .bits = &bits});
  const absl::Status status = co_await store.Store(std::move(stored));
  co_return status;
}

Task<absl::Status> Add(qcow2::BitmapStore& store, const Request& request) {
  const uint64_t granularity = request.granularity.value_or(
      std::clamp(store.cluster_bytes(), kMinDefaultGranularity, kMaxDefaultGranularity));
  // What is no power of two is refused as too small.
  const uint32_t bits =
      std::has_single_bit(granularity) ? static_cast<uint32_t>(std::countr_zero(granularity)) : 0;
  absl::Status status = co_await store.Add(request.bitmap, bits, /*enabled=*/true);
  if (absl::IsUnimplemented(status) || absl::IsOutOfRange(status)) {
    status = absl::FailedPreconditionError(
        absl::StrFormat("Can't make bitmap '%s' persistent in '%s': %s", request.bitmap,
                        request.image.name, std::string(status.message())));
  }
  co_return status;
}

Task<absl::Status> Act(EventLoop& loop, Opener& opener, qcow2::BitmapStore& store,
                       const Request& request, const Action& action) {
  absl::Status status;
  if (action.name == "add") {
    status = co_await Add(store, request);
  } else if (action.name == "remove") {
    status = co_await store.Remove(request.bitmap);
  } else if (action.name == "clear") {
    status = co_await Clear(store, request);
  } else if (action.name == "merge") {
    status = co_await Merge(loop, opener, store, request, action);
  } else {
    status = co_await store.SetEnabled(request.bitmap, action.name == "enable");
  }
  co_return status;
}

Task<absl::Status> ActAll(EventLoop& loop, Opener& opener, WholeFile& whole,
                          const Request& request) {
  if (whole.format != ImageFormat::kQcow2) {
    const Action& first = request.actions.front();
    co_return Failed(
        first, request.bitmap,
        first.name == "add"
            ? absl::StrFormat("Can't store persistent bitmaps to %s: Operation not supported",
                              request.image.name)
            : absl::StrFormat("Dirty bitmap '%s' not found", request.bitmap));
  }
  absl::StatusOr<std::unique_ptr<qcow2::BitmapStore>> store =
      co_await qcow2::BitmapStore::Open(loop, *whole.file);
  if (!store.ok()) {
    co_return Annotate(store.status(), absl::StrFormat("Could not open '%s'", request.image.name));
  }
  for (const Action& action : request.actions) {
    const absl::Status status = co_await Act(loop, opener, **store, request, action);
    if (!status.ok()) co_return Failed(action, request.bitmap, std::string(status.message()));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Perform(const Tool& tool, const Request& request) {
  absl::StatusOr<WholeFile> whole = co_await OpenWholeFile(tool.loop, tool.opener, request.image);
  CO_RETURN_IF_ERROR(whole.status());
  std::fputs(whole->warning.c_str(), tool.err);
  const absl::Status status = co_await ActAll(tool.loop, tool.opener, *whole, request);
  const absl::Status closed = co_await whole->file->Close();
  co_return status.ok() ? closed : status;
}

}  // namespace

int Bitmap(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'b', nullptr, true},
                                                                 {'f', nullptr, true},
                                                                 {'F', nullptr, true},
                                                                 {'g', nullptr, true},
                                                                 {'U', "force-share", false},
                                                                 {0, "add", false},
                                                                 {0, "remove", false},
                                                                 {0, "clear", false},
                                                                 {0, "enable", false},
                                                                 {0, "disable", false},
                                                                 {0, "merge", true},
                                                                 {0, "object", true},
                                                                 {0, "image-opts", false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  Request request;
  if (const auto text = parsed->Value("g")) {
    request.granularity = ParseSize(*text);
    if (!request.granularity.has_value()) {
      tool.Fail("Invalid granularity specified. You may use k, M, G, T, P or E suffixes for");
      return tool.Fail("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
    }
  }
  for (const auto& [option, value] : parsed->options) {
    if (option == "add" || option == "remove" || option == "clear" || option == "enable" ||
        option == "disable" || option == "merge") {
      request.actions.push_back({.name = option, .merged = value});
    }
  }
  const bool merges = parsed->Has("merge");
  if (parsed->operands.size() != 2) return tool.Fail("Expecting filename and bitmap name");
  if (request.actions.empty()) {
    return tool.Fail(
        "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
  }
  if (request.granularity.has_value() && !parsed->Has("add")) {
    return tool.Fail("granularity only supported with --add");
  }
  if (parsed->Has("F") && !parsed->Has("b")) return tool.Fail("-F only supported with -b");
  if (parsed->Has("b") && !merges) {
    return tool.Fail("Merge bitmap source file only supported with --merge");
  }
  request.image = {.name = parsed->operands[0],
                   .format = parsed->Value("f"),
                   .image_opts = parsed->Has("image-opts"),
                   .read_only = false,
                   .share = parsed->Has("U"),
                   .secrets = tool.secrets};
  request.bitmap = parsed->operands[1];
  if (const auto name = parsed->Value("b")) {
    request.merged_from =
        SourceOptions{.name = *name, .format = parsed->Value("F"), .secrets = tool.secrets};
  }
  const absl::Status status = tool.loop.RunTask(Perform(tool, request));
  if (status.ok()) return 0;
  const std::string why(status.message());
  tool.Fail("%s", why);
  if (absl::EndsWith(why, "is inconsistent and cannot be used")) {
    std::fputs("Try block-dirty-bitmap-remove to delete this bitmap from disk\n", tool.err);
  }
  return 1;
}

}  // namespace vireo::img
