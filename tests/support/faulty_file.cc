#include "tests/support/faulty_file.h"

#include <algorithm>
#include <cerrno>

#include "base/align.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr uint64_t kSector = 512;

// Kinds of operations, for the trace.
constexpr uint64_t kRead = 1;
constexpr uint64_t kWrite = 2;
constexpr uint64_t kSync = 3;
constexpr uint64_t kTruncate = 4;

}  // namespace

int FaultyHost::NextOperation(const Performed& performed) {
  for (const uint64_t part :
       {performed.kind, performed.inode, performed.offset, performed.length}) {
    trace_ = (trace_ ^ part) * 0x100000001b3;  // As FNV-1a mixes, by words.
    trace_ ^= trace_ >> 29;
  }
  const uint64_t operation = operations_++;
  if (operation < fail_from_ || operation >= fail_until_) return 0;
  failed_ = true;
  return error_;
}

void FaultyMedium::Apply(const Change& change, std::vector<uint8_t>& bytes) {
  if (change.new_size.has_value()) {
    bytes.resize(*change.new_size);
    return;
  }
  const uint64_t end = change.offset + change.bytes.size();
  if (end > bytes.size()) bytes.resize(end);
  std::copy(change.bytes.begin(), change.bytes.end(), bytes.begin() + change.offset);
}

std::vector<FaultyMedium::Change> FaultyMedium::Tear(const Change& change, std::mt19937& random) {
  std::vector<Change> sectors;
  const uint64_t end = change.offset + change.bytes.size();
  for (uint64_t at = change.offset; at < end;) {
    const uint64_t stop = std::min(end, AlignDown<uint64_t>(at, kSector) + kSector);
    if (random() % 2 == 0) {
      sectors.push_back({.began = change.began,
                         .ended = change.ended,
                         .offset = at,
                         .bytes = {change.bytes.begin() + (at - change.offset),
                                   change.bytes.begin() + (stop - change.offset)}});
    }
    at = stop;
  }
  return sectors;
}

std::vector<FaultyMedium::Change> FaultyMedium::PartOf(const Change& change) const {
  std::mt19937& random = host_.random_;
  const bool cut_short = host_.written_ == FaultyHost::Written::kShort;
  if (!cut_short && random() % 2 == 0) return Tear(change, random);
  // Cut short, at the end of a sector.
  Change first = change;
  const uint64_t count = cut_short ? change.bytes.size() / 2 : random() % (change.bytes.size() + 1);
  const uint64_t stop = AlignDown<uint64_t>(change.offset + count, kSector);
  if (stop <= change.offset) return {};
  first.bytes.resize(stop - change.offset);
  return {std::move(first)};
}

std::vector<uint8_t> FaultyMedium::AfterPowerCut(uint64_t moment, Loss loss,
                                                 std::mt19937& random) const {
  uint64_t durable = 0;  // What had ended by then is flushed.
  for (const Flush& flush : flushes_) {
    if (flush.ended <= moment) durable = std::max(durable, flush.began);
  }
  std::vector<const Change*> changes;
  for (const Change& change : changes_) {
    if (change.began <= moment) changes.push_back(&change);
  }
  std::stable_sort(changes.begin(), changes.end(),
                   [](const Change* a, const Change* b) { return a->ended < b->ended; });
  std::vector<uint8_t> bytes = initial_;
  for (const Change* change : changes) {
    if (change->ended <= durable || loss == Loss::kNone) {
      Apply(*change, bytes);
      continue;
    }
    if (loss == Loss::kAll) continue;
    if (loss == Loss::kTorn && !change->new_size.has_value()) {
      for (const Change& sector : Tear(*change, random)) Apply(sector, bytes);
    } else if (random() % 2 == 0) {
      Apply(*change, bytes);
    }
  }
  return bytes;
}

Task<void> FaultyFile::Delay() {
  // Some take so long that what they began with is given up and used again meanwhile.
  std::mt19937& random = medium_.host_.random_;
  const uint32_t longest = random() % 16 == 0 ? 150 : 3;
  for (uint32_t turns = random() % longest; turns > 0; --turns) co_await loop_.Yield();
}

