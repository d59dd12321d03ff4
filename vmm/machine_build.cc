// How a virtual machine is put together, as a list of steps. Building, restoring and receiving a
// machine all go through here.
#include <fcntl.h>

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status.h"
#include "devices/pci/function.h"
#include "devices/virtio/rng.h"
#include "vmm/machine.h"
#include "vmm/machine_builder.h"
#include "vmm/x86/boot_registers.h"

namespace vireo {
namespace {

constexpr uint32_t kFirstDeviceMemslot = 16;  // Below: RAM, now and hot-plugged.
constexpr uint32_t kDeviceMemslots = 256;
constexpr absl::Duration kAbandonLimit = absl::Seconds(30);
constexpr uint8_t kFirstSlot = 1;
constexpr uint8_t kLastSlot = 30;
constexpr uint8_t kIntPinA = 1;  // Of the configuration register.

absl::Status InField(std::string_view field, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrFormat("%s: %s", field, status.message()));
}

}  // namespace

Task<absl::StatusOr<std::unique_ptr<Machine>>> Machine::Build(Parts parts) {
  std::unique_ptr<Machine> machine(new Machine(parts));
  MachineBuilder builder(*machine, parts.kvm_path);
  absl::Status status = co_await builder.BuildAll();
  if (!status.ok()) {
    // What was made goes the way of an orderly stop; its own failures are of no interest beside the
    // first.
    const absl::Status closed = co_await machine->Close(kAbandonLimit);
    if (!closed.ok()) LogDebug("closing what was built: %s", closed.message());
    co_return status;
  }
  co_return machine;
}

Task<absl::Status> MachineBuilder::BuildAll() {
  CO_RETURN_IF_ERROR(OpenBootFiles());
  CO_RETURN_IF_ERROR(OpenKvm());
  CO_RETURN_IF_ERROR(MakeProcessorTemplate());
  CO_RETURN_IF_ERROR(MakeVmAndMemory());
  CO_RETURN_IF_ERROR(MakePlatform());
  CO_RETURN_IF_ERROR(ReserveSlots());
  for (size_t i = 0; i < m_.config_.disks.size(); ++i) {
    const absl::Status status = co_await AttachDisk(i);
    if (!status.ok()) co_return InField(absl::StrFormat("disks[%d]", i), status);
  }
  for (size_t i = 0; i < m_.config_.nics.size(); ++i) {
    absl::Status status = co_await AttachNic(i);
    if (!status.ok()) co_return InField(absl::StrFormat("nics[%d]", i), status);
  }
  if (m_.config_.rng) CO_RETURN_IF_ERROR(AttachRng());
  const absl::Status cdroms = co_await AttachCdroms();
  if (!cdroms.ok()) co_return cdroms;
  if (m_.has_firmware()) CO_RETURN_IF_ERROR(TellFirmware());
  CO_RETURN_IF_ERROR(MakeVcpus());
  co_return absl::OkStatus();
}

absl::Status MachineBuilder::OpenBootFiles() {
  ASSIGN_OR_RETURN(m_.opener_, DirectOpener::Create(m_.config_.allowed_directories));
  if (!m_.config_.boot.kernel.empty()) RETURN_IF_ERROR(OpenKernel());
  if (!m_.has_firmware()) return absl::OkStatus();
  const absl::Status firmware = OpenFirmware();
  if (!firmware.ok()) return InField("boot.firmware", firmware);
  const absl::Status variables = OpenVariables();
  if (!variables.ok()) return InField("boot.variables", variables);
  if (m_.config_.boot.firmware_log.empty()) return absl::OkStatus();
  const absl::Status log = OpenFirmwareLog();
  return log.ok() ? log : InField("boot.firmware_log", log);
}

absl::Status MachineBuilder::OpenKernel() {
  absl::StatusOr<UniqueFd> kernel = m_.opener_.Open(m_.config_.boot.kernel, O_RDONLY);
  if (!kernel.ok()) return InField("boot.kernel", kernel.status());
  m_.kernel_ = *std::move(kernel);
  if (m_.config_.boot.initrd.empty()) return absl::OkStatus();
  absl::StatusOr<UniqueFd> initrd = m_.opener_.Open(m_.config_.boot.initrd, O_RDONLY);
  if (!initrd.ok()) return InField("boot.initrd", initrd.status());
  m_.initrd_ = *std::move(initrd);
  return absl::OkStatus();
}

