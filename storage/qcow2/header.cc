#include "storage/qcow2/header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/qcow2/format.h"

namespace vireo::qcow2 {
namespace {

struct KnownFeature {
  uint8_t kind;
  uint8_t bit;
  const char* name;
};

// The names and the order that QEMU writes.
constexpr std::array<KnownFeature, 8> kFeatureNames = {{{0, 0, "dirty bit"},
                                                        {0, 1, "corrupt bit"},
                                                        {0, 2, "external data file"},
                                                        {0, 3, "compression type"},
                                                        {0, 4, "extended L2 entries"},
                                                        {1, 0, "lazy refcounts"},
                                                        {2, 0, "bitmaps"},
                                                        {2, 1, "raw external data"}}};

struct NamedRange {
  const char* name;
  uint64_t begin;
  uint64_t end;
};

// One parse: the name for messages, the bytes, and what was found so far.
class Parser {
 public:
  Parser(absl::string_view name, std::span<const uint8_t> bytes, uint64_t file_bytes, Access access)
      : name_(name), bytes_(bytes), file_bytes_(file_bytes), access_(access) {}

  absl::StatusOr<Header> Parse() {
    RETURN_IF_ERROR(ParseIdentity());
    RETURN_IF_ERROR(ParseLength());
    RETURN_IF_ERROR(ParseBackingFileName());
    RETURN_IF_ERROR(ParseFeatures());
    RETURN_IF_ERROR(ParseRefcountOrder());
    RETURN_IF_ERROR(ParseEncryption());
    RETURN_IF_ERROR(ParseRefcountTable());
    RETURN_IF_ERROR(ParseSnapshots());
    RETURN_IF_ERROR(ParseL1AndSize());
    RETURN_IF_ERROR(ParseExtensions());
    RETURN_IF_ERROR(CheckExtensions());
    RETURN_IF_ERROR(CheckDisjoint());
    return std::move(header_);
  }

  absl::Status ParseIdentity() {
    if (bytes_.size() < kVersion2HeaderBytes) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: not a QCOW2 image: %d bytes are no header", name_, bytes_.size()));
    }
    std::memcpy(&raw_, bytes_.data(), std::min(bytes_.size(), sizeof(raw_)));
    if (raw_.magic != kMagic) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: not a QCOW2 image: magic is 0x%08x, not 0x%08x", name_, raw_.magic.value(), kMagic));
    }
    if (raw_.version != 2 && raw_.version != 3) {
      return absl::UnimplementedError(
          absl::StrFormat("%s: QCOW2 version is %d, not 2 or 3", name_, raw_.version.value()));
    }
    if (raw_.cluster_bits < kMinClusterBits || raw_.cluster_bits > kMaxClusterBits) {
      return Bad("cluster_bits is %d, not within [%d, %d]", raw_.cluster_bits.value(),
                 kMinClusterBits, kMaxClusterBits);
    }
    header_.layout.version = raw_.version;
    header_.layout.cluster_bits = raw_.cluster_bits;
    return absl::OkStatus();
  }

  uint64_t cluster_bytes() const { return header_.layout.cluster_bytes(); }

 private:
  template <typename... Args>
  absl::Status Bad(const absl::FormatSpec<Args...>& format, const Args&... args) const {
    return absl::DataLossError(absl::StrFormat("%s: %s", name_, absl::StrFormat(format, args...)));
  }

  absl::Status BeyondUs(absl::string_view feature) const {
    if (access_ == Access::kInspect) return absl::OkStatus();
    return absl::UnimplementedError(
        absl::StrFormat("%s: the image uses %s, which is not supported yet", name_, feature));
  }

