// Kernels made by hand, whole or broken, and files that are not on any disk.

#ifndef VIREO_VMM_X86_TEST_SUPPORT_H_
#define VIREO_VMM_X86_TEST_SUPPORT_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/memory/guest_memory.h"
#include "base/unique_fd.h"
#include "vmm/x86/kernel_file.h"
#include "vmm/x86/layout.h"

namespace vireo::x86 {

using Bytes = std::vector<uint8_t>;

template <typename T>
void PutAt(Bytes& bytes, size_t offset, T value) {
  if (bytes.size() < offset + sizeof(T)) bytes.resize(offset + sizeof(T));
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

template <typename T>
T GetAt(std::span<const uint8_t> bytes, size_t offset) {
  T value = {};
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// A good bzImage of protocol 2.15: one setup sector beyond the first, a payload of 0x1000 bytes
// that counts up, preferred address 16 MiB, init_size 2 MiB, command lines up to 2047 bytes.
Bytes MakeBzImage();
inline constexpr size_t kBzImagePayloadOffset = 2 * 512;
inline constexpr size_t kBzImagePayloadBytes = 0x1000;
inline constexpr uint64_t kBzImageAddress = 0x1000000;
inline constexpr uint64_t kBzImageInitSize = 0x200000;

// A good PVH ELF: one segment of 0x100 bytes (0x11) at 1 MiB that needs 0x3000 in memory, entered
// at 1 MiB + 0x10.
Bytes MakePvhElf();
inline constexpr size_t kElfSegmentHeader = 64;    // Of PT_LOAD.
inline constexpr size_t kElfNoteHeader = 64 + 56;  // Of PT_NOTE.
inline constexpr size_t kElfNoteOffset = 0x200;
inline constexpr size_t kElfSegmentOffset = 0x1000;
inline constexpr uint32_t kElfEntry = 0x100010;

// An open file of these contents.
class TestFile {
 public:
  TestFile(std::string name, std::span<const uint8_t> contents);
  InputFile input() const { return {fd_, name_}; }
  const UniqueFd& fd() const { return fd_; }

 private:
  std::string name_;
  UniqueFd fd_;
};

struct TestGuest {
  Layout layout;
  std::unique_ptr<GuestMemory> memory;
};
TestGuest MakeGuest(uint64_t memory_bytes);

Bytes ReadGuest(const GuestMemory& memory, uint64_t address, size_t bytes);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_TEST_SUPPORT_H_
