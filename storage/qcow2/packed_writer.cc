#include "storage/qcow2/packed_writer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/check.h"
#include "base/iovecs.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/refcount_entry.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kRunBytes = 2 << 20;
constexpr size_t kMaxInFlight = 4;
constexpr uint64_t kSector = 512;

void Store64(std::span<uint8_t> bytes, uint64_t offset, uint64_t value) {
  const Be64 wire(value);
  std::memcpy(bytes.data() + offset, &wire, sizeof(wire));
}

Task<absl::Status> WriteBytes(File& file, uint64_t offset, std::span<const uint8_t> bytes) {
  const iovec part = ToIoVec(bytes);
  const absl::Status status = co_await file.Write(offset, IoVecs(&part, 1));
  co_return status;
}

}  // namespace

PackedWriter::PackedWriter(EventLoop& loop, File& file, Header header)
    : loop_(loop),
      file_(file),
      header_(std::move(header)),
      layout_(header_.layout),
      l1_(header_.l1_entries),
      table_(layout_.cluster_bytes()),
      pack_(layout_.cluster_bytes()),
      writes_(loop) {
  // What the empty image has: header, refcount table, blocks, L1 table.
  const uint64_t l1_end = header_.l1_offset + header_.l1_entries * sizeof(Be64);
  counts_.assign(layout_.clusters_for(header_.l1_entries > 0 ? l1_end : file.size()), 1);
}

Task<absl::StatusOr<std::unique_ptr<PackedWriter>>> PackedWriter::Open(EventLoop& loop,
                                                                       File& file) {
  CO_ASSIGN_OR_RETURN(Header header, co_await ReadHeader(file, Access::kReadWrite));
  if (header.data_file.has_value() || header.crypt_method != 0) {
    co_return absl::UnimplementedError(
        absl::StrFormat("%s: no compressed clusters with a data file or encryption", file.name()));
  }
  std::unique_ptr<PackedWriter> writer(new PackedWriter(loop, file, std::move(header)));
  co_return writer;
}

uint64_t PackedWriter::TakeCluster() {
  counts_.push_back(0);
  return (counts_.size() - 1) << layout_.cluster_bits;
}

void PackedWriter::Count(uint64_t host_offset, uint64_t bytes) {
  const uint64_t last = layout_.cluster_index(host_offset + bytes - 1);
  for (uint64_t i = layout_.cluster_index(host_offset); i <= last; ++i) ++counts_[i];
}

Task<absl::Status> PackedWriter::Enter(uint64_t guest_offset) {
  CO_RETURN_IF_ERROR(status_);
  const uint64_t index = layout_.l1_index(guest_offset);
  if (table_index_ == index) co_return absl::OkStatus();
  VIREO_CHECK(!table_index_.has_value() || *table_index_ < index, "in the order of the disk");
  CO_RETURN_IF_ERROR(co_await WriteTable());
  table_index_ = index;
  co_return absl::OkStatus();
}

void PackedWriter::SetEntry(uint64_t guest_offset, const ClusterEntry& entry) {
  const RawClusterEntry raw = EncodeEntry(layout_, entry);
  const uint64_t at = layout_.l2_index(guest_offset) * layout_.l2_entry_bytes;
  Store64(table_, at, raw.descriptor);
  if (layout_.extended_l2()) Store64(table_, at + 8, raw.bitmap);
  table_used_ = true;
}

Task<absl::Status> PackedWriter::WriteTable() {
  if (!table_used_) co_return absl::OkStatus();
  const uint64_t host_offset = TakeCluster();
  Count(host_offset, 1);
  l1_[*table_index_] = host_offset | kEntryCopied;
  CO_RETURN_IF_ERROR(co_await Put(host_offset, table_));
  std::fill(table_.begin(), table_.end(), 0);
  table_used_ = false;
  co_return absl::OkStatus();
}

