#include "devices/pci/function.h"

#include <bit>
#include <limits>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"

namespace vireo::pci {
namespace {

constexpr std::string_view kStateType = "pci-function";
constexpr uint32_t kStateVersion = 1;

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kMaxRomBytes = uint64_t{16} << 20;

bool Is64Bit(BarKind kind) {
  return kind == BarKind::kMemory64 || kind == BarKind::kMemory64Prefetchable;
}

// PCI 3.0 §6.2.5.1: the read-only low bits of a BAR.
uint32_t TypeBits(BarKind kind) {
  switch (kind) {
    case BarKind::kMemory32:
      return 0x0;
    case BarKind::kMemory64:
      return 0x4;
    case BarKind::kMemory64Prefetchable:
      return 0xc;
    case BarKind::kIo:
      return 0x1;
  }
  VIREO_CHECK(false, "a BAR is of one of four kinds");
}

bool Touches(uint16_t offset, size_t bytes, uint16_t register_offset, uint16_t register_bytes) {
  return offset < register_offset + register_bytes && register_offset < offset + bytes;
}

}  // namespace

Function::Function(const Identity& identity, AddressSpace& address_space, InterruptLine* intx)
    : name_(identity.name),
      address_space_(address_space),
      intx_(intx),
      config_(identity.config_bytes) {
  VIREO_CHECK(identity.interrupt_pin <= 4);
  VIREO_CHECK(identity.interrupt_pin == 0 || intx != nullptr, "a pin needs its line");
  config_.Set16(kVendorId, identity.vendor_id);
  config_.Set16(kDeviceId, identity.device_id);
  config_.Set8(kRevisionId, identity.revision_id);
  config_.Set8(kClassCode, static_cast<uint8_t>(identity.class_code));
  config_.Set16(kClassCode + 1, static_cast<uint16_t>(identity.class_code >> 8));
  config_.Set16(kSubsystemVendorId, identity.subsystem_vendor_id);
  config_.Set16(kSubsystemId, identity.subsystem_id);
  config_.Set8(kInterruptPin, identity.interrupt_pin);
  command_writable_ = kCommandBusMaster | kCommandParity | kCommandSerr;
  if (identity.interrupt_pin != 0) command_writable_ |= kCommandIntxDisable;
  config_.SetWritable(kCommand, command_writable_, 2);
  config_.SetWritable(kCacheLineSize, 0xff, 1);
  config_.SetWritable(kLatencyTimer, 0xff, 1);
  config_.SetWritable(kInterruptLine, 0xff, 1);
  config_.SetPowerOnState();
}

Function::~Function() { Detach(); }

absl::Status Function::AddBar(Bar bar) {
  const MutexLock lock(mutex_);
  const bool wide = Is64Bit(bar.kind);
  const bool io = bar.kind == BarKind::kIo;
  if (bar.index < 0 || bar.index + (wide ? 1 : 0) > 5) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: no BAR %d", name_, bar.index));
  }
  for (int i = 0; i < 6; ++i) {
    const bool overlaps = i == bar.index || (wide && i == bar.index + 1) ||
                          (i + 1 == bar.index && bars_[i].present && Is64Bit(bars_[i].kind));
    if (overlaps && bars_[i].present) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: BAR %d is taken", name_, bar.index));
    }
  }
  const uint64_t size = bar.window.size;
  const uint64_t limit = io ? 256 : wide ? uint64_t{1} << 62 : uint64_t{1} << 31;
  if (!std::has_single_bit(size) || size < (io ? 4u : 16u) || size > limit) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: BAR %d of %#x bytes", name_, bar.index, size));
  }
  bar.window.kind = io ? Window::Kind::kPio : Window::Kind::kMmio;
  if (bar.window.name.empty()) bar.window.name = absl::StrFormat("%s BAR %d", name_, bar.index);
  ASSIGN_OR_RETURN(const uint32_t window, address_space_.Add(std::move(bar.window)));
  bars_[bar.index] = {
      .present = true, .kind = bar.kind, .size = size, .window = window, .placed = {}};

  // Sizing: the guest writes all ones and reads back which bits took (PCI 3.0 §6.2.5.1).
  const uint16_t offset = static_cast<uint16_t>(kBar0 + 4 * bar.index);
  config_.Set32(offset, TypeBits(bar.kind));
  if (wide) {
    config_.Set32(offset + 4, 0);
    config_.SetWritable(offset, ~(size - 1), 8);
  } else {
    config_.SetWritable(offset, ~(size - 1), 4);
  }
  command_writable_ |= io ? kCommandIo : kCommandMemory;
  config_.SetWritable(kCommand, command_writable_, 2);
  return absl::OkStatus();
}

