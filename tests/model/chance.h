// Where everything random in a test comes from: one seed.

#ifndef VIREO_TESTS_MODEL_CHANCE_H_
#define VIREO_TESTS_MODEL_CHANCE_H_

#include <cstdint>
#include <random>

namespace vireo {

class Chance {
 public:
  explicit Chance(uint64_t seed) : random_(seed) {}

  uint64_t Below(uint64_t limit) { return random_() % limit; }
  bool OneIn(uint64_t n) { return Below(n) == 0; }
  uint32_t Seed() { return static_cast<uint32_t>(random_()); }

 private:
  std::mt19937_64 random_;
};

}  // namespace vireo

#endif  // VIREO_TESTS_MODEL_CHANCE_H_
