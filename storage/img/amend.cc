// vireo-img amend: changes what a QCOW2 image was made as.

#include "storage/qcow2/amend.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/buffer_pool.h"
#include "storage/driver_options.h"
#include "storage/img/arguments.h"
#include "storage/img/key_slots.h"
#include "storage/img/progress.h"
#include "storage/img/resize.h"
#include "storage/img/size.h"
#include "storage/img/source.h"
#include "storage/img/tool.h"
#include "storage/img/whole_file.h"
#include "storage/open_image.h"
#include "storage/open_node.h"
#include "storage/qcow2/image.h"

namespace vireo::img {
namespace {

constexpr uint64_t kZeroPieceBytes = 1 << 20;

constexpr char kHelp[] =
    "Amend options for 'qcow2':\n"
    "  backing_file=<str>     - File name of a base image\n"
    "  backing_fmt=<str>      - Image format of the base image\n"
    "  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])\n"
    "  data_file=<str>        - File name of an external data file\n"
    "  data_file_raw=<bool (on/off)> - The external data file must stay valid as a raw image\n"
    "  encrypt.iter-time=<num> - Time to spend in PBKDF in milliseconds\n"
    "  encrypt.keyslot=<num>  - Select a single keyslot to modify explicitly\n"
    "  encrypt.new-secret=<str> - New secret to set in the matching keyslots. Empty string to "
    "erase\n"
    "  encrypt.old-secret=<str> - Select all keyslots that match this password\n"
    "  encrypt.state=<str>    - Select new state of affected keyslots (active/inactive)\n"
    "  lazy_refcounts=<bool (on/off)> - Postpone refcount updates\n"
    "  refcount_bits=<num>    - Width of a reference count entry in bits\n"
    "  size=<size>            - Virtual disk size\n";

// Those that only an image that is being made can have.
constexpr std::array kForCreation = {
    "cluster_size",      "preallocation",          "compression_type",   "extended_l2",
    "encryption",        "encrypt.format",         "encrypt.cipher-alg", "encrypt.cipher-mode",
    "encrypt.ivgen-alg", "encrypt.ivgen-hash-alg", "encrypt.hash-alg",   "encrypt.key-secret"};

struct Request {
  SourceOptions image;
  std::optional<uint32_t> version;
  std::optional<bool> lazy_refcounts;
  std::optional<uint32_t> refcount_order;
  std::optional<uint64_t> size;
  std::optional<KeySlotChange> key_slots;
  bool force = false;
};

std::optional<std::string> Take(std::map<std::string, std::string>& options,
                                const std::string& key) {
  const auto found = options.find(key);
  if (found == options.end()) return std::nullopt;
  std::string value = std::move(found->second);
  options.erase(found);
  return value;
}

// The first line of an error, then a hint.
absl::Status WithHint(const std::string& message, const std::string& hint) {
  return absl::InvalidArgumentError(absl::StrFormat("%s\n%s", message, hint));
}

absl::Status TakeOptions(std::map<std::string, std::string> options, Request* request) {
  for (const char* key : kForCreation) {
    if (options.contains(key)) {
      return WithHint(absl::StrFormat("Invalid parameter '%s'", key),
                      "This option is only supported for image creation");
    }
  }
  ASSIGN_OR_RETURN(request->key_slots, TakeKeySlotChange(options));
  if (request->key_slots.has_value()) request->key_slots->force = request->force;
  if (const auto value = Take(options, "compat")) {
    if (*value == "0.10" || *value == "v2") {
      request->version = 2;
    } else if (*value == "1.1" || *value == "v3") {
      request->version = 3;
    } else {
      return absl::InvalidArgumentError(absl::StrFormat("Unknown compatibility level %s", *value));
    }
  }
  if (const auto value = Take(options, "lazy_refcounts")) {
    ASSIGN_OR_RETURN(request->lazy_refcounts, ParseSwitch("lazy_refcounts", *value));
  }
  if (const auto value = Take(options, "refcount_bits")) {
    const std::optional<uint64_t> bits = ParseSize(*value);
    if (!bits.has_value() || !std::has_single_bit(*bits) || *bits > 64) {
      return absl::InvalidArgumentError(
          "Refcount width must be a power of two and may not exceed 64 bits");
    }
    request->refcount_order = static_cast<uint32_t>(std::countr_zero(*bits));
  }
  if (const auto value = Take(options, "size")) {
    request->size = ParseSize(*value);
    if (!request->size.has_value()) {
      return absl::InvalidArgumentError(
          "Parameter 'size' expects a non-negative number below 2^64");
    }
  }
  if (options.contains("backing_file") || options.contains("backing_fmt")) {
    return WithHint("Cannot amend the backing file", "You can use 'vireo-img rebase' instead.");
  }
  for (const auto& [key, value] : options) {
    if (key == "data_file") {
      return absl::InvalidArgumentError(
          "data-file can only be set for images that use an external data file");
    }
    if (key == "data_file_raw") {
      return absl::InvalidArgumentError("data-file-raw cannot be set on existing images");
    }
    return absl::InvalidArgumentError(absl::StrFormat("Invalid parameter '%s'", key));
  }
  return absl::OkStatus();
}

// Zero clusters of the disk, which version 2 cannot say, as data.
Task<absl::Status> WriteZerosOut(BlockBackend& disk) {
  std::vector<iovec> zeros;
  AppendZeros(kZeroPieceBytes, zeros);
  const uint64_t size = disk.geometry().size_bytes;
  for (uint64_t at = 0; at < size;) {
    CO_ASSIGN_OR_RETURN(const RangeStatus range, co_await disk.Status(at, size - at));
    if (range.depth > 0 || !range.present || range.kind != RangeKind::kZero) {
      at += range.length;
      continue;
    }
    const uint64_t length = std::min(range.length, kZeroPieceBytes);
    const IoVecList piece = Slice(zeros, 0, length);
    const WriteFlags none;
    CO_RETURN_IF_ERROR(co_await disk.Write(at, piece, none));
    at += length;
  }
  co_return absl::OkStatus();
}

Task<absl::Status> ExpandZeros(const Tool& tool, const Request& request) {
  absl::StatusOr<Source> source = co_await OpenSource(tool.loop, tool.opener, request.image);
  CO_RETURN_IF_ERROR(source.status());
  absl::Status status;
  const qcow2::Header& header = source->image->header();
  if (header.layout.version >= 3 && header.backing_file.has_value() && header.incompatible == 0 &&
      header.layout.refcount_order == 4) {
    status = co_await WriteZerosOut(*source->disk);
  }
  const absl::Status closed = co_await source->disk->Close();
  co_return status.ok() ? closed : status;
}

// The secret that the image's own options name.
std::string KeySecretOf(const SourceOptions& image) {
  absl::StatusOr<DriverOptions> options =
      image.image_opts ? DriverOptions::FromKeyValues(image.name) : OptionsFromName(image.name);
  if (!options.ok()) return "";
  return options->Take("encrypt.key-secret").value_or("");
}

// Each step opens the file anew: the one before may have changed what it stands on.
enum class Step { kUpgrade, kKeySlots, kWidth, kLazy, kDowngrade };

Task<absl::Status> RunStep(const Tool& tool, const Request& request, Step step) {
  absl::StatusOr<WholeFile> whole = co_await OpenWholeFile(tool.loop, tool.opener, request.image);
  CO_RETURN_IF_ERROR(whole.status());
  File& file = *whole->file;
  absl::Status status;
  if (step == Step::kUpgrade) {
    status = co_await qcow2::UpgradeToVersion3(tool.loop, file);
  } else if (step == Step::kKeySlots) {
    status = co_await ChangeKeySlots(tool.loop, file, *tool.secrets, *request.key_slots,
                                     KeySecretOf(request.image));
  } else if (step == Step::kWidth) {
    status = co_await qcow2::ChangeRefcountOrder(tool.loop, file, *request.refcount_order);
  } else if (step == Step::kLazy) {
    status = co_await qcow2::SetLazyRefcounts(tool.loop, file, *request.lazy_refcounts);
  } else {
    status = co_await qcow2::DowngradeToVersion2(tool.loop, file);
  }
  const absl::Status closed = co_await file.Close();
  co_return status.ok() ? closed : status;
}

Task<absl::Status> Perform(const Tool& tool, const Request& request,
                           std::map<std::string, std::string> options, Progress& progress) {
  absl::StatusOr<Source> source = co_await OpenSource(tool.loop, tool.opener, request.image);
  CO_RETURN_IF_ERROR(source.status());
  std::fputs(source->warning.c_str(), tool.err);
  CO_RETURN_IF_ERROR(co_await source->disk->Close());
  if (source->image == nullptr) {
    co_return absl::UnimplementedError(
        absl::StrFormat("Format driver '%s' does not support option amendment", source->driver));
  }
  Request wanted = request;
  CO_RETURN_IF_ERROR(TakeOptions(std::move(options), &wanted));
  progress.Set(0);
  // In qemu-img's order: up before all else, down after it.
  if (wanted.version == 3) CO_RETURN_IF_ERROR(co_await RunStep(tool, wanted, Step::kUpgrade));
  if (wanted.key_slots.has_value()) {
    CO_RETURN_IF_ERROR(co_await RunStep(tool, wanted, Step::kKeySlots));
  }
  if (wanted.refcount_order.has_value()) {
    CO_RETURN_IF_ERROR(co_await RunStep(tool, wanted, Step::kWidth));
  }
  if (wanted.lazy_refcounts.has_value()) {
    CO_RETURN_IF_ERROR(co_await RunStep(tool, wanted, Step::kLazy));
  }
  if (wanted.size.has_value()) {
    ResizeOptions resize = {.image = wanted.image, .shrink = true};
    CO_RETURN_IF_ERROR(
        co_await ResizeSource(tool.loop, tool.opener, *wanted.size, std::move(resize)));
  }
  if (wanted.version == 2) {
    CO_RETURN_IF_ERROR(co_await ExpandZeros(tool, wanted));
    CO_RETURN_IF_ERROR(co_await RunStep(tool, wanted, Step::kDowngrade));
  }
  co_return absl::OkStatus();
}

}  // namespace

int Amend(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'o', nullptr, true},
                                                                 {'f', nullptr, true},
                                                                 {'t', nullptr, true},
                                                                 {'p', nullptr, false},
                                                                 {'q', nullptr, false},
                                                                 {0, "object", true},
                                                                 {0, "image-opts", false},
                                                                 {0, "force", false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  if (!parsed->Has("o")) return tool.FailUsage("Must specify options (-o)");
  std::map<std::string, std::string> options;
  bool help = false;
  for (const auto& [option, text] : parsed->options) {
    if (option != "o") continue;
    if (text == "help" || text == "?") {
      help = true;
      continue;
    }
    const auto values = ParseKeyValues(text);
    if (!values.ok()) return tool.Fail("%s", std::string(values.status().message()));
    for (const auto& [key, value] : *values) options[key] = value;
  }
  const std::optional<std::string> format = parsed->Value("f");
  if (help && format.has_value()) {
    if (!ImageFormatFromName(*format).has_value()) {
      return tool.Fail("Unknown file format '%s'", *format);
    }
    if (*format != "qcow2") {
      return tool.Fail("Format driver '%s' does not support option amendment", *format);
    }
    tool.Print("%s", kHelp);
    return 0;
  }
  if (parsed->operands.size() != 1) return tool.Fail("Expecting one image file name");
  const std::string cache_name = parsed->Value("t").value_or("writeback");
  const std::optional<CacheMode> cache = ParseCacheMode(cache_name);
  if (!cache.has_value()) return tool.Fail("Invalid cache option: %s", cache_name);
  if (help) {
    tool.Print("%s", kHelp);
    return 0;
  }
  const Request request = {.image = {.name = parsed->operands[0],
                                     .format = format,
                                     .image_opts = parsed->Has("image-opts"),
                                     .read_only = false,
                                     .cache = *cache,
                                     .secrets = tool.secrets},
                           .force = parsed->Has("force")};
  const bool quiet = parsed->Has("q");
  Progress progress({.out = tool.out, .err = tool.err, .shown = parsed->Has("p") && !quiet});
  const absl::Status status =
      tool.loop.RunTask(Perform(tool, request, std::move(options), progress));
  if (!status.ok()) return tool.Fail("%s", std::string(status.message()));
  progress.Set(100);
  return 0;
}

}  // namespace vireo::img
