#include "devices/pvpanic.h"

#include <vector>

#include "base/async/event_loop.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

using testing::ElementsAre;

class PvPanicTest : public testing::Test {
 protected:
  void Write(std::vector<uint8_t> data) { device_.Write(0, data); }

  std::vector<PvPanic::Event> events_;
  PvPanic device_{[this](PvPanic::Event event) { events_.push_back(event); }};
};

TEST_F(PvPanicTest, TellsWhatCanBeReported) {
  uint8_t data[1];
  device_.Read(0, data);
  EXPECT_EQ(data[0], 0x03);
}

TEST_F(PvPanicTest, ReportsPanicsAndLoadedCrashKernels) {
  Write({0x01});
  Write({0x02});
  EXPECT_THAT(events_, ElementsAre(PvPanic::Event::kPanicked, PvPanic::Event::kCrashLoaded));
}

TEST_F(PvPanicTest, OtherWritesAreNothing) {
  Write({});
  Write({0x00});
  Write({0xf0});
  EXPECT_TRUE(events_.empty());
}

TEST_F(PvPanicTest, HasAnEmptyState) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  loop->RunTask(device_.Quiesce());
  EncodedState state = device_.Save();
  PvPanic fresh([](PvPanic::Event) {});
  EXPECT_TRUE(fresh.Restore(state).ok());
  loop->RunTask(fresh.Reset());
  fresh.Resume();
  state.bytes.push_back(0);
  EXPECT_FALSE(fresh.Restore(state).ok());
}

}  // namespace
}  // namespace vireo
