#include "storage/crypto/luks_slots.h"

#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "storage/crypto/luks.h"
#include "tests/support/faulty_file.h"
#include "tests/support/memory_file.h"

namespace vireo::crypto {
namespace {

constexpr uint64_t kOffset = 8192;

class LuksSlotsTest : public testing::Test {
 protected:
  LuksSlotsTest() {
    const auto area = MakeLuksArea({.iteration_ms = 1}, old_.bytes());
    EXPECT_TRUE(area.ok()) << area.status();
    area_ = {.offset = kOffset, .bytes = area->size()};
    medium_.bytes.assign(kOffset, 0xee);
    medium_.bytes.insert(medium_.bytes.end(), area->begin(), area->end());
    const auto key = Unlock(medium_, old_);
    EXPECT_TRUE(key.ok());
    key_ = Secret(key->bytes());
  }
  absl::StatusOr<Secret> Unlock(MemoryMedium& medium, const Secret& passphrase) {
    MemoryFile file(*loop_, medium);
    const auto header = loop_->RunTask(ReadLuksHeader(file, area_));
    if (!header.ok()) return header.status();
    return loop_->RunTask(UnlockLuks(*loop_, file, area_, *header, passphrase));
  }
  bool Opens(MemoryMedium& medium, const Secret& passphrase) {
    const auto key = Unlock(medium, passphrase);
    return key.ok() && SameBytes(key->bytes(), key_.bytes());
  }
  LuksSlotEditor Edit(File& file) {
    const auto header = loop_->RunTask(ReadLuksHeader(file, area_));
    EXPECT_TRUE(header.ok()) << header.status();
    return LuksSlotEditor(*loop_, file, area_, *header);
  }
  // Whatever is left of `change` when the power goes, one of the two opens it.
  void ExpectAWayIn(const std::function<absl::Status(LuksSlotEditor&)>& change) {
    FaultyMedium faulty(medium_.bytes, 1);
    FaultyFile file(*loop_, faulty);
    LuksSlotEditor editor = Edit(file);
    const uint64_t begin = faulty.now();
    const absl::Status changed = change(editor);
    ASSERT_TRUE(changed.ok()) << changed;
    std::mt19937 random(7);
    for (uint64_t moment = begin; moment <= faulty.now(); ++moment) {
      for (const auto loss : {FaultyMedium::Loss::kAll, FaultyMedium::Loss::kTorn}) {
        MemoryMedium left;
        left.bytes = faulty.AfterPowerCut(moment, loss, random);
        EXPECT_TRUE(Opens(left, old_) || Opens(left, new_)) << "cut at " << moment;
      }
    }
    medium_.bytes = faulty.bytes();
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  const Secret old_ = Secret(std::string("old"));
  const Secret new_ = Secret(std::string("new"));
  Secret key_;
  MemoryMedium medium_;
  LuksArea area_;
};

TEST_F(LuksSlotsTest, ASecondPassphraseOpensTheSame) {
  ExpectAWayIn(
      [this](LuksSlotEditor& editor) { return loop_->RunTask(editor.Store(3, key_, new_, 1)); });
  EXPECT_TRUE(Opens(medium_, old_));
  EXPECT_TRUE(Opens(medium_, new_));
  MemoryFile file(*loop_, medium_);
  LuksSlotEditor editor = Edit(file);
  EXPECT_EQ(editor.active_slots(), 2);
  EXPECT_TRUE(*loop_->RunTask(editor.Opens(0, old_)));
  EXPECT_FALSE(*loop_->RunTask(editor.Opens(0, new_)));
  EXPECT_TRUE(*loop_->RunTask(editor.Opens(3, new_)));
  EXPECT_FALSE(*loop_->RunTask(editor.Opens(5, new_)));
}

TEST_F(LuksSlotsTest, TheOnlySlotIsReplacedWithAWayInAllTheTime) {
  ExpectAWayIn(
      [this](LuksSlotEditor& editor) { return loop_->RunTask(editor.Store(0, key_, new_, 1)); });
  EXPECT_FALSE(Opens(medium_, old_));
  EXPECT_TRUE(Opens(medium_, new_));
  MemoryFile file(*loop_, medium_);
  EXPECT_EQ(Edit(file).active_slots(), 1);
}

TEST_F(LuksSlotsTest, AnErasedSlotOpensNothingAndItsKeyMaterialIsGone) {
  ExpectAWayIn([this](LuksSlotEditor& editor) {
    return loop_->RunTask(editor.Store(6, key_, new_, 1));  // Across two sectors.
  });
  const std::vector<uint8_t> before = medium_.bytes;
  ExpectAWayIn([this](LuksSlotEditor& editor) { return loop_->RunTask(editor.Erase(0)); });
  EXPECT_FALSE(Opens(medium_, old_));
  EXPECT_TRUE(Opens(medium_, new_));
  const size_t material = kOffset + kLuksKeyMaterialOffset;
  EXPECT_FALSE(std::equal(before.begin() + material, before.begin() + material + 512,
                          medium_.bytes.begin() + material));
}

TEST_F(LuksSlotsTest, AFailedWriteLeavesAWayIn) {
  for (uint64_t successes = 0;; ++successes) {
    FaultyMedium faulty(medium_.bytes, 1);
    FaultyFile file(*loop_, faulty);
    LuksSlotEditor editor = Edit(file);
    faulty.FailAfter(successes, EIO);
    const absl::Status stored = loop_->RunTask(editor.Store(0, key_, new_, 1));
    MemoryMedium left;
    left.bytes = faulty.bytes();
    EXPECT_TRUE(Opens(left, old_) || Opens(left, new_)) << "after " << successes;
    if (!faulty.failed()) break;
    EXPECT_FALSE(stored.ok());
  }
}

}  // namespace
}  // namespace vireo::crypto
