#include "storage/img/source.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/iovecs.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/writethrough.h"

namespace vireo::img {
namespace {

// What the first bytes of a file say, for a person who did not: never for anything that a guest
// could have written without its owner's asking.
constexpr size_t kProbeBytes = 512;

struct Signature {
  size_t offset;
  absl::string_view bytes;
  const char* format;
};

constexpr std::array<Signature, 12> kSignatures = {{
    {0, absl::string_view("QFI\xfb\0\0\0\1", 8), "qcow"},
    {0, absl::string_view("QFI\xfb", 4), "qcow2"},
    {0, absl::string_view("QED\0", 4), "qed"},
    {0, absl::string_view("KDMV", 4), "vmdk"},
    {0, absl::string_view("COWD", 4), "vmdk"},
    {0, absl::string_view("# Disk DescriptorFile", 21), "vmdk"},
    {0x40, absl::string_view("\x7f\x10\xda\xbe", 4), "vdi"},
    {0, absl::string_view("vhdxfile", 8), "vhdx"},
    {0, absl::string_view("conectix", 8), "vpc"},
    {0, absl::string_view("LUKS\xba\xbe", 6), "luks"},
    {0, absl::string_view("WithoutFreeSpace", 16), "parallels"},
    {0, absl::string_view("WithouFreSpacExt", 16), "parallels"},
}};

const char* ProbedFormat(std::span<const uint8_t> head) {
  const absl::string_view bytes(reinterpret_cast<const char*>(head.data()), head.size());
  for (const Signature& signature : kSignatures) {
    if (bytes.size() < signature.offset) continue;
    if (absl::StartsWith(bytes.substr(signature.offset), signature.bytes)) return signature.format;
  }
  return "raw";
}

absl::Status CouldNotOpen(const std::string& name, const absl::Status& status) {
  std::string why(status.message());
  const char* const error = std::strerror(StatusErrno(status));
  if (why == absl::StrCat(name, ": ", error)) {
    why = absl::StrFormat("Could not open '%s': %s", name, error);
  } else if (absl::StartsWith(why, absl::StrCat(name, ": "))) {
    why.erase(0, name.size() + 2);
  }
  return absl::Status(status.code(), absl::StrFormat("Could not open '%s': %s", name, why));
}

Task<absl::StatusOr<std::string>> Probe(EventLoop& loop, Opener& opener, std::string path,
                                        LockMode lock) {
  HostFile::Options options = {.path = std::move(path), .read_only = true, .lock = lock};
  absl::StatusOr<std::unique_ptr<File>> file =
      co_await HostFile::Open(loop, opener, std::move(options));
  CO_RETURN_IF_ERROR(file.status());
  std::array<uint8_t, kProbeBytes> head = {};
  const size_t length = std::min<uint64_t>(head.size(), (*file)->size());
  const iovec part = ToIoVec(std::span<uint8_t>(head).first(length));
  const absl::Status read = co_await (*file)->Read(0, IoVecs(&part, 1));
  const absl::Status closed = co_await (*file)->Close();
  CO_RETURN_IF_ERROR(read);
  CO_RETURN_IF_ERROR(closed);
  co_return std::string(ProbedFormat(std::span<const uint8_t>(head).first(length)));
}

}  // namespace

std::optional<CacheMode> ParseCacheMode(const std::string& name) {
  if (name == "none" || name == "off") return CacheMode{.direct = true};
  if (name == "directsync") return CacheMode{.direct = true, .writethrough = true};
  if (name == "writeback") return CacheMode{};
  if (name == "unsafe") return CacheMode{.no_flush = true};
  if (name == "writethrough") return CacheMode{.writethrough = true};
  return std::nullopt;
}

Task<absl::StatusOr<Source>> OpenSource(EventLoop& loop, Opener& opener, SourceOptions options) {
  if (options.image_opts) {
    co_return CouldNotOpen(options.name,
                           absl::UnimplementedError("--image-opts is not supported yet"));
  }
  std::string format_name;
  if (options.format.has_value()) {
    format_name = *options.format;
  } else {
    const absl::StatusOr<std::string> probed =
        co_await Probe(loop, opener, options.name, LockMode::kNone);
    if (!probed.ok()) co_return CouldNotOpen(options.name, probed.status());
    format_name = *probed;
  }
  const std::optional<ImageFormat> format = ImageFormatFromName(format_name);
  if (!format.has_value()) {
    co_return CouldNotOpen(options.name, absl::UnimplementedError(
                                             absl::StrFormat("Unknown driver '%s'", format_name)));
  }
  Source source = {.name = options.name, .format = *format};
  ImageOptions image_options = {.path = options.name,
                                .format = *format,
                                .read_only = options.read_only,
                                .direct = options.cache.direct,
                                .no_flush = options.cache.no_flush,
                                .no_backing = options.no_backing,
                                .lock = !options.share};
  absl::StatusOr<std::unique_ptr<BlockBackend>> disk =
      co_await OpenImage(loop, opener, std::move(image_options));
  if (!disk.ok()) co_return CouldNotOpen(options.name, disk.status());
  source.disk = *std::move(disk);
  if (*format == ImageFormat::kQcow2) source.image = static_cast<qcow2::Image*>(source.disk.get());
  if (options.cache.writethrough) {
    source.disk = std::make_unique<Writethrough>(std::move(source.disk));
  }
  co_return source;
}

}  // namespace vireo::img
