// One virtual machine, whole: every part of it, how they are joined (machine_build.cc), and what
// can be done to all of them together. Which of those things to do when is LocalVmController's
// business.
//
// Owned by the control loop: all methods are called there, but for those that say otherwise.
#ifndef VIREO_VMM_MACHINE_H_
#define VIREO_VMM_MACHINE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/async/async_mutex.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/mapped_region.h"
#include "base/memory/guest_memory.h"
#include "base/mutex.h"
#include "base/opener.h"
#include "base/state.h"
#include "base/unique_fd.h"
#include "devices/acpi_pm.h"
#include "devices/bus.h"
#include "devices/clock.h"
#include "devices/cmos_rtc.h"
#include "devices/firmware/debug_port.h"
#include "devices/firmware/fw_cfg.h"
#include "devices/firmware/pflash.h"
#include "devices/firmware/shadow_memory.h"
#include "devices/i8042.h"
#include "devices/lifecycle.h"
#include "devices/pci/function.h"
#include "devices/pci/root_bus.h"
#include "devices/pvpanic.h"
#include "devices/serial_16550.h"
#include "devices/storage_controllers/ahci.h"
#include "devices/virtio/block.h"
#include "devices/virtio/net.h"
#include "devices/virtio/pci_transport.h"
#include "storage/throttle_group.h"
#include "storage/throttled_backend.h"
#include "vmm/console_buffer.h"
#include "vmm/console_input.h"
#include "vmm/firmware_log.h"
#include "vmm/kvm/system.h"
#include "vmm/kvm/vm.h"
#include "vmm/kvm_address_space.h"
#include "vmm/kvm_interrupts.h"
#include "vmm/loop_thread.h"
#include "vmm/range_allocator.h"
#include "vmm/variable_store.h"
#include "vmm/vcpu_threads.h"
#include "vmm/vm_config.h"
#include "vmm/vm_controller.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/cpuid.h"
#include "vmm/x86/layout.h"

namespace vireo {

// What a guest does that somebody has to answer. Called on any thread; must not block.
class GuestEvents {
 public:
  virtual ~GuestEvents() = default;
  // The guest ended this run of itself. All vCPUs have been asked to park.
  virtual void OnGuestEnded(VmCause cause, std::string detail) = 0;
  // The guest loads a crash kernel, and goes on.
  virtual void OnGuestPanicHandled() = 0;
  // A request of a disk failed, and is kept until the machine has been paused and resumed.
  virtual void OnDiskFailed(DiskError error) = 0;
  // A request of a disk waits for the host; the machine is to be paused for it.
  virtual void OnDiskStalled(DiskStall stall, bool pause) = 0;
  // No request of the disk waits any more.
  virtual void OnDiskAnswers(DiskStall disk) = 0;
  // The guest has taken the medium out of the CD/DVD drive `id`.
  virtual void OnMediumEjected(std::string id) = 0;
  // A driver of the guest broke a ring of device `id`, which waits to be reset.
  virtual void OnDeviceNeedsReset(std::string id) = 0;
};

class Machine final : private VcpuThreads::Events {
 public:
  struct Parts {
    const VmConfig& config;  // Completed and valid; copied.
    const std::string& kvm_path;
    EventLoop& control;  // The rest outlive the machine.
    ConsoleBuffer& console;
    GuestEvents& events;
  };

  // Opens every file and makes every part; no guest instruction has run. Errors name the field or
  // path at fault; nothing is left behind.
  static Task<absl::StatusOr<std::unique_ptr<Machine>>> Build(Parts parts);

  // Joins all threads. Quick after Close(); not to be called when Close() gave up.
  ~Machine() override;

  // Puts kernel, tables and registers in place, on a machine that is new or was Reset(), and leaves
  // it parked. Firmware is in place, and processors begin in it.
  absl::Status LoadGuest();

  // All vCPUs out of the guest, all devices quiet. DEADLINE_EXCEEDED naming the device that did not
  // drain; it may yet, and Resume() or another Pause() are as good as before.
  Task<absl::Status> Pause(absl::Duration limit);
  // Devices and vCPUs go on; the guest's watchdog is told that it was stopped.
  Task<absl::Status> Resume();

  // Every part back to its power-on state. Parked before and after, and LoadGuest() is next.
  Task<absl::Status> Reset(absl::Duration limit);

  // Ends vCPUs, drains devices, closes images in order. DEADLINE_EXCEEDED naming the file that
  // hangs: the process must then exit without destroying the machine.
  Task<absl::Status> Close(absl::Duration limit);

  // Requests of a disk have failed and wait for the machine to go on.
  bool KeepsFailedRequests() const;

  // New limits for the disk and those of its group. NOT_FOUND.
  absl::Status SetDiskThrottle(const std::string& id, const DiskThrottle& throttle);

  // As VmController::SetMedium().
  Task<absl::Status> SetMedium(const std::string& id, const std::string& path, EjectMode mode,
                               absl::Duration limit);

  // Any thread.
  void PressPowerButton();
  size_t WriteConsole(std::string_view bytes);
  void Describe(VmDescription* description) const;
  void Stats(VmStats* stats) const;

 private:
  friend class MachineBuilder;

