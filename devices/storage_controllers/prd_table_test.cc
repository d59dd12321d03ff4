#include "devices/storage_controllers/prd_table.h"

#include <cstdint>
#include <numeric>
#include <vector>

#include "devices/storage_controllers/ahci_spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_guest_memory.h"

namespace vireo::ahci {
namespace {

using testing::Each;
using testing::ElementsAre;
using Outcome = PrdTable::Outcome;

std::vector<uint8_t> Count(size_t bytes) {
  std::vector<uint8_t> numbers(bytes);
  std::iota(numbers.begin(), numbers.end(), uint8_t{1});
  return numbers;
}

class PrdTableTest : public testing::Test {
 protected:
  PrdTable Table(const std::vector<PrdEntry>& entries) {
    const GuestAddress at = guest_.Allocate(16 * (entries.size() + 1));
    for (size_t i = 0; i < entries.size(); ++i) {
      guest_.WriteObject(GuestAddress(at.value() + 16 * i), entries[i]);
    }
    return PrdTable(guest_.memory(), at, static_cast<uint16_t>(entries.size()));
  }
  static PrdEntry Entry(GuestAddress at, uint32_t dbc) {
    PrdEntry entry = {};
    entry.dba = at.value();
    entry.dbc = dbc;
    return entry;
  }

  FakeGuestMemory guest_;
};

TEST_F(PrdTableTest, ScattersWhatComesInPieces) {
  const GuestAddress a = guest_.Allocate(16);
  const GuestAddress b = guest_.Allocate(16);
  const GuestAddress high(FakeGuestMemory::kHighBase);
  PrdTable table = Table({Entry(a, 3), Entry(high, 1), Entry(b, 9)});
  EXPECT_EQ(table.Write(Count(3)), Outcome::kAll);
  EXPECT_EQ(table.Write(Count(5)), Outcome::kAll);
  EXPECT_EQ(table.written(), 8u);
  EXPECT_THAT(guest_.Read(a, 5), ElementsAre(1, 2, 3, 1, 0));
  EXPECT_THAT(guest_.Read(high, 3), ElementsAre(2, 3, 0));
  EXPECT_THAT(guest_.Read(b, 3), ElementsAre(4, 5, 0));
}

TEST_F(PrdTableTest, EndsWhereTheTableEnds) {
  const GuestAddress a = guest_.Allocate(16);
  PrdTable table = Table({Entry(a, 3)});
  EXPECT_EQ(table.Write(Count(6)), Outcome::kFull);
  EXPECT_EQ(table.written(), 4u);
  EXPECT_THAT(guest_.Read(a, 6), ElementsAre(1, 2, 3, 4, 0, 0));
  EXPECT_EQ(table.Write(Count(1)), Outcome::kFull);
  EXPECT_EQ(table.Write({}), Outcome::kAll);
  PrdTable empty = Table({});
  EXPECT_EQ(empty.Write(Count(1)), Outcome::kFull);
}

TEST_F(PrdTableTest, TakesTheWiredBitsForWhatTheyAre) {
  const GuestAddress a = guest_.Allocate(16);
  PrdTable table = Table({Entry(GuestAddress(a.value() + 1), 0)});  // An odd address, one byte.
  EXPECT_EQ(table.Write(Count(3)), Outcome::kFull);
  EXPECT_THAT(guest_.Read(a, 3), ElementsAre(1, 2, 0));
}

TEST_F(PrdTableTest, OneEntryHoldsFourMegabytesAtMost) {
  PrdTable table = Table({Entry(GuestAddress(4096), 0xffffffff)});
  const std::vector<uint8_t> chunk(1 << 19, 0xaa);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(table.Write(chunk), Outcome::kAll);
  EXPECT_EQ(table.written(), 4u << 19);
}

TEST_F(PrdTableTest, FaultsOutsideOfRam) {
  const GuestAddress a = guest_.Allocate(16);
  PrdTable nowhere = Table({Entry(a, 3), Entry(FakeGuestMemory::kNoRam, 3)});
  EXPECT_EQ(nowhere.Write(Count(4)), Outcome::kAll);  // As long as nothing goes there.
  EXPECT_EQ(nowhere.Write(Count(1)), Outcome::kFault);
  guest_.Write(FakeGuestMemory::kLastLowPage, std::vector<uint8_t>(4096, 0xee));
  PrdTable beyond = Table({Entry(FakeGuestMemory::kLastLowPage, 8191)});
  EXPECT_EQ(beyond.Write(Count(4097)), Outcome::kFault);
  EXPECT_THAT(guest_.Read(FakeGuestMemory::kLastLowPage, 4096), Each(0xee));
  PrdTable wraps = Table({Entry(GuestAddress(~uint64_t{0} - 1), 0xffff)});
  EXPECT_EQ(wraps.Write(Count(16)), Outcome::kFault);
}

TEST_F(PrdTableTest, ATableThatIsNotRamFaultsWhenItIsNeeded) {
  PrdTable table(guest_.memory(), GuestAddress(FakeGuestMemory::kLowBytes - 8), 3);
  EXPECT_EQ(table.Write({}), Outcome::kAll);
  EXPECT_EQ(table.Write(Count(1)), Outcome::kFault);
  PrdTable last(guest_.memory(), GuestAddress(~uint64_t{0} - 15), 65535);
  EXPECT_EQ(last.Write(Count(1)), Outcome::kFault);
}

TEST_F(PrdTableTest, EntriesAreReadOnceAndNotAhead) {
  const GuestAddress a = guest_.Allocate(16);
  const GuestAddress b = guest_.Allocate(16);
  const GuestAddress at = guest_.Allocate(32);
  guest_.WriteObject(at, Entry(a, 3));
  PrdTable table(guest_.memory(), at, 2);
  EXPECT_EQ(table.Write(Count(2)), Outcome::kAll);
  guest_.WriteObject(at, Entry(FakeGuestMemory::kNoRam, 3));       // Too late.
  guest_.WriteObject(GuestAddress(at.value() + 16), Entry(b, 3));  // In time.
  EXPECT_EQ(table.Write(Count(4)), Outcome::kAll);
  EXPECT_THAT(guest_.Read(a, 4), ElementsAre(1, 2, 1, 2));
  EXPECT_THAT(guest_.Read(b, 2), ElementsAre(3, 4));
}

TEST_F(PrdTableTest, SaysWhichEntriesAskedForAnInterrupt) {
  const GuestAddress a = guest_.Allocate(16);
  PrdTable table = Table({Entry(a, 1), Entry(a, kPrdInterrupt | 3), Entry(a, 1)});
  table.Write(Count(5));
  EXPECT_FALSE(table.TakeInterrupt());
  table.Write(Count(1));
  EXPECT_TRUE(table.TakeInterrupt());
  EXPECT_FALSE(table.TakeInterrupt());
}

TEST_F(PrdTableTest, MarksPagesDirty) {
  ASSERT_TRUE(guest_.memory().dirty_log().Start().ok());
  PrdTable table = Table({Entry(GuestAddress(66 * 4096 - 2), 3)});
  table.Write(Count(4));
  EXPECT_EQ(guest_.memory().dirty_log().FetchAndClear(0).at(1), 0b110u);
}

}  // namespace
}  // namespace vireo::ahci