  absl::Status ParseLength() {
    if (raw_.version == 2) {
      header_.header_length = kVersion2HeaderBytes;
      // Bytes behind a version 2 header belong to extensions.
      std::memset(reinterpret_cast<uint8_t*>(&raw_) + kVersion2HeaderBytes, 0,
                  sizeof(raw_) - kVersion2HeaderBytes);
      raw_.refcount_order = 4;
      return absl::OkStatus();
    }
    if (bytes_.size() < kMinVersion3HeaderBytes) {
      return Bad("%d bytes are no version 3 header", bytes_.size());
    }
    const uint32_t length = raw_.header_length;
    if (length < kMinVersion3HeaderBytes || length > cluster_bytes() || length % 8 != 0) {
      return Bad("header_length is %d, not a multiple of 8 within [%d, %d]", length,
                 kMinVersion3HeaderBytes, cluster_bytes());
    }
    if (length > bytes_.size()) {
      return Bad("header_length is %d, but the file has %d bytes", length, file_bytes_);
    }
    if (length < sizeof(raw_)) {  // An absent field equals zero.
      std::memset(reinterpret_cast<uint8_t*>(&raw_) + length, 0, sizeof(raw_) - length);
    } else {
      header_.unknown_fields.assign(bytes_.begin() + sizeof(raw_), bytes_.begin() + length);
    }
    header_.header_length = length;
    return absl::OkStatus();
  }

  absl::Status ParseBackingFileName() {
    const uint64_t offset = raw_.backing_file_offset;
    if (offset == 0) return absl::OkStatus();
    const uint32_t length = raw_.backing_file_size;
    if (offset < header_.header_length || offset > cluster_bytes()) {
      return Bad("backing_file_offset is %d, not within [%d, %d]", offset, header_.header_length,
                 cluster_bytes());
    }
    if (length == 0 || length > kMaxBackingNameBytes || length > cluster_bytes() - offset) {
      return Bad("the backing file name has %d bytes, not 1 to %d inside the first cluster", length,
                 kMaxBackingNameBytes);
    }
    if (offset + length > bytes_.size()) return Bad("the backing file name is past the end");
    std::string name(reinterpret_cast<const char*>(bytes_.data()) + offset, length);
    if (name.find('\0') != std::string::npos) return Bad("the backing file name has a zero byte");
    header_.backing_file = std::move(name);
    return absl::OkStatus();
  }

  absl::Status ParseFeatures() {
    header_.incompatible = raw_.incompatible_features;
    header_.compatible = raw_.compatible_features;
    header_.autoclear = raw_.autoclear_features;
    header_.compression_type = raw_.compression_type;
    const uint64_t unknown = header_.incompatible & ~kKnownIncompatible;
    if (unknown != 0) {
      std::string names;
      for (int bit = 0; bit < 64; ++bit) {
        if ((unknown >> bit & 1) == 0) continue;
        if (!names.empty()) names += ", ";
        names += FeatureName(bit);
      }
      return absl::UnimplementedError(
          absl::StrFormat("%s: unknown incompatible features: %s", name_, names));
    }
    const bool compression_bit = (header_.incompatible & kIncompatibleCompression) != 0;
    if (header_.compression_type > 1) {
      return Bad("compression_type is %d, not 0 (zlib) or 1 (zstd)", header_.compression_type);
    }
    if (compression_bit != (header_.compression_type != 0)) {
      return Bad("compression_type is %d, but the compression type feature bit is %d",
                 header_.compression_type, compression_bit ? 1 : 0);
    }
    if (header_.corrupt() && access_ == Access::kReadWrite) {
      return Bad("the image is marked corrupt: it can be opened read-only or repaired");
    }
    if ((header_.incompatible & kIncompatibleExtendedL2) != 0) {
      if (header_.layout.cluster_bits < kMinExtendedL2ClusterBits) {
        return Bad("extended L2 entries need cluster_bits of at least %d, not %d",
                   kMinExtendedL2ClusterBits, header_.layout.cluster_bits);
      }
      header_.layout.l2_entry_bytes = 16;
    }
    const bool data_file = (header_.incompatible & kIncompatibleDataFile) != 0;
    header_.layout.external_data = data_file;
    if ((header_.autoclear & kAutoclearRawDataFile) != 0 && !data_file) {
      return Bad("raw external data is claimed without an external data file");
    }
    if (header_.raw_external_data() && header_.backing_file.has_value() &&
        access_ != Access::kInspect) {
      return Bad("raw external data is claimed, but there is a backing file");
    }
    return absl::OkStatus();
  }

