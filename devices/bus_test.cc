#include "devices/bus.h"

#include <atomic>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

using testing::ElementsAre;

// Answers with its own number and remembers what came.
class Recorder : public BusDevice {
 public:
  explicit Recorder(uint8_t number) : number_(number) {}
  void Read(uint64_t offset, std::span<uint8_t> data) override {
    offset_ = offset;
    size_ = data.size();
    for (uint8_t& byte : data) byte = number_;
  }
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override {
    offset_ = offset;
    size_ = data.size();
    written_.assign(data.begin(), data.end());
    return parking_;
  }

  uint8_t number_;
  std::atomic<uint64_t> offset_{0};
  std::atomic<size_t> size_{0};
  std::vector<uint8_t> written_;
  std::shared_ptr<Parking> parking_;
};

std::vector<uint8_t> ReadFrom(const Bus& bus, uint64_t address, size_t size) {
  std::vector<uint8_t> data(size, 0x5a);
  bus.Read(address, data);
  return data;
}

TEST(BusTest, RoutesToTheDeviceThatHasTheAddress) {
  Bus bus;
  Recorder low(1);
  Recorder high(2);
  ASSERT_TRUE(bus.Insert(0x1000, 0x10, low).ok());
  ASSERT_TRUE(bus.Insert(0x1010, 0x10, high).ok());
  EXPECT_THAT(ReadFrom(bus, 0x100f, 1), ElementsAre(1));
  EXPECT_EQ(low.offset_, 0xf);
  EXPECT_THAT(ReadFrom(bus, 0x1010, 4), ElementsAre(2, 2, 2, 2));
  EXPECT_EQ(high.offset_, 0);
}

TEST(BusTest, HolesReadAsOnesAndIgnoreWrites) {
  Bus bus;
  Recorder device(1);
  ASSERT_TRUE(bus.Insert(0x1000, 0x10, device).ok());
  uint8_t data[2] = {0, 0};
  EXPECT_FALSE(bus.Read(0xfff, data));
  EXPECT_THAT(data, ElementsAre(0xff, 0xff));
  EXPECT_FALSE(bus.Write(0x1010, data).first);
  EXPECT_TRUE(device.written_.empty());
}

TEST(BusTest, AnAccessThatCrossesTheEndIsCut) {
  Bus bus;
  Recorder device(1);
  ASSERT_TRUE(bus.Insert(0x1000, 0x10, device).ok());
  EXPECT_THAT(ReadFrom(bus, 0x100e, 4), ElementsAre(1, 1, 0xff, 0xff));
  EXPECT_EQ(device.size_, 2u);
  const uint8_t data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  EXPECT_TRUE(bus.Write(0x100d, data).first);
  EXPECT_THAT(device.written_, ElementsAre(1, 2, 3));
}

TEST(BusTest, ARangeMayEndAtTheEndOfTheSpace) {
  Bus bus;
  Recorder device(1);
  ASSERT_TRUE(bus.Insert(UINT64_MAX - 0xf, 0x10, device).ok());
  EXPECT_THAT(ReadFrom(bus, UINT64_MAX, 8), ElementsAre(1, 255, 255, 255, 255, 255, 255, 255));
}

