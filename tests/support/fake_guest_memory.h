// A small guest memory for tests: RAM at 0 and at 4 GiB with a hole in between, and an allocator
// that stands for the guest's own.

#ifndef VIREO_TESTS_SUPPORT_FAKE_GUEST_MEMORY_H_
#define VIREO_TESTS_SUPPORT_FAKE_GUEST_MEMORY_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/memory/guest_address.h"
#include "base/memory/guest_memory.h"

namespace vireo {

class FakeGuestMemory {
 public:
  static constexpr uint64_t kLowBytes = 4 << 20;
  static constexpr uint64_t kHighBase = uint64_t{1} << 32;
  static constexpr uint64_t kHighBytes = 1 << 20;
  // In the hole: no RAM.
  static constexpr GuestAddress kNoRam{uint64_t{1} << 31};
  // A range of two regions is not possible here; this one runs from RAM into the hole.
  static constexpr GuestAddress kLastLowPage{kLowBytes - 4096};

  FakeGuestMemory();

  GuestMemory& memory() { return *memory_; }

  // Never the page at 0. CHECKs that there is room.
  GuestAddress Allocate(uint64_t bytes, uint64_t alignment = 16);
  // Gives back what Allocate() gave with these arguments.
  void Free(GuestAddress address, uint64_t bytes, uint64_t alignment = 16);

  // All of these CHECK that the range is RAM.
  uint8_t* Host(GuestAddress address, uint64_t bytes) const;
  void Write(GuestAddress address, std::span<const uint8_t> bytes);
  std::vector<uint8_t> Read(GuestAddress address, uint64_t bytes) const;
  template <typename T>
  void WriteObject(GuestAddress address, const T& object) {
    Write(address, {reinterpret_cast<const uint8_t*>(&object), sizeof(object)});
  }
  template <typename T>
  T ReadObject(GuestAddress address) const {
    T object;
    ReadInto(address, {reinterpret_cast<uint8_t*>(&object), sizeof(object)});
    return object;
  }

 private:
  void ReadInto(GuestAddress address, std::span<uint8_t> bytes) const;

  std::unique_ptr<GuestMemory> memory_;
  uint64_t next_ = 4096;
  std::map<std::pair<uint64_t, uint64_t>, std::vector<GuestAddress>> free_;  // By size, alignment.
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_FAKE_GUEST_MEMORY_H_
