#include "vmm/variable_store.h"

#include <sys/stat.h>

#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

using testing::HasSubstr;

std::vector<uint8_t> Template() {
  std::vector<uint8_t> bytes(8192, 0xff);
  for (int i = 0; i < 4; ++i) bytes[40 + i] = static_cast<uint8_t>("_FVH"[i]);
  return bytes;
}

class VariableStoreTest : public testing::Test {
 protected:
  std::string Path() { return folder_.File("vars.fd"); }
  absl::StatusOr<VariableStore> Open() { return VariableStore::Open(opener_, Path(), Template()); }
  std::string Contents() {
    std::ostringstream text;
    text << std::ifstream(Path(), std::ios::binary).rdbuf();
    return text.str();
  }
  void Write(const std::string& bytes) {
    std::ofstream(Path(), std::ios::binary | std::ios::trunc) << bytes;
  }

  TempDir folder_;
  DirectOpener opener_;
};

TEST_F(VariableStoreTest, BeginsAsTheTemplateAndKeepsWhatIsWritten) {
  {
    absl::StatusOr<VariableStore> store = Open();
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ(store->contents()[40], '_');
    store->contents()[100] = 0x42;
    EXPECT_EQ(Contents()[100], 0x42);  // At once.
  }
  const absl::StatusOr<VariableStore> again = Open();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->contents()[100], 0x42);
  struct stat file;
  ASSERT_EQ(stat(Path().c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
}

TEST_F(VariableStoreTest, AnEmptyFileIsFilled) {
  Write("");
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Contents().size(), 8192u);
}

TEST_F(VariableStoreTest, OneMachineHasIt) {
  std::optional<absl::StatusOr<VariableStore>> first = Open();
  ASSERT_TRUE(first->ok());
  const absl::Status second = Open().status();
  EXPECT_EQ(second.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(second.message()), HasSubstr("another machine uses it"));
  first.reset();
  EXPECT_TRUE(Open().ok());
}

TEST_F(VariableStoreTest, RefusesWhatIsNone) {
  Write(std::string(4096, 'x'));
  EXPECT_THAT(std::string(Open().status().message()),
              HasSubstr("it has 4096 bytes; this firmware's have 8192"));
  Write(std::string(8192, 'x'));
  EXPECT_THAT(std::string(Open().status().message()), HasSubstr("no firmware volume"));
  EXPECT_EQ(Contents(), std::string(8192, 'x'));
  EXPECT_EQ(VariableStore::Open(opener_, folder_.path(), Template()).ok(), false);
}

TEST_F(VariableStoreTest, WithoutATemplateItMustBeThere) {
  EXPECT_EQ(VariableStore::Open(opener_, Path(), {}).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Open().ok());
  EXPECT_TRUE(VariableStore::Open(opener_, Path(), {}).ok());
  Write(std::string(1000, 'x'));
  EXPECT_EQ(VariableStore::Open(opener_, Path(), {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(VariableStoreTest, InMemoryItIsACopy) {
  const std::vector<uint8_t> initial = Template();
  const absl::StatusOr<VariableStore> store = VariableStore::InMemory(initial);
  ASSERT_TRUE(store.ok());
  store->contents()[0] = 1;
  EXPECT_EQ(initial[0], 0xff);
}

}  // namespace
}  // namespace vireo
