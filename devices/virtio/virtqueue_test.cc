#include "devices/virtio/virtqueue.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "devices/virtio/spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct Pair {
  explicit Pair(DriverRing::Options options, VirtqueuePosition position = {})
      : driver(guest, options),
        device(*Virtqueue::Create(guest.memory(), driver.config(), position)) {}

  // The device takes one chain and ends it at once.
  bool ServeOne() {
    std::optional<DescriptorChain> chain = device.PopAvailable();
    if (!chain.has_value()) return false;
    interrupts += device.PushUsed(chain->head(), 0) ? 1 : 0;
    return true;
  }

  FakeGuestMemory guest;
  DriverRing driver;
  Virtqueue device;
  int interrupts = 0;
};

Descriptor MakeDescriptor(uint64_t address, uint32_t length, uint16_t flags = 0,
                          uint16_t next = 0) {
  Descriptor descriptor;
  descriptor.address = address;
  descriptor.length = length;
  descriptor.flags = flags;
  descriptor.next = next;
  return descriptor;
}

class RingKindTest : public testing::TestWithParam<DriverRing::Options> {};

TEST_P(RingKindTest, ChainsArriveAsTheyWereMade) {
  Pair pair(GetParam());
  const uint16_t head =
      pair.driver.Add({Readable({1, 2, 3}), Readable({4, 5}), Writable(7), Writable(1)});

  std::optional<DescriptorChain> chain = pair.device.PopAvailable();

  ASSERT_TRUE(chain.has_value());
  EXPECT_EQ(chain->head(), head);
  EXPECT_EQ(chain->readable_bytes(), 5u);
  EXPECT_EQ(chain->writable_bytes(), 8u);
  std::vector<uint8_t> bytes(5);
  ASSERT_TRUE(chain->CopyFromReadable(0, bytes));
  EXPECT_THAT(bytes, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_FALSE(chain->CopyFromReadable(1, bytes));
  ASSERT_TRUE(chain->CopyToWritable(6, std::vector<uint8_t>{8, 9}));
  EXPECT_FALSE(chain->CopyToWritable(7, std::vector<uint8_t>{8, 9}));
  chain->CompleteWrites(8);
  EXPECT_TRUE(pair.device.PushUsed(chain->head(), 8));
  const std::optional<UsedChain> used = pair.driver.PopUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->head, head);
  EXPECT_EQ(used->written, 8u);
  EXPECT_THAT(used->bytes, ElementsAre(0, 0, 0, 0, 0, 0, 8, 9));
}

TEST_P(RingKindTest, IndicesWrap) {
  DriverRing::Options options = GetParam();
  options.start_index = 65000;
  Pair pair(options, {.next_avail = 65000, .next_used = 65000});
  for (uint32_t i = 0; i < 2000; i += 2) {
    // Two at a time, ended in the other order.
    const uint16_t first = pair.driver.Add({ReadableZeros(1), Writable(1)});
    const uint16_t second = pair.driver.Add({Writable(2)});
    std::optional<DescriptorChain> a = pair.device.PopAvailable();
    std::optional<DescriptorChain> b = pair.device.PopAvailable();
    ASSERT_TRUE(a.has_value() && b.has_value()) << i;
    ASSERT_FALSE(pair.device.PopAvailable().has_value());
    pair.device.AddUsed(b->head(), 2);
    pair.device.AddUsed(a->head(), 1);
    (void)pair.device.Publish();
    ASSERT_EQ(pair.driver.PopUsed()->head, second) << i;
    ASSERT_EQ(pair.driver.PopUsed()->head, first) << i;
    ASSERT_FALSE(pair.driver.PopUsed().has_value());
  }
  EXPECT_FALSE(pair.device.broken());
  EXPECT_EQ(pair.driver.free_descriptors(), options.size);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, RingKindTest,
    testing::Values(DriverRing::Options{.size = 16}, DriverRing::Options{.size = 4},
                    DriverRing::Options{.size = 8, .event_idx = true},
                    DriverRing::Options{.size = 1024, .event_idx = true, .indirect = true},
                    DriverRing::Options{.size = 2, .indirect = true}));