Task<absl::Status> PackedWriter::Add(uint64_t guest_offset, std::span<const uint8_t> stream,
                                     std::span<const uint8_t> cluster) {
  CO_RETURN_IF_ERROR(co_await Enter(guest_offset));
  const uint64_t cluster_bytes = layout_.cluster_bytes();
  if (stream.empty()) {
    const uint64_t host_offset = TakeCluster();
    Count(host_offset, 1);
    SetEntry(guest_offset, {.has_host = true,
                            .copied = true,
                            .host_offset = host_offset,
                            .allocated = SubclusterMask(0, layout_.subclusters())});
    const absl::Status status = co_await Put(host_offset, cluster);
    co_return status;
  }
  // The next host cluster, when that is a neighbour's, takes what does not fit.
  const bool full = pack_offset_.has_value() &&
                    CountOf(layout_.cluster_index(*pack_offset_)) == layout_.max_refcount();
  if (pack_offset_.has_value() && (full || pack_used_ + stream.size() > cluster_bytes)) {
    const bool neighbour = layout_.cluster_index(*pack_offset_) + 1 == counts_.size();
    if (full || !neighbour) CO_RETURN_IF_ERROR(co_await ClosePack());
  }
  if (!pack_offset_.has_value()) {
    pack_offset_ = TakeCluster();
    pack_used_ = 0;
  }
  const uint64_t host_offset = *pack_offset_ + pack_used_;
  uint64_t done = 0;
  while (true) {
    const uint64_t part = std::min<uint64_t>(stream.size() - done, cluster_bytes - pack_used_);
    std::memcpy(pack_.data() + pack_used_, stream.data() + done, part);
    pack_used_ += part;
    done += part;
    if (done == stream.size()) break;
    CO_RETURN_IF_ERROR(co_await ClosePack());
    pack_offset_ = TakeCluster();
    pack_used_ = 0;
  }
  Count(host_offset, stream.size());
  SetEntry(guest_offset, {.kind = ClusterEntry::Kind::kCompressed,
                          .host_offset = host_offset,
                          .compressed_bytes = static_cast<uint32_t>(stream.size())});
  if (pack_used_ == cluster_bytes) CO_RETURN_IF_ERROR(co_await ClosePack());
  co_return absl::OkStatus();
}

Task<absl::Status> PackedWriter::AddZeros(uint64_t guest_offset) {
  CO_RETURN_IF_ERROR(co_await Enter(guest_offset));
  SetEntry(guest_offset, {.zero = SubclusterMask(0, layout_.subclusters())});
  co_return absl::OkStatus();
}

Task<absl::Status> PackedWriter::ClosePack() {
  if (!pack_offset_.has_value()) co_return absl::OkStatus();
  std::fill(pack_.begin() + static_cast<ptrdiff_t>(pack_used_), pack_.end(), 0);
  const uint64_t host_offset = *pack_offset_;
  pack_offset_.reset();
  const absl::Status status = co_await Put(host_offset, pack_);
  co_return status;
}

Task<absl::Status> PackedWriter::Put(uint64_t host_offset, std::span<const uint8_t> cluster) {
  const uint64_t limit = std::max(kRunBytes, layout_.cluster_bytes());
  if (run_.bytes > 0 &&
      (run_.host_offset + run_.bytes != host_offset || run_.bytes + cluster.size() > limit)) {
    CO_RETURN_IF_ERROR(co_await SendRun());
  }
  if (run_.bytes == 0) {
    run_.host_offset = host_offset;
    if (!spare_.empty()) {
      run_.content = std::move(spare_.back());
      spare_.pop_back();
    } else {
      run_.content = AllocateAligned(limit);
    }
  }
  std::memcpy(run_.content.get() + run_.bytes, cluster.data(), cluster.size());
  run_.bytes += cluster.size();
  co_return absl::OkStatus();
}

Task<absl::Status> PackedWriter::SendRun() {
  if (run_.bytes == 0) co_return status_;
  while (in_flight_ >= kMaxInFlight) {
    landed_.Reset();
    co_await landed_.Wait();
  }
  ++in_flight_;
  Run run = std::move(run_);
  run_ = Run{};
  writes_.Spawn(WriteRun(std::move(run)));
  co_return status_;
}

Task<void> PackedWriter::WriteRun(Run run) {
  const absl::Status status = co_await WriteBytes(
      file_, run.host_offset, std::span<const uint8_t>(run.content.get(), run.bytes));
  if (!status.ok() && status_.ok()) status_ = status;
  spare_.push_back(std::move(run.content));
  --in_flight_;
  landed_.Set();
}

Task<void> PackedWriter::Abandon() { co_await writes_.Join(); }

