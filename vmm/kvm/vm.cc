#include "vmm/kvm/vm.h"

#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "vmm/kvm/abi.h"
#include "vmm/kvm/ioctl.h"

namespace vireo::kvm {
namespace {

constexpr uint32_t kStateVersion = 1;
constexpr std::string_view kStateType = "kvm-vm";

constexpr std::array<uint32_t, 3> kChips = {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
                                            KVM_IRQCHIP_IOAPIC};

uint32_t ChipNumber(IrqchipPin::Chip chip) {
  switch (chip) {
    case IrqchipPin::Chip::kPicMaster:
      return KVM_IRQCHIP_PIC_MASTER;
    case IrqchipPin::Chip::kPicSlave:
      return KVM_IRQCHIP_PIC_SLAVE;
    case IrqchipPin::Chip::kIoapic:
      return KVM_IRQCHIP_IOAPIC;
  }
  return KVM_IRQCHIP_IOAPIC;
}

template <typename T>
std::span<const uint8_t> BytesOf(const T& object) {
  return {reinterpret_cast<const uint8_t*>(&object), sizeof(T)};
}

// A kernel struct out of a saved state; the size must be exactly right.
template <typename T>
T ReadStruct(StateReader& reader, std::string_view name) {
  T object = {};
  const std::vector<uint8_t> bytes = reader.Bytes();
  if (bytes.size() == sizeof(T)) {
    std::memcpy(&object, bytes.data(), sizeof(T));
  } else {
    reader.Fail(name);
  }
  return object;
}

kvm_irq_routing_entry Encode(const GsiRoute& route) {
  kvm_irq_routing_entry entry = {};
  entry.gsi = route.gsi;
  if (const IrqchipPin* pin = std::get_if<IrqchipPin>(&route.target)) {
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip.irqchip = ChipNumber(pin->chip);
    entry.u.irqchip.pin = pin->pin;
  } else {
    const MsiTarget& msi = std::get<MsiTarget>(route.target);
    entry.type = KVM_IRQ_ROUTING_MSI;
    entry.u.msi.address_lo = static_cast<uint32_t>(msi.address);
    entry.u.msi.address_hi = static_cast<uint32_t>(msi.address >> 32);
    entry.u.msi.data = msi.data;
  }
  return entry;
}

}  // namespace

std::vector<GsiRoute> PcIrqchipRoutes() {
  std::vector<GsiRoute> routes;
  for (uint32_t gsi = 0; gsi < 16; ++gsi) {
    // IRQ 2 is the cascade of the second PIC: nothing can raise it.
    if (gsi == 2) continue;
    const IrqchipPin::Chip pic =
        gsi < 8 ? IrqchipPin::Chip::kPicMaster : IrqchipPin::Chip::kPicSlave;
    routes.push_back({gsi, IrqchipPin{pic, gsi % 8}});
    routes.push_back({gsi, IrqchipPin{IrqchipPin::Chip::kIoapic, gsi == 0 ? 2 : gsi}});
  }
  for (uint32_t gsi = 16; gsi < KVM_IOAPIC_NUM_PINS; ++gsi) {
    routes.push_back({gsi, IrqchipPin{IrqchipPin::Chip::kIoapic, gsi}});
  }
  return routes;
}

absl::StatusOr<std::unique_ptr<Vm>> Vm::Create(const System& system, const Options& options) {
  ASSIGN_OR_RETURN(UniqueFd fd, system.CreateVm());
  // The constructor is private.
  std::unique_ptr<Vm> vm(new Vm(system, std::move(fd)));
  uint64_t identity_map = options.identity_map_address;
  RETURN_IF_ERROR(
      Ioctl(vm->fd_, KVM_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR", &identity_map)
          .status());
  RETURN_IF_ERROR(
      Ioctl(vm->fd_, KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR", options.tss_address).status());
  for (const Memslot& slot : options.memory) RETURN_IF_ERROR(vm->SetMemslot(slot));
  if (system.features().quirks2 & KVM_X86_QUIRK_FIX_HYPERCALL_INSN) {
    // A hypercall of the other vendor's kind shall fault as it does on hardware: KVM's patching of
    // the instruction loops for ever where guest text cannot be written.
    kvm_enable_cap quirks = {};
    quirks.cap = KVM_CAP_DISABLE_QUIRKS2;
    quirks.args[0] = KVM_X86_QUIRK_FIX_HYPERCALL_INSN;
    RETURN_IF_ERROR(
        Ioctl(vm->fd_, KVM_ENABLE_CAP, "KVM_ENABLE_CAP(KVM_CAP_DISABLE_QUIRKS2)", &quirks)
            .status());
  }
  RETURN_IF_ERROR(Ioctl(vm->fd_, KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP", 0).status());
  kvm_pit_config pit = {};
  pit.flags = KVM_PIT_SPEAKER_DUMMY;  // Port 0x61, by which guests calibrate their clocks.
  RETURN_IF_ERROR(Ioctl(vm->fd_, KVM_CREATE_PIT2, "KVM_CREATE_PIT2", &pit).status());
  RETURN_IF_ERROR(vm->SetGsiRoutes(PcIrqchipRoutes()));
  return vm;
}

absl::Status Vm::SetMemslot(const Memslot& slot) {
  kvm_userspace_memory_region region = {};
  region.slot = slot.id;
  region.flags =
      (slot.read_only ? KVM_MEM_READONLY : 0u) | (slot.log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0u);
  region.guest_phys_addr = slot.guest_base.value();
  region.memory_size = slot.host.size();  // Bytes; 0 removes the slot.
  region.userspace_addr = reinterpret_cast<uintptr_t>(slot.host.data());
  const absl::Status status =
      Ioctl(fd_, KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &region).status();
  if (status.ok()) return status;
  const absl::Status annotated =
      Annotate(status, absl::StrFormat("slot %d at 0x%x, %d bytes", slot.id,
                                       slot.guest_base.value(), slot.host.size()));
  // KVM says EEXIST for an overlap.
  if (StatusErrno(status) == EEXIST) {
    return WithCode(annotated, absl::StatusCode::kInvalidArgument);
  }
  return annotated;
}

absl::Status Vm::RemoveMemslot(uint32_t id) {
  kvm_userspace_memory_region region = {};
  region.slot = id;
  return Ioctl(fd_, KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION(remove)", &region)
      .status();
}

absl::StatusOr<std::vector<uint64_t>> Vm::FetchDirtyLog(uint32_t slot_id, uint64_t bytes) {
  const uint64_t pages = bytes / 4096;
  std::vector<uint64_t> bitmap((pages + 63) / 64);
  kvm_dirty_log log = {};
  log.slot = slot_id;
  log.dirty_bitmap = bitmap.data();
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_DIRTY_LOG, "KVM_GET_DIRTY_LOG", &log).status());
  return bitmap;
}

absl::Status Vm::ChangeIoEventFd(const IoEventFd& doorbell, uint32_t flags) {
  kvm_ioeventfd request = {};
  request.addr = doorbell.address;
  request.len = doorbell.length;
  request.fd = doorbell.fd;
  request.flags = flags | (doorbell.pio ? KVM_IOEVENTFD_FLAG_PIO : 0u);
  if (doorbell.match.has_value()) {
    request.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
    request.datamatch = *doorbell.match;
  }
  const absl::Status status = Ioctl(fd_, KVM_IOEVENTFD, "KVM_IOEVENTFD", &request).status();
  if (status.ok()) return status;
  return Annotate(
      status, absl::StrFormat("doorbell at 0x%x, length %d", doorbell.address, doorbell.length));
}

absl::Status Vm::AssignIoEventFd(const IoEventFd& doorbell) { return ChangeIoEventFd(doorbell, 0); }

absl::Status Vm::DeassignIoEventFd(const IoEventFd& doorbell) {
  return ChangeIoEventFd(doorbell, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

absl::Status Vm::AssignIrqFd(uint32_t gsi, const EventFd& trigger, const EventFd* resample) {
  kvm_irqfd request = {};
  request.fd = static_cast<uint32_t>(trigger.fd());
  request.gsi = gsi;
  if (resample != nullptr) {
    request.flags = KVM_IRQFD_FLAG_RESAMPLE;
    request.resamplefd = static_cast<uint32_t>(resample->fd());
  }
  return Ioctl(fd_, KVM_IRQFD, "KVM_IRQFD", &request).status();
}

absl::Status Vm::DeassignIrqFd(uint32_t gsi, const EventFd& trigger) {
  kvm_irqfd request = {};
  request.fd = static_cast<uint32_t>(trigger.fd());
  request.gsi = gsi;
  request.flags = KVM_IRQFD_FLAG_DEASSIGN;
  return Ioctl(fd_, KVM_IRQFD, "KVM_IRQFD(deassign)", &request).status();
}

absl::Status Vm::SetGsiRoutes(std::span<const GsiRoute> routes) {
  abi::IrqRouting table(routes.size());
  table.header().nr = static_cast<uint32_t>(routes.size());
  for (size_t i = 0; i < routes.size(); ++i) table.entries()[i] = Encode(routes[i]);
  return Ioctl(fd_, abi::kSetGsiRouting, "KVM_SET_GSI_ROUTING", table.data()).status();
}

absl::Status Vm::SetIrqLine(uint32_t gsi, uint32_t level) {
  kvm_irq_level request = {};
  request.irq = gsi;
  request.level = level;
  return Ioctl(fd_, KVM_IRQ_LINE, "KVM_IRQ_LINE", &request).status();
}

absl::Status Vm::RaiseIrqLine(uint32_t gsi) { return SetIrqLine(gsi, 1); }
absl::Status Vm::LowerIrqLine(uint32_t gsi) { return SetIrqLine(gsi, 0); }

absl::Status Vm::SignalMsi(const MsiTarget& msi) {
  kvm_msi request = {};
  request.address_lo = static_cast<uint32_t>(msi.address);
  request.address_hi = static_cast<uint32_t>(msi.address >> 32);
  request.data = msi.data;
  return Ioctl(fd_, KVM_SIGNAL_MSI, "KVM_SIGNAL_MSI", &request).status();
}

absl::StatusOr<Clock> Vm::GetClock() const {
  kvm_clock_data data = {};
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_CLOCK, "KVM_GET_CLOCK", &data).status());
  Clock clock = {.nanoseconds = data.clock, .realtime_ns = std::nullopt};
  if (data.flags & KVM_CLOCK_REALTIME) clock.realtime_ns = data.realtime;
  return clock;
}

absl::Status Vm::SetClock(const Clock& clock) {
  kvm_clock_data data = {};
  data.clock = clock.nanoseconds;
  if (clock.realtime_ns.has_value() && system_.features().clock_realtime) {
    data.flags = KVM_CLOCK_REALTIME;
    data.realtime = *clock.realtime_ns;
  }
  return Ioctl(fd_, KVM_SET_CLOCK, "KVM_SET_CLOCK", &data).status();
}

absl::StatusOr<std::unique_ptr<Vcpu>> Vm::CreateVcpu(uint32_t id) {
  ASSIGN_OR_RETURN(const int raw, Ioctl(fd_, KVM_CREATE_VCPU, "KVM_CREATE_VCPU", id));
  UniqueFd fd(raw);
  const size_t bytes = system_.vcpu_mapping_bytes();
  void* const mapping =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), /*offset=*/0);
  if (mapping == MAP_FAILED) return ErrnoStatus(errno, "mapping a vCPU's kvm_run");
  return std::unique_ptr<Vcpu>(
      new Vcpu(system_, std::move(fd), id, static_cast<kvm_run*>(mapping), bytes));
}

absl::StatusOr<EncodedState> Vm::Save() const {
  StateWriter writer;
  for (const uint32_t number : kChips) {
    kvm_irqchip chip = {};
    chip.chip_id = number;
    RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_IRQCHIP, "KVM_GET_IRQCHIP", &chip).status());
    writer.Bytes(BytesOf(chip));
  }
  kvm_pit_state2 pit = {};
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_PIT2, "KVM_GET_PIT2", &pit).status());
  writer.Bytes(BytesOf(pit));
  ASSIGN_OR_RETURN(const Clock clock, GetClock());
  writer.U64(clock.nanoseconds);
  writer.Bool(clock.realtime_ns.has_value());
  writer.U64(clock.realtime_ns.value_or(0));
  return EncodedState{std::string(kStateType), kStateVersion, writer.Finish()};
}

