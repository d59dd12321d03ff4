// QCOW2 on disk: structures, masks and limits (QEMU's docs/interop/qcow2.txt, "qcow2 spec" in
// comments). All integers are big endian.

#ifndef VIREO_STORAGE_QCOW2_FORMAT_H_
#define VIREO_STORAGE_QCOW2_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "base/endian.h"

namespace vireo::qcow2 {

inline constexpr uint32_t kMagic = 0x514649fb;  // "QFI\xfb"

// qcow2 spec, "Header". Version 2 ends before incompatible_features.
struct RawHeader {
  Be32 magic;
  Be32 version;
  Be64 backing_file_offset;
  Be32 backing_file_size;
  Be32 cluster_bits;
  Be64 size;
  Be32 crypt_method;
  Be32 l1_size;
  Be64 l1_table_offset;
  Be64 refcount_table_offset;
  Be32 refcount_table_clusters;
  Be32 snapshot_count;
  Be64 snapshots_offset;
  Be64 incompatible_features;
  Be64 compatible_features;
  Be64 autoclear_features;
  Be32 refcount_order;
  Be32 header_length;
  uint8_t compression_type;
  uint8_t padding[7];
};
static_assert(sizeof(RawHeader) == 112);

inline constexpr uint32_t kVersion2HeaderBytes = 72;
inline constexpr uint32_t kMinVersion3HeaderBytes = 104;
inline constexpr uint32_t kFullHeaderBytes = 112;

// Pairs that one small write switches together.
inline constexpr uint64_t kSizeFieldOffset = offsetof(RawHeader, size);
inline constexpr uint64_t kL1FieldsOffset = offsetof(RawHeader, l1_size);
inline constexpr uint64_t kRefcountTableFieldsOffset = offsetof(RawHeader, refcount_table_offset);
inline constexpr uint64_t kSnapshotFieldsOffset = offsetof(RawHeader, snapshot_count);
inline constexpr uint64_t kFeatureFieldsOffset = offsetof(RawHeader, incompatible_features);

// qcow2 spec, "incompatible_features".
inline constexpr uint64_t kIncompatibleDirty = uint64_t{1} << 0;
inline constexpr uint64_t kIncompatibleCorrupt = uint64_t{1} << 1;
inline constexpr uint64_t kIncompatibleDataFile = uint64_t{1} << 2;
inline constexpr uint64_t kIncompatibleCompression = uint64_t{1} << 3;
inline constexpr uint64_t kIncompatibleExtendedL2 = uint64_t{1} << 4;
inline constexpr uint64_t kKnownIncompatible = kIncompatibleDirty | kIncompatibleCorrupt |
                                               kIncompatibleDataFile | kIncompatibleCompression |
                                               kIncompatibleExtendedL2;
inline constexpr uint64_t kCompatibleLazyRefcounts = uint64_t{1} << 0;
inline constexpr uint64_t kAutoclearBitmaps = uint64_t{1} << 0;
inline constexpr uint64_t kAutoclearRawDataFile = uint64_t{1} << 1;

// qcow2 spec, "crypt_method".
inline constexpr uint32_t kCryptNone = 0;
inline constexpr uint32_t kCryptLegacyAes = 1;
inline constexpr uint32_t kCryptLuks = 2;

// qcow2 spec, "Header extensions".
struct RawExtension {
  Be32 type;
  Be32 length;  // Of the data alone; the next extension is at the next multiple of 8.
};
static_assert(sizeof(RawExtension) == 8);

inline constexpr uint32_t kExtensionEnd = 0;
inline constexpr uint32_t kExtensionBackingFormat = 0xe2792aca;
inline constexpr uint32_t kExtensionFeatureNames = 0x6803f857;
inline constexpr uint32_t kExtensionBitmaps = 0x23852875;
inline constexpr uint32_t kExtensionEncryption = 0x0537be77;
inline constexpr uint32_t kExtensionDataFile = 0x44415441;

struct RawFeatureName {
  uint8_t kind;  // 0 incompatible, 1 compatible, 2 autoclear.
  uint8_t bit;
  char name[46];  // Padded with zeros, perhaps unterminated.
};
static_assert(sizeof(RawFeatureName) == 48);

// qcow2 spec, "Full disk encryption header pointer".
struct RawEncryptionExtension {
  Be64 offset;
  Be64 length;
};
static_assert(sizeof(RawEncryptionExtension) == 16);

// qcow2 spec, "Snapshots".
struct RawSnapshot {
  Be64 l1_table_offset;
  Be32 l1_size;
  Be16 id_length;
  Be16 name_length;
  Be32 date_seconds;
  Be32 date_nanoseconds;
  Be64 guest_clock_ns;
  Be32 vm_state_bytes;
  Be32 extra_data_bytes;
};
static_assert(sizeof(RawSnapshot) == 40);
// Extra data that we know: VM state size, disk size and instruction count, 64 bits each.
inline constexpr uint32_t kSnapshotExtraBytes = 24;

// qcow2 spec, "Bitmaps".
struct RawBitmapsExtension {
  Be32 bitmap_count;
  Be32 reserved;
  Be64 directory_bytes;
  Be64 directory_offset;
};
static_assert(sizeof(RawBitmapsExtension) == 24);

struct RawBitmapEntry {
  Be64 table_offset;
  Be32 table_entries;
  Be32 flags;
  uint8_t type;
  uint8_t granularity_bits;
  Be16 name_length;
  Be32 extra_data_bytes;
};
static_assert(sizeof(RawBitmapEntry) == 24);

inline constexpr uint32_t kBitmapInUse = 1u << 0;  // The file's copy is not to be trusted.
inline constexpr uint32_t kBitmapAuto = 1u << 1;   // Enabled: tracks from the first write on.
inline constexpr uint32_t kBitmapExtraCompatible = 1u << 2;
inline constexpr uint32_t kKnownBitmapFlags = kBitmapInUse | kBitmapAuto | kBitmapExtraCompatible;
inline constexpr uint8_t kBitmapTypeDirty = 1;
inline constexpr uint64_t kBitmapEntryOnes = 1;  // A table entry without an offset.

// qcow2 spec, "Cluster mapping".
inline constexpr uint64_t kEntryOffsetMask = 0x00fffffffffffe00;  // Bits 9 to 55.
inline constexpr uint64_t kEntryCopied = uint64_t{1} << 63;
inline constexpr uint64_t kEntryCompressed = uint64_t{1} << 62;
inline constexpr uint64_t kEntryZero = uint64_t{1} << 0;
inline constexpr uint64_t kL1ReservedMask = 0x7f000000000001ff;
inline constexpr uint64_t kL2ReservedMask = 0x3f000000000001fe;
inline constexpr uint64_t kRefcountTableOffsetMask = 0xfffffffffffffe00;
inline constexpr uint64_t kMaxHostOffset = uint64_t{1} << 56;

// As they stand in a header or table.
inline std::vector<uint8_t> BytesOf64(std::initializer_list<uint64_t> values) {
  std::vector<uint8_t> bytes;
  for (const uint64_t value : values) {
    const Be64 wire(value);
    const auto* const at = reinterpret_cast<const uint8_t*>(&wire);
    bytes.insert(bytes.end(), at, at + sizeof(wire));
  }
  return bytes;
}

// Limits that QEMU keeps: an image beyond them is one that nobody else opens.
inline constexpr uint32_t kMinClusterBits = 9;
inline constexpr uint32_t kMaxClusterBits = 21;
inline constexpr uint32_t kMinExtendedL2ClusterBits = 14;  // Subclusters of 512 bytes.
inline constexpr uint64_t kMaxL1Bytes = uint64_t{32} << 20;
inline constexpr uint64_t kMaxRefcountTableBytes = uint64_t{8} << 20;
inline constexpr uint32_t kMaxRefcountOrder = 6;
inline constexpr uint32_t kMaxBackingNameBytes = 1023;
inline constexpr uint32_t kMaxBackingFormatBytes = 15;
inline constexpr uint32_t kMaxSnapshots = 65536;
inline constexpr uint32_t kMaxSnapshotExtraBytes = 1024;
inline constexpr uint64_t kMaxSnapshotTableBytes = uint64_t{64} << 20;
inline constexpr uint32_t kMaxBitmaps = 65535;
inline constexpr uint64_t kMaxBitmapDirectoryBytes = uint64_t{1024} * kMaxBitmaps;
inline constexpr uint32_t kMaxBitmapNameBytes = 1023;
inline constexpr uint32_t kMaxBitmapTableEntries = 0x8000000;
inline constexpr uint64_t kMaxBitmapBytes = uint64_t{512} << 20;
inline constexpr uint32_t kMinGranularityBits = 9;
inline constexpr uint32_t kMaxGranularityBits = 31;
// Eight slots for the longest keys take 2 MiB.
inline constexpr uint64_t kMaxEncryptionHeaderBytes = uint64_t{16} << 20;

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_FORMAT_H_
