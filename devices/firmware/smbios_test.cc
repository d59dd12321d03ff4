#include "devices/firmware/smbios.h"

#include <cstring>
#include <map>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Bytes = std::vector<uint8_t>;

constexpr uint64_t kGiB = 1 << 30;

template <typename T>
T Get(const Bytes& bytes, size_t offset) {
  T value = {};
  EXPECT_LE(offset + sizeof(T), bytes.size());
  if (offset + sizeof(T) <= bytes.size()) std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

uint8_t Sum(const Bytes& bytes, size_t start = 0) {
  uint8_t sum = 0;
  for (size_t i = start; i < bytes.size(); ++i) sum += bytes[i];
  return sum;
}

struct Structure {
  uint8_t type;
  uint16_t handle;
  Bytes fields;  // Header included.
  std::vector<std::string> texts;
  // The text that field `offset` numbers.
  std::string Text(size_t offset) const {
    const uint8_t number = fields.at(offset);
    return number == 0 ? "" : texts.at(number - 1);
  }
};

// Walks the structures as DSP0134 §6.1 tells.
std::vector<Structure> Decode(const Bytes& bytes) {
  std::vector<Structure> structures;
  size_t at = 0;
  while (at + 4 <= bytes.size()) {
    Structure s = {.type = bytes[at], .handle = Get<uint16_t>(bytes, at + 2)};
    const size_t length = bytes[at + 1];
    s.fields.assign(bytes.begin() + at, bytes.begin() + at + length);
    at += length;
    while (bytes.at(at) != 0) {
      s.texts.push_back(reinterpret_cast<const char*>(bytes.data() + at));
      at += s.texts.back().size() + 1;
    }
    at += s.texts.empty() ? 2 : 1;
    structures.push_back(std::move(s));
  }
  EXPECT_EQ(at, bytes.size());
  return structures;
}

SmbiosOptions Options() {
  return {.uuid = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc,
                   0xdd, 0xee, 0xff},
          .vendor = "Clouds",
          .product = "Cumulus",
          .version = "9",
          .serial = "S-1",
          .asset_tag = "i-42",
          .cpus = 2,
          .cpuid_signature = 0x00800f12,
          .cpuid_features = 0x0178bfff,
          .rom_bytes = 256 << 10,
          .memory = {{.base = 0, .size = 2 * kGiB}, {.base = 4 * kGiB, .size = 6 * kGiB}}};
}

class SmbiosTest : public testing::Test {
 protected:
  explicit SmbiosTest(const SmbiosOptions& options = Options()) : tables_(BuildSmbios(options)) {
    for (Structure& s : Decode(tables_.structures)) {
      handles_[s.handle] += 1;
      by_type_[s.type].push_back(std::move(s));
    }
  }
  const Structure& Only(uint8_t type) {
    EXPECT_EQ(by_type_[type].size(), 1u) << int{type};
    return by_type_[type].at(0);
  }

  SmbiosTables tables_;
  std::map<uint8_t, std::vector<Structure>> by_type_;
  std::map<uint16_t, int> handles_;
};

TEST_F(SmbiosTest, EntryPointFitsTheStructures) {
  const Bytes& entry = tables_.entry_point;
  ASSERT_EQ(entry.size(), 31u);
  EXPECT_EQ(std::string(entry.begin(), entry.begin() + 4), "_SM_");
  EXPECT_EQ(std::string(entry.begin() + 16, entry.begin() + 21), "_DMI_");
  EXPECT_EQ(entry[5], 31);
  EXPECT_THAT(Bytes(entry.begin() + 6, entry.begin() + 8), ElementsAre(2, 8));
  EXPECT_EQ(Sum(entry), 0);
  EXPECT_EQ(Sum(entry, 16), 0);
  EXPECT_EQ(Get<uint16_t>(entry, 22), tables_.structures.size());
  size_t count = 0;
  for (const auto& [type, structures] : by_type_) count += structures.size();
  EXPECT_EQ(Get<uint16_t>(entry, 28), count);
}

TEST_F(SmbiosTest, EveryTypeIsThereWithAHandleOfItsOwn) {
  for (const uint8_t type : {0, 1, 2, 3, 4, 16, 17, 19, 32, 127}) {
    EXPECT_THAT(by_type_[type], testing::Not(IsEmpty())) << int{type};
  }
  for (const auto& [handle, uses] : handles_) EXPECT_EQ(uses, 1) << handle;
  EXPECT_EQ(Decode(tables_.structures).back().type, 127);
}

