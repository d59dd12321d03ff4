// The other side of a virtio device: a driver that builds rings and chains in guest memory, and one
// that brings a device up through the registers of its PCI transport. No threads: the loop is
// stepped.

#ifndef VIREO_TESTS_SUPPORT_VIRTIO_DRIVER_H_
#define VIREO_TESTS_SUPPORT_VIRTIO_DRIVER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/async/event_loop.h"
#include "base/memory/guest_address.h"
#include "devices/bus.h"
#include "devices/virtio/device.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/spec.h"
#include "devices/virtio/virtqueue.h"
#include "tests/support/fake_address_space.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/fake_interrupts.h"

namespace vireo::virtio {

// One descriptor's worth of a chain.
struct Segment {
  std::vector<uint8_t> readable;  // Contents, unless
  uint32_t writable_bytes = 0;    // this is not 0.
  std::optional<GuestAddress>
      at;  // Elsewhere than where the driver would put it; contents untouched.
  std::optional<uint32_t> length;  // Instead of the true one.
};

Segment Readable(std::vector<uint8_t> bytes);
Segment ReadableZeros(size_t bytes);
template <typename T>
Segment ReadableObject(const T& object) {
  const auto* const raw = reinterpret_cast<const uint8_t*>(&object);
  return Readable(std::vector<uint8_t>(raw, raw + sizeof(object)));
}
Segment Writable(uint32_t bytes);

struct UsedChain {
  uint16_t head = 0;
  uint32_t written = 0;
  std::vector<uint8_t> bytes;  // All of the chain's writable part, written or not.
};

// A split ring from the driver's side (virtio 1.2 §2.7.13, §2.7.14).
class DriverRing {
 public:
  struct Options {
    uint16_t size = 16;
    bool event_idx = false;
    bool indirect = false;     // Chains of more than one descriptor use a table.
    uint16_t start_index = 0;  // Both indices begin here: as after many requests.
    bool legacy = false;       // In one area, as a legacy driver places it.
  };

  // `memory` outlives the ring.
  DriverRing(FakeGuestMemory& memory, Options options);

  VirtqueueConfig config() const;
  uint32_t page() const { return static_cast<uint32_t>(descriptors_.value() / kLegacyPageBytes); }
  uint16_t size() const { return options_.size; }

  // Makes a chain available; returns its head. CHECKs that descriptors are left.
  uint16_t Add(const std::vector<Segment>& segments);
  // The next chain that the device ended; its descriptors and buffers are free again.
  std::optional<UsedChain> PopUsed();
  // Whether the device wants a kick for what was added since this was last asked (§2.7.10).
  bool TakeKickWanted();
  // Asks for an interrupt when the device has ended `more` more chains than were popped
  // (EVENT_IDX).
  void SetUsedEvent(uint16_t more);
  // The flag, which counts without EVENT_IDX.
  void SuppressInterrupts(bool suppress);

  // What a hostile driver writes.
  void WriteDescriptor(uint16_t index, const Descriptor& descriptor);
  void SetAvailableEntry(uint16_t position, uint16_t head);
  void SetAvailableIdx(uint16_t idx);

  uint16_t available_idx() const { return next_avail_; }
  uint16_t used_idx() const;
  uint16_t used_flags() const;
  uint16_t avail_event() const;
  size_t free_descriptors() const { return free_.size(); }

 private:
  struct Buffer {
    GuestAddress at{0};
    uint32_t bytes = 0;
    bool writable = false;
    bool owned = false;
  };
  struct Chain {
    std::vector<uint16_t> descriptors;
    std::vector<Buffer> buffers;
    std::optional<Buffer> table;
  };

  uint16_t Load(GuestAddress at) const;
  void Store(GuestAddress at, uint16_t value);
  GuestAddress At(GuestAddress base, uint64_t offset) const {
    return GuestAddress(base.value() + offset);
  }

  FakeGuestMemory& memory_;
  const Options options_;
  GuestAddress descriptors_{0};
  GuestAddress available_{0};
  GuestAddress used_{0};
  std::vector<uint16_t> free_;
  std::map<uint16_t, Chain> chains_;  // By head.
  uint16_t next_avail_ = 0;
  uint16_t next_used_ = 0;
  uint16_t kicked_ = 0;
};

// What a transport stands on, faked, with the device's BAR placed.
class VirtioHost {
 public:
  static constexpr uint64_t kBarBase = 0xe0000000;
  static constexpr uint64_t kPortBase = 0xc000;  // The ports of legacy drivers.

