#include "base/iovecs.h"

#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"

namespace vireo {
namespace {

// "abc", "", "defgh", "i": pieces of one text.
class IoVecsTest : public testing::Test {
 protected:
  IoVecsTest() : vectors_{{&text_[0], 3}, {&text_[3], 0}, {&text_[3], 5}, {&text_[8], 1}} {}

  static std::string Join(IoVecs vectors) {
    std::string joined;
    for (const iovec& vector : vectors) {
      joined.append(static_cast<const char*>(vector.iov_base), vector.iov_len);
    }
    return joined;
  }
  static std::span<const uint8_t> Bytes(std::string_view text) {
    return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
  }

  std::string text_ = "abcdefghi";
  std::vector<iovec> vectors_;
};

TEST_F(IoVecsTest, TotalSizeIsTheSum) {
  EXPECT_EQ(TotalSize(vectors_), 9u);
  EXPECT_EQ(TotalSize({}), 0u);
}

TEST_F(IoVecsTest, EverySliceIsTheSameAsOfTheText) {
  for (size_t offset = 0; offset <= text_.size(); ++offset) {
    for (size_t length = 0; offset + length <= text_.size(); ++length) {
      const IoVecList slice = Slice(vectors_, offset, length);
      EXPECT_EQ(Join(slice), text_.substr(offset, length));
    }
  }
}

TEST_F(IoVecsTest, SlicesLeaveEmptyVectorsOut) {
  EXPECT_EQ(Slice(vectors_, 0, 9).size(), 3u);
  EXPECT_EQ(Slice(vectors_, 3, 5).size(), 1u);
}

TEST_F(IoVecsTest, ASlicePastTheEndIsOurBug) {
  EXPECT_DEATH(Slice(vectors_, 5, 5), "lies within its iovecs");
}

TEST_F(IoVecsTest, CopiesOutFromAnyOffset) {
  std::array<uint8_t, 4> out = {};
  EXPECT_EQ(CopyFromIoVecs(vectors_, out, 2), 4u);
  EXPECT_EQ(std::memcmp(out.data(), "cdef", 4), 0);
  EXPECT_EQ(CopyFromIoVecs(vectors_, out, 7), 2u);
  EXPECT_EQ(std::memcmp(out.data(), "hief", 4), 0);
  EXPECT_EQ(CopyFromIoVecs(vectors_, out, 9), 0u);
}

TEST_F(IoVecsTest, CopiesInAtAnyOffset) {
  EXPECT_EQ(CopyToIoVecs(Bytes("XYZ"), vectors_, 2), 3u);
  EXPECT_EQ(text_, "abXYZfghi");
  EXPECT_EQ(CopyToIoVecs(Bytes("123"), vectors_, 8), 1u);
  EXPECT_EQ(text_, "abXYZfgh1");
}

TEST_F(IoVecsTest, FillsEveryByte) {
  FillIoVecs(vectors_, '-');
  EXPECT_EQ(text_, "---------");
}

TEST(IsAllZeroTest, FindsASingleByteAnywhere) {
  std::vector<uint8_t> bytes(100, 0);
  const iovec vector = {bytes.data(), bytes.size()};
  EXPECT_TRUE(IsAllZero(IoVecs(&vector, 1)));
  for (uint8_t& byte : bytes) {
    byte = 1;
    EXPECT_FALSE(IsAllZero(IoVecs(&vector, 1)));
    byte = 0;
  }
  EXPECT_TRUE(IsAllZero({}));
}

}  // namespace
}  // namespace vireo
