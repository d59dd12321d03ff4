// How a passphrase keeps the master key of a LUKS area: what is computed, with nothing read or
// written. All of it takes as long as its iterations say: off the loop.

#ifndef VIREO_STORAGE_CRYPTO_LUKS_KEY_H_
#define VIREO_STORAGE_CRYPTO_LUKS_KEY_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "storage/crypto/luks_header.h"
#include "storage/crypto/secret.h"

namespace vireo::crypto {

// INTERNAL when the host has no random bytes.
absl::Status FillRandom(std::span<uint8_t> bytes);

// Splits `key` into `stripes` (of its size each, together), all of which JoinStripes() needs.
// INTERNAL when the host has no random bytes.
absl::Status SplitIntoStripes(HashAlgorithm hash, std::span<const uint8_t> key,
                              std::span<uint8_t> stripes);
void JoinStripes(HashAlgorithm hash, std::span<const uint8_t> stripes, std::span<uint8_t> key);

// Iterations that this machine does in `time` to derive `key_bytes`.
absl::StatusOr<uint32_t> CountLuksIterations(HashAlgorithm hash, size_t key_bytes,
                                             absl::Duration time);
// OK if a passphrase may take so long to try; INVALID_ARGUMENT.
absl::Status ValidateLuksIterationTime(uint32_t iteration_ms);

// The master key if `passphrase` opens `slot`, whose key material is `material`; else nothing.
absl::StatusOr<Secret> OpenLuksSlot(const LuksHeader& header, const LuksSlot& slot,
                                    std::span<const uint8_t> passphrase,
                                    std::span<uint8_t> material);
// The key material that lets `passphrase`, tried for `time`, open a slot. Sets the slot's
// iterations and salt.
absl::StatusOr<std::vector<uint8_t>> SealLuksSlot(const LuksHeader& header,
                                                  std::span<const uint8_t> master_key,
                                                  std::span<const uint8_t> passphrase,
                                                  absl::Duration time, LuksSlot* slot);

}  // namespace vireo::crypto

#endif  // VIREO_STORAGE_CRYPTO_LUKS_KEY_H_