  // Who runs the loop: the test steps it, or a thread of its own does.
  enum class LoopMode { kStepped, kThreaded };

  struct Options {
    uint16_t vectors = 4;
    LoopMode mode = LoopMode::kStepped;
    bool transitional = false;
  };

  // `device` and `loop` outlive the host. BARs are where firmware would have put them.
  VirtioHost(VirtioDevice& device, EventLoop& loop, Options options);
  VirtioHost(VirtioDevice& device, EventLoop& loop, uint16_t vectors = 4,
             LoopMode mode = LoopMode::kStepped)
      : VirtioHost(device, loop, Options{.vectors = vectors, .mode = mode}) {}
  // Resets the device: nothing is in flight afterwards.
  ~VirtioHost();

  PciTransport& transport() { return *transport_; }
  FakeAddressSpace& space() { return space_; }
  FakeMsiSink& msi() { return msi_; }
  FakeInterruptLine& intx() { return intx_; }
  // Lets the device work until it waits; with a threaded loop it does so anyway.
  void Settle();
  // As a vCPU waits before it enters the guest again. `parking` may be null.
  void Wait(const std::shared_ptr<Parking>& parking);

  void MoveBar(uint64_t base);
  void MovePorts(uint64_t base);
  void EnableMsix(uint16_t vectors);
  uint32_t ReadConfig(uint16_t offset, int width);
  std::shared_ptr<Parking> WriteConfig(uint16_t offset, uint32_t value, int width);
  // As a vCPU at the place where the BAR is.
  uint64_t Read(uint64_t offset, int width);
  std::shared_ptr<Parking> Write(uint64_t offset, uint64_t value, int width);
  // The same of a transitional device's ports.
  uint64_t ReadPort(uint64_t offset, int width);
  std::shared_ptr<Parking> WritePort(uint64_t offset, uint64_t value, int width);

 private:
  EventLoop& loop_;
  const Options options_;
  FakeAddressSpace space_;
  FakeMsiSink msi_;
  FakeInterruptLine intx_;
  std::unique_ptr<PciTransport> transport_;
};

class VirtioDriver {
 public:
  struct Options {
    uint64_t features = 0;  // Of the device type and EVENT_IDX, INDIRECT; VERSION_1 is added.
    uint16_t queue_size = 16;
    bool msix = true;  // Vector 0 for configuration changes, 1 + i for queue i.
  };

  // Both outlive the driver.
  VirtioDriver(VirtioHost& host, FakeGuestMemory& memory) : host_(&host), memory_(memory) {}

  // Resets the device and brings it up to DRIVER_OK (§3.1.1). False when it refused the features.
  bool Start(const Options& options);
  // The steps of it.
  void Reset();
  bool Negotiate(uint64_t features);
  void SetUpQueue(uint16_t index, const Options& options);
  void SetDriverOk();

  // Goes on with another transport, to which the state was restored.
  void MoveTo(VirtioHost& host) { host_ = &host; }

  uint8_t status() { return static_cast<uint8_t>(host_->Read(common_config::kDeviceStatus, 1)); }
  std::shared_ptr<Parking> WriteStatus(uint8_t status) {
    return host_->Write(common_config::kDeviceStatus, status, 1);
  }
  uint64_t OfferedFeatures();
  uint64_t ReadDeviceConfig(uint64_t offset, int width) {
    return host_->Read(PciTransport::kDeviceOffset + offset, width);
  }

  DriverRing& ring(uint16_t index = 0) { return *rings_.at(index); }
  // Without asking whether it is wanted.
  void Kick(uint16_t index = 0);
  // Kicks if the device wants it, and lets the device work.
  void Run(uint16_t index = 0);
  // Sends one chain and waits for its end; nothing if the device does not end it.
  std::optional<UsedChain> Send(const std::vector<Segment>& segments, uint16_t index = 0);

  // Interrupts for a queue, for configuration changes, since last asked.
  int TakeInterrupts(uint16_t index = 0) { return host_->msi().TakeSignals(1 + index); }
  int TakeConfigInterrupts() { return host_->msi().TakeSignals(0); }

  // queue_reset (§4.1.4.3.1); the parking of the vCPU.
  std::shared_ptr<Parking> ResetQueue(uint16_t index);

 private:
  VirtioHost* host_;
  FakeGuestMemory& memory_;
  std::map<uint16_t, std::unique_ptr<DriverRing>> rings_;
};

}  // namespace vireo::virtio

#endif  // VIREO_TESTS_SUPPORT_VIRTIO_DRIVER_H_
