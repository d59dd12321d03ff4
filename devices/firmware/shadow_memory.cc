#include "devices/firmware/shadow_memory.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace vireo {
namespace {

constexpr uint8_t kReadsRam = 1 << 0;
constexpr uint8_t kWritesRam = 1 << 1;
constexpr size_t kFirstPieceOfPam0 = 12;  // 0xf0000: four pieces with one field.

std::span<uint8_t> HostOf(const GuestMemory& memory, uint64_t base, uint64_t size) {
  for (const GuestMemory::Region& region : memory.regions()) {
    const uint64_t start = region.base.value();
    if (start <= base && base + size <= start + region.host.size()) {
      return region.host.subspan(base - start, size);
    }
  }
  return {};
}

}  // namespace

ShadowMemory::ShadowMemory(AddressSpace& address_space, GuestMemory& memory, std::span<uint8_t> rom)
    : address_space_(address_space),
      memory_(memory),
      ram_(HostOf(memory, kBase, kEnd - kBase)),
      rom_(rom.last(std::min<uint64_t>(rom.size(), kMaxRomBytes) / kPieceBytes * kPieceBytes)) {
  VIREO_CHECK(!ram_.empty(), "there is RAM under all of the firmware's place");
  Set({});
}

ShadowMemory::~ShadowMemory() {
  const MutexLock lock(mutex_);
  for (const Run& run : runs_) address_space_.Remove(run.window);
}

void ShadowMemory::RamBelow::Read(uint64_t, std::span<uint8_t> data) {
  std::ranges::fill(data, uint8_t{0xff});
}

std::shared_ptr<Parking> ShadowMemory::RamBelow::Write(uint64_t offset,
                                                       std::span<const uint8_t> data) {
  const absl::Status status = memory_.Write(GuestAddress(base_ + offset), data);
  VIREO_CHECK(status.ok(), "the bus cuts accesses at the window's end, and there is RAM below it");
  return nullptr;
}

ShadowMemory::Kind ShadowMemory::KindOf(size_t piece, const Registers& registers) const {
  uint8_t field;
  if (piece >= kFirstPieceOfPam0) {
    field = registers[0] >> 4;
  } else {
    field = registers[1 + piece / 2] >> (piece % 2 == 0 ? 0 : 4);
  }
  const bool reads = (field & kReadsRam) != 0;
  const bool writes = (field & kWritesRam) != 0;
  if (reads) return writes ? Kind::kRam : Kind::kReadOnlyRam;
  const bool rom = kBase + piece * kPieceBytes >= kEnd - rom_.size();
  if (rom) return writes ? Kind::kRomOverRam : Kind::kRom;
  return writes ? Kind::kWriteOnly : Kind::kNothing;
}

std::vector<ShadowMemory::Run> ShadowMemory::RunsOf(const Registers& registers) const {
  std::vector<Run> runs;
  for (size_t piece = 0; piece < kPieces; ++piece) {
    const Kind kind = KindOf(piece, registers);
    if (runs.empty() || runs.back().kind != kind) {
      Run run;
      run.kind = kind;
      run.base = kBase + piece * kPieceBytes;
      runs.push_back(std::move(run));
    }
    runs.back().size += kPieceBytes;
  }
  std::erase_if(runs, [](const Run& run) { return run.kind == Kind::kNothing; });
  return runs;
}

bool ShadowMemory::Place(Run& run) {
  Window window = {.kind = Window::Kind::kMmio,
                   .size = run.size,
                   .trapped = nullptr,
                   .doorbells = {},
                   .ram = {},
                   .name = absl::StrFormat("firmware's place at %#x", run.base)};
  if (run.kind == Kind::kWriteOnly || run.kind == Kind::kRomOverRam) {
    run.below = std::make_unique<RamBelow>(memory_, run.base);
    window.trapped = run.below.get();
  }
  RamWindow backing;
  if (run.kind == Kind::kRom || run.kind == Kind::kRomOverRam) {
    backing.host = rom_.subspan(run.base - (kEnd - rom_.size()), run.size);
    backing.read_only = true;
  } else if (run.kind != Kind::kWriteOnly) {
    backing.host = ram_.subspan(run.base - kBase, run.size);
    backing.read_only = run.kind == Kind::kReadOnlyRam;
  }
  if (!backing.host.empty()) window.ram.push_back(backing);
  const absl::StatusOr<uint32_t> id = address_space_.Add(std::move(window));
  VIREO_CHECK(id.ok(), "pieces fit their window");
  run.window = *id;
  const absl::Status placed = address_space_.Place(run.window, run.base);
  if (placed.ok()) return true;
  // Something that the guest moved here is in the way, or the host is out of memory.
  if (log_limit_.Allow()) LogWarning("firmware's place: %s", placed.message());
  address_space_.Remove(run.window);
  return false;
}

void ShadowMemory::Set(const Registers& registers) {
  std::vector<Run> wanted = RunsOf(registers);
  const MutexLock lock(mutex_);
  // What stays is not touched: a processor may be running from it. Out first, then in.
  std::vector<Run> kept;
  for (Run& run : runs_) {
    const auto same = [&run](const Run& other) {
      return other.kind == run.kind && other.base == run.base && other.size == run.size;
    };
    if (std::erase_if(wanted, same) != 0) {
      kept.push_back(std::move(run));
    } else {
      address_space_.Remove(run.window);
    }
  }
  runs_ = std::move(kept);
  for (Run& run : wanted) {
    if (Place(run)) runs_.push_back(std::move(run));
  }
}

}  // namespace vireo