Task<absl::Status> PackedWriter::Finish() {
  absl::Status status = co_await WriteTable();
  if (status.ok()) status = co_await ClosePack();
  if (status.ok()) status = co_await SendRun();
  co_await writes_.Join();
  if (status.ok()) status = status_;
  CO_RETURN_IF_ERROR(status);
  std::vector<uint8_t> l1(l1_.size() * sizeof(Be64));
  for (size_t i = 0; i < l1_.size(); ++i) Store64(l1, i * sizeof(Be64), l1_[i]);
  if (!l1.empty()) CO_RETURN_IF_ERROR(co_await WriteBytes(file_, header_.l1_offset, l1));
  CO_RETURN_IF_ERROR(co_await WriteCounts());
  // The last cluster may hold less than it could: the file ends with a whole one.
  const uint64_t end = counts_.size() << layout_.cluster_bits;
  if (file_.traits().growable && file_.size() < end) {
    CO_RETURN_IF_ERROR(co_await file_.Truncate(end));
  }
  status = co_await file_.Sync();
  co_return status;
}

Task<absl::Status> PackedWriter::WriteCounts() {
  const uint64_t cluster_bytes = layout_.cluster_bytes();
  const uint64_t per_block = layout_.refcounts_per_block();
  const uint64_t per_table_cluster = cluster_bytes / sizeof(Be64);
  // The empty image's table and blocks stay where they are; what more is needed goes to the end and
  // counts itself.
  const uint64_t old_table_clusters = header_.refcount_table_clusters;
  std::vector<uint64_t> blocks;
  {
    std::vector<Be64> table(old_table_clusters * per_table_cluster);
    const iovec part = {table.data(), table.size() * sizeof(Be64)};
    CO_RETURN_IF_ERROR(co_await file_.Read(header_.refcount_table_offset, IoVecs(&part, 1)));
    for (const Be64& entry : table) {
      if (entry == 0) break;
      blocks.push_back(entry);
    }
  }
  uint64_t table_clusters = old_table_clusters;
  uint64_t table_offset = header_.refcount_table_offset;
  while (true) {
    if (blocks.size() * per_block < counts_.size()) {
      blocks.push_back(TakeCluster());
      Count(blocks.back(), 1);
      continue;
    }
    const uint64_t needed = DivideRoundUp<uint64_t>(blocks.size(), per_table_cluster);
    if (needed <= table_clusters) break;
    // A larger table moves as a whole; a first try that is too small is given up again.
    for (uint64_t i = 0; i < table_clusters; ++i) {
      --counts_[layout_.cluster_index(table_offset) + i];
    }
    table_clusters = needed + needed / 2 + 1;
    table_offset = counts_.size() << layout_.cluster_bits;
    for (uint64_t i = 0; i < table_clusters; ++i) Count(TakeCluster(), 1);
  }
  if (table_clusters * cluster_bytes > kMaxRefcountTableBytes) {
    co_return absl::ResourceExhaustedError(
        absl::StrFormat("%s: too large for clusters of %d bytes", file_.name(), cluster_bytes));
  }
  std::vector<uint8_t> block(cluster_bytes);
  for (size_t i = 0; i < blocks.size(); ++i) {
    std::fill(block.begin(), block.end(), 0);
    const uint64_t first = i * per_block;
    const uint64_t end = std::min<uint64_t>(first + per_block, counts_.size());
    for (uint64_t cluster = first; cluster < end; ++cluster) {
      WriteRefcount(block, layout_.refcount_order, cluster - first, counts_[cluster]);
    }
    CO_RETURN_IF_ERROR(co_await WriteBytes(file_, blocks[i], block));
  }
  std::vector<uint8_t> table(table_clusters * cluster_bytes);
  for (size_t i = 0; i < blocks.size(); ++i) Store64(table, i * sizeof(Be64), blocks[i]);
  CO_RETURN_IF_ERROR(co_await WriteBytes(file_, table_offset, table));
  if (table_offset == header_.refcount_table_offset) co_return absl::OkStatus();
  std::vector<uint8_t> fields(12);
  Store64(fields, 0, table_offset);
  const Be32 clusters(static_cast<uint32_t>(table_clusters));
  std::memcpy(fields.data() + 8, &clusters, sizeof(clusters));
  const absl::Status status = co_await WriteBytes(file_, kRefcountTableFieldsOffset, fields);
  co_return status;
}

}  // namespace vireo::qcow2
