#include "cmd/ctl_flags.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "cmd/flag_scanner.h"
#include "cmd/flag_values.h"
#include "cmd/throttle_flags.h"

namespace vireo {
namespace {

using Kind = FlagSpec::Kind;

constexpr char kHelp[] =
    R"(vireoctl: what can be asked of a running vireo process.

usage: vireoctl [--api ADDRESS] [--json] [--timeout T] VERB [flags]

  --api ADDRESS     unix:PATH, or fd:N, a connected socket (default: $VIREO_API)
  --json            print the API's answer as JSON, one message a line for streams
  --timeout T       500ms, 90s, 2m: how long to wait for the answer (default 60s), or in all
                    with --wait and --until (default: for ever)

Verbs
  info              state, configuration and devices
  stats             counters of vCPUs, disks and network cards
  create --config FILE
                    make the machine described in FILE, the JSON form of VmConfig (fd:0: standard
                    input); its relative paths are relative to where vireo was started
  boot              start the guest
  pause             stop the vCPUs and drain the devices
  resume            go on
  shutdown [--wait] press the ACPI power button; --wait: until the machine has stopped
  reset             as the reset button
  stop [--wait]     end the machine at once, and its process
  events [--after N] [--until STATE]
                    what happened and happens, from the oldest event kept (or after number N) until
                    the machine is gone, or is in STATE: created, running, paused or stopped
  console [--escape KEY] [--until TEXT] [--until-eof]
                    the serial console: what was kept of its output, then all that follows, while
                    standard input is typed. On a terminal KEY detaches (default ^], that is Ctrl-];
                    none: never). Ends with the machine; --until: as soon as TEXT is in the output,
                    what was kept of it included; --until-eof: when standard input has ended and
                    the guest has taken all of it (else output goes on after that).
  throttle DISK [LIMIT=N,...]
                    new limits for a disk and those of its group, at once; the old ones are gone.
                    bps-total, bps-read, bps-write, iops-total, iops-read, iops-write; -max and
                    -max-length behind any of them; iops-size: as throttle.* of `vireo run --disk`
  insert CDROM FILE [--force]
                    put an ISO image into a CD/DVD drive, after what is in it was taken out
  eject CDROM [--force]
                    take it out; --force: even though the guest holds the tray, which is then told
                    afterwards (without, it is asked)
  version           of vireoctl, and of the vireo process if --api is given

  --operation-id ID with a verb that changes the machine: a repeat with the same ID is done once

Exit status: 0 done; 1 the request is wrong, or the VM refused it; 2 no VM answers there, the
connection broke, or time ran out.
)";

struct Verb {
  absl::string_view name;
  CtlVerb verb;
  std::vector<FlagSpec> flags;
  size_t most_operands = 0;
};

const std::vector<Verb>& Verbs() {
  static const auto& verbs = *new std::vector<Verb>{
      {"info", CtlVerb::kInfo, {}},
      {"stats", CtlVerb::kStats, {}},
      {"create", CtlVerb::kCreate, {{"--config"}, {"--operation-id"}}},
      {"boot", CtlVerb::kBoot, {{"--operation-id"}}},
      {"pause", CtlVerb::kPause, {{"--operation-id"}}},
      {"resume", CtlVerb::kResume, {{"--operation-id"}}},
      {"shutdown", CtlVerb::kShutdown, {{"--operation-id"}, {"--wait", Kind::kSwitch}}},
      {"reset", CtlVerb::kReset, {{"--operation-id"}}},
      {"stop", CtlVerb::kStop, {{"--operation-id"}, {"--wait", Kind::kSwitch}}},
      {"events", CtlVerb::kEvents, {{"--after"}, {"--until"}}},
      {"console", CtlVerb::kConsole, {{"--escape"}, {"--until"}, {"--until-eof", Kind::kSwitch}}},
      {"throttle", CtlVerb::kThrottle, {{"--operation-id"}}, 2},
      {"insert", CtlVerb::kInsert, {{"--operation-id"}, {"--force", Kind::kSwitch}}, 2},
      {"eject", CtlVerb::kEject, {{"--operation-id"}, {"--force", Kind::kSwitch}}, 1},
      {"version", CtlVerb::kVersion, {}}};
  return verbs;
}

std::vector<FlagSpec> CommonFlags() {
  return {{"--api"},
          {"--json", Kind::kSwitch},
          {"--timeout"},
          {"--help", Kind::kSwitch},
          {"-h", Kind::kSwitch},
          {"--version", Kind::kSwitch}};
}

// Flags may stand before the verb, so all of them are known at first.
std::vector<FlagSpec> AllFlags() {
  std::vector<FlagSpec> all = CommonFlags();
  for (const Verb& verb : Verbs()) {
    for (const FlagSpec& flag : verb.flags) {
      const bool there = std::any_of(all.begin(), all.end(), [&flag](const FlagSpec& known) {
        return known.name == flag.name;
      });
      if (!there) all.push_back(flag);
    }
  }
  return all;
}

absl::StatusOr<const Verb*> FindVerb(const ScannedArgs& args) {
  if (args.rest.empty()) {
    return absl::InvalidArgumentError("no verb; vireoctl --help lists them");
  }
  std::vector<absl::string_view> names;
  for (const Verb& verb : Verbs()) {
    if (verb.name == args.rest[0]) return &verb;
    names.push_back(verb.name);
  }
  return absl::InvalidArgumentError(absl::StrCat(args.rest[0], ": unknown verb",
                                                 DidYouMean(args.rest[0], names),
                                                 "; vireoctl --help lists them"));
}