TEST(VirtqueueTest, MoreChainsThanIndicesHaveValues) {
  Pair pair({.size = 4, .event_idx = true});
  for (uint32_t i = 0; i < 132000; ++i) {
    const uint16_t head = pair.driver.Add({Writable(1)});
    ASSERT_TRUE(pair.ServeOne()) << i;
    ASSERT_EQ(pair.driver.PopUsed()->head, head) << i;
  }
}

TEST(VirtqueueTest, RingOfOneServesChainsOfOne) {
  Pair pair({.size = 1});
  for (int i = 0; i < 5; ++i) {
    pair.driver.Add({Writable(1)});
    ASSERT_TRUE(pair.ServeOne());
    ASSERT_TRUE(pair.driver.PopUsed().has_value());
  }
}

TEST(VirtqueueTest, ChainKeepsItsViewsWhenTheDriverChangesTheDescriptors) {
  Pair pair({.size = 4});
  const uint16_t head = pair.driver.Add({Readable({1, 2, 3, 4})});
  const std::optional<DescriptorChain> chain = pair.device.PopAvailable();
  ASSERT_TRUE(chain.has_value());

  pair.driver.WriteDescriptor(head, MakeDescriptor(FakeGuestMemory::kNoRam.value(), 1 << 30));

  std::vector<uint8_t> bytes(4);
  ASSERT_TRUE(chain->CopyFromReadable(0, bytes));
  EXPECT_THAT(bytes, ElementsAre(1, 2, 3, 4));
}

// ---- Notifications ----

TEST(VirtqueueTest, WithoutEventIdxTheFlagSuppressesInterrupts) {
  Pair pair({.size = 8});
  pair.driver.Add({Writable(1)});
  pair.driver.Add({Writable(1)});
  pair.driver.SuppressInterrupts(true);
  ASSERT_TRUE(pair.ServeOne());
  EXPECT_EQ(pair.interrupts, 0);
  pair.driver.SuppressInterrupts(false);
  ASSERT_TRUE(pair.ServeOne());
  EXPECT_EQ(pair.interrupts, 1);
}

TEST(VirtqueueTest, WithEventIdxTheInterruptComesWhenTheEventIsCrossed) {
  Pair pair({.size = 8, .event_idx = true});
  pair.driver.SetUsedEvent(1);
  pair.driver.Add({Writable(1)});
  ASSERT_TRUE(pair.ServeOne());
  EXPECT_EQ(pair.interrupts, 1);
  ASSERT_TRUE(pair.driver.PopUsed().has_value());

  pair.driver.SetUsedEvent(3);
  for (int i = 0; i < 5; ++i) pair.driver.Add({Writable(1)});
  ASSERT_TRUE(pair.ServeOne());
  ASSERT_TRUE(pair.ServeOne());
  EXPECT_EQ(pair.interrupts, 1);
  ASSERT_TRUE(pair.ServeOne());
  EXPECT_EQ(pair.interrupts, 2);
  ASSERT_TRUE(pair.ServeOne());
  ASSERT_TRUE(pair.ServeOne());
  EXPECT_EQ(pair.interrupts, 2);
}

TEST(VirtqueueTest, WithEventIdxOneInterruptCoversEverythingPublishedTogether) {
  Pair pair({.size = 8, .event_idx = true, .start_index = 65534},
            {.next_avail = 65534, .next_used = 65534});
  pair.driver.SetUsedEvent(1);
  pair.driver.Add({Writable(1)});
  ASSERT_TRUE(pair.ServeOne());  // The first is always told.
  ASSERT_TRUE(pair.driver.PopUsed().has_value());
  pair.driver.SetUsedEvent(2);  // Of the next three, across the wrap.
  for (int i = 0; i < 3; ++i) pair.driver.Add({Writable(1)});
  for (int i = 0; i < 3; ++i) pair.device.AddUsed(pair.device.PopAvailable()->head(), 0);
  EXPECT_FALSE(pair.driver.PopUsed().has_value());
  EXPECT_TRUE(pair.device.Publish());
  EXPECT_FALSE(pair.device.Publish());
  EXPECT_TRUE(pair.driver.PopUsed().has_value());
}

