#include "devices/firmware/smbios.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <string_view>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/endian.h"

namespace vireo {
namespace {

constexpr uint64_t kKiB = 1 << 10;
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;
constexpr uint64_t kRomUnit = 64 * kKiB;
constexpr uint64_t kModuleBytes = 16 * kGiB;  // A memory module is no larger.

// The spec's numbers for what has no better word.
constexpr uint8_t kOther = 1;
constexpr uint8_t kUnknown = 2;
constexpr uint8_t kSafe = 3;
constexpr uint16_t kNoHandle = 0xffff;
constexpr uint16_t kNoErrorInformation = 0xfffe;

// Handles: the type in the upper byte, so that dumps can be read; modules count on from theirs.
constexpr uint16_t HandleOf(uint8_t type) { return static_cast<uint16_t>(type << 8); }

// §5.2.1, the 32-bit entry point.
struct EntryPoint {
  char anchor[4];
  uint8_t checksum;
  uint8_t length;
  uint8_t major, minor;
  Le16 largest_structure;
  uint8_t revision;
  uint8_t formatted[5];
  char intermediate_anchor[5];
  uint8_t intermediate_checksum;
  Le16 table_bytes;
  Le32 table_address;
  Le16 structures;
  uint8_t bcd_revision;
};
static_assert(sizeof(EntryPoint) == 31);
constexpr size_t kIntermediateStart = 16;

struct StructureHeader {
  uint8_t type;
  uint8_t length;  // Without the strings.
  Le16 handle;
};

// §7.1
struct BiosInformation {
  StructureHeader header;
  uint8_t vendor, version;
  Le16 start_segment;
  uint8_t release_date;
  uint8_t rom_size;
  Le64 characteristics;
  uint8_t more_characteristics[2];
  uint8_t major, minor;
  uint8_t controller_major, controller_minor;
};
static_assert(sizeof(BiosInformation) == 0x18);

// §7.2
struct SystemInformation {
  StructureHeader header;
  uint8_t manufacturer, product, version, serial;
  uint8_t uuid[16];
  uint8_t wake_up_type;
  uint8_t sku, family;
};
static_assert(sizeof(SystemInformation) == 0x1b);

// §7.3
struct Baseboard {
  StructureHeader header;
  uint8_t manufacturer, product, version, serial, asset_tag;
  uint8_t features;
  uint8_t location;
  Le16 chassis;
  uint8_t board_type;
  uint8_t contained;
};
static_assert(sizeof(Baseboard) == 0x0f);

// §7.4
struct Chassis {
  StructureHeader header;
  uint8_t manufacturer, type, version, serial, asset_tag;
  uint8_t boot_up_state, power_state, thermal_state, security;
  Le32 oem;
  uint8_t height, cords, contained, contained_bytes;
  uint8_t sku;
};
static_assert(sizeof(Chassis) == 0x16);

// §7.5
struct Processor {
  StructureHeader header;
  uint8_t socket, type, family, manufacturer;
  Le32 cpuid_signature, cpuid_features;
  uint8_t version, voltage;
  Le16 external_clock, max_speed, speed;
  uint8_t status, upgrade;
  Le16 l1_cache, l2_cache, l3_cache;
  uint8_t serial, asset_tag, part;
  uint8_t cores, cores_enabled, threads;
  Le16 characteristics;
  Le16 family2;
};
static_assert(sizeof(Processor) == 0x2a);

// §7.17
struct MemoryArray {
  StructureHeader header;
  uint8_t location, use, error_correction;
  Le32 capacity_kib;
  Le16 error_handle;
  Le16 devices;
  Le64 capacity_bytes;  // When it does not fit the field above.
};
static_assert(sizeof(MemoryArray) == 0x17);

// §7.18
struct MemoryDevice {
  StructureHeader header;
  Le16 array, error_handle;
  Le16 total_width, data_width;
  Le16 size_mib;
  uint8_t form_factor, set;
  uint8_t locator, bank;
  uint8_t type;
  Le16 detail, speed;
  uint8_t manufacturer, serial, asset_tag, part;
  uint8_t attributes;
  Le32 large_size_mib;
  Le16 configured_speed, min_voltage, max_voltage, voltage;
};
static_assert(sizeof(MemoryDevice) == 0x28);

// §7.20
struct MappedAddress {
  StructureHeader header;
  Le32 first_kib, last_kib;
  Le16 array;
  uint8_t width;
  Le64 first_byte, last_byte;  // When they do not fit the fields above.
};
static_assert(sizeof(MappedAddress) == 0x1f);

// §7.33
struct BootInformation {
  StructureHeader header;
  uint8_t reserved[6];
  uint8_t status;
};
static_assert(sizeof(BootInformation) == 0x0b);

// The texts of one structure; fields hold their numbers, from 1 on, or 0 for none.
class Texts {
 public:
  uint8_t Add(std::string_view text) {
    if (text.empty()) return 0;
    bytes_.insert(bytes_.end(), text.begin(), text.end());
    bytes_.push_back(0);
    return ++count_;
  }
  // §6.1.3: the set ends with another null, and an empty set is two of them.
  std::vector<uint8_t> Finish() {
    if (count_ == 0) bytes_.push_back(0);
    bytes_.push_back(0);
    return std::move(bytes_);
  }

