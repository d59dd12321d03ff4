#include "tests/support/fake_guest_memory.h"

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/align.h"
#include "base/check.h"

namespace vireo {

FakeGuestMemory::FakeGuestMemory() {
  absl::StatusOr<std::unique_ptr<GuestMemory>> memory =
      GuestMemory::Create({{.base = GuestAddress(0), .size = kLowBytes},
                           {.base = GuestAddress(kHighBase), .size = kHighBytes}},
                          GuestMemory::Backing::kPrivate);
  VIREO_CHECK(memory.ok(), "a few megabytes can be had");
  memory_ = *std::move(memory);
}

GuestAddress FakeGuestMemory::Allocate(uint64_t bytes, uint64_t alignment) {
  std::vector<GuestAddress>& free = free_[{bytes, alignment}];
  if (!free.empty()) {
    const GuestAddress address = free.back();
    free.pop_back();
    return address;
  }
  const uint64_t address = AlignUp(next_, alignment);
  VIREO_CHECK(address + bytes <= kLowBytes, "the fake guest has memory left");
  next_ = address + bytes;
  return GuestAddress(address);
}

void FakeGuestMemory::Free(GuestAddress address, uint64_t bytes, uint64_t alignment) {
  free_[{bytes, alignment}].push_back(address);
}

// Past Write() and Read() of the memory under test: a guest's own accesses are not in the VMM's
// dirty log.
uint8_t* FakeGuestMemory::Host(GuestAddress address, uint64_t bytes) const {
  for (const GuestMemory::Region& region : memory_->regions()) {
    if (address < region.base) continue;
    const uint64_t offset = address.value() - region.base.value();
    if (offset < region.host.size() && bytes <= region.host.size() - offset) {
      return region.host.data() + offset;
    }
  }
  VIREO_CHECK(false, "a test's own accesses are to RAM");
  return nullptr;
}

void FakeGuestMemory::Write(GuestAddress address, std::span<const uint8_t> bytes) {
  if (!bytes.empty()) std::memcpy(Host(address, bytes.size()), bytes.data(), bytes.size());
}

std::vector<uint8_t> FakeGuestMemory::Read(GuestAddress address, uint64_t bytes) const {
  std::vector<uint8_t> result(bytes);
  ReadInto(address, result);
  return result;
}

void FakeGuestMemory::ReadInto(GuestAddress address, std::span<uint8_t> bytes) const {
  if (!bytes.empty()) std::memcpy(bytes.data(), Host(address, bytes.size()), bytes.size());
}

}  // namespace vireo