TEST(VirtqueueTest, FirstPublishAfterAStartIsAlwaysTold) {
  Pair pair({.size = 8, .event_idx = true});
  pair.driver.SetUsedEvent(100);
  pair.driver.Add({Writable(1)});
  pair.driver.Add({Writable(1)});
  ASSERT_TRUE(pair.ServeOne());
  EXPECT_EQ(pair.interrupts, 1);
  ASSERT_TRUE(pair.ServeOne());
  EXPECT_EQ(pair.interrupts, 1);
}

TEST(VirtqueueTest, WithoutEventIdxTheFlagSuppressesKicks) {
  Pair pair({.size = 8});
  pair.device.DisableNotifications();
  pair.driver.Add({Writable(1)});
  EXPECT_FALSE(pair.driver.TakeKickWanted());
  EXPECT_FALSE(pair.device.EnableNotifications());  // There is one already.
  ASSERT_TRUE(pair.ServeOne());
  EXPECT_TRUE(pair.device.EnableNotifications());
  pair.driver.Add({Writable(1)});
  EXPECT_TRUE(pair.driver.TakeKickWanted());
}

TEST(VirtqueueTest, WithEventIdxAKickIsWantedOncePerArming) {
  Pair pair({.size = 8, .event_idx = true, .start_index = 65535},
            {.next_avail = 65535, .next_used = 65535});
  ASSERT_TRUE(pair.device.EnableNotifications());
  pair.driver.Add({Writable(1)});
  EXPECT_TRUE(pair.driver.TakeKickWanted());
  pair.device.DisableNotifications();
  pair.driver.Add({Writable(1)});
  EXPECT_FALSE(pair.driver.TakeKickWanted());
  EXPECT_FALSE(pair.device.EnableNotifications());
  ASSERT_TRUE(pair.ServeOne());
  ASSERT_TRUE(pair.ServeOne());
  EXPECT_TRUE(pair.device.EnableNotifications());
  pair.driver.Add({Writable(1)});
  EXPECT_TRUE(pair.driver.TakeKickWanted());
}

// ---- Position ----

TEST(VirtqueueTest, UndonePopIsTakenAgain) {
  Pair pair({.size = 8});
  const uint16_t first = pair.driver.Add({Writable(1)});
  const uint16_t second = pair.driver.Add({Writable(1)});
  ASSERT_EQ(pair.device.PopAvailable()->head(), first);
  ASSERT_EQ(pair.device.PopAvailable()->head(), second);
  pair.device.UndoPop();
  pair.device.UndoPop();
  EXPECT_EQ(pair.device.in_flight(), 0);
  EXPECT_EQ(pair.device.PopAvailable()->head(), first);
}

TEST(VirtqueueTest, AnotherQueueGoesOnFromTheSavedPosition) {
  Pair pair({.size = 4, .event_idx = true});
  for (int i = 0; i < 7; ++i) {
    pair.driver.Add({Writable(1)});
    ASSERT_TRUE(pair.ServeOne());
    ASSERT_TRUE(pair.driver.PopUsed().has_value());
  }
  const uint16_t head = pair.driver.Add({Writable(1)});
  const VirtqueuePosition position = pair.device.position();
  EXPECT_EQ(position, (VirtqueuePosition{.next_avail = 7, .next_used = 7}));

  absl::StatusOr<Virtqueue> other =
      Virtqueue::Create(pair.guest.memory(), pair.driver.config(), position);

  ASSERT_TRUE(other.ok());
  std::optional<DescriptorChain> chain = other->PopAvailable();
  ASSERT_TRUE(chain.has_value());
  EXPECT_EQ(chain->head(), head);
  EXPECT_TRUE(other->PushUsed(chain->head(), 1));
  EXPECT_EQ(pair.driver.PopUsed()->head, head);
}

TEST(VirtqueueTest, PositionWithChainsInFlightIsRefused) {
  Pair pair({.size = 4});
  const absl::StatusOr<Virtqueue> other = Virtqueue::Create(
      pair.guest.memory(), pair.driver.config(), {.next_avail = 3, .next_used = 2});
  EXPECT_TRUE(absl::IsInvalidArgument(other.status()));
}

