#include "api/config_convert.h"

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>

#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "api/proto_values.h"
#include "base/status.h"

namespace vireo::api {
namespace {

using google::protobuf::util::TimeUtil;

constexpr EnumPair<v1::Memory::Backing, MemoryBacking> kBackings[] = {
    {v1::Memory::PRIVATE, MemoryBacking::kPrivate},
    {v1::Memory::SHARED, MemoryBacking::kShared},
    {v1::Memory::HUGEPAGES, MemoryBacking::kHugepages}};
constexpr EnumPair<v1::Disk::Format, DiskFormat> kFormats[] = {
    {v1::Disk::RAW, DiskFormat::kRaw}, {v1::Disk::QCOW2, DiskFormat::kQcow2}};
constexpr EnumPair<v1::OnCrash, OnCrash> kOnCrash[] = {
    {v1::RESET, OnCrash::kReset}, {v1::STOP, OnCrash::kStop}, {v1::PAUSE, OnCrash::kPause}};
constexpr EnumPair<v1::Console::Mode, ConsoleMode> kConsoleModes[] = {
    {v1::Console::NONE, ConsoleMode::kNone},
    {v1::Console::STDIO, ConsoleMode::kStdio},
    {v1::Console::FILE, ConsoleMode::kFile},
    {v1::Console::BUFFER, ConsoleMode::kBuffer}};
constexpr EnumPair<v1::OnDiskError, OnDiskError> kOnDiskErrors[] = {
    {v1::REPORT_TO_GUEST, OnDiskError::kReport},
    {v1::PAUSE_MACHINE, OnDiskError::kStop},
    {v1::PAUSE_ON_NO_SPACE, OnDiskError::kStopOnNoSpace},
    {v1::IGNORE_ERROR, OnDiskError::kIgnore}};
constexpr EnumPair<v1::OnDiskStall, OnDiskStall> kOnDiskStalls[] = {
    {v1::IGNORE_STALL, OnDiskStall::kIgnore},
    {v1::REPORT_STALL, OnDiskStall::kReport},
    {v1::PAUSE_WHILE_STALLED, OnDiskStall::kPause}};

template <typename Narrow>
absl::StatusOr<Narrow> Narrowed(uint64_t value, absl::string_view field) {
  if (value > std::numeric_limits<Narrow>::max()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %d is too big; at most %d is possible",
                                                      field, value,
                                                      std::numeric_limits<Narrow>::max()));
  }
  return static_cast<Narrow>(value);
}

CpuConfig CpusFromProto(const v1::Cpus& message) {
  CpuConfig cpus;
  if (message.has_boot()) cpus.boot = message.boot();
  cpus.max = message.max();
  if (!message.model().empty()) cpus.model = message.model();
  cpus.add_features.assign(message.add_features().begin(), message.add_features().end());
  cpus.remove_features.assign(message.remove_features().begin(), message.remove_features().end());
  return cpus;
}

absl::StatusOr<MemoryConfig> MemoryFromProto(const v1::Memory& message) {
  MemoryConfig memory;
  if (message.has_size_bytes()) memory.size_bytes = message.size_bytes();
  memory.max_bytes = message.max_bytes();
  ASSIGN_OR_RETURN(memory.backing, FromProto(kBackings, message.backing(), MemoryBacking::kPrivate,
                                             "memory.backing"));
  return memory;
}

RateLimit RateFromProto(const v1::RateLimit& message) {
  return {.per_second = message.per_second(),
          .burst = message.burst(),
          .burst_seconds = message.burst_seconds() == 0 ? 1 : message.burst_seconds()};
}

void RateToProto(const RateLimit& limit, v1::RateLimit* message) {
  message->set_per_second(limit.per_second);
  message->set_burst(limit.burst);
  message->set_burst_seconds(limit.burst_seconds);
}

