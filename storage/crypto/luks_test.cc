#include "storage/crypto/luks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/endian.h"
#include "storage/crypto/luks_key.h"
#include "tests/support/memory_file.h"

namespace vireo::crypto {
namespace {

using testing::HasSubstr;

constexpr uint64_t kOffset = 8192;

std::span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

class LuksTest : public testing::Test {
 protected:
  void Make(const LuksOptions& options, const std::string& passphrase) {
    const auto area = MakeLuksArea(options, Bytes(passphrase));
    ASSERT_TRUE(area.ok()) << area.status();
    area_ = {.offset = kOffset, .bytes = area->size()};
    medium_.bytes.assign(kOffset, 0xee);
    medium_.bytes.insert(medium_.bytes.end(), area->begin(), area->end());
  }
  absl::StatusOr<Secret> Unlock(const std::string& passphrase) {
    MemoryFile file(*loop_, medium_);
    const auto header = loop_->RunTask(ReadLuksHeader(file, area_));
    if (!header.ok()) return header.status();
    const Secret secret(passphrase);
    return loop_->RunTask(UnlockLuks(*loop_, file, area_, *header, secret));
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  MemoryMedium medium_;
  LuksArea area_;
};

TEST_F(LuksTest, ThePassphraseOpensWhatItMade) {
  Make({.iteration_ms = 1}, "correct horse");
  const auto key = Unlock("correct horse");
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ(key->size(), 64u);
  const auto again = Unlock("correct horse");
  EXPECT_TRUE(SameBytes(key->bytes(), again->bytes()));
}

TEST_F(LuksTest, AnotherPassphraseDoesNot) {
  Make({.iteration_ms = 1}, "correct horse");
  const auto key = Unlock("correct horsf");
  EXPECT_TRUE(absl::IsPermissionDenied(key.status()));
  EXPECT_THAT(std::string(key.status().message()), HasSubstr("cannot unlock any keyslot"));
}

TEST_F(LuksTest, OtherCiphersAndHashesWorkToo) {
  Make({.cipher = {.family = CipherFamily::kSerpent,
                   .key_bits = 256,
                   .mode = CipherMode::kCbc,
                   .iv = IvGenerator::kEssiv,
                   .iv_hash = HashAlgorithm::kSha256},
        .hash = HashAlgorithm::kSha512,
        .iteration_ms = 1},
       "");
  EXPECT_TRUE(Unlock("").ok());
  EXPECT_FALSE(Unlock("x").ok());
}

TEST_F(LuksTest, TheLayoutIsThatOfQemu) {
  Make({.iteration_ms = 1}, "x");
  MemoryFile file(*loop_, medium_);
  const auto header = loop_->RunTask(ReadLuksHeader(file, area_));
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(area_.bytes, 2068480u);
  EXPECT_EQ(header->payload_offset, 2068480u);
  EXPECT_EQ(header->slots[0].key_material_offset, 4096u);
  EXPECT_EQ(header->slots[7].key_material_offset, 1810432u);
  EXPECT_TRUE(header->slots[0].active);
  EXPECT_FALSE(header->slots[1].active);
  EXPECT_GE(header->slots[0].iterations, 1000u);
  EXPECT_EQ(header->uuid.size(), 36u);
}

TEST(StripesTest, AllOfThemAreNeeded) {
  std::vector<uint8_t> key(33);  // Not whole digests.
  for (size_t i = 0; i < key.size(); ++i) key[i] = static_cast<uint8_t>(3 * i);
  std::vector<uint8_t> stripes(key.size() * 20);
  ASSERT_TRUE(SplitIntoStripes(HashAlgorithm::kSha1, key, stripes).ok());
  std::vector<uint8_t> joined(key.size());
  JoinStripes(HashAlgorithm::kSha1, stripes, joined);
  EXPECT_EQ(joined, key);
  stripes[7 * key.size()] ^= 1;
  JoinStripes(HashAlgorithm::kSha1, stripes, joined);
  EXPECT_NE(joined, key);
}

LuksHeader GoodHeader() {
  LuksHeader header;
  header.payload_offset = LuksAreaBytes(header.cipher);
  header.digest_iterations = 1000;
  header.uuid = "b207ed87-cff9-4c5f-be09-00367ec0efa9";
  for (size_t i = 0; i < kLuksSlots; ++i) {
    header.slots[i].key_material_offset = 4096 + i * 258048;
  }
  header.slots[0].active = true;
  header.slots[0].iterations = 1000;
  return header;
}

TEST(LuksHeaderTest, WhatIsWrittenIsRead) {
  const LuksHeader header = GoodHeader();
  const auto parsed =
      ParseLuksHeader("disk", SerializeLuksHeader(header), LuksAreaBytes(header.cipher));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->uuid, header.uuid);
  EXPECT_EQ(parsed->slots[3].key_material_offset, header.slots[3].key_material_offset);
  EXPECT_EQ(SerializeLuksHeader(*parsed), SerializeLuksHeader(header));
}

struct Damage {
  const char* name;
  size_t offset;
  std::vector<uint8_t> bytes;
  const char* want;
};

class LuksDamageTest : public testing::TestWithParam<Damage> {};

TEST_P(LuksDamageTest, IsRefused) {
  auto bytes = SerializeLuksHeader(GoodHeader());
  std::memcpy(bytes.data() + GetParam().offset, GetParam().bytes.data(), GetParam().bytes.size());
  const auto parsed = ParseLuksHeader("disk", bytes, 2068480);
  ASSERT_FALSE(parsed.ok());
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(GetParam().want));
}

constexpr size_t kSlot0 = 208;

INSTANTIATE_TEST_SUITE_P(
    All, LuksDamageTest,
    testing::Values(
        Damage{"Magic", 0, {'l'}, "no LUKS header"}, Damage{"Version2", 7, {2}, "LUKS version 2"},
        Damage{"CipherWithoutEnd", 8, std::vector<uint8_t>(32, 'a'), "a name without an end"},
        Damage{"UnknownCipher", 8, {'x'}, "\"xes\""},
        Damage{"UnknownHash", 72, {'x'}, "\"xha256\""},
        Damage{"KeyOfNoBytes", 108, {0, 0, 0, 0}, "a key of 0 bytes"},
        Damage{"HugeKey", 108, {0xff, 0xff, 0xff, 0xff}, "a key of 4294967295 bytes"},
        Damage{"PayloadInTheHeader", 104, {0, 0, 0, 1}, "inside the LUKS header"},
        Damage{"NoDigestIterations", 164, {0, 0, 0, 0}, "0 iterations"},
        Damage{"SlotState", kSlot0, {1}, "neither active nor disabled"},
        Damage{"EndlessIterations", kSlot0 + 4, {0xff}, "key slot 0 has 42"},
        Damage{"SlotInTheHeader", kSlot0 + 40, {0, 0, 0, 0}, "outside the area"},
        Damage{"SlotPastTheEnd", kSlot0 + 40, {0xff, 0xff, 0xff, 0xff}, "outside the area"},
        Damage{"SlotsOverlap", kSlot0 + 40, {0, 0, 0, 28}, "overlaps"},
        Damage{"Stripes", kSlot0 + 44, {0xff}, "stripes"}),
    [](const testing::TestParamInfo<Damage>& info) { return info.param.name; });

TEST(LuksHeaderTest, AShortAreaIsRefused) {
  const auto bytes = SerializeLuksHeader(GoodHeader());
  EXPECT_FALSE(ParseLuksHeader("disk", bytes, 591).ok());
  EXPECT_FALSE(ParseLuksHeader("disk", std::span(bytes).first(100), 2068480).ok());
}

TEST(LuksOptionsTest, WhatCannotBeIsRefused) {
  EXPECT_FALSE(ValidateLuksOptions({.iteration_ms = uint32_t{1} << 30}).ok());
  EXPECT_FALSE(ValidateLuksOptions({.cipher = {.iv = IvGenerator::kEssiv}}).ok());
  EXPECT_FALSE(ValidateLuksOptions({.cipher = {.key_bits = 192, .mode = CipherMode::kCbc}}).ok());
  EXPECT_TRUE(ValidateLuksOptions({}).ok());
}

}  // namespace
}  // namespace vireo::crypto
