// A transitional device seen from its ports, for the tests of this folder.

#ifndef VIREO_DEVICES_VIRTIO_LEGACY_FIXTURE_H_
#define VIREO_DEVICES_VIRTIO_LEGACY_FIXTURE_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/async/event_loop.h"
#include "devices/virtio/pci_transport.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/legacy_driver.h"
#include "tests/support/test_virtio_device.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {

inline constexpr VirtioHost::Options kTransitional = {.vectors = 3, .transitional = true};
// The window of the ports is the first that the function adds to its address space.
inline constexpr uint32_t kPortsWindow = 1;

struct LegacyFixture {
  ~LegacyFixture() { device.gate.Set(); }

  PciTransport& transport() { return host.transport(); }
  size_t doorbells() { return host.space().doorbell_count(kPortsWindow); }
  bool TakeKick(size_t queue) { return device.activations.back().queues[queue].kick->Drain() != 0; }

  std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FakeGuestMemory guest;
  TestDevice device;
  VirtioHost host{device, *loop, kTransitional};
  LegacyDriver driver{host, guest};
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_LEGACY_FIXTURE_H_
