// Sizes as people write and read them.

#ifndef VIREO_STORAGE_IMG_SIZE_H_
#define VIREO_STORAGE_IMG_SIZE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace vireo::img {

// Bytes of "64M", "1.5G", "4096", "100b": suffixes k, K, M, G, T, P, E are powers of 1024. Nothing
// for anything else, negative numbers and what does not fit 63 bits.
std::optional<uint64_t> ParseSize(const std::string& text);
// The same, telling the two failures apart: OUT_OF_RANGE for what does not fit, INVALID_ARGUMENT
// for the rest.
absl::StatusOr<uint64_t> ReadSize(const std::string& text);

// "64 MiB", "1.5 GiB", "196 KiB", "0 B": three digits that count.
std::string FormatSize(uint64_t bytes);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_SIZE_H_
