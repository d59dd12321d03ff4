// vireo-img create: an empty image, or a linked clone of another.

#include "storage/qcow2/create.h"

#include <bit>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/buffer_pool.h"
#include "storage/host_file.h"
#include "storage/img/arguments.h"
#include "storage/img/size.h"
#include "storage/img/tool.h"
#include "storage/open_image.h"

namespace vireo::img {
namespace {

constexpr char kQcow2Options[] =
    "Supported qcow2 options:\n"
    "  backing_file=<str>     - File name of a base image\n"
    "  backing_fmt=<str>      - Image format of the base image\n"
    "  cluster_size=<size>    - qcow2 cluster size\n"
    "  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])\n"
    "  compression_type=<str> - Compression method used for image cluster compression\n"
    "  extended_l2=<bool (on/off)> - Extended L2 tables (only off is supported yet)\n"
    "  lazy_refcounts=<bool (on/off)> - Postpone refcount updates\n"
    "  preallocation=<str>    - Preallocation mode (only off is supported yet)\n"
    "  refcount_bits=<num>    - Width of a reference count entry in bits\n"
    "  size=<size>            - Virtual disk size\n";
constexpr char kRawOptions[] =
    "Supported raw options:\n"
    "  preallocation=<str>    - Preallocation mode (allowed values: off, falloc, full)\n"
    "  size=<size>            - Virtual disk size\n";

constexpr char kBadSize[] =
    "Invalid image size specified. You may use k, M, G, T, P or E suffixes for";
constexpr char kBadSize2[] = "kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.";

// What the command line asks for.
struct Request {
  std::string path;
  ImageFormat format = ImageFormat::kRaw;
  std::map<std::string, std::string> options;  // What is left of them is unknown.
  std::optional<uint64_t> size_bytes;
  qcow2::CreateOptions qcow2;
  std::string compat;         // As given.
  std::string preallocation;  // As given.
  bool open_backing = true;
};

absl::Status Unsupported(const std::string& key, const std::string& value) {
  return absl::UnimplementedError(absl::StrFormat("%s=%s is not supported yet", key, value));
}

std::optional<std::string> Take(Request& request, const std::string& key) {
  const auto found = request.options.find(key);
  if (found == request.options.end()) return std::nullopt;
  std::string value = std::move(found->second);
  request.options.erase(found);
  return value;
}

absl::Status TakeQcow2Options(Request& request) {
  qcow2::CreateOptions& wanted = request.qcow2;
  if (const auto value = Take(request, "backing_file")) wanted.backing_file = *value;
  if (const auto value = Take(request, "backing_fmt")) wanted.backing_format = *value;
  if (const auto value = Take(request, "cluster_size")) {
    const std::optional<uint64_t> bytes = ParseSize(*value);
    if (!bytes.has_value() || !std::has_single_bit(*bytes) || *bytes < 512 || *bytes > (2 << 20)) {
      return absl::InvalidArgumentError(
          "Cluster size must be a power of two between 512 and 2048k");
    }
    wanted.cluster_bits = static_cast<uint32_t>(std::countr_zero(*bytes));
  }
  if (const auto value = Take(request, "compat")) {
    request.compat = *value;
    if (*value == "0.10" || *value == "v2") {
      wanted.version = 2;
    } else if (*value != "1.1" && *value != "v3") {
      return absl::InvalidArgumentError(absl::StrFormat("Invalid parameter '%s'", *value));
    }
  }
  if (const auto value = Take(request, "compression_type")) {
    if (*value != "zlib" && *value != "zstd") {
      return absl::InvalidArgumentError(absl::StrFormat("Invalid parameter '%s'", *value));
    }
    wanted.zstd = *value == "zstd";
  }
  if (const auto value = Take(request, "extended_l2")) {
    ASSIGN_OR_RETURN(const bool on, ParseSwitch("extended_l2", *value));
    if (on) return Unsupported("extended_l2", *value);
  }
  if (const auto value = Take(request, "lazy_refcounts")) {
    ASSIGN_OR_RETURN(wanted.lazy_refcounts, ParseSwitch("lazy_refcounts", *value));
  }
  if (const auto value = Take(request, "refcount_bits")) {
    const std::optional<uint64_t> bits = ParseSize(*value);
    if (!bits.has_value() || !std::has_single_bit(*bits) || *bits > 64) {
      return absl::InvalidArgumentError(
          "Refcount width must be a power of two and may not exceed 64 bits");
    }
    wanted.refcount_order = static_cast<uint32_t>(std::countr_zero(*bits));
  }
  if (!request.preallocation.empty() && request.preallocation != "off") {
    return Unsupported("preallocation", request.preallocation);
  }
  for (const char* key : {"data_file", "data_file_raw", "encryption", "encrypt.format"}) {
    if (const auto value = Take(request, key)) return Unsupported(key, *value);
  }
  return absl::OkStatus();
}

absl::Status TakeOptions(Request& request) {
  if (const auto value = Take(request, "size")) {
    request.size_bytes = ParseSize(*value);
    if (!request.size_bytes.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("Parameter 'size' expects a non-negative number below 2^64"));
    }
  }
  if (const auto value = Take(request, "preallocation")) {
    request.preallocation = *value;
    if (*value != "off" && *value != "metadata" && *value != "falloc" && *value != "full") {
      return absl::InvalidArgumentError(absl::StrFormat("Invalid parameter '%s'", *value));
    }
    if (request.format == ImageFormat::kRaw && *value == "metadata") {
      return absl::InvalidArgumentError("Unsupported preallocation mode 'metadata'");
    }
  }
  if (request.format == ImageFormat::kQcow2) RETURN_IF_ERROR(TakeQcow2Options(request));
  if (!request.options.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("Invalid parameter '%s'", request.options.begin()->first));
  }
  return absl::OkStatus();
}

