#include "cmd/run_flags.h"

#include <map>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "api/config_convert.h"
#include "api/version.h"
#include "base/status.h"
#include "cmd/flag_scanner.h"
#include "cmd/flag_values.h"
#include "cmd/throttle_flags.h"

namespace vireo {
namespace {

using Values = std::map<std::string, std::string>;
using Kind = FlagSpec::Kind;

constexpr char kHelp[] =
    R"(Vireo: one virtual machine per process, straight on /dev/kvm.

usage: vireo run --kernel FILE [flags]     make a machine and start it in a kernel
       vireo run --firmware bios|uefi [flags]
                                           the same, and boot a disk
       vireo run --config FILE [flags]     the same, described in a file
       vireo serve --api ADDRESS [flags]   wait for Create and Boot over the API
       vireo --help | --version

The machine (values may carry K, M, G, T; a comma within a value is written twice)
  --kernel FILE          bzImage, or an uncompressed ELF kernel with a PVH entry
  --initrd FILE
  --cmdline TEXT         the kernel's command line
  --firmware bios|uefi|FILE
                         Debian's SeaBIOS or OVMF, or another image; boots a disk, or the kernel
                         (a bzImage) if one is named
  --firmware-vars FILE   keeps UEFI's variables; made if absent (default: gone with the process)
  --boot KEY=VALUE,...   how the firmware boots
      menu=TIME            offer its boot menu so long: 500ms, 5s (default: not at all)
      retry=TIME|off       try again when nothing could be booted (default: as the firmware likes)
  --firmware-log FILE    append the firmware's debugging output
  --smbios KEY=VALUE,... what the guest reads of its machine, with firmware: vendor=, product=,
                         version=, serial=, asset-tag=, at most 64 characters each
  --cpus N[,max=M][,model=MODEL]
                         vCPUs at boot, 1 to 64 (default 1); the most there may ever be
  --cpu MODEL[,+FEATURE][,-FEATURE]...
                         host (default), x86-64-v2 or x86-64-v3; features as in /proc/cpuinfo
  --memory SIZE[,max=SIZE][,backing=private|shared|hugepages]
                         from 32M up, in steps of 2M (default 256M, private)
  --disk KEY=VALUE,...   a virtio disk; may be repeated
      path=FILE            or fd:N
      format=raw|qcow2     required: a format is never guessed
      readonly=on|off      default off
      direct=on|off        O_DIRECT instead of the page cache; default off
      write-cache=on|off   off: each write is durable before it is reported; default on
      cache-size=SIZE      memory for a QCOW2 disk's metadata, at most: 1M to 4G; default 32M
      serial=TEXT          at most 20 bytes; default: the id
      bootindex=N          firmware tries lower ones first, CD/DVD drives among them (default: the
                           order of the flags, drives last)
      id=NAME              default disk0, disk1, ...
      slot=N               PCI slot 1 to 30; default: the next free one
      loop=NAME            the io loop that serves it; default: the common one
      key-file=FILE        holds, byte for byte, the passphrase of an encrypted image
      rerror=report|stop|ignore
                           what becomes of a read that the host fails; default report. stop: the
                           machine is paused with an event, and resume tries again
      werror=enospc|report|stop|ignore
                           of a write; default enospc: stop when the host is full, else report
      stall=report|pause|ignore
                           what becomes of the machine when the host does not answer; default
                           report: an event. pause: until it answers
      stall-after=SECONDS  how long without an answer that is; default 30
      legacy=on|off        drivers from before virtio 1.0 find it, too; default off
      throttle.bps-total=N, .bps-read, .bps-write, .iops-total, .iops-read, .iops-write
                           bytes or requests a second
      throttle.LIMIT-max=N, throttle.LIMIT-max-length=SECONDS
                           what a burst may reach, and for how long after a rest (default 1)
      throttle.iops-size=SIZE
                           a request counts once for each SIZE bytes
      throttle.group=NAME  disks of one name share the limits, stated alike for each
  --cdrom FILE|KEY=VALUE,...
                         a CD/DVD drive, on an AHCI controller; may be repeated, up to 6 times
      path=FILE            an ISO image, or fd:N; default: nothing is in
      bootindex=N          as a disk's
      id=NAME              default cdrom0, cdrom1, ...
      serial=TEXT          at most 20 bytes; default: the id
  --net KEY=VALUE,...    a virtio network card; may be repeated
      tap=NAME             interface to make, at most 15 bytes
      bridge=NAME          existing bridge that it joins
      fd=N                 an open tap instead of tap=
      mac=ADDRESS          six bytes, as 02:00:00:00:00:01; default: derived from the uuid
      mtu=N                68 to 65535; default: the bridge's, else 1500
      link=on|off          default on
      id=NAME, slot=N, loop=NAME, legacy=on|off
                           as for disks; default nic0, nic1, ...
      bootindex=N          as a disk's: firmware boots from the network (default: it does not). A
                           BIOS does so with iPXE, of Debian's package ipxe-qemu
  --console stdio|buffer|none|file:PATH
                         where the serial port goes besides the API (default buffer).
                         stdio: this terminal; Ctrl-] is an ACPI shutdown, a second one stops
  --console-history SIZE serial output kept for late readers, 4K to 16M (default 256K)
  --rng on|off           a virtio entropy device (default on)
  --on-crash reset|stop|pause
                         after a triple fault or a guest panic (default reset)
  --name TEXT            for people and logs (default: the uuid)
  --uuid UUID            default: made up
  --machine vireo-1      the guest-visible hardware
  --allow-dir DIRECTORY  files are opened beneath it only; may be repeated (default: anywhere)
  --shutdown-timeout T   how long the guest may take after SIGTERM: 500ms, 90s, 2m (default 90s)
  --config FILE          all of the above, as the JSON form of the API's VmConfig message

The process
  --api ADDRESS          serve the API on unix:PATH (mode 0600), or on fd:N, a listening socket
  --log-level debug|info|warning|error
                         what goes to stderr (default info)

Signals: SIGTERM, SIGINT and SIGHUP are an ACPI shutdown, which becomes a stop after the shutdown
timeout; a second signal stops the machine at once.

Exit status: 0 the guest powered off or was stopped on request; 1 bad input, said in one line;
2 the host failed or lacks something; 3 the guest crashed and --on-crash said stop.
)";