absl::Status Function::AddExpansionRom(std::span<uint8_t> image) {
  const MutexLock lock(mutex_);
  const uint64_t size = image.size();
  if (bars_[kRomIndex].present || !std::has_single_bit(size) || size < kPageBytes ||
      size > kMaxRomBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: an expansion ROM of %#x bytes", name_, size));
  }
  RamWindow backing;
  backing.host = image;
  backing.read_only = true;
  ASSIGN_OR_RETURN(const uint32_t window,
                   address_space_.Add({.kind = Window::Kind::kMmio,
                                       .size = size,
                                       .trapped = nullptr,
                                       .doorbells = {},
                                       .ram = {backing},
                                       .name = absl::StrFormat("%s ROM", name_)}));
  bars_[kRomIndex] = {
      .present = true, .kind = BarKind::kMemory32, .size = size, .window = window, .placed = {}};
  config_.SetWritable(kExpansionRom, (~(size - 1) & 0xffffffff) | kExpansionRomEnable, 4);
  command_writable_ |= kCommandMemory;
  config_.SetWritable(kCommand, command_writable_, 2);
  return absl::OkStatus();
}

absl::StatusOr<uint8_t> Function::AddCapability(uint8_t id, std::span<const uint8_t> body,
                                                std::span<const uint8_t> writable) {
  VIREO_CHECK(writable.empty() || writable.size() == body.size());
  const MutexLock lock(mutex_);
  if (body.size() > ConfigSpace::kConventionalBytes - 2) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s: capability of %d bytes", name_, body.size()));
  }
  ASSIGN_OR_RETURN(const uint8_t offset,
                   config_.AddCapability(id, static_cast<uint8_t>(body.size() + 2)));
  for (size_t i = 0; i < body.size(); ++i) {
    const uint16_t at = static_cast<uint16_t>(offset + 2 + i);
    config_.Set8(at, body[i]);
    if (!writable.empty()) config_.SetWritable(at, writable[i], 1);
  }
  return offset;
}

absl::Status Function::AddMsix(Msix& msix, const MsixLocation& location) {
  // PCI 3.0 §6.8.2: control, table offset and BAR, pending bits' offset and BAR.
  std::vector<uint8_t> body(10);
  const uint16_t control = msix.vectors() - 1;
  body[0] = static_cast<uint8_t>(control);
  body[1] = static_cast<uint8_t>(control >> 8);
  for (int i = 0; i < 4; ++i) {
    const uint32_t table = location.table_offset | static_cast<uint32_t>(location.table_bar);
    const uint32_t pba = location.pba_offset | static_cast<uint32_t>(location.pba_bar);
    body[2 + i] = static_cast<uint8_t>(table >> (8 * i));
    body[6 + i] = static_cast<uint8_t>(pba >> (8 * i));
  }
  std::vector<uint8_t> writable(10);
  writable[1] = (Msix::kControlEnable | Msix::kControlFunctionMask) >> 8;
  ASSIGN_OR_RETURN(const uint8_t offset, AddCapability(kCapabilityMsix, body, writable));
  const MutexLock lock(mutex_);
  msix_ = &msix;
  msix_control_ = offset + 2;
  return absl::OkStatus();
}

void Function::FinishConstruction() {
  const MutexLock lock(mutex_);
  config_.SetPowerOnState();
}

