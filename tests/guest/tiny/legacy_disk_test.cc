// A guest from before virtio 1.0 and its disk, on the /dev/kvm of whatever host this is: the ports,
// the rings and the doorbells of a transitional device as KVM has them. Skipped where there is
// none.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "devices/bus.h"
#include "devices/pci/config_space.h"
#include "devices/virtio/block.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/spec.h"
#include "storage/block_backend.h"
#include "tests/guest/tiny/tiny_machine.h"
#include "tests/support/fake_interrupts.h"
#include "tests/support/memory_backend.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm_address_space.h"

namespace vireo::tiny {
namespace {

using testing::ElementsAre;

constexpr uint16_t kDonePort = 0x500;
constexpr uint16_t kValuePort = 0x510;
constexpr uint16_t kDiskPort = 0xc000;

struct Outcome {
  bool done = false;
  std::vector<uint32_t> values;  // What the guest said.
  int trapped_kicks = 0;
};

// Runs the guest to its end, with the ports of `bus`.
Outcome RunGuest(TinyMachine& machine, Bus& bus) {
  Outcome outcome;
  for (;;) {
    const absl::StatusOr<kvm::VcpuExit> exit = machine.vcpu->Run();
    if (!exit.ok() || !std::holds_alternative<kvm::ExitPio>(*exit)) return outcome;
    const kvm::ExitPio& pio = std::get<kvm::ExitPio>(*exit);
    if (pio.port == kDonePort) {
      outcome.done = true;
      return outcome;
    }
    if (pio.port == kValuePort) {
      uint32_t value = 0;
      std::memcpy(&value, pio.data.data(), std::min(pio.data.size(), sizeof(value)));
      outcome.values.push_back(value);
    } else if (pio.in) {
      bus.Read(pio.port, pio.data);
    } else {
      if (pio.port == kDiskPort + virtio::legacy_config::kQueueNotify) ++outcome.trapped_kicks;
      const std::shared_ptr<Parking> parking = bus.Write(pio.port, pio.data).second;
      if (parking != nullptr) parking->Wait([] { return false; });
    }
  }
}

TEST(LegacyDiskTest, WritesBeforeItIsReadyReadsAndResets) {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    GTEST_SKIP() << "skipped: this host has no /dev/kvm that we may use";
  }
  absl::StatusOr<std::unique_ptr<TinyMachine>> machine = TinyMachine::Create(LegacyDisk());
  ASSERT_TRUE(machine.ok()) << machine.status();
  Bus ports;
  Bus mmio;
  KvmAddressSpace space(
      {.vm = *(*machine)->vm, .ports = ports, .mmio = mmio, .first_memslot = 8, .memslots = 8});
  FakeMsiSink msi(2);
  FakeInterruptLine intx;
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  auto* const disk = new MemoryBackend({.size_bytes = 64 << 10});
  virtio::VirtioBlock device(*loop, *(*machine)->memory, std::unique_ptr<BlockBackend>(disk), {});
  absl::StatusOr<std::unique_ptr<virtio::PciTransport>> transport =
      virtio::PciTransport::Create({.name = "disk",
                                    .device = device,
                                    .loop = *loop,
                                    .address_space = space,
                                    .msi = msi,
                                    .intx = intx,
                                    .transitional = true});
  ASSERT_TRUE(transport.ok()) << transport.status();
  (*transport)->WriteConfig(pci::kBar0, std::vector<uint8_t>{0x00, 0xc0, 0, 0});
  (*transport)->WriteConfig(pci::kCommand, std::vector<uint8_t>{pci::kCommandIo, 0});
  std::thread io([&loop] { loop->Run(); });

  const Outcome outcome = RunGuest(**machine, ports);

  loop->RunOn([&transport] { return (*transport)->Reset(); });
  loop->Stop();
  io.join();
  EXPECT_TRUE(outcome.done);
  EXPECT_THAT(outcome.values,
              ElementsAre(256, virtio::kBlkStatusOk, virtio::kBlkStatusOk, 0x5ec70001, 0, 0));
  // The second kick met a doorbell.
  EXPECT_EQ(outcome.trapped_kicks, 1);
  const std::span<const uint8_t> sector = std::span(disk->bytes()).subspan(512, 4);
  EXPECT_THAT(sector, ElementsAre(0x01, 0x00, 0xc7, 0x5e));
  EXPECT_EQ(intx.TakeEdges(), 1);  // Nobody has read the ISR status in between.
}

}  // namespace
}  // namespace vireo::tiny
