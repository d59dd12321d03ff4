// The one test of this folder with threads: rings, kicks, interrupts, registers and resets from
// vCPU threads against a loop that really runs beside them. It waits for events, never for time; a
// lost kick or a reset that never ends shows as a test that does not end.

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/async/event_loop.h"
#include "devices/virtio/block.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/rng.h"
#include "devices/virtio/spec.h"
#include "gtest/gtest.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/legacy_driver.h"
#include "tests/support/memory_backend.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

// Reads everything a guest may read at any time, and masks and unmasks vectors.
void PokeRegisters(VirtioHost& host, const std::atomic<bool>& stop) {
  uint64_t round = 0;
  while (!stop.load()) {
    host.Read(common_config::kDeviceStatus, 1);
    host.Read(common_config::kConfigGeneration, 1);
    host.Read(PciTransport::kIsrOffset, 1);
    host.Read(PciTransport::kDeviceOffset, 4);
    host.Read(PciTransport::kMsixPbaOffset, 8);
    const uint64_t entry = PciTransport::kMsixTableOffset + pci::Msix::kEntryBytes;
    host.Write(entry + 12, ++round % 2, 4);
    std::this_thread::yield();
  }
  host.Write(PciTransport::kMsixTableOffset + pci::Msix::kEntryBytes + 12, 0, 4);
}

class ThreadsTest : public testing::TestWithParam<uint64_t> {};

TEST_P(ThreadsTest, NoKickIsLostAndEveryResetEnds) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FakeGuestMemory guest;
  ASSERT_TRUE(guest.memory().dirty_log().Start().ok());
  VirtioRng rng(*loop, guest.memory());
  std::thread io([&loop] { loop->Run(); });
  {
    VirtioHost host(rng, *loop, 2, VirtioHost::LoopMode::kThreaded);
    VirtioDriver driver(host, guest);
    std::atomic<bool> stop = false;
    std::thread other_vcpu([&host, &stop] { PokeRegisters(host, stop); });
    for (int round = 0; round < 20; ++round) {
      // Resets the device as it was left: with chains that it may be filling just now.
      ASSERT_TRUE(driver.Start({.features = GetParam()}));
      for (int i = 0; i < 100; ++i) {
        driver.ring().Add({Writable(16)});
        driver.ring().Add({Writable(16)});
        driver.Run();
        for (int ended = 0; ended < 2;) {
          const std::optional<UsedChain> used = driver.ring().PopUsed();
          if (used.has_value()) {
            ASSERT_EQ(used->written, 16u);
            ++ended;
          } else {
            std::this_thread::yield();
          }
        }
      }
      for (int i = 0; i < 8; ++i) driver.ring().Add({Writable(64)});
      driver.Run();
    }
    stop.store(true);
    other_vcpu.join();
    EXPECT_FALSE(host.transport().needs_reset());
  }
  loop->Stop();
  io.join();
}

INSTANTIATE_TEST_SUITE_P(Rings, ThreadsTest, testing::Values(0, kFeatureEventIdx));

void PokePorts(VirtioHost& host, const std::atomic<bool>& stop) {
  while (!stop.load()) {
    host.ReadPort(legacy_config::kDeviceStatus, 1);
    host.ReadPort(legacy_config::kIsrStatus, 1);
    host.ReadPort(legacy_config::kDeviceWithoutMsix, 8);
    host.WritePort(legacy_config::kQueueNotify, 0, 2);
    std::this_thread::yield();
  }
}

// Kicks trap until the device is at work, and meet doorbells that come and go from then on.
TEST(LegacyThreadsTest, NoKickIsLostAndEveryResetEnds) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FakeGuestMemory guest;
  VirtioBlock block(*loop, guest.memory(),
                    std::make_unique<MemoryBackend>(MemoryBackend::Options{}), {.queue_size = 16});
  std::thread io([&loop] { loop->Run(); });
  {
    VirtioHost host(
        block, *loop,
        VirtioHost::Options{
            .vectors = 2, .mode = VirtioHost::LoopMode::kThreaded, .transitional = true});
    LegacyDriver driver(host, guest);
    std::atomic<bool> stop = false;
    std::thread other_vcpu([&host, &stop] { PokePorts(host, stop); });
    const BlkRequestHeader header = {.type = kBlkTypeIn, .reserved = 0u, .sector = 0u};
    const std::vector<Segment> read = {ReadableObject(header), Writable(512), Writable(1)};
    for (int round = 0; round < 20; ++round) {
      driver.Reset();
      driver.Acknowledge({});
      driver.SetUpQueues();
      for (int i = 0; i < 50; ++i) {
        driver.ring().Add(read);
        driver.Run();
        std::optional<UsedChain> used;
        while (!used.has_value()) {
          std::this_thread::yield();
          used = driver.ring().PopUsed();
        }
        ASSERT_EQ(used->written, 513u);
        if (i == 5) driver.SetDriverOk();
        if (i == 10) host.Wait(driver.WriteFeatures(kBlkFeatureFlush));
      }
      for (int i = 0; i < 4; ++i) driver.ring().Add(read);
      driver.Run();
    }
    stop.store(true);
    other_vcpu.join();
    EXPECT_FALSE(host.transport().needs_reset());
  }
  loop->Stop();
  io.join();
}

}  // namespace
}  // namespace vireo::virtio