TEST(VirtqueueTest, BrokenStaysBrokenInAnotherQueue) {
  Pair pair({.size = 4});
  pair.driver.SetAvailableIdx(5);
  ASSERT_FALSE(pair.device.PopAvailable().has_value());
  ASSERT_TRUE(pair.device.position().broken);
  absl::StatusOr<Virtqueue> other =
      Virtqueue::Create(pair.guest.memory(), pair.driver.config(), pair.device.position());
  ASSERT_TRUE(other.ok());
  EXPECT_TRUE(other->broken());
  EXPECT_FALSE(other->PopAvailable().has_value());
}

// ---- Where a queue cannot be ----

struct BadConfig {
  std::string name;
  std::function<void(VirtqueueConfig&)> spoil;
  std::string want;
};

class BadConfigTest : public testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, IsRefused) {
  FakeGuestMemory guest;
  const DriverRing driver(guest, {.size = 8});
  VirtqueueConfig config = driver.config();
  GetParam().spoil(config);
  const absl::StatusOr<Virtqueue> queue = Virtqueue::Create(guest.memory(), config);
  EXPECT_TRUE(absl::IsInvalidArgument(queue.status())) << queue.status();
  EXPECT_THAT(std::string(queue.status().message()), HasSubstr(GetParam().want));
}

INSTANTIATE_TEST_SUITE_P(
    Bad, BadConfigTest,
    testing::Values(
        BadConfig{"SizeZero", [](VirtqueueConfig& c) { c.size = 0; }, "power of two"},
        BadConfig{"SizeThree", [](VirtqueueConfig& c) { c.size = 3; }, "power of two"},
        BadConfig{"SizeTooLarge", [](VirtqueueConfig& c) { c.size = 2048; }, "power of two"},
        BadConfig{
            "DescriptorsMisaligned",
            [](VirtqueueConfig& c) { c.descriptors = GuestAddress(c.descriptors.value() + 8); },
            "not aligned to 16"},
        BadConfig{"AvailableMisaligned",
                  [](VirtqueueConfig& c) { c.available = GuestAddress(c.available.value() + 1); },
                  "not aligned to 2"},
        BadConfig{"UsedMisaligned",
                  [](VirtqueueConfig& c) { c.used = GuestAddress(c.used.value() + 2); },
                  "not aligned to 4"},
        BadConfig{"DescriptorsOutsideRam",
                  [](VirtqueueConfig& c) { c.descriptors = FakeGuestMemory::kNoRam; },
                  "not in one piece of RAM"},
        BadConfig{
            "AvailableRunsOutOfRam",
            [](VirtqueueConfig& c) { c.available = GuestAddress(FakeGuestMemory::kLowBytes - 4); },
            "not in one piece of RAM"},
        BadConfig{"UsedWrapsAround",
                  [](VirtqueueConfig& c) { c.used = GuestAddress(~uint64_t{3}); },
                  "not in one piece of RAM"}),
    [](const auto& test) { return test.param.name; });

// ---- Hostile rings ----

struct Hostile {
  std::string name;
  bool indirect;
  std::function<void(FakeGuestMemory&, DriverRing&)> attack;
  std::string want;
};

class HostileRingTest : public testing::TestWithParam<Hostile> {};

TEST_P(HostileRingTest, BreaksTheQueueAndNothingElse) {
  Pair pair({.size = 8, .indirect = GetParam().indirect});
  // A good chain before, so that positions are not all zero, and one in flight.
  pair.driver.Add({Writable(1)});
  ASSERT_TRUE(pair.ServeOne());
  pair.driver.PopUsed();
  const uint16_t held = pair.driver.Add({Writable(1)});
  std::optional<DescriptorChain> in_flight = pair.device.PopAvailable();
  ASSERT_TRUE(in_flight.has_value());

  GetParam().attack(pair.guest, pair.driver);

  std::vector<DescriptorChain> taken;
  for (int i = 0; i < 20; ++i) {
    std::optional<DescriptorChain> chain = pair.device.PopAvailable();
    if (chain.has_value()) taken.push_back(*std::move(chain));
  }
  EXPECT_TRUE(pair.device.broken());
  EXPECT_THAT(std::string(pair.device.fault().message()), HasSubstr(GetParam().want));
  EXPECT_LT(taken.size(), 8u);
  // What was in flight still ends.
  EXPECT_TRUE(pair.device.PushUsed(in_flight->head(), 1));
  EXPECT_EQ(pair.driver.PopUsed()->head, held);
}