// What cloud-init and inventories look at.
TEST_F(SmbiosTest, TellsWhoseMachineItIs) {
  const Structure& system = Only(1);
  EXPECT_EQ(system.Text(4), "Clouds");
  EXPECT_EQ(system.Text(5), "Cumulus");
  EXPECT_EQ(system.Text(6), "9");
  EXPECT_EQ(system.Text(7), "S-1");
  EXPECT_THAT(Bytes(system.fields.begin() + 8, system.fields.begin() + 24),
              ElementsAre(0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb,
                          0xcc, 0xdd, 0xee, 0xff));
  EXPECT_EQ(Only(3).Text(4), "Clouds");
  EXPECT_EQ(Only(3).Text(7), "S-1");
  EXPECT_EQ(Only(3).Text(8), "i-42");
  EXPECT_EQ(Only(2).Text(8), "i-42");
  EXPECT_EQ(Get<uint16_t>(Only(2).fields, 11), Only(3).handle);
}

TEST_F(SmbiosTest, TellsOfFirmwareAndProcessors) {
  EXPECT_EQ(Only(0).fields[9], 3);  // (n + 1) * 64 KiB
  const Structure& processor = Only(4);
  EXPECT_EQ(Get<uint32_t>(processor.fields, 8), 0x00800f12u);
  EXPECT_EQ(Get<uint32_t>(processor.fields, 12), 0x0178bfffu);
  EXPECT_EQ(processor.fields[0x23], 2);
  EXPECT_EQ(processor.fields[0x18], 0x41);
}

TEST_F(SmbiosTest, TellsOfMemory) {
  EXPECT_EQ(Get<uint32_t>(Only(16).fields, 7), 8u << 20);
  EXPECT_EQ(Get<uint16_t>(Only(16).fields, 13), 1);
  EXPECT_EQ(Get<uint16_t>(Only(17).fields, 12), 8192);
  EXPECT_EQ(Get<uint16_t>(Only(17).fields, 4), Only(16).handle);
  ASSERT_EQ(by_type_[19].size(), 2u);
  EXPECT_EQ(Get<uint32_t>(by_type_[19][0].fields, 8), (2u << 20) - 1);
  EXPECT_EQ(Get<uint32_t>(by_type_[19][1].fields, 4), 4u << 20);
  EXPECT_EQ(Get<uint32_t>(by_type_[19][1].fields, 8), (10u << 20) - 1);
}

class LargeSmbiosTest : public SmbiosTest {
 protected:
  static SmbiosOptions Large() {
    SmbiosOptions options = Options();
    options.vendor = options.product = options.version = options.serial = options.asset_tag = "";
    options.cpus = 300;
    options.rom_bytes = 16 << 20;
    options.memory = {{.base = 0, .size = 2 * kGiB}, {.base = 4 * kGiB, .size = 4094 * kGiB}};
    return options;
  }
  LargeSmbiosTest() : SmbiosTest(Large()) {}
};

TEST_F(LargeSmbiosTest, UsesTheFieldsForLargeNumbers) {
  EXPECT_EQ(Get<uint32_t>(Only(16).fields, 7), 0x80000000u);
  EXPECT_EQ(Get<uint64_t>(Only(16).fields, 15), 4096 * kGiB);
  EXPECT_EQ(by_type_[17].size(), 256u);
  EXPECT_EQ(Get<uint16_t>(by_type_[17][255].fields, 12), 16384);
  EXPECT_EQ(Get<uint32_t>(by_type_[19][1].fields, 4), 0xffffffffu);
  EXPECT_EQ(Get<uint64_t>(by_type_[19][1].fields, 15), 4 * kGiB);
  EXPECT_EQ(Get<uint64_t>(by_type_[19][1].fields, 23), 4098 * kGiB - 1);
  EXPECT_EQ(Only(4).fields[0x23], 0xff);
}

TEST_F(LargeSmbiosTest, TextsThatAreNotSetAreLeftOut) {
  EXPECT_THAT(Only(1).texts, IsEmpty());
  EXPECT_EQ(Only(1).Text(4), "");
}

}  // namespace
}  // namespace vireo
