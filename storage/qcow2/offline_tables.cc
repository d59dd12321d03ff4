#include "storage/qcow2/offline_tables.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <variant>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/async/task_scope.h"
#include "base/status.h"
#include "storage/qcow2/cluster_mapping.h"
#include "storage/qcow2/format.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kWindowBytes = uint64_t{8} << 20;
// Of one request: several of them keep a device busy.
constexpr uint64_t kRequestBytes = uint64_t{1} << 20;

uint64_t Load64(const uint8_t* bytes) {
  Be64 value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

}  // namespace

bool Touches(std::span<const ClusterRun> runs, uint64_t first, uint64_t last) {
  // The first one that ends behind `first`.
  const auto found = std::partition_point(runs.begin(), runs.end(), [first](const ClusterRun& run) {
    return run.first + run.count <= first;
  });
  return found != runs.end() && found->first <= last;
}

Task<absl::StatusOr<std::vector<Be64>>> ReadL1Table(File& file, uint64_t l1_offset,
                                                    uint64_t entries) {
  std::vector<Be64> l1(entries);
  const iovec part = {l1.data(), l1.size() * sizeof(Be64)};
  if (entries > 0) CO_RETURN_IF_ERROR(co_await file.Read(l1_offset, IoVecs(&part, 1)));
  co_return l1;
}

absl::StatusOr<std::vector<uint64_t>> TablesOf(const File& file, const Layout& layout,
                                               std::span<const Be64> l1) {
  std::vector<uint64_t> tables;
  for (size_t i = 0; i < l1.size(); ++i) {
    const uint64_t offset = l1[i] & kEntryOffsetMask;
    if (offset == 0) continue;
    if (layout.offset_in_cluster(offset) != 0 || offset < layout.cluster_bytes() ||
        offset >= file.size()) {
      return absl::DataLossError(absl::StrFormat(
          "%s: L1 entry %d points to offset %d, where no L2 table can be", file.name(), i, offset));
    }
    tables.push_back(offset);
  }
  return tables;
}

size_t TableWindow::Size(const Layout& layout) {
  return std::max<uint64_t>(1, kWindowBytes >> layout.cluster_bits);
}

std::span<uint8_t> TableWindow::table(size_t index) {
  return std::span<uint8_t>(bytes_).subspan(index << layout_.cluster_bits, layout_.cluster_bytes());
}

size_t TableWindow::RunEnd(size_t begin, size_t limit) const {
  const size_t most = std::max<uint64_t>(1, kRequestBytes >> layout_.cluster_bits);
  size_t end = begin + 1;
  while (end < limit && end - begin < most &&
         offsets_[end] == offsets_[end - 1] + layout_.cluster_bytes()) {
    ++end;
  }
  return end;
}

Task<void> TableWindow::ReadRun(size_t begin, size_t end, absl::Status* status) {
  const iovec part = {bytes_.data() + (begin << layout_.cluster_bits), (end - begin)
                                                                           << layout_.cluster_bits};
  const absl::Status read = co_await file_.Read(offsets_[begin], IoVecs(&part, 1));
  if (!read.ok()) *status = read;
}

Task<absl::Status> TableWindow::Read(std::span<const uint64_t> offsets) {
  offsets_.assign(offsets.begin(), offsets.end());
  bytes_.resize(offsets_.size() << layout_.cluster_bits);
  changed_.assign(offsets_.size(), false);
  absl::Status status;
  TaskScope reads(loop_);
  for (size_t at = 0; at < offsets_.size();) {
    const size_t end = RunEnd(at, offsets_.size());
    reads.Spawn(ReadRun(at, end, &status));
    at = end;
  }
  co_await reads.Join();
  co_return status;
}

Task<void> TableWindow::WriteRun(size_t begin, size_t end, absl::Status* status) {
  const iovec part = {bytes_.data() + (begin << layout_.cluster_bits), (end - begin)
                                                                           << layout_.cluster_bits};
  const absl::Status written = co_await file_.Write(offsets_[begin], IoVecs(&part, 1));
  if (!written.ok()) *status = written;
}

Task<absl::Status> TableWindow::WriteChanged() {
  absl::Status status;
  TaskScope writes(loop_);
  size_t at = 0;
  while (at < offsets_.size()) {
    if (!changed_[at]) {
      ++at;
      continue;
    }
    size_t limit = at + 1;
    while (limit < offsets_.size() && changed_[limit]) ++limit;
    const size_t end = RunEnd(at, limit);
    writes.Spawn(WriteRun(at, end, &status));
    at = end;
  }
  co_await writes.Join();
  co_return status;
}

absl::Status AppendReferences(const std::string& name, const Layout& layout,
                              std::span<const uint8_t> table, std::span<const ClusterRun> metadata,
                              bool skip_invalid, std::vector<ClusterRun>* runs) {
  ClusterRun run;
  const auto finish = [&]() -> absl::Status {
    if (run.count == 0) return absl::OkStatus();
    if (Touches(metadata, run.first, run.first + run.count - 1)) {
      if (skip_invalid) {
        // The rest of the run is sound: one by one.
        for (uint64_t cluster = run.first; cluster < run.first + run.count; ++cluster) {
          if (!Touches(metadata, cluster, cluster)) runs->push_back({cluster, 1});
        }
        return absl::OkStatus();
      }
      return absl::DataLossError(
          absl::StrFormat("%s: an L2 entry points to metadata, within clusters %d to %d", name,
                          run.first, run.first + run.count - 1));
    }
    runs->push_back(run);
    return absl::OkStatus();
  };
  for (size_t at = 0; at < table.size(); at += layout.l2_entry_bytes) {
    const uint64_t entry = Load64(table.data() + at);
    if (entry == 0) continue;
    uint64_t first;
    uint64_t count = 1;
    const char* wrong = nullptr;
    if ((entry & kEntryCompressed) != 0) {
      const ClusterEntry compressed = DecodeEntry(layout, {.descriptor = entry & ~kEntryCopied});
      if (compressed.kind == ClusterEntry::Kind::kInvalid) {
        wrong = compressed.reason;
      } else {
        const uint64_t last = compressed.host_offset + compressed.compressed_bytes - 1;
        first = layout.cluster_index(compressed.host_offset);
        count = layout.cluster_index(last) - first + 1;
      }
    } else {
      const uint64_t host_offset = entry & kEntryOffsetMask;
      if (host_offset == 0) continue;
      if (layout.offset_in_cluster(host_offset) != 0) wrong = "is not at a multiple of a cluster";
      first = layout.cluster_index(host_offset);
    }
    if (wrong != nullptr) {
      if (skip_invalid) continue;
      return absl::DataLossError(absl::StrFormat("%s: L2 entry 0x%x: %s", name, entry, wrong));
    }
    if (run.count > 0 && first == run.first + run.count) {
      run.count += count;
      continue;
    }
    if (absl::Status finished = finish(); !finished.ok()) return finished;
    run = {first, count};
  }
  return finish();
}

}  // namespace vireo::qcow2
