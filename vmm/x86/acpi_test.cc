#include "vmm/x86/acpi.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "base/memory/guest_memory.h"
#include "tests/support/temp_dir.h"
#include "vmm/x86/layout.h"

namespace vireo::x86 {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::UnorderedElementsAre;

using Bytes = std::vector<uint8_t>;
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

template <typename T>
T Get(const Bytes& bytes, size_t offset) {
  T value = {};
  EXPECT_LE(offset + sizeof(T), bytes.size());
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

uint8_t Sum(const Bytes& bytes) {
  return static_cast<uint8_t>(std::accumulate(bytes.begin(), bytes.end(), 0u));
}

AcpiOptions Options(uint32_t cpus, uint32_t max_cpus, uint64_t memory = 256 * kMiB,
                    uint64_t max_memory = 0) {
  AcpiOptions options;
  options.layout = *MakeLayout(
      {.memory_bytes = memory, .max_memory_bytes = max_memory, .physical_address_bits = 40});
  for (uint32_t i = 0; i < max_cpus; ++i) options.apic_ids.push_back(i);
  options.enabled_cpus = cpus;
  return options;
}

// What an operating system does: from the RSDP to each table, checking checksums on the way.
class Reader {
 public:
  explicit Reader(const AcpiOptions& options)
      : memory_(*GuestMemory::Create({{GuestAddress(0), kMiB}}, GuestMemory::Backing::kPrivate)) {
    const absl::StatusOr<uint64_t> rsdp_address = WriteAcpiTables(options, *memory_);
    EXPECT_TRUE(rsdp_address.ok()) << rsdp_address.status();
    rsdp_ = Read(*rsdp_address, 36);
    const Bytes xsdt = Table(Get<uint64_t>(rsdp_, 24));
    for (size_t at = 36; at < xsdt.size(); at += 8) Table(Get<uint64_t>(xsdt, at));
    Table(Get<uint32_t>(tables_["FACP"], 40));
    facs_ = Read(Get<uint32_t>(tables_["FACP"], 36), 64);
  }

  Bytes Read(uint64_t address, size_t bytes) const {
    Bytes out(bytes);
    EXPECT_TRUE(memory_->Read(GuestAddress(address), out).ok()) << std::hex << address;
    return out;
  }

  Bytes Table(uint64_t address) {
    const Bytes header = Read(address, 36);
    const Bytes table = Read(address, Get<uint32_t>(header, 4));
    const std::string signature(table.begin(), table.begin() + 4);
    EXPECT_EQ(Sum(table), 0) << signature;
    tables_[signature] = table;
    return table;
  }

  const Bytes& rsdp() const { return rsdp_; }
  const Bytes& facs() const { return facs_; }
  const Bytes& operator[](const std::string& signature) const { return tables_.at(signature); }
  const std::map<std::string, Bytes>& tables() const { return tables_; }

  // The structures of MADT or SRAT, of one type.
  std::vector<Bytes> Structures(const std::string& signature, uint8_t type) const {
    const Bytes& table = tables_.at(signature);
    std::vector<Bytes> found;
    size_t at = signature == "APIC" ? 44 : 48;
    while (at < table.size()) {
      const uint8_t length = table[at + 1];
      EXPECT_GE(length, 2);
      if (length < 2) break;
      if (table[at] == type) found.emplace_back(table.begin() + at, table.begin() + at + length);
      at += length;
    }
    EXPECT_EQ(at, table.size());
    return found;
  }

 private:
  std::unique_ptr<GuestMemory> memory_;
  Bytes rsdp_;
  Bytes facs_;
  std::map<std::string, Bytes> tables_;
};

TEST(AcpiTest, EveryTableIsFoundFromTheRsdp) {
  const Reader reader(Options(1, 1));
  EXPECT_EQ(std::string(reader.rsdp().begin(), reader.rsdp().begin() + 8), "RSD PTR ");
  EXPECT_EQ(Sum(Bytes(reader.rsdp().begin(), reader.rsdp().begin() + 20)), 0);
  EXPECT_EQ(Sum(reader.rsdp()), 0);
  std::vector<std::string> names;
  for (const auto& [name, table] : reader.tables()) names.push_back(name);
  EXPECT_THAT(names, UnorderedElementsAre("XSDT", "FACP", "APIC", "SRAT", "MCFG", "DSDT"));
  EXPECT_EQ(std::string(reader.facs().begin(), reader.facs().begin() + 4), "FACS");
  EXPECT_EQ(Get<uint32_t>(reader.facs(), 4), 64u);
}

TEST(AcpiTest, FadtTellsOfFixedHardware) {
  const Reader reader(Options(1, 1));
  const Bytes& fadt = reader["FACP"];
  ASSERT_EQ(fadt.size(), 276u);
  EXPECT_EQ(Get<uint16_t>(fadt, 46), kSciGsi);
  EXPECT_EQ(Get<uint32_t>(fadt, 48), 0xb2u);
  EXPECT_EQ(fadt[52], 2);
  EXPECT_EQ(fadt[53], 3);
  EXPECT_EQ(Get<uint32_t>(fadt, 56), 0x600u);
  EXPECT_EQ(Get<uint32_t>(fadt, 64), 0x604u);
  EXPECT_EQ(Get<uint32_t>(fadt, 76), 0x608u);
  EXPECT_EQ(Get<uint32_t>(fadt, 80), 0x620u);
  EXPECT_EQ(fadt[92], 16);
  EXPECT_EQ(fadt[108], kRtcCenturyRegister);
  EXPECT_EQ(Get<uint16_t>(fadt, 109) & 0x23,
            0x03);  // Legacy devices and i8042; there is a CMOS clock.
  const uint32_t flags = Get<uint32_t>(fadt, 112);
  EXPECT_EQ(flags & (1 << 20), 0u);  // Not hardware-reduced.
  EXPECT_EQ(flags & (1 << 4), 0u);   // A fixed power button.
  EXPECT_NE(flags & (1 << 10), 0u);  // A reset register:
  EXPECT_EQ(fadt[116], 1);
  EXPECT_EQ(Get<uint64_t>(fadt, 120), 0xcf9u);
  EXPECT_EQ(fadt[128], 0x0e);
  EXPECT_EQ(Get<uint64_t>(fadt, 140), Get<uint32_t>(fadt, 40));  // X_DSDT
  // The 64-bit forms say the same as the 32-bit ones.
  EXPECT_EQ(Get<uint64_t>(fadt, 148 + 4), 0x600u);
  EXPECT_EQ(Get<uint64_t>(fadt, 172 + 4), 0x604u);
  EXPECT_EQ(Get<uint64_t>(fadt, 208 + 4), 0x608u);
  EXPECT_EQ(Get<uint64_t>(fadt, 220 + 4), 0x620u);
}

TEST(AcpiTest, FadtWithoutKeyboardController) {
  AcpiOptions options = Options(1, 1);
  options.i8042 = false;
  EXPECT_EQ(Get<uint16_t>(Reader(options)["FACP"], 109) & 2, 0);
}

TEST(AcpiTest, MadtListsProcessorsThatAreAndMayBe) {
  const Reader reader(Options(2, 4));
  const std::vector<Bytes> apics = reader.Structures("APIC", 0);
  ASSERT_EQ(apics.size(), 4u);
  EXPECT_THAT(apics[1], ElementsAre(0, 8, 1, 1, 1, 0, 0, 0));
  EXPECT_THAT(apics[3], ElementsAre(0, 8, 3, 3, 2, 0, 0, 0));
  EXPECT_EQ(Get<uint32_t>(reader["APIC"], 36), kLocalApicAddress);
}

TEST(AcpiTest, MadtWiresTheIoapicAsKvmDoes) {
  const Reader reader(Options(1, 1));
  EXPECT_THAT(reader.Structures("APIC", 1),
              ElementsAre(ElementsAre(1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0)));
  EXPECT_THAT(reader.Structures("APIC", 2),
              ElementsAre(ElementsAre(2, 10, 0, 0, 2, 0, 0, 0, 0, 0),
                          ElementsAre(2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0)));
  EXPECT_THAT(reader.Structures("APIC", 4), ElementsAre(ElementsAre(4, 6, 0xff, 0, 0, 1)));
  EXPECT_THAT(reader.Structures("APIC", 10), IsEmpty());
}

TEST(AcpiTest, LargeApicIdsNeedX2Apic) {
  AcpiOptions options = Options(3, 3);
  options.apic_ids = {0, 254, 256};
  const Reader reader(options);
  EXPECT_EQ(reader.Structures("APIC", 0).size(), 2u);
  const std::vector<Bytes> x2apic = reader.Structures("APIC", 9);
  ASSERT_EQ(x2apic.size(), 1u);
  EXPECT_EQ(Get<uint32_t>(x2apic[0], 4), 256u);
  EXPECT_EQ(Get<uint32_t>(x2apic[0], 12), 2u);
  EXPECT_EQ(reader.Structures("APIC", 10).size(), 1u);
  EXPECT_EQ(reader.Structures("SRAT", 2).size(), 1u);
}

TEST(AcpiTest, SratTellsOfMemoryAndWhereMoreMayCome) {
  const Reader reader(Options(2, 2, 4 * kGiB, 8 * kGiB));
  const std::vector<Bytes> memory = reader.Structures("SRAT", 1);
  ASSERT_EQ(memory.size(), 3u);
  const uint64_t high = 4 * kGiB - kLowRamLimit;
  const uint64_t wanted[3][3] = {{0, kLowRamLimit, 1}, {k4GiB, high, 1}, {6 * kGiB, 4 * kGiB, 3}};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(Get<uint64_t>(memory[i], 8), wanted[i][0]);
    EXPECT_EQ(Get<uint64_t>(memory[i], 16), wanted[i][1]);
    EXPECT_EQ(Get<uint32_t>(memory[i], 28), wanted[i][2]);
  }
  EXPECT_EQ(reader.Structures("SRAT", 0).size(), 2u);
}

TEST(AcpiTest, McfgFollowsEcam) {
  AcpiOptions options = Options(1, 1);
  options.ecam_base = 0xe0000000;
  const Bytes mcfg = Reader(options)["MCFG"];
  ASSERT_EQ(mcfg.size(), 60u);
  EXPECT_EQ(Get<uint64_t>(mcfg, 44), 0xe0000000u);
  EXPECT_EQ(Get<uint16_t>(mcfg, 52), 0);
  EXPECT_EQ(mcfg[54], 0);
  EXPECT_EQ(mcfg[55], 0);  // One bus.
}

TEST(AcpiTest, AsManyProcessorsAsCanBeFitTheirPlace) {
  Reader reader(Options(1, 1024));
  EXPECT_EQ(reader.Structures("APIC", 0).size(), 255u);
  EXPECT_EQ(reader.Structures("APIC", 9).size(), 1024u - 255);
}

TEST(AcpiTest, TooSmallAnAreaIsSaid) {
  EXPECT_EQ(
      PlaceAcpiTables(BuildAcpiTables(Options(1, 1)), {kAcpiAreaAddress, 512}).status().code(),
      absl::StatusCode::kResourceExhausted);
}

// Firmware applies the list at addresses of its own choice.
TEST(AcpiTest, FixUpsHoldWhereverTheTablesLie) {
  const AcpiTables tables = BuildAcpiTables(Options(1, 1));
  const std::vector<PlacedBlob> low = *PlaceAcpiTables(tables, {0xe0000, 0x20000});
  const std::vector<PlacedBlob> high = *PlaceAcpiTables(tables, {0x7fe0000, 0x20000});
  EXPECT_EQ(Get<uint64_t>(high[0].bytes, 24) - Get<uint64_t>(low[0].bytes, 24),
            0x7fe0000u - 0xe0000u);
  EXPECT_EQ(Sum(high[0].bytes), 0);
  for (const AcpiChecksumFixup& fixup : tables.checksums) {
    const Bytes& blob = high[fixup.blob].bytes;
    EXPECT_EQ(Sum(Bytes(blob.begin() + fixup.start, blob.begin() + fixup.start + fixup.length)), 0);
  }
  EXPECT_TRUE(tables.blobs[0].in_f_segment);
}

// ACPICA's own disassembler and compiler, where they are installed, judge the byte code.
class DisassembledDsdt : public testing::Test {
 protected:
  void SetUp() override {
    if (::access("/usr/bin/iasl", X_OK) != 0) GTEST_SKIP() << "skipped: iasl is not installed";
  }