// The size of the backing file's disk; all of its chain can be opened.
Task<absl::StatusOr<uint64_t>> BackingSize(EventLoop& loop, Opener& opener, std::string path,
                                           ImageFormat format) {
  ImageOptions options = {.path = std::move(path), .format = format, .read_only = true};
  absl::StatusOr<std::unique_ptr<BlockBackend>> disk =
      co_await OpenImage(loop, opener, std::move(options));
  CO_RETURN_IF_ERROR(disk.status());
  const uint64_t size = (*disk)->geometry().size_bytes;
  CO_RETURN_IF_ERROR(co_await (*disk)->Close());
  co_return size;
}

Task<absl::Status> Fill(File& file, const Request& request) {
  if (request.format == ImageFormat::kQcow2) {
    const absl::Status status = co_await qcow2::CreateImage(file, request.qcow2);
    co_return status;
  }
  const uint64_t size = AlignUp<uint64_t>(*request.size_bytes, 512);
  if (!file.traits().growable) {
    if (size <= file.size()) co_return absl::OkStatus();
    co_return absl::ResourceExhaustedError(
        absl::StrFormat("%s: the device has %d bytes, not %d", file.name(), file.size(), size));
  }
  CO_RETURN_IF_ERROR(co_await file.Truncate(0));
  if (request.preallocation.empty() || request.preallocation == "off") {
    CO_RETURN_IF_ERROR(co_await file.Truncate(size));
  } else {
    CO_RETURN_IF_ERROR(co_await file.Extend(size));
  }
  std::vector<iovec> zeros;
  AppendZeros(1 << 20, zeros);
  for (uint64_t at = 0; request.preallocation == "full" && at < size; at += 1 << 20) {
    const IoVecList piece = Slice(zeros, 0, std::min<uint64_t>(1 << 20, size - at));
    CO_RETURN_IF_ERROR(co_await file.Write(at, piece));
  }
  const absl::Status status = co_await file.Sync();
  co_return status;
}

Task<absl::Status> Make(EventLoop& loop, Opener& opener, const Request& request) {
  HostFile::Options options = {.path = request.path, .create = true, .lock = LockMode::kExclusive};
  absl::StatusOr<std::unique_ptr<File>> file =
      co_await HostFile::Open(loop, opener, std::move(options));
  CO_RETURN_IF_ERROR(file.status());
  const absl::Status filled = co_await Fill(**file, request);
  const absl::Status closed = co_await (*file)->Close();
  co_return filled.ok() ? closed : filled;
}

std::string Describe(const Request& request, uint64_t size_as_given) {
  std::string text =
      absl::StrFormat("Formatting '%s', fmt=%s", request.path, ImageFormatName(request.format));
  if (request.format == ImageFormat::kRaw) {
    absl::StrAppend(&text, " size=", size_as_given);
    if (!request.preallocation.empty()) {
      absl::StrAppend(&text, " preallocation=", request.preallocation);
    }
    return text;
  }
  const qcow2::CreateOptions& wanted = request.qcow2;
  absl::StrAppend(&text, " cluster_size=", uint64_t{1} << wanted.cluster_bits, " extended_l2=off");
  if (!request.preallocation.empty()) {
    absl::StrAppend(&text, " preallocation=", request.preallocation);
  }
  absl::StrAppend(&text, " compression_type=", wanted.zstd ? "zstd" : "zlib",
                  " size=", size_as_given);
  if (wanted.backing_file.has_value()) {
    absl::StrAppend(&text, " backing_file=", *wanted.backing_file,
                    " backing_fmt=", wanted.backing_format);
  }
  if (!request.compat.empty()) absl::StrAppend(&text, " compat=", request.compat);
  absl::StrAppend(&text, " lazy_refcounts=", wanted.lazy_refcounts ? "on" : "off",
                  " refcount_bits=", 1 << wanted.refcount_order);
  return text;
}

}  // namespace

