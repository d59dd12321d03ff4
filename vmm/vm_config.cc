#include "vmm/vm_config.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <random>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "storage/qcow2/cache_budget.h"
#include "vmm/disk_throttle.h"

namespace vireo {
namespace {

constexpr uint64_t kMemoryGranule = uint64_t{2} << 20;
constexpr size_t kMaxIdBytes = 64;
constexpr size_t kMaxTapBytes = 15;  // IFNAMSIZ less the terminator.
constexpr uint32_t kMaxStallSeconds = 24 * 60 * 60;
constexpr size_t kMaxSerialBytes = 20;  // VIRTIO_BLK_ID_BYTES.
constexpr size_t kMaxCdroms = 6;        // Ports of an AHCI controller.
constexpr size_t kMaxDevices = 28;      // Slots 1..30 less the bridge parts and the entropy device.
constexpr uint8_t kMinSlot = 1;
constexpr uint8_t kMaxSlot = 30;  // Slot 31 is the LPC bridge.

absl::Status Invalid(absl::string_view field, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", problem));
}

// Eight bytes of a well-mixed hash, the same on every host: MAC addresses come from it.
uint64_t StableHash(absl::string_view text, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325ull ^ (seed * 0x9e3779b97f4a7c15ull);
  for (const char c : text) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  }
  hash ^= hash >> 29;
  hash *= 0xbf58476d1ce4e5b9ull;
  return hash ^ (hash >> 32);
}

std::string RandomUuid() {
  std::random_device random;
  uint8_t bytes[16];
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  bytes[6] = (bytes[6] & 0x0f) | 0x40;  // RFC 4122 §4.4: version 4.
  bytes[8] = (bytes[8] & 0x3f) | 0x80;  // RFC 4122 §4.1.1: the variant.
  std::string uuid;
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) uuid += '-';
    absl::StrAppendFormat(&uuid, "%02x", bytes[i]);
  }
  return uuid;
}

bool IsUuid(absl::string_view text) {
  if (text.size() != 36) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? text[i] != '-' : !std::isxdigit(static_cast<unsigned char>(text[i]))) return false;
  }
  return true;
}

