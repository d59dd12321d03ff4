// The requests of a session.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/align.h"
#include "tests/model/workout.h"

namespace vireo {

struct Workout::Step {
  enum class Kind { kWrite, kRead, kZero, kZeroAndUnmap, kDiscard, kFlush, kStatus, kResize };

  Kind kind = Kind::kRead;
  uint64_t sector = 0;
  uint64_t count = 0;
  bool fua = false;
  bool compressed = false;
  Noise noise = Noise::kNo;
};

Task<void> Workout::Work(uint32_t steps) {
  for (uint32_t i = 0; i < steps && !stopping_ && problem_.empty(); ++i) {
    const Step step = PickStep();
    ++steps_;
    switch (step.kind) {
      case Step::Kind::kWrite:
        co_await Write(step);
        break;
      case Step::Kind::kRead:
        co_await Read(step);
        break;
      case Step::Kind::kZero:
      case Step::Kind::kZeroAndUnmap:
      case Step::Kind::kDiscard:
        co_await Change(step);
        break;
      case Step::Kind::kFlush:
        co_await Flush();
        break;
      case Step::Kind::kStatus:
        co_await Status(step);
        break;
      case Step::Kind::kResize:
        co_await Resize();
        break;
    }
  }
}

Workout::Step Workout::PickStep() {
  Step step;
  const uint64_t chance = chance_.Below(100);
  if (chance < 45) {
    step.kind = Step::Kind::kWrite;
    step.fua = chance_.OneIn(12);
    step.noise = chance_.OneIn(3) ? Noise::kYes : Noise::kNo;
  } else if (chance < 64) {
    step.kind = Step::Kind::kRead;
  } else if (chance < 70) {
    step.kind = Step::Kind::kFlush;
  } else if (chance < 77) {
    step.kind = Step::Kind::kZero;
  } else if (chance < 84) {
    step.kind = Step::Kind::kZeroAndUnmap;
  } else if (chance < 93) {
    step.kind = Step::Kind::kDiscard;
  } else {
    step.kind = chance >= 98 && MayGrow() ? Step::Kind::kResize : Step::Kind::kStatus;
  }
  PickRange(step);
  if (step.kind == Step::Kind::kWrite && shape_.compressed && chance_.OneIn(3)) PickClusters(step);
  return step;
}

bool Workout::MayGrow() const {
  // A bitmap that is lost cannot be given another size.
  const bool lost = std::any_of(bitmaps_.begin(), bitmaps_.end(),
                                [](const BitmapState& bitmap) { return bitmap.in_use; });
  const bool fixed = shape_.snapshots && shape_.options.version < 3;
  return !resizing_ && !lost && !fixed && sectors_ < max_sectors_;
}

void Workout::PickClusters(Step& step) {
  const uint64_t unit = disk_->geometry().optimal_io_bytes / kSectorBytes;
  const uint64_t first = AlignDown<uint64_t>(step.sector, unit);
  uint64_t end = std::min(sectors_, first + unit * (1 + chance_.Below(4)));
  // What is the disk's last cluster now may not be when the request comes.
  if (resizing_) end = AlignDown<uint64_t>(end, unit);
  if (end <= first) return;
  step.compressed = true;
  step.fua = false;
  step.sector = first;
  step.count = end - first;
}

void Workout::PickRange(Step& step) {
  const uint64_t cluster = (uint64_t{1} << shape_.options.cluster_bits) / kSectorBytes;
  // Half of all requests meet in the same few clusters.
  const uint64_t area = chance_.OneIn(2) ? std::min(sectors_, 4 * cluster) : sectors_;
  step.sector = chance_.Below(area);
  switch (chance_.Below(8)) {
    case 0:  // Whole clusters.
    case 1:
      step.sector = AlignDown<uint64_t>(step.sector, cluster);
      step.count = cluster * (1 + chance_.Below(3));
      break;
    case 2:  // Across the end of one.
      step.sector = AlignDown<uint64_t>(step.sector, cluster) + cluster - 1;
      step.count = 2 + chance_.Below(cluster);
      break;
    case 3:  // Up to the end of the disk.
      step.count = 1 + chance_.Below(std::min<uint64_t>(sectors_, 2 * cluster));
      step.sector = sectors_ - step.count;
      break;
    case 4:  // Long.
      step.count = 1 + chance_.Below(chance_.OneIn(4) ? sectors_ / 2 : 64);
      break;
    default:
      step.count = 1 + chance_.Below(8);
  }
  step.sector = std::min(step.sector, sectors_ - 1);
  step.count = std::min(step.count, sectors_ - step.sector);
}

std::vector<iovec> Workout::Split(std::span<uint8_t> bytes) {
  std::vector<iovec> parts;
  while (!bytes.empty()) {
    const uint64_t length =
        parts.size() < 4 && chance_.OneIn(3) ? 1 + chance_.Below(bytes.size()) : bytes.size();
    parts.push_back(ToIoVec(bytes.first(length)));
    bytes = bytes.subspan(length);
  }
  return parts;
}

Task<void> Workout::Write(Step step) {
  const uint64_t request = ++last_request_;
  std::vector<uint8_t> bytes(step.count * kSectorBytes);
  std::vector<size_t> changes;
  const uint64_t began = host_->Tick();
  for (uint64_t i = 0; i < step.count; ++i) {
    const uint64_t tag = MakeTag(request, step.sector + i, step.noise);
    FillSector(tag, std::span(bytes).subspan(i * kSectorBytes, kSectorBytes));
    changes.push_back(history_->Begin(step.sector + i, tag, began));
  }
  const std::vector<iovec> parts = Split(bytes);
  const WriteFlags flags = {.fua = step.fua};
  absl::Status status;
  if (step.compressed) {
    status = co_await disk_->WriteCompressed(step.sector * kSectorBytes, parts);
  } else {
    status = co_await disk_->Write(step.sector * kSectorBytes, parts, flags);
  }
  if (!status.ok()) {
    Excuse("a write", status);
    co_return;
  }
  const uint64_t ended = host_->Tick();
  for (uint64_t i = 0; i < step.count; ++i) {
    history_->End(step.sector + i, changes[i], ended, step.fua);
  }
}

Task<void> Workout::Change(Step step) {
  const bool discard = step.kind == Step::Kind::kDiscard;
  std::vector<size_t> changes;
  const uint64_t began = host_->Tick();
  for (uint64_t i = 0; i < step.count; ++i) {
    changes.push_back(
        history_->Begin(step.sector + i, 0, began,
                        discard ? SectorHistory::Effect::kOptional : SectorHistory::Effect::kSure));
  }
  const uint64_t offset = step.sector * kSectorBytes;
  const uint64_t length = step.count * kSectorBytes;
  absl::Status status;
  if (discard) {
    status = co_await disk_->Discard(offset, length);
  } else {
    const ZeroFlags flags = {.may_unmap = step.kind == Step::Kind::kZeroAndUnmap};
    status = co_await disk_->WriteZeroes(offset, length, flags);
  }
  if (!status.ok()) {
    Excuse(discard ? "a discard" : "zeroing", status);
    co_return;
  }
  const uint64_t ended = host_->Tick();
  for (uint64_t i = 0; i < step.count; ++i) history_->End(step.sector + i, changes[i], ended);
}

Task<void> Workout::Read(Step step) {
  std::vector<uint8_t> bytes(step.count * kSectorBytes, 0xee);
  const std::vector<iovec> parts = Split(bytes);
  const uint64_t began = host_->Tick();
  const absl::Status status = co_await disk_->Read(step.sector * kSectorBytes, parts);
  const uint64_t ended = host_->Tick();
  if (!status.ok()) {
    Excuse("a read", status);
    co_return;
  }
  for (uint64_t i = 0; i < step.count; ++i) {
    const uint64_t sector = step.sector + i;
    const std::optional<uint64_t> tag =
        TagOf(std::span(bytes).subspan(i * kSectorBytes, kSectorBytes));
    if (!tag.has_value()) {
      Problem(absl::StrFormat("a read of sector %d finds a mix", sector));
    } else if (!history_->AllowsRead(sector, *tag, began, ended)) {
      Problem(absl::StrFormat("a read [%d,%d] of sector %d finds %x, not one of%s", began, ended,
                              sector, *tag, history_->Describe(sector)));
    }
  }
}

Task<void> Workout::Flush() {
  const uint64_t began = host_->Tick();
  const absl::Status status = co_await disk_->Flush();
  if (status.ok()) {
    history_->Flushed(began, host_->Tick());
  } else {
    Excuse("a flush", status);
  }
}

Task<void> Workout::Status(Step step) {
  const uint64_t began = host_->Tick();
  const absl::StatusOr<RangeStatus> answer =
      co_await disk_->Status(step.sector * kSectorBytes, step.count * kSectorBytes);
  const uint64_t ended = host_->Tick();
  if (!answer.ok()) {
    Excuse("a status", answer.status());
    co_return;
  }
  if (answer->length == 0 || answer->length > step.count * kSectorBytes) {
    Problem(absl::StrFormat("the status of %d sectors at %d covers %d bytes", step.count,
                            step.sector, answer->length));
    co_return;
  }
  if (answer->kind == RangeKind::kData) co_return;
  for (uint64_t i = 0; i < answer->length / kSectorBytes; ++i) {
    if (history_->AllowsRead(step.sector + i, 0, began, ended)) continue;
    Problem(absl::StrFormat("the status [%d,%d] of sector %d is zeros, not one of%s", began, ended,
                            step.sector + i, history_->Describe(step.sector + i)));
  }
}

Task<void> Workout::Resize() {
  resizing_ = true;
  const uint64_t sectors = std::min(
      max_sectors_,
      sectors_ + 1 + chance_.Below(chance_.OneIn(2) ? 8 : std::max<uint64_t>(sectors_ / 3, 2)));
  history_->Grow(sectors);
  sizes_.push_back({.sectors = sectors, .began = host_->Tick(), .ended = kNever});
  const size_t index = sizes_.size() - 1;
  const absl::Status status = co_await disk_->Resize(sectors * kSectorBytes);
  resizing_ = false;
  if (!status.ok()) {
    Excuse("resizing", status);
    co_return;
  }
  sizes_[index].ended = host_->Tick();
  sectors_ = sectors;
  if (disk_->geometry().size_bytes != sectors * kSectorBytes) Problem("resizing: another size");
}

}  // namespace vireo
