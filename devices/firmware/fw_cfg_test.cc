#include "devices/firmware/fw_cfg.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <string>

#include "base/async/event_loop.h"
#include "base/endian.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_guest_memory.h"

namespace vireo {
namespace {

using testing::Each;
using testing::ElementsAre;
using Bytes = std::vector<uint8_t>;

// The registers as firmware uses them.
class Driver {
 public:
  Driver(FwCfg& device, FakeGuestMemory& memory) : device_(device), memory_(memory) {}

  void Select(uint16_t key) {
    const uint8_t bytes[] = {static_cast<uint8_t>(key), static_cast<uint8_t>(key >> 8)};
    device_.Write(0, bytes);
  }
  uint8_t ReadByte() {
    uint8_t byte = 0x5a;
    device_.Read(1, {&byte, 1});
    return byte;
  }
  Bytes ReadBytes(size_t count) {
    Bytes bytes(count);
    for (uint8_t& byte : bytes) byte = ReadByte();
    return bytes;
  }
  Bytes Item(uint16_t key, size_t count) {
    Select(key);
    return ReadBytes(count);
  }

  // Puts a request into memory, runs it, and answers what its control holds then.
  uint32_t Dma(uint32_t control, uint32_t length, uint64_t address) {
    const GuestAddress at = memory_.Allocate(16);
    memory_.WriteObject(at, Be32(control));
    memory_.WriteObject(GuestAddress(at.value() + 4), Be32(length));
    memory_.WriteObject(GuestAddress(at.value() + 8), Be64(address));
    Run(at.value());
    return memory_.ReadObject<Be32>(at);
  }
  void Run(uint64_t request) {
    const Be32 high = static_cast<uint32_t>(request >> 32);
    const Be32 low = static_cast<uint32_t>(request);
    device_.Write(4, {reinterpret_cast<const uint8_t*>(&high), 4});
    device_.Write(8, {reinterpret_cast<const uint8_t*>(&low), 4});
  }

  struct File {
    uint32_t size;
    uint16_t key;
  };
  std::map<std::string, File> Directory() {
    const Bytes count = Item(FwCfg::kFiles, 4);
    std::map<std::string, File> files;
    for (int i = 0; i < count[3]; ++i) {
      const Bytes entry = ReadBytes(64);
      files[reinterpret_cast<const char*>(entry.data() + 8)] = {
          .size = uint32_t{entry[0]} << 24 | entry[1] << 16 | entry[2] << 8 | entry[3],
          .key = static_cast<uint16_t>(entry[4] << 8 | entry[5])};
    }
    return files;
  }

 private:
  FwCfg& device_;
  FakeGuestMemory& memory_;
};

constexpr uint32_t kRead = 2, kSkip = 4, kSelect = 8, kWrite = 16;

class FwCfgTest : public testing::Test {
 protected:
  FwCfgTest() {
    device_.SetItem(0x7, {1, 2, 3, 4, 5});
    device_.SetNumber(FwCfg::kCpus, 0x0203, 2);
    EXPECT_TRUE(device_.AddFile("etc/one", Bytes{10, 11}).ok());
    EXPECT_TRUE(device_.AddFile("etc/two", Bytes(3000, 12)).ok());
  }