// Flags that describe the machine, and thus contradict --config.
const std::vector<FlagSpec>& MachineFlags() {
  static const auto& specs = *new std::vector<FlagSpec>{{"--kernel"},
                                                        {"--initrd"},
                                                        {"--cmdline"},
                                                        {"--firmware"},
                                                        {"--firmware-vars"},
                                                        {"--boot"},
                                                        {"--firmware-log"},
                                                        {"--smbios"},
                                                        {"--cpus"},
                                                        {"--cpu"},
                                                        {"--memory"},
                                                        {"--disk", Kind::kRepeatedValue},
                                                        {"--cdrom", Kind::kRepeatedValue},
                                                        {"--net", Kind::kRepeatedValue},
                                                        {"--console"},
                                                        {"--console-history"},
                                                        {"--rng"},
                                                        {"--on-crash"},
                                                        {"--name"},
                                                        {"--uuid"},
                                                        {"--machine"},
                                                        {"--allow-dir", Kind::kRepeatedValue},
                                                        {"--shutdown-timeout"}};
  return specs;
}

std::vector<FlagSpec> ProcessFlags() {
  return {{"--api"},
          {"--log-level"},
          {"--help", Kind::kSwitch},
          {"-h", Kind::kSwitch},
          {"--version", Kind::kSwitch}};
}

// ---- Single values: `slot` gets the value of `key`, when it is there ----

absl::Status Annotated(absl::string_view key, const absl::Status& status) {
  return Annotate(status, std::string(key));
}

void Take(const Values& values, const std::string& key, std::string* slot) {
  const auto found = values.find(key);
  if (found != values.end()) *slot = found->second;
}

template <typename T, typename Parse>
absl::Status TakeParsed(const Values& values, const std::string& key, T* slot, Parse parse) {
  const auto found = values.find(key);
  if (found == values.end()) return absl::OkStatus();
  auto parsed = parse(found->second);
  if (!parsed.ok()) return Annotated(key, parsed.status());
  *slot = *parsed;
  return absl::OkStatus();
}

absl::Status TakeSwitch(const Values& values, const std::string& key, bool* slot) {
  return TakeParsed(values, key, slot, [](const std::string& text) { return ParseOnOff(text); });
}

// The range is that of the field; what is right for a machine, Validate() knows.
template <typename T, typename Field>
absl::Status TakeNumber(const Values& values, const std::string& key, uint64_t most, Field* slot) {
  return TakeParsed(values, key, slot, [most](const std::string& text) -> absl::StatusOr<T> {
    ASSIGN_OR_RETURN(const uint64_t number, ParseNumber(text, 0, most));
    return static_cast<T>(number);
  });
}