uint8_t Function::Config8(uint16_t offset) const {
  const MutexLock lock(mutex_);
  return config_.Get8(offset);
}
uint16_t Function::Config16(uint16_t offset) const {
  const MutexLock lock(mutex_);
  return config_.Get16(offset);
}
uint32_t Function::Config32(uint16_t offset) const {
  const MutexLock lock(mutex_);
  return config_.Get32(offset);
}
void Function::SetConfig8(uint16_t offset, uint8_t value) {
  const MutexLock lock(mutex_);
  config_.Set8(offset, value);
}
void Function::SetConfig16(uint16_t offset, uint16_t value) {
  const MutexLock lock(mutex_);
  config_.Set16(offset, value);
}
void Function::SetConfig32(uint16_t offset, uint32_t value) {
  const MutexLock lock(mutex_);
  config_.Set32(offset, value);
}

void Function::ReadConfig(uint16_t offset, std::span<uint8_t> data) {
  {
    const MutexLock lock(mutex_);
    config_.Read(offset, data);
  }
  OnConfigRead(offset, data);
}

std::shared_ptr<Parking> Function::WriteConfig(uint16_t offset, std::span<const uint8_t> data) {
  {
    const MutexLock lock(mutex_);
    config_.Write(offset, data);
    const bool command = Touches(offset, data.size(), kCommand, 2);
    if (command || Touches(offset, data.size(), kBar0, 6 * 4) ||
        Touches(offset, data.size(), kExpansionRom, 4)) {
      UpdateDecoding();
    }
    if (command) UpdateIntx();
    if (msix_ != nullptr && Touches(offset, data.size(), msix_control_, 2)) {
      msix_->SetControl(config_.Get16(msix_control_));
    }
  }
  return OnConfigWritten(offset, data);
}

void Function::OnConfigRead(uint16_t, std::span<uint8_t>) {}

std::shared_ptr<Parking> Function::OnConfigWritten(uint16_t, std::span<const uint8_t>) {
  return nullptr;
}

std::optional<uint64_t> Function::WantedAddress(int index) const {
  const BarState& bar = bars_[index];
  if (!bar.present || detached_) return std::nullopt;
  const bool io = bar.kind == BarKind::kIo;
  if ((config_.Get16(kCommand) & (io ? kCommandIo : kCommandMemory)) == 0) return std::nullopt;
  const uint16_t offset = RegisterOf(index);
  const uint64_t value = Is64Bit(bar.kind) ? config_.Get64(offset) : config_.Get32(offset);
  if (index == kRomIndex && (value & kExpansionRomEnable) == 0) return std::nullopt;
  const uint64_t address = value & ~(bar.size - 1);
  // Zero is a BAR that nobody has assigned, all ones one that is being sized.
  if (address == 0) return std::nullopt;
  const uint64_t limit = io                  ? 0xffff
                         : Is64Bit(bar.kind) ? std::numeric_limits<uint64_t>::max()
                                             : 0xffffffff;
  const uint64_t ones = limit & ~(bar.size - 1);
  if (address >= ones) return std::nullopt;
  return address;
}

void Function::UpdateDecoding() {
  // Out first, then in: two BARs of this function may change places.
  for (int i = 0; i <= kRomIndex; ++i) {
    BarState& bar = bars_[i];
    if (bar.placed.has_value() && bar.placed != WantedAddress(i)) {
      address_space_.Unplace(bar.window);
      bar.placed.reset();
    }
  }
  bool failed = false;
  for (int i = 0; i <= kRomIndex; ++i) {
    BarState& bar = bars_[i];
    const std::optional<uint64_t> wanted = WantedAddress(i);
    if (!wanted.has_value() || bar.placed == wanted) continue;
    const absl::Status status = address_space_.Place(bar.window, *wanted);
    if (status.ok()) {
      bar.placed = wanted;
      continue;
    }
    // The guest's doing, and often a passing state: it may be about to move what is in the way.
    failed = true;
    if (log_limit_.Allow()) {
      LogDebug("%s %s at %#x: %s", name_, i == kRomIndex ? "ROM" : absl::StrFormat("BAR %d", i),
               *wanted, status.ToString());
    }
  }
  placement_failed_.store(failed);
}

