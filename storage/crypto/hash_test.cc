#include "storage/crypto/hash.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/escaping.h"

namespace vireo::crypto {
namespace {

std::span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string Hex(std::span<const uint8_t> bytes) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

std::string HashHex(HashAlgorithm hash, const std::string& head, const std::string& tail) {
  std::vector<uint8_t> digest(DigestBytes(hash));
  Hash(hash, Bytes(head), Bytes(tail), digest);
  return Hex(digest);
}

TEST(HashTest, DigestsAreThoseOfTheStandards) {
  EXPECT_EQ(HashHex(HashAlgorithm::kSha1, "a", "bc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(HashHex(HashAlgorithm::kSha256, "", "abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(HashHex(HashAlgorithm::kMd5, "abc", ""), "900150983cd24fb0d6963f7d28e17f72");
  EXPECT_EQ(HashHex(HashAlgorithm::kRipemd160, "abc", ""),
            "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc");
}

TEST(HashTest, EveryNameFindsItsHash) {
  for (const char* name : {"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160"}) {
    ASSERT_TRUE(HashFromName(name).has_value()) << name;
    EXPECT_STREQ(HashName(*HashFromName(name)), name);
    EXPECT_EQ(HashHex(*HashFromName(name), "x", "").size(), 2 * DigestBytes(*HashFromName(name)));
  }
  EXPECT_FALSE(HashFromName("whirlpool").has_value());
}

TEST(DeriveKeyTest, KeysAreThoseOfTheStandard) {
  std::vector<uint8_t> key(20);
  ASSERT_TRUE(DeriveKey(HashAlgorithm::kSha1, Bytes("password"), Bytes("salt"), 4096, key).ok());
  EXPECT_EQ(Hex(key), "4b007901b765489abead49d926f721d065a429c1");  // RFC 6070
}

TEST(DeriveKeyTest, APassphraseMayBeEmpty) {
  std::vector<uint8_t> key(64);
  EXPECT_TRUE(DeriveKey(HashAlgorithm::kSha512, {}, Bytes("salt"), 1, key).ok());
}

TEST(SameBytesTest, TellsThemApart) {
  EXPECT_TRUE(SameBytes(Bytes("abc"), Bytes("abc")));
  EXPECT_FALSE(SameBytes(Bytes("abc"), Bytes("abd")));
  EXPECT_FALSE(SameBytes(Bytes("abc"), Bytes("ab")));
}

}  // namespace
}  // namespace vireo::crypto
