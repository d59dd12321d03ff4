#include "storage/qcow2/create.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header.h"
#include "storage/qcow2/refcount_entry.h"

namespace vireo::qcow2 {
namespace {

// Cluster numbers of an empty image.
struct Plan {
  uint64_t table_clusters = 1;
  uint64_t blocks = 1;
  uint64_t luks_clusters = 0;
  uint64_t l1_entries = 0;
  uint64_t l1_clusters = 0;

  uint64_t first_block() const { return 1 + table_clusters; }
  uint64_t first_luks() const { return first_block() + blocks; }
  uint64_t first_l1() const { return first_luks() + luks_clusters; }
  uint64_t clusters() const { return first_l1() + l1_clusters; }
};

Plan MakePlan(const Layout& layout, const CreateOptions& options) {
  Plan plan;
  const uint64_t size_bytes = AlignUp<uint64_t>(options.size_bytes, 512);
  plan.luks_clusters = layout.clusters_for(options.luks_area.size());
  plan.l1_entries = layout.l1_entries_for(size_bytes);
  plan.l1_clusters = layout.clusters_for(plan.l1_entries * sizeof(Be64));
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
          .l2_entry_bytes = options.extended_l2 ? 16u : 8u};
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
  if (options.backing_file.has_value()) {
    if (options.backing_format.empty()) {
      return absl::InvalidArgumentError("Backing file specified without backing format");
    }
    if (options.backing_file->empty() || options.backing_file->size() > kMaxBackingNameBytes) {
      return absl::InvalidArgumentError(
          absl::StrFormat("A backing file name has 1 to %d bytes", kMaxBackingNameBytes));
    }
  }
  return SerializeHeader(HeaderOf(options, layout, MakePlan(layout, options))).status();
}

Task<absl::Status> CreateImage(File& file, CreateOptions options) {
  CO_RETURN_IF_ERROR(ValidateCreateOptions(options));
  const Layout layout = LayoutOf(options);
  const Plan plan = MakePlan(layout, options);
  const uint64_t cluster_bytes = layout.cluster_bytes();
  CO_ASSIGN_OR_RETURN(std::vector<uint8_t> bytes, SerializeHeader(HeaderOf(options, layout, plan)));

  // Header, refcount table, blocks and LUKS header in one piece; the L1 table behind them is zeros.
  bytes.resize(plan.first_l1() * cluster_bytes);
  for (uint64_t i = 0; i < plan.blocks; ++i) {
    const Be64 entry((plan.first_block() + i) * cluster_bytes);
    std::memcpy(bytes.data() + cluster_bytes + i * sizeof(entry), &entry, sizeof(entry));
  }
  for (uint64_t cluster = 0; cluster < plan.clusters(); ++cluster) {
    const uint64_t block = plan.first_block() + cluster / layout.refcounts_per_block();
    WriteRefcount(std::span(bytes).subspan(block * cluster_bytes, cluster_bytes),
                  layout.refcount_order, cluster % layout.refcounts_per_block(), 1);
  }
  if (!options.luks_area.empty()) {
    std::memcpy(bytes.data() + plan.first_luks() * cluster_bytes, options.luks_area.data(),
                options.luks_area.size());
  }
  const uint64_t end = bytes.size() + plan.l1_entries * sizeof(Be64);
  if (file.traits().growable) {
    CO_RETURN_IF_ERROR(co_await file.Truncate(0));
    CO_RETURN_IF_ERROR(co_await file.Truncate(end));
  } else {
    if (plan.clusters() * cluster_bytes > file.size()) {
      co_return absl::ResourceExhaustedError(
          absl::StrFormat("%s: the device has %d bytes, an empty image needs %d", file.name(),
                          file.size(), plan.clusters() * cluster_bytes));
    }
    CO_RETURN_IF_ERROR(co_await file.WriteZeroes(bytes.size(), plan.l1_clusters * cluster_bytes,
                                                 /*may_unmap=*/false));
  }
  const iovec part = ToIoVec(std::span<uint8_t>(bytes));
  CO_RETURN_IF_ERROR(co_await file.Write(0, IoVecs(&part, 1)));
  const absl::Status status = co_await file.Sync();
  co_return status;
}

}  // namespace vireo::qcow2
