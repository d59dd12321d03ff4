#include "tests/model/workout.h"

#include <malloc.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/async/task_scope.h"
#include "base/check.h"
#include "storage/qcow2/snapshot_edit.h"

namespace vireo {

Workout::Workout(const DiskShape& shape, uint64_t seed)
    : shape_(shape),
      max_sectors_(2 * shape.disk_bytes / kSectorBytes),
      loop_(*EventLoop::Create({.offload_seed = static_cast<uint32_t>(seed)})),
      chance_(seed),
      files_(*loop_, shape_, chance_) {
  // Whole disks come and go all the time: what they lived in is kept, not given back and cleared.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
  MakeImage();
}

Workout::~Workout() = default;

void Workout::Problem(const std::string& text) {
  if (problem_.empty()) problem_ = text;  // The first one counts; an empty one is none.
}

void Workout::MakeImage() {
  MemoryMedium made = files_.MakeImage();
  std::vector<uint64_t> tags = files_.backing_tags();
  tags.resize(shape_.disk_bytes / kSectorBytes);
  if (shape_.snapshots) {
    absl::StatusOr<std::unique_ptr<BlockBackend>> disk = files_.Open(files_.FilesOf(made), false);
    VIREO_CHECK(disk.ok(), disk.status().ToString());
    const std::vector<uint64_t> filled = files_.Fill(**disk, 2);
    for (size_t i = 0; i < tags.size(); ++i) {
      if (filled[i] != 0) tags[i] = filled[i];
    }
    VIREO_CHECK(loop_->RunTask((*disk)->Close()).ok());
    MemoryFile file(*loop_, made);
    const absl::StatusOr<std::string> id =
        loop_->RunTask(qcow2::CreateSnapshot(*loop_, file, {.name = "first"}));
    VIREO_CHECK(id.ok(), id.status().ToString());
    snapshots_.push_back({*id, tags});
  }
  if (shape_.bitmaps) MakeBitmaps(made);
  Restart(std::move(made.bytes), tags);
}

void Workout::Restart(std::vector<uint8_t> bytes, const std::vector<uint64_t>& tags) {
  if (host_ != nullptr) trace_ = trace() * 31;
  host_ = std::make_unique<FaultyHost>(chance_.Seed());
  medium_ = std::make_unique<FaultyMedium>(std::move(bytes), *host_);
  backing_medium_ = std::make_unique<FaultyMedium>(files_.backing_bytes(), *host_);
  data_medium_ = std::make_unique<FaultyMedium>(files_.data_bytes(), *host_);
  history_ = std::make_unique<SectorHistory>(tags);
  sectors_ = tags.size();
  sizes_ = {{.sectors = sectors_, .began = 0, .ended = 0}};
  tags_ = tags;
  closed_ = kNever;
  doubtful_.reset();
  applied_.clear();
  bitmap_edit_.reset();
  bitmap_edited_ = kNever;
  if (shape_.bitmaps) {
    MemoryMedium left = {.bytes = medium_->bytes()};
    bitmaps_ = BitmapsOf(left);
  }
}

DiskFiles::Files Workout::FaultyFiles() {
  return {.image = std::make_unique<FaultyFile>(*loop_, *medium_),
          .backing = std::make_unique<FaultyFile>(*loop_, *backing_medium_, "backing", 2),
          .data = std::make_unique<FaultyFile>(*loop_, *data_medium_, "data", 3)};
}

void Workout::RunSession(const Session& session) {
  stopping_ = false;
  resizing_ = false;
  if (session.fail_after.has_value()) {
    host_->FailAfter(*session.fail_after, session.error, session.failures);
  }
  absl::StatusOr<std::unique_ptr<BlockBackend>> opened = files_.Open(FaultyFiles(), false);
  if (!opened.ok()) return Excuse("opening", opened.status());
  disk_ = *std::move(opened);
  loop_->RunTask(RunWorkers(session));
  disk_.reset();
}

Task<void> Workout::RunWorkers(Session session) {
  TaskScope scope(*loop_);
  for (uint32_t i = 0; i < session.workers; ++i) scope.Spawn(Work(session.steps));
  if (session.close_under_load) {
    const uint64_t turns = chance_.Below(20 * session.steps);
    for (uint64_t i = 0; i < turns; ++i) co_await loop_->Yield();
    stopping_ = true;
  } else {
    co_await scope.Join();
  }
  const uint64_t began = host_->Tick();
  const absl::Status closed = co_await disk_->Close();
  const uint64_t ended = host_->Tick();
  co_await scope.Join();
  // Requests that ended while it waited for them are durable as well.
  if (closed.ok()) history_->Flushed(session.close_under_load ? ended : began, ended);
  if (closed.ok()) closed_ = ended;
  if (!closed.ok()) Excuse("closing", closed);
}

void Workout::RunOfflineSession(const Session& session) {
  if (session.fail_after.has_value()) {
    host_->FailAfter(*session.fail_after, session.error, session.failures);
  }
  ++steps_;
  FaultyFile file(*loop_, *medium_);
  const bool snapshot = shape_.snapshots && (!shape_.bitmaps || chance_.OneIn(2));
  const absl::Status status = snapshot ? EditSnapshots(file) : EditBitmaps(file);
  if (!status.ok()) Excuse(snapshot ? "a snapshot" : "a bitmap", status);
}

void Workout::Excuse(const char* what, const absl::Status& status) {
  if (!host_->failed()) Problem(absl::StrCat(what, ": ", status.ToString()));
}

}  // namespace vireo
