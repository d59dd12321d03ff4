#include "storage/img/image_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/iovecs.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/image_lock.h"
#include "storage/probe.h"

namespace vireo::img {
namespace {

// `status` of the opening of the file at `path`.
absl::Status FileError(const std::string& path, const absl::Status& status, bool read_only) {
  if (absl::IsAborted(status)) {
    return absl::AbortedError(
        absl::StrFormat("Failed to get %s\"write\" lock\nIs another process using the image [%s]?",
                        read_only ? "shared " : "", path));
  }
  const int error = StatusErrno(status);
  if (error == 0) return status;
  return absl::Status(status.code(),
                      absl::StrFormat("Could not open '%s': %s", path, std::strerror(error)));
}

Task<absl::StatusOr<std::string>> Probe(File& file) {
  std::array<uint8_t, kProbeBytes> head = {};
  const size_t length = std::min<uint64_t>(head.size(), file.size());
  const iovec part = ToIoVec(std::span<uint8_t>(head).first(length));
  CO_RETURN_IF_ERROR(co_await file.Read(0, IoVecs(&part, 1)));
  co_return std::string(ProbeFormat(std::span<const uint8_t>(head).first(length)));
}

// What stands for a file is options or a name with a protocol.
bool IsPlainPath(const SourceOptions& options) {
  if (options.image_opts) return false;
  for (const char* protocol : {"json:", "blkdebug:", "file:", "null-co:", "null-aio:"}) {
    if (absl::StartsWith(options.name, protocol)) return false;
  }
  return true;
}

}  // namespace

absl::Status CouldNotOpen(const std::string& name, const absl::Status& status) {
  std::string why(status.message());
  if (absl::StartsWith(why, absl::StrCat(name, ": "))) why.erase(0, name.size() + 2);
  if (absl::StartsWith(why, "not a QCOW2 image")) why = "Image is not in qcow2 format";
  return absl::Status(status.code(), absl::StrFormat("Could not open '%s': %s", name, why));
}

Task<absl::StatusOr<ImageFile>> OpenImageFile(EventLoop& loop, Opener& opener,
                                              SourceOptions options) {
  std::string path = options.name;
  std::string format = options.format.value_or("");
  if (options.share && !options.read_only) {
    co_return CouldNotOpen(
        options.name,
        absl::InvalidArgumentError("force-share=on can only be used with read-only images"));
  }
  if (!IsPlainPath(options)) {
    options.no_backing = true;
    CO_ASSIGN_OR_RETURN(const Source source, co_await OpenSource(loop, opener, options));
    CO_RETURN_IF_ERROR(co_await source.disk->Close());
    path = source.file_name;
    format = ImageFormatName(source.format);
  }
  if (!format.empty() && !ImageFormatFromName(format).has_value()) {
    co_return CouldNotOpen(
        options.name, absl::InvalidArgumentError(absl::StrCat("Unknown driver '", format, "'")));
  }
  LockMode lock = options.read_only ? LockMode::kShared : LockMode::kExclusive;
  if (options.share) lock = LockMode::kNone;
  HostFile::Options file_options = {.path = path,
                                    .read_only = options.read_only,
                                    .direct = options.cache.direct,
                                    .no_flush = options.cache.no_flush,
                                    .lock = lock};
  absl::StatusOr<std::unique_ptr<File>> file =
      co_await HostFile::Open(loop, opener, std::move(file_options));
  if (!file.ok()) {
    co_return CouldNotOpen(options.name, FileError(path, file.status(), options.read_only));
  }
  ImageFile image = {.file = *std::move(file)};
  absl::Status status;
  if (format.empty()) {
    const absl::StatusOr<std::string> probed = co_await Probe(*image.file);
    status = probed.status();
    if (probed.ok()) format = *probed;
  }
  const std::optional<ImageFormat> known = ImageFormatFromName(format);
  if (status.ok() && !known.has_value()) {
    status = absl::InvalidArgumentError(absl::StrCat("Unknown driver '", format, "'"));
  }
  if (!status.ok()) {
    const absl::Status closed = co_await image.file->Close();
    static_cast<void>(closed);
    co_return CouldNotOpen(options.name, status);
  }
  image.format = *known;
  co_return image;
}

}  // namespace vireo::img