absl::StatusOr<Clock> Vm::RestoreChipsReturningClock(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  StateReader reader(state.bytes);
  std::array<kvm_irqchip, 3> chips;
  for (size_t i = 0; i < chips.size(); ++i) {
    chips[i] = ReadStruct<kvm_irqchip>(reader, "kvm-vm: an interrupt chip of the wrong size");
    if (chips[i].chip_id != kChips[i]) reader.Fail("kvm-vm: an interrupt chip out of order");
  }
  kvm_pit_state2 pit = ReadStruct<kvm_pit_state2>(reader, "kvm-vm: a PIT of the wrong size");
  Clock clock;
  clock.nanoseconds = reader.U64();
  const bool has_realtime = reader.Bool();
  const uint64_t realtime_ns = reader.U64();
  if (has_realtime) clock.realtime_ns = realtime_ns;
  RETURN_IF_ERROR(reader.Finish());

  for (kvm_irqchip& chip : chips) {
    RETURN_IF_ERROR(Ioctl(fd_, KVM_SET_IRQCHIP, "KVM_SET_IRQCHIP", &chip).status());
  }
  RETURN_IF_ERROR(Ioctl(fd_, KVM_SET_PIT2, "KVM_SET_PIT2", &pit).status());
  return clock;
}

absl::Status Vm::Restore(const EncodedState& state) {
  ASSIGN_OR_RETURN(const Clock clock, RestoreChipsReturningClock(state));
  return SetClock(clock);
}

absl::Status Vm::RestoreChips(const EncodedState& state) {
  return RestoreChipsReturningClock(state).status();
}

}  // namespace vireo::kvm
