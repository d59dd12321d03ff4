#include "base/async/stop_token.h"

#include <memory>

#include "gtest/gtest.h"

namespace vireo {
namespace {

class Counter final : public StopListener {
 public:
  void Listen(StopToken token) { StartListening(token); }
  void Leave() { StopListening(); }
  void OnStopRequested() override { ++heard; }
  int heard = 0;
};

TEST(StopTokenTest, ADefaultTokenNeverStops) {
  Counter counter;
  counter.Listen(StopToken());
  EXPECT_FALSE(StopToken().stop_requested());
  EXPECT_EQ(counter.heard, 0);
}

TEST(StopTokenTest, EveryListenerHearsOnce) {
  StopSource source;
  Counter one;
  Counter two;
  one.Listen(source.token());
  two.Listen(source.token());
  source.RequestStop();
  source.RequestStop();
  EXPECT_TRUE(source.token().stop_requested());
  EXPECT_EQ(one.heard, 1);
  EXPECT_EQ(two.heard, 1);
}

TEST(StopTokenTest, WhoLeftOrDiedHearsNothing) {
  StopSource source;
  Counter left;
  left.Listen(source.token());
  left.Leave();
  auto died = std::make_unique<Counter>();
  died->Listen(source.token());
  died.reset();
  source.RequestStop();
  EXPECT_EQ(left.heard, 0);
}

TEST(StopTokenTest, ARearmedSourceIsAsNew) {
  StopSource source;
  const StopToken token = source.token();
  source.RequestStop();
  source.Rearm();
  EXPECT_FALSE(token.stop_requested());
  Counter counter;
  counter.Listen(token);
  source.RequestStop();
  EXPECT_EQ(counter.heard, 1);
}

}  // namespace
}  // namespace vireo
