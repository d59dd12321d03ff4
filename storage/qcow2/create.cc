#include "storage/qcow2/create.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/check.h"
#include "base/status.h"
#include "storage/buffer_pool.h"
#include "storage/qcow2/cluster_mapping.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header.h"
#include "storage/qcow2/refcount_entry.h"

namespace vireo::qcow2 {
namespace {

// What is written at a time.
constexpr uint64_t kPieceBytes = 4 << 20;

// Cluster numbers of a new image.
struct Plan {
  uint64_t table_clusters = 1;
  uint64_t blocks = 1;
  uint64_t luks_clusters = 0;
  uint64_t l1_entries = 0;
  uint64_t l1_clusters = 0;
  uint64_t guest_clusters = 0;  // That have a place from the start.
  uint64_t l2_tables = 0;
  uint64_t data_clusters = 0;  // In this file.

  uint64_t first_block() const { return 1 + table_clusters; }
  uint64_t first_luks() const { return first_block() + blocks; }
  uint64_t first_l1() const { return first_luks() + luks_clusters; }
  uint64_t first_l2() const { return first_l1() + l1_clusters; }
  uint64_t first_data() const { return first_l2() + l2_tables; }
  uint64_t clusters() const { return first_data() + data_clusters; }
};

Preallocation PreallocationOf(const CreateOptions& options) {
  if (options.data_file_raw && options.preallocation == Preallocation::kOff) {
    return Preallocation::kMetadata;
  }
  return options.preallocation;
}

Plan MakePlan(const Layout& layout, const CreateOptions& options) {
  Plan plan;
  const uint64_t size_bytes = AlignUp<uint64_t>(options.size_bytes, 512);
  plan.luks_clusters = layout.clusters_for(options.luks_area.size());
  plan.l1_entries = layout.l1_entries_for(size_bytes);
  plan.l1_clusters = layout.clusters_for(plan.l1_entries * sizeof(Be64));
  if (PreallocationOf(options) != Preallocation::kOff) {
    plan.guest_clusters = layout.clusters_for(size_bytes);
    plan.l2_tables = plan.l1_entries;
    if (!layout.external_data) plan.data_clusters = plan.guest_clusters;
  }
  while (true) {
    const uint64_t blocks = DivideRoundUp<uint64_t>(plan.clusters(), layout.refcounts_per_block());
    const uint64_t table = layout.clusters_for(blocks * sizeof(Be64));
    if (blocks <= plan.blocks && table <= plan.table_clusters) return plan;
    plan.blocks = std::max(plan.blocks, blocks);
    plan.table_clusters = std::max(plan.table_clusters, table);
  }
}

Layout LayoutOf(const CreateOptions& options) {
  return {.version = options.version,
          .cluster_bits = options.cluster_bits,
          .refcount_order = options.refcount_order,
          .l2_entry_bytes = options.extended_l2 ? 16u : 8u,
          .external_data = options.data_file.has_value()};
}

// Small clusters have no room for a table of feature names.
constexpr uint64_t kMinClusterBytesForNames = 8192;

Header HeaderOf(const CreateOptions& options, const Layout& layout, const Plan& plan) {
  Header header;
  header.layout = layout;
  header.size_bytes = AlignUp<uint64_t>(options.size_bytes, 512);
  header.l1_entries = static_cast<uint32_t>(plan.l1_entries);
  header.l1_offset = plan.l1_entries > 0 ? plan.first_l1() << layout.cluster_bits : 0;
  header.refcount_table_offset = layout.cluster_bytes();
  header.refcount_table_clusters = static_cast<uint32_t>(plan.table_clusters);
  header.header_length = options.version < 3 ? kVersion2HeaderBytes : kFullHeaderBytes;
  if (options.lazy_refcounts) header.compatible |= kCompatibleLazyRefcounts;
  if (options.extended_l2) header.incompatible |= kIncompatibleExtendedL2;
  if (options.data_file.has_value()) {
    header.incompatible |= kIncompatibleDataFile;
    header.data_file = options.data_file;
    if (options.data_file_raw) header.autoclear |= kAutoclearRawDataFile;
  }
  if (options.zstd) {
    header.incompatible |= kIncompatibleCompression;
    header.compression_type = 1;
  }
  if (!options.luks_area.empty()) {
    header.crypt_method = kCryptLuks;
    header.encryption = EncryptionExtension{.offset = plan.first_luks() << layout.cluster_bits,
                                            .bytes = options.luks_area.size()};
  }
  header.backing_file = options.backing_file;
  header.backing_format = options.backing_format;
  header.has_feature_names =
      options.version >= 3 && layout.cluster_bytes() >= kMinClusterBytesForNames;
  return header;
}

// Writes a region front to back in large pieces.
class Writer {
 public:
  Writer(File& file, uint64_t offset) : file_(file), offset_(offset) {
    bytes_.reserve(kPieceBytes);
  }