// Makes `descriptors` the entries from 2 on, and a chain that starts there available.
void Offer(DriverRing& driver, const std::vector<Descriptor>& descriptors) {
  uint16_t index = 2;
  for (const Descriptor& descriptor : descriptors) driver.WriteDescriptor(index++, descriptor);
  driver.SetAvailableEntry(driver.available_idx(), 2);
  driver.SetAvailableIdx(driver.available_idx() + 1);
}

constexpr uint64_t kRam = 0x3000;
constexpr uint64_t kTable = 0x200000;

void WriteTable(FakeGuestMemory& guest, const std::vector<Descriptor>& descriptors) {
  for (size_t i = 0; i < descriptors.size(); ++i) {
    guest.WriteObject(GuestAddress(kTable + 16 * i), descriptors[i]);
  }
}

std::vector<Hostile> HostileRings() {
  return {
      {"AvailIdxJumps", false,
       [](FakeGuestMemory&, DriverRing& d) { d.SetAvailableIdx(d.available_idx() + 9); },
       "avail idx went from 2 to 11"},
      {"AvailIdxGoesBack", false,
       [](FakeGuestMemory&, DriverRing& d) { d.SetAvailableIdx(d.available_idx() - 1); },
       "avail idx went"},
      {"HeadOutsideTheTable", false,
       [](FakeGuestMemory&, DriverRing& d) {
         d.SetAvailableEntry(d.available_idx(), 8);
         d.SetAvailableIdx(d.available_idx() + 1);
       },
       "outside the table"},
      {"HeadFarOutside", false,
       [](FakeGuestMemory&, DriverRing& d) {
         d.SetAvailableEntry(d.available_idx(), 0xffff);
         d.SetAvailableIdx(d.available_idx() + 1);
       },
       "outside the table"},
      {"NextOutsideTheTable", false,
       [](FakeGuestMemory&, DriverRing& d) { Offer(d, {MakeDescriptor(kRam, 1, kDescNext, 8)}); },
       "outside the table"},
      {"LoopOfOne", false,
       [](FakeGuestMemory&, DriverRing& d) { Offer(d, {MakeDescriptor(kRam, 1, kDescNext, 2)}); },
       "loop"},
      {"LoopOfTwo", false,
       [](FakeGuestMemory&, DriverRing& d) {
         Offer(d, {MakeDescriptor(kRam, 1, kDescNext, 3), MakeDescriptor(kRam, 1, kDescNext, 2)});
       },
       "loop"},
      {"SameChainForEver", false,
       [](FakeGuestMemory&, DriverRing& d) {
         d.WriteDescriptor(2, MakeDescriptor(kRam, 1));
         for (uint16_t i = 0; i < 8; ++i) d.SetAvailableEntry(i, 2);
         d.SetAvailableIdx(d.available_idx() + 8);
       },
       "more chains are in flight"},
      {"EmptyDescriptor", false,
       [](FakeGuestMemory&, DriverRing& d) { Offer(d, {MakeDescriptor(kRam, 0)}); },
       "empty descriptor"},
      {"EmptyWritableDescriptor", false,
       [](FakeGuestMemory&, DriverRing& d) { Offer(d, {MakeDescriptor(kRam, 0, kDescWrite)}); },
       "empty descriptor"},
      {"ReadableOutsideRam", false,
       [](FakeGuestMemory&, DriverRing& d) {
         Offer(d, {MakeDescriptor(FakeGuestMemory::kNoRam.value(), 1)});
       },
       "readable buffer is outside RAM"},
      {"WritableOutsideRam", false,
       [](FakeGuestMemory&, DriverRing& d) {
         Offer(d, {MakeDescriptor(FakeGuestMemory::kNoRam.value(), 1, kDescWrite)});
       },
       "writable buffer is outside RAM"},
      {"ReadableRunsOutOfRam", false,
       [](FakeGuestMemory&, DriverRing& d) {
         Offer(d, {MakeDescriptor(FakeGuestMemory::kLastLowPage.value(), 4097)});
       },
       "outside RAM"},
      {"WritableRunsOutOfRam", false,
       [](FakeGuestMemory&, DriverRing& d) {
         Offer(d, {MakeDescriptor(FakeGuestMemory::kLastLowPage.value(), 4097, kDescWrite)});
       },
       "outside RAM"},
      {"LengthOfAll", false,
       [](FakeGuestMemory&, DriverRing& d) { Offer(d, {MakeDescriptor(kRam, 0xffffffff)}); },
       "outside RAM"},
      {"AddressWrapsAround", false,
       [](FakeGuestMemory&, DriverRing& d) { Offer(d, {MakeDescriptor(~uint64_t{0} - 15, 64)}); },
       "outside RAM"},
      {"ReadableAfterWritable", false,
       [](FakeGuestMemory&, DriverRing& d) {
         Offer(d, {MakeDescriptor(kRam, 1, kDescNext | kDescWrite, 3), MakeDescriptor(kRam, 1)});
       },
       "readable descriptor after a writable"},
      {"IndirectNotNegotiated", false,
       [](FakeGuestMemory& g, DriverRing& d) {
         WriteTable(g, {MakeDescriptor(kRam, 1)});
         Offer(d, {MakeDescriptor(kTable, 16, kDescIndirect)});
       },
       "not negotiated"},
      {"IndirectInIndirect", true,
       [](FakeGuestMemory& g, DriverRing& d) {
         WriteTable(g, {MakeDescriptor(kTable, 16, kDescIndirect)});
         Offer(d, {MakeDescriptor(kTable, 16, kDescIndirect)});
       },
       "indirect descriptor in an indirect table"},
      {"IndirectWithNext", true,
       [](FakeGuestMemory& g, DriverRing& d) {
         WriteTable(g, {MakeDescriptor(kRam, 1)});
         Offer(d,
               {MakeDescriptor(kTable, 16, kDescIndirect | kDescNext, 3), MakeDescriptor(kRam, 1)});
       },
       "indirect descriptor with a next"},
      {"IndirectEmpty", true,
       [](FakeGuestMemory&, DriverRing& d) {
         Offer(d, {MakeDescriptor(kTable, 0, kDescIndirect)});
       },
       "whole number"},
      {"IndirectCutShort", true,
       [](FakeGuestMemory&, DriverRing& d) {
         Offer(d, {MakeDescriptor(kTable, 17, kDescIndirect)});
       },
       "whole number"},
      {"IndirectTooLong", true,
       [](FakeGuestMemory&, DriverRing& d) {
         Offer(d, {MakeDescriptor(kTable, 16 * 1025, kDescIndirect)});
       },
       "too long"},
      {"IndirectOutsideRam", true,
       [](FakeGuestMemory&, DriverRing& d) {
         Offer(d, {MakeDescriptor(FakeGuestMemory::kNoRam.value(), 32, kDescIndirect)});
       },
       "indirect table is outside RAM"},
      {"IndirectRunsOutOfRam", true,
       [](FakeGuestMemory& g, DriverRing& d) {
         g.WriteObject(GuestAddress(FakeGuestMemory::kLowBytes - 16),
                       MakeDescriptor(kRam, 1, kDescNext, 1));
         Offer(d, {MakeDescriptor(FakeGuestMemory::kLowBytes - 16, 32, kDescIndirect)});
       },
       "indirect table is outside RAM"},
      {"IndirectAtTheEndOfTheWorld", true,
       [](FakeGuestMemory&, DriverRing& d) {
         Offer(d, {MakeDescriptor(~uint64_t{0} - 7, 32, kDescIndirect)});
       },
       "indirect table is outside RAM"},
      {"IndirectLoop", true,
       [](FakeGuestMemory& g, DriverRing& d) {
         WriteTable(g, {MakeDescriptor(kRam, 1, kDescNext, 1), MakeDescriptor(kRam, 1, kDescNext)});
         Offer(d, {MakeDescriptor(kTable, 32, kDescIndirect)});
       },
       "loop"},
      {"IndirectNextOutsideItsTable", true,
       [](FakeGuestMemory& g, DriverRing& d) {
         WriteTable(g, {MakeDescriptor(kRam, 1, kDescNext, 2)});
         Offer(d, {MakeDescriptor(kTable, 32, kDescIndirect)});
       },
       "outside the table"},
  };
}