  // From the image's own feature name table, which only serves messages.
  std::string FeatureName(int bit) const {
    uint64_t at = header_.header_length;
    while (at + sizeof(RawExtension) <= bytes_.size()) {
      RawExtension extension;
      std::memcpy(&extension, bytes_.data() + at, sizeof(extension));
      at += sizeof(extension);
      if (extension.type == kExtensionEnd || extension.length > bytes_.size() - at) break;
      if (extension.type == kExtensionFeatureNames) {
        for (uint64_t i = 0; i + sizeof(RawFeatureName) <= extension.length;
             i += sizeof(RawFeatureName)) {
          RawFeatureName entry;
          std::memcpy(&entry, bytes_.data() + at + i, sizeof(entry));
          if (entry.kind != 0 || entry.bit != bit) continue;
          return absl::StrFormat(
              "%s (bit %d)",
              absl::CHexEscape(absl::string_view(entry.name, strnlen(entry.name, 46))), bit);
        }
      }
      at += (uint64_t{extension.length} + 7) / 8 * 8;
    }
    return absl::StrFormat("bit %d", bit);
  }

  absl::Status ParseRefcountOrder() {
    if (raw_.refcount_order > kMaxRefcountOrder) {
      return Bad("refcount_order is %d, not within [0, %d]", raw_.refcount_order.value(),
                 kMaxRefcountOrder);
    }
    header_.layout.refcount_order = raw_.refcount_order;
    return absl::OkStatus();
  }

  absl::Status ParseEncryption() {
    header_.crypt_method = raw_.crypt_method;
    if (header_.crypt_method > kCryptLuks) {
      return Bad("crypt_method is %d, not 0, 1 or 2", header_.crypt_method);
    }
    if (header_.crypt_method == kCryptLegacyAes) {
      return BeyondUs("the broken AES encryption of old (convert the image with another tool)");
    }
    return absl::OkStatus();
  }

  absl::Status CheckTable(const char* what, uint64_t offset, uint64_t length) const {
    if (offset % cluster_bytes() != 0) {
      return Bad("the %s is at offset %d, not at a multiple of the cluster size %d", what, offset,
                 cluster_bytes());
    }
    if (offset < cluster_bytes()) return Bad("the %s overlaps the header", what);
    if (offset >= kMaxHostOffset || length > kMaxHostOffset - offset) {
      return Bad("the %s at offset %d is beyond what a host offset can say", what, offset);
    }
    return absl::OkStatus();
  }

  absl::Status ParseRefcountTable() {
    header_.refcount_table_offset = raw_.refcount_table_offset;
    header_.refcount_table_clusters = raw_.refcount_table_clusters;
    if (header_.refcount_table_clusters == 0) {
      if (access_ == Access::kRepair || access_ == Access::kInspect) return absl::OkStatus();
      return Bad("there is no refcount table");
    }
    const uint64_t length = uint64_t{header_.refcount_table_clusters} * cluster_bytes();
    if (length > kMaxRefcountTableBytes) {
      return Bad("the refcount table has %d bytes, more than %d", length, kMaxRefcountTableBytes);
    }
    RETURN_IF_ERROR(CheckTable("refcount table", header_.refcount_table_offset, length));
    if (header_.refcount_table_offset >= file_bytes_ && access_ != Access::kInspect &&
        access_ != Access::kRepair) {
      return Bad("the refcount table at offset %d is past the end of the file (%d bytes)",
                 header_.refcount_table_offset, file_bytes_);
    }
    return absl::OkStatus();
  }

  absl::Status ParseSnapshots() {
    header_.snapshot_count = raw_.snapshot_count;
    header_.snapshots_offset = raw_.snapshots_offset;
    if (header_.snapshot_count == 0) return absl::OkStatus();
    if (header_.snapshot_count > kMaxSnapshots && access_ != Access::kRepair) {
      return Bad("%d internal snapshots are more than %d", header_.snapshot_count, kMaxSnapshots);
    }
    return CheckTable("snapshot table", header_.snapshots_offset, cluster_bytes());
  }

