#include "devices/storage_controllers/ahci.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"
#include "devices/pci/config_space.h"
#include "devices/storage_controllers/ahci_spec.h"

namespace vireo {
namespace {

constexpr std::string_view kStateType = "ahci";
constexpr uint32_t kStateVersion = 1;

// ICH9 datasheet, D31:F2: which kind of controller it is, and which ports are on.
constexpr uint16_t kAddressMap = 0x90;
constexpr uint8_t kAddressMapAhci = 0x40;
constexpr uint16_t kPortControl = 0x92;

pci::Function::Identity AhciIdentity(const std::string& name) {
  return {.name = name,
          .vendor_id = 0x8086,
          .device_id = 0x2922,
          .revision_id = 2,
          .class_code = 0x010601,
          .subsystem_vendor_id = 0x1af4,
          .subsystem_id = 0x1100,
          .interrupt_pin = 1};
}

// The bits of a register that an access to some of its bytes reaches.
uint32_t MaskOf(size_t first_byte, size_t bytes) {
  uint32_t mask = 0;
  for (size_t i = first_byte; i < first_byte + bytes; ++i) mask |= uint32_t{0xff} << (8 * i);
  return mask;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ahci>> Ahci::Create(Options options) {
  VIREO_CHECK(!options.drives.empty() && options.drives.size() <= kMaxPorts,
              "a controller has one to six ports");
  std::unique_ptr<Ahci> ahci(new Ahci(options));
  RETURN_IF_ERROR(ahci->Construct());
  return ahci;
}

Ahci::Ahci(Options& options)
    : Function(AhciIdentity(options.name), options.address_space, &options.intx) {
  for (Drive& drive : options.drives) {
    const size_t port = ports_.size();
    auto cdrom = std::make_unique<AtapiCdrom>(
        std::move(drive.medium),
        AtapiCdrom::Options{.name = absl::StrFormat("%s port %d", options.name, port),
                            .serial = std::move(drive.serial),
                            .product = std::move(drive.product),
                            .on_eject = std::move(drive.on_eject)});
    ports_.push_back(std::make_unique<AhciPort>(AhciPort::Options{
        .loop = options.loop,
        .memory = options.memory,
        .drive = std::move(cdrom),
        .set_pending = [this, port](bool pending) { SetPending(port, pending); }}));
  }
}

absl::Status Ahci::Construct() {
  RETURN_IF_ERROR(AddBar({.index = kBarIndex,
                          .kind = pci::BarKind::kMemory32,
                          .window = {.size = kBarBytes, .trapped = this}}));
  pci::ConfigSpace& config = construction_config();
  config.Set8(kAddressMap, kAddressMapAhci);
  const uint16_t all_ports = static_cast<uint16_t>((1 << ports_.size()) - 1);
  config.Set16(kPortControl, all_ports);
  config.SetWritable(kPortControl, all_ports, 2);
  FinishConstruction();
  return absl::OkStatus();
}

Ahci::~Ahci() { Detach(); }

// ---- Registers ----

AhciPort* Ahci::PortAt(uint32_t offset) const {
  if (offset < ahci::kPorts) return nullptr;
  const size_t port = (offset - ahci::kPorts) / ahci::kPortBytes;
  return port < ports_.size() ? ports_[port].get() : nullptr;
}

uint32_t Ahci::ReadRegister(uint32_t offset) const {
  if (const AhciPort* const port = PortAt(offset)) return port->Read(offset % ahci::kPortBytes);
  const uint32_t count = static_cast<uint32_t>(ports_.size());
  switch (offset) {
    case ahci::kCap:
      return ahci::kCap64Bit | ahci::kCapClo | ahci::kCapIssGen2 | ahci::kCapAhciOnly |
             ahci::kCapSlots32 | (count - 1);
    case ahci::kGhc: {
      const MutexLock lock(mutex_);
      return ahci::kGhcAhci | (interrupts_enabled_ ? ahci::kGhcInterrupts : 0);
    }
    case ahci::kIs: {
      const MutexLock lock(mutex_);
      return pending_;
    }
    case ahci::kPi:
      return (uint32_t{1} << count) - 1;
    case ahci::kVs:
      return ahci::kVersion;
    default:
      return 0;  // CAP2 and BOHC: there is no firmware to take it over from.
  }
}

void Ahci::WriteRegister(uint32_t offset, uint32_t value, uint32_t mask) {
  if (AhciPort* const port = PortAt(offset)) {
    port->Write(offset % ahci::kPortBytes, value, mask);
  } else if (offset == ahci::kGhc) {
    WriteControl(value, mask);
  }
  // IS follows the ports (§10.7.2): a bit goes when its port has nothing left to tell.
}

void Ahci::WriteControl(uint32_t value, uint32_t mask) {
  const bool reset = (value & mask & ahci::kGhcReset) != 0;
  if (reset) {
    for (const std::unique_ptr<AhciPort>& port : ports_) port->ResetByController();
  }
  const MutexLock lock(mutex_);
  if (reset) {
    interrupts_enabled_ = false;
  } else if ((mask & ahci::kGhcInterrupts) != 0) {
    interrupts_enabled_ = (value & ahci::kGhcInterrupts) != 0;
  }
  UpdateInterrupt();
}

void Ahci::Read(uint64_t offset, std::span<uint8_t> data) {
  for (size_t done = 0; done < data.size();) {
    const uint64_t at = offset + done;
    const size_t first = at % 4;
    const size_t bytes = std::min(4 - first, data.size() - done);
    const uint32_t value = ReadRegister(static_cast<uint32_t>(at - first));
    for (size_t i = 0; i < bytes; ++i) {
      data[done + i] = static_cast<uint8_t>(value >> (8 * (first + i)));
    }
    done += bytes;
  }
}

std::shared_ptr<Parking> Ahci::Write(uint64_t offset, std::span<const uint8_t> data) {
  for (size_t done = 0; done < data.size();) {
    const uint64_t at = offset + done;
    const size_t first = at % 4;
    const size_t bytes = std::min(4 - first, data.size() - done);
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value |= uint32_t{data[done + i]} << (8 * (first + i));
    WriteRegister(static_cast<uint32_t>(at - first), value, MaskOf(first, bytes));
    done += bytes;
  }
  return nullptr;
}

void Ahci::SetPending(size_t port, bool pending) {
  const uint32_t bit = uint32_t{1} << port;
  const MutexLock lock(mutex_);
  pending_ = pending ? pending_ | bit : pending_ & ~bit;
  UpdateInterrupt();
}

void Ahci::UpdateInterrupt() { SetIntx(interrupts_enabled_ && pending_ != 0); }

std::shared_ptr<Parking> Ahci::OnConfigWritten(uint16_t offset, std::span<const uint8_t> data) {
  if (offset < pci::kCommand + 2 && offset + data.size() > pci::kCommand) UpdateBusMaster();
  return nullptr;
}

bool Ahci::driver_ready() const { return (Config16(pci::kCommand) & pci::kCommandBusMaster) != 0; }

void Ahci::UpdateBusMaster() {
  const MutexLock lock(bus_master_mutex_);
  const bool allowed = driver_ready();
  for (const std::unique_ptr<AhciPort>& port : ports_) port->SetBusMaster(allowed);
}

// ---- Lifecycle ----

Task<void> Ahci::Quiesce() {
  for (const std::unique_ptr<AhciPort>& port : ports_) port->BeginQuiet();
  const AsyncMutex::Guard guard = co_await transition_.Lock();
  for (size_t i = 0; i < ports_.size(); ++i) {
    co_await ports_[i]->Quiesce();
  }
}

void Ahci::Resume() {
  for (const std::unique_ptr<AhciPort>& port : ports_) port->Resume();
}

Task<void> Ahci::Reset() {
  const AsyncMutex::Guard guard = co_await transition_.Lock();
  for (size_t i = 0; i < ports_.size(); ++i) {
    co_await ports_[i]->Reset();
  }
  {
    const MutexLock lock(mutex_);
    interrupts_enabled_ = false;
    UpdateInterrupt();
  }
  ResetFunction();
}

EncodedState Ahci::Save() const {
  StateWriter writer;
  SaveFunction(writer);
  {
    const MutexLock lock(mutex_);
    writer.Bool(interrupts_enabled_);
  }
  writer.U8(static_cast<uint8_t>(ports_.size()));
  for (const std::unique_ptr<AhciPort>& port : ports_) port->Save(writer);
  return {.type = std::string(kStateType), .version = kStateVersion, .bytes = writer.Finish()};
}

absl::Status Ahci::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  for (const std::unique_ptr<AhciPort>& port : ports_) port->BeginQuiet();
  StateReader reader(state.bytes);
  RETURN_IF_ERROR(RestoreFunction(reader));
  const bool interrupts_enabled = reader.Bool();
  const uint8_t count = reader.U8();
  RETURN_IF_ERROR(reader.status());
  if (count != ports_.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the state has %d ports, not %d", name(), count, ports_.size()));
  }
  for (const std::unique_ptr<AhciPort>& port : ports_) RETURN_IF_ERROR(port->Restore(reader));
  RETURN_IF_ERROR(reader.Finish());
  UpdateBusMaster();
  const MutexLock lock(mutex_);
  interrupts_enabled_ = interrupts_enabled;
  UpdateInterrupt();
  return absl::OkStatus();
}

Task<absl::Status> Ahci::Close() {
  absl::Status first_error;
  for (size_t i = 0; i < ports_.size(); ++i) {
    const absl::Status status = co_await ports_[i]->drive().Close();
    first_error.Update(status);
  }
  co_return first_error;
}

}  // namespace vireo
