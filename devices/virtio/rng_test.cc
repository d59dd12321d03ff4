#include "devices/virtio/rng.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/async/event_loop.h"
#include "devices/virtio/spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

struct Fixture {
  std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FakeGuestMemory guest;
  VirtioRng rng{*loop, guest.memory()};
  VirtioHost host{rng, *loop};
  VirtioDriver driver{host, guest};
};

TEST(VirtioRngTest, FillsTheWholeBufferWithRandomBytes) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  const std::optional<UsedChain> first = f.driver.Send({Writable(100), Writable(28)});
  const std::optional<UsedChain> second = f.driver.Send({Writable(128)});
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_EQ(first->written, 128u);
  EXPECT_EQ(second->written, 128u);
  EXPECT_NE(first->bytes, second->bytes);
  EXPECT_NE(first->bytes, std::vector<uint8_t>(128));
}

TEST(VirtioRngTest, OneRequestGetsNoMoreThanItsBound) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  const std::optional<UsedChain> used = f.driver.Send({Writable(3000), Writable(300000)});
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->written, VirtioRng::kMaxBytesPerRequest);
  // Behind the bound nothing was touched.
  EXPECT_TRUE(std::all_of(used->bytes.begin() + VirtioRng::kMaxBytesPerRequest, used->bytes.end(),
                          [](uint8_t byte) { return byte == 0; }));
}

TEST(VirtioRngTest, ChainWithNothingToFillEndsEmpty) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  const std::optional<UsedChain> used = f.driver.Send({Readable({1, 2, 3})});
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->written, 0u);
}

TEST(VirtioRngTest, ServesManyChainsWithOneKickAndOneInterruptEachTurn) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.queue_size = 64}));
  f.driver.TakeInterrupts();
  for (int i = 0; i < 64; ++i) f.driver.ring().Add({Writable(8)});
  f.driver.Run();
  int ended = 0;
  while (f.driver.ring().PopUsed().has_value()) ++ended;
  EXPECT_EQ(ended, 64);
  EXPECT_EQ(f.driver.TakeInterrupts(), 4);
}

TEST(VirtioRngTest, MoreRequestsThanIndicesHaveValues) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kFeatureEventIdx, .queue_size = 64}));
  for (uint32_t ended = 0; ended < 66000; ended += 60) {
    for (int i = 0; i < 60; ++i) f.driver.ring().Add({Writable(1)});
    f.driver.Run();
    for (int i = 0; i < 60; ++i) {
      const std::optional<UsedChain> used = f.driver.ring().PopUsed();
      ASSERT_TRUE(used.has_value() && used->written == 1) << ended;
    }
  }
  EXPECT_FALSE(f.host.transport().needs_reset());
}

TEST(VirtioRngTest, MarksOnlyWhatItFilled) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  const GuestAddress buffer = f.guest.Allocate(4 * 4096, 4096);
  ASSERT_TRUE(f.guest.memory().dirty_log().Start().ok());
  f.driver.ring().Add({Segment{.writable_bytes = 4 * 4096, .at = buffer}});
  f.driver.Run();
  const std::vector<uint64_t> dirty = f.guest.memory().dirty_log().FetchAndClear(0);
  const uint64_t page = buffer.value() / 4096;
  const auto is_dirty = [&dirty](uint64_t p) { return (dirty[p / 64] >> (p % 64) & 1) != 0; };
  EXPECT_TRUE(is_dirty(page));
  EXPECT_FALSE(is_dirty(page + 1));
}

TEST(VirtioRngTest, SavedAndRestoredIntoAFreshObjectItGoesOn) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kFeatureEventIdx}));
  ASSERT_TRUE(f.driver.Send({Writable(8)}).has_value());
  f.loop->RunTask(f.host.transport().Quiesce());
  const EncodedState state = f.host.transport().Save();

  VirtioRng other(*f.loop, f.guest.memory());
  VirtioHost other_host(other, *f.loop);
  f.loop->RunTask(other_host.transport().Quiesce());
  ASSERT_TRUE(other_host.transport().Restore(state).ok());
  f.driver.MoveTo(other_host);
  f.driver.ring().Add({Writable(8)});
  f.driver.Run();
  EXPECT_FALSE(f.driver.ring().PopUsed().has_value());  // Still quiet.
  other_host.transport().Resume();
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver.ring().PopUsed()->written, 8u);
}

}  // namespace
}  // namespace vireo::virtio
