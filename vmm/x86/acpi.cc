#include "vmm/x86/acpi.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/status.h"
#include "vmm/x86/dsdt.h"

namespace vireo::x86 {
namespace {

constexpr uint32_t kRsdpBlob = 0;
constexpr uint32_t kTablesBlob = 1;
constexpr uint32_t kTableAlignment = 16;
constexpr uint32_t kFacsAlignment = 64;

// ACPI 6.3 §5.2.6, "System Description Table Header".
struct TableHeader {
  char signature[4];
  Le32 length;
  uint8_t revision;
  uint8_t checksum;
  char oem_id[6];
  char oem_table_id[8];
  Le32 oem_revision;
  char creator_id[4];
  Le32 creator_revision;
};
static_assert(sizeof(TableHeader) == 36);

// §5.2.3.2, "Generic Address Structure".
struct GenericAddress {
  uint8_t space = 0;
  uint8_t bit_width = 0;
  uint8_t bit_offset = 0;
  uint8_t access_size = 0;
  Le64 address = uint64_t{0};
};
static_assert(sizeof(GenericAddress) == 12);

// §5.2.5.3, "Root System Description Pointer (RSDP) Structure".
struct Rsdp {
  char signature[8];
  uint8_t checksum;
  char oem_id[6];
  uint8_t revision;
  Le32 rsdt_address;
  Le32 length;
  Le64 xsdt_address;
  uint8_t extended_checksum;
  uint8_t reserved[3];
};
static_assert(sizeof(Rsdp) == 36);
constexpr uint32_t kRsdpFirstChecksumBytes = 20;  // What ACPI 1.0 knew of it.

// §5.2.9, "Fixed ACPI Description Table (FADT)".
struct Fadt {
  TableHeader header;
  Le32 firmware_ctrl;
  Le32 dsdt;
  uint8_t reserved0;
  uint8_t preferred_pm_profile;
  Le16 sci_int;
  Le32 smi_cmd;
  uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
  Le32 pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk;
  Le32 pm2_cnt_blk, pm_tmr_blk, gpe0_blk, gpe1_blk;
  uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len;
  uint8_t gpe0_blk_len, gpe1_blk_len, gpe1_base, cst_cnt;
  Le16 p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
  uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
  Le16 iapc_boot_arch;
  uint8_t reserved1;
  Le32 flags;
  GenericAddress reset_reg;
  uint8_t reset_value;
  Le16 arm_boot_arch;
  uint8_t minor_version;
  Le64 x_firmware_ctrl;
  Le64 x_dsdt;
  GenericAddress x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk;
  GenericAddress x_pm2_cnt_blk, x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk;
  GenericAddress sleep_control_reg, sleep_status_reg;
  char hypervisor_vendor[8];
};
static_assert(sizeof(Fadt) == 276);

// §5.2.10, "Firmware ACPI Control Structure (FACS)".
struct Facs {
  char signature[4];
  Le32 length;
  Le32 hardware_signature;
  Le32 firmware_waking_vector;
  Le32 global_lock;
  Le32 flags;
  Le64 x_firmware_waking_vector;
  uint8_t version;
  uint8_t reserved[31];
};
static_assert(sizeof(Facs) == 64);

// §5.2.12, "Multiple APIC Description Table (MADT)".
struct MadtHeader {
  TableHeader header;
  Le32 local_apic_address;
  Le32 flags;
};
struct MadtLocalApic {
  uint8_t type = 0, length = 8;
  uint8_t processor_uid, apic_id;
  Le32 flags;
};
struct MadtIoapic {
  uint8_t type = 1, length = 12;
  uint8_t id, reserved = 0;
  Le32 address;
  Le32 gsi_base;
};
struct MadtInterruptOverride {
  uint8_t type = 2, length = 10;
  uint8_t bus = 0, source;
  Le32 gsi;
  Le16 flags;
};
struct MadtLocalApicNmi {
  uint8_t type = 4, length = 6;
  uint8_t processor_uid;
  Le16 flags;
  uint8_t lint;
};
struct MadtLocalX2Apic {
  uint8_t type = 9, length = 16;
  Le16 reserved = uint16_t{0};
  Le32 x2apic_id;
  Le32 flags;
  Le32 processor_uid;
};
struct MadtLocalX2ApicNmi {
  uint8_t type = 10, length = 12;
  Le16 flags;
  Le32 processor_uid;
  uint8_t lint;
  uint8_t reserved[3] = {};
};
static_assert(sizeof(MadtHeader) == 44 && sizeof(MadtLocalApic) == 8 && sizeof(MadtIoapic) == 12);
static_assert(sizeof(MadtInterruptOverride) == 10 && sizeof(MadtLocalApicNmi) == 6);
static_assert(sizeof(MadtLocalX2Apic) == 16 && sizeof(MadtLocalX2ApicNmi) == 12);

// §5.2.16, "System Resource Affinity Table (SRAT)".
struct SratHeader {
  TableHeader header;
  Le32 reserved0;  // Always 1.
  Le64 reserved1;
};
struct SratProcessor {
  uint8_t type = 0, length = 16;
  uint8_t domain_low = 0, apic_id;
  Le32 flags;
  uint8_t local_sapic_eid = 0;
  uint8_t domain_high[3] = {};
  Le32 clock_domain = uint32_t{0};
};
struct SratMemory {
  uint8_t type = 1, length = 40;
  Le32 domain = uint32_t{0};
  Le16 reserved0 = uint16_t{0};
  Le64 base;
  Le64 bytes;
  Le32 reserved1 = uint32_t{0};
  Le32 flags;
  Le64 reserved2 = uint64_t{0};
};
struct SratX2Apic {
  uint8_t type = 2, length = 24;
  Le16 reserved0 = uint16_t{0};
  Le32 domain = uint32_t{0};
  Le32 x2apic_id;
  Le32 flags;
  Le32 clock_domain = uint32_t{0};
  Le32 reserved1 = uint32_t{0};
};
static_assert(sizeof(SratHeader) == 48 && sizeof(SratProcessor) == 16);
static_assert(sizeof(SratMemory) == 40 && sizeof(SratX2Apic) == 24);

// PCI Firmware Specification 3.2 §4.1.2, "MCFG Table Description".
struct Mcfg {
  TableHeader header;
  Le64 reserved0;
  Le64 base;
  Le16 segment;
  uint8_t first_bus, last_bus;
  Le32 reserved1;
};
static_assert(sizeof(Mcfg) == 60);

// The largest ID that the 8-bit structures can hold: 255 means "all".
constexpr uint32_t kMostXapicId = 254;

TableHeader Header(std::string_view signature, uint8_t revision) {
  TableHeader header = {};
  std::memcpy(header.signature, signature.data(), sizeof(header.signature));
  header.revision = revision;
  std::memcpy(header.oem_id, "VIREO ", sizeof(header.oem_id));
  std::memcpy(header.oem_table_id, "VIREO-1 ", sizeof(header.oem_table_id));
  header.oem_revision = uint32_t{1};
  std::memcpy(header.creator_id, "VIRE", sizeof(header.creator_id));
  header.creator_revision = uint32_t{1};
  return header;
}

template <typename T>
void Append(std::vector<uint8_t>& bytes, const T& object) {
  const uint8_t* const data = reinterpret_cast<const uint8_t*>(&object);
  bytes.insert(bytes.end(), data, data + sizeof(T));
}

class Builder {
 public:
  Builder() {
    tables_.blobs.push_back(
        {.name = "etc/acpi/rsdp", .bytes = {}, .alignment = 16, .in_f_segment = true});
    tables_.blobs.push_back({.name = "etc/acpi/tables", .bytes = {}, .alignment = kFacsAlignment});
  }