 private:
  std::vector<uint8_t> bytes_;
  uint8_t count_ = 0;
};

class Builder {
 public:
  template <typename T>
  void Add(uint8_t type, T structure, Texts texts = {}, uint16_t number = 0) {
    structure.header = {.type = type,
                        .length = uint8_t{sizeof(T)},
                        .handle = static_cast<uint16_t>(HandleOf(type) + number)};
    const auto* const bytes = reinterpret_cast<const uint8_t*>(&structure);
    const std::vector<uint8_t> set = texts.Finish();
    structures_.insert(structures_.end(), bytes, bytes + sizeof(T));
    structures_.insert(structures_.end(), set.begin(), set.end());
    largest_ = std::max(largest_, sizeof(T) + set.size());
    ++count_;
  }

  SmbiosTables Finish() {
    VIREO_CHECK(structures_.size() <= 0xffff, "there are at most 256 memory modules");
    EntryPoint entry = {};
    std::memcpy(entry.anchor, "_SM_", sizeof(entry.anchor));
    entry.length = sizeof(entry);
    entry.major = 2;
    entry.minor = 8;
    entry.largest_structure = static_cast<uint16_t>(largest_);
    std::memcpy(entry.intermediate_anchor, "_DMI_", sizeof(entry.intermediate_anchor));
    entry.table_bytes = static_cast<uint16_t>(structures_.size());
    entry.structures = static_cast<uint16_t>(count_);
    entry.bcd_revision = 0x28;
    std::vector<uint8_t> bytes(sizeof(entry));
    const auto minus_sum = [&bytes](size_t start) {
      uint8_t sum = 0;
      for (size_t i = start; i < bytes.size(); ++i) sum += bytes[i];
      return static_cast<uint8_t>(-sum);
    };
    std::memcpy(bytes.data(), &entry, sizeof(entry));
    bytes[offsetof(EntryPoint, intermediate_checksum)] = minus_sum(kIntermediateStart);
    bytes[offsetof(EntryPoint, checksum)] = minus_sum(0);
    return {.entry_point = std::move(bytes), .structures = std::move(structures_)};
  }

