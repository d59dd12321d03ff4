// Commands that open, close and resize disks.

#include <cerrno>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "base/status.h"
#include "storage/io/commands.h"
#include "storage/io/words.h"

namespace vireo::io {
namespace {

// Of `open` and `reopen`. What stands there without "=" is a switch, which QEMU no longer likes.
absl::StatusOr<DriverOptions> ParseDriverOptions(Session& session, const std::string& text) {
  absl::StatusOr<DriverOptions> options = DriverOptions::FromKeyValues(text);
  if (!options.ok()) session.Error("%s", std::string(options.status().message()));
  if (options.ok() && !text.empty() && !absl::StrContains(text, '=')) {
    session.Error("warning: short-form boolean option '%s' deprecated", text);
    session.Complain(absl::StrFormat("Please use %s=on instead", text));
  }
  return options;
}

// The qcow2 driver's own: everything else is settled when a disk is opened.
bool MayChange(const std::string& key) {
  for (const char* known : {"lazy-refcounts", "cache-size", "l2-cache-size", "l2-cache-entry-size",
                            "refcount-cache-size", "cache-clean-interval", "pass-discard-request",
                            "pass-discard-snapshot", "pass-discard-other", "discard",
                            "detect-zeroes", "cache.direct", "cache.no-flush", "read-only"}) {
    if (key == known) return true;
  }
  return absl::StartsWith(key, "overlap-check");
}

}  // namespace

Result Open(Session& session, const Command& command, const std::vector<std::string>& words) {
  const absl::StatusOr<Options> options = Options::Parse(words, "snCro:ki:t:d:U");
  if (!options.ok()) return Misuse(session, command, options.status());
  OpenOptions open;
  for (const auto& [letter, value] : options->all()) {
    if (letter == 'n') open.cache.direct = true;
    if (letter == 't') {
      const std::optional<CacheMode> mode = ParseCacheMode(value);
      if (!mode.has_value()) {
        session.Error("Invalid cache option: %s", value);
        return Result::kFailed;
      }
      open.cache = *mode;
    }
    if (letter == 'd') {
      if (value != "ignore" && value != "off" && value != "unmap" && value != "on") {
        session.Error("Invalid discard option: %s", value);
        return Result::kFailed;
      }
      open.ignore_discards = value == "ignore" || value == "off";
    }
    if (letter == 'i' && value != "threads" && value != "native" && value != "io_uring") {
      session.Error("Invalid aio option: %s", value);
      return Result::kFailed;
    }
    if (letter == 'o') {
      if (session.image_opts()) {
        session.Print("--image-opts and 'open -o' are mutually exclusive\n");
        return Result::kFailed;
      }
      absl::StatusOr<DriverOptions> drivers = ParseDriverOptions(session, value);
      if (!drivers.ok()) return Result::kFailed;
      drivers->Inherit(open.options);
      open.options = *std::move(drivers);
    }
  }
  open.read_only = options->Has('r');
  open.temporary = options->Has('s');
  open.copy_on_read = options->Has('C');
  open.share = options->Has('U');
  if (options->operands().size() > 1) return Misuse(session, command);
  if (session.is_open()) {
    session.Error("file open already, try 'help close'");
    return Result::kFailed;
  }
  if (!options->operands().empty()) {
    if (session.image_opts()) {
      absl::StatusOr<DriverOptions> drivers = ParseDriverOptions(session, options->operands()[0]);
      if (!drivers.ok()) return Result::kFailed;
      open.options = *std::move(drivers);
    } else {
      open.name = options->operands()[0];
    }
  }
  return session.Open(std::move(open)) ? Result::kOk : Result::kFailed;
}

Result Close(Session& session, const Command& /*command*/,
             const std::vector<std::string>& /*words*/) {
  return session.Close().ok() ? Result::kOk : Result::kFailed;
}

Result Reopen(Session& session, const Command& command, const std::vector<std::string>& words) {
  const absl::StatusOr<Options> options = Options::Parse(words, "c:o:rw");
  if (!options.ok()) return Misuse(session, command, options.status());
  OpenOptions changed = session.open_options();
  DriverOptions drivers;
  bool access = false;
  bool cache = false;
  for (const auto& [letter, value] : options->all()) {
    if (letter == 'c') {
      const std::optional<CacheMode> mode = ParseCacheMode(value);
      if (!mode.has_value()) {
        session.Error("Invalid cache option: %s", value);
        return Result::kFailed;
      }
      changed.cache = *mode;
      cache = true;
    } else if (letter == 'o') {
      absl::StatusOr<DriverOptions> parsed = ParseDriverOptions(session, value);
      if (!parsed.ok()) return Result::kFailed;
      drivers = *std::move(parsed);
    } else {
      if (access) {
        session.Error("Only one -r/-w option may be given");
        return Result::kFailed;
      }
      access = true;
      changed.read_only = letter == 'r';
    }
  }
  if (!options->operands().empty()) return Misuse(session, command);
  if (access && drivers.Has("read-only")) {
    session.Error("Cannot set both -r/-w and 'read-only'");
    return Result::kFailed;
  }
  if (cache && (drivers.Has("cache.direct") || drivers.Has("cache.no-flush"))) {
    session.Error("Cannot set both -c and the cache options");
    return Result::kFailed;
  }
  for (const auto& [key, value] : drivers.values()) {
    if (MayChange(key)) continue;
    session.Error("Cannot change the option '%s'", key);
    return Result::kFailed;
  }
  if (changed.temporary) {
    session.Error("A disk with a temporary file cannot be opened anew");
    return Result::kFailed;
  }
  // Drivers that say how a disk is read are as good as anew: it is closed and opened again.
  drivers.Inherit(changed.options);
  changed.options = std::move(drivers);
  const absl::StatusOr<bool> read_only =
      DriverOptions(changed.options).TakeSwitch("read-only", changed.read_only);
  if (!read_only.ok()) {
    session.Error("%s", std::string(read_only.status().message()));
    return Result::kFailed;
  }
  changed.read_only = *read_only;
  changed.options.Take("read-only");
  const OpenOptions before = session.open_options();
  if (!session.Close().ok()) return Result::kFailed;
  if (session.Open(std::move(changed))) return Result::kOk;
  session.Open(before);
  return Result::kFailed;
}

Result Truncate(Session& session, const Command& command, const std::vector<std::string>& words) {
  const absl::StatusOr<Options> options = Options::Parse(words, "m:");
  if (!options.ok()) return Misuse(session, command, options.status());
  const std::string preallocation = options->Value('m').value_or("off");
  if (preallocation != "off" && preallocation != "metadata" && preallocation != "falloc" &&
      preallocation != "full") {
    session.Error("Invalid preallocation mode '%s'", preallocation);
    return Result::kFailed;
  }
  if (options->operands().empty()) return Misuse(session, command);
  const absl::StatusOr<int64_t> size = ParseNumber(options->operands()[0]);
  if (!size.ok()) {
    session.Print("%s\n", std::string(size.status().message()));
    return Result::kFailed;
  }
  const uint64_t wanted = static_cast<uint64_t>(*size);
  if (session.node().image != nullptr && wanted % 512 != 0) {
    session.Error("The new size must be a multiple of 512");
    return Result::kFailed;
  }
  if (preallocation != "off") {
    if (wanted < session.bytes().size()) {
      session.Error("Preallocation can't be used for shrinking an image");
    } else {
      session.Error("Unsupported preallocation mode: %s", preallocation);
    }
    return Result::kFailed;
  }
  const absl::Status status = session.loop().RunTask(
      session.disk().Resize(wanted % 512 == 0 ? wanted : wanted + 512 - wanted % 512));
  if (status.ok()) return Result::kOk;
  session.Error("%s", std::string(status.message()));
  return Result::kFailed;
}

}  // namespace vireo::io
