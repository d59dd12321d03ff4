#include "tests/fuzz/mutator.h"

#include <algorithm>
#include <array>
#include <utility>

namespace vireo {
namespace {

// Lengths, counts and offsets at which arithmetic goes wrong.
constexpr std::array<uint64_t, 14> kInteresting = {0,
                                                   1,
                                                   2,
                                                   0x7f,
                                                   0x80,
                                                   0xff,
                                                   0x7fff,
                                                   0xffff,
                                                   0x10000,
                                                   0x7fffffff,
                                                   0x80000000,
                                                   0xffffffff,
                                                   uint64_t{1} << 63,
                                                   ~uint64_t{0}};

constexpr size_t kMaxInsert = 64;

}  // namespace

Mutator::Mutator(uint64_t seed, std::vector<Bytes> corpus)
    : random_(seed), corpus_(std::move(corpus)) {
  if (corpus_.empty()) corpus_.emplace_back();
}

Bytes Mutator::Next() {
  Bytes input = corpus_[Below(corpus_.size())];
  for (size_t changes = 1 + Below(8); changes > 0; --changes) MutateOnce(input);
  if (input.size() > kMaxSize) input.resize(kMaxSize);
  return input;
}

// std::uniform_int_distribution differs between libraries; the slight bias of % does not matter.
size_t Mutator::Below(size_t limit) { return random_() % limit; }

void Mutator::MutateOnce(Bytes& input) {
  if (input.empty()) {
    input.resize(1 + Below(kMaxInsert));
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random_());
    return;
  }
  const size_t at = Below(input.size());
  const size_t left = input.size() - at;
  switch (Below(7)) {
    case 0:
      input[at] ^= static_cast<uint8_t>(1u << Below(8));
      break;
    case 1:
      input[at] = static_cast<uint8_t>(random_());
      break;
    case 2: {  // A number of 1, 2, 4 or 8 bytes, in either byte order.
      const uint64_t value = kInteresting[Below(kInteresting.size())];
      const size_t width = std::min(size_t{1} << Below(4), left);
      const size_t swap = Below(2) * (width - 1);
      for (size_t i = 0; i < width; ++i) {
        input[at + (swap != 0 ? swap - i : i)] = static_cast<uint8_t>(value >> (8 * i));
      }
      break;
    }
    case 3:
      input.resize(at);
      break;
    case 4:
      input.insert(input.begin() + static_cast<ptrdiff_t>(at), 1 + Below(kMaxInsert),
                   static_cast<uint8_t>(random_()));
      break;
    case 5: {  // A piece of it once more, elsewhere.
      const size_t from = Below(input.size());
      const size_t length = 1 + Below(std::min({left, input.size() - from, kMaxInsert}));
      const Bytes piece(input.begin() + static_cast<ptrdiff_t>(from),
                        input.begin() + static_cast<ptrdiff_t>(from + length));
      std::copy(piece.begin(), piece.end(), input.begin() + static_cast<ptrdiff_t>(at));
      break;
    }
    default: {  // The tail of another input.
      const Bytes& other = corpus_[Below(corpus_.size())];
      const size_t from = std::min(at, other.size());
      input.resize(at);
      input.insert(input.end(), other.begin() + static_cast<ptrdiff_t>(from), other.end());
      break;
    }
  }
}

}  // namespace vireo
