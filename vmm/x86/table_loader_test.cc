#include "vmm/x86/table_loader.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/layout.h"

namespace vireo::x86 {
namespace {

using Bytes = std::vector<uint8_t>;

template <typename T>
T Get(const Bytes& bytes, size_t offset) {
  T value = {};
  EXPECT_LE(offset + sizeof(T), bytes.size());
  if (offset + sizeof(T) <= bytes.size()) std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

std::string Name(const Bytes& script, size_t offset) {
  const char* const text = reinterpret_cast<const char*>(script.data() + offset);
  return std::string(text, strnlen(text, 56));
}

AcpiOptions Options() {
  AcpiOptions options;
  options.layout = *MakeLayout({.memory_bytes = uint64_t{5} << 30, .physical_address_bits = 40});
  options.apic_ids = {0, 1, 2, 3};
  options.enabled_cpus = 2;
  return options;
}

struct Loaded {
  uint64_t address;
  Bytes bytes;
};

// What a firmware does with the script: each command read at its place in the 128 bytes, by numbers
// that are written out here once more.
class FakeFirmware {
 public:
  FakeFirmware(const AcpiTables& tables, const Bytes& script) {
    EXPECT_EQ(script.size() % 128, 0u);
    for (size_t at = 0; at + 128 <= script.size(); at += 128) {
      const std::string file = Name(script, at + 4);
      switch (Get<uint32_t>(script, at)) {
        case 1:
          Allocate(tables, file, Get<uint32_t>(script, at + 60), script[at + 64]);
          break;
        case 2:
          Point(loaded_.at(file), loaded_.at(Name(script, at + 60)).address,
                Get<uint32_t>(script, at + 116), script[at + 120]);
          break;
        case 3:
          Sum(loaded_.at(file).bytes, Get<uint32_t>(script, at + 60),
              Get<uint32_t>(script, at + 64), Get<uint32_t>(script, at + 68));
          break;
        default:
          ADD_FAILURE() << "command " << Get<uint32_t>(script, at);
      }
    }
  }

  const Loaded& operator[](const std::string& file) const { return loaded_.at(file); }

 private:
  void Allocate(const AcpiTables& tables, const std::string& file, uint32_t alignment,
                uint8_t zone) {
    const auto blob = std::ranges::find(tables.blobs, file, &AcpiBlob::name);
    ASSERT_NE(blob, tables.blobs.end()) << file;
    uint64_t& next = zone == 2 ? f_segment_ : high_;
    next = (next + alignment - 1) / alignment * alignment;
    loaded_[file] = {.address = next, .bytes = blob->bytes};
    next += blob->bytes.size();
  }
  void Point(Loaded& to, uint64_t address, uint32_t offset, uint8_t size) {
    uint64_t value = 0;
    ASSERT_LE(offset + size, to.bytes.size());
    std::memcpy(&value, to.bytes.data() + offset, size);
    value += address;
    std::memcpy(to.bytes.data() + offset, &value, size);
  }
  void Sum(Bytes& bytes, uint32_t offset, uint32_t start, uint32_t length) {
    ASSERT_LE(start + length, bytes.size());
    uint8_t sum = 0;
    for (uint32_t i = 0; i < length; ++i) sum += bytes[start + i];
    bytes[offset] -= sum;
  }

  std::map<std::string, Loaded> loaded_;
  uint64_t f_segment_ = 0xf5a33;  // Alignment is the script's business.
  uint64_t high_ = 0x7ffe1234;
};

uint8_t SumOf(const Bytes& bytes, size_t start, size_t length) {
  uint8_t sum = 0;
  for (size_t i = start; i < start + length; ++i) sum += bytes[i];
  return sum;
}

TEST(TableLoaderTest, FirmwareArrivesAtEveryTable) {
  const AcpiTables tables = BuildAcpiTables(Options());
  const FakeFirmware firmware(tables, BuildTableLoader(tables));

  const Loaded& rsdp = firmware["etc/acpi/rsdp"];
  EXPECT_GE(rsdp.address, 0xf0000u);
  EXPECT_EQ(rsdp.address % 16, 0u);
  EXPECT_EQ(Get<uint64_t>(rsdp.bytes, 0), 0x2052545020445352u);  // "RSD PTR "
  EXPECT_EQ(SumOf(rsdp.bytes, 0, 20), 0);
  EXPECT_EQ(SumOf(rsdp.bytes, 0, 36), 0);

  const Loaded& blob = firmware["etc/acpi/tables"];
  const auto at = [&blob](uint64_t address) { return static_cast<size_t>(address - blob.address); };
  const size_t xsdt = at(Get<uint64_t>(rsdp.bytes, 24));
  std::map<std::string, size_t> found;
  const auto check = [&](size_t table) {
    const std::string signature(reinterpret_cast<const char*>(blob.bytes.data() + table), 4);
    EXPECT_EQ(SumOf(blob.bytes, table, Get<uint32_t>(blob.bytes, table + 4)), 0) << signature;
    found[signature] = table;
  };
  check(xsdt);
  for (size_t i = 36; i < Get<uint32_t>(blob.bytes, xsdt + 4); i += 8) {
    check(at(Get<uint64_t>(blob.bytes, xsdt + i)));
  }
  check(at(Get<uint64_t>(blob.bytes, found.at("FACP") + 140)));  // X_DSDT
  EXPECT_EQ(Get<uint32_t>(blob.bytes, found.at("FACP") + 40),
            Get<uint64_t>(blob.bytes, found.at("FACP") + 140));
  for (const char* signature : {"XSDT", "FACP", "APIC", "SRAT", "MCFG", "DSDT"}) {
    EXPECT_EQ(found.count(signature), 1u) << signature;
  }
  const size_t facs = at(Get<uint32_t>(blob.bytes, found.at("FACP") + 36));
  EXPECT_EQ(Get<uint32_t>(blob.bytes, facs), 0x53434146u);  // "FACS"
  EXPECT_EQ((blob.address + facs) % 64, 0u);
}

// Its directory is read before ECAM has its place, the tables after.
TEST(TableLoaderTest, SizesAndScriptDoNotDependOnEcam) {
  AcpiOptions moved = Options();
  moved.ecam_base = 0xe0000000;
  const AcpiTables here = BuildAcpiTables(Options());
  const AcpiTables there = BuildAcpiTables(moved);
  EXPECT_EQ(BuildTableLoader(here), BuildTableLoader(there));
  ASSERT_EQ(here.blobs.size(), there.blobs.size());
  for (size_t i = 0; i < here.blobs.size(); ++i) {
    EXPECT_EQ(here.blobs[i].bytes.size(), there.blobs[i].bytes.size());
  }
  EXPECT_EQ(here.blobs[0].bytes, there.blobs[0].bytes);
  EXPECT_NE(here.blobs[1].bytes, there.blobs[1].bytes);
}

}  // namespace
}  // namespace vireo::x86
