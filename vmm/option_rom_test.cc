#include "vmm/option_rom.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

using testing::Each;
using testing::HasSubstr;

constexpr size_t kDataAt = 0x20;

// An image of `units` times 512 bytes for 1234:5678, whose bytes sum up to 0.
std::vector<uint8_t> Image(size_t units, uint8_t code_type, bool last) {
  std::vector<uint8_t> image(units * 512, 0x11);
  image[0] = 0x55;
  image[1] = 0xaa;
  image[2] = static_cast<uint8_t>(units);
  image[0x18] = kDataAt;
  image[0x19] = 0;
  const std::vector<uint8_t> data = {'P', 'C', 'I', 'R', 0x34, 0x12, 0x78, 0x56};
  std::copy(data.begin(), data.end(), image.begin() + kDataAt);
  image[kDataAt + 0x10] = static_cast<uint8_t>(units);
  image[kDataAt + 0x11] = 0;
  image[kDataAt + 0x14] = code_type;
  image[kDataAt + 0x15] = last ? 0x80 : 0;
  image[6] = 0;
  image[6] = static_cast<uint8_t>(-std::accumulate(image.begin(), image.end(), 0));
  return image;
}

std::vector<uint8_t> Joined(std::vector<uint8_t> first, const std::vector<uint8_t>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

TEST(AdaptOptionRomTest, EveryImageNamesTheFunctionAndStillSumsUp) {
  std::vector<uint8_t> rom = Joined(Image(3, 0, false), Image(2, 3, true));
  rom.resize(rom.size() + 100);
  ASSERT_TRUE(AdaptOptionRom(rom, 0x1af4, 0x1041).ok());
  for (const size_t at : {size_t{0}, size_t{3 * 512}}) {
    const std::vector<uint8_t> named(rom.begin() + at + kDataAt + 4,
                                     rom.begin() + at + kDataAt + 8);
    EXPECT_THAT(named, testing::ElementsAre(0xf4, 0x1a, 0x41, 0x10)) << at;
  }
  EXPECT_EQ(static_cast<uint8_t>(std::accumulate(rom.begin(), rom.begin() + 3 * 512, 0)), 0);
  // EFI images have no such sum.
  EXPECT_EQ(rom[3 * 512 + 6], Image(2, 3, true)[6]);
}

TEST(AdaptOptionRomTest, WhatIsNoChainOfImagesIsRefused) {
  struct Case {
    size_t at;
    uint8_t byte;
    const char* said;
  };
  for (const Case& c :
       {Case{0, 0x54, "no image begins at byte 0"}, Case{0x18, 0x02, "says not for which device"},
        Case{0x19, 0xff, "says not for which device"},
        Case{kDataAt, 'Q', "says not for which device"}, Case{kDataAt + 0x10, 0, "has 0 bytes"},
        Case{kDataAt + 0x10, 200, "has 102400 bytes"},
        Case{kDataAt + 0x15, 0, "no image begins at byte 1024"}}) {
    std::vector<uint8_t> rom = Image(2, 0, true);
    rom[c.at] = c.byte;
    const absl::Status status = AdaptOptionRom(rom, 1, 2);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.said));
  }
  for (size_t length = 0; length < 0x40; ++length) {
    std::vector<uint8_t> rom = Image(1, 0, true);
    rom.resize(length);
    EXPECT_FALSE(AdaptOptionRom(rom, 1, 2).ok()) << length;
  }
}

class LoadOptionRomTest : public testing::Test {
 protected:
  absl::StatusOr<MappedRegion> Load(const std::vector<uint8_t>& bytes) {
    const std::string path = folder_.File("rom");
    std::ofstream(path, std::ios::binary | std::ios::trunc)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return LoadOptionRom(UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), "rom", 0x1af4,
                         0x1000);
  }

  TempDir folder_;
};

TEST_F(LoadOptionRomTest, IsWholePagesAPowerOfTwoOfThem) {
  const absl::StatusOr<MappedRegion> small = Load(Image(1, 0, true));
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_EQ(small->bytes().size(), 4096u);
  const absl::StatusOr<MappedRegion> larger = Load(Image(17, 0, true));
  ASSERT_TRUE(larger.ok()) << larger.status();
  EXPECT_EQ(larger->bytes().size(), 16384u);
  EXPECT_THAT(larger->bytes().subspan(17 * 512), Each(0));
}

TEST_F(LoadOptionRomTest, OtherFilesAreRefusedByName) {
  for (const std::vector<uint8_t>& bytes : {std::vector<uint8_t>(), std::vector<uint8_t>(512, 0x55),
                                            std::vector<uint8_t>(kMaxOptionRomBytes + 1, 0)}) {
    const absl::Status status = Load(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("rom is no expansion ROM"));
  }
}

}  // namespace
}  // namespace vireo