absl::StatusOr<DiskConfig> DiskFromProto(const v1::Disk& message, const std::string& field) {
  DiskConfig disk;
  disk.id = message.id();
  disk.path = message.path();
  ASSIGN_OR_RETURN(disk.format, FromProto(kFormats, message.format(), DiskFormat::kUnspecified,
                                          field + ".format"));
  disk.read_only = message.read_only();
  disk.direct = message.direct();
  if (message.has_write_cache()) disk.write_cache = message.write_cache();
  disk.serial = message.serial();
  disk.loop = message.loop();
  if (message.has_slot()) {
    ASSIGN_OR_RETURN(disk.slot, Narrowed<uint8_t>(message.slot(), field + ".slot"));
  }
  disk.key_file = message.key_file();
  disk.throttle = ThrottleFromProto(message.throttle());
  ASSIGN_OR_RETURN(disk.on_read_error, FromProto(kOnDiskErrors, message.on_read_error(),
                                                 disk.on_read_error, field + ".on_read_error"));
  ASSIGN_OR_RETURN(disk.on_write_error, FromProto(kOnDiskErrors, message.on_write_error(),
                                                  disk.on_write_error, field + ".on_write_error"));
  ASSIGN_OR_RETURN(disk.on_stall, FromProto(kOnDiskStalls, message.on_stall(), disk.on_stall,
                                            field + ".on_stall"));
  disk.cache_bytes = message.cache_bytes();
  if (message.has_stall_seconds()) disk.stall_seconds = message.stall_seconds();
  disk.legacy = message.legacy();
  if (message.has_boot_index()) {
    ASSIGN_OR_RETURN(disk.boot_index,
                     Narrowed<uint16_t>(message.boot_index(), field + ".boot_index"));
  }
  return disk;
}

absl::StatusOr<NicConfig> NicFromProto(const v1::Nic& message, const std::string& field) {
  NicConfig nic;
  nic.id = message.id();
  nic.tap = message.tap();
  nic.bridge = message.bridge();
  if (message.has_fd()) nic.fd = message.fd();
  if (!message.mac().empty()) {
    const auto mac = ParseMac(message.mac());
    if (!mac.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(field, ".mac: ", mac.status().message()));
    }
    nic.mac = *mac;
  }
  ASSIGN_OR_RETURN(nic.mtu, Narrowed<uint16_t>(message.mtu(), field + ".mtu"));
  if (message.has_link_up()) nic.link_up = message.link_up();
  nic.loop = message.loop();
  if (message.has_slot()) {
    ASSIGN_OR_RETURN(nic.slot, Narrowed<uint8_t>(message.slot(), field + ".slot"));
  }
  nic.legacy = message.legacy();
  if (message.has_boot_index()) {
    ASSIGN_OR_RETURN(nic.boot_index,
                     Narrowed<uint16_t>(message.boot_index(), field + ".boot_index"));
  }
  return nic;
}

absl::StatusOr<CdromConfig> CdromFromProto(const v1::Cdrom& message, const std::string& field) {
  CdromConfig cdrom = {.id = message.id(),
                       .path = message.path(),
                       .serial = message.serial(),
                       .boot_index = std::nullopt};
  if (message.has_boot_index()) {
    ASSIGN_OR_RETURN(cdrom.boot_index,
                     Narrowed<uint16_t>(message.boot_index(), field + ".boot_index"));
  }
  return cdrom;
}

absl::StatusOr<ConsoleConfig> ConsoleFromProto(const v1::Console& message) {
  ConsoleConfig console;
  ASSIGN_OR_RETURN(console.mode,
                   FromProto(kConsoleModes, message.mode(), ConsoleMode::kBuffer, "console.mode"));
  console.path = message.path();
  if (message.has_history_bytes()) console.history_bytes = message.history_bytes();
  return console;
}