  absl::Status ParseL1AndSize() {
    header_.l1_entries = raw_.l1_size;
    header_.l1_offset = raw_.l1_table_offset;
    const uint64_t length = uint64_t{header_.l1_entries} * 8;
    if (length > kMaxL1Bytes) {
      return Bad("the L1 table has %d entries, more than %d", header_.l1_entries, kMaxL1Bytes / 8);
    }
    if (header_.l1_entries > 0) {
      RETURN_IF_ERROR(CheckTable("L1 table", header_.l1_offset, length));
      if (header_.l1_offset + length > file_bytes_ && access_ != Access::kInspect) {
        return Bad("the L1 table (%d bytes at offset %d) is past the end of the file (%d bytes)",
                   length, header_.l1_offset, file_bytes_);
      }
    }
    if (raw_.size >= uint64_t{1} << 63) return Bad("the disk size is %d bytes", raw_.size.value());
    header_.size_bytes = raw_.size / 512 * 512;
    const uint64_t wanted = header_.layout.l1_entries_for(header_.size_bytes);
    if (wanted > header_.l1_entries) {
      return Bad("the L1 table has %d entries, but a disk of %d bytes needs %d", header_.l1_entries,
                 header_.size_bytes, wanted);
    }
    return absl::OkStatus();
  }

  absl::Status ParseExtensions() {
    const uint64_t end = header_.backing_file.has_value()
                             ? raw_.backing_file_offset.value()
                             : std::min<uint64_t>(cluster_bytes(), bytes_.size());
    uint64_t at = header_.header_length;
    std::set<uint32_t> seen;
    while (at < end) {
      RawExtension extension;
      if (end - at < sizeof(extension))
        return Bad("a header extension crosses the end of its area");
      std::memcpy(&extension, bytes_.data() + at, sizeof(extension));
      at += sizeof(extension);
      if (extension.type == kExtensionEnd) break;
      const uint32_t length = extension.length;
      if (length > end - at) {
        return Bad("header extension 0x%08x has %d bytes, past the end of its area",
                   extension.type.value(), length);
      }
      if (!seen.insert(extension.type.value()).second) {
        return Bad("header extension 0x%08x appears twice", extension.type.value());
      }
      RETURN_IF_ERROR(ParseExtension(extension.type, bytes_.subspan(at, length)));
      at += std::min((uint64_t{length} + 7) / 8 * 8, end - at);
    }
    return absl::OkStatus();
  }

  absl::Status ParseExtension(uint32_t type, std::span<const uint8_t> data) {
    const std::string text(data.begin(), data.end());
    switch (type) {
      case kExtensionBackingFormat:
        if (data.size() > kMaxBackingFormatBytes) {
          return Bad("the backing file format has %d bytes, more than %d", data.size(),
                     kMaxBackingFormatBytes);
        }
        header_.backing_format = text;
        return absl::OkStatus();
      case kExtensionFeatureNames:
        header_.has_feature_names = true;  // Rewritten with our own names.
        return absl::OkStatus();
      case kExtensionDataFile:
        header_.data_file = text;
        return absl::OkStatus();
      case kExtensionBitmaps:
        return ParseBitmaps(data);
      case kExtensionEncryption:
        return ParseEncryptionPointer(data);
      default:
        break;
    }
    header_.unknown_extensions.push_back({type, {data.begin(), data.end()}});
    return absl::OkStatus();
  }

  absl::Status ParseBitmaps(std::span<const uint8_t> data) {
    const bool writable = access_ == Access::kReadWrite || access_ == Access::kRepair;
    RawBitmapsExtension raw = {};
    std::memcpy(&raw, data.data(), std::min(data.size(), sizeof(raw)));
    const bool sane =
        data.size() == sizeof(raw) && raw.bitmap_count > 0 && raw.bitmap_count <= kMaxBitmaps &&
        raw.reserved == 0 && raw.directory_bytes <= uint64_t{1024} * kMaxBitmaps &&
        CheckTable("bitmap directory", raw.directory_offset, raw.directory_bytes).ok();
    if (!sane) {
      // Only a writer could make a damaged extension worse.
      if (writable) return Bad("the bitmaps extension is damaged");
      header_.unknown_extensions.push_back({kExtensionBitmaps, {data.begin(), data.end()}});
      return absl::OkStatus();
    }
    header_.bitmaps = BitmapsExtension{.bitmap_count = raw.bitmap_count,
                                       .directory_bytes = raw.directory_bytes,
                                       .directory_offset = raw.directory_offset};
    return absl::OkStatus();
  }

