#include "storage/qcow2/header_rewrite.h"

#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_reader.h"
#include "tests/support/faulty_file.h"
#include "tests/support/memory_file.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

using Edit = std::function<void(Header&)>;

struct Change {
  std::string name;
  CreateOptions options;
  std::vector<Edit> edits;  // One after the other.

  friend void PrintTo(const Change& change, std::ostream* out) { *out << change.name; }
};

Edit Backing(std::optional<std::string> file, std::string format) {
  return [file, format](Header& header) {
    header.backing_file = file;
    header.backing_format = format;
  };
}

void AddBitmaps(Header& header) {
  header.bitmaps = BitmapsExtension{
      .bitmap_count = 1, .directory_bytes = 32, .directory_offset = uint64_t{1} << 20};
  header.autoclear |= kAutoclearBitmaps;
}

void DropBitmaps(Header& header) {
  header.bitmaps.reset();
  header.autoclear &= ~kAutoclearBitmaps;
}

struct Said {
  std::optional<std::string> backing_file;
  std::string backing_format;
  bool bitmaps;

  bool operator==(const Said&) const = default;
};

Said SaidBy(const Header& header) {
  return {header.backing_file, header.backing_format,
          header.bitmaps.has_value() && (header.autoclear & kAutoclearBitmaps) != 0};
}

absl::StatusOr<Header> HeaderIn(EventLoop& loop, std::vector<uint8_t> image) {
  MemoryMedium medium;
  medium.bytes = std::move(image);
  MemoryFile file(loop, medium);
  return loop.RunTask(ReadHeader(file, Access::kReadWrite));
}

class HeaderRewriteTest : public testing::TestWithParam<Change> {};

TEST_P(HeaderRewriteTest, SaysTheOldOrTheNewWheneverThePowerGoes) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  std::vector<uint8_t> image = Qcow2Disk(GetParam().options).TakeBytes();
  std::mt19937 random(1);
  for (size_t step = 0; step < GetParam().edits.size(); ++step) {
    SCOPED_TRACE(absl::StrCat("step ", step));
    Header header = *HeaderIn(*loop, image);
    const Said before = SaidBy(header);
    GetParam().edits[step](header);
    const Said after = SaidBy(header);
    FaultyMedium medium(image, static_cast<uint32_t>(step));
    FaultyFile file(*loop, medium);
    const absl::Status status = loop->RunTask(RewriteHeader(file, header));
    ASSERT_TRUE(status.ok()) << status;
    for (uint64_t moment = 0; moment <= medium.now(); ++moment) {
      SCOPED_TRACE(absl::StrCat("moment ", moment));
      for (int attempt = 0; attempt < 16; ++attempt) {
        for (const auto loss : {FaultyMedium::Loss::kAll, FaultyMedium::Loss::kNone,
                                FaultyMedium::Loss::kRandom, FaultyMedium::Loss::kTorn}) {
          const absl::StatusOr<Header> found =
              HeaderIn(*loop, medium.AfterPowerCut(moment, loss, random));
          ASSERT_TRUE(found.ok()) << found.status();
          const Said said = SaidBy(*found);
          ASSERT_TRUE(said == before || said == after)
              << said.backing_file.value_or("none") << " " << said.backing_format;
          EXPECT_TRUE(moment < medium.now() || said == after);
        }
      }
    }
    image = medium.bytes();
  }
}

TEST(HeaderRewrite, FeaturesKeepTheirNamesWhereThereIsRoom) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  MemoryMedium medium;
  medium.bytes = Qcow2Disk(CreateOptions{.size_bytes = 1 << 20, .version = 2}).TakeBytes();
  MemoryFile file(*loop, medium);
  Header header = *HeaderIn(*loop, medium.bytes);
  header.layout.version = 3;
  header.header_length = kFullHeaderBytes;
  header.has_feature_names = true;
  ASSERT_TRUE(loop->RunTask(RewriteHeader(file, header)).ok());
  EXPECT_TRUE(HeaderIn(*loop, medium.bytes)->has_feature_names);
}

const std::string& Long(char letter) {
  static const std::string names[2] = {std::string(600, 'a'), std::string(1023, 'b')};
  return names[letter - 'a'];
}

CreateOptions Options(uint32_t cluster_bits, std::string backing_file = "") {
  CreateOptions options = {.size_bytes = 1 << 20, .cluster_bits = cluster_bits};
  if (!backing_file.empty()) {
    options.backing_file = std::move(backing_file);
    options.backing_format = "raw";
  }
  return options;
}

INSTANTIATE_TEST_SUITE_P(
    Changes, HeaderRewriteTest,
    testing::Values(
        Change{"Rebase",
               Options(16, "base"),
               {Backing("another", "qcow2"), Backing("third", "raw"), Backing("base", "raw")}},
        Change{"Detach", Options(16, "base"), {Backing(std::nullopt, "")}},
        Change{"Attach", Options(16), {Backing("base", "raw"), Backing(std::nullopt, "")}},
        Change{"LongNames",
               Options(16, Long('a')),
               {Backing(Long('b'), "raw"), Backing(Long('a'), "qcow2"), Backing(Long('b'), "raw"),
                Backing("short", "raw"), Backing(Long('a'), "raw"), Backing(std::nullopt, "")}},
        Change{"LongNamesClusters4K",
               Options(12, Long('a')),
               {Backing(Long('b'), "raw"), Backing(Long('a'), "qcow2"), Backing(Long('b'), "raw")}},
        Change{"SmallestClusters", Options(9, "base"), {Backing("another", "raw")}},
        Change{"Bitmaps", Options(16, "base"), {AddBitmaps, DropBitmaps, AddBitmaps}},
        Change{"BitmapsAndALongName",
               Options(16, Long('a')),
               {AddBitmaps, Backing(Long('b'), "raw"), DropBitmaps}},
        Change{"BitmapsWithoutABackingFile", Options(16), {AddBitmaps, DropBitmaps}}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace vireo::qcow2
