#include "devices/pci/lpc_bridge.h"

#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"

namespace vireo::pci {
namespace {

constexpr uint32_t kPmBaseMask = 0xff80;
constexpr uint32_t kIoSpace = 1 << 0;  // PMBASE bit 0, read-only.
constexpr uint8_t kAcpiEnable = 1 << 7;
constexpr uint8_t kPirqUnrouted = 1 << 7;

Function::Identity BridgeIdentity() {
  return {.name = "00:1f.0 LPC bridge",
          .vendor_id = 0x8086,
          .device_id = 0x2918,
          .revision_id = 2,
          .class_code = 0x060100,
          .subsystem_vendor_id = 0x1af4,
          .subsystem_id = 0x1100};
}

uint16_t PirqRegister(int pirq) {
  return static_cast<uint16_t>(pirq < 4 ? LpcBridge::kPirqA + pirq : LpcBridge::kPirqE + pirq - 4);
}

}  // namespace

LpcBridge::LpcBridge(AddressSpace& address_space, Options options)
    : Function(BridgeIdentity(), address_space, nullptr),
      address_space_(address_space),
      pirq_routed_(std::move(options.pirq_routed)) {
  if (options.pm_block != nullptr) {
    absl::StatusOr<uint32_t> window = address_space_.Add({.kind = Window::Kind::kPio,
                                                          .size = kPmBlockBytes,
                                                          .trapped = options.pm_block,
                                                          .doorbells = {},
                                                          .ram = {},
                                                          .name = "ACPI registers"});
    VIREO_CHECK(window.ok(), "a window that is only trapped is always accepted");
    pm_window_ = *window;
  }

  ConfigSpace& config = construction_config();
  // 1f.1 to 1f.7 belong to the same chip (SATA, SMBus): a guest looks for them one by one.
  config.Set8(kHeaderType, kHeaderTypeMultifunction);
  config.Set16(kCommand, kCommandIo | kCommandMemory | kCommandBusMaster);  // Always decoding.
  config.SetWritable(kCommand, kCommandParity | kCommandSerr, 2);
  config.Set32(kPmBase, kIoSpace);
  config.SetWritable(kPmBase, kPmBaseMask, 4);
  config.SetWritable(kAcpiControl, 0x87, 1);
  if (options.pm_base_at_power_on.has_value()) {
    const uint16_t base = *options.pm_base_at_power_on;
    VIREO_CHECK(base != 0 && base % kPmBlockBytes == 0, "PMBASE is a multiple of 128");
    config.Set32(kPmBase, base | kIoSpace);
    config.Set8(kAcpiControl, kAcpiEnable);
  }
  config.Set32(0x48, kIoSpace);  // GPIOBASE
  config.SetWritable(0x48, 0xff80, 4);
  config.SetWritable(0x4c, 0x10, 1);  // GPIO control
  for (int pirq = 0; pirq < 8; ++pirq) {
    config.Set8(PirqRegister(pirq), kPirqUnrouted);
    config.SetWritable(PirqRegister(pirq), 0x8f, 1);
  }
  config.Set8(0x64, 0x10);  // Serial IRQ control
  config.SetWritable(0x64, 0xc3, 1);
  config.SetWritable(0x80, 0x1377, 2);  // Decode ranges of COM, LPT, floppy
  config.SetWritable(0x82, 0x3f0f, 2);  // LPC interface enables
  for (uint16_t range = 0x84; range < 0x94; range += 4) {
    config.SetWritable(range, 0x00fcfffd, 4);  // Generic decode ranges
  }
  config.SetWritable(0xa0, 0x1f1f, 2);      // General PM configuration 1
  config.SetWritable(0xa4, 0x7f, 1);        // General PM configuration 3
  config.SetWritable(0xac, 0xffffffff, 4);  // Miscellaneous PM
  config.SetWritable(0xdc, 0x1f, 1);        // BIOS control
  config.SetWritable(kRcba, 0xffffc001, 4);
  FinishConstruction();
  Update();
}

LpcBridge::~LpcBridge() { DetachAll(); }

void LpcBridge::DetachAll() {
  {
    const MutexLock lock(update_mutex_);
    pm_placed_.reset();
  }
  if (pm_window_.has_value()) address_space_.Remove(*pm_window_);
  pm_window_.reset();
  Detach();
}

std::optional<uint16_t> LpcBridge::pm_base() const {
  const MutexLock lock(update_mutex_);
  return pm_placed_;
}

std::shared_ptr<Parking> LpcBridge::OnConfigWritten(uint16_t offset,
                                                    std::span<const uint8_t> data) {
  if (offset < kPirqE + 4 && kPmBase < offset + data.size()) Update();
  return nullptr;
}

void LpcBridge::Update() {
  const MutexLock lock(update_mutex_);
  std::optional<uint16_t> wanted;
  if ((Config8(kAcpiControl) & kAcpiEnable) != 0 && pm_window_.has_value()) {
    const uint16_t base = Config16(kPmBase) & kPmBaseMask;
    if (base != 0) wanted = base;
  }
  if (wanted != pm_placed_) {
    if (pm_placed_.has_value()) address_space_.Unplace(*pm_window_);
    pm_placed_.reset();
    pm_failed_.store(false);
    if (wanted.has_value()) {
      const absl::Status status = address_space_.Place(*pm_window_, *wanted);
      if (status.ok()) {
        pm_placed_ = wanted;
      } else {
        pm_failed_.store(true);
        if (log_limit_.Allow()) LogWarning("ACPI registers at %#x: %s", *wanted, status.ToString());
      }
    }
  }
  for (int pirq = 0; pirq < 8; ++pirq) {
    const uint8_t value = Config8(PirqRegister(pirq));
    std::optional<uint8_t> irq;
    if ((value & kPirqUnrouted) == 0) irq = value & 0x0f;
    if (irq == pirq_[pirq]) continue;
    pirq_[pirq] = irq;
    if (pirq_routed_ != nullptr) pirq_routed_(pirq, irq);
  }
}

void LpcBridge::RetryPlacement() {
  if (pm_failed_.load()) Update();
}

Task<void> LpcBridge::Reset() {
  ResetFunction();
  Update();
  co_return;
}

absl::Status LpcBridge::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(Function::Restore(state));
  Update();
  return absl::OkStatus();
}

}  // namespace vireo::pci