  FakeGuestMemory memory_;
  FwCfg device_{memory_.memory()};
  Driver driver_{device_, memory_};
};

// SeaBIOS's and Linux's first steps: who is there, and does it know DMA?
TEST_F(FwCfgTest, SaysWhoItIs) {
  EXPECT_THAT(driver_.Item(0, 4), ElementsAre('Q', 'E', 'M', 'U'));
  EXPECT_THAT(driver_.Item(1, 4), ElementsAre(3, 0, 0, 0));
  uint8_t words[8];
  device_.Read(4, std::span(words).first(4));
  device_.Read(8, std::span(words).last(4));
  EXPECT_EQ(std::string(reinterpret_cast<char*>(words), 8), "QEMU CFG");
}

TEST_F(FwCfgTest, GivesAnItemByteForByteAndThenZeros) {
  EXPECT_THAT(driver_.Item(7, 7), ElementsAre(1, 2, 3, 4, 5, 0, 0));
  EXPECT_THAT(driver_.Item(7, 2), ElementsAre(1, 2));
  EXPECT_THAT(driver_.Item(FwCfg::kCpus, 2), ElementsAre(3, 2));
}

TEST_F(FwCfgTest, AnItemThatIsNotThereIsZeros) {
  EXPECT_THAT(driver_.Item(0x3fff, 8), Each(0));
  EXPECT_THAT(driver_.Item(0x8000, 2), Each(0));
}

TEST_F(FwCfgTest, ListsFiles) {
  auto files = driver_.Directory();
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files["etc/one"].size, 2u);
  EXPECT_EQ(files["etc/two"].size, 3000u);
  EXPECT_GE(files["etc/one"].key, FwCfg::kFirstFile);
  EXPECT_THAT(driver_.Item(files["etc/one"].key, 3), ElementsAre(10, 11, 0));
}

TEST_F(FwCfgTest, RefusesNamesThatDoNotFit) {
  EXPECT_EQ(device_.AddFile("etc/one", Bytes{}).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(device_.AddFile("", Bytes{}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(device_.AddFile(std::string(55, 'x'), Bytes{}).ok());
  EXPECT_EQ(device_.AddFile(std::string(56, 'x'), Bytes{}).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(FwCfgTest, DmaSelectsAndReads) {
  const GuestAddress to = memory_.Allocate(8);
  memory_.Write(to, Bytes(8, 0xee));
  EXPECT_EQ(driver_.Dma(7 << 16 | kSelect | kRead, 3, to.value()), 0u);
  EXPECT_THAT(memory_.Read(to, 5), ElementsAre(1, 2, 3, 0xee, 0xee));
  EXPECT_EQ(driver_.Dma(kRead, 4, to.value()), 0u);
  EXPECT_THAT(memory_.Read(to, 5), ElementsAre(4, 5, 0, 0, 0xee));
}

TEST_F(FwCfgTest, DmaSkips) {
  const GuestAddress to = memory_.Allocate(8);
  EXPECT_EQ(driver_.Dma(7 << 16 | kSelect | kSkip, 3, 0), 0u);
  EXPECT_EQ(driver_.Dma(kRead, 1, to.value()), 0u);
  EXPECT_THAT(memory_.Read(to, 1), ElementsAre(4));
  EXPECT_EQ(driver_.Dma(kSkip, 0xffffffff, 0), 0u);
  EXPECT_EQ(driver_.ReadByte(), 0);
}

TEST_F(FwCfgTest, DmaMarksWhatItWroteDirty) {
  ASSERT_TRUE(memory_.memory().dirty_log().Start().ok());
  EXPECT_EQ(driver_.Dma(7 << 16 | kSelect | kRead, 8, 65 * 4096 + 4094), 0u);
  EXPECT_THAT(memory_.Read(GuestAddress(65 * 4096 + 4094), 5), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(memory_.memory().dirty_log().FetchAndClear(0).at(1), 0b110u);
}

TEST_F(FwCfgTest, DmaReachesHighMemory) {
  const uint64_t to = FakeGuestMemory::kHighBase + 64;
  EXPECT_EQ(driver_.Dma(7 << 16 | kSelect | kRead, 2, to), 0u);
  EXPECT_THAT(memory_.Read(GuestAddress(to), 2), ElementsAre(1, 2));
  const GuestAddress request(FakeGuestMemory::kHighBase + 128);
  memory_.WriteObject(request, Be32(7 << 16 | kSelect));
  driver_.Run(request.value());
  EXPECT_EQ(memory_.ReadObject<Be32>(request), 0u);
}

struct BadDma {
  const char* name;
  uint32_t control;
  uint32_t length;
  uint64_t address;
};
class FwCfgBadDmaTest : public FwCfgTest, public testing::WithParamInterface<BadDma> {};

TEST_P(FwCfgBadDmaTest, FailsAndMovesNothing) {
  memory_.Write(FakeGuestMemory::kLastLowPage, Bytes(4096, 0xee));
  EXPECT_EQ(
      driver_.Dma(GetParam().control | 7 << 16 | kSelect, GetParam().length, GetParam().address),
      1u);
  EXPECT_THAT(memory_.Read(FakeGuestMemory::kLastLowPage, 4096), Each(0xee));
  EXPECT_EQ(driver_.ReadByte(), 1);  // The position has not moved either.
}
INSTANTIATE_TEST_SUITE_P(
    Requests, FwCfgBadDmaTest,
    testing::Values(BadDma{"ReadToNoRam", kRead, 1, FakeGuestMemory::kNoRam.value()},
                    BadDma{"ReadIntoTheHole", kRead, 4097, FakeGuestMemory::kLastLowPage.value()},
                    BadDma{"ReadOfEverything", kRead, 0xffffffff, 0},
                    BadDma{"ReadPastTheEndOfAddresses", kRead, 16, ~uint64_t{0} - 3},
                    BadDma{"Write", kWrite, 1, 0x1000}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(FwCfgTest, ARequestOutsideOfRamIsIgnored) {
  driver_.Select(7);
  driver_.Run(FakeGuestMemory::kNoRam.value());
  driver_.Run(FakeGuestMemory::kLowBytes - 8);
  driver_.Run(~uint64_t{0} - 3);
  EXPECT_EQ(driver_.ReadByte(), 1);
}

TEST_F(FwCfgTest, AccessesOfOtherWidthsAreToNothing) {
  driver_.Select(7);
  device_.Write(0, Bytes{0});
  device_.Write(0, Bytes{0, 0, 0, 0});
  device_.Write(1, Bytes{9});
  device_.Write(4, Bytes{0, 0});
  device_.Write(8, Bytes{0});
  EXPECT_EQ(driver_.ReadByte(), 1);
  Bytes wide(2);
  device_.Read(0, wide);
  EXPECT_THAT(wide, ElementsAre(0xff, 2));
}

TEST_F(FwCfgTest, WhatIsMadeOnDemandIsMadeAtEachSelection) {
  uint8_t now = 1;
  ASSERT_TRUE(device_.AddFile("etc/made", [&now] { return Bytes{now}; }).ok());
  const uint16_t key = driver_.Directory()["etc/made"].key;
  now = 2;
  EXPECT_THAT(driver_.Item(key, 1), ElementsAre(2));
  now = 3;
  const GuestAddress to = memory_.Allocate(8);
  EXPECT_EQ(driver_.Dma(uint32_t{key} << 16 | kSelect | kRead, 1, to.value()), 0u);
  EXPECT_THAT(memory_.Read(to, 1), ElementsAre(3));
}

// Item 0x11 of `bytes` bytes, each of which tells its place; nothing can be read from `broken` on.
void SetReadItem(FwCfg& device, uint64_t bytes, uint64_t broken) {
  device.SetItem(FwCfg::kKernel, bytes, [=](uint64_t offset, std::span<uint8_t> part) {
    if (offset + part.size() > bytes) return absl::OutOfRangeError("past the end of the item");
    if (offset + part.size() > broken) return absl::UnavailableError("the host cannot read it");
    for (uint8_t& byte : part) byte = static_cast<uint8_t>(offset++ % 251);
    return absl::OkStatus();
  });
}

TEST_F(FwCfgTest, WhatIsNotKeptIsReadPieceByPiece) {
  constexpr uint32_t kBytes = 150'000;  // More than two pieces.
  SetReadItem(device_, kBytes, kBytes);
  EXPECT_THAT(driver_.Item(FwCfg::kKernel, 3), ElementsAre(0, 1, 2));
  const GuestAddress to = memory_.Allocate(kBytes + 2);
  memory_.Write(to, Bytes(kBytes + 2, 0xee));
  EXPECT_EQ(driver_.Dma(kRead, kBytes - 2, to.value()), 0u);
  const Bytes read = memory_.Read(to, kBytes + 2);
  for (uint32_t i = 0; i < kBytes - 3; ++i) ASSERT_EQ(read[i], (i + 3) % 251) << i;
  EXPECT_EQ(read[kBytes - 3], 0);  // Past the end.
  EXPECT_EQ(read[kBytes - 2], 0xee);
  EXPECT_EQ(driver_.ReadByte(), 0);
  EXPECT_EQ(driver_.Dma(FwCfg::kKernel << 16 | kSelect | kSkip, 100'000, 0), 0u);
  EXPECT_EQ(driver_.ReadByte(), 100'000 % 251);
  EXPECT_EQ(driver_.Dma(FwCfg::kKernel << 16 | kSelect | kRead, 1, to.value()), 0u);
  EXPECT_EQ(memory_.Read(to, 1)[0], 0);
}

TEST_F(FwCfgTest, WhatCannotBeReadFailsTheRequest) {
  SetReadItem(device_, 150'000, 100'000);
  const GuestAddress to = memory_.Allocate(150'000);
  EXPECT_EQ(driver_.Dma(FwCfg::kKernel << 16 | kSelect | kRead, 10, to.value()), 0u);
  EXPECT_EQ(driver_.Dma(FwCfg::kKernel << 16 | kSelect | kRead, 150'000, to.value()), 1u);
  EXPECT_EQ(driver_.ReadByte(), 0);
}

TEST_F(FwCfgTest, AFreshDeviceGoesOnInTheMiddleOfWhatIsNotKept) {
  SetReadItem(device_, 150'000, 150'000);
  EXPECT_EQ(driver_.Dma(FwCfg::kKernel << 16 | kSelect | kSkip, 70'000, 0), 0u);
  FwCfg fresh(memory_.memory());
  SetReadItem(fresh, 150'000, 150'000);
  ASSERT_TRUE(fresh.Restore(device_.Save()).ok());
  EXPECT_EQ(Driver(fresh, memory_).ReadByte(), 70'000 % 251);
}

TEST_F(FwCfgTest, ResetSelectsTheSignature) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  driver_.Item(7, 3);
  loop->RunTask(device_.Reset());
  EXPECT_EQ(driver_.ReadByte(), 'Q');
}

TEST_F(FwCfgTest, AFreshDeviceGoesOnInTheMiddleOfAnItem) {
  driver_.Item(7, 3);
  const Be32 high = uint32_t{1};
  device_.Write(4, {reinterpret_cast<const uint8_t*>(&high), 4});
  FwCfg fresh(memory_.memory());
  fresh.SetItem(0x7, {1, 2, 3, 4, 5});
  ASSERT_TRUE(fresh.Restore(device_.Save()).ok());
  Driver driver(fresh, memory_);
  EXPECT_EQ(driver.ReadByte(), 4);
  EXPECT_EQ(fresh.Save().bytes.size(), device_.Save().bytes.size());
}

TEST_F(FwCfgTest, RefusesStatesThatCannotBe) {
  driver_.Item(7, 3);
  EncodedState state = device_.Save();
  FwCfg fresh(memory_.memory());  // Whose item 7 is not there.
  EXPECT_EQ(fresh.Restore(state).code(), absl::StatusCode::kDataLoss);
  for (size_t length = 0; length < state.bytes.size(); ++length) {
    EncodedState cut = state;
    cut.bytes.resize(length);
    EXPECT_FALSE(device_.Restore(cut).ok()) << length;
  }
  state.type = "other";
  EXPECT_FALSE(device_.Restore(state).ok());
}

TEST_F(FwCfgTest, EndsNoProcessWhateverIsAccessed) {
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    Bytes data(1 + random() % 8);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
    const uint64_t offset = random() % (FwCfg::kPorts - data.size() + 1);
    if (random() % 2 == 0) {
      device_.Read(offset, data);
    } else {
      device_.Write(offset, data);
    }
  }
}

}  // namespace
}  // namespace vireo