absl::StatusOr<uint32_t> MillisecondsFromProto(const google::protobuf::Duration& duration,
                                               absl::string_view field) {
  constexpr int64_t kMaxMs = std::numeric_limits<uint32_t>::max();
  constexpr int32_t kNanosPerMs = 1'000'000;
  // Checked before any arithmetic: both fields may hold anything.
  const bool in_range = duration.seconds() >= 0 && duration.seconds() <= kMaxMs / 1000 &&
                        duration.nanos() >= 0 && duration.nanos() < 1000 * kNanosPerMs;
  const int64_t ms = in_range ? duration.seconds() * 1000 + duration.nanos() / kNanosPerMs : -1;
  if (ms < 0 || ms > kMaxMs || duration.nanos() % kNanosPerMs != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d s and %d ns; whole milliseconds from 0 to %d s are possible", field,
                        duration.seconds(), duration.nanos(), kMaxMs / 1000));
  }
  return static_cast<uint32_t>(ms);
}

absl::StatusOr<BootConfig> BootFromProto(const v1::Boot& message) {
  BootConfig boot = {.kernel = message.kernel(),
                     .initrd = message.initrd(),
                     .cmdline = message.cmdline(),
                     .firmware = message.firmware(),
                     .variables = message.variables(),
                     .menu_ms = 0,
                     .retry_ms = std::nullopt,
                     .firmware_log = message.firmware_log()};
  ASSIGN_OR_RETURN(boot.menu_ms, MillisecondsFromProto(message.menu(), "boot.menu"));
  if (message.has_retry()) {
    ASSIGN_OR_RETURN(boot.retry_ms, MillisecondsFromProto(message.retry(), "boot.retry"));
  }
  return boot;
}

}  // namespace

absl::StatusOr<VmConfig> ConfigFromProto(const v1::VmConfig& message) {
  VmConfig config;
  config.name = message.name();
  config.uuid = message.uuid();
  if (!message.machine().empty()) config.machine = message.machine();
  config.cpus = CpusFromProto(message.cpus());
  ASSIGN_OR_RETURN(config.memory, MemoryFromProto(message.memory()));
  ASSIGN_OR_RETURN(config.boot, BootFromProto(message.boot()));
  for (int i = 0; i < message.disks_size(); ++i) {
    ASSIGN_OR_RETURN(DiskConfig disk,
                     DiskFromProto(message.disks(i), absl::StrFormat("disks[%d]", i)));
    config.disks.push_back(std::move(disk));
  }
  for (int i = 0; i < message.cdroms_size(); ++i) {
    ASSIGN_OR_RETURN(CdromConfig cdrom,
                     CdromFromProto(message.cdroms(i), absl::StrFormat("cdroms[%d]", i)));
    config.cdroms.push_back(std::move(cdrom));
  }
  for (int i = 0; i < message.nics_size(); ++i) {
    ASSIGN_OR_RETURN(NicConfig nic, NicFromProto(message.nics(i), absl::StrFormat("nics[%d]", i)));
    config.nics.push_back(std::move(nic));
  }
  ASSIGN_OR_RETURN(config.console, ConsoleFromProto(message.console()));
  config.smbios = {.vendor = message.smbios().vendor(),
                   .product = message.smbios().product(),
                   .version = message.smbios().version(),
                   .serial = message.smbios().serial(),
                   .asset_tag = message.smbios().asset_tag()};
  if (message.rng().has_enabled()) config.rng = message.rng().enabled();
  ASSIGN_OR_RETURN(config.on_crash,
                   FromProto(kOnCrash, message.on_crash(), OnCrash::kReset, "on_crash"));
  config.allowed_directories.assign(message.allowed_directories().begin(),
                                    message.allowed_directories().end());
  if (message.has_shutdown_timeout()) {
    ASSIGN_OR_RETURN(config.shutdown_timeout_ms,
                     MillisecondsFromProto(message.shutdown_timeout(), "shutdown_timeout"));
  }
  return config;
}

