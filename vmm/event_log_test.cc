#include "vmm/event_log.h"

#include <memory>
#include <vector>

#include "gtest/gtest.h"

namespace vireo {
namespace {

class Recorder final : public EventWatcher {
 public:
  void OnEvent(const VmEvent& event) override { sequences.push_back(event.sequence); }
  void OnClosed() override { closed = true; }
  std::vector<uint64_t> sequences;
  bool closed = false;
};

TEST(EventLogTest, NumbersEventsWithoutGapsAndHandsThemOn) {
  EventLog log;
  auto watcher = std::make_shared<Recorder>();
  log.AddWatcher(watcher, 0);
  log.Add({.kind = VmEventKind::kStateChanged});
  log.Add({.kind = VmEventKind::kReset});
  EXPECT_EQ(watcher->sequences, (std::vector<uint64_t>{1, 2}));
}

TEST(EventLogTest, AWatcherGoesOnWhereItLeftOff) {
  EventLog log;
  for (int i = 0; i < 5; ++i) log.Add({});
  auto watcher = std::make_shared<Recorder>();
  log.AddWatcher(watcher, 3);
  log.Dispatch();
  EXPECT_EQ(watcher->sequences, (std::vector<uint64_t>{4, 5}));
}

TEST(EventLogTest, KeepsTheLastEventsOnly) {
  EventLog log;
  for (size_t i = 0; i < EventLog::kKept + 10; ++i) log.Add({});
  auto watcher = std::make_shared<Recorder>();
  log.AddWatcher(watcher, 0);
  log.Dispatch();
  ASSERT_EQ(watcher->sequences.size(), EventLog::kKept);
  EXPECT_EQ(watcher->sequences.front(), 11u);
}

TEST(EventLogTest, ARemovedWatcherHearsNothing) {
  EventLog log;
  auto watcher = std::make_shared<Recorder>();
  log.AddWatcher(watcher, 0);
  log.RemoveWatcher(watcher.get());
  log.Add({});
  log.Close();
  EXPECT_TRUE(watcher->sequences.empty());
  EXPECT_FALSE(watcher->closed);
}

TEST(EventLogTest, ClosingTellsWatchersAndLateOnesAfterTheirHistory) {
  EventLog log;
  log.Add({});
  log.Close();
  auto late = std::make_shared<Recorder>();
  log.AddWatcher(late, 0);
  log.Dispatch();
  EXPECT_EQ(late->sequences, (std::vector<uint64_t>{1}));
  EXPECT_TRUE(late->closed);
}

}  // namespace
}  // namespace vireo