// ---- One function for each flag that has parts ----

absl::Status ParseCpus(const std::string& text, VmConfig* config) {
  ASSIGN_OR_RETURN(const Values values, ParseKeyValues(text, {"boot", "max", "model"}, "boot"));
  RETURN_IF_ERROR(TakeNumber<uint32_t>(values, "boot", UINT32_MAX, &config->cpus.boot));
  RETURN_IF_ERROR(TakeNumber<uint32_t>(values, "max", UINT32_MAX, &config->cpus.max));
  Take(values, "model", &config->cpus.model);
  return absl::OkStatus();
}

absl::Status ParseCpu(const std::string& text, VmConfig* config) {
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string& part = parts[i];
    if (absl::StartsWith(part, "+") && part.size() > 1) {
      config->cpus.add_features.push_back(part.substr(1));
    } else if (absl::StartsWith(part, "-") && part.size() > 1) {
      config->cpus.remove_features.push_back(part.substr(1));
    } else if (i == 0 && !part.empty()) {
      config->cpus.model = part;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", part, "\" is not a feature; write MODEL,+FEATURE,-FEATURE"));
    }
  }
  return absl::OkStatus();
}

absl::Status ParseMemory(const std::string& text, VmConfig* config) {
  ASSIGN_OR_RETURN(const Values values, ParseKeyValues(text, {"size", "max", "backing"}, "size"));
  const auto size = [](const std::string& value) { return ParseSize(value); };
  RETURN_IF_ERROR(TakeParsed(values, "size", &config->memory.size_bytes, size));
  RETURN_IF_ERROR(TakeParsed(values, "max", &config->memory.max_bytes, size));
  return TakeParsed(values, "backing", &config->memory.backing, [](const std::string& value) {
    return ParseWord<MemoryBacking>(value, {{"private", MemoryBacking::kPrivate},
                                            {"shared", MemoryBacking::kShared},
                                            {"hugepages", MemoryBacking::kHugepages}});
  });
}

absl::Status TakeErrorPolicy(const Values& values, const std::string& key, OnDiskError* slot) {
  return TakeParsed(values, key, slot, [](const std::string& value) {
    return ParseWord<OnDiskError>(value, {{"report", OnDiskError::kReport},
                                          {"stop", OnDiskError::kStop},
                                          {"enospc", OnDiskError::kStopOnNoSpace},
                                          {"ignore", OnDiskError::kIgnore}});
  });
}

absl::StatusOr<DiskConfig> ParseDisk(const std::string& text) {
  const std::vector<std::string> limits = ThrottleKeys("throttle.");
  std::vector<absl::string_view> known = {
      "path",  "format",      "readonly", "direct",    "write-cache", "serial",
      "id",    "slot",        "loop",     "key-file",  "rerror",      "werror",
      "stall", "stall-after", "legacy",   "bootindex", "cache-size",  "throttle.group"};
  known.insert(known.end(), limits.begin(), limits.end());
  ASSIGN_OR_RETURN(const Values values, ParseKeyValues(text, known));
  DiskConfig disk;
  Take(values, "path", &disk.path);
  Take(values, "serial", &disk.serial);
  Take(values, "id", &disk.id);
  Take(values, "loop", &disk.loop);
  Take(values, "key-file", &disk.key_file);
  Take(values, "throttle.group", &disk.throttle.group);
  RETURN_IF_ERROR(TakeThrottle(values, "throttle.", &disk.throttle));
  RETURN_IF_ERROR(TakeErrorPolicy(values, "rerror", &disk.on_read_error));
  RETURN_IF_ERROR(TakeErrorPolicy(values, "werror", &disk.on_write_error));
  RETURN_IF_ERROR(TakeParsed(values, "stall", &disk.on_stall, [](const std::string& value) {
    return ParseWord<OnDiskStall>(value, {{"report", OnDiskStall::kReport},
                                          {"pause", OnDiskStall::kPause},
                                          {"ignore", OnDiskStall::kIgnore}});
  }));
  RETURN_IF_ERROR(TakeParsed(values, "cache-size", &disk.cache_bytes,
                             [](const std::string& value) { return ParseSize(value); }));
  RETURN_IF_ERROR(TakeNumber<uint32_t>(values, "stall-after", UINT32_MAX, &disk.stall_seconds));
  RETURN_IF_ERROR(TakeParsed(values, "format", &disk.format, [](const std::string& value) {
    return ParseWord<DiskFormat>(value, {{"raw", DiskFormat::kRaw}, {"qcow2", DiskFormat::kQcow2}});
  }));
  RETURN_IF_ERROR(TakeSwitch(values, "readonly", &disk.read_only));
  RETURN_IF_ERROR(TakeSwitch(values, "direct", &disk.direct));
  RETURN_IF_ERROR(TakeSwitch(values, "write-cache", &disk.write_cache));
  RETURN_IF_ERROR(TakeSwitch(values, "legacy", &disk.legacy));
  RETURN_IF_ERROR(TakeNumber<uint8_t>(values, "slot", UINT8_MAX, &disk.slot));
  RETURN_IF_ERROR(TakeNumber<uint16_t>(values, "bootindex", UINT16_MAX, &disk.boot_index));
  if (disk.path.empty()) return absl::InvalidArgumentError("path= is missing");
  if (disk.format == DiskFormat::kUnspecified) {
    return absl::InvalidArgumentError(
        absl::StrCat(disk.path,
                     ": format= is missing; use format=raw or format=qcow2 (a format is "
                     "never guessed)"));
  }
  return disk;
}

