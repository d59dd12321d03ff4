#include "devices/pci/msix.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/log.h"

namespace vireo::pci {
namespace {

constexpr uint8_t kDisabled = 1 << 0;
constexpr uint8_t kFunctionMasked = 1 << 1;
constexpr uint8_t kVectorMasked = 1 << 2;
constexpr uint8_t kPending = 1 << 3;
constexpr uint8_t kBlocked = kDisabled | kFunctionMasked | kVectorMasked;

constexpr uint16_t kMaxVectors = 2048;  // PCI 3.0 §6.8.2.3: Table Size has 11 bits.

uint8_t ByteOf(uint64_t value, uint64_t index) {
  return static_cast<uint8_t>(value >> (8 * index));
}

template <typename T>
void SetByteOf(T& value, uint64_t index, uint8_t byte) {
  const int shift = static_cast<int>(8 * index);
  value = static_cast<T>((value & ~(T{0xff} << shift)) | (T{byte} << shift));
}

}  // namespace

Msix::Msix(MsiSink& sink) : sink_(sink), words_(sink.vectors()), entries_(sink.vectors()) {
  VIREO_CHECK(sink.vectors() >= 1 && sink.vectors() <= kMaxVectors);
  for (std::atomic<uint8_t>& word : words_) word = kDisabled | kVectorMasked;
}

Msix::~Msix() {
  const MutexLock lock(mutex_);
  for (uint16_t vector = 0; vector < vectors(); ++vector) {
    if (entries_[vector].programmed.has_value()) sink_.Clear(vector);
  }
}

// A table entry: message address (8 bytes), message data (4), vector control (4, bit 0 masks).
uint8_t Msix::TableByte(uint64_t offset) const {
  const Entry& entry = entries_[offset / kEntryBytes];
  const uint64_t at = offset % kEntryBytes;
  if (at < 8) return ByteOf(entry.message.address, at);
  if (at < 12) return ByteOf(entry.message.data, at - 8);
  return at == 12 && entry.masked ? 1 : 0;
}

void Msix::SetTableByte(uint64_t offset, uint8_t value) {
  Entry& entry = entries_[offset / kEntryBytes];
  const uint64_t at = offset % kEntryBytes;
  if (at < 8) {
    // Bits 1:0 of the address are zero (PCI 3.0 §6.8.2.9).
    SetByteOf(entry.message.address, at, at == 0 ? value & 0xfc : value);
  } else if (at < 12) {
    SetByteOf(entry.message.data, at - 8, value);
  } else if (at == 12) {
    entry.masked = (value & 1) != 0;
  }
}

void Msix::ReadTable(uint64_t offset, std::span<uint8_t> data) const {
  const MutexLock lock(mutex_);
  for (size_t i = 0; i < data.size(); ++i) {
    const uint64_t at = offset + i;
    data[i] = at < table_bytes() ? TableByte(at) : 0;
  }
}

void Msix::WriteTable(uint64_t offset, std::span<const uint8_t> data) {
  const MutexLock lock(mutex_);
  std::optional<uint16_t> touched;
  for (size_t i = 0; i < data.size(); ++i) {
    const uint64_t at = offset + i;
    if (at >= table_bytes()) break;
    const uint16_t vector = static_cast<uint16_t>(at / kEntryBytes);
    // The whole access first: an entry in between is nobody's message.
    if (touched.has_value() && *touched != vector) Update(*touched);
    touched = vector;
    SetTableByte(at, data[i]);
  }
  if (touched.has_value()) Update(*touched);
}

void Msix::ReadPba(uint64_t offset, std::span<uint8_t> data) const {
  for (size_t i = 0; i < data.size(); ++i) {
    const uint64_t at = offset + i;
    data[i] = 0;
    for (uint64_t bit = 0; bit < 8; ++bit) {
      const uint64_t vector = at * 8 + bit;
      if (at < pba_bytes() && vector < vectors() && (words_[vector].load() & kPending) != 0) {
        data[i] |= static_cast<uint8_t>(1 << bit);
      }
    }
  }
}

void Msix::SetControl(uint16_t control) {
  const MutexLock lock(mutex_);
  const bool enabled = (control & kControlEnable) != 0;
  const bool function_masked = (control & kControlFunctionMask) != 0;
  if (enabled == enabled_.load() && function_masked == function_masked_) return;
  function_masked_ = function_masked;
  enabled_.store(enabled, std::memory_order_release);
  UpdateAll();
}

void Msix::UpdateAll() {
  for (uint16_t vector = 0; vector < vectors(); ++vector) Update(vector);
}

void Msix::Update(uint16_t vector) {
  Entry& entry = entries_[vector];
  std::atomic<uint8_t>& word = words_[vector];
  uint8_t blocked = 0;
  if (!enabled_.load()) blocked |= kDisabled;
  if (function_masked_) blocked |= kFunctionMasked;
  if (entry.masked) blocked |= kVectorMasked;

  if (blocked != 0) {
    uint8_t old = word.load();
    uint8_t next;
    do {
      // Switching MSI-X off forgets what was pending: the driver that switches it on again starts
      // anew.
      next = blocked | ((blocked & kDisabled) != 0 ? 0 : old & kPending);
    } while (!word.compare_exchange_weak(old, next));
    if ((blocked & kDisabled) != 0 && entry.programmed.has_value()) {
      sink_.Clear(vector);
      entry.programmed.reset();
    }
    // A masked vector keeps its route: a guest that moves an interrupt masks, writes and unmasks.
    return;
  }

  if (entry.programmed != entry.message) {
    const absl::Status status = sink_.Program(vector, entry.message);
    if (status.ok()) {
      entry.programmed = entry.message;
    } else {
      entry.programmed.reset();
      if (log_limit_.Allow()) LogWarning("MSI-X vector %d: %s", vector, status.ToString());
    }
  }
  // The route is there before the first signal can pass.
  if ((word.exchange(0) & kPending) != 0) sink_.Signal(vector);
}

void Msix::Signal(uint16_t vector) {
  if (vector >= vectors()) return;
  std::atomic<uint8_t>& word = words_[vector];
  uint8_t old = word.load(std::memory_order_acquire);
  while ((old & kBlocked) != 0) {
    if ((old & kDisabled) != 0 || (old & kPending) != 0) return;
    if (word.compare_exchange_weak(old, old | kPending)) return;
  }
  sink_.Signal(vector);
}

void Msix::Reset() {
  const MutexLock lock(mutex_);
  enabled_.store(false);
  function_masked_ = false;
  for (Entry& entry : entries_) {
    entry.message = {};
    entry.masked = true;
  }
  UpdateAll();
}

void Msix::Save(StateWriter& writer) const {
  const MutexLock lock(mutex_);
  writer.U16(vectors());
  writer.Bool(enabled_.load());
  writer.Bool(function_masked_);
  for (uint16_t vector = 0; vector < vectors(); ++vector) {
    const Entry& entry = entries_[vector];
    writer.U64(entry.message.address);
    writer.U32(entry.message.data);
    writer.Bool(entry.masked);
    writer.Bool((words_[vector].load() & kPending) != 0);
  }
}

absl::Status Msix::Restore(StateReader& reader) {
  const MutexLock lock(mutex_);
  if (const uint16_t saved = reader.U16(); reader.status().ok() && saved != vectors()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("state has %d MSI-X vectors, not %d", saved, vectors()));
  }
  enabled_.store(reader.Bool());
  function_masked_ = reader.Bool();
  for (uint16_t vector = 0; vector < vectors(); ++vector) {
    Entry& entry = entries_[vector];
    entry.message.address = reader.U64() & ~uint64_t{3};
    entry.message.data = reader.U32();
    entry.masked = reader.Bool();
    // Blocked until Update() says otherwise, which then also delivers what is pending.
    words_[vector] = kVectorMasked | (reader.Bool() ? kPending : 0);
  }
  if (!reader.status().ok()) return reader.status();
  UpdateAll();
  return absl::OkStatus();
}

}  // namespace vireo::pci
