#include "storage/open_node.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/node_opener.h"
#include "storage/request_policy.h"

namespace vireo {
namespace {

constexpr std::array<const char*, 5> kProtocols = {"file", "host_device", "null-co", "null-aio",
                                                   "blkdebug"};
constexpr std::array<const char*, 2> kFormats = {"raw", "qcow2"};

}  // namespace

bool IsKnownDriver(const std::string& driver) {
  return IsProtocolDriver(driver) ||
         std::find(kFormats.begin(), kFormats.end(), driver) != kFormats.end();
}

absl::Status UnknownDriver(const std::string& driver) {
  return absl::UnimplementedError(absl::StrFormat("Unknown driver '%s'", driver));
}

absl::Status CheckAllTaken(const std::string& driver, const DriverOptions& options) {
  if (options.empty()) return absl::OkStatus();
  const std::string& key = options.FirstKey();
  if (IsProtocolDriver(driver)) {
    return Invalid(
        absl::StrFormat("Block protocol '%s' doesn't support the option '%s'", driver, key));
  }
  return Invalid(
      absl::StrFormat("Block format '%s' does not support the option '%s'", driver, key));
}

absl::Status TakeCommon(DriverOptions& options, NodeSettings* settings,
                        RequestPolicy::Options* policy) {
  options.Take("node-name");
  ASSIGN_OR_RETURN(settings->read_only, options.TakeSwitch("read-only", settings->read_only));
  ASSIGN_OR_RETURN(const bool automatic, options.TakeSwitch("auto-read-only", false));
  if (automatic) return absl::UnimplementedError("auto-read-only=on is not supported");
  ASSIGN_OR_RETURN(settings->direct, options.TakeSwitch("cache.direct", settings->direct));
  ASSIGN_OR_RETURN(settings->no_flush, options.TakeSwitch("cache.no-flush", settings->no_flush));
  ASSIGN_OR_RETURN(const bool share, options.TakeSwitch("force-share", settings->share));
  if (share && !settings->read_only) {
    return Invalid("force-share=on can only be used with read-only images");
  }
  settings->share = share;
  if (const std::optional<std::string> discard = options.Take("discard")) {
    if (*discard != "ignore" && *discard != "off" && *discard != "unmap" && *discard != "on") {
      return Invalid("Invalid discard option");
    }
    settings->ignore_discards = *discard == "ignore" || *discard == "off";
  }
  if (const std::optional<std::string> detect = options.Take("detect-zeroes")) {
    if (*detect == "off") {
      policy->detect_zeroes = RequestPolicy::Zeroes::kWrite;
    } else if (*detect == "on") {
      policy->detect_zeroes = RequestPolicy::Zeroes::kZero;
    } else if (*detect == "unmap") {
      if (settings->ignore_discards) {
        return Invalid(
            "setting detect-zeroes to unmap is not allowed without setting discard operation to "
            "unmap");
      }
      policy->detect_zeroes = RequestPolicy::Zeroes::kUnmap;
    } else {
      return Invalid(absl::StrCat("invalid parameter value: ", *detect));
    }
  }
  return absl::OkStatus();
}

bool IsProtocolDriver(const std::string& driver) {
  return std::find(kProtocols.begin(), kProtocols.end(), driver) != kProtocols.end();
}

absl::StatusOr<DriverOptions> OptionsFromName(const std::string& name) {
  if (absl::StartsWith(name, "json:")) return DriverOptions::FromJson(name.substr(5));
  DriverOptions options;
  const size_t colon = name.find(':');
  const bool scheme =
      colon != std::string::npos && colon < name.find('/') && !DescriptorInPath(name).has_value();
  if (!scheme) {
    options.Set("file.driver", "file");
    options.Set("file.filename", name);
    return options;
  }
  const std::string protocol = name.substr(0, colon);
  if (protocol == "file" || protocol == "host_device") {
    options.Set("file.driver", protocol);
    options.Set("file.filename", name.substr(colon + 1));
    return options;
  }
  if (protocol == "null-co" || protocol == "null-aio") {
    options.Set("file.driver", protocol);
    options.Set("file.filename", name);
    return options;
  }
  if (protocol == "blkdebug") {
    const size_t second = name.find(':', colon + 1);
    if (second == std::string::npos) {
      return Invalid("blkdebug requires both config file and image path");
    }
    ASSIGN_OR_RETURN(DriverOptions image, OptionsFromName(name.substr(second + 1)));
    DriverOptions below = image.TakeBelow("file");
    options.Set("file.driver", "blkdebug");
    options.Set("file.config", name.substr(colon + 1, second - colon - 1));
    for (const auto& [key, value] : below.values()) {
      options.Set(absl::StrCat("file.image.", key), value.value_or(""));
    }
    return options;
  }
  return absl::UnimplementedError(absl::StrFormat("Unknown protocol '%s'", protocol));
}

Task<absl::StatusOr<BlockNode>> OpenNode(EventLoop& loop, Opener& opener, DriverOptions options,
                                         NodeSettings settings) {
  NodeOpener node_opener(loop, opener);
  const bool writes = !settings.read_only;
  auto opening = node_opener.OpenDisk(std::move(options), std::move(settings), 0);
  absl::StatusOr<BlockNode> node = co_await std::move(opening);
  CO_RETURN_IF_ERROR(node.status());
  node->blkdebug = node_opener.blkdebug();
  if (writes && node->disk->geometry().read_only) {
    CO_RETURN_IF_ERROR(co_await node->disk->Close());
    co_return Invalid("Block node is read-only");
  }
  co_return node;
}

}  // namespace vireo
