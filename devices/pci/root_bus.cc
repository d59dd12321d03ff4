#include "devices/pci/root_bus.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status.h"

namespace vireo::pci {
namespace {

constexpr std::string_view kStateType = "pci-root-bus";
constexpr uint32_t kStateVersion = 1;

// Port 0xcf8: enable, bus, slot, function, register (PCI 3.0 §3.2.2.3.2).
constexpr uint32_t kAddressEnable = uint32_t{1} << 31;
constexpr uint32_t kAddressMask = 0x80fffffc;

void FillOnes(std::span<uint8_t> data) { std::ranges::fill(data, uint8_t{0xff}); }

}  // namespace

std::string ToString(const Address& address) {
  return absl::StrFormat("00:%02x.%x", address.slot, address.function);
}

RootBus::RootBus(AddressSpace& address_space, Options options)
    : reset_control_(options.reset_control),
      host_bridge_(address_space, ecam_, std::move(options.host_bridge)),
      lpc_bridge_(address_space, std::move(options.lpc_bridge)) {
  functions_[Index(kHostBridge)] = &host_bridge_;
  functions_[Index(kLpcBridge)] = &lpc_bridge_;
}

RootBus::~RootBus() = default;

absl::Status RootBus::Insert(Address address, Function& function) {
  if (address.slot >= kSlots || address.function >= kFunctions) {
    return absl::InvalidArgumentError(
        absl::StrFormat("no PCI slot %d function %d", address.slot, address.function));
  }
  const std::unique_lock lock(mutex_);
  Function*& place = functions_[Index(address)];
  if (place != nullptr) {
    return absl::AlreadyExistsError(
        absl::StrFormat("%s is taken by %s", ToString(address), place->name()));
  }
  place = &function;
  return absl::OkStatus();
}

absl::Status RootBus::Remove(Address address) {
  if (address.slot >= kSlots || address.function >= kFunctions) {
    return absl::InvalidArgumentError(
        absl::StrFormat("no PCI slot %d function %d", address.slot, address.function));
  }
  if (address == kHostBridge || address == kLpcBridge) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is part of the machine", ToString(address)));
  }
  Function* function = nullptr;
  {
    const std::unique_lock lock(mutex_);
    function = std::exchange(functions_[Index(address)], nullptr);
  }
  if (function == nullptr) {
    return absl::NotFoundError(absl::StrFormat("nothing is at %s", ToString(address)));
  }
  function->Detach();
  RetryPlacement();
  return absl::OkStatus();
}

Function* RootBus::Find(Address address) const {
  if (address.slot >= kSlots || address.function >= kFunctions) return nullptr;
  const std::shared_lock lock(mutex_);
  return functions_[Index(address)];
}

void RootBus::ReadConfig(Address address, uint16_t offset, std::span<uint8_t> data) {
  FillOnes(data);
  if (address.slot >= kSlots || address.function >= kFunctions) return;
  const std::shared_lock lock(mutex_);
  Function* const function = functions_[Index(address)];
  if (function == nullptr) return;
  function->ReadConfig(offset, data);
  // PCI 3.0 §6.2.1: function 0 says whether to look for others.
  if (address.function != 0 || offset > kHeaderType || kHeaderType >= offset + data.size()) return;
  for (uint8_t other = 1; other < kFunctions; ++other) {
    if (functions_[Index({.slot = address.slot, .function = other})] != nullptr) {
      data[kHeaderType - offset] |= kHeaderTypeMultifunction;
    }
  }
}

std::shared_ptr<Parking> RootBus::WriteConfig(Address address, uint16_t offset,
                                              std::span<const uint8_t> data) {
  if (address.slot >= kSlots || address.function >= kFunctions) return nullptr;
  std::shared_ptr<Parking> parking;
  {
    const std::shared_lock lock(mutex_);
    Function* const function = functions_[Index(address)];
    if (function == nullptr) return nullptr;
    parking = function->WriteConfig(offset, data);
  }
  RetryPlacement();
  return parking;
}

void RootBus::RetryPlacement() {
  const std::shared_lock lock(mutex_);
  for (Function* const function : functions_) {
    if (function != nullptr) function->RetryPlacement();
  }
}

