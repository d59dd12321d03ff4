// What a sector with a certain tag holds: every tag has a content of its own, and a content tells
// its tag.

#ifndef VIREO_TESTS_MODEL_CONTENT_H_
#define VIREO_TESTS_MODEL_CONTENT_H_

#include <cstdint>
#include <optional>
#include <span>

namespace vireo {

inline constexpr uint64_t kSectorBytes = 512;

// The tag of `sector` in the `request`-th request, which counts from 1 and has 31 bits. Noise does
// not compress; the rest repeats 8 bytes.
enum class Noise { kNo, kYes };
uint64_t MakeTag(uint64_t request, uint64_t sector, Noise noise);

// Fills one sector; tag 0 is zeros.
void FillSector(uint64_t tag, std::span<uint8_t> sector);
// The tag whose content this is; nothing if it is a mix.
std::optional<uint64_t> TagOf(std::span<const uint8_t> sector);

}  // namespace vireo

#endif  // VIREO_TESTS_MODEL_CONTENT_H_
