// The header of a QCOW2 file: parsed, validated, written. Pure functions over bytes.
//
// Everything read here was written by a stranger: each check uses only fields that earlier checks
// have vetted (qcow2 spec, "Header").

#ifndef VIREO_STORAGE_QCOW2_HEADER_H_
#define VIREO_STORAGE_QCOW2_HEADER_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/qcow2/layout.h"

namespace vireo::qcow2 {

// What the caller will do with the image decides what has to be right about it.
enum class Access {
  kInspect,  // Show the header: features that are beyond us and damage marks are fine.
  kReadOnly,
  kReadWrite,  // Refuses an image marked corrupt.
  kRepair,     // As kReadWrite, but for damage that a repair can mend.
};

struct HeaderExtension {
  uint32_t type = 0;
  std::vector<uint8_t> data;
};

struct BitmapsExtension {
  uint32_t bitmap_count = 0;
  uint64_t directory_bytes = 0;
  uint64_t directory_offset = 0;
};

// Where the LUKS header and its key material are.
struct EncryptionExtension {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct Header {
  Layout layout;
  uint64_t size_bytes = 0;  // Rounded down to 512; the file keeps what it says.
  uint32_t l1_entries = 0;
  uint64_t l1_offset = 0;
  uint64_t refcount_table_offset = 0;
  uint32_t refcount_table_clusters = 0;
  uint32_t snapshot_count = 0;
  uint64_t snapshots_offset = 0;
  uint32_t crypt_method = 0;
  uint64_t incompatible = 0;
  uint64_t compatible = 0;
  uint64_t autoclear = 0;
  uint32_t header_length = 112;
  uint8_t compression_type = 0;  // 0 zlib, 1 zstd.

  std::optional<std::string> backing_file;  // As it stands in the image.
  std::string backing_format;               // Empty = not stated.
  std::optional<std::string> data_file;
  std::optional<BitmapsExtension> bitmaps;
  std::optional<EncryptionExtension> encryption;  // With kCryptLuks, exactly.
  bool has_feature_names = false;
  std::vector<uint8_t> unknown_fields;              // From byte 112 to header_length.
  std::vector<HeaderExtension> unknown_extensions;  // Kept, in order.

  bool dirty() const;
  // Guest data is in another file; its bytes are then the disk's, by promise.
  bool raw_external_data() const;
  bool corrupt() const;
};

// Bytes that ParseHeader() wants: the cluster size. `head` is the file's first 4096 bytes, or all
// of a shorter one. INVALID_ARGUMENT if this is no QCOW2 image.
absl::StatusOr<uint64_t> HeaderClusterBytes(absl::string_view name, std::span<const uint8_t> head);

// `first_cluster` is what the file holds of its first cluster. INVALID_ARGUMENT: no QCOW2 image;
// DATA_LOSS: one that is damaged or hostile; UNIMPLEMENTED: a feature that is beyond us, by name.
absl::StatusOr<Header> ParseHeader(absl::string_view name, std::span<const uint8_t> first_cluster,
                                   uint64_t file_bytes, Access access);

// The whole first cluster; the backing file name is at `least_name_offset` or as soon after it as
// the extensions end. RESOURCE_EXHAUSTED if extensions and name do not fit.
absl::StatusOr<std::vector<uint8_t>> SerializeHeader(const Header& header,
                                                     size_t least_name_offset = 0);

// Where the extensions end, their end mark included.
size_t HeaderExtensionsEnd(const Header& header);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_HEADER_H_
