#include "storage/qcow2/slice_runs.h"

#include <cstring>

#include "base/check.h"
#include "base/endian.h"

namespace vireo::qcow2 {
namespace {

uint64_t LoadWord(std::span<const uint8_t> slice, size_t index) {
  Be64 word;
  std::memcpy(&word, slice.data() + index * sizeof(word), sizeof(word));
  return word.value();
}

void StoreWord(std::span<uint8_t> slice, size_t index, uint64_t value) {
  const Be64 word(value);
  std::memcpy(slice.data() + index * sizeof(word), &word, sizeof(word));
}

}  // namespace

RunsLimit::~RunsLimit() { VIREO_CHECK(users_.empty(), "a limit outlives those it limits"); }

bool RunsLimit::Reserve(uint64_t bytes) {
  if (bytes > limit_bytes_) return false;
  while (used_bytes_ + bytes > limit_bytes_) {
    SliceRuns* largest = users_.front();
    for (SliceRuns* user : users_) {
      if (user->memory_bytes() > largest->memory_bytes()) largest = user;
    }
    largest->ForgetAll();
  }
  used_bytes_ += bytes;
  return true;
}

SliceRuns::SliceRuns(const Layout& layout, RunsLimit& limit)
    : layout_(layout),
      slices_per_table_(layout.cluster_bytes() / layout.slice_bytes()),
      // With what the hash map and the heap add.
      table_bytes_(slices_per_table_ * sizeof(Run) + 40),
      limit_(limit) {
  limit_.users_.push_back(this);
}

SliceRuns::~SliceRuns() {
  ForgetAll();
  std::erase(limit_.users_, this);
}

const SliceRuns::Run* SliceRuns::Find(uint64_t host_offset) const {
  const auto table = tables_.find(layout_.cluster_start(host_offset));
  if (table == tables_.end()) return nullptr;
  const Run& run = table->second[IndexInTable(host_offset)];
  return run.valid ? &run : nullptr;
}

bool SliceRuns::Learn(uint64_t host_offset, std::span<const uint8_t> slice) {
  const size_t words = layout_.l2_entry_bytes / sizeof(Be64);  // Of an entry.
  const size_t entries = slice.size() / layout_.l2_entry_bytes;
  Run run = {.first = LoadWord(slice, 0), .valid = true};
  run.bitmap = words == 2 ? LoadWord(slice, 1) : 0;
  const uint64_t step = entries > 1 ? LoadWord(slice, words) - run.first : 0;
  if (step != 0 && step != layout_.cluster_bytes()) return false;
  run.step = static_cast<uint32_t>(step);
  for (size_t i = 1; i < entries; ++i) {
    if (LoadWord(slice, i * words) != run.first + i * step) return false;
    if (words == 2 && LoadWord(slice, i * words + 1) != run.bitmap) return false;
  }
  const uint64_t cluster = layout_.cluster_start(host_offset);
  auto table = tables_.find(cluster);
  if (table == tables_.end()) {
    if (!limit_.Reserve(table_bytes_)) return false;
    table = tables_.emplace(cluster, std::make_unique<Run[]>(slices_per_table_)).first;
  }
  table->second[IndexInTable(host_offset)] = run;
  return true;
}

bool SliceRuns::Restore(uint64_t host_offset, std::span<uint8_t> slice) const {
  const Run* const run = Find(host_offset);
  if (run == nullptr) return false;
  const size_t words = layout_.l2_entry_bytes / sizeof(Be64);
  const size_t entries = slice.size() / layout_.l2_entry_bytes;
  for (size_t i = 0; i < entries; ++i) {
    StoreWord(slice, i * words, run->first + i * run->step);
    if (words == 2) StoreWord(slice, i * words + 1, run->bitmap);
  }
  return true;
}

void SliceRuns::Forget(uint64_t host_offset) {
  const auto table = tables_.find(layout_.cluster_start(host_offset));
  if (table != tables_.end()) table->second[IndexInTable(host_offset)].valid = false;
}

void SliceRuns::ForgetCluster(uint64_t cluster_offset) {
  if (tables_.erase(cluster_offset) != 0) limit_.used_bytes_ -= table_bytes_;
}

void SliceRuns::ForgetAll() {
  limit_.used_bytes_ -= memory_bytes();
  tables_.clear();
}

}  // namespace vireo::qcow2