absl::Status CheckFlagsOf(const Verb& verb, const ScannedArgs& args) {
  std::vector<FlagSpec> known = CommonFlags();
  known.insert(known.end(), verb.flags.begin(), verb.flags.end());
  for (const ScannedFlag& flag : args.flags) {
    const bool fits = std::any_of(known.begin(), known.end(),
                                  [&flag](const FlagSpec& spec) { return spec.name == flag.name; });
    if (!fits) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag.name, ": not for `vireoctl ", verb.name, "`"));
    }
  }
  const size_t most = 1 + verb.most_operands;
  if (args.rest.size() > most) {
    return absl::InvalidArgumentError(
        absl::StrCat(args.rest[most], ": not expected after `vireoctl ", verb.name, "`"));
  }
  return absl::OkStatus();
}

template <typename T, typename Slot, typename Parse>
absl::Status TakeFlag(const ScannedArgs& args, absl::string_view name, Slot* slot, Parse parse) {
  const std::string* const text = args.Find(name);
  if (text == nullptr) return absl::OkStatus();
  absl::StatusOr<T> value = parse(*text);
  if (!value.ok()) return Annotate(value.status(), std::string(name));
  *slot = *std::move(value);
  return absl::OkStatus();
}

absl::StatusOr<v1::VmState> ParseState(const std::string& text) {
  return ParseWord<v1::VmState>(text, {{"created", v1::CREATED},
                                       {"running", v1::RUNNING},
                                       {"paused", v1::PAUSED},
                                       {"stopped", v1::STOPPED}});
}

absl::Status ParseLimits(const std::string& text, DiskThrottle* throttle) {
  const std::vector<std::string> keys = ThrottleKeys("");
  ASSIGN_OR_RETURN(const auto values, ParseKeyValues(text, {keys.begin(), keys.end()}));
  RETURN_IF_ERROR(TakeThrottle(values, "", throttle));
  return ValidateThrottle(*throttle);
}

}  // namespace

absl::StatusOr<CtlCommand> ParseCtlArgs(const std::vector<std::string>& args,
                                        const std::string& api_default) {
  ASSIGN_OR_RETURN(const ScannedArgs scanned, ScanArgs(args, AllFlags()));
  if (scanned.Has("--help") || scanned.Has("-h") ||
      (!scanned.rest.empty() && scanned.rest[0] == "help")) {
    return PrintText{kHelp};
  }
  CtlOptions options;
  options.json = scanned.Has("--json");
  options.api = api_default;
  if (const std::string* const api = scanned.Find("--api")) options.api = *api;
  RETURN_IF_ERROR(
      TakeFlag<absl::Duration>(scanned, "--timeout", &options.timeout,
                               [](const std::string& text) { return ParseTimeLimit(text); }));
  if (scanned.Has("--version")) {
    options.verb = CtlVerb::kVersion;
    return options;
  }

  ASSIGN_OR_RETURN(const Verb* const verb, FindVerb(scanned));
  RETURN_IF_ERROR(CheckFlagsOf(*verb, scanned));
  options.verb = verb->verb;
  if (options.verb == CtlVerb::kThrottle) {
    if (scanned.rest.size() < 2) {
      return absl::InvalidArgumentError("throttle: no disk; `vireoctl throttle` needs its id");
    }
    options.disk = scanned.rest[1];
    if (scanned.rest.size() > 2) {
      const absl::Status taken = ParseLimits(scanned.rest[2], &options.throttle);
      if (!taken.ok()) return Annotate(taken, "throttle");
    }
  }
  if (options.verb == CtlVerb::kInsert || options.verb == CtlVerb::kEject) {
    const size_t needed = options.verb == CtlVerb::kInsert ? 3 : 2;
    if (scanned.rest.size() < needed) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: no %s; `vireoctl %s` needs %s", verb->name,
                          scanned.rest.size() < 2 ? "drive" : "image", verb->name,
                          needed == 3 ? "a drive's id and an ISO image" : "a drive's id"));
    }
    options.cdrom = scanned.rest[1];
    if (needed == 3) options.path = scanned.rest[2];
    if (needed == 3 && options.path.empty()) {
      return absl::InvalidArgumentError("insert: the name of the image is empty");
    }
  }
  options.force = scanned.Has("--force");
  options.wait = scanned.Has("--wait");
  options.until_eof = scanned.Has("--until-eof");
  if (const std::string* const id = scanned.Find("--operation-id")) options.operation_id = *id;
  if (const std::string* const path = scanned.Find("--config")) options.config_path = *path;
  RETURN_IF_ERROR(
      TakeFlag<uint64_t>(scanned, "--after", &options.after,
                         [](const std::string& text) { return ParseNumber(text, 0, UINT64_MAX); }));
  RETURN_IF_ERROR(TakeFlag<char>(scanned, "--escape", &options.escape_key,
                                 [](const std::string& text) { return ParseEscapeKey(text); }));
  if (options.verb == CtlVerb::kEvents) {
    RETURN_IF_ERROR(TakeFlag<v1::VmState>(scanned, "--until", &options.until_state, ParseState));
  } else if (const std::string* const text = scanned.Find("--until")) {
    if (text->empty()) return absl::InvalidArgumentError("--until: the text is empty");
    options.until_text = *text;
  }
  if (options.verb == CtlVerb::kConsole && options.json) {
    return absl::InvalidArgumentError("--json: not for `vireoctl console`");
  }
  if (options.verb == CtlVerb::kCreate && options.config_path.empty()) {
    return absl::InvalidArgumentError("--config: missing; `vireoctl create` needs --config FILE");
  }
  if (options.api.empty() && options.verb != CtlVerb::kVersion) {
    return absl::InvalidArgumentError("--api: missing; give --api unix:PATH or set VIREO_API");
  }
  return options;
}

}  // namespace vireo
