// What a virtual machine is made of, as plain structs: the one form that the command line, the
// configuration file and the API are turned into. Nothing below vmm/ sees this header. A VmConfig
// is validated once, by Validate(); everything after that may rely on the ranges given here.
#ifndef VIREO_VMM_VM_CONFIG_H_
#define VIREO_VMM_VM_CONFIG_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace vireo {

inline constexpr uint32_t kMaxCpus = 64;
inline constexpr uint64_t kMinMemoryBytes = uint64_t{32} << 20;
inline constexpr uint64_t kMaxMemoryBytes = uint64_t{4} << 40;
inline constexpr size_t kMaxSmbiosBytes = 64;
inline constexpr char kMachineVersion[] = "vireo-1";

inline constexpr uint32_t kMaxMenuMs = 65'535;

enum class MemoryBacking { kPrivate, kShared, kHugepages };
enum class DiskFormat { kUnspecified, kRaw, kQcow2 };
enum class OnCrash { kReset, kStop, kPause };
enum class ConsoleMode { kNone, kStdio, kFile, kBuffer };

struct CpuConfig {
  uint32_t boot = 1;                      // vCPUs present at boot, 1..kMaxCpus.
  uint32_t max = 0;                       // Most there may ever be; 0 means `boot`.
  std::string model = "host";             // host, x86-64-v2 or x86-64-v3.
  std::vector<std::string> add_features;  // Linux names as in /proc/cpuinfo.
  std::vector<std::string> remove_features;

  bool operator==(const CpuConfig&) const = default;
};

struct MemoryConfig {
  uint64_t size_bytes = uint64_t{256} << 20;  // A multiple of 2 MiB.
  uint64_t max_bytes = 0;                     // Most there may ever be; 0 means `size_bytes`.
  MemoryBacking backing = MemoryBacking::kPrivate;

  bool operator==(const MemoryConfig&) const = default;
};

// `BootConfig::firmware` of Debian's SeaBIOS and OVMF.
inline constexpr char kFirmwareBios[] = "bios";
inline constexpr char kFirmwareUefi[] = "uefi";

// A kernel that the machine starts in, or firmware, which starts what a disk holds, or both:
// firmware, which starts the kernel.
struct BootConfig {
  std::string kernel;    // Path or fd:N of a bzImage or (without firmware) a PVH ELF.
  std::string initrd;    // Optional, of the kernel.
  std::string cmdline;   // Passed to it as it is.
  std::string firmware;  // One of the above, or path or fd:N of a firmware's image.
  // Path or fd:N of the file that keeps UEFI's variables, made if absent for kFirmwareUefi; empty:
  // they are gone with the process.
  std::string variables;
  // How long firmware offers its boot menu; 0: not at all. At most kMaxMenuMs.
  uint32_t menu_ms = 0;
  // When firmware has found nothing to boot it tries again after so long; 0: never; none: as it
  // likes.
  std::optional<uint32_t> retry_ms;
  std::string firmware_log;  // Path or fd:N to which firmware's debugging output is appended.

  bool operator==(const BootConfig&) const = default;
};

// Bytes or operations.
struct RateLimit {
  uint64_t per_second = 0;     // 0: no limit.
  uint64_t burst = 0;          // Per second, while a burst lasts; 0: no bursts.
  uint32_t burst_seconds = 1;  // How long a burst can last after a rest.

  bool operator==(const RateLimit&) const = default;
};

struct DiskThrottle {
  RateLimit bytes_total;  // Not together with the next two; so with operations.
  RateLimit bytes_read;
  RateLimit bytes_write;
  RateLimit ops_total;
  RateLimit ops_read;
  RateLimit ops_write;
  uint64_t op_bytes = 0;  // A request counts once for each that many bytes; 0: once.
  std::string group;      // Disks of one name share the limits, which are equal; empty: its own.

  bool operator==(const DiskThrottle&) const = default;
};

// What becomes of a request that the host fails.
enum class OnDiskError {
  kReport,         // The guest is told.
  kStop,           // The machine is paused; Resume tries again.
  kStopOnNoSpace,  // As kStop when the host is full, else as kReport. Of writes.
  kIgnore,         // The guest is told that all went well.
};

// What becomes of a machine whose disk does not answer.
enum class OnDiskStall {
  kIgnore,  // Nothing; its requests wait.
  kReport,  // Watchers are told, and again when it answers.
  kPause,   // The same, and the machine is paused until the disk answers.
};

