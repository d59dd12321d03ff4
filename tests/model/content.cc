#include "tests/model/content.h"

#include <cstring>

#include "base/check.h"

namespace vireo {
namespace {

constexpr uint64_t kNoiseBit = uint64_t{1} << 63;
constexpr uint64_t kWords = kSectorBytes / sizeof(uint64_t);

// A bijective mixer, so that the words of different tags differ.
uint64_t Mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

uint64_t Word(uint64_t tag, uint64_t index) {
  if (index == 0 || (tag & kNoiseBit) == 0) return tag;
  return Mix(tag + index * 0x9e3779b97f4a7c15);
}

}  // namespace

uint64_t MakeTag(uint64_t request, uint64_t sector, Noise noise) {
  VIREO_CHECK(request > 0 && request < uint64_t{1} << 31 && sector < uint64_t{1} << 32);
  return request << 32 | sector | (noise == Noise::kYes ? kNoiseBit : 0);
}

void FillSector(uint64_t tag, std::span<uint8_t> sector) {
  for (uint64_t i = 0; i < kWords; ++i) {
    const uint64_t word = Word(tag, i);
    std::memcpy(sector.data() + i * sizeof(word), &word, sizeof(word));
  }
}

std::optional<uint64_t> TagOf(std::span<const uint8_t> sector) {
  uint64_t tag;
  std::memcpy(&tag, sector.data(), sizeof(tag));
  for (uint64_t i = 1; i < kWords; ++i) {
    const uint64_t word = Word(tag, i);
    if (std::memcmp(sector.data() + i * sizeof(word), &word, sizeof(word)) != 0) {
      return std::nullopt;
    }
  }
  return tag;
}

}  // namespace vireo
