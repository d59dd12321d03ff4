#include "vmm/machine.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/async/async_event.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "net/mac_address.h"
#include "vmm/disk_throttle.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/boot_registers.h"
#include "vmm/x86/load_kernel.h"

namespace vireo {
namespace {

constexpr uint16_t kPciCommand = 0x04;  // PCI 3.0 §6.2.2.
constexpr uint16_t kPciCommandIo = 1 << 0;
constexpr uint16_t kPciCommandMemory = 1 << 1;
constexpr uint16_t kPciFirstBar = 0x10;
constexpr uint64_t kIoWindowBase = 0xc000;  // PCI devices' ports.
constexpr uint64_t kIoWindowSize = 0x3000;

template <typename T>
std::array<uint8_t, sizeof(T)> LittleEndian(T value) {
  std::array<uint8_t, sizeof(T)> bytes;
  for (size_t i = 0; i < sizeof(T); ++i) bytes[i] = static_cast<uint8_t>(value >> (8 * i));
  return bytes;
}

}  // namespace

Machine::Machine(const Parts& parts)
    : config_(parts.config),
      control_(parts.control),
      console_(parts.console),
      events_(parts.events) {}

Machine::~Machine() {
  if (vcpus_ != nullptr) vcpus_->Stop();
  // With their threads gone, what the loops own may be destroyed from here.
  for (const auto& [name, loop] : loops_) loop->StopThread();
}

// --- The guest ends its run. ---

void Machine::EndRun(VmCause cause, std::string detail) {
  if (vcpus_ != nullptr) vcpus_->RequestPause();
  if (run_ended_.exchange(true)) return;
  events_.OnGuestEnded(cause, std::move(detail));
}

void Machine::OnTripleFault(uint32_t vcpu) {
  EndRun(VmCause::kTripleFault, absl::StrFormat("triple fault on vCPU %d", vcpu));
}

void Machine::OnVcpuError(uint32_t vcpu, std::string description) {
  EndRun(VmCause::kInternalError, absl::StrFormat("vCPU %d: %s", vcpu, description));
}

// --- Start and reset. ---

absl::Status Machine::AssignBars() {
  // What firmware does on a PC: the lowest free address for each BAR, in order of slots, then
  // decoding on.
  RangeAllocator memory32("32-bit PCI window", layout_.pci32.base, layout_.pci32.size);
  RangeAllocator memory64("64-bit PCI window", layout_.pci64.base, layout_.pci64.size);
  RangeAllocator ports("PCI ports", kIoWindowBase, kIoWindowSize);
  for (const PlacedFunction& function : functions_) {
    uint16_t command = 0;
    for (const pci::Function::BarInfo& bar : function.function->bars()) {
      const bool io = bar.kind == pci::BarKind::kIo;
      const bool wide =
          bar.kind == pci::BarKind::kMemory64 || bar.kind == pci::BarKind::kMemory64Prefetchable;
      RangeAllocator& window = io ? ports : wide ? memory64 : memory32;
      ASSIGN_OR_RETURN(const uint64_t base,
                       window.Allocate(bar.size, std::max<uint64_t>(bar.size, io ? 4 : 4096)));
      const uint16_t offset = static_cast<uint16_t>(kPciFirstBar + 4 * bar.index);
      pci_->WriteConfig(function.address, offset, LittleEndian(static_cast<uint32_t>(base)));
      if (wide) {
        pci_->WriteConfig(function.address, offset + 4,
                          LittleEndian(static_cast<uint32_t>(base >> 32)));
      }
      command |= io ? kPciCommandIo : kPciCommandMemory;
    }
    pci_->WriteConfig(function.address, kPciCommand, LittleEndian(command));
  }
  return absl::OkStatus();
}

absl::Status Machine::LoadGuest() {
  VIREO_CHECK(vcpus_->parked(), "a guest is loaded into a machine at rest");
  if (has_firmware()) {
    if (firmware_log_ != nullptr) firmware_log_->Restart();
  } else {
    RETURN_IF_ERROR(LoadKernel());
  }
  run_ended_.store(false);
  return absl::OkStatus();
}

x86::AcpiOptions Machine::MakeAcpiOptions() const {
  std::vector<uint32_t> apic_ids;
  const x86::CpuTopology topology = x86::DefaultTopology(config_.cpus.max);
  for (uint32_t i = 0; i < config_.cpus.max; ++i) apic_ids.push_back(x86::ApicId(topology, i));
  const std::optional<pci::HostBridge::EcamPlace> ecam = pci_->host_bridge().ecam();
  return {.layout = layout_,
          .apic_ids = std::move(apic_ids),
          .enabled_cpus = config_.cpus.boot,
          .ecam_base = ecam.has_value() ? ecam->base : x86::kEcamAddress};
}

absl::Status Machine::LoadKernel() {
  RETURN_IF_ERROR(AssignBars());
  ASSIGN_OR_RETURN(const uint64_t rsdp, x86::WriteAcpiTables(MakeAcpiOptions(), *memory_));
  std::optional<x86::InputFile> initrd;
  if (initrd_.valid()) initrd.emplace(x86::InputFile{initrd_, config_.boot.initrd});
  ASSIGN_OR_RETURN(const x86::BootEntry entry,
                   x86::LoadKernel({.memory = *memory_,
                                    .layout = layout_,
                                    .kernel = {kernel_, config_.boot.kernel},
                                    .initrd = initrd,
                                    .command_line = config_.boot.cmdline,
                                    .rsdp = rsdp}));
  RETURN_IF_ERROR(x86::WriteBootTables(entry, *memory_));
  kvm::Vcpu& boot = vcpus_->vcpu(0);
  ASSIGN_OR_RETURN(const x86::SpecialRegisters special, boot.GetSpecialRegisters());
  const x86::BootRegisters registers = x86::MakeBootRegisters(entry, special);
  RETURN_IF_ERROR(boot.SetSpecialRegisters(registers.special));
  return boot.SetRegisters(registers.registers);
}

// --- Pause, resume, reset, close. ---

Task<void> Machine::Park() {
  AsyncEvent parked;
  vcpus_->RequestPause();
  absl::AnyInvocable<void()> wake = [this, &parked] { control_.Post([&parked] { parked.Set(); }); };
  vcpus_->WhenParked(std::move(wake));
  co_await parked.Wait();
}

Task<void> Machine::QuiesceFunction(const PlacedFunction& function) {
  co_await function.function->Quiesce();
}

Task<void> Machine::ResumeFunction(const PlacedFunction& function) {
  function.function->Resume();
  co_return;
}

Task<void> Machine::ResetFunction(const PlacedFunction& function) {
  co_await function.function->Reset();
}

Task<absl::Status> Machine::Run(Step step, const PlacedFunction& function) {
  co_await (this->*step)(function);
  co_return absl::OkStatus();
}

Task<absl::Status> Machine::ForEachFunction(Step step, std::string_view verb,
                                            absl::Duration limit) {
  for (const PlacedFunction& function : functions_) {
    LoopThread::Work work = [this, step, &function] { return Run(step, function); };
    const std::optional<absl::Status> status =
        co_await function.loop->CallWithin(control_, std::move(work), limit);
    if (!status.has_value()) co_return HangsAt(function, verb, limit);
  }
  co_return absl::OkStatus();
}

absl::Status Machine::HangsAt(const PlacedFunction& function, std::string_view verb,
                              absl::Duration limit) const {
  std::string where = function.id;
  for (const Disk& disk : disks_) {
    if (disk.config.id == function.id) absl::StrAppend(&where, " (", disk.config.path, ")");
  }
  return absl::DeadlineExceededError(
      absl::StrFormat("%s: requests in flight did not end within %s, so that it cannot be %s",
                      where, absl::FormatDuration(limit), verb));
}

Task<absl::Status> Machine::Pause(absl::Duration limit) {
  co_await Park();
  quiet_ = true;
  const absl::Status status = co_await ForEachFunction(&Machine::QuiesceFunction, "paused", limit);
  co_return status;
}

Task<absl::Status> Machine::Resume() {
  if (std::exchange(quiet_, false)) {
    const absl::Status status =
        co_await ForEachFunction(&Machine::ResumeFunction, "resumed", absl::InfiniteDuration());
    if (!status.ok()) co_return status;
  }
  if (run_ended_.load()) {
    co_return absl::FailedPreconditionError(
        "the guest has ended its run; Reset or Stop the machine");
  }
  for (size_t i = 0; i < vcpus_->size(); ++i) {
    // A guest whose clock is not KVM's has no use for it; nothing else depends on it.
    if (absl::Status status = vcpus_->vcpu(i).NotifyPaused(); !status.ok()) {
      LogDebug("vCPU %d: %s", i, status.message());
    }
  }
  vcpus_->Resume();
  co_return absl::OkStatus();
}

std::vector<Lifecycle*> Machine::PlatformDevices() {
  std::vector<Lifecycle*> devices = {serial_.get(),  rtc_.get(),           i8042_.get(), pm_.get(),
                                     pvpanic_.get(), reset_control_.get(), pci_.get()};
  if (fw_cfg_ != nullptr) devices.push_back(fw_cfg_.get());
  if (variable_flash_ != nullptr) devices.push_back(variable_flash_.get());
  return devices;
}

Task<absl::Status> Machine::Reset(absl::Duration limit) {
  co_await Park();
  const absl::Status drained = co_await ForEachFunction(&Machine::ResetFunction, "reset", limit);
  if (!drained.ok()) co_return drained;
  for (Lifecycle* device : PlatformDevices()) {
    co_await device->Reset();
  }
  console_input_->Clear();
  vcpus_->ForgetParkings();
  CO_RETURN_IF_ERROR(vm_->RestoreChips(chips_at_power_on_));
  for (size_t i = 0; i < vcpus_->size(); ++i) {
    CO_RETURN_IF_ERROR(vcpus_->vcpu(i).Restore(vcpus_at_power_on_[i]));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Machine::CloseDisk(const Disk& disk) {
  absl::Status status = co_await disk.device->Close();
  co_return status;
}

Task<absl::Status> Machine::Close(absl::Duration limit) {
  if (vcpus_ != nullptr) vcpus_->Stop();
  const absl::Status drained = co_await ForEachFunction(&Machine::ResetFunction, "stopped", limit);
  if (!drained.ok()) co_return drained;
  for (Lifecycle* device : PlatformDevices()) {
    if (device != nullptr) co_await device->Quiesce();
  }
  absl::Status first_failure;
  for (const Disk& disk : disks_) {
    LoopThread::Work work = [this, &disk] { return CloseDisk(disk); };
    const std::optional<absl::Status> closed =
        co_await disk.loop->CallWithin(control_, std::move(work), limit);
    if (!closed.has_value()) {
      co_return absl::DeadlineExceededError(absl::StrFormat("%s (%s): did not close within %s",
                                                            disk.config.id, disk.config.path,
                                                            absl::FormatDuration(limit)));
    }
    if (!closed->ok()) {
      LogError("%s: %s", disk.config.id, closed->message());
      first_failure.Update(*closed);
    }
  }
  if (ahci_ != nullptr) {
    LoopThread::Work work = [this] { return CloseMedia(); };
    const std::optional<absl::Status> closed =
        co_await ahci_loop_->CallWithin(control_, std::move(work), limit);
    if (!closed.has_value()) {
      co_return absl::DeadlineExceededError(absl::StrFormat(
          "the media of CD/DVD drives did not close within %s", absl::FormatDuration(limit)));
    }
    if (!closed->ok()) LogError("closing the media of CD/DVD drives: %s", closed->message());
    first_failure.Update(*closed);
  }
  co_return first_failure;
}

bool Machine::KeepsFailedRequests() const {
  return std::any_of(disks_.begin(), disks_.end(),
                     [](const Disk& disk) { return disk.device->kept_requests() > 0; });
}

absl::Status Machine::SetDiskThrottle(const std::string& id, const DiskThrottle& throttle) {
  for (const Disk& disk : disks_) {
    if (disk.config.id != id) continue;
    disk.throttle->SetLimits(ThrottleLimitsOf(throttle));
    return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrFormat("disk: there is no disk \"%s\"", id));
}

// --- Any thread. ---

void Machine::PressPowerButton() { pm_->PressPowerButton(); }

size_t Machine::WriteConsole(std::string_view bytes) { return console_input_->Write(bytes); }

void Machine::Describe(VmDescription* description) const {
  description->cpu_model = config_.cpus.model;
  description->kvm_kind = kvm_kind_;
  description->devices.clear();
  description->disks.clear();
  description->cdroms.clear();
  description->nics.clear();
  std::map<std::string, DeviceDescription> by_id;
  for (const PlacedFunction& function : functions_) {
    DeviceDescription device = {
        .id = function.id,
        .kind = function.kind,
        .pci_address = absl::StrCat("0000:", pci::ToString(function.address)),
        .driver_ready = function.driver_ready()};
    by_id[function.id] = device;
    description->devices.push_back(std::move(device));
  }
  for (const Disk& disk : disks_) {
    description->disks.push_back(
        {.device = by_id[disk.config.id],
         .size_bytes = disk.size_bytes,
         .path = disk.config.path,
         .format = disk.config.format == DiskFormat::kQcow2 ? "qcow2" : "raw",
         .read_only = disk.config.read_only});
  }
  for (const std::unique_ptr<Cdrom>& cdrom : cdroms_) {
    MutexLock lock(cdrom->mutex);
    description->cdroms.push_back({.id = cdrom->config.id, .path = cdrom->path});
  }
  for (const Nic& nic : nics_) {
    description->nics.push_back({.device = by_id[nic.config.id],
                                 .tap = nic.tap,
                                 .bridge = nic.config.bridge,
                                 .mac = MacAddress(*nic.config.mac).ToString(),
                                 .mtu = nic.mtu,
                                 .link_up = nic.config.link_up});
  }
}

void Machine::Stats(VmStats* stats) const {
  stats->vcpus.clear();
  stats->disks.clear();
  stats->nics.clear();
  for (size_t i = 0; i < vcpus_->size(); ++i) {
    stats->vcpus.push_back({.index = static_cast<uint32_t>(i),
                            .cpu_time_ns = vcpus_->cpu_time_ns(i),
                            .exits = vcpus_->exits(i)});
  }
  for (const Disk& disk : disks_) {
    const virtio::BlockStats s = disk.device->stats();
    stats->disks.push_back({.id = disk.config.id,
                            .read_ops = s.read_ops,
                            .read_bytes = s.read_bytes,
                            .write_ops = s.write_ops,
                            .write_bytes = s.write_bytes,
                            .flush_ops = s.flush_ops,
                            .discard_ops = s.discard_ops,
                            .errors = s.errors,
                            .throttled_ops = disk.throttled->throttled_requests()});
  }
  for (const Nic& nic : nics_) {
    const virtio::NetStats s = nic.device->stats();
    stats->nics.push_back({.id = nic.config.id,
                           .rx_packets = s.rx_packets,
                           .rx_bytes = s.rx_bytes,
                           .rx_dropped = s.rx_dropped,
                           .tx_packets = s.tx_packets,
                           .tx_bytes = s.tx_bytes,
                           .tx_dropped = s.tx_dropped});
  }
}

}  // namespace vireo
