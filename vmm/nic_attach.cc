// NICs: a tap made or taken over, a virtio-net device on the bus.
#include <fcntl.h>

#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "devices/virtio/net.h"
#include "devices/virtio/spec.h"
#include "net/tap.h"
#include "vmm/machine_builder.h"
#include "vmm/option_rom.h"

namespace vireo {
namespace {

constexpr char kIpxePath[] = "/usr/lib/ipxe/qemu/efi-virtio.rom";

}  // namespace

absl::StatusOr<MappedRegion> MachineBuilder::LoadNetworkBootRom(const NicConfig& config) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenInstalled(kIpxePath, "ipxe-qemu"));
  const uint16_t device = config.legacy ? virtio::kPciTransitionalNet
                                        : virtio::kPciModernDeviceBase +
                                              static_cast<uint16_t>(virtio::DeviceType::kNet);
  return LoadOptionRom(fd, kIpxePath, virtio::kPciVendor, device);
}

Task<absl::Status> MachineBuilder::AttachNic(size_t index) {
  const NicConfig& config = m_.config_.nics[index];
  CO_ASSIGN_OR_RETURN(LoopThread* const loop, Loop(config.loop));
  std::unique_ptr<Tap> tap;
  if (config.fd.has_value()) {
    CO_ASSIGN_OR_RETURN(UniqueFd fd, m_.opener_.Open(absl::StrFormat("fd:%d", *config.fd), O_RDWR));
    CO_ASSIGN_OR_RETURN(tap, Tap::Adopt(loop->loop(), std::move(fd), config.mtu));
  } else {
    CO_ASSIGN_OR_RETURN(
        tap, Tap::Create(loop->loop(),
                         {.name = config.tap, .bridge = config.bridge, .mtu = config.mtu}));
  }
  Machine::Nic nic = {.config = config, .tap = tap->name(), .mtu = tap->mtu()};
  auto device = std::make_unique<virtio::VirtioNet>(
      loop->loop(), *m_.memory_, std::move(tap),
      virtio::VirtioNet::Options{.mac = *config.mac, .mtu = nic.mtu});
  device->SetLink(config.link_up);  // Nothing runs yet.
  nic.device = device.get();
  std::span<uint8_t> rom;
  // UEFI has a driver of its own for the device; a BIOS boots from the network by what the device
  // brings along.
  if (config.boot_index.has_value() && !m_.variables_.has_value()) {
    CO_ASSIGN_OR_RETURN(MappedRegion loaded, LoadNetworkBootRom(config));
    m_.boot_roms_.push_back(std::move(loaded));
    rom = m_.boot_roms_.back().bytes();
  }
  m_.nics_.push_back(std::move(nic));
  NewFunction f = {.id = config.id, .kind = "virtio-net", .loop = loop, .slot = config.slot};
  f.legacy = config.legacy;
  f.rom = rom;
  f.device = std::move(device);
  co_return AddFunction(std::move(f));
}

}  // namespace vireo