v1::VmConfig ConfigToProto(const VmConfig& config) {
  v1::VmConfig message;
  message.set_name(Utf8(config.name));
  message.set_uuid(Utf8(config.uuid));
  message.set_machine(Utf8(config.machine));
  v1::Cpus& cpus = *message.mutable_cpus();
  cpus.set_boot(config.cpus.boot);
  cpus.set_max(config.cpus.max);
  cpus.set_model(Utf8(config.cpus.model));
  for (const std::string& name : config.cpus.add_features) cpus.add_add_features(Utf8(name));
  for (const std::string& name : config.cpus.remove_features) cpus.add_remove_features(Utf8(name));
  v1::Memory& memory = *message.mutable_memory();
  memory.set_size_bytes(config.memory.size_bytes);
  memory.set_max_bytes(config.memory.max_bytes);
  memory.set_backing(ToProto(kBackings, config.memory.backing, v1::Memory::BACKING_UNSPECIFIED));
  v1::Boot& boot = *message.mutable_boot();
  boot.set_kernel(Utf8(config.boot.kernel));
  boot.set_initrd(Utf8(config.boot.initrd));
  boot.set_cmdline(Utf8(config.boot.cmdline));
  boot.set_firmware(Utf8(config.boot.firmware));
  if (config.boot.menu_ms != 0) {
    *boot.mutable_menu() = TimeUtil::MillisecondsToDuration(config.boot.menu_ms);
  }
  if (config.boot.retry_ms) {
    *boot.mutable_retry() = TimeUtil::MillisecondsToDuration(*config.boot.retry_ms);
  }
  boot.set_variables(Utf8(config.boot.variables));
  boot.set_firmware_log(Utf8(config.boot.firmware_log));
  for (const DiskConfig& disk : config.disks) {
    v1::Disk& to = *message.add_disks();
    to.set_id(Utf8(disk.id));
    to.set_path(Utf8(disk.path));
    to.set_format(ToProto(kFormats, disk.format, v1::Disk::FORMAT_UNSPECIFIED));
    to.set_read_only(disk.read_only);
    to.set_direct(disk.direct);
    to.set_write_cache(disk.write_cache);
    to.set_serial(Utf8(disk.serial));
    to.set_loop(Utf8(disk.loop));
    if (disk.slot) to.set_slot(*disk.slot);
    to.set_key_file(Utf8(disk.key_file));
    if (disk.throttle != DiskThrottle()) ThrottleToProto(disk.throttle, to.mutable_throttle());
    to.set_on_read_error(ToProto(kOnDiskErrors, disk.on_read_error, v1::ON_DISK_ERROR_UNSPECIFIED));
    to.set_on_write_error(
        ToProto(kOnDiskErrors, disk.on_write_error, v1::ON_DISK_ERROR_UNSPECIFIED));
    to.set_on_stall(ToProto(kOnDiskStalls, disk.on_stall, v1::ON_DISK_STALL_UNSPECIFIED));
    to.set_stall_seconds(disk.stall_seconds);
    to.set_legacy(disk.legacy);
    if (disk.boot_index) to.set_boot_index(*disk.boot_index);
    to.set_cache_bytes(disk.cache_bytes);
  }
  for (const CdromConfig& cdrom : config.cdroms) {
    v1::Cdrom& to = *message.add_cdroms();
    to.set_id(Utf8(cdrom.id));
    to.set_path(Utf8(cdrom.path));
    to.set_serial(Utf8(cdrom.serial));
    if (cdrom.boot_index) to.set_boot_index(*cdrom.boot_index);
  }
  for (const NicConfig& nic : config.nics) {
    v1::Nic& to = *message.add_nics();
    to.set_id(Utf8(nic.id));
    to.set_tap(Utf8(nic.tap));
    to.set_bridge(Utf8(nic.bridge));
    if (nic.fd) to.set_fd(*nic.fd);
    if (nic.mac) to.set_mac(FormatMac(*nic.mac));
    to.set_mtu(nic.mtu);
    to.set_link_up(nic.link_up);
    to.set_loop(Utf8(nic.loop));
    if (nic.slot) to.set_slot(*nic.slot);
    to.set_legacy(nic.legacy);
    if (nic.boot_index) to.set_boot_index(*nic.boot_index);
  }
  v1::Console& console = *message.mutable_console();
  console.set_mode(ToProto(kConsoleModes, config.console.mode, v1::Console::MODE_UNSPECIFIED));
  console.set_path(Utf8(config.console.path));
  console.set_history_bytes(config.console.history_bytes);
  if (config.smbios != SmbiosConfig()) {
    v1::Smbios& smbios = *message.mutable_smbios();
    smbios.set_vendor(Utf8(config.smbios.vendor));
    smbios.set_product(Utf8(config.smbios.product));
    smbios.set_version(Utf8(config.smbios.version));
    smbios.set_serial(Utf8(config.smbios.serial));
    smbios.set_asset_tag(Utf8(config.smbios.asset_tag));
  }
  message.mutable_rng()->set_enabled(config.rng);
  message.set_on_crash(ToProto(kOnCrash, config.on_crash, v1::ON_CRASH_UNSPECIFIED));
  for (const std::string& path : config.allowed_directories) {
    message.add_allowed_directories(Utf8(path));
  }
  *message.mutable_shutdown_timeout() =
      TimeUtil::MillisecondsToDuration(config.shutdown_timeout_ms);
  return message;
}