  // Adds a table with its length and checksum, and returns its offset in the tables' blob.
  uint32_t AddTable(std::vector<uint8_t> table) {
    const Le32 length = static_cast<uint32_t>(table.size());
    std::memcpy(table.data() + offsetof(TableHeader, length), &length, sizeof(length));
    const uint32_t offset = AddBytes(table, kTableAlignment);
    tables_.checksums.push_back(
        {.blob = kTablesBlob,
         .offset = offset + static_cast<uint32_t>(offsetof(TableHeader, checksum)),
         .start = offset,
         .length = length});
    return offset;
  }

  uint32_t AddBytes(std::span<const uint8_t> bytes, uint32_t alignment) {
    std::vector<uint8_t>& blob = tables_.blobs[kTablesBlob].bytes;
    blob.resize(AlignUp(blob.size(), alignment));
    const uint32_t offset = static_cast<uint32_t>(blob.size());
    blob.insert(blob.end(), bytes.begin(), bytes.end());
    return offset;
  }

  // The field of `size` bytes at `at` in the tables' blob already holds an offset into that blob.
  void AddPointer(uint32_t at, uint8_t size) {
    tables_.pointers.push_back(
        {.blob = kTablesBlob, .offset = at, .size = size, .target = kTablesBlob});
  }

  void SetRsdp(uint32_t xsdt) {
    Rsdp rsdp = {};
    std::memcpy(rsdp.signature, "RSD PTR ", sizeof(rsdp.signature));
    std::memcpy(rsdp.oem_id, "VIREO ", sizeof(rsdp.oem_id));
    rsdp.revision = 2;
    rsdp.length = uint32_t{sizeof(rsdp)};
    rsdp.xsdt_address = uint64_t{xsdt};
    Append(tables_.blobs[kRsdpBlob].bytes, rsdp);
    tables_.pointers.push_back({.blob = kRsdpBlob,
                                .offset = offsetof(Rsdp, xsdt_address),
                                .size = 8,
                                .target = kTablesBlob});
    // The second checksum covers the first.
    tables_.checksums.push_back({.blob = kRsdpBlob,
                                 .offset = offsetof(Rsdp, checksum),
                                 .start = 0,
                                 .length = kRsdpFirstChecksumBytes});
    tables_.checksums.push_back({.blob = kRsdpBlob,
                                 .offset = offsetof(Rsdp, extended_checksum),
                                 .start = 0,
                                 .length = sizeof(Rsdp)});
  }

