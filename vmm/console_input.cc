#include "vmm/console_input.h"

#include <algorithm>
#include <array>

namespace vireo {

size_t ConsoleInput::Write(std::string_view bytes) {
  MutexLock lock(mutex_);
  const size_t taken = std::min(bytes.size(), kCapacity - queue_.size());
  queue_.insert(queue_.end(), bytes.begin(), bytes.begin() + taken);
  refused_ = refused_ || taken < bytes.size();
  PumpLocked();
  return taken;
}

void ConsoleInput::Pump() {
  MutexLock lock(mutex_);
  PumpLocked();
}

void ConsoleInput::Clear() {
  MutexLock lock(mutex_);
  queue_.clear();
  TellOfRoom();
}

void ConsoleInput::PumpLocked() {
  while (!queue_.empty()) {
    std::array<uint8_t, 64> chunk;
    const size_t size = std::min(chunk.size(), queue_.size());
    std::copy_n(queue_.begin(), size, chunk.begin());
    const size_t taken = port_(std::span<const uint8_t>(chunk.data(), size));
    queue_.erase(queue_.begin(), queue_.begin() + taken);
    if (taken < size) break;
  }
  TellOfRoom();
}

void ConsoleInput::TellOfRoom() {
  if (!refused_ || queue_.size() > kCapacity / 2) return;
  refused_ = false;
  room_();
}

}  // namespace vireo