  absl::Status ParseEncryptionPointer(std::span<const uint8_t> data) {
    RawEncryptionExtension raw = {};
    if (data.size() != sizeof(raw)) {
      return Bad("the encryption header extension has %d bytes, not %d", data.size(), sizeof(raw));
    }
    std::memcpy(&raw, data.data(), sizeof(raw));
    if (raw.length == 0 || raw.length > kMaxEncryptionHeaderBytes) {
      return Bad("the encryption header has %d bytes, not within [1, %d]", raw.length.value(),
                 kMaxEncryptionHeaderBytes);
    }
    RETURN_IF_ERROR(CheckTable("encryption header", raw.offset, raw.length));
    header_.encryption = EncryptionExtension{.offset = raw.offset, .bytes = raw.length};
    return absl::OkStatus();
  }

  absl::Status CheckExtensions() const {
    if (header_.crypt_method == kCryptLuks && !header_.encryption.has_value()) {
      return Bad("LUKS encryption without its header extension");
    }
    if (header_.crypt_method != kCryptLuks && header_.encryption.has_value()) {
      return Bad("an encryption header extension, but crypt_method is %d", header_.crypt_method);
    }
    return absl::OkStatus();
  }

  absl::Status CheckDisjoint() const {
    std::vector<NamedRange> ranges = {{"header", 0, cluster_bytes()}};
    const auto add = [&](const char* what, uint64_t offset, uint64_t length) {
      if (length > 0) ranges.push_back({what, offset, offset + length});
    };
    add("refcount table", header_.refcount_table_offset,
        header_.refcount_table_clusters * cluster_bytes());
    add("L1 table", header_.l1_offset, uint64_t{header_.l1_entries} * 8);
    if (header_.encryption.has_value()) {
      add("encryption header", header_.encryption->offset, header_.encryption->bytes);
    }
    if (header_.snapshot_count > 0)
      add("snapshot table", header_.snapshots_offset, cluster_bytes());
    std::sort(ranges.begin(), ranges.end(),
              [](const NamedRange& a, const NamedRange& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < ranges.size(); ++i) {
      if (ranges[i].begin >= ranges[i - 1].end) continue;
      return Bad("the %s overlaps the %s", ranges[i].name, ranges[i - 1].name);
    }
    return absl::OkStatus();
  }

  absl::string_view name_;
  std::span<const uint8_t> bytes_;
  uint64_t file_bytes_;
  Access access_;
  RawHeader raw_ = {};
  Header header_;
};

void Append(std::vector<uint8_t>& out, const void* data, size_t length) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  out.insert(out.end(), bytes, bytes + length);
}

void AppendExtension(std::vector<uint8_t>& out, uint32_t type, std::span<const uint8_t> data) {
  RawExtension raw = {};
  raw.type = type;
  raw.length = static_cast<uint32_t>(data.size());
  Append(out, &raw, sizeof(raw));
  Append(out, data.data(), data.size());
  out.resize((out.size() + 7) / 8 * 8);
}

