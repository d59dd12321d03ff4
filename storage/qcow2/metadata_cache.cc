#include "storage/qcow2/metadata_cache.h"

#include <algorithm>
#include <cstring>

#include "base/async/task_scope.h"
#include "base/check.h"
#include "base/status.h"

namespace vireo::qcow2 {
namespace {

// Slices that lie next to each other go out as one write of at most this many.
constexpr size_t kMaxRun = 64;

}  // namespace

MetadataCache::MetadataCache(EventLoop& loop, File& file, const Layout& layout,
                             uint64_t limit_bytes)
    : loop_(loop),
      file_(file),
      layout_(layout),
      slice_bytes_(layout.slice_bytes()),
      limit_slices_(std::max<uint64_t>(limit_bytes / slice_bytes_, 4)) {}

MetadataCache::~MetadataCache() {
  for (const Entry* entry : clock_) {
    VIREO_CHECK(entry->pins == 0, "a cache outlives its users");
  }
}

std::span<uint8_t> MetadataCache::Slice::MutableBytes() {
  Entry& entry = *entry_;
  if (entry.writing && entry.frozen == nullptr) {
    entry.frozen = std::move(entry.bytes);
    entry.bytes = AllocateAligned(cache_->slice_bytes_);
    std::memcpy(entry.bytes.get(), entry.frozen.get(), cache_->slice_bytes_);
  }
  if (!entry.dirty) {
    entry.dirty = true;
    ++cache_->dirty_counts_[static_cast<size_t>(entry.kind)];
  }
  return {entry.bytes.get(), cache_->slice_bytes_};
}

MetadataCache::Slice MetadataCache::Find(uint64_t host_offset) {
  const auto found = entries_.find(host_offset);
  if (found == entries_.end() || !found->second->loaded) return Slice();
  found->second->used = true;
  return Slice(this, found->second.get());
}

Task<absl::StatusOr<MetadataCache::Slice>> MetadataCache::Get(MetadataKind kind,
                                                              uint64_t host_offset) {
  const auto found = entries_.find(host_offset);
  if (found != entries_.end()) {
    Slice slice(this, found->second.get());
    slice.entry_->used = true;
    if (!slice.entry_->loaded) co_await slice.entry_->load_ended.Wait();
    CO_RETURN_IF_ERROR(slice.entry_->load_status);
    VIREO_CHECK(slice.entry_->kind == kind, "one cluster holds one kind of metadata");
    co_return slice;
  }

  MakeRoom();
  auto owned = std::make_unique<Entry>();
  Entry* const entry = owned.get();
  entry->kind = kind;
  entry->host_offset = host_offset;
  entry->bytes = AllocateAligned(slice_bytes_);
  entry->clock_index = clock_.size();
  clock_.push_back(entry);
  entries_.emplace(host_offset, std::move(owned));
  Slice slice(this, entry);
  const iovec part = ToIoVec(std::span<uint8_t>(entry->bytes.get(), slice_bytes_));
  entry->load_status = co_await file_.Read(host_offset, IoVecs(&part, 1));
  entry->loaded = entry->load_status.ok();
  if (entry->loaded && vet_) entry->suspicious = vet_(kind, slice.bytes());
  if (!entry->loaded) {
    // Those who wait hear of it; whoever comes next reads again.
    RemoveFromClock(entry);
    entries_.find(host_offset)->second.release();
    entries_.erase(host_offset);
    entry->orphan = true;
    entry->load_ended.Set();
    co_return entry->load_status;
  }
  entry->load_ended.Set();
  entry->used = true;
  co_return slice;
}

void MetadataCache::MakeRoom() {
  // Two rounds at most: the first clears the marks of use. What is dirty or in use stays, and may
  // keep the cache above its limit for a while.
  size_t steps = clock_.size() < limit_slices_ ? 0 : 2 * clock_.size();
  while (steps > 0 && clock_.size() >= limit_slices_) {
    --steps;
    if (hand_ >= clock_.size()) hand_ = 0;
    Entry* const entry = clock_[hand_];
    if (entry->pins > 0 || entry->dirty || entry->writing) {
      ++hand_;
    } else if (entry->used) {
      entry->used = false;
      ++hand_;
    } else {
      Erase(entry);  // Another has taken its place under the hand.
    }
  }
}

void MetadataCache::Erase(Entry* entry) {
  VIREO_CHECK(entry->pins == 0 && !entry->writing, "only idle slices are dropped");
  if (entry->dirty) --dirty_counts_[static_cast<size_t>(entry->kind)];
  RemoveFromClock(entry);
  entries_.erase(entry->host_offset);
}

void MetadataCache::RemoveFromClock(Entry* entry) {
  clock_.back()->clock_index = entry->clock_index;
  clock_[entry->clock_index] = clock_.back();
  clock_.pop_back();
}

void MetadataCache::Forget(uint64_t cluster_offset) {
  for (uint64_t at = 0; at < layout_.cluster_bytes(); at += slice_bytes_) {
    const auto found = entries_.find(cluster_offset + at);
    if (found != entries_.end()) Erase(found->second.get());
  }
}

MetadataCache::Frozen MetadataCache::Freeze(MetadataKind kind) {
  Frozen frozen;
  if (dirty_count(kind) == 0) return frozen;
  for (Entry* entry : clock_) {
    if (entry->kind != kind || !entry->dirty) continue;
    VIREO_CHECK(!entry->writing, "a slice is in one frozen set at a time");
    entry->dirty = false;
    entry->writing = true;
    frozen.entries_.push_back(entry);
  }
  dirty_counts_[static_cast<size_t>(kind)] = 0;
  std::sort(frozen.entries_.begin(), frozen.entries_.end(),
            [](const Entry* a, const Entry* b) { return a->host_offset < b->host_offset; });
  return frozen;
}

Task<void> MetadataCache::WriteRun(std::span<Entry* const> run, absl::Status* status) {
  std::vector<iovec> parts;
  parts.reserve(run.size());
  for (const Entry* entry : run) {
    uint8_t* const bytes = entry->frozen != nullptr ? entry->frozen.get() : entry->bytes.get();
    parts.push_back({bytes, slice_bytes_});
  }
  const absl::Status written = co_await file_.Write(run.front()->host_offset, parts);
  if (!written.ok()) *status = written;
}

Task<absl::Status> MetadataCache::Write(Frozen frozen) {
  absl::Status status;
  const std::span<Entry* const> entries(frozen.entries_);
  TaskScope writes(loop_);
  size_t first = 0;
  while (first < entries.size()) {
    size_t end = first + 1;
    while (end < entries.size() && end - first < kMaxRun &&
           entries[end]->host_offset == entries[end - 1]->host_offset + slice_bytes_) {
      ++end;
    }
    writes.Spawn(WriteRun(entries.subspan(first, end - first), &status));
    first = end;
  }
  co_await writes.Join();
  Thaw(frozen, status.ok());
  co_return status;
}

void MetadataCache::Abandon(Frozen frozen) { Thaw(frozen, /*written=*/false); }

void MetadataCache::Thaw(const Frozen& frozen, bool written) {
  for (Entry* entry : frozen.entries_) {
    entry->writing = false;
    entry->frozen.reset();
    if (!written && !entry->dirty) {
      entry->dirty = true;
      ++dirty_counts_[static_cast<size_t>(entry->kind)];
    }
  }
}

}  // namespace vireo::qcow2
