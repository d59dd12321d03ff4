#ifndef VIREO_TESTS_FUZZ_MUTATOR_H_
#define VIREO_TESTS_FUZZ_MUTATOR_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace vireo {

using Bytes = std::vector<uint8_t>;

// Makes damaged variants of a corpus. The same seed and corpus give the same sequence on every
// machine, so an input that fails a test is found again by running the test again.
class Mutator {
 public:
  // `corpus` may be empty: mutations then start from no bytes at all.
  Mutator(uint64_t seed, std::vector<Bytes> corpus);

  // One to eight small changes of one input of the corpus. At most kMaxSize bytes.
  Bytes Next();

  static constexpr size_t kMaxSize = size_t{1} << 20;

 private:
  size_t Below(size_t limit);
  void MutateOnce(Bytes& input);

  std::mt19937_64 random_;
  std::vector<Bytes> corpus_;
};

}  // namespace vireo

#endif  // VIREO_TESTS_FUZZ_MUTATOR_H_