absl::Status MachineBuilder::OpenKvm() {
  DirectOpener anywhere;  // /dev/kvm is the program's own, not a path that somebody configured.
  absl::StatusOr<kvm::System> system = kvm::System::Open(anywhere, kvm_path_);
  // Whatever is wrong with it, it is the host that lacks it, not the caller who is mistaken.
  if (!system.ok()) return absl::FailedPreconditionError(system.status().message());
  m_.system_.emplace(*std::move(system));
  const std::optional<std::string> notice = m_.system_->SoftwareVirtualizationNotice();
  m_.kvm_kind_ = notice.has_value() ? "pvm" : "hardware";
  if (notice.has_value()) LogWarning("%s", *notice);
  const uint32_t most = m_.system_->features().max_vcpus;
  if (m_.config_.cpus.max > most) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "cpus.max: %d; this host's KVM runs at most %d vCPUs", m_.config_.cpus.max, most));
  }
  return absl::OkStatus();
}

absl::Status MachineBuilder::MakeProcessorTemplate() {
  ASSIGN_OR_RETURN(const std::vector<x86::CpuidEntry> supported, m_.system_->SupportedCpuid());
  absl::StatusOr<x86::CpuidTemplate> cpuid =
      x86::CpuidTemplate::Build({.supported = supported,
                                 .model = {m_.config_.cpus.model, m_.config_.cpus.add_features,
                                           m_.config_.cpus.remove_features},
                                 .topology = x86::DefaultTopology(m_.config_.cpus.max),
                                 .tsc_deadline_timer = m_.system_->features().tsc_deadline_timer});
  if (!cpuid.ok()) return InField("cpus.model", cpuid.status());
  m_.cpuid_.emplace(*std::move(cpuid));
  absl::StatusOr<x86::Layout> layout =
      x86::MakeLayout({.memory_bytes = m_.config_.memory.size_bytes,
                       .max_memory_bytes = m_.config_.memory.max_bytes,
                       .physical_address_bits = m_.cpuid_->physical_address_bits()});
  if (!layout.ok()) return InField("memory", layout.status());
  m_.layout_ = *std::move(layout);
  return absl::OkStatus();
}

absl::Status MachineBuilder::MakeVmAndMemory() {
  GuestMemory::Backing backing = GuestMemory::Backing::kPrivate;
  if (m_.config_.memory.backing == MemoryBacking::kShared) backing = GuestMemory::Backing::kShared;
  if (m_.config_.memory.backing == MemoryBacking::kHugepages)
    backing = GuestMemory::Backing::kHugepages;
  std::vector<GuestMemory::RegionSpec> regions;
  for (const x86::AddressRange& range : m_.layout_.Ram()) {
    regions.push_back({.base = GuestAddress(range.base), .size = range.size});
  }
  absl::StatusOr<std::unique_ptr<GuestMemory>> memory =
      GuestMemory::Create(std::move(regions), backing);
  if (!memory.ok()) return InField("memory", memory.status());
  m_.memory_ = *std::move(memory);
  std::vector<kvm::Memslot> slots;
  for (const GuestMemory::Region& region : m_.memory_->regions()) {
    std::vector<x86::AddressRange> seen = {{region.base.value(), region.host.size()}};
    if (m_.has_firmware() && region.base.value() == 0) {
      // Firmware finds the PC's hole: a display's window, empty here, and the place of ROM, whose
      // RAM is ShadowMemory's to show.
      seen = {{0, x86::kVgaWindowAddress},
              {x86::kKernelAreaAddress, region.host.size() - x86::kKernelAreaAddress}};
    }
    for (const x86::AddressRange& range : seen) {
      slots.push_back({.id = static_cast<uint32_t>(slots.size()),
                       .guest_base = GuestAddress(range.base),
                       .host = region.host.subspan(range.base - region.base.value(), range.size)});
    }
  }
  ASSIGN_OR_RETURN(
      m_.vm_, kvm::Vm::Create(*m_.system_, {.tss_address = x86::kKvmTssAddress,
                                            .identity_map_address = x86::kKvmIdentityMapAddress,
                                            .memory = slots}));
  // Taken before anything touches the chips: what a reset brings back.
  ASSIGN_OR_RETURN(m_.chips_at_power_on_, m_.vm_->Save());
  m_.address_space_ = std::make_unique<KvmAddressSpace>(KvmAddressSpace::Parts{
      .vm = *m_.vm_,
      .ports = m_.ports_,
      .mmio = m_.mmio_,
      .first_memslot = kFirstDeviceMemslot,
      .memslots = kDeviceMemslots,
  });
  ASSIGN_OR_RETURN(m_.interrupts_, KvmInterrupts::Create(*m_.vm_));
  return absl::OkStatus();
}

absl::StatusOr<LoopThread*> MachineBuilder::Loop(const std::string& name) {
  std::unique_ptr<LoopThread>& loop = m_.loops_[name];
  if (loop == nullptr) {
    ASSIGN_OR_RETURN(loop, LoopThread::Start(name.empty() ? "io" : absl::StrCat("io-", name)));
  }
  return loop.get();
}

