// What a session, or a power cut in it, has left.

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "storage/qcow2/header_reader.h"
#include "tests/model/workout.h"

namespace vireo {

using qcow2::CheckImage;
using qcow2::CheckReport;
using qcow2::CheckResult;

std::vector<uint64_t> Workout::ReadTags(BlockBackend& disk) {
  absl::StatusOr<std::vector<uint64_t>> tags = files_.ReadTags(disk);
  if (tags.ok()) return *std::move(tags);
  Problem(absl::StrCat("reading it all: ", tags.status().ToString()));
  return {};
}

void Workout::VerifyStatus(BlockBackend& disk, const std::vector<uint64_t>& tags) {
  const uint64_t end = tags.size() * kSectorBytes;
  for (uint64_t at = 0; at < end && problem_.empty();) {
    const absl::StatusOr<RangeStatus> answer = loop_->RunTask(disk.Status(at, end - at));
    if (!answer.ok() || answer->length == 0 || answer->length > end - at) {
      return Problem(
          absl::StrFormat("the status at %d is wrong: %s", at, answer.status().ToString()));
    }
    for (uint64_t i = at / kSectorBytes; i < (at + answer->length) / kSectorBytes; ++i) {
      if (answer->kind != RangeKind::kData && tags[i] != 0) {
        return Problem(
            absl::StrFormat("the status of sector %d is zeros, it holds %x", i, tags[i]));
      }
    }
    at += answer->length;
  }
}

void Workout::VerifySize(uint64_t sectors, uint64_t moment) {
  uint64_t newest = 0;
  for (const SizeChange& change : sizes_) {
    if (change.ended <= moment) newest = std::max(newest, change.began);
  }
  for (const SizeChange& change : sizes_) {
    if (change.sectors == sectors && change.began <= moment && change.ended >= newest) return;
  }
  Problem(absl::StrFormat("the disk has %d sectors", sectors));
}

void Workout::VerifyTags(const std::vector<uint64_t>& tags, uint64_t moment) {
  VerifySize(tags.size(), moment);
  if (!applied_.empty() && tags != applied_ && tags != tags_) {
    return Problem("going back to a snapshot is half done");
  }
  for (uint64_t i = 0; i < tags.size(); ++i) {
    if (history_->AllowsAfterCut(i, tags[i], moment)) continue;
    return Problem(absl::StrFormat("sector %d holds %x after moment %d, not one of%s", i, tags[i],
                                   moment, history_->Describe(i)));
  }
}

bool Workout::IsDirty(MemoryMedium& left) {
  MemoryFile file(*loop_, left);
  const absl::StatusOr<qcow2::Header> header =
      loop_->RunTask(ReadHeader(file, qcow2::Access::kInspect));
  return header.ok() && header->dirty();
}

void Workout::VerifyCheck(MemoryMedium& left, Leaks leaks) {
  MemoryFile file(*loop_, left);
  std::string findings;
  uint64_t flags = 0;
  CheckReport report = [&findings, &flags](const std::string& line) {
    findings += line + "\n";
    if (line.starts_with("ERROR OFLAG_COPIED")) ++flags;
  };
  const absl::StatusOr<CheckResult> result =
      loop_->RunTask(CheckImage(file, qcow2::Repair::kNone, &report));
  if (!result.ok()) {
    Problem(absl::StrCat("the check: ", result.status().ToString()));
  } else if (result->corruptions > (copied_flags_ ? flags : 0) || result->check_errors > 0 ||
             (result->leaks > 0 && leaks == Leaks::kNone)) {
    Problem(absl::StrCat("the check finds: ", findings));
  }
}

void Workout::WriteAgain(BlockBackend& disk, std::vector<uint64_t>& tags,
                         std::vector<bool>& touched) {
  for (int i = 0; i < 4; ++i) {
    const uint64_t count = 1 + chance_.Below(std::min<uint64_t>(tags.size(), 40));
    const uint64_t sector = chance_.Below(tags.size() - count + 1);
    std::vector<uint8_t> bytes(count * kSectorBytes);
    for (uint64_t j = 0; j < count; ++j) {
      tags[sector + j] = MakeTag(3, sector + j, Noise::kNo);
      touched[sector + j] = true;
      FillSector(tags[sector + j], std::span(bytes).subspan(j * kSectorBytes, kSectorBytes));
    }
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    const absl::Status written =
        loop_->RunTask(disk.Write(sector * kSectorBytes, IoVecs(&part, 1)));
    if (!written.ok()) return Problem(absl::StrCat("writing again: ", written.ToString()));
  }
  if (ReadTags(disk) != tags) Problem("what is written again reads otherwise");
}

std::vector<uint64_t> Workout::VerifyMedium(MemoryMedium left, uint64_t moment) {
  const std::vector<uint8_t> data = files_.data_bytes();
  // With lazy refcounts a crash leaves them for the next one who opens the image to repair.
  const bool dirty = IsDirty(left);
  const bool flags_before = copied_flags_;
  copied_flags_ = copied_flags_ || !applied_.empty() || doubtful_.has_value();
  if (!dirty) VerifyCheck(left, Leaks::kAllowed);
  if (problem_.empty() && !dirty) VerifySnapshots(left, moment);
  const std::vector<BitmapState> bitmaps = BitmapsOf(left);
  absl::StatusOr<std::unique_ptr<BlockBackend>> opened =
      files_.Open(files_.FilesOf(left), chance_.OneIn(8));
  if (!opened.ok()) {
    Problem(absl::StrCat("opening it again: ", opened.status().ToString()));
    return {};
  }
  BlockBackend& disk = **opened;
  std::vector<uint64_t> tags = ReadTags(disk);
  if (problem_.empty()) VerifyTags(tags, moment);
  if (problem_.empty()) VerifyBitmaps(bitmaps, tags, moment);
  if (problem_.empty()) VerifyStatus(disk, tags);
  std::vector<uint64_t> now = tags;
  BitmapChanges changes;
  changes.touched.resize(tags.size());
  const bool read_only = disk.geometry().read_only;
  if (!read_only && problem_.empty()) WriteAgain(disk, now, changes.touched);
  const absl::Status closed = loop_->RunTask(disk.Close());
  if (!closed.ok()) Problem(absl::StrCat("closing it again: ", closed.ToString()));
  opened->reset();
  if (problem_.empty() && !(dirty && read_only)) VerifyCheck(left, Leaks::kAllowed);
  if (problem_.empty() && !dirty && !read_only) VerifySnapshots(left, moment);
  changes.changed = changes.touched;
  if (problem_.empty()) Problem(CompareBitmaps(bitmaps, BitmapsOf(left), changes));
  copied_flags_ = flags_before;
  files_.data_bytes() = data;  // As it was left.
  return tags;
}

MemoryMedium Workout::AfterCut(uint64_t moment, FaultyMedium::Loss loss) {
  std::mt19937 random(chance_.Seed());
  MemoryMedium left;
  left.bytes = medium_->AfterPowerCut(moment, loss, random);
  files_.data_bytes() = data_medium_->AfterPowerCut(moment, loss, random);
  return left;
}

MemoryMedium Workout::AfterClose() {
  MemoryMedium left;
  left.bytes = medium_->bytes();
  files_.data_bytes() = data_medium_->bytes();
  return left;
}

void Workout::VerifyCut(uint64_t moment, FaultyMedium::Loss loss) {
  VerifyMedium(AfterCut(moment, loss), moment);
}

void Workout::VerifyLeft() { VerifyMedium(AfterClose(), now()); }

void Workout::ContinueAfterCut(uint64_t moment, FaultyMedium::Loss loss) {
  MemoryMedium left = AfterCut(moment, loss);
  const std::vector<uint64_t> tags = VerifyMedium(left, moment);
  if (!problem_.empty()) return;
  leaks_ = true;
  copied_flags_ = copied_flags_ || !applied_.empty() || doubtful_.has_value();
  FindSnapshots(left);
  if (chance_.OneIn(2)) {
    MemoryFile file(*loop_, left);
    const bool all = chance_.OneIn(2);
    const absl::StatusOr<CheckResult> repaired =
        loop_->RunTask(CheckImage(file, all ? qcow2::Repair::kAll : qcow2::Repair::kLeaks));
    if (!repaired.ok()) return Problem(absl::StrCat("repairing: ", repaired.status().ToString()));
    leaks_ = IsDirty(left);
    if (all) copied_flags_ = false;
    if (!leaks_) VerifyCheck(left, Leaks::kNone);
  }
  Restart(std::move(left.bytes), tags);
}

void Workout::ContinueAfterClose() {
  MemoryMedium left = AfterClose();
  const Leaks leaks = leaks_ || host_->failed() ? Leaks::kAllowed : Leaks::kNone;
  if (IsDirty(left) && !host_->failed()) Problem("it is dirty though it was closed");
  VerifyCheck(left, leaks);
  const std::vector<uint64_t> tags = VerifyMedium(left, now());
  if (!problem_.empty()) return;
  FindSnapshots(left);
  Restart(std::move(left.bytes), tags);
}

}  // namespace vireo
