#include "storage/qcow2/metadata_cache.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "base/async/task_scope.h"
#include "base/check.h"
#include "base/status.h"

namespace vireo::qcow2 {
namespace {

// Slices that lie next to each other go out as one write of at most this many.
constexpr size_t kMaxRun = 64;
// A miss that goes on where another was reads to the end of the table, but no more than this.
constexpr size_t kReadAhead = 16;

}  // namespace

MetadataCache::MetadataCache(EventLoop& loop, File& file, const Layout& layout,
                             std::shared_ptr<CacheBudget> budget)
    : loop_(loop),
      file_(file),
      debug_(file.debug_events()),
      layout_(layout),
      slice_bytes_(layout.slice_bytes()),
      budget_(std::move(budget)),
      slabs_(budget_->Slabs(slice_bytes_)),
      runs_(layout, budget_->runs()) {}

MetadataCache::~MetadataCache() {
  for (const auto& [host_offset, entry] : entries_) {
    VIREO_CHECK(entry->pins == 0, "a cache outlives its users");
    budget_->Leave(entry.get());
  }
}

std::span<uint8_t> MetadataCache::Slice::MutableBytes() {
  Entry& entry = *entry_;
  if (entry.writing && !entry.frozen.valid()) {
    entry.frozen = std::move(entry.bytes);
    entry.bytes = cache_->slabs_.Take();
    std::memcpy(entry.bytes.get(), entry.frozen.get(), cache_->slice_bytes_);
  }
  if (!entry.dirty) {
    if (entry.kind == MetadataKind::kL2Table) {
      cache_->budget_->LeaveRestorable(&entry);
      cache_->runs_.Forget(entry.host_offset);
    }
    cache_->MarkDirty(&entry);
  }
  return {entry.bytes.get(), cache_->slice_bytes_};
}

void MetadataCache::MarkDirty(Entry* entry) {
  const size_t kind = static_cast<size_t>(entry->kind);
  entry->dirty = true;
  ++dirty_counts_[kind];
  dirty_[kind].push_back(entry);
}

MetadataCache::Slice MetadataCache::Find(uint64_t host_offset) {
  const auto found = entries_.find(host_offset);
  Entry* const entry = found != entries_.end() ? found->second.get() : Restore(host_offset);
  if (entry == nullptr || !entry->loaded) return Slice();
  entry->used = true;
  return Slice(this, entry);
}

MetadataCache::Entry* MetadataCache::Add(MetadataKind kind, uint64_t host_offset) {
  budget_->MakeRoom(slice_bytes_);
  auto owned = std::make_unique<Entry>();
  Entry* const entry = owned.get();
  entry->owner = this;
  entry->kind = kind;
  entry->host_offset = host_offset;
  entry->bytes = slabs_.Take();
  budget_->Enter(entry);
  entries_.emplace(host_offset, std::move(owned));
  return entry;
}

MetadataCache::Entry* MetadataCache::Restore(uint64_t host_offset) {
  if (!runs_.Contains(host_offset)) return nullptr;
  Entry* const entry = Add(MetadataKind::kL2Table, host_offset);
  // Making room may have taught them others, and so cost them this one.
  if (!runs_.Restore(host_offset, {entry->bytes.get(), slice_bytes_})) {
    Erase(entry);
    return nullptr;
  }
  entry->loaded = true;
  budget_->EnterRestorable(entry);
  return entry;
}

size_t MetadataCache::ReadAhead(MetadataKind kind, uint64_t host_offset) const {
  // Someone has just been at the slice before it, in this table or, where tables were made in a
  // row, in the one before.
  const uint64_t before = host_offset - slice_bytes_;
  const auto previous = entries_.find(before);
  const bool known = previous != entries_.end() && previous->second->kind == kind;
  if (!known && !runs_.Contains(before)) return 1;
  const uint64_t end = layout_.cluster_start(host_offset) + layout_.cluster_bytes();
  const size_t most =
      std::min<uint64_t>({kReadAhead, limit_slices() / 8, (end - host_offset) / slice_bytes_});
  size_t count = 1;
  while (count < most && !entries_.contains(host_offset + count * slice_bytes_) &&
         !runs_.Contains(host_offset + count * slice_bytes_)) {
    ++count;
  }
  return count;
}

Task<absl::StatusOr<MetadataCache::Slice>> MetadataCache::Get(MetadataKind kind,
                                                              uint64_t host_offset) {
  const auto found = entries_.find(host_offset);
  Entry* const present = found != entries_.end() ? found->second.get() : Restore(host_offset);
  if (present != nullptr) {
    Slice slice(this, present);
    slice.entry_->used = true;
    if (!slice.entry_->loaded) co_await slice.entry_->load_ended.Wait();
    CO_RETURN_IF_ERROR(slice.entry_->load_status);
    VIREO_CHECK(slice.entry_->kind == kind, "one cluster holds one kind of metadata");
    co_return slice;
  }

  Missed missed;
  const size_t count = ReadAhead(kind, host_offset);
  for (size_t i = 0; i < count; ++i) {
    missed.push_back(Slice(this, Add(kind, host_offset + i * slice_bytes_)));
  }
  CO_RETURN_IF_ERROR(co_await Load(missed));
  co_return std::move(missed.front());
}

Task<absl::Status> MetadataCache::Load(Missed& missed) {
  std::vector<iovec> parts;
  for (const Slice& slice : missed) parts.push_back({slice.entry_->bytes.get(), slice_bytes_});
  if (debug_ != nullptr) {
    const bool l2 = missed.front().entry_->kind == MetadataKind::kL2Table;
    co_await debug_->Reach(l2 ? DebugEvent::kL2Load : DebugEvent::kRefblockLoad);
  }
  absl::Status status = co_await file_.Read(missed.front().host_offset(), parts);
  if (status.ok() || missed.size() == 1) {
    for (const Slice& slice : missed) EndLoad(slice.entry_, status);
    co_return status;
  }
  // What cannot be read may be another's than the one that was asked for.
  for (size_t i = 0; i < missed.size(); ++i) {
    const absl::Status one = co_await file_.Read(missed[i].host_offset(), IoVecs(&parts[i], 1));
    if (i == 0) status = one;
    EndLoad(missed[i].entry_, one);
  }
  co_return status;
}

void MetadataCache::EndLoad(Entry* entry, absl::Status status) {
  entry->load_status = std::move(status);
  if (!entry->load_status.ok()) {
    // Those who wait hear of it; whoever comes next reads again.
    budget_->Leave(entry);
    entries_.find(entry->host_offset)->second.release();
    entries_.erase(entry->host_offset);
    entry->orphan = true;
    entry->load_ended.Set();
    return;
  }
  entry->loaded = true;
  const std::span<const uint8_t> bytes(entry->bytes.get(), slice_bytes_);
  if (vet_) entry->suspicious = vet_(entry->kind, bytes);
  if (entry->kind == MetadataKind::kL2Table && !entry->suspicious &&
      runs_.Learn(entry->host_offset, bytes)) {
    budget_->EnterRestorable(entry);
  }
  entry->load_ended.Set();
}

void MetadataCache::Evict(CacheBudget::Member* member) {
  Entry* const entry = static_cast<Entry*>(member);
  // Written since it was read, it may have become one that needs no bytes.
  if (entry->kind == MetadataKind::kL2Table && !entry->suspicious && !entry->restorable) {
    runs_.Learn(entry->host_offset, {entry->bytes.get(), slice_bytes_});
  }
  Erase(entry);
}

void MetadataCache::Erase(Entry* entry) {
  VIREO_CHECK(entry->pins == 0 && !entry->writing, "only idle slices are dropped");
  if (entry->dirty) {
    const size_t kind = static_cast<size_t>(entry->kind);
    --dirty_counts_[kind];
    std::erase(dirty_[kind], entry);
  }
  budget_->Leave(entry);
  entries_.erase(entry->host_offset);
}

void MetadataCache::Forget(uint64_t cluster_offset) {
  for (uint64_t at = 0; at < layout_.cluster_bytes(); at += slice_bytes_) {
    const auto found = entries_.find(cluster_offset + at);
    if (found != entries_.end()) Erase(found->second.get());
  }
  runs_.ForgetCluster(cluster_offset);
}

MetadataCache::Frozen MetadataCache::Freeze(MetadataKind kind) {
  Frozen frozen;
  if (dirty_count(kind) == 0) return frozen;
  for (Entry* entry : std::exchange(dirty_[static_cast<size_t>(kind)], {})) {
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
    if (guard_ && !guard_(entry->kind, entry->host_offset)) {
      *status = absl::DataLossError(
          absl::StrFormat("%s: a table is about to be written to offset %d, where it does not live",
                          file_.name(), entry->host_offset));
      co_return;
    }
    uint8_t* const bytes = entry->frozen.valid() ? entry->frozen.get() : entry->bytes.get();
    parts.push_back({bytes, slice_bytes_});
  }
  if (debug_ != nullptr) {
    const bool l2 = run.front()->kind == MetadataKind::kL2Table;
    co_await debug_->Reach(l2 ? DebugEvent::kL2Update : DebugEvent::kRefblockUpdatePart);
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
    entry->frozen.Release();
    if (!written && !entry->dirty) MarkDirty(entry);
  }
  budget_->MakeRoom(0);  // What had to stay need not any more.
}

}  // namespace vireo::qcow2
