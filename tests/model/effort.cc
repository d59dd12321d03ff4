#include "tests/model/effort.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

namespace vireo {

uint64_t FirstSeed() {
  static const uint64_t seed = [] {
    const char* const text = std::getenv("VIREO_SEED");
    const std::string wanted = text == nullptr ? "1" : text;
    const uint64_t chosen =
        wanted == "random" ? std::random_device()() : std::strtoull(wanted.c_str(), nullptr, 10);
    std::printf("VIREO_SEED=%llu repeats this run\n", static_cast<unsigned long long>(chosen));
    return chosen;
  }();
  return seed;
}

uint64_t Scaled(uint64_t amount, const DiskShape& shape) {
  const char* const text = std::getenv("VIREO_EFFORT");
  uint64_t percent = text == nullptr ? 100 : std::strtoull(text, nullptr, 10);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  percent = std::max<uint64_t>(percent / 10, 1);
#endif
  return std::max<uint64_t>(amount * percent / 100 / shape.cost, 1);
}

}  // namespace vireo
