#include "storage/open_image.h"

#include <filesystem>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/qcow2/encryption.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/image.h"
#include "storage/raw_file.h"

namespace vireo {
namespace {

constexpr size_t kMaxLayers = 200;

struct Layer {
  std::unique_ptr<File> file;
  std::unique_ptr<File> data;  // Its data file.
  ImageFormat format;
  qcow2::Header header;  // Of a QCOW2 layer.
};

struct BackingName {
  std::string path;
  ImageFormat format;
};

// "scheme:" before any slash: no local path for anyone who opens such images.
bool HasScheme(absl::string_view name) {
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == ':') return i > 0;
    if (!absl::ascii_isalnum(name[i]) && name[i] != '+' && name[i] != '-' && name[i] != '.' &&
        name[i] != '_' && name[i] != '=') {
      return false;
    }
  }
  return false;
}

absl::StatusOr<BackingName> FindBacking(const std::string& image_path, const qcow2::Header& header,
                                        const ImageOptions& options) {
  ASSIGN_OR_RETURN(std::string path, BackingFilePath(image_path, *header.backing_file));
  if (!header.backing_format.empty()) {
    const std::optional<ImageFormat> format = ImageFormatFromName(header.backing_format);
    if (!format.has_value()) {
      return absl::UnimplementedError(
          absl::StrFormat("%s: its backing file has the format \"%s\", which is not supported",
                          image_path, absl::CHexEscape(header.backing_format)));
    }
    return BackingName{std::move(path), *format};
  }
  if (!options.backing_format.has_value()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: the image does not state the format of its backing file %s, and it is not guessed",
        image_path, path));
  }
  return BackingName{std::move(path), *options.backing_format};
}

// Which data file the image at `image_path` gets.
absl::StatusOr<std::string> FindDataFile(const std::string& image_path, const qcow2::Header& header,
                                         const ImageOptions& options, bool top) {
  if (top && options.data_file.has_value()) return *options.data_file;
  if (!header.data_file.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: 'data-file' is required for this image", image_path));
  }
  if (!options.named_data_files) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the image wants the data file \"%s\", which nobody allowed",
                        image_path, absl::CHexEscape(*header.data_file)));
  }
  return DataFilePath(image_path, *header.data_file);
}

}  // namespace

std::optional<ImageFormat> ImageFormatFromName(absl::string_view name) {
  if (name == "raw") return ImageFormat::kRaw;
  if (name == "qcow2") return ImageFormat::kQcow2;
  return std::nullopt;
}

const char* ImageFormatName(ImageFormat format) {
  return format == ImageFormat::kQcow2 ? "qcow2" : "raw";
}

absl::StatusOr<std::string> DataFilePath(absl::string_view image_path, absl::string_view name) {
  const std::string image(image_path);
  if (name.empty() || HasScheme(name) || name.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: its data file \"%s\" is no local path",
                                                      image, absl::CHexEscape(name)));
  }
  const auto normal = [](const std::filesystem::path& path) {
    std::error_code error;  // Without a current directory a relative path stays what it is.
    const std::filesystem::path absolute = std::filesystem::absolute(path, error);
    return (error ? path : absolute).lexically_normal();
  };
  const std::filesystem::path directory = normal(std::filesystem::path(image)).parent_path();
  const std::filesystem::path path =
      std::filesystem::path(image).parent_path() / std::filesystem::path(std::string(name));
  const std::filesystem::path below = normal(path).lexically_relative(directory);
  if (DescriptorInPath(image).has_value() || below.empty() || *below.begin() == "..") {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: its data file \"%s\" is not in the image's directory; state it to use it", image,
        absl::CHexEscape(name)));
  }
  return path.string();
}

