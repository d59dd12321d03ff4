#include "storage/img/source.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/driver_options.h"

namespace vireo::img {
namespace {

absl::Status CouldNotOpen(const std::string& name, const absl::Status& status) {
  std::string why(status.message());
  if (absl::StartsWith(why, absl::StrCat(name, ": "))) why.erase(0, name.size() + 2);
  return absl::Status(status.code(), absl::StrFormat("Could not open '%s': %s", name, why));
}

}  // namespace

absl::StatusOr<DriverOptions> DriversOf(const SourceOptions& options) {
  if (options.drivers.has_value()) return *options.drivers;
  if (!options.image_opts) {
    ASSIGN_OR_RETURN(DriverOptions named, OptionsFromName(options.name));
    // What a name in JSON says about its driver gives way.
    if (options.format.has_value()) {
      if (IsProtocolDriver(*options.format) && !named.Has("driver")) {
        named = named.TakeBelow("file");
      }
      named.Set("driver", *options.format);
    }
    return named;
  }
  if (!options.name.empty() && !absl::StrContains(options.name, '=')) {
    return absl::NotFoundError(
        absl::StrFormat("Cannot find device='%s' nor node-name='%s'", options.name, options.name));
  }
  return DriverOptions::FromKeyValues(options.name);
}

std::optional<CacheMode> ParseCacheMode(const std::string& name) {
  if (name == "none" || name == "off") return CacheMode{.direct = true};
  if (name == "directsync") return CacheMode{.direct = true, .writethrough = true};
  if (name == "writeback") return CacheMode{};
  if (name == "unsafe") return CacheMode{.no_flush = true};
  if (name == "writethrough") return CacheMode{.writethrough = true};
  return std::nullopt;
}

Task<absl::StatusOr<Source>> OpenSource(EventLoop& loop, Opener& opener, SourceOptions options) {
  const std::string name = options.name;
  if (options.share && !options.read_only) {
    co_return CouldNotOpen(
        name, absl::InvalidArgumentError("force-share=on can only be used with read-only images"));
  }
  absl::StatusOr<DriverOptions> drivers = DriversOf(options);
  if (!drivers.ok()) co_return CouldNotOpen(name, drivers.status());
  if (options.key_secret.has_value()) drivers->Set("encrypt.key-secret", *options.key_secret);
  NodeSettings settings = {.read_only = options.read_only,
                           .direct = options.cache.direct,
                           .no_flush = options.cache.no_flush,
                           .writethrough = options.cache.writethrough,
                           .share = options.share,
                           .no_backing = options.no_backing,
                           .snapshot = options.snapshot,
                           .secrets = options.secrets};
  absl::StatusOr<BlockNode> node =
      co_await OpenNode(loop, opener, *std::move(drivers), std::move(settings));
  if (absl::StartsWith(node.status().message(), kSnapshotFailed)) co_return node.status();
  if (!node.ok()) co_return CouldNotOpen(name, node.status());
  Source source = {.name = name,
                   .driver = std::move(node->driver),
                   .format = node->format,
                   .file_name = std::move(node->file_name),
                   .disk = std::move(node->disk),
                   .image = node->image};
  if (node->probed && node->format == ImageFormat::kRaw && !options.read_only) {
    source.warning = absl::StrFormat(
        "WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
        "         Automatically detecting the format is dangerous for raw images, write "
        "operations on block 0 will be restricted.\n"
        "         Specify the 'raw' format explicitly to remove the restrictions.\n",
        source.file_name);
  }
  co_return source;
}

}  // namespace vireo::img