  // The source that iasl makes of the DSDT, after it has compiled it again without an error.
  std::string Source(const AcpiOptions& options) {
    const Bytes dsdt = Reader(options)["DSDT"];
    std::ofstream(folder_.File("dsdt.aml"), std::ios::binary)
        .write(reinterpret_cast<const char*>(dsdt.data()), static_cast<long>(dsdt.size()));
    const std::string there = "cd " + folder_.path() + " && ";
    EXPECT_EQ(std::system((there + "iasl -d dsdt.aml >d.log 2>&1").c_str()), 0) << File("d.log");
    EXPECT_EQ(std::system((there + "iasl -p again dsdt.dsl >c.log 2>&1").c_str()), 0)
        << File("c.log");
    EXPECT_THAT(File("c.log"), HasSubstr(" 0 Errors, 0 Warnings"));
    return File("dsdt.dsl");
  }

  std::string File(const std::string& name) {
    std::ifstream file(folder_.File(name));
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

  TempDir folder_;
};

TEST_F(DisassembledDsdt, HoldsTheMachine) {
  const std::string source = Source(Options(2, 4, kGiB, 4 * kGiB));
  for (const char* part : {"PNP0A08", "PNP0B00", "PNP0501", "PNP0303", "PNP0C02", "QEMU0001",
                           "ACPI0007", "_PRT", "_OSC", "_S5", "Device (C003)"}) {
    EXPECT_THAT(source, HasSubstr(part));
  }
  EXPECT_THAT(source, Not(HasSubstr("Device (C004)")));
}

// Nobody else is placed over it.
TEST_F(DisassembledDsdt, DevicesAreAboveAnEcamThatLiesInTheirWindow) {
  EXPECT_THAT(Source(Options(1, 1)), HasSubstr("0xC0000000,         // Range Minimum"));
  AcpiOptions options = Options(1, 1);
  options.ecam_base = 0xe0000000;
  const std::string source = Source(options);
  EXPECT_THAT(source, HasSubstr("0xF0000000,         // Range Minimum"));
  EXPECT_THAT(source, Not(HasSubstr("0xC0000000,         // Range Minimum")));
}

TEST_F(DisassembledDsdt, LeavesOutWhatIsNotThere) {
  AcpiOptions options = Options(1, 1);
  options.i8042 = options.com1 = options.pvpanic = false;
  const std::string source = Source(options);
  EXPECT_THAT(source, Not(HasSubstr("PNP0303")));
  EXPECT_THAT(source, Not(HasSubstr("PNP0501")));
  EXPECT_THAT(source, Not(HasSubstr("QEMU0001")));
}

}  // namespace
}  // namespace vireo::x86