absl::StatusOr<uint32_t> ParseMilliseconds(const std::string& text) {
  ASSIGN_OR_RETURN(const absl::Duration limit, ParseTimeLimit(text));
  if (limit > absl::Milliseconds(UINT32_MAX)) {
    return absl::InvalidArgumentError("too long; at most 49 days are possible");
  }
  return static_cast<uint32_t>(absl::ToInt64Milliseconds(limit));
}

absl::Status ParseBoot(const std::string& text, VmConfig* config) {
  ASSIGN_OR_RETURN(const Values values, ParseKeyValues(text, {"menu", "retry"}));
  RETURN_IF_ERROR(TakeParsed(values, "menu", &config->boot.menu_ms, ParseMilliseconds));
  return TakeParsed(values, "retry", &config->boot.retry_ms,
                    [](const std::string& value) -> absl::StatusOr<uint32_t> {
                      return value == "off" ? uint32_t{0} : ParseMilliseconds(value);
                    });
}

absl::Status ParseSmbios(const std::string& text, VmConfig* config) {
  ASSIGN_OR_RETURN(const Values values,
                   ParseKeyValues(text, {"vendor", "product", "version", "serial", "asset-tag"}));
  Take(values, "vendor", &config->smbios.vendor);
  Take(values, "product", &config->smbios.product);
  Take(values, "version", &config->smbios.version);
  Take(values, "serial", &config->smbios.serial);
  Take(values, "asset-tag", &config->smbios.asset_tag);
  return absl::OkStatus();
}

absl::StatusOr<CdromConfig> ParseCdrom(const std::string& text) {
  ASSIGN_OR_RETURN(const Values values,
                   ParseKeyValues(text, {"path", "id", "serial", "bootindex"}, "path"));
  CdromConfig cdrom;
  Take(values, "path", &cdrom.path);
  Take(values, "id", &cdrom.id);
  Take(values, "serial", &cdrom.serial);
  RETURN_IF_ERROR(TakeNumber<uint16_t>(values, "bootindex", UINT16_MAX, &cdrom.boot_index));
  return cdrom;
}

absl::StatusOr<NicConfig> ParseNet(const std::string& text) {
  ASSIGN_OR_RETURN(const Values values,
                   ParseKeyValues(text, {"tap", "bridge", "fd", "mac", "mtu", "link", "id", "slot",
                                         "loop", "legacy", "bootindex"}));
  NicConfig nic;
  Take(values, "tap", &nic.tap);
  Take(values, "bridge", &nic.bridge);
  Take(values, "id", &nic.id);
  Take(values, "loop", &nic.loop);
  RETURN_IF_ERROR(TakeNumber<int>(values, "fd", INT32_MAX, &nic.fd));
  RETURN_IF_ERROR(TakeParsed(values, "mac", &nic.mac,
                             [](const std::string& value) { return api::ParseMac(value); }));
  RETURN_IF_ERROR(TakeNumber<uint16_t>(values, "mtu", UINT16_MAX, &nic.mtu));
  RETURN_IF_ERROR(TakeSwitch(values, "link", &nic.link_up));
  RETURN_IF_ERROR(TakeSwitch(values, "legacy", &nic.legacy));
  RETURN_IF_ERROR(TakeNumber<uint8_t>(values, "slot", UINT8_MAX, &nic.slot));
  RETURN_IF_ERROR(TakeNumber<uint16_t>(values, "bootindex", UINT16_MAX, &nic.boot_index));
  if (nic.tap.empty() && !nic.fd.has_value()) {
    return absl::InvalidArgumentError("neither tap= nor fd= is given");
  }
  if (!nic.tap.empty() && nic.fd.has_value()) {
    return absl::InvalidArgumentError("tap= and fd= contradict each other; give one");
  }
  return nic;
}

