// Commits: metadata to the disk, in epochs (image.h).

#include <memory>
#include <utility>

#include "base/async/async_event.h"
#include "base/log.h"
#include "base/status.h"
#include "storage/qcow2/image.h"

namespace vireo::qcow2 {

struct Image::Round {
  AsyncEvent ended;
  absl::Status status;
};

void Image::NoteDirty() {
  if (!commit_planned_) {
    commit_planned_ = true;
    background_.Spawn(CommitLater());
  }
  if (!commit_hurried_ && cache_.dirty_count(MetadataKind::kL2Table) > dirty_limit_) {
    commit_hurried_ = true;
    background_.Spawn(CommitNow());
  }
}

bool Image::IsTooDirty() const {
  return cache_.dirty_count(MetadataKind::kL2Table) > 4 * dirty_limit_;
}

Task<void> Image::CommitLater() {
  const absl::Status slept = co_await loop_.SleepFor(options_.commit_age, background_.stop_token());
  commit_planned_ = false;
  if (!slept.ok()) co_return;  // Closing, which commits itself.
  const absl::Status committed = co_await Commit();
  if (!committed.ok()) LogError("%s", committed.ToString());
}

Task<void> Image::CommitNow() {
  const absl::Status committed = co_await Commit();
  commit_hurried_ = false;
  if (!committed.ok()) LogError("%s", committed.ToString());
}

Task<absl::Status> Image::Flush() {
  if (geometry_.read_only) co_return absl::OkStatus();
  const InFlight::Operation operation(in_flight_);
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kFlushToOs);
  const absl::Status status = co_await Commit();
  co_return status;
}

Task<absl::Status> Image::Commit() {
  if (next_round_ != nullptr) {  // It has not begun: it will hold what we need.
    const std::shared_ptr<Round> round = next_round_;
    co_await round->ended.Wait();
    co_return round->status;
  }
  const auto round = std::make_shared<Round>();
  next_round_ = round;
  {
    const AsyncMutex::Guard guard = co_await committing_.Lock();
    next_round_ = nullptr;
    round->status = co_await RunCommit();
  }
  round->ended.Set();
  co_return round->status;
}

Task<absl::Status> Image::RunCommit() {
  CO_RETURN_IF_ERROR(barrier_.status());
  // This epoch: everything changed so far. What changes from here on belongs to the next.
  MetadataCache::Frozen tables = cache_.Freeze(MetadataKind::kL2Table);
  const std::vector<ClusterMap::L1Piece> l1 = map_.FreezeL1();
  std::vector<HostRun> freed = refcounts_.TakeFreed();
  const bool needs_barrier = map_.TakeBarrier();

  absl::Status status;
  if (refcounts_.NeedsWriteBack()) {
    status = co_await refcounts_.WriteBack();
    if (absl::IsDataLoss(status)) co_await MarkCorrupt(status);
  }
  const bool changed = !tables.empty() || !l1.empty();
  if (status.ok() && changed && needs_barrier) status = co_await barrier_.Sync();
  if (status.ok()) {
    status = co_await cache_.Write(std::move(tables));
    if (absl::IsDataLoss(status)) co_await MarkCorrupt(status);
  } else {
    cache_.Abandon(std::move(tables));
  }
  if (status.ok()) status = co_await map_.WriteL1(l1);
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kFlushToDisk);
  if (status.ok()) status = co_await barrier_.Sync();
  if (!status.ok()) {
    map_.PutBackL1(l1);
    refcounts_.PutBackFreed(std::move(freed));
    if (needs_barrier) map_.RequireBarrier();
    co_return status;
  }
  refcounts_.Rest(std::move(freed));
  co_return absl::OkStatus();
}

}  // namespace vireo::qcow2
