// The steps of Machine::Build: machine_build.cc has the order and the machine's own parts,
// platform_build.cc the PC around them, firmware_attach.cc what there is for firmware,
// disk_attach.cc and nic_attach.cc one kind of device each. Private to vmm/.
#ifndef VIREO_VMM_MACHINE_BUILDER_H_
#define VIREO_VMM_MACHINE_BUILDER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/task.h"
#include "devices/firmware/smbios.h"
#include "devices/virtio/device.h"
#include "storage/file.h"
#include "vmm/machine.h"

namespace vireo {

class MachineBuilder {
 public:
  // `machine` is empty and outlives the builder.
  MachineBuilder(Machine& machine, std::string kvm_path)
      : m_(machine), kvm_path_(std::move(kvm_path)) {}

  Task<absl::Status> BuildAll();

 private:
  struct NewFunction {
    std::string id;
    std::string kind;
    std::unique_ptr<virtio::VirtioDevice> device;
    LoopThread* loop = nullptr;
    std::optional<uint8_t> slot;
    bool legacy = false;
    std::span<uint8_t> rom = {};  // Outlives the function.
  };

  absl::Status OpenBootFiles();
  absl::Status OpenKernel();
  // An image of the host's installation, not a path that somebody set.
  static absl::StatusOr<UniqueFd> OpenInstalled(const std::string& path, std::string_view package);
  absl::Status OpenFirmware();
  absl::Status OpenVariables();
  absl::Status OpenFirmwareLog();
  absl::Status OpenKvm();
  absl::Status MakeProcessorTemplate();
  absl::Status MakeVmAndMemory();
  // Before the host bridge, which says where it is seen.
  absl::Status PlaceFirmware();
  absl::Status MakePlatform();
  absl::Status ReserveSlots();
  Task<absl::Status> AttachDisk(size_t index);
  Task<absl::Status> OpenDisk(EventLoop& loop, const DiskConfig& config,
                              std::unique_ptr<BlockBackend>* backend);
  // The group that is named, as the first disk of it made it; one of its own without a name.
  std::shared_ptr<ThrottleGroup> FindThrottle(const DiskThrottle& throttle);
  Task<absl::Status> AttachNic(size_t index);
  // What a BIOS boots from the network with, on this NIC.
  absl::StatusOr<MappedRegion> LoadNetworkBootRom(const NicConfig& config);
  absl::Status AttachRng();
  Task<absl::Status> AttachCdroms();
  // After all devices: firmware is told of them.
  absl::Status TellFirmware();
  // The kernel, for firmware to start.
  absl::Status OfferKernel();
  // The devices that firmware tries, first one first; empty when there is none.
  std::string BootOrder() const;
  SmbiosTables DescribeMachine(const std::array<uint8_t, 16>& uuid) const;
  absl::Status AddFunction(NewFunction function);
  absl::Status MakeVcpus();

  absl::StatusOr<LoopThread*> Loop(const std::string& name);
  InterruptLine& Line(uint32_t gsi);
  absl::StatusOr<uint8_t> TakeSlot(std::optional<uint8_t> wanted);

  Machine& m_;
  const std::string kvm_path_;
  std::set<uint8_t> used_slots_;
  std::vector<std::pair<FileIdentity, std::string>> image_files_;  // And the disk that each is.
};

}  // namespace vireo

#endif  // VIREO_VMM_MACHINE_BUILDER_H_