Task<absl::Status> FaultyFile::Perform(FaultyMedium::Change change) {
  const int error =
      medium_.host_.NextOperation({.kind = change.new_size.has_value() ? kTruncate : kWrite,
                                   .inode = inode_,
                                   .offset = change.new_size.value_or(change.offset),
                                   .length = change.bytes.size()});
  change.began = medium_.Tick();
  if (error != 0) {
    // What a failed write has done stays done.
    co_await Delay();
    change.ended = medium_.Tick();
    if (!change.new_size.has_value()) {
      for (FaultyMedium::Change& part : medium_.PartOf(change)) {
        FaultyMedium::Apply(part, medium_.bytes_);
        medium_.changes_.push_back(std::move(part));
      }
    }
    co_return ErrnoStatus(error, name_);
  }
  const size_t index = medium_.changes_.size();
  medium_.changes_.push_back(change);
  co_await Delay();
  FaultyMedium::Apply(change, medium_.bytes_);
  medium_.changes_[index].ended = medium_.Tick();
  co_return absl::OkStatus();
}

Task<absl::Status> FaultyFile::Read(uint64_t offset, IoVecs dst) {
  const uint64_t length = TotalSize(dst);
  const int error = medium_.host_.NextOperation(
      {.kind = kRead, .inode = inode_, .offset = offset, .length = length});
  co_await Delay();
  if (error != 0) co_return ErrnoStatus(error, name_);
  const uint64_t size = medium_.bytes_.size();
  const uint64_t stored = offset < size ? std::min(length, size - offset) : 0;
  CopyToIoVecs(std::span(medium_.bytes_).subspan(std::min(offset, size), stored), dst);
  const IoVecList rest = Slice(dst, stored, length - stored);
  FillIoVecs(rest, 0);
  co_return absl::OkStatus();
}

Task<absl::Status> FaultyFile::Write(uint64_t offset, IoVecs src) {
  FaultyMedium::Change change = {.began = 0, .offset = offset};
  change.bytes.resize(TotalSize(src));
  CopyFromIoVecs(src, change.bytes);
  const absl::Status status = co_await Perform(std::move(change));
  co_return status;
}

Task<absl::Status> FaultyFile::Sync() {
  const int error =
      medium_.host_.NextOperation({.kind = kSync, .inode = inode_, .offset = 0, .length = 0});
  const uint64_t began = medium_.Tick();
  co_await Delay();
  if (error != 0) {
    medium_.host_.flush_failed_ = true;
    co_return ErrnoStatus(error, name_);
  }
  medium_.flushes_.push_back({.began = began, .ended = medium_.Tick()});
  co_return absl::OkStatus();
}

Task<absl::Status> FaultyFile::Extend(uint64_t size) {
  if (size <= medium_.bytes_.size()) co_return absl::OkStatus();
  const absl::Status status = co_await Truncate(size);
  co_return status;
}

Task<absl::Status> FaultyFile::Truncate(uint64_t size) {
  FaultyMedium::Change change = {.began = 0, .new_size = size};
  const absl::Status status = co_await Perform(std::move(change));
  co_return status;
}

Task<absl::Status> FaultyFile::WriteZeroes(uint64_t offset, uint64_t length, bool) {
  const uint64_t size = medium_.bytes_.size();
  FaultyMedium::Change change = {.began = 0, .offset = offset};
  change.bytes.resize(offset < size ? std::min(length, size - offset) : 0);
  const absl::Status status = co_await Perform(std::move(change));
  co_return status;
}

Task<absl::Status> FaultyFile::Discard(uint64_t offset, uint64_t length) {
  const absl::Status status = co_await WriteZeroes(offset, length, true);
  co_return status;
}

Task<absl::StatusOr<FileExtent>> FaultyFile::Extent(uint64_t offset) {
  co_return FileExtent{.data = true, .length = medium_.bytes_.size() - offset};
}

}  // namespace vireo