int Create(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'q', "quiet", false},
                                                                 {'f', nullptr, true},
                                                                 {'b', nullptr, true},
                                                                 {'F', nullptr, true},
                                                                 {'o', nullptr, true},
                                                                 {'u', nullptr, false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));

  Request request;
  const std::string format_name = parsed->Value("f").value_or("raw");
  const std::optional<ImageFormat> format = ImageFormatFromName(format_name);
  if (const auto text = parsed->Value("o");
      format.has_value() && text.has_value() && (*text == "help" || *text == "?")) {
    tool.Print("%s", *format == ImageFormat::kQcow2 ? kQcow2Options : kRawOptions);
    return 0;
  }
  if (parsed->operands.empty()) return tool.FailUsage("Expecting image file name");
  if (parsed->operands.size() > 2) {
    return tool.FailUsage("Unexpected argument: %s", parsed->operands[2]);
  }
  request.path = parsed->operands[0];
  if (!format.has_value()) {
    return tool.Fail("%s: Unknown file format '%s'", request.path, format_name);
  }
  request.format = *format;
  for (const auto& [option, text] : parsed->options) {
    if (option != "o") continue;
    const auto values = ParseKeyValues(text);
    if (!values.ok()) {
      return tool.Fail("%s: %s", request.path, std::string(values.status().message()));
    }
    for (const auto& [key, value] : *values) request.options[key] = value;
  }
  // As an option each of these may stand only once.
  if (const auto name = parsed->Value("b")) {
    if (request.format != ImageFormat::kQcow2) {
      return tool.Fail("%s: Backing file not supported for file format '%s'", request.path,
                       format_name);
    }
    request.options["backing_file"] = *name;
  }
  if (const auto name = parsed->Value("F")) request.options["backing_fmt"] = *name;
  if (parsed->operands.size() == 2) {
    request.size_bytes = ParseSize(parsed->operands[1]);
    if (!request.size_bytes.has_value()) {
      tool.Fail("%s", kBadSize);
      return tool.Fail("%s", kBadSize2);
    }
    request.options.erase("size");
  }
  if (const absl::Status taken = TakeOptions(request); !taken.ok()) {
    return tool.Fail("%s: %s", request.path, std::string(taken.message()));
  }

  if (request.qcow2.backing_file.has_value()) {
    const std::string& name = *request.qcow2.backing_file;
    if (request.qcow2.backing_format.empty()) {
      return tool.Fail("%s: Backing file specified without backing format", request.path);
    }
    const std::optional<ImageFormat> backing_format =
        ImageFormatFromName(request.qcow2.backing_format);
    if (!backing_format.has_value()) {
      return tool.Fail("%s: Unknown backing file format '%s'", request.path,
                       request.qcow2.backing_format);
    }
    const absl::StatusOr<std::string> path = BackingFilePath(request.path, name);
    if (!path.ok()) return tool.Fail("%s", std::string(path.status().message()));
    if (*path == request.path) {
      return tool.Fail(
          "%s: Error: Trying to create an image with the same filename as the backing "
          "file",
          request.path);
    }
    if (!parsed->Has("u")) {
      const absl::StatusOr<uint64_t> size =
          tool.loop.RunTask(BackingSize(tool.loop, tool.opener, *path, *backing_format));
      if (!size.ok()) {
        return tool.Fail("%s: Could not open backing image '%s': %s", request.path, name,
                         std::string(size.status().message()));
      }
      if (!request.size_bytes.has_value()) request.size_bytes = *size;
    }
  }
  if (!request.size_bytes.has_value()) {
    return tool.Fail("%s: Image creation needs a size parameter", request.path);
  }
  request.qcow2.size_bytes = *request.size_bytes;
  if (request.format == ImageFormat::kQcow2) {
    if (const absl::Status valid = qcow2::ValidateCreateOptions(request.qcow2); !valid.ok()) {
      return tool.Fail("%s: %s", request.path, std::string(valid.message()));
    }
  }
  if (!parsed->Has("q")) tool.Print("%s\n", Describe(request, *request.size_bytes));
  const absl::Status made = tool.loop.RunTask(Make(tool.loop, tool.opener, request));
  if (!made.ok()) return tool.Fail("%s", std::string(made.message()));
  return 0;
}

}  // namespace vireo::img