  // At most kPieceBytes, good until Write().
  std::span<uint8_t> Add(uint64_t length) {
    bytes_.resize(bytes_.size() + length);
    return std::span(bytes_).last(length);
  }
  bool HasRoomFor(uint64_t length) const { return bytes_.size() + length <= kPieceBytes; }
  Task<absl::Status> Write() {
    if (bytes_.empty()) co_return absl::OkStatus();
    const iovec part = ToIoVec(std::span<const uint8_t>(bytes_));
    CO_RETURN_IF_ERROR(co_await file_.Write(offset_, IoVecs(&part, 1)));
    offset_ += bytes_.size();
    bytes_.clear();
    co_return absl::OkStatus();
  }

 private:
  File& file_;
  uint64_t offset_;
  std::vector<uint8_t> bytes_;
};

// Header, refcount table, blocks and LUKS header: every cluster of the plan is counted once.
Task<absl::Status> WriteCounts(File& file, const Layout& layout, const Plan& plan,
                               std::vector<uint8_t> header, std::span<const uint8_t> luks) {
  const uint64_t cluster_bytes = layout.cluster_bytes();
  Writer writer(file, 0);
  const std::span<uint8_t> first = writer.Add(header.size());
  std::copy(header.begin(), header.end(), first.begin());
  for (uint64_t cluster = 0; cluster < plan.table_clusters; ++cluster) {
    if (!writer.HasRoomFor(cluster_bytes)) CO_RETURN_IF_ERROR(co_await writer.Write());
    const std::span<uint8_t> table = writer.Add(cluster_bytes);
    const uint64_t per_cluster = cluster_bytes / sizeof(Be64);
    for (uint64_t i = 0; i < per_cluster && cluster * per_cluster + i < plan.blocks; ++i) {
      const uint64_t block = plan.first_block() + cluster * per_cluster + i;
      const Be64 entry(block << layout.cluster_bits);
      std::memcpy(table.data() + i * sizeof(entry), &entry, sizeof(entry));
    }
  }
  // All blocks but the last are alike.
  const uint64_t per_block = layout.refcounts_per_block();
  std::vector<uint8_t> full;
  for (uint64_t block = 0; block < plan.blocks; ++block) {
    if (!writer.HasRoomFor(cluster_bytes)) CO_RETURN_IF_ERROR(co_await writer.Write());
    const std::span<uint8_t> bytes = writer.Add(cluster_bytes);
    const uint64_t before = block * per_block;
    const uint64_t counted =
        before >= plan.clusters() ? 0 : std::min(per_block, plan.clusters() - before);
    if (counted == per_block && !full.empty()) {
      std::copy(full.begin(), full.end(), bytes.begin());
      continue;
    }
    for (uint64_t i = 0; i < counted; ++i) WriteRefcount(bytes, layout.refcount_order, i, 1);
    if (counted == per_block) full.assign(bytes.begin(), bytes.end());
  }
  if (!luks.empty()) {
    CO_RETURN_IF_ERROR(co_await writer.Write());
    const std::span<uint8_t> area = writer.Add(plan.luks_clusters * cluster_bytes);
    std::copy(luks.begin(), luks.end(), area.begin());
  }
  const absl::Status status = co_await writer.Write();
  co_return status;
}

// L1 and L2 tables that give every guest cluster its place, in order.
Task<absl::Status> WriteTables(File& file, const Layout& layout, const Plan& plan,
                               const CreateOptions& options) {
  const uint64_t cluster_bytes = layout.cluster_bytes();
  Writer writer(file, plan.first_l1() << layout.cluster_bits);
  for (uint64_t at = 0; at < plan.l1_clusters; ++at) {
    if (!writer.HasRoomFor(cluster_bytes)) CO_RETURN_IF_ERROR(co_await writer.Write());
    const std::span<uint8_t> table = writer.Add(cluster_bytes);
    const uint64_t per_cluster = cluster_bytes / sizeof(Be64);
    for (uint64_t i = 0; i < per_cluster && at * per_cluster + i < plan.l1_entries; ++i) {
      const uint64_t l2 = plan.first_l2() + at * per_cluster + i;
      const Be64 entry(l2 << layout.cluster_bits | kEntryCopied);
      std::memcpy(table.data() + i * sizeof(entry), &entry, sizeof(entry));
    }
  }
  // With extended L2 space is set aside, and its subclusters stay unallocated: a backing file shows
  // through. The bytes of a raw data file are the disk's.
  const bool allocated = !layout.extended_l2() || options.data_file_raw;
  const Be64 bitmap(allocated ? SubclusterMask(0, layout.subclusters()) : 0);
  const uint64_t first_data = layout.external_data ? 0 : plan.first_data() << layout.cluster_bits;
  for (uint64_t l2 = 0; l2 < plan.l2_tables; ++l2) {
    if (!writer.HasRoomFor(cluster_bytes)) CO_RETURN_IF_ERROR(co_await writer.Write());
    const std::span<uint8_t> table = writer.Add(cluster_bytes);
    const uint64_t before = l2 * layout.l2_entries();
    const uint64_t count = std::min(layout.l2_entries(), plan.guest_clusters - before);
    uint64_t descriptor = (first_data + (before << layout.cluster_bits)) | kEntryCopied;
    uint8_t* at = table.data();
    for (uint64_t i = 0; i < count; ++i, descriptor += cluster_bytes, at += layout.l2_entry_bytes) {
      const Be64 words[2] = {Be64(descriptor), bitmap};
      std::memcpy(at, words, layout.l2_entry_bytes);
    }
  }
  const absl::Status status = co_await writer.Write();
  co_return status;
}

Task<absl::Status> WriteZeros(File& file, uint64_t begin, uint64_t end) {
  std::vector<iovec> zeros;
  AppendZeros(kPieceBytes, zeros);
  for (uint64_t at = begin; at < end; at += kPieceBytes) {
    const IoVecList piece = Slice(zeros, 0, std::min(kPieceBytes, end - at));
    CO_RETURN_IF_ERROR(co_await file.Write(at, piece));
  }
  co_return absl::OkStatus();
}

// Gives the data file the disk's size, all zeros, with space as asked.
Task<absl::Status> PrepareDataFile(File& data, const CreateOptions& options) {
  const uint64_t size = AlignUp<uint64_t>(options.size_bytes, 512);
  if (!data.traits().growable) {
    if (size > data.size()) {
      co_return absl::ResourceExhaustedError(
          absl::StrFormat("%s: the device has %d bytes, not %d", data.name(), data.size(), size));
    }
    const absl::Status status = co_await data.WriteZeroes(0, size, /*may_unmap=*/false);
    co_return status;
  }
  CO_RETURN_IF_ERROR(co_await data.Truncate(0));
  if (options.preallocation >= Preallocation::kFalloc) {
    CO_RETURN_IF_ERROR(co_await data.Extend(size));
  }
  if (size != data.size()) CO_RETURN_IF_ERROR(co_await data.Truncate(size));
  if (options.preallocation == Preallocation::kFull) {
    CO_RETURN_IF_ERROR(co_await WriteZeros(data, 0, size));
  }
  const absl::Status status = co_await data.Sync();
  co_return status;
}

}  // namespace

absl::Status ValidateCreateOptions(const CreateOptions& options) {
  if (options.cluster_bits < kMinClusterBits || options.cluster_bits > kMaxClusterBits) {
    return absl::InvalidArgumentError("Cluster size must be a power of two between 512 and 2048k");
  }
  if (options.version != 2 && options.version != 3) {
    return absl::InvalidArgumentError(
        absl::StrFormat("QCOW2 version %d is not 2 or 3", options.version));
  }
  if (options.refcount_order > kMaxRefcountOrder) {
    return absl::InvalidArgumentError(
        "Refcount width must be a power of two and may not exceed 64 bits");
  }
  if (options.version < 3 && options.refcount_order != 4) {
    return absl::InvalidArgumentError(
        "Different refcount widths than 16 bits require compatibility level 1.1 or above (use "
        "version=v3 or greater)");
  }
  if (options.version < 3 && options.lazy_refcounts) {
    return absl::InvalidArgumentError(
        "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or "
        "greater)");
  }
  if (options.version < 3 && options.zstd) {
    return absl::InvalidArgumentError(
        "Non-zlib compression type is only supported with compatibility level 1.1 and above (use "
        "version=v3 or greater)");
  }
  if (options.extended_l2 && options.version < 3) {
    return absl::InvalidArgumentError(
        "Extended L2 entries are only supported with compatibility level 1.1 and above (use "
        "version=v3 or greater)");
  }
  if (options.extended_l2 && options.cluster_bits < kMinExtendedL2ClusterBits) {
    return absl::InvalidArgumentError(
        absl::StrFormat("Extended L2 entries are only supported with cluster sizes of at least %d "
                        "bytes",
                        1 << kMinExtendedL2ClusterBits));
  }
  if (options.size_bytes > (uint64_t{1} << 63) - 512) {
    return absl::InvalidArgumentError("Image size must be less than 8 EiB!");
  }
  const Layout layout = LayoutOf(options);
  if (layout.l1_entries_for(AlignUp<uint64_t>(options.size_bytes, 512)) * sizeof(Be64) >
      kMaxL1Bytes) {
    return absl::InvalidArgumentError(
        "The image size is too large for file format 'qcow2' (try using a larger cluster size)");
  }
  if (options.data_file.has_value() && options.version < 3) {
    return absl::InvalidArgumentError(
        "External data files are only supported with compatibility level 1.1 and above (use "
        "version=v3 or greater)");
  }
  // Space that was never written would be deciphered, and not read as zeros.
  if (!options.luks_area.empty() && PreallocationOf(options) != Preallocation::kOff) {
    return absl::UnimplementedError("Preallocation of an encrypted image is not supported");
  }
  if (options.data_file_raw && !options.data_file.has_value()) {
    return absl::InvalidArgumentError("data-file-raw requires data-file");
  }
  if (options.data_file_raw && options.backing_file.has_value()) {
    return absl::InvalidArgumentError(
        "Backing file and data-file-raw cannot be used at the same time");
  }
  if (options.preallocation != Preallocation::kOff && options.backing_file.has_value() &&
      !options.extended_l2) {
    return absl::InvalidArgumentError(
        "Backing file and preallocation can only be used at the same time if extended_l2 is on");
  }
  if (options.backing_file.has_value()) {
    if (options.backing_format.empty()) {
      return absl::InvalidArgumentError("Backing file specified without backing format");
    }
    if (options.backing_file->empty() || options.backing_file->size() > kMaxBackingNameBytes) {
      return absl::InvalidArgumentError(
          absl::StrFormat("A backing file name has 1 to %d bytes", kMaxBackingNameBytes));
    }
  }
  const Plan plan = MakePlan(layout, options);
  if (plan.table_clusters * layout.cluster_bytes() > kMaxRefcountTableBytes ||
      plan.clusters() > kMaxHostOffset >> layout.cluster_bits) {
    return absl::InvalidArgumentError("Image size too large for the cluster size");
  }
  return SerializeHeader(HeaderOf(options, layout, plan)).status();
}

Task<absl::Status> CreateImage(File& file, CreateOptions options, File* data) {
  CO_RETURN_IF_ERROR(ValidateCreateOptions(options));
  const Layout layout = LayoutOf(options);
  const Plan plan = MakePlan(layout, options);
  const uint64_t cluster_bytes = layout.cluster_bytes();
  VIREO_CHECK(options.data_file.has_value() == (data != nullptr),
              "a data file comes with its name");
  CO_ASSIGN_OR_RETURN(std::vector<uint8_t> header,
                      SerializeHeader(HeaderOf(options, layout, plan)));
  const uint64_t first_data = plan.first_data() << layout.cluster_bits;
  const uint64_t end_data = plan.clusters() << layout.cluster_bits;
  if (file.traits().growable) {
    CO_RETURN_IF_ERROR(co_await file.Truncate(0));
    // An empty image ends with its L1 table, as far as that has entries.
    const uint64_t end = plan.l2_tables > 0 ? end_data
                                            : (plan.first_l1() << layout.cluster_bits) +
                                                  plan.l1_entries * sizeof(Be64);
    if (options.preallocation >= Preallocation::kFalloc && plan.data_clusters > 0) {
      CO_RETURN_IF_ERROR(co_await file.Extend(end));
    }
    CO_RETURN_IF_ERROR(co_await file.Truncate(end));
  } else {
    if (end_data > file.size()) {
      co_return absl::ResourceExhaustedError(absl::StrFormat(
          "%s: the device has %d bytes, the image needs %d", file.name(), file.size(), end_data));
    }
    if (plan.l2_tables == 0) {
      CO_RETURN_IF_ERROR(co_await file.WriteZeroes(plan.first_l1() << layout.cluster_bits,
                                                   plan.l1_clusters * cluster_bytes,
                                                   /*may_unmap=*/false));
    } else if (plan.data_clusters > 0) {  // What is preallocated reads as zeros.
      CO_RETURN_IF_ERROR(co_await file.WriteZeroes(first_data, end_data - first_data,
                                                   /*may_unmap=*/false));
    }
  }
  if (data != nullptr) CO_RETURN_IF_ERROR(co_await PrepareDataFile(*data, options));
  if (plan.l2_tables > 0) CO_RETURN_IF_ERROR(co_await WriteTables(file, layout, plan, options));
  if (options.preallocation == Preallocation::kFull) {
    CO_RETURN_IF_ERROR(co_await WriteZeros(file, first_data, end_data));
  }
  CO_RETURN_IF_ERROR(
      co_await WriteCounts(file, layout, plan, std::move(header), options.luks_area));
  const absl::Status status = co_await file.Sync();
  co_return status;
}

}  // namespace vireo::qcow2