absl::StatusOr<VmConfig> ConfigFromJson(const std::string& json) {
  v1::VmConfig message;
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = false;
  const auto status = google::protobuf::util::JsonStringToMessage(json, &message, options);
  if (!status.ok()) {
    // A syntax error has two more lines: the text around it and a caret. One line is what a caller
    // prints.
    const std::string text(status.message().data(), status.message().size());
    std::vector<absl::string_view> lines =
        absl::StrSplit(text, absl::ByAnyChar("\r\n"), absl::SkipWhitespace());
    if (lines.size() > 1 && absl::StripAsciiWhitespace(lines.back()) == "^") lines.pop_back();
    return absl::InvalidArgumentError(absl::StrJoin(lines, " "));
  }
  return ConfigFromProto(message);
}

std::string ConfigToJson(const VmConfig& config) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string json;
  // Cannot fail: every string is UTF-8 and every Duration in range.
  const auto status =
      google::protobuf::util::MessageToJsonString(ConfigToProto(config), &json, options);
  return status.ok() ? json : std::string();
}

void ThrottleToProto(const DiskThrottle& throttle, v1::DiskThrottle* message) {
  RateToProto(throttle.bytes_total, message->mutable_bytes_total());
  RateToProto(throttle.bytes_read, message->mutable_bytes_read());
  RateToProto(throttle.bytes_write, message->mutable_bytes_write());
  RateToProto(throttle.ops_total, message->mutable_ops_total());
  RateToProto(throttle.ops_read, message->mutable_ops_read());
  RateToProto(throttle.ops_write, message->mutable_ops_write());
  message->set_op_bytes(throttle.op_bytes);
  message->set_group(Utf8(throttle.group));
}

DiskThrottle ThrottleFromProto(const v1::DiskThrottle& message) {
  return {.bytes_total = RateFromProto(message.bytes_total()),
          .bytes_read = RateFromProto(message.bytes_read()),
          .bytes_write = RateFromProto(message.bytes_write()),
          .ops_total = RateFromProto(message.ops_total()),
          .ops_read = RateFromProto(message.ops_read()),
          .ops_write = RateFromProto(message.ops_write()),
          .op_bytes = message.op_bytes(),
          .group = message.group()};
}

absl::StatusOr<std::array<uint8_t, 6>> ParseMac(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  std::array<uint8_t, 6> mac = {};
  bool good = parts.size() == mac.size();
  for (size_t i = 0; good && i < mac.size(); ++i) {
    good = parts[i].size() == 2 && absl::ascii_isxdigit(parts[i][0]) &&
           absl::ascii_isxdigit(parts[i][1]);
    if (good) mac[i] = static_cast<uint8_t>(std::stoi(std::string(parts[i]), nullptr, 16));
  }
  if (!good) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not six bytes like 02:00:00:00:00:01"));
  }
  return mac;
}

std::string FormatMac(const std::array<uint8_t, 6>& mac) {
  return absl::StrFormat("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
                         mac[5]);
}

}  // namespace vireo::api