absl::Status ParseConsole(const std::string& text, VmConfig* config) {
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "file:")) {  // Below, it only stands in the list of what is known.
    config->console.mode = ConsoleMode::kFile;
    config->console.path = std::string(rest);
    return rest.empty() ? absl::InvalidArgumentError("file: has no path") : absl::OkStatus();
  }
  ASSIGN_OR_RETURN(config->console.mode,
                   ParseWord<ConsoleMode>(text, {{"stdio", ConsoleMode::kStdio},
                                                 {"buffer", ConsoleMode::kBuffer},
                                                 {"none", ConsoleMode::kNone},
                                                 {"file:PATH", ConsoleMode::kFile}}));
  return absl::OkStatus();
}

absl::Status ApplyMachineFlag(const ScannedFlag& flag, VmConfig* config) {
  const std::string& value = flag.value;
  if (flag.name == "--kernel") {
    config->boot.kernel = value;
  } else if (flag.name == "--initrd") {
    config->boot.initrd = value;
  } else if (flag.name == "--cmdline") {
    config->boot.cmdline = value;
  } else if (flag.name == "--firmware") {
    config->boot.firmware = value;
  } else if (flag.name == "--firmware-vars") {
    config->boot.variables = value;
  } else if (flag.name == "--boot") {
    return ParseBoot(value, config);
  } else if (flag.name == "--firmware-log") {
    config->boot.firmware_log = value;
  } else if (flag.name == "--smbios") {
    return ParseSmbios(value, config);
  } else if (flag.name == "--cpus") {
    return ParseCpus(value, config);
  } else if (flag.name == "--cpu") {
    return ParseCpu(value, config);
  } else if (flag.name == "--memory") {
    return ParseMemory(value, config);
  } else if (flag.name == "--disk") {
    ASSIGN_OR_RETURN(DiskConfig disk, ParseDisk(value));
    config->disks.push_back(std::move(disk));
  } else if (flag.name == "--cdrom") {
    ASSIGN_OR_RETURN(CdromConfig cdrom, ParseCdrom(value));
    config->cdroms.push_back(std::move(cdrom));
  } else if (flag.name == "--net") {
    ASSIGN_OR_RETURN(NicConfig nic, ParseNet(value));
    config->nics.push_back(std::move(nic));
  } else if (flag.name == "--console") {
    return ParseConsole(value, config);
  } else if (flag.name == "--console-history") {
    ASSIGN_OR_RETURN(const uint64_t bytes, ParseSize(value));
    if (bytes > UINT32_MAX) return absl::InvalidArgumentError("too big; 4K to 16M are possible");
    config->console.history_bytes = static_cast<uint32_t>(bytes);
  } else if (flag.name == "--rng") {
    ASSIGN_OR_RETURN(config->rng, ParseOnOff(value));
  } else if (flag.name == "--on-crash") {
    ASSIGN_OR_RETURN(config->on_crash, ParseWord<OnCrash>(value, {{"reset", OnCrash::kReset},
                                                                  {"stop", OnCrash::kStop},
                                                                  {"pause", OnCrash::kPause}}));
  } else if (flag.name == "--name") {
    config->name = value;
  } else if (flag.name == "--uuid") {
    config->uuid = value;
  } else if (flag.name == "--machine") {
    config->machine = value;
  } else if (flag.name == "--allow-dir") {
    config->allowed_directories.push_back(value);
  } else if (flag.name == "--shutdown-timeout") {
    ASSIGN_OR_RETURN(config->shutdown_timeout_ms, ParseMilliseconds(value));
  }
  return absl::OkStatus();
}

bool IsMachineFlag(absl::string_view name) {
  for (const FlagSpec& spec : MachineFlags()) {
    if (spec.name == name) return true;
  }
  return false;
}