 private:
  std::vector<uint8_t> structures_;
  size_t largest_ = 0;
  size_t count_ = 0;
};

void AddIdentity(const SmbiosOptions& options, Builder& builder) {
  {
    constexpr uint64_t kCharacteristicsUnsupported = 1 << 3;
    constexpr uint8_t kTargetedContent = 1 << 2;
    constexpr uint8_t kVirtualMachine = 1 << 4;
    Texts texts;
    BiosInformation s = {};
    s.vendor = texts.Add("Vireo");
    s.version = texts.Add("vireo-1");
    s.start_segment = uint16_t{0xe800};
    s.release_date = texts.Add("01/01/2026");
    const uint64_t units = std::max<uint64_t>(options.rom_bytes / kRomUnit, 1);
    s.rom_size = static_cast<uint8_t>(std::min<uint64_t>(units - 1, 0xfe));
    s.characteristics = kCharacteristicsUnsupported;
    s.more_characteristics[1] = kTargetedContent | kVirtualMachine;
    s.major = 1;
    s.minor = 0;
    s.controller_major = s.controller_minor = 0xff;  // There is no embedded controller.
    builder.Add(0, s, std::move(texts));
  }
  {
    constexpr uint8_t kPowerSwitch = 6;
    Texts texts;
    SystemInformation s = {};
    s.manufacturer = texts.Add(options.vendor);
    s.product = texts.Add(options.product);
    s.version = texts.Add(options.version);
    s.serial = texts.Add(options.serial);
    // §7.2.1: the first three fields of a UUID are little-endian here.
    constexpr std::array<uint8_t, 16> kOrder = {3, 2, 1,  0,  5,  4,  7,  6,
                                                8, 9, 10, 11, 12, 13, 14, 15};
    for (size_t i = 0; i < 16; ++i) s.uuid[i] = options.uuid[kOrder[i]];
    s.wake_up_type = kPowerSwitch;
    builder.Add(1, s, std::move(texts));
  }
  {
    constexpr uint8_t kHostingBoard = 1 << 0;
    constexpr uint8_t kMotherboard = 0x0a;
    Texts texts;
    Baseboard s = {};
    s.manufacturer = texts.Add(options.vendor);
    s.product = texts.Add(options.product);
    s.version = texts.Add(options.version);
    s.serial = texts.Add(options.serial);
    s.asset_tag = texts.Add(options.asset_tag);
    s.features = kHostingBoard;
    s.chassis = HandleOf(3);
    s.board_type = kMotherboard;
    builder.Add(2, s, std::move(texts));
  }
  {
    Texts texts;
    Chassis s = {};
    s.manufacturer = texts.Add(options.vendor);
    s.type = kOther;
    s.version = texts.Add(options.version);
    s.serial = texts.Add(options.serial);
    s.asset_tag = texts.Add(options.asset_tag);
    s.boot_up_state = s.power_state = s.thermal_state = kSafe;
    s.security = kUnknown;
    builder.Add(3, s, std::move(texts));
  }
}

void AddProcessor(const SmbiosOptions& options, Builder& builder) {
  constexpr uint8_t kCentral = 3;
  constexpr uint8_t kPopulatedAndEnabled = 0x41;
  Texts texts;
  Processor s = {};
  s.socket = texts.Add("CPU 0");
  s.type = kCentral;
  s.family = kOther;
  s.manufacturer = texts.Add("Vireo");
  s.cpuid_signature = options.cpuid_signature;
  s.cpuid_features = options.cpuid_features;
  s.version = texts.Add("vireo-1");
  s.status = kPopulatedAndEnabled;
  s.upgrade = kOther;
  s.l1_cache = s.l2_cache = s.l3_cache = kNoHandle;
  s.cores = s.cores_enabled = s.threads = static_cast<uint8_t>(std::min(options.cpus, 0xffu));
  s.characteristics = uint16_t{1 << 1};  // Unknown.
  s.family2 = uint16_t{kOther};
  builder.Add(4, s, std::move(texts));
}

void AddMemory(const SmbiosOptions& options, Builder& builder) {
  uint64_t total = 0;
  for (const SmbiosMemory& range : options.memory) total += range.size;
  const uint64_t modules = std::max<uint64_t>((total + kModuleBytes - 1) / kModuleBytes, 1);
  {
    constexpr uint8_t kSystemMemory = 3;
    constexpr uint8_t kMultiBitEcc = 6;
    constexpr uint32_t kSeeLargeField = 0x80000000;
    MemoryArray s = {};
    s.location = kOther;
    s.use = kSystemMemory;
    s.error_correction = kMultiBitEcc;
    const uint64_t kib = total / kKiB;
    s.capacity_kib = kib < kSeeLargeField ? static_cast<uint32_t>(kib) : kSeeLargeField;
    s.capacity_bytes = kib < kSeeLargeField ? 0 : total;
    s.error_handle = kNoErrorInformation;
    s.devices = static_cast<uint16_t>(modules);
    builder.Add(16, s);
  }
  for (uint64_t i = 0; i < modules; ++i) {
    constexpr uint16_t kSeeLargeField = 0x7fff;
    constexpr uint8_t kDimm = 9;
    constexpr uint8_t kRam = 7;
    const uint64_t mib = std::min(kModuleBytes, total - i * kModuleBytes) / kMiB;
    Texts texts;
    MemoryDevice s = {};
    s.array = HandleOf(16);
    s.error_handle = kNoErrorInformation;
    s.total_width = s.data_width = uint16_t{0xffff};  // Unknown.
    s.size_mib = mib < kSeeLargeField ? static_cast<uint16_t>(mib) : kSeeLargeField;
    s.large_size_mib = mib < kSeeLargeField ? 0 : static_cast<uint32_t>(mib);
    s.form_factor = kDimm;
    s.locator = texts.Add(absl::StrFormat("DIMM %d", i));
    s.type = kRam;
    s.detail = uint16_t{1 << 1};  // Other.
    s.manufacturer = texts.Add("Vireo");
    builder.Add(17, s, std::move(texts), static_cast<uint16_t>(i));
  }
  for (size_t i = 0; i < options.memory.size(); ++i) {
    constexpr uint64_t kSeeLargeField = 0xffffffff;
    const uint64_t first = options.memory[i].base;
    const uint64_t last = first + options.memory[i].size - 1;
    MappedAddress s = {};
    s.array = HandleOf(16);
    s.width = 1;
    if (last / kKiB < kSeeLargeField) {
      s.first_kib = static_cast<uint32_t>(first / kKiB);
      s.last_kib = static_cast<uint32_t>(last / kKiB);
    } else {
      s.first_kib = s.last_kib = static_cast<uint32_t>(kSeeLargeField);
      s.first_byte = first;
      s.last_byte = last;
    }
    builder.Add(19, s, {}, static_cast<uint16_t>(i));
  }
}

}  // namespace

SmbiosTables BuildSmbios(const SmbiosOptions& options) {
  struct EndOfTable {
    StructureHeader header;
  };
  Builder builder;
  AddIdentity(options, builder);
  AddProcessor(options, builder);
  AddMemory(options, builder);
  builder.Add(32, BootInformation{});  // Status 0: no error.
  builder.Add(127, EndOfTable{});
  return builder.Finish();
}

}  // namespace vireo
