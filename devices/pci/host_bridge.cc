#include "devices/pci/host_bridge.h"

#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"

namespace vireo::pci {
namespace {

constexpr uint64_t kEcamEnable = 1 << 0;
constexpr uint64_t kEcamLengthMask = 3 << 1;
// Bits 38:26; those below the chosen length's alignment are read-only zeros in hardware and ignored
// here.
constexpr uint64_t kEcamAddressMask = ((uint64_t{1} << 39) - 1) & ~((uint64_t{1} << 26) - 1);

Function::Identity BridgeIdentity() {
  return {.name = "00:00.0 host bridge",
          .vendor_id = 0x8086,
          .device_id = 0x29c0,
          .revision_id = 0,
          .class_code = 0x060000,
          .subsystem_vendor_id = 0x1af4,
          .subsystem_id = 0x1100};
}

}  // namespace

HostBridge::HostBridge(AddressSpace& address_space, BusDevice& ecam, Options options)
    : Function(BridgeIdentity(), address_space, nullptr),
      address_space_(address_space),
      pam_written_(std::move(options.pam_written)) {
  for (size_t i = 0; i < kEcamBytes.size(); ++i) {
    absl::StatusOr<uint32_t> window = address_space_.Add({.kind = Window::Kind::kMmio,
                                                          .size = kEcamBytes[i],
                                                          .trapped = &ecam,
                                                          .doorbells = {},
                                                          .ram = {},
                                                          .name = "ECAM"});
    VIREO_CHECK(window.ok(), "a window that is only trapped is always accepted");
    windows_[i] = *window;
  }

  ConfigSpace& config = construction_config();
  config.SetWritable(kPciExpressBar, kEcamAddressMask | kEcamLengthMask | kEcamEnable, 8);
  if (options.ecam_base_at_power_on.has_value()) {
    const uint64_t base = *options.ecam_base_at_power_on;
    VIREO_CHECK(base != 0 && base % kEcamBytes[0] == 0 && (base & ~kEcamAddressMask) == 0,
                "ECAM's place at power-on is aligned and within reach");
    config.Set64(kPciExpressBar, base | kEcamEnable);
  }
  config.SetWritable(0x40, 0x0000'007f'ffff'f001, 8);  // EPBAR
  config.SetWritable(0x48, 0x0000'007f'ffff'c001, 8);  // MCHBAR
  config.SetWritable(0x52, 0x03f3, 2);                 // GGC: graphics control
  config.SetWritable(0x54, 0x3ff, 4);                  // DEVEN: devices enabled
  config.SetWritable(0x68, 0x0000'007f'ffff'f001, 8);  // DMIBAR
  for (uint16_t i = 0; i < kPamRegisters; ++i)
    config.SetWritable(kPam0 + i, i == 0 ? 0x30 : 0x33, 1);
  config.SetWritable(0x97, 0x80, 1);    // LAC: legacy access control
  config.SetWritable(0x98, 0xffff, 2);  // REMAPBASE
  config.SetWritable(0x9a, 0xffff, 2);  // REMAPLIMIT
  config.Set8(kSmram, 0x02);            // C_BASE_SEG is always 010b.
  config.SetWritable(kSmram, 0x78, 1);
  config.Set8(kEsmramc, 0x38);  // Cacheability bits are always set.
  config.SetWritable(kEsmramc, 0xc7, 1);
  config.SetWritable(0xa0, 0x03ff, 2);      // TOM
  config.SetWritable(0xa2, 0xffff, 2);      // TOUUD
  config.SetWritable(0xac, 0xfff00000, 4);  // TSEGMB
  config.SetWritable(0xb0, 0xfff0, 2);      // TOLUD
  config.SetWritable(0xdc, 0xffffffff, 4);  // SKPD: scratchpad
  FinishConstruction();
  UpdateEcam();
}

HostBridge::~HostBridge() { DetachAll(); }

void HostBridge::DetachAll() {
  {
    const MutexLock lock(ecam_mutex_);
    placed_window_.reset();
    place_.reset();
  }
  for (std::optional<uint32_t>& window : windows_) {
    if (window.has_value()) address_space_.Remove(*window);
    window.reset();
  }
  Detach();
}

std::optional<HostBridge::EcamPlace> HostBridge::ecam() const {
  const MutexLock lock(ecam_mutex_);
  return place_;
}

std::shared_ptr<Parking> HostBridge::OnConfigWritten(uint16_t offset,
                                                     std::span<const uint8_t> data) {
  if (offset < kPciExpressBar + 8 && kPciExpressBar < offset + data.size()) UpdateEcam();
  if (offset < kPam0 + kPamRegisters && kPam0 < offset + data.size()) UpdatePam();
  return nullptr;
}

void HostBridge::UpdatePam() {
  const MutexLock lock(pam_mutex_);
  if (pam_written_ == nullptr) return;
  std::array<uint8_t, kPamRegisters> pam;
  for (uint16_t i = 0; i < kPamRegisters; ++i) pam[i] = Config8(kPam0 + i);
  pam_written_(pam);
}

void HostBridge::UpdateEcam() {
  const MutexLock lock(ecam_mutex_);
  const uint64_t value = uint64_t{Config32(kPciExpressBar + 4)} << 32 | Config32(kPciExpressBar);
  const size_t length = (value & kEcamLengthMask) >> 1;
  std::optional<EcamPlace> wanted;
  if ((value & kEcamEnable) != 0 && length < kEcamBytes.size()) {
    const uint64_t bytes = kEcamBytes[length];
    const uint64_t base = value & kEcamAddressMask & ~(bytes - 1);
    if (base != 0) wanted = {.base = base, .bytes = bytes};
  }
  if (wanted.has_value() && place_.has_value() && wanted->base == place_->base &&
      wanted->bytes == place_->bytes) {
    return;
  }
  if (placed_window_.has_value()) address_space_.Unplace(*windows_[*placed_window_]);
  placed_window_.reset();
  place_.reset();
  ecam_failed_.store(false);
  if (!wanted.has_value() || !windows_[length].has_value()) return;
  const absl::Status status = address_space_.Place(*windows_[length], wanted->base);
  if (!status.ok()) {
    ecam_failed_.store(true);
    if (log_limit_.Allow()) LogWarning("ECAM at %#x: %s", wanted->base, status.ToString());
    return;
  }
  placed_window_ = length;
  place_ = wanted;
}

void HostBridge::RetryPlacement() {
  if (ecam_failed_.load()) UpdateEcam();
}

Task<void> HostBridge::Reset() {
  ResetFunction();
  UpdateEcam();
  UpdatePam();
  co_return;
}

absl::Status HostBridge::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(Function::Restore(state));
  UpdateEcam();
  UpdatePam();
  return absl::OkStatus();
}

}  // namespace vireo::pci
