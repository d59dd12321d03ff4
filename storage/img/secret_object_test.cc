#include "storage/img/secret_object.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/opener.h"
#include "storage/img/luks_options.h"
#include "tests/support/temp_dir.h"

namespace vireo::img {
namespace {

using testing::HasSubstr;

class SecretObjectTest : public testing::Test {
 protected:
  std::string Found(const std::string& id) {
    const auto secret = secrets_.Find(id);
    if (!secret.ok()) return std::string(secret.status().message());
    const std::span<const uint8_t> bytes = (*secret)->bytes();
    return {bytes.begin(), bytes.end()};
  }

  DirectOpener opener_;
  SecretStore secrets_;
  TempDir directory_;
};

TEST_F(SecretObjectTest, TextStandsForItself) {
  ASSERT_TRUE(AddObject(opener_, "secret,id=one,data=a,,b", &secrets_).ok());
  ASSERT_TRUE(AddObject(opener_, "qom-type=secret,id=two,format=raw,data=", &secrets_).ok());
  EXPECT_EQ(Found("one"), "a,b");
  EXPECT_EQ(Found("two"), "");
  EXPECT_EQ(Found("three"), "No secret with id 'three'");
}

TEST_F(SecretObjectTest, Base64IsDecoded) {
  ASSERT_TRUE(AddObject(opener_, "secret,id=s,format=base64,data=aGVsbG8=", &secrets_).ok());
  EXPECT_EQ(Found("s"), "hello");
}

TEST_F(SecretObjectTest, AFileIsTakenAsItIs) {
  std::ofstream(directory_.File("key")) << "line\n";
  ASSERT_TRUE(
      AddObject(opener_, absl::StrCat("secret,id=s,file=", directory_.File("key")), &secrets_)
          .ok());
  EXPECT_EQ(Found("s"), "line\n");
}

struct BadObject {
  const char* text;
  const char* want;
};

class BadObjectTest : public testing::TestWithParam<BadObject> {};

TEST_P(BadObjectTest, IsRefusedInOneLine) {
  DirectOpener opener;
  SecretStore secrets;
  ASSERT_TRUE(AddObject(opener, "secret,id=taken,data=x", &secrets).ok());
  const absl::Status status = AddObject(opener, GetParam().text, &secrets);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().want));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadObjectTest,
    testing::Values(BadObject{"secret,data=x", "Parameter 'id' is missing"},
                    BadObject{"secret,id=s", "Either 'file' or 'data' must be provided"},
                    BadObject{"secret,id=s,data=x,file=y", "mutually exclusive"},
                    BadObject{"secret,id=s,file=/nowhere", "Unable to read /nowhere"},
                    BadObject{"secret,id=s,data=!!,format=base64", "invalid characters"},
                    BadObject{"secret,id=s,data=x,format=y", "does not accept value 'y'"},
                    BadObject{"secret,id=s,data=x,more=y", "Parameter 'more' is unexpected"},
                    BadObject{"secret,id=9,data=x", "expects an identifier"},
                    BadObject{"secret,id=s,data=x,keyid=t", "not supported"},
                    BadObject{"secret,id=taken,data=y", "duplicate property 'taken'"},
                    BadObject{"iothread,id=s", "does not accept value 'iothread'"}));

struct BadEncryption {
  std::map<std::string, std::string> options;
  const char* want;
};

class BadEncryptionTest : public testing::TestWithParam<BadEncryption> {};

TEST_P(BadEncryptionTest, IsRefusedInOneLine) {
  DirectOpener opener;
  SecretStore secrets;
  ASSERT_TRUE(AddObject(opener, "secret,id=s,data=x", &secrets).ok());
  const auto get = [](const char* name) -> std::optional<std::string> {
    const auto found = GetParam().options.find(name);
    if (found == GetParam().options.end()) return std::nullopt;
    return found->second;
  };
  const auto encryption = EncryptionOf(get, secrets);
  ASSERT_FALSE(encryption.ok());
  EXPECT_THAT(std::string(encryption.status().message()), HasSubstr(GetParam().want));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadEncryptionTest,
    testing::Values(BadEncryption{{{"encrypt.format", "luks"}}, "'encrypt.key-secret' is required"},
                    BadEncryption{{{"encrypt.key-secret", "s"}}, "'encrypt.format' is missing"},
                    BadEncryption{{{"encrypt.format", "luks"}, {"encrypt.key-secret", "t"}},
                                  "No secret with id 't'"},
                    BadEncryption{{{"encrypt.format", "aes"}}, "broken AES"},
                    BadEncryption{{{"encryption", "on"}}, "broken AES"},
                    BadEncryption{{{"encrypt.format", "x"}}, "'format' does not accept value 'x'"},
                    BadEncryption{{{"encrypt.format", "luks"}, {"encrypt.cipher-alg", "3des"}},
                                  "'3des'"},
                    BadEncryption{{{"encrypt.format", "luks"},
                                   {"encrypt.key-secret", "s"},
                                   {"encrypt.cipher-alg", "twofish-192"}},
                                  "twofish-192"}));

}  // namespace
}  // namespace vireo::img