void Function::RetryPlacement() {
  if (!placement_failed_.load()) return;
  const MutexLock lock(mutex_);
  UpdateDecoding();
}

std::vector<Function::BarInfo> Function::bars() const {
  std::vector<BarInfo> bars;
  const MutexLock lock(mutex_);
  for (int index = 0; index < kRomIndex; ++index) {
    const BarState& bar = bars_[index];
    if (bar.present) bars.push_back({.index = index, .kind = bar.kind, .size = bar.size});
  }
  return bars;
}

std::optional<uint64_t> Function::bar_address(int index) const {
  VIREO_CHECK(index >= 0 && index < 6);
  const MutexLock lock(mutex_);
  return bars_[index].placed;
}

absl::Status Function::SetBarDoorbells(int index, std::vector<Doorbell> doorbells) {
  const MutexLock lock(mutex_);
  VIREO_CHECK(index >= 0 && index < 6 && bars_[index].present);
  if (detached_) return absl::OkStatus();
  return address_space_.SetDoorbells(bars_[index].window, std::move(doorbells));
}

void Function::Detach() {
  std::vector<uint32_t> windows;
  {
    const MutexLock lock(mutex_);
    if (detached_) return;
    detached_ = true;
    UpdateDecoding();
    for (const BarState& bar : bars_) {
      if (bar.present) windows.push_back(bar.window);
    }
    intx_requested_ = false;
    UpdateIntx();
  }
  // Not under the mutex: this waits for accesses, which may want it.
  for (const uint32_t window : windows) address_space_.Remove(window);
}

void Function::SetIntx(bool asserted) {
  const MutexLock lock(mutex_);
  intx_requested_ = asserted && !detached_;
  UpdateIntx();
}

void Function::UpdateIntx() {
  // PCI 3.0 §6.2.3: the status bit shows the request whether or not the line may show it.
  const uint16_t status = config_.Get16(kStatus) & ~kStatusInterrupt;
  config_.Set16(kStatus, status | (intx_requested_ ? kStatusInterrupt : 0));
  const bool drive = intx_requested_ && (config_.Get16(kCommand) & kCommandIntxDisable) == 0;
  if (drive == intx_driven_ || intx_ == nullptr) return;
  intx_driven_ = drive;
  if (drive) {
    intx_->Assert();
  } else {
    intx_->Deassert();
  }
}

void Function::ResetFunction() {
  const MutexLock lock(mutex_);
  config_.Reset();
  intx_requested_ = false;
  UpdateIntx();
  UpdateDecoding();
  if (msix_ != nullptr) msix_->Reset();
}

void Function::SaveFunction(StateWriter& writer) const {
  const MutexLock lock(mutex_);
  config_.Save(writer);
  writer.Bool(intx_requested_);
  writer.Bool(msix_ != nullptr);
  if (msix_ != nullptr) msix_->Save(writer);
}

absl::Status Function::RestoreFunction(StateReader& reader) {
  const MutexLock lock(mutex_);
  RETURN_IF_ERROR(config_.Restore(reader));
  intx_requested_ = reader.Bool();
  const bool has_msix = reader.Bool();
  RETURN_IF_ERROR(reader.status());
  if (has_msix != (msix_ != nullptr)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: state %s MSI-X", name_, has_msix ? "has" : "lacks"));
  }
  if (msix_ != nullptr) RETURN_IF_ERROR(msix_->Restore(reader));
  UpdateDecoding();
  UpdateIntx();
  return absl::OkStatus();
}

Task<void> Function::Quiesce() { co_return; }

Task<void> Function::Reset() {
  ResetFunction();
  co_return;
}

EncodedState Function::Save() const {
  StateWriter writer;
  SaveFunction(writer);
  return {.type = std::string(kStateType), .version = kStateVersion, .bytes = writer.Finish()};
}

absl::Status Function::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  StateReader reader(state.bytes);
  RETURN_IF_ERROR(RestoreFunction(reader));
  return reader.Finish();
}

}  // namespace vireo::pci
