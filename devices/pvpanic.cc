#include "devices/pvpanic.h"

#include <algorithm>

#include "base/state.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr std::string_view kStateType = "pvpanic";
constexpr uint32_t kStateVersion = 1;
constexpr uint8_t kPanicked = 1 << 0;
constexpr uint8_t kCrashLoaded = 1 << 1;

}  // namespace

void PvPanic::Read(uint64_t, std::span<uint8_t> data) {
  std::ranges::fill(data, uint8_t{kPanicked | kCrashLoaded});
}

std::shared_ptr<Parking> PvPanic::Write(uint64_t, std::span<const uint8_t> data) {
  if (data.empty() || reported_ == nullptr) return nullptr;
  // A kernel that will run its crash kernel sets that bit alone.
  if ((data[0] & kPanicked) != 0) {
    reported_(Event::kPanicked);
  } else if ((data[0] & kCrashLoaded) != 0) {
    reported_(Event::kCrashLoaded);
  }
  return nullptr;
}

Task<void> PvPanic::Quiesce() { co_return; }
Task<void> PvPanic::Reset() { co_return; }

EncodedState PvPanic::Save() const {
  return {.type = std::string(kStateType), .version = kStateVersion, .bytes = {}};
}

absl::Status PvPanic::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  return StateReader(state.bytes).Finish();
}

}  // namespace vireo
