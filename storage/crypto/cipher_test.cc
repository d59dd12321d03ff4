#include "storage/crypto/cipher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/escaping.h"

namespace vireo::crypto {
namespace {

using testing::HasSubstr;

std::vector<uint8_t> FromHex(const std::string& hex) {
  const std::string bytes = absl::HexStringToBytes(hex);
  return {bytes.begin(), bytes.end()};
}

std::string Hex(std::span<const uint8_t> bytes) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

std::vector<uint8_t> Counting(size_t count) {
  std::vector<uint8_t> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(i);
  return bytes;
}

TEST(SectorCipherTest, XtsIsThatOfTheStandard) {
  // IEEE 1619, vectors 4 and 5: sectors 0 and 1, the second of which has the first's ciphertext as
  // its text.
  const std::vector<uint8_t> key =
      FromHex("2718281828459045235360287471352631415926535897932384626433832795");
  const auto cipher = SectorCipher::Create({.key_bits = 128}, key);
  ASSERT_TRUE(cipher.ok()) << cipher.status();
  const std::vector<uint8_t> text = Counting(512);
  std::vector<uint8_t> out(512);
  (*cipher)->Encrypt(0, text, out);
  EXPECT_EQ(Hex(std::span(out).first(32)),
            "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c");
  (*cipher)->Encrypt(1, out, out);
  EXPECT_EQ(Hex(std::span(out).first(32)),
            "264d3ca8512194fec312c8c9891f279fefdd608d0c027b60483a3fa811d65ee5");
}

struct CipherCase {
  const char* name;
  const char* luks_name;
  const char* luks_mode;
  size_t key_bytes;
};

class CipherCaseTest : public testing::TestWithParam<CipherCase> {};

TEST_P(CipherCaseTest, EverySectorHasACiphertextOfItsOwnAndComesBack) {
  const CipherCase& test = GetParam();
  const auto spec = CipherFromLuks(test.luks_name, test.luks_mode, test.key_bytes);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(LuksCipherName(*spec), test.luks_name);
  EXPECT_EQ(LuksCipherMode(*spec), test.luks_mode);
  const std::vector<uint8_t> key = Counting(test.key_bytes);
  const auto cipher = SectorCipher::Create(*spec, key);
  ASSERT_TRUE(cipher.ok()) << cipher.status();
  const std::vector<uint8_t> text(1024, 'v');
  std::vector<uint8_t> bytes = text;
  (*cipher)->Encrypt(7, bytes, bytes);
  EXPECT_NE(bytes, text);
  EXPECT_EQ(std::equal(bytes.begin(), bytes.begin() + 512, bytes.begin() + 512),
            spec->mode == CipherMode::kEcb);
  std::vector<uint8_t> second(512);
  (*cipher)->Decrypt(8, std::span(bytes).last(512), second);
  EXPECT_EQ(second, std::vector<uint8_t>(512, 'v'));
  (*cipher)->Decrypt(7, bytes, bytes);
  EXPECT_EQ(bytes, text);
}

INSTANTIATE_TEST_SUITE_P(
    All, CipherCaseTest,
    testing::Values(CipherCase{"Aes128Xts", "aes", "xts-plain64", 32},
                    CipherCase{"Aes256Xts", "aes", "xts-plain64", 64},
                    CipherCase{"Aes192Cbc", "aes", "cbc-plain", 24},
                    CipherCase{"Aes256CbcEssiv", "aes", "cbc-essiv:sha256", 32},
                    CipherCase{"Aes256XtsEssiv", "aes", "xts-essiv:sha256", 64},
                    CipherCase{"Aes256Ctr", "aes", "ctr-plain64", 32},
                    CipherCase{"Aes128Ecb", "aes", "ecb-plain64", 16},
                    CipherCase{"Serpent256Xts", "serpent", "xts-plain64", 64},
                    CipherCase{"Serpent192Cbc", "serpent", "cbc-plain64", 24},
                    CipherCase{"Twofish128Cbc", "twofish", "cbc-essiv:sha256", 16},
                    CipherCase{"Twofish256Xts", "twofish", "xts-plain64", 64},
                    CipherCase{"Cast5Cbc", "cast5", "cbc-plain64", 16},
                    CipherCase{"Cast5Ctr", "cast5", "ctr-plain", 16}),
    [](const testing::TestParamInfo<CipherCase>& info) { return info.param.name; });

TEST(SectorCipherTest, PlainVectorsHave32Bits) {
  const std::vector<uint8_t> key = Counting(64);
  std::vector<uint8_t> low(512, 1);
  std::vector<uint8_t> high(512, 1);
  const auto plain = SectorCipher::Create({.iv = IvGenerator::kPlain}, key);
  (*plain)->Encrypt(5, low, low);
  (*plain)->Encrypt((uint64_t{1} << 32) + 5, high, high);
  EXPECT_EQ(low, high);
  const auto plain64 = SectorCipher::Create({}, key);
  std::vector<uint8_t> other(512, 1);
  (*plain64)->Encrypt((uint64_t{1} << 32) + 5, other, other);
  EXPECT_NE(low, other);
}

struct RefusedCase {
  const char* name;
  const char* luks_name;
  const char* luks_mode;
  size_t key_bytes;
};

class RefusedCipherTest : public testing::TestWithParam<RefusedCase> {};

TEST_P(RefusedCipherTest, IsRefusedByName) {
  const RefusedCase& test = GetParam();
  const auto spec = CipherFromLuks(test.luks_name, test.luks_mode, test.key_bytes);
  ASSERT_FALSE(spec.ok());
  EXPECT_THAT(std::string(spec.status().message()), HasSubstr(test.luks_name));
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusedCipherTest,
    testing::Values(RefusedCase{"UnknownCipher", "blowfish", "cbc-plain", 16},
                    RefusedCase{"Twofish192", "twofish", "cbc-plain", 24},
                    RefusedCase{"UnknownMode", "aes", "lrw-plain", 16},
                    RefusedCase{"NoVectors", "aes", "xts", 64},
                    RefusedCase{"UnknownVectors", "aes", "xts-benbi", 64},
                    RefusedCase{"UnknownVectorHash", "aes", "cbc-essiv:crc32", 32},
                    RefusedCase{"OddKey", "aes", "xts-plain64", 33},
                    RefusedCase{"LongKey", "aes", "xts-plain64", size_t{1} << 30},
                    RefusedCase{"XtsOfSmallBlocks", "cast5", "xts-plain64", 32},
                    RefusedCase{"EssivKeyThatAesHasNot", "aes", "cbc-essiv:sha1", 32}),
    [](const testing::TestParamInfo<RefusedCase>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo::crypto