std::span<const uint8_t> BytesOf(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

RawHeader RawFieldsOf(const Header& header) {
  RawHeader raw = {};
  raw.magic = kMagic;
  raw.version = header.layout.version;
  raw.cluster_bits = header.layout.cluster_bits;
  raw.size = header.size_bytes;
  raw.crypt_method = header.crypt_method;
  raw.l1_size = header.l1_entries;
  raw.l1_table_offset = header.l1_offset;
  raw.refcount_table_offset = header.refcount_table_offset;
  raw.refcount_table_clusters = header.refcount_table_clusters;
  raw.snapshot_count = header.snapshot_count;
  raw.snapshots_offset = header.snapshots_offset;
  raw.incompatible_features = header.incompatible;
  raw.compatible_features = header.compatible;
  raw.autoclear_features = header.autoclear;
  raw.refcount_order = header.layout.refcount_order;
  raw.header_length = header.header_length;
  raw.compression_type = header.compression_type;
  return raw;
}

// Up to the end of the extensions.
std::vector<uint8_t> FieldsAndExtensions(const Header& header) {
  const RawHeader raw = RawFieldsOf(header);
  std::vector<uint8_t> out;
  Append(out, &raw, std::min<size_t>(sizeof(raw), header.header_length));
  Append(out, header.unknown_fields.data(), header.unknown_fields.size());
  if (!header.backing_format.empty()) {
    AppendExtension(out, kExtensionBackingFormat, BytesOf(header.backing_format));
  }
  if (header.data_file.has_value()) {
    AppendExtension(out, kExtensionDataFile, BytesOf(*header.data_file));
  }
  if (header.encryption.has_value()) {
    RawEncryptionExtension pointer = {};
    pointer.offset = header.encryption->offset;
    pointer.length = header.encryption->bytes;
    AppendExtension(out, kExtensionEncryption,
                    {reinterpret_cast<const uint8_t*>(&pointer), sizeof(pointer)});
  }
  if (header.has_feature_names) {
    std::array<RawFeatureName, kFeatureNames.size()> names = {};
    for (size_t i = 0; i < names.size(); ++i) {
      names[i].kind = kFeatureNames[i].kind;
      names[i].bit = kFeatureNames[i].bit;
      std::strncpy(names[i].name, kFeatureNames[i].name, sizeof(names[i].name) - 1);
    }
    AppendExtension(out, kExtensionFeatureNames,
                    {reinterpret_cast<const uint8_t*>(names.data()), sizeof(names)});
  }
  if (header.bitmaps.has_value()) {
    RawBitmapsExtension bitmaps = {};
    bitmaps.bitmap_count = header.bitmaps->bitmap_count;
    bitmaps.directory_bytes = header.bitmaps->directory_bytes;
    bitmaps.directory_offset = header.bitmaps->directory_offset;
    AppendExtension(out, kExtensionBitmaps,
                    {reinterpret_cast<const uint8_t*>(&bitmaps), sizeof(bitmaps)});
  }
  for (const HeaderExtension& extension : header.unknown_extensions) {
    AppendExtension(out, extension.type, extension.data);
  }
  AppendExtension(out, kExtensionEnd, {});
  return out;
}

}  // namespace

bool Header::dirty() const { return (incompatible & kIncompatibleDirty) != 0; }
bool Header::raw_external_data() const {
  return (autoclear & kAutoclearRawDataFile) != 0 && layout.external_data;
}
bool Header::corrupt() const { return (incompatible & kIncompatibleCorrupt) != 0; }

absl::StatusOr<uint64_t> HeaderClusterBytes(absl::string_view name, std::span<const uint8_t> head) {
  Parser parser(name, head, head.size(), Access::kInspect);
  RETURN_IF_ERROR(parser.ParseIdentity());
  return parser.cluster_bytes();
}

absl::StatusOr<Header> ParseHeader(absl::string_view name, std::span<const uint8_t> first_cluster,
                                   uint64_t file_bytes, Access access) {
  return Parser(name, first_cluster, file_bytes, access).Parse();
}

absl::StatusOr<std::vector<uint8_t>> SerializeHeader(const Header& header,
                                                     size_t least_name_offset) {
  std::vector<uint8_t> out = FieldsAndExtensions(header);
  if (header.backing_file.has_value()) {
    out.resize(std::max(out.size(), least_name_offset));
    RawHeader raw = RawFieldsOf(header);
    raw.backing_file_offset = out.size();
    raw.backing_file_size = static_cast<uint32_t>(header.backing_file->size());
    std::memcpy(out.data(), &raw, std::min<size_t>(sizeof(raw), header.header_length));
    Append(out, header.backing_file->data(), header.backing_file->size());
  }
  if (out.size() > header.layout.cluster_bytes()) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("the header needs %d bytes, but a cluster has %d", out.size(),
                        header.layout.cluster_bytes()));
  }
  out.resize(header.layout.cluster_bytes());
  return out;
}

size_t HeaderExtensionsEnd(const Header& header) { return FieldsAndExtensions(header).size(); }

}  // namespace vireo::qcow2