bool IsId(absl::string_view text) {
  return !text.empty() && text.size() <= kMaxIdBytes &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

std::string GuessedKindOf(absl::string_view path) {
  if (absl::EndsWith(path, ".qcow2")) return " (the name suggests qcow2)";
  if (absl::EndsWith(path, ".raw") || absl::EndsWith(path, ".img"))
    return " (the name suggests raw)";
  return "";
}

absl::Status ValidateCpus(const CpuConfig& cpus) {
  if (cpus.boot < 1 || cpus.boot > kMaxCpus) {
    return Invalid("cpus.boot",
                   absl::StrFormat("%d vCPUs; 1 to %d are possible", cpus.boot, kMaxCpus));
  }
  if (cpus.max < cpus.boot || cpus.max > kMaxCpus) {
    return Invalid("cpus.max", absl::StrFormat("%d; it must lie between cpus.boot (%d) and %d",
                                               cpus.max, cpus.boot, kMaxCpus));
  }
  if (cpus.model != "host" && cpus.model != "x86-64-v2" && cpus.model != "x86-64-v3") {
    return Invalid(
        "cpus.model",
        absl::StrFormat("unknown model \"%s\"; use host, x86-64-v2 or x86-64-v3", cpus.model));
  }
  for (const std::string& feature : cpus.add_features) {
    if (std::find(cpus.remove_features.begin(), cpus.remove_features.end(), feature) !=
        cpus.remove_features.end()) {
      return Invalid("cpus", absl::StrFormat("feature %s is both added and removed", feature));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateMemory(const MemoryConfig& memory) {
  const auto check = [](absl::string_view field, uint64_t bytes) {
    if (bytes < kMinMemoryBytes || bytes > kMaxMemoryBytes || bytes % kMemoryGranule != 0) {
      return Invalid(
          field, absl::StrFormat("%d bytes; use a multiple of 2 MiB from 32 MiB to 4 TiB", bytes));
    }
    return absl::OkStatus();
  };
  if (absl::Status status = check("memory.size", memory.size_bytes); !status.ok()) return status;
  if (absl::Status status = check("memory.max", memory.max_bytes); !status.ok()) return status;
  if (memory.max_bytes < memory.size_bytes) {
    return Invalid("memory.max", absl::StrFormat("%d is less than memory.size (%d)",
                                                 memory.max_bytes, memory.size_bytes));
  }
  return absl::OkStatus();
}

absl::Status ValidateBoot(const BootConfig& boot) {
  if (boot.firmware.empty()) {
    if (boot.kernel.empty()) {
      return Invalid("boot.kernel",
                     "missing; name a bzImage or a PVH ELF kernel, or firmware to boot a disk");
    }
    if (!boot.variables.empty()) return Invalid("boot.variables", "they are of firmware");
    if (boot.menu_ms != 0) return Invalid("boot.menu", "only firmware has a boot menu");
    if (boot.retry_ms.has_value()) return Invalid("boot.retry", "only firmware tries again");
    if (!boot.firmware_log.empty()) {
      return Invalid("boot.firmware_log", "there is no firmware that could write one");
    }
    return absl::OkStatus();
  }
  if (boot.firmware == kFirmwareBios && !boot.variables.empty()) {
    return Invalid("boot.variables", "a BIOS keeps none; they are of firmware \"uefi\"");
  }
  if (boot.kernel.empty() && (!boot.initrd.empty() || !boot.cmdline.empty())) {
    return Invalid(boot.initrd.empty() ? "boot.cmdline" : "boot.initrd",
                   "is for a kernel; name one, or firmware takes it from a disk");
  }
  if (boot.menu_ms > kMaxMenuMs) {
    return Invalid("boot.menu",
                   absl::StrFormat("%d ms; at most %d are possible", boot.menu_ms, kMaxMenuMs));
  }
  return absl::OkStatus();
}

absl::Status ValidateSmbios(const VmConfig& config) {
  const SmbiosConfig& smbios = config.smbios;
  for (const auto& [name, value] :
       {std::pair<absl::string_view, const std::string&>{"smbios.vendor", smbios.vendor},
        {"smbios.product", smbios.product},
        {"smbios.version", smbios.version},
        {"smbios.serial", smbios.serial},
        {"smbios.asset_tag", smbios.asset_tag}}) {
    if (value.empty()) continue;
    if (config.boot.firmware.empty()) {
      return Invalid(name, "it is firmware that shows it to the guest; boot with firmware");
    }
    if (value.size() > kMaxSmbiosBytes ||
        std::any_of(value.begin(), value.end(),
                    [](unsigned char c) { return c < 0x20 || c > 0x7e; })) {
      return Invalid(name,
                     absl::StrFormat("use at most %d printable ASCII characters", kMaxSmbiosBytes));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateBootOrder(const VmConfig& config) {
  std::set<uint16_t> used;
  const auto check = [&](std::optional<uint16_t> index, const std::string& field) {
    if (!index.has_value()) return absl::OkStatus();
    if (config.boot.firmware.empty()) {
      return Invalid(field, "there is no choice when a kernel is started directly");
    }
    if (!used.insert(*index).second) {
      return Invalid(field, absl::StrFormat("%d is used twice", *index));
    }
    return absl::OkStatus();
  };
  for (size_t i = 0; i < config.disks.size(); ++i) {
    const absl::Status status =
        check(config.disks[i].boot_index, absl::StrFormat("disks[%d].boot_index", i));
    if (!status.ok()) return status;
  }
  for (size_t i = 0; i < config.cdroms.size(); ++i) {
    const absl::Status status =
        check(config.cdroms[i].boot_index, absl::StrFormat("cdroms[%d].boot_index", i));
    if (!status.ok()) return status;
  }
  for (size_t i = 0; i < config.nics.size(); ++i) {
    const absl::Status status =
        check(config.nics[i].boot_index, absl::StrFormat("nics[%d].boot_index", i));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ValidateCdroms(const std::vector<CdromConfig>& cdroms) {
  if (cdroms.size() > kMaxCdroms) {
    return Invalid("cdroms", absl::StrFormat("%d drives; at most %d fit on the controller",
                                             cdroms.size(), kMaxCdroms));
  }
  for (size_t i = 0; i < cdroms.size(); ++i) {
    if (cdroms[i].serial.size() > kMaxSerialBytes) {
      return Invalid(absl::StrFormat("cdroms[%d].serial", i),
                     absl::StrFormat("\"%s\" has %d bytes; at most %d fit", cdroms[i].serial,
                                     cdroms[i].serial.size(), kMaxSerialBytes));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateDisk(absl::string_view field, const DiskConfig& disk) {
  if (disk.path.empty())
    return Invalid(absl::StrCat(field, ".path"), "missing; name an image, or fd:N");
  if (disk.format == DiskFormat::kUnspecified) {
    return Invalid(absl::StrCat(field, ".format"),
                   absl::StrCat("not stated for ", disk.path,
                                "; use format=raw or format=qcow2, it is never guessed",
                                GuessedKindOf(disk.path)));
  }
  if (disk.serial.size() > kMaxSerialBytes) {
    return Invalid(absl::StrCat(field, ".serial"),
                   absl::StrFormat("\"%s\" has %d bytes; a guest sees at most %d", disk.serial,
                                   disk.serial.size(), kMaxSerialBytes));
  }
  if (!disk.key_file.empty() && disk.format != DiskFormat::kQcow2) {
    return Invalid(absl::StrCat(field, ".key_file"), "only qcow2 images are encrypted");
  }
  if (disk.on_read_error == OnDiskError::kStopOnNoSpace) {
    return Invalid(absl::StrCat(field, ".on_read_error"),
                   "reading needs no space; use report, stop or ignore");
  }
  if (disk.cache_bytes != 0) {
    const std::string name = absl::StrCat(field, ".cache_bytes");
    if (disk.format == DiskFormat::kRaw) {
      return Invalid(name, "a raw disk has no metadata to cache");
    }
    if (disk.cache_bytes < qcow2::kMinCacheBytes || disk.cache_bytes > qcow2::kMaxCacheBytes) {
      return Invalid(name, absl::StrFormat("%d bytes; use 1 MiB to 4 GiB", disk.cache_bytes));
    }
  }
  if (disk.stall_seconds < 1 || disk.stall_seconds > kMaxStallSeconds) {
    return Invalid(
        absl::StrCat(field, ".stall_seconds"),
        absl::StrFormat("%d s is not from 1 to %d", disk.stall_seconds, kMaxStallSeconds));
  }
  if (const absl::Status throttle = ValidateThrottle(disk.throttle); !throttle.ok()) {
    return Invalid(absl::StrCat(field, ".throttle"), std::string(throttle.message()));
  }
  return absl::OkStatus();
}

// Limits that a group's disks share are stated alike.
absl::Status ValidateThrottleGroups(const std::vector<DiskConfig>& disks) {
  for (size_t i = 0; i < disks.size(); ++i) {
    if (disks[i].throttle.group.empty()) continue;
    for (size_t j = 0; j < i; ++j) {
      if (disks[j].throttle.group != disks[i].throttle.group) continue;
      if (disks[j].throttle == disks[i].throttle) continue;
      return Invalid(
          absl::StrFormat("disks[%d].throttle", i),
          absl::StrFormat("disks[%d] has other limits for the group \"%s\"; state them alike", j,
                          disks[i].throttle.group));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateNic(absl::string_view field, const NicConfig& nic) {
  if (nic.fd.has_value() && (!nic.tap.empty() || !nic.bridge.empty())) {
    return Invalid(field, "fd excludes tap and bridge: an open tap is joined by whoever opened it");
  }
  if (!nic.fd.has_value() && nic.tap.empty()) {
    return Invalid(absl::StrCat(field, ".tap"),
                   "missing; name the tap to make, or hand one over with fd=N");
  }
  if (nic.fd.has_value() && *nic.fd < 0) {
    return Invalid(absl::StrCat(field, ".fd"), absl::StrFormat("%d is no descriptor", *nic.fd));
  }
  for (const auto& [name, value] :
       {std::pair<absl::string_view, absl::string_view>{".tap", nic.tap},
        std::pair<absl::string_view, absl::string_view>{".bridge", nic.bridge}}) {
    if (value.size() > kMaxTapBytes) {
      return Invalid(absl::StrCat(field, name),
                     absl::StrFormat("\"%s\" has %d bytes; an interface name has at most %d", value,
                                     value.size(), kMaxTapBytes));
    }
    if (value == "." || value == ".." ||
        value.find_first_of("/:%% \t\n") != absl::string_view::npos) {
      return Invalid(absl::StrCat(field, name),
                     absl::StrFormat("\"%s\" is no interface name", value));
    }
  }
  if (nic.mac.has_value() && ((*nic.mac)[0] & 1) != 0) {
    return Invalid(absl::StrCat(field, ".mac"),
                   "is a multicast address; the first byte must be even");
  }
  if (nic.mac.has_value() && *nic.mac == std::array<uint8_t, 6>{}) {
    return Invalid(absl::StrCat(field, ".mac"), "is all zeros");
  }
  if (nic.mtu != 0 && nic.mtu < 68) {
    return Invalid(absl::StrCat(field, ".mtu"),
                   absl::StrFormat("%d; 68 to 65535 are possible", nic.mtu));
  }
  return absl::OkStatus();
}

absl::Status ValidateSlotsAndIds(const VmConfig& config) {
  std::set<std::string> ids;
  std::set<int> slots;
  const auto check = [&](absl::string_view field, const std::string& id,
                         std::optional<uint8_t> slot) {
    if (!IsId(id)) {
      return Invalid(
          absl::StrCat(field, ".id"),
          absl::StrFormat("\"%s\"; use 1 to %d letters, digits, '-', '_' or '.'", id, kMaxIdBytes));
    }
    if (id == kRngId || id == kAhciId) {
      return Invalid(absl::StrCat(field, ".id"),
                     absl::StrFormat("\"%s\" is a device of the machine's own", id));
    }
    if (!ids.insert(id).second) {
      return Invalid(absl::StrCat(field, ".id"), absl::StrFormat("\"%s\" is used twice", id));
    }
    if (!slot.has_value()) return absl::OkStatus();
    if (*slot < kMinSlot || *slot > kMaxSlot) {
      return Invalid(
          absl::StrCat(field, ".slot"),
          absl::StrFormat("%d; slots %d to %d are free for devices", *slot, kMinSlot, kMaxSlot));
    }
    if (!slots.insert(*slot).second) {
      return Invalid(absl::StrCat(field, ".slot"), absl::StrFormat("%d is used twice", *slot));
    }
    return absl::OkStatus();
  };
  for (size_t i = 0; i < config.disks.size(); ++i) {
    const DiskConfig& disk = config.disks[i];
    if (absl::Status s = check(absl::StrFormat("disks[%d]", i), disk.id, disk.slot); !s.ok())
      return s;
  }
  for (size_t i = 0; i < config.cdroms.size(); ++i) {
    const absl::Status s =
        check(absl::StrFormat("cdroms[%d]", i), config.cdroms[i].id, std::nullopt);
    if (!s.ok()) return s;
  }
  for (size_t i = 0; i < config.nics.size(); ++i) {
    const NicConfig& nic = config.nics[i];
    if (absl::Status s = check(absl::StrFormat("nics[%d]", i), nic.id, nic.slot); !s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateThrottle(const DiskThrottle& throttle) {
  return ValidateThrottle(ThrottleLimitsOf(throttle));
}

void Complete(VmConfig* config) {
  if (config->uuid.empty()) config->uuid = RandomUuid();
  if (config->name.empty()) config->name = config->uuid;
  if (config->cpus.max == 0) config->cpus.max = config->cpus.boot;
  if (config->memory.max_bytes == 0) config->memory.max_bytes = config->memory.size_bytes;
  for (size_t i = 0; i < config->disks.size(); ++i) {
    DiskConfig& disk = config->disks[i];
    if (disk.id.empty()) disk.id = absl::StrFormat("disk%d", i);
    if (disk.serial.empty()) disk.serial = disk.id.substr(0, kMaxSerialBytes);
  }
  for (size_t i = 0; i < config->cdroms.size(); ++i) {
    CdromConfig& cdrom = config->cdroms[i];
    if (cdrom.id.empty()) cdrom.id = absl::StrFormat("cdrom%d", i);
    if (cdrom.serial.empty()) cdrom.serial = cdrom.id.substr(0, kMaxSerialBytes);
  }
  for (size_t i = 0; i < config->nics.size(); ++i) {
    NicConfig& nic = config->nics[i];
    if (nic.id.empty()) nic.id = absl::StrFormat("nic%d", i);
    if (!nic.mac.has_value()) {
      const uint64_t hash = StableHash(config->uuid, i + 1);
      // Locally administered, unicast; 52:56 keeps ours apart from other makers' defaults.
      nic.mac = {0x52,
                 0x56,
                 static_cast<uint8_t>(hash >> 24),
                 static_cast<uint8_t>(hash >> 16),
                 static_cast<uint8_t>(hash >> 8),
                 static_cast<uint8_t>(hash)};
    }
  }
}

absl::Status Validate(const VmConfig& config) {
  if (!IsUuid(config.uuid)) {
    return Invalid(
        "uuid", absl::StrFormat("\"%s\" is not of the form 8-4-4-4-12 hexadecimal", config.uuid));
  }
  if (config.name.size() > 255 || std::any_of(config.name.begin(), config.name.end(),
                                              [](unsigned char c) { return c < 0x20; })) {
    return Invalid("name", "use at most 255 printable bytes");
  }
  if (config.machine != kMachineVersion) {
    return Invalid("machine", absl::StrFormat("unknown machine \"%s\"; this program has %s",
                                              config.machine, kMachineVersion));
  }
  if (absl::Status status = ValidateCpus(config.cpus); !status.ok()) return status;
  if (absl::Status status = ValidateMemory(config.memory); !status.ok()) return status;
  if (absl::Status status = ValidateBoot(config.boot); !status.ok()) return status;
  if (absl::Status status = ValidateSmbios(config); !status.ok()) return status;
  if (absl::Status status = ValidateBootOrder(config); !status.ok()) return status;
  if (config.disks.size() + config.nics.size() > kMaxDevices) {
    return Invalid("disks",
                   absl::StrFormat("%d disks and %d NICs; at most %d devices fit on the bus",
                                   config.disks.size(), config.nics.size(), kMaxDevices));
  }
  for (size_t i = 0; i < config.disks.size(); ++i) {
    if (absl::Status s = ValidateDisk(absl::StrFormat("disks[%d]", i), config.disks[i]); !s.ok())
      return s;
    for (size_t j = 0; j < i; ++j) {
      if (config.disks[i].path == config.disks[j].path) {
        return Invalid(absl::StrFormat("disks[%d].path", i),
                       absl::StrFormat("%s is disks[%d] already", config.disks[i].path, j));
      }
    }
  }
  if (absl::Status status = ValidateThrottleGroups(config.disks); !status.ok()) return status;
  if (absl::Status status = ValidateCdroms(config.cdroms); !status.ok()) return status;
  std::set<std::string> taps;
  for (size_t i = 0; i < config.nics.size(); ++i) {
    const NicConfig& nic = config.nics[i];
    if (absl::Status s = ValidateNic(absl::StrFormat("nics[%d]", i), nic); !s.ok()) return s;
    if (!nic.tap.empty() && !taps.insert(nic.tap).second) {
      return Invalid(absl::StrFormat("nics[%d].tap", i),
                     absl::StrFormat("\"%s\" is used twice", nic.tap));
    }
  }
  if (absl::Status status = ValidateSlotsAndIds(config); !status.ok()) return status;
  const ConsoleConfig& console = config.console;
  if (console.mode == ConsoleMode::kFile && console.path.empty()) {
    return Invalid("console.path", "missing; a file console needs one");
  }
  if (console.history_bytes < (4u << 10) || console.history_bytes > (16u << 20)) {
    return Invalid("console.history_bytes",
                   absl::StrFormat("%d; 4 KiB to 16 MiB are possible", console.history_bytes));
  }
  return absl::OkStatus();
}

}  // namespace vireo