  struct PlacedFunction {
    pci::Address address;
    std::string id;
    std::string kind;
    pci::Function* function;
    std::function<bool()> driver_ready;  // Any thread.
    LoopThread* loop;
  };
  struct Disk {
    DiskConfig config;
    uint64_t size_bytes;
    virtio::VirtioBlock* device;
    LoopThread* loop;
    ThrottledBackend* throttled;  // Inside `device`.
    std::shared_ptr<ThrottleGroup> throttle;
  };
  struct Cdrom {
    CdromConfig config;
    size_t port = 0;
    mutable Mutex mutex;
    std::string path ABSL_GUARDED_BY(mutex);  // Of what is in it now; empty: nothing.
  };
  struct Nic {
    NicConfig config;
    std::string tap;  // Its name, also when it was handed over.
    uint16_t mtu;
    virtio::VirtioNet* device;
  };

  explicit Machine(const Parts& parts);

  void OnTripleFault(uint32_t vcpu) override;
  void OnVcpuError(uint32_t vcpu, std::string description) override;
  void EndRun(VmCause cause, std::string detail);

  Task<void> Park();
  absl::Status AssignBars();
  absl::Status LoadKernel();
  // Tables of the machine as the guest has set it up.
  x86::AcpiOptions MakeAcpiOptions() const;
  bool has_firmware() const { return !config_.boot.firmware.empty(); }
  using Step = Task<void> (Machine::*)(const PlacedFunction&);
  // Each function on its own loop. DEADLINE_EXCEEDED: `function` cannot be `verb`ed.
  Task<absl::Status> ForEachFunction(Step step, std::string_view verb, absl::Duration limit);
  Task<absl::Status> Run(Step step, const PlacedFunction& function);
  absl::Status HangsAt(const PlacedFunction& function, std::string_view verb,
                       absl::Duration limit) const;
  Task<void> QuiesceFunction(const PlacedFunction& function);
  Task<void> ResumeFunction(const PlacedFunction& function);
  Task<void> ResetFunction(const PlacedFunction& function);
  Task<absl::Status> CloseDisk(const Disk& disk);
  struct MediumChange;
  Task<absl::Status> ChangeMedium(std::shared_ptr<MediumChange> change);
  Task<absl::Status> CloseMedia();
  std::vector<Lifecycle*> PlatformDevices();

  // In the order in which they are made, which is the reverse of the one in which they go: threads
  // of vCPUs first, then devices (drained by Close()), buses and windows, loops, and guest memory
  // after all that points into it.
  const VmConfig config_;
  EventLoop& control_;
  ConsoleBuffer& console_;
  GuestEvents& events_;
  DirectOpener opener_;
  UniqueFd kernel_;
  UniqueFd initrd_;
  MappedRegion firmware_rom_;
  std::vector<MappedRegion> boot_roms_;  // Of NICs that a BIOS boots from.
  std::optional<VariableStore> variables_;
  std::unique_ptr<FirmwareLog> firmware_log_;
  std::unique_ptr<DebugPort> debug_port_;
  std::string kvm_kind_;
  std::optional<kvm::System> system_;
  x86::Layout layout_;
  std::optional<x86::CpuidTemplate> cpuid_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<kvm::Vm> vm_;
  EncodedState chips_at_power_on_;
  std::map<std::string, std::unique_ptr<LoopThread>> loops_;  // By name; "" is the default one.
  Bus ports_;
  Bus mmio_;
  std::unique_ptr<KvmAddressSpace> address_space_;
  std::unique_ptr<KvmInterrupts> interrupts_;
  std::vector<std::unique_ptr<InterruptLine>> lines_;
  std::vector<std::unique_ptr<MsiSink>> msi_sinks_;
  std::unique_ptr<HostClock> clock_;  // Timers on the control loop.
  std::unique_ptr<Serial16550> serial_;
  std::unique_ptr<ConsoleInput> console_input_;
  std::unique_ptr<CmosRtc> rtc_;
  std::unique_ptr<I8042> i8042_;
  std::unique_ptr<AcpiPm> pm_;
  std::unique_ptr<PvPanic> pvpanic_;
  std::unique_ptr<ResetControl> reset_control_;
  std::unique_ptr<ShadowMemory> shadow_memory_;  // These three with firmware only.
  std::unique_ptr<Pflash> variable_flash_;       // And this one when it keeps variables.
  std::unique_ptr<FwCfg> fw_cfg_;
  std::unique_ptr<pci::RootBus> pci_;
  std::vector<std::unique_ptr<virtio::VirtioDevice>> devices_;
  std::vector<std::unique_ptr<virtio::PciTransport>> transports_;
  std::unique_ptr<Ahci> ahci_;  // With CD/DVD drives only.
  LoopThread* ahci_loop_ = nullptr;
  AsyncMutex medium_change_;  // On that loop. Held while a medium changes, however long that takes.
  std::vector<PlacedFunction> functions_;
  std::vector<Disk> disks_;
  std::vector<std::unique_ptr<Cdrom>> cdroms_;  // In order of port.
  std::vector<Nic> nics_;
  std::vector<EncodedState> vcpus_at_power_on_;
  std::unique_ptr<VcpuThreads> vcpus_;
  std::atomic<bool> run_ended_{
      false};          // One end for each run of the guest: the first cause is the one told.
  bool quiet_ = true;  // Devices are quiesced, or have not begun.
};

}  // namespace vireo

#endif  // VIREO_VMM_MACHINE_H_
