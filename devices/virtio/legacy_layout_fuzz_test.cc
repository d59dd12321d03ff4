// What a hostile guest does with the ports of a transitional disk, its modern registers and its
// rings, in any order. Whatever the input: no crash, every reset and every queue that is given up
// ends, a saved device restores into a fresh one, and a decent driver is served afterwards.
//
// The input is a sequence of records of 8 bytes: operation, width, 16-bit offset, 32-bit value.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "base/async/event_loop.h"
#include "base/check.h"
#include "base/state.h"
#include "devices/virtio/block.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/spec.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/legacy_driver.h"
#include "tests/support/memory_backend.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

// Where rings are likely to be: four areas of a queue of 8.
constexpr uint64_t kRings = 0x100000;
constexpr uint64_t kPortBytes = 128;

struct Machine {
  Machine(EventLoop& event_loop, FakeGuestMemory& memory)
      : loop(event_loop),
        guest(memory),
        device(loop, guest.memory(),
               std::make_unique<MemoryBackend>(MemoryBackend::Options{.size_bytes = 64 << 10}),
               {.serial = "S", .queue_size = 8, .queues = 2}),
        host(device, loop, VirtioHost::Options{.transitional = true}) {}

  // As the vCPU that wrote: nothing else is waited for.
  void Park(const std::shared_ptr<Parking>& parking) {
    if (parking == nullptr) return;
    loop.RunUntilIdle();
    VIREO_CHECK(parking->done(), "what parks a vCPU ends");
  }

  EventLoop& loop;
  FakeGuestMemory& guest;
  VirtioBlock device;
  VirtioHost host;
};

void CheckSaveAndRestore(Machine& machine) {
  machine.loop.RunUntilIdle();
  machine.loop.RunTask(machine.host.transport().Quiesce());
  const EncodedState state = machine.host.transport().Save();
  {
    Machine fresh(machine.loop, machine.guest);
    machine.loop.RunTask(fresh.host.transport().Quiesce());
    VIREO_CHECK(fresh.host.transport().Restore(state).ok());
  }
  machine.host.transport().Resume();
}

void Execute(Machine& machine, std::span<const uint8_t, 8> record) {
  const int width = 1 << (record[1] & 3);
  const auto offset = static_cast<uint16_t>(record[2] | record[3] << 8);
  const uint32_t value =
      record[4] | record[5] << 8 | record[6] << 16 | static_cast<uint32_t>(record[7]) << 24;
  PciTransport& transport = machine.host.transport();
  const bool ports = transport.bar_address(PciTransport::kLegacyBarIndex).has_value();
  const bool registers = transport.bar_address(transport.bar_index()).has_value();
  switch (record[0] % 10) {
    case 0:
    case 1:
    case 2:
      if (ports) machine.Park(machine.host.WritePort(offset % kPortBytes, value, width));
      break;
    case 3:
      if (ports) machine.host.ReadPort(offset % kPortBytes, width);
      break;
    case 4: {  // A queue where the rings are.
      if (!ports) break;
      machine.host.WritePort(legacy_config::kQueueSelect, offset % 2, 2);
      const uint64_t page = kRings / kLegacyPageBytes + value % 4 * 2;
      machine.Park(machine.host.WritePort(legacy_config::kQueuePfn, page, 4));
      break;
    }
    case 5:  // The rings and the requests themselves.
      machine.guest.WriteObject(GuestAddress(kRings + offset % 0x8000 / 4 * 4), Le32(value));
      break;
    case 6:
      if (registers) {
        const uint64_t at = (offset & 0x8000) != 0 ? offset % PciTransport::kBarBytes
                                                   : offset % common_config::kSize;
        machine.Park(machine.host.Write(std::min(at, PciTransport::kBarBytes - 8), value, width));
      }
      break;
    case 7:
      machine.Park(machine.host.WriteConfig(static_cast<uint16_t>(4 + offset % 0xf8), value,
                                            std::min(width, 4)));
      break;
    case 8:
      machine.loop.RunUntilIdle();
      break;
    default:
      if (value % 8 == 0) CheckSaveAndRestore(machine);
      break;
  }
}

void CheckServes(Machine& machine) {
  machine.host.MovePorts(VirtioHost::kPortBase);
  machine.host.MoveBar(VirtioHost::kBarBase);
  LegacyDriver driver(machine.host, machine.guest);
  driver.Start({.msix = true});
  const BlkRequestHeader header = {.type = kBlkTypeIn, .reserved = 0u, .sector = 1u};
  const std::optional<UsedChain> used =
      driver.Send({ReadableObject(header), Writable(512), Writable(1)});
  VIREO_CHECK(used.has_value() && used->bytes.back() == kBlkStatusOk, "a decent driver is served");
  VIREO_CHECK(driver.TakeInterrupts() == 1);
}

}  // namespace
}  // namespace vireo::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  static vireo::EventLoop& loop = *vireo::EventLoop::Create()->release();
  vireo::FakeGuestMemory guest;
  vireo::virtio::Machine machine(loop, guest);
  for (size_t at = 0; at + 8 <= size; at += 8) {
    vireo::virtio::Execute(machine, std::span<const uint8_t, 8>(input + at, 8));
  }
  vireo::virtio::CheckServes(machine);
  return 0;
}