absl::StatusOr<LogLevel> ParseLogLevel(const ScannedArgs& args) {
  const std::string* const text = args.Find("--log-level");
  if (text == nullptr) return LogLevel::kInfo;
  const absl::StatusOr<LogLevel> level =
      ParseWord<LogLevel>(*text, {{"debug", LogLevel::kDebug},
                                  {"info", LogLevel::kInfo},
                                  {"warning", LogLevel::kWarning},
                                  {"error", LogLevel::kError}});
  if (!level.ok()) return Annotated("--log-level", level.status());
  return level;
}

absl::StatusOr<VireoCommand> ParseRun(const ScannedArgs& args) {
  RunOptions options;
  ASSIGN_OR_RETURN(options.log_level, ParseLogLevel(args));
  if (const std::string* const api = args.Find("--api")) options.api = *api;
  const std::string* const config_path = args.Find("--config");
  if (config_path != nullptr) {
    for (const ScannedFlag& flag : args.flags) {
      if (!IsMachineFlag(flag.name)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          flag.name, ": contradicts --config, whose file describes the whole machine"));
    }
    options.config_path = *config_path;
    return options;
  }
  for (const ScannedFlag& flag : args.flags) {
    if (!IsMachineFlag(flag.name)) continue;
    const absl::Status status = ApplyMachineFlag(flag, &options.config);
    if (!status.ok()) return Annotated(flag.name, status);
  }
  // The model may be said in two places, but only once.
  if (args.Has("--cpus") && args.Has("--cpu")) {
    VmConfig cpus, cpu;
    cpus.cpus.model.clear();
    cpu.cpus.model.clear();
    RETURN_IF_ERROR(ParseCpus(*args.Find("--cpus"), &cpus));
    RETURN_IF_ERROR(ParseCpu(*args.Find("--cpu"), &cpu));
    if (!cpus.cpus.model.empty() && !cpu.cpus.model.empty() && cpus.cpus.model != cpu.cpus.model) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--cpu: ", cpu.cpus.model, " contradicts --cpus ...,model=", cpus.cpus.model));
    }
  }
  if (options.config.boot.kernel.empty() && options.config.boot.firmware.empty()) {
    return absl::InvalidArgumentError(
        "--kernel: missing; name a kernel, --firmware bios, or a --config file");
  }
  return options;
}

absl::StatusOr<VireoCommand> ParseServe(const ScannedArgs& args) {
  ServeOptions options;
  ASSIGN_OR_RETURN(options.log_level, ParseLogLevel(args));
  if (const std::string* const api = args.Find("--api")) options.api = *api;
  if (options.api.empty()) {
    return absl::InvalidArgumentError("--api: missing; `vireo serve` needs --api unix:PATH");
  }
  return options;
}

}  // namespace

absl::StatusOr<VireoCommand> ParseVireoArgs(const std::vector<std::string>& args) {
  const std::string command = args.empty() ? "" : args[0];
  if (command == "--help" || command == "-h" || command == "help") return PrintText{kHelp};
  if (command == "--version" || command == "version") {
    return PrintText{absl::StrCat("vireo ", api::kVersion, "\n")};
  }
  if (command != "run" && command != "serve") {
    return absl::InvalidArgumentError(
        command.empty() ? "no command; use `vireo run` or `vireo serve` (vireo --help says how)"
                        : absl::StrCat(command, ": unknown command", DidYouMean(command, {"serve"}),
                                       "; use run or serve (vireo --help says how)"));
  }
  std::vector<FlagSpec> specs = ProcessFlags();
  if (command == "run") {
    specs.push_back({"--config"});
    specs.insert(specs.end(), MachineFlags().begin(), MachineFlags().end());
  }
  absl::StatusOr<ScannedArgs> scanned = ScanArgs({args.begin() + 1, args.end()}, specs);
  if (!scanned.ok() && command == "serve") {
    // A flag of `run` is the likely mistake here.
    for (const std::string& arg : args) {
      if (!IsMachineFlag(arg.substr(0, arg.find('=')))) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          arg.substr(0, arg.find('=')),
          ": not for `vireo serve`, whose machine comes over the API; use `vireo run`"));
    }
  }
  if (!scanned.ok()) return scanned.status();
  if (scanned->Has("--help") || scanned->Has("-h")) return PrintText{kHelp};
  if (scanned->Has("--version")) return PrintText{absl::StrCat("vireo ", api::kVersion, "\n")};
  if (!scanned->rest.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(scanned->rest[0], ": not expected; flags begin with --"));
  }
  return command == "run" ? ParseRun(*scanned) : ParseServe(*scanned);
}

}  // namespace vireo