INSTANTIATE_TEST_SUITE_P(Hostile, HostileRingTest, testing::ValuesIn(HostileRings()),
                         [](const auto& test) { return test.param.name; });

TEST(VirtqueueTest, ChainOfMoreThanFourGigabytesBreaksTheQueue) {
  Pair pair({.size = 8, .indirect = true});
  constexpr uint32_t kPart = FakeGuestMemory::kLowBytes;
  for (uint32_t i = 0; i < 1024; ++i) {
    const bool last = i == 1023;
    pair.guest.WriteObject(GuestAddress(kTable + 16 * i),
                           MakeDescriptor(0, kPart, last ? uint16_t{0} : kDescNext,
                                          static_cast<uint16_t>(last ? 0 : i + 1)));
  }
  Offer(pair.driver,
        {MakeDescriptor(0, kPart, kDescNext, 3), MakeDescriptor(kTable, 16 * 1024, kDescIndirect)});
  EXPECT_FALSE(pair.device.PopAvailable().has_value());
  EXPECT_THAT(std::string(pair.device.fault().message()), HasSubstr("4 GiB"));
}

TEST(VirtqueueTest, DescriptorsMayComeBeforeAnIndirectOne) {
  Pair pair({.size = 8, .indirect = true});
  WriteTable(pair.guest, {MakeDescriptor(kRam, 2, kDescWrite)});
  Offer(pair.driver,
        {MakeDescriptor(kRam, 3, kDescNext, 3), MakeDescriptor(kTable, 16, kDescIndirect)});
  const std::optional<DescriptorChain> chain = pair.device.PopAvailable();
  ASSERT_TRUE(chain.has_value());
  EXPECT_EQ(chain->readable_bytes(), 3u);
  EXPECT_EQ(chain->writable_bytes(), 2u);
}