struct DiskConfig {
  std::string id;    // Unique among the devices; empty: "disk0", "disk1", ...
  std::string path;  // Path or fd:N.
  DiskFormat format = DiskFormat::kUnspecified;  // Never guessed: kUnspecified is refused.
  bool read_only = false;
  bool direct = false;          // O_DIRECT instead of the page cache.
  bool write_cache = true;      // False: each write is durable before it is reported.
  std::string serial;           // At most 20 bytes; empty: `id`.
  std::string loop;             // Name of the io loop that serves it; empty: the default one.
  std::optional<uint8_t> slot;  // PCI slot on bus 0, 1..30; none: the next free one.
  std::string key_file;         // Holds the passphrase of an encrypted image; empty: it is not.
  // At most so much for the metadata of a QCOW2 image and of what is beneath it: 1 MiB to 4 GiB;
  // 0 is 32 MiB.
  uint64_t cache_bytes = 0;
  DiskThrottle throttle;
  OnDiskError on_read_error = OnDiskError::kReport;
  OnDiskError on_write_error = OnDiskError::kStopOnNoSpace;
  OnDiskStall on_stall = OnDiskStall::kReport;
  uint32_t stall_seconds = 30;  // 1..86400; until a request without an answer is called a stall.
  bool legacy = false;          // Drivers from before virtio 1.0 find it, too.
  // Firmware tries disks and CD/DVD drives in rising order of it, those without after all others.
  // When none has one: the disks and then the drives, in the order in which they are listed.
  std::optional<uint16_t> boot_index;

  bool operator==(const DiskConfig&) const = default;
};

// A CD/DVD drive on the machine's AHCI controller, which is there when one is.
struct CdromConfig {
  std::string id;      // Unique among the devices; empty: "cdrom0", "cdrom1", ...
  std::string path;    // Path or fd:N of an ISO image, which is only read; empty: no medium is in.
  std::string serial;  // At most 20 bytes; empty: `id`.
  std::optional<uint16_t> boot_index;  // In one order with the disks'.

  bool operator==(const CdromConfig&) const = default;
};

// Ids of devices that a machine has of itself: the entropy device, the CD/DVD drives' controller.
inline constexpr char kRngId[] = "rng";
inline constexpr char kAhciId[] = "ahci";

struct NicConfig {
  std::string id;         // Empty: "nic0", "nic1", ...
  std::string tap;        // Interface to make, at most 15 bytes; empty when `fd` is set.
  std::string bridge;     // Bridge to join; empty: none.
  std::optional<int> fd;  // An already open tap instead.
  std::optional<std::array<uint8_t, 6>> mac;  // None: derived from the VM's uuid and the index.
  uint16_t mtu = 0;                           // 68..65535; 0: the bridge's, else 1500.
  bool link_up = true;
  std::string loop;
  std::optional<uint8_t> slot;
  bool legacy = false;  // As for disks.
  // In one order with the disks'. None: it is not booted from.
  std::optional<uint16_t> boot_index;

  bool operator==(const NicConfig&) const = default;
};

struct ConsoleConfig {
  ConsoleMode mode = ConsoleMode::kBuffer;  // Every mode keeps the ring buffer and serves the API.
  std::string path;                         // For kFile.
  uint32_t history_bytes = 256 << 10;       // 4 KiB..16 MiB of serial output kept for late readers.

  bool operator==(const ConsoleConfig&) const = default;
};

// What the guest reads of itself in SMBIOS, besides the uuid. At most kMaxSmbiosBytes each,
// printable ASCII; what is empty is left out.
struct SmbiosConfig {
  std::string vendor;
  std::string product;
  std::string version;
  std::string serial;
  std::string asset_tag;

  bool operator==(const SmbiosConfig&) const = default;
};

struct VmConfig {
  std::string name;  // For people and logs; empty: the uuid.
  std::string uuid;  // 8-4-4-4-12 hexadecimal; empty: made up at Create.
  std::string machine = kMachineVersion;
  CpuConfig cpus;
  MemoryConfig memory;
  BootConfig boot;
  std::vector<DiskConfig> disks;
  std::vector<CdromConfig> cdroms;  // At most 6.
  std::vector<NicConfig> nics;
  ConsoleConfig console;
  SmbiosConfig smbios;
  bool rng = true;
  OnCrash on_crash = OnCrash::kReset;
  std::vector<std::string>
      allowed_directories;                // Where configured paths may lead; empty: anywhere.
  uint32_t shutdown_timeout_ms = 90'000;  // How long an ACPI shutdown by SIGTERM may take.

  bool operator==(const VmConfig&) const = default;
};

// INVALID_ARGUMENT, naming the limit as command lines do: "iops-read: a burst of ...".
absl::Status ValidateThrottle(const DiskThrottle& throttle);

// Fills what may be left out (ids, serials, max values, uuid, MAC addresses). Call before
// Validate().
void Complete(VmConfig* config);

// INVALID_ARGUMENT with the field, what it is and what would be right, e.g.
// "disks[1].format: not stated; use raw or qcow2 (an image's format is never guessed)".
// UNIMPLEMENTED for what is valid but beyond this machine version.
absl::Status Validate(const VmConfig& config);

}  // namespace vireo

#endif  // VIREO_VMM_VM_CONFIG_H_