absl::StatusOr<std::string> BackingFilePath(absl::string_view image_path, absl::string_view name) {
  const std::string image(image_path);
  if (name.empty() || HasScheme(name)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: its backing file \"%s\" is no local path", image, absl::CHexEscape(name)));
  }
  if (name[0] == '/') return std::string(name);
  if (DescriptorInPath(image).has_value()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: its backing file \"%s\" is relative to a directory that a descriptor does not have",
        image, absl::CHexEscape(name)));
  }
  const size_t slash = image.rfind('/');
  if (slash == std::string::npos) return std::string(name);
  return absl::StrCat(image.substr(0, slash + 1), name);
}

Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> OpenImage(EventLoop& loop, Opener& opener,
                                                              ImageOptions options) {
  std::vector<Layer> layers;
  std::set<FileIdentity> seen;
  BackingName next = {options.path, options.format};
  while (true) {
    const bool top = layers.empty();
    const bool read_only = options.read_only || !top;
    HostFile::Options file_options = {.path = next.path,
                                      .read_only = read_only,
                                      .direct = options.direct,
                                      .no_flush = options.no_flush,
                                      .lock = !options.lock ? LockMode::kNone
                                              : read_only   ? LockMode::kShared
                                                            : LockMode::kExclusive};
    const HostFile::Options plain = file_options;
    absl::StatusOr<std::unique_ptr<File>> file =
        co_await HostFile::Open(loop, opener, std::move(file_options));
    if (!file.ok() && !top) {
      co_return Annotate(file.status(),
                         absl::StrCat(layers.back().file->name(), ": its backing file"));
    }
    CO_RETURN_IF_ERROR(file.status());
    layers.push_back({.file = *std::move(file), .format = next.format});
    Layer& layer = layers.back();
    if (!seen.insert(layer.file->identity()).second) {
      co_return absl::DataLossError(absl::StrFormat("%s: its chain of backing files returns to %s",
                                                    options.path, layer.file->name()));
    }
    if (layer.format == ImageFormat::kRaw) break;
    const qcow2::Access access = read_only ? qcow2::Access::kReadOnly : qcow2::Access::kReadWrite;
    absl::StatusOr<qcow2::Header> header = co_await qcow2::ReadHeader(*layer.file, access);
    CO_RETURN_IF_ERROR(header.status());
    layer.header = *std::move(header);
    if (layer.header.layout.external_data) {
      file_options = plain;
      CO_ASSIGN_OR_RETURN(file_options.path, FindDataFile(next.path, layer.header, options, top));
      absl::StatusOr<std::unique_ptr<File>> data =
          co_await HostFile::Open(loop, opener, std::move(file_options));
      if (!data.ok()) {
        co_return Annotate(data.status(), absl::StrCat(layer.file->name(), ": its data file"));
      }
      if (!seen.insert((*data)->identity()).second) {
        co_return absl::DataLossError(
            absl::StrFormat("%s: its data file is part of its own chain", layer.file->name()));
      }
      layer.data = *std::move(data);
    } else if (top && options.data_file.has_value()) {
      co_return absl::InvalidArgumentError(absl::StrFormat(
          "%s: 'data-file' can only be set for images with an external data file", next.path));
    }
    if (options.no_backing || !layer.header.backing_file.has_value()) break;
    if (layers.size() == kMaxLayers) {
      co_return absl::InvalidArgumentError(absl::StrFormat(
          "%s: its chain of backing files is longer than %d", options.path, kMaxLayers));
    }
    CO_ASSIGN_OR_RETURN(next, FindBacking(next.path, layer.header, options));
  }

  if (options.passphrase != nullptr && !layers.front().header.encryption.has_value()) {
    co_return absl::InvalidArgumentError(
        absl::StrCat(options.path, ": the image is not encrypted, but a passphrase was given"));
  }
  const auto budget = std::make_shared<qcow2::CacheBudget>(options.cache_bytes);
  std::unique_ptr<BlockBackend> disk;
  while (!layers.empty()) {
    Layer layer = std::move(layers.back());
    layers.pop_back();
    const bool read_only = options.read_only || !layers.empty();
    if (layer.format == ImageFormat::kRaw) {
      disk = std::make_unique<RawFile>(std::move(layer.file),
                                       RawFile::Options{.read_only = read_only});
      continue;
    }
    qcow2::Image::Options image_options = {.read_only = read_only, .cache_budget = budget};
    if (layer.header.encryption.has_value() && options.passphrase == nullptr) {
      co_return absl::UnauthenticatedError(
          absl::StrCat(layer.file->name(), ": the image is encrypted, and there is no passphrase"));
    }
    auto opening_data = qcow2::OpenGuestData(loop, *layer.file, layer.header, std::move(layer.data),
                                             options.passphrase);
    absl::StatusOr<std::unique_ptr<File>> data = co_await std::move(opening_data);
    CO_RETURN_IF_ERROR(data.status());
    qcow2::Image::Parts parts = {
        .file = std::move(layer.file), .data = *std::move(data), .backing = std::move(disk)};
    absl::StatusOr<std::unique_ptr<BlockBackend>> image =
        co_await qcow2::Image::Open(loop, std::move(layer.header), std::move(parts), image_options);
    CO_RETURN_IF_ERROR(image.status());
    disk = *std::move(image);
  }
  co_return disk;
}

Task<absl::StatusOr<FileIdentity>> IdentifyFile(EventLoop& loop, Opener& opener, std::string path) {
  HostFile::Options options = {.path = std::move(path), .read_only = true};
  absl::StatusOr<std::unique_ptr<File>> file =
      co_await HostFile::Open(loop, opener, std::move(options));
  CO_RETURN_IF_ERROR(file.status());
  const FileIdentity identity = (*file)->identity();
  co_return identity;
}

}  // namespace vireo
