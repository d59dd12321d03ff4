// Makes QCOW2 images, laid out as qemu-img lays them out: header, refcount table, refcount blocks,
// LUKS header if there is one, L1 table; with preallocation L2 tables and data clusters behind
// them.

#ifndef VIREO_STORAGE_QCOW2_CREATE_H_
#define VIREO_STORAGE_QCOW2_CREATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/async/task.h"
#include "storage/file.h"
#include "storage/qcow2/preallocation.h"

namespace vireo::qcow2 {

struct CreateOptions {
  uint64_t size_bytes = 0;  // Rounded up to 512.
  uint32_t version = 3;
  uint32_t cluster_bits = 16;
  uint32_t refcount_order = 4;
  bool extended_l2 = false;
  bool lazy_refcounts = false;
  bool zstd = false;  // For compressed clusters.
  std::optional<std::string> backing_file;
  std::string backing_format;  // Needed with a backing file.
  // Of crypto::MakeLuksArea(): guest data is to be encrypted. Empty: it is not.
  std::vector<uint8_t> luks_area;
  // The name of an external data file, as it shall stand in the header.
  std::optional<std::string> data_file;
  bool data_file_raw = false;  // That file's bytes are the disk's. Implies preallocated metadata.
  Preallocation preallocation = Preallocation::kOff;
};

// OK if such an image can be; INVALID_ARGUMENT with the reason otherwise.
absl::Status ValidateCreateOptions(const CreateOptions& options);

// Writes the image into `file`, whatever it held, and flushes it. With a data file `data` is that
// file, which gets the disk's size, all zeros, and space as `options` say.
Task<absl::Status> CreateImage(File& file, CreateOptions options, File* data = nullptr);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CREATE_H_