TEST(BusTest, OverlapAndNonsenseAreRefused) {
  Bus bus;
  Recorder device(1);
  ASSERT_TRUE(bus.Insert(0x1000, 0x10, device).ok());
  EXPECT_EQ(bus.Insert(0x100f, 1, device).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(bus.Insert(0xfff, 2, device).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(bus.Insert(0, UINT64_MAX, device).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(bus.Insert(0x2000, 0, device).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(bus.Insert(UINT64_MAX, 2, device).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(bus.Insert(0xfff, 1, device).ok());
  EXPECT_TRUE(bus.Insert(0x1010, 1, device).ok());
}

TEST(BusTest, MovesARangeAlsoOntoItself) {
  Bus bus;
  Recorder device(1);
  Recorder other(2);
  ASSERT_TRUE(bus.Insert(0x1000, 0x100, device).ok());
  ASSERT_TRUE(bus.Insert(0x3000, 0x100, other).ok());
  EXPECT_TRUE(bus.Move(0x1000, 0x1080).ok());
  EXPECT_THAT(ReadFrom(bus, 0x1000, 1), ElementsAre(0xff));
  EXPECT_THAT(ReadFrom(bus, 0x1180 - 1, 1), ElementsAre(1));
  EXPECT_EQ(bus.Move(0x1080, 0x2f81).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(ReadFrom(bus, 0x1080, 1), ElementsAre(1));
  EXPECT_EQ(bus.Move(0x5000, 0x6000).code(), absl::StatusCode::kNotFound);
}

TEST(BusTest, RemovedRangesAnswerNoMore) {
  Bus bus;
  Recorder device(1);
  ASSERT_TRUE(bus.Insert(0x1000, 0x10, device).ok());
  EXPECT_EQ(bus.Remove(0x1001).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(bus.Remove(0x1000).ok());
  EXPECT_THAT(ReadFrom(bus, 0x1000, 1), ElementsAre(0xff));
  EXPECT_EQ(bus.Withdraw(0x1000).code(), absl::StatusCode::kNotFound);
}

TEST(BusTest, HandsOnTheParking) {
  Bus bus;
  Recorder device(1);
  device.parking_ = std::make_shared<Parking>();
  ASSERT_TRUE(bus.Insert(0, 1, device).ok());
  EXPECT_EQ(bus.Write(0, std::vector<uint8_t>{1}).second, device.parking_);
}

// Removes itself while it is accessed, as a BAR does that is moved through itself.
class SelfRemover : public Recorder {
 public:
  explicit SelfRemover(Bus& bus) : Recorder(1), bus_(bus) {}
  std::shared_ptr<Parking> Write(uint64_t, std::span<const uint8_t>) override {
    EXPECT_TRUE(bus_.Remove(0x1000).ok());
    EXPECT_TRUE(bus_.Insert(0x2000, 0x10, *this).ok());
    return nullptr;
  }
  Bus& bus_;
};

TEST(BusTest, ADeviceMayMoveItselfFromWithinAnAccess) {
  Bus bus;
  SelfRemover device(bus);
  ASSERT_TRUE(bus.Insert(0x1000, 0x10, device).ok());
  EXPECT_TRUE(bus.Write(0x1000, std::vector<uint8_t>{1}).first);
  EXPECT_THAT(ReadFrom(bus, 0x1000, 1), ElementsAre(0xff));
  EXPECT_THAT(ReadFrom(bus, 0x2000, 1), ElementsAre(1));
}

// Holds its accesses until it is let go.
class Gate : public BusDevice {
 public:
  void Read(uint64_t, std::span<uint8_t>) override {
    ++inside_;
    inside_.notify_all();
    open_.wait(false);
    --inside_;
  }
  std::shared_ptr<Parking> Write(uint64_t, std::span<const uint8_t>) override { return nullptr; }

  std::atomic<int> inside_{0};
  std::atomic<bool> open_{false};
};

TEST(BusTest, RemoveWaitsForARunningAccess) {
  Bus bus;
  Gate gate;
  ASSERT_TRUE(bus.Insert(0, 8, gate).ok());
  std::thread reader([&] { ReadFrom(bus, 0, 1); });
  gate.inside_.wait(0);
  // Withdrawn, it takes no new access, and the running one goes on.
  EXPECT_TRUE(bus.Withdraw(0).ok());
  EXPECT_THAT(ReadFrom(bus, 0, 1), ElementsAre(0xff));
  std::atomic<bool> drained{false};
  std::thread remover([&] {
    bus.Drain(gate);
    EXPECT_EQ(gate.inside_, 0);
    drained = true;
  });
  EXPECT_FALSE(drained);
  gate.open_ = true;
  gate.open_.notify_all();
  remover.join();
  reader.join();
  EXPECT_TRUE(drained);
}

TEST(BusTest, DrainOfADeviceDoesNotWaitForOthers) {
  Bus bus;
  Gate gate;
  Recorder other(1);
  ASSERT_TRUE(bus.Insert(0, 8, gate).ok());
  ASSERT_TRUE(bus.Insert(8, 8, other).ok());
  std::thread reader([&] { ReadFrom(bus, 0, 1); });
  gate.inside_.wait(0);
  EXPECT_TRUE(bus.Remove(8).ok());
  gate.open_ = true;
  gate.open_.notify_all();
  reader.join();
}

TEST(BusTest, ReadersSeeOneDeviceOrNoneWhileRangesMove) {
  Bus bus;
  Recorder mover(1);
  Recorder fixed(2);
  ASSERT_TRUE(bus.Insert(0x1000, 0x1000, mover).ok());
  ASSERT_TRUE(bus.Insert(0x8000, 0x1000, fixed).ok());
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&, i] {
      std::mt19937 random(i);
      while (!stop) {
        uint8_t data[4];
        const uint64_t address = random() % 0xa000;
        const bool found = bus.Read(address, data);
        const uint8_t wanted = !found ? 0xff : address >= 0x8000 ? 2 : 1;
        EXPECT_EQ(data[0], wanted);
        EXPECT_EQ(found, address >= 0x8000 && address < 0x9000 ? true : found);
      }
    });
  }
  uint64_t at = 0x1000;
  for (int i = 0; i < 2000; ++i) {
    const uint64_t to = 0x1000 + (i * 0x700) % 0x6000;
    EXPECT_TRUE(bus.Move(at, to).ok());
    at = to;
  }
  EXPECT_TRUE(bus.Remove(at).ok());
  stop = true;
  for (std::thread& reader : readers) reader.join();
}

TEST(ParkingTest, WaitEndsWhenFinished) {
  Parking parking;
  EXPECT_FALSE(parking.done());
  std::thread finisher([&] { parking.Finish(); });
  parking.Wait([] { return false; });
  EXPECT_TRUE(parking.done());
  finisher.join();
  parking.Wait([] { return false; });
}

TEST(ParkingTest, AKickInterruptsAndTheWaitGoesOn) {
  Parking parking;
  std::atomic<bool> kicked{false};
  std::thread kicker([&] {
    kicked = true;
    parking.Wake();
  });
  parking.Wait([&] { return kicked.load(); });
  kicker.join();
  EXPECT_FALSE(parking.done());
  kicked = false;
  std::thread finisher([&] { parking.Finish(); });
  parking.Wait([&] { return kicked.load(); });
  EXPECT_TRUE(parking.done());
  finisher.join();
}

TEST(BusTest, RandomAccessesAndChangesNeverGoWrong) {
  Bus bus;
  std::mt19937_64 random(1);
  std::vector<std::unique_ptr<Recorder>> devices;
  for (uint8_t i = 0; i < 8; ++i) devices.push_back(std::make_unique<Recorder>(i));
  for (int step = 0; step < 20000; ++step) {
    // Clustered at both ends of the space, where the arithmetic is hard.
    const uint64_t address = random() % 64 - (random() % 2 == 0 ? 32 : 0);
    std::vector<uint8_t> data(1 << random() % 4);
    Recorder& device = *devices[random() % devices.size()];
    switch (random() % 6) {
      case 0:
        (void)bus.Insert(address, random() % 16, device);
        break;
      case 1:
        (void)bus.Remove(address);
        break;
      case 2:
        (void)bus.Move(address, random() % 64);
        break;
      case 3:
        bus.Write(address, data);
        break;
      default:
        const bool found = bus.Read(address, data);
        EXPECT_EQ(found, data[0] != 0xff);
        break;
    }
  }
}

}  // namespace
}  // namespace vireo
