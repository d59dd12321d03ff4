// LUKS version 1: a master key behind passphrases. See luks_header.h for the layout.

#ifndef VIREO_STORAGE_CRYPTO_LUKS_H_
#define VIREO_STORAGE_CRYPTO_LUKS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/crypto/luks_header.h"
#include "storage/crypto/secret.h"
#include "storage/file.h"

namespace vireo::crypto {

// Where a file holds a LUKS header and its key material.
struct LuksArea {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// As ParseLuksHeader().
Task<absl::StatusOr<LuksHeader>> ReadLuksHeader(File& file, LuksArea area);

// The master key. PERMISSION_DENIED when `passphrase`, which outlives the task, opens no slot.
// Computes for seconds, off the loop.
Task<absl::StatusOr<Secret>> UnlockLuks(EventLoop& loop, File& file, LuksArea area,
                                        const LuksHeader& header, const Secret& passphrase);

struct LuksOptions {
  CipherSpec cipher;
  HashAlgorithm hash = HashAlgorithm::kSha256;
  uint32_t iteration_ms = 2000;  // How long a passphrase takes to try, on this machine.
};

// OK if such an area can be; INVALID_ARGUMENT or UNIMPLEMENTED, by name.
absl::Status ValidateLuksOptions(const LuksOptions& options);

// Bytes of the area that MakeLuksArea() makes, with nothing computed.
uint64_t LuksAreaBytes(const CipherSpec& cipher);

// A whole area with a fresh master key, which `passphrase` opens. Computes for about twice
// `iteration_ms`: off the loop.
absl::StatusOr<std::vector<uint8_t>> MakeLuksArea(const LuksOptions& options,
                                                  std::span<const uint8_t> passphrase);

}  // namespace vireo::crypto

#endif  // VIREO_STORAGE_CRYPTO_LUKS_H_