// 0xcf8 is a register of 32 bits and takes whole accesses only; bytes there belong to others
// (0xcf9 resets). 0xcfc to 0xcff are the four bytes of the chosen register, in any size.
void RootBus::ConfigPorts::Read(uint64_t offset, std::span<uint8_t> data) {
  if (offset == 1 && data.size() == 1 && bus_.reset_control_ != nullptr) {
    bus_.reset_control_->Read(0, data);
    return;
  }
  FillOnes(data);
  const uint32_t address = bus_.config_address_.load();
  if (offset == 0 && data.size() == 4) {
    for (int i = 0; i < 4; ++i) data[i] = static_cast<uint8_t>(address >> (8 * i));
    return;
  }
  if (offset < 4 || (address & kAddressEnable) == 0 || ((address >> 16) & 0xff) != 0) return;
  const Address function = {.slot = static_cast<uint8_t>((address >> 11) & 0x1f),
                            .function = static_cast<uint8_t>((address >> 8) & 0x7)};
  const uint64_t within = offset - 4;
  bus_.ReadConfig(function, static_cast<uint16_t>((address & 0xfc) + within),
                  data.first(std::min<uint64_t>(data.size(), 4 - within)));
}

std::shared_ptr<Parking> RootBus::ConfigPorts::Write(uint64_t offset,
                                                     std::span<const uint8_t> data) {
  if (offset == 1 && data.size() == 1 && bus_.reset_control_ != nullptr) {
    return bus_.reset_control_->Write(0, data);
  }
  if (offset == 0 && data.size() == 4) {
    uint32_t address = 0;
    for (int i = 0; i < 4; ++i) address |= uint32_t{data[i]} << (8 * i);
    bus_.config_address_.store(address & kAddressMask);
    return nullptr;
  }
  const uint32_t address = bus_.config_address_.load();
  if (offset < 4 || offset >= 8 || (address & kAddressEnable) == 0 ||
      ((address >> 16) & 0xff) != 0) {
    return nullptr;
  }
  const Address function = {.slot = static_cast<uint8_t>((address >> 11) & 0x1f),
                            .function = static_cast<uint8_t>((address >> 8) & 0x7)};
  const uint64_t within = offset - 4;
  return bus_.WriteConfig(function, static_cast<uint16_t>((address & 0xfc) + within),
                          data.first(std::min<uint64_t>(data.size(), 4 - within)));
}

// PCIe 4.0 §7.2.2: bus in bits 27:20, slot in 19:15, function in 14:12, register in 11:0.
void RootBus::Ecam::Read(uint64_t offset, std::span<uint8_t> data) {
  FillOnes(data);
  if (offset >> 20 != 0) return;
  const uint64_t within = offset & 0xfff;
  bus_.ReadConfig({.slot = static_cast<uint8_t>(offset >> 15 & 0x1f),
                   .function = static_cast<uint8_t>(offset >> 12 & 0x7)},
                  static_cast<uint16_t>(within),
                  data.first(std::min<uint64_t>(data.size(), 4096 - within)));
}

std::shared_ptr<Parking> RootBus::Ecam::Write(uint64_t offset, std::span<const uint8_t> data) {
  if (offset >> 20 != 0) return nullptr;
  const uint64_t within = offset & 0xfff;
  return bus_.WriteConfig({.slot = static_cast<uint8_t>(offset >> 15 & 0x1f),
                           .function = static_cast<uint8_t>(offset >> 12 & 0x7)},
                          static_cast<uint16_t>(within),
                          data.first(std::min<uint64_t>(data.size(), 4096 - within)));
}

// Bridges have no requests to drain.
Task<void> RootBus::Quiesce() { co_return; }
void RootBus::Resume() {}

Task<void> RootBus::Reset() {
  config_address_.store(0);
  co_await lpc_bridge_.Reset();
  co_await host_bridge_.Reset();
  RetryPlacement();
}

EncodedState RootBus::Save() const {
  StateWriter writer;
  writer.U32(config_address_.load());
  writer.State(host_bridge_.Save());
  writer.State(lpc_bridge_.Save());
  return {.type = std::string(kStateType), .version = kStateVersion, .bytes = writer.Finish()};
}

absl::Status RootBus::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  StateReader reader(state.bytes);
  const uint32_t config_address = reader.U32();
  const EncodedState host_bridge = reader.State();
  const EncodedState lpc_bridge = reader.State();
  RETURN_IF_ERROR(reader.Finish());
  RETURN_IF_ERROR(host_bridge_.Restore(host_bridge));
  RETURN_IF_ERROR(lpc_bridge_.Restore(lpc_bridge));
  config_address_.store(config_address & kAddressMask);
  RetryPlacement();
  return absl::OkStatus();
}

}  // namespace vireo::pci