  AcpiTables Finish() { return std::move(tables_); }

 private:
  AcpiTables tables_;
};

std::vector<uint8_t> MakeFacs() {
  Facs facs = {};
  std::memcpy(facs.signature, "FACS", sizeof(facs.signature));
  facs.length = uint32_t{sizeof(facs)};
  facs.version = 2;
  std::vector<uint8_t> bytes;
  Append(bytes, facs);
  return bytes;
}

std::vector<uint8_t> MakeDsdt(const AcpiOptions& options) {
  std::vector<uint8_t> bytes;
  Append(bytes, Header("DSDT", 2));  // From revision 2 on integers have 64 bits.
  const std::vector<uint8_t> body = BuildDsdtBody(options);
  bytes.insert(bytes.end(), body.begin(), body.end());
  return bytes;
}

GenericAddress IoPort(uint16_t port, uint8_t bits, uint8_t access_size) {
  constexpr uint8_t kSystemIo = 1;
  return {
      .space = kSystemIo, .bit_width = bits, .access_size = access_size, .address = uint64_t{port}};
}

// `facs` and `dsdt` are offsets, to become addresses.
std::vector<uint8_t> MakeFadt(const AcpiOptions& options, uint32_t facs, uint32_t dsdt) {
  // IAPC_BOOT_ARCH (§5.2.9.3).
  constexpr uint16_t kLegacyDevices = 1 << 0;
  constexpr uint16_t kKeyboardController = 1 << 1;
  constexpr uint16_t kVgaNotPresent = 1 << 2;
  constexpr uint16_t kNoAspm = 1 << 4;
  // Flags (§5.2.9). The power button is of fixed hardware (bit 4 clear), there is no sleep button.
  constexpr uint32_t kWbinvd = 1 << 0;
  constexpr uint32_t kC1Supported = 1 << 2;
  constexpr uint32_t kNoFixedSleepButton = 1 << 5;
  constexpr uint32_t kRtcNotFixed = 1 << 6;
  constexpr uint32_t kResetRegister = 1 << 10;
  constexpr uint16_t kNoC2 = 0xfff;
  constexpr uint16_t kNoC3 = 0xfff;
  constexpr uint8_t kServerProfile = 4;
  constexpr uint8_t kByteAccess = 1, kWordAccess = 2, kDwordAccess = 3;

  Fadt fadt = {};
  fadt.header = Header("FACP", 6);
  fadt.minor_version = 3;
  fadt.firmware_ctrl = facs;
  fadt.dsdt = dsdt;
  fadt.x_dsdt = uint64_t{dsdt};
  fadt.preferred_pm_profile = kServerProfile;
  fadt.sci_int = static_cast<uint16_t>(kSciGsi);
  fadt.smi_cmd = uint32_t{kApmPort};
  fadt.acpi_enable = kAcpiEnableCommand;
  fadt.acpi_disable = kAcpiDisableCommand;
  fadt.pm1a_evt_blk = uint32_t{kPmBasePort};
  fadt.pm1a_cnt_blk = uint32_t{kPmControlPort};
  fadt.pm_tmr_blk = uint32_t{kPmTimerPort};
  fadt.gpe0_blk = uint32_t{kGpe0Port};
  fadt.pm1_evt_len = 4;
  fadt.pm1_cnt_len = 2;
  fadt.pm_tmr_len = 4;
  fadt.gpe0_blk_len = kGpe0Bytes;
  fadt.p_lvl2_lat = kNoC2;
  fadt.p_lvl3_lat = kNoC3;
  fadt.century = kRtcCenturyRegister;
  fadt.iapc_boot_arch =
      static_cast<uint16_t>((options.com1 || options.i8042 ? kLegacyDevices : 0) |
                            (options.i8042 ? kKeyboardController : 0) | kVgaNotPresent | kNoAspm);
  fadt.flags = kWbinvd | kC1Supported | kNoFixedSleepButton | kRtcNotFixed | kResetRegister;
  fadt.reset_reg = IoPort(kResetPort, 8, kByteAccess);
  fadt.reset_value = kResetValue;
  fadt.x_pm1a_evt_blk = IoPort(kPmBasePort, 32, kWordAccess);
  fadt.x_pm1a_cnt_blk = IoPort(kPmControlPort, 16, kWordAccess);
  fadt.x_pm_tmr_blk = IoPort(kPmTimerPort, 32, kDwordAccess);
  fadt.x_gpe0_blk = IoPort(kGpe0Port, kGpe0Bytes * 8, kByteAccess);
  std::vector<uint8_t> bytes;
  Append(bytes, fadt);
  return bytes;
}

std::vector<uint8_t> MakeMadt(const AcpiOptions& options) {
  constexpr uint32_t kPcCompatible = 1 << 0;  // There are two 8259 as well.
  constexpr uint32_t kEnabled = 1 << 0;
  constexpr uint32_t kOnlineCapable = 1 << 1;
  constexpr uint16_t kConforms = 0;
  constexpr uint16_t kActiveHighLevel = 1 | (3 << 2);
  constexpr uint8_t kAllProcessors = 0xff;
  constexpr uint32_t kAllX2ApicProcessors = 0xffffffff;
  constexpr uint8_t kNmiLint = 1;

  std::vector<uint8_t> bytes;
  MadtHeader header = {};
  header.header = Header("APIC", 5);
  header.local_apic_address = static_cast<uint32_t>(kLocalApicAddress);
  header.flags = kPcCompatible;
  Append(bytes, header);
  bool x2apic = false;
  for (size_t i = 0; i < options.apic_ids.size(); ++i) {
    const uint32_t id = options.apic_ids[i];
    const uint32_t flags = i < options.enabled_cpus ? kEnabled : kOnlineCapable;
    if (id <= kMostXapicId) {
      Append(bytes, MadtLocalApic{.processor_uid = static_cast<uint8_t>(i),
                                  .apic_id = static_cast<uint8_t>(id),
                                  .flags = flags});
    } else {
      x2apic = true;
      Append(bytes,
             MadtLocalX2Apic{
                 .x2apic_id = id, .flags = flags, .processor_uid = static_cast<uint32_t>(i)});
    }
  }
  // Its ID is that of KVM's I/O APIC after reset.
  Append(bytes,
         MadtIoapic{
             .id = 0, .address = static_cast<uint32_t>(kIoapicAddress), .gsi_base = uint32_t{0}});
  // The timer's IRQ 0 arrives at pin 2; the SCI is a level.
  Append(bytes, MadtInterruptOverride{.source = 0, .gsi = uint32_t{2}, .flags = kConforms});
  Append(bytes,
         MadtInterruptOverride{
             .source = static_cast<uint8_t>(kSciGsi), .gsi = kSciGsi, .flags = kActiveHighLevel});
  Append(bytes,
         MadtLocalApicNmi{.processor_uid = kAllProcessors, .flags = kConforms, .lint = kNmiLint});
  if (x2apic) {
    Append(bytes, MadtLocalX2ApicNmi{
                      .flags = kConforms, .processor_uid = kAllX2ApicProcessors, .lint = kNmiLint});
  }
  return bytes;
}

std::vector<uint8_t> MakeSrat(const AcpiOptions& options) {
  constexpr uint32_t kEnabled = 1 << 0;
  constexpr uint32_t kHotPluggable = 1 << 1;
  std::vector<uint8_t> bytes;
  SratHeader header = {};
  header.header = Header("SRAT", 3);
  header.reserved0 = uint32_t{1};
  Append(bytes, header);
  for (const uint32_t id : options.apic_ids) {
    if (id <= kMostXapicId) {
      Append(bytes, SratProcessor{.apic_id = static_cast<uint8_t>(id), .flags = kEnabled});
    } else {
      Append(bytes, SratX2Apic{.x2apic_id = id, .flags = kEnabled});
    }
  }
  for (const AddressRange& ram : options.layout.Ram()) {
    Append(bytes, SratMemory{.base = ram.base, .bytes = ram.size, .flags = kEnabled});
  }
  const AddressRange& hotplug = options.layout.hotplug;
  if (hotplug.size != 0) {
    Append(
        bytes,
        SratMemory{.base = hotplug.base, .bytes = hotplug.size, .flags = kEnabled | kHotPluggable});
  }
  return bytes;
}

std::vector<uint8_t> MakeMcfg(const AcpiOptions& options) {
  Mcfg mcfg = {};
  mcfg.header = Header("MCFG", 1);
  mcfg.base = options.ecam_base;
  mcfg.first_bus = 0;
  mcfg.last_bus = kLastPciBus;
  std::vector<uint8_t> bytes;
  Append(bytes, mcfg);
  return bytes;
}

}  // namespace

AcpiTables BuildAcpiTables(const AcpiOptions& options) {
  Builder builder;
  const uint32_t facs = builder.AddBytes(MakeFacs(), kFacsAlignment);
  const uint32_t dsdt = builder.AddTable(MakeDsdt(options));
  const uint32_t fadt = builder.AddTable(MakeFadt(options, facs, dsdt));
  builder.AddPointer(fadt + offsetof(Fadt, firmware_ctrl), 4);
  builder.AddPointer(fadt + offsetof(Fadt, dsdt), 4);
  builder.AddPointer(fadt + offsetof(Fadt, x_dsdt), 8);
  const std::vector<uint32_t> listed = {fadt, builder.AddTable(MakeMadt(options)),
                                        builder.AddTable(MakeSrat(options)),
                                        builder.AddTable(MakeMcfg(options))};
  // §5.2.8, "Extended System Description Table (XSDT)": the others, by 64-bit pointers.
  std::vector<uint8_t> xsdt;
  Append(xsdt, Header("XSDT", 1));
  for (const uint32_t offset : listed) Append(xsdt, Le64(offset));
  const uint32_t xsdt_offset = builder.AddTable(std::move(xsdt));
  for (size_t i = 0; i < listed.size(); ++i) {
    builder.AddPointer(xsdt_offset + static_cast<uint32_t>(sizeof(TableHeader) + 8 * i), 8);
  }
  builder.SetRsdp(xsdt_offset);
  return builder.Finish();
}

absl::StatusOr<std::vector<PlacedBlob>> PlaceAcpiTables(const AcpiTables& tables,
                                                        AddressRange area) {
  std::vector<PlacedBlob> placed;
  uint64_t next = area.base;
  for (const AcpiBlob& blob : tables.blobs) {
    const uint64_t address = AlignUp<uint64_t>(next, blob.alignment);
    next = address + blob.bytes.size();
    if (next > area.end()) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("the ACPI tables need more than the %d bytes there are", area.size));
    }
    placed.push_back({address, blob.bytes});
  }
  for (const AcpiPointerFixup& pointer : tables.pointers) {
    std::vector<uint8_t>& bytes = placed[pointer.blob].bytes;
    VIREO_CHECK(pointer.size <= sizeof(uint64_t) && pointer.offset + pointer.size <= bytes.size());
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + pointer.offset, pointer.size);
    value += placed[pointer.target].address;
    std::memcpy(bytes.data() + pointer.offset, &value, pointer.size);
  }
  for (const AcpiChecksumFixup& checksum : tables.checksums) {
    std::vector<uint8_t>& bytes = placed[checksum.blob].bytes;
    VIREO_CHECK(checksum.start + checksum.length <= bytes.size());
    bytes[checksum.offset] = 0;
    uint8_t sum = 0;
    for (uint32_t i = 0; i < checksum.length; ++i) sum += bytes[checksum.start + i];
    bytes[checksum.offset] = static_cast<uint8_t>(-sum);
  }
  return placed;
}

absl::StatusOr<uint64_t> WriteAcpiTables(const AcpiOptions& options, GuestMemory& memory) {
  ASSIGN_OR_RETURN(const std::vector<PlacedBlob> placed,
                   PlaceAcpiTables(BuildAcpiTables(options), {kAcpiAreaAddress, kAcpiAreaBytes}));
  for (const PlacedBlob& blob : placed) {
    RETURN_IF_ERROR(memory.Write(GuestAddress(blob.address), blob.bytes));
  }
  return placed[kRsdpBlob].address;
}

}  // namespace vireo::x86