InterruptLine& MachineBuilder::Line(uint32_t gsi) {
  m_.lines_.push_back(m_.interrupts_->MakeLine(gsi));
  return *m_.lines_.back();
}

absl::Status MachineBuilder::ReserveSlots() {
  for (const DiskConfig& disk : m_.config_.disks) {
    if (disk.slot.has_value()) used_slots_.insert(*disk.slot);
  }
  for (const NicConfig& nic : m_.config_.nics) {
    if (nic.slot.has_value()) used_slots_.insert(*nic.slot);
  }
  return absl::OkStatus();
}

absl::StatusOr<uint8_t> MachineBuilder::TakeSlot(std::optional<uint8_t> wanted) {
  if (wanted.has_value()) return *wanted;  // Validated: within range, and nobody else's.
  for (uint8_t slot = kFirstSlot; slot <= kLastSlot; ++slot) {
    if (used_slots_.insert(slot).second) return slot;
  }
  return absl::ResourceExhaustedError("no PCI slot is free");
}

absl::Status MachineBuilder::AddFunction(NewFunction f) {
  virtio::VirtioDevice& device = *f.device;
  m_.devices_.push_back(std::move(f.device));
  ASSIGN_OR_RETURN(const uint8_t slot, TakeSlot(f.slot));
  uint16_t vectors = 1;  // One for configuration changes, and one for each queue.
  vectors += static_cast<uint16_t>(device.queue_sizes().size());
  ASSIGN_OR_RETURN(std::unique_ptr<MsiSink> msi, m_.interrupts_->MakeMsiSink(vectors));
  m_.msi_sinks_.push_back(std::move(msi));
  const pci::Address address = {.slot = slot, .function = 0};
  ASSIGN_OR_RETURN(
      std::unique_ptr<virtio::PciTransport> transport,
      virtio::PciTransport::Create(
          {.name = absl::StrCat(pci::ToString(address), " ", f.kind, " ", f.id),
           .device = device,
           .loop = f.loop->loop(),
           .address_space = *m_.address_space_,
           .msi = *m_.msi_sinks_.back(),
           .intx = Line(pci::IntxGsi(slot, kIntPinA - 1)),
           .interrupt_pin = kIntPinA,
           // Systems that old may have no use for addresses beyond 4 GiB.
           .bar_kind = f.legacy ? pci::BarKind::kMemory32 : pci::BarKind::kMemory64Prefetchable,
           .transitional = f.legacy,
           .rom = f.rom,
           .needs_reset = [&m = m_, id = f.id] { m.events_.OnDeviceNeedsReset(id); }}));
  m_.transports_.push_back(std::move(transport));
  virtio::PciTransport* const placed = m_.transports_.back().get();
  RETURN_IF_ERROR(m_.pci_->Insert(address, *placed));
  m_.functions_.push_back({.address = address,
                           .id = std::move(f.id),
                           .kind = std::move(f.kind),
                           .function = placed,
                           .driver_ready = [placed] { return placed->driver_ready(); },
                           .loop = f.loop});
  return absl::OkStatus();
}

absl::Status MachineBuilder::AttachRng() {
  ASSIGN_OR_RETURN(LoopThread* const loop, Loop(""));
  NewFunction f = {.id = kRngId, .kind = "virtio-rng", .loop = loop};
  f.device = std::make_unique<virtio::VirtioRng>(loop->loop(), *m_.memory_);
  return AddFunction(std::move(f));
}

absl::Status MachineBuilder::MakeVcpus() {
  std::vector<std::unique_ptr<kvm::Vcpu>> vcpus;
  for (uint32_t i = 0; i < m_.config_.cpus.boot; ++i) {
    ASSIGN_OR_RETURN(std::unique_ptr<kvm::Vcpu> vcpu,
                     m_.vm_->CreateVcpu(x86::ApicId(x86::DefaultTopology(m_.config_.cpus.max), i)));
    RETURN_IF_ERROR(vcpu->SetCpuid(m_.cpuid_->For(i)));
    ASSIGN_OR_RETURN(const std::vector<uint32_t> refused,
                     vcpu->SetMsrs(m_.has_firmware() ? x86::ResetMsrs() : x86::BootMsrs()));
    for (const uint32_t msr : refused) LogDebug("vCPU %d: this KVM refuses MSR %#x", i, msr);
    if (i == 0) RETURN_IF_ERROR(vcpu->WireLocalInterrupts());
    ASSIGN_OR_RETURN(EncodedState state, vcpu->Save());
    m_.vcpus_at_power_on_.push_back(std::move(state));
    vcpus.push_back(std::move(vcpu));
  }
  m_.vcpus_ = std::make_unique<VcpuThreads>(
      VcpuThreads::Options{.ports = m_.ports_, .mmio = m_.mmio_, .events = m_});
  return m_.vcpus_->Start(std::move(vcpus));
}

}  // namespace vireo