// ---- Dirty pages ----

std::vector<uint64_t> DirtyPages(FakeGuestMemory& guest) {
  std::vector<uint64_t> pages;
  const std::vector<uint64_t> words = guest.memory().dirty_log().FetchAndClear(0);
  for (size_t i = 0; i < words.size() * 64; ++i) {
    if ((words[i / 64] >> (i % 64) & 1) != 0) pages.push_back(i);
  }
  return pages;
}

TEST(VirtqueueTest, WhatTheDeviceWritesIsMarkedDirtyWhenItIsWritten) {
  FakeGuestMemory guest;
  guest.Allocate(4096, 4096);
  DriverRing driver(guest, {.size = 8});
  absl::StatusOr<Virtqueue> device = Virtqueue::Create(guest.memory(), driver.config());
  ASSERT_TRUE(device.ok());
  const uint64_t used_page = driver.config().used.value() / 4096;
  const GuestAddress buffer = guest.Allocate(3 * 4096, 4096);
  const uint64_t buffer_page = buffer.value() / 4096;
  ASSERT_TRUE(guest.memory().dirty_log().Start().ok());
  driver.Add({Segment{.writable_bytes = 3 * 4096, .at = buffer}});

  std::optional<DescriptorChain> chain = device->PopAvailable();
  ASSERT_TRUE(chain.has_value());
  EXPECT_THAT(DirtyPages(guest), ElementsAre());  // Taking a chain writes nothing.
  chain->CompleteWrites(4097);
  EXPECT_THAT(DirtyPages(guest), ElementsAre(buffer_page, buffer_page + 1));
  EXPECT_TRUE(device->PushUsed(chain->head(), 4097));
  EXPECT_THAT(DirtyPages(guest), ElementsAre(used_page));
  EXPECT_TRUE(device->EnableNotifications());
  EXPECT_THAT(DirtyPages(guest), ElementsAre(used_page));
  device->DisableNotifications();
  EXPECT_THAT(DirtyPages(guest), ElementsAre(used_page));
}

}  // namespace
}  // namespace vireo::virtio
