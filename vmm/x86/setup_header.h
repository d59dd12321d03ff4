// The setup header of a bzImage: its fields by their offset, in the file and in boot_params alike
// (Linux Documentation/arch/x86/boot.rst, "Details of Header Fields"), and what reads and writes
// them. Offsets are checked by whoever calls.

#ifndef VIREO_VMM_X86_SETUP_HEADER_H_
#define VIREO_VMM_X86_SETUP_HEADER_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace vireo::x86::setup_header {

inline constexpr size_t kSetupSects = 0x1f1;
inline constexpr size_t kSysSize = 0x1f4;
inline constexpr size_t kJump = 0x200;
inline constexpr size_t kVersion = 0x206;
inline constexpr size_t kTypeOfLoader = 0x210;
inline constexpr size_t kLoadFlags = 0x211;
inline constexpr size_t kRamdiskImage = 0x218;
inline constexpr size_t kRamdiskSize = 0x21c;
inline constexpr size_t kHeapEndPtr = 0x224;
inline constexpr size_t kCmdLinePtr = 0x228;
inline constexpr size_t kInitrdAddrMax = 0x22c;
inline constexpr size_t kKernelAlignment = 0x230;
inline constexpr size_t kRelocatable = 0x234;
inline constexpr size_t kXloadFlags = 0x236;
inline constexpr size_t kCmdlineSize = 0x238;
inline constexpr size_t kPrefAddress = 0x258;
inline constexpr size_t kInitSize = 0x260;
inline constexpr size_t kLeastHeaderEnd = 0x264;  // It ends behind kInitSize at the earliest.

inline constexpr uint8_t kUndefinedLoader = 0xff;  // Of kTypeOfLoader.

template <typename T>
T Load(std::span<const uint8_t> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

template <typename T>
void Put(std::span<uint8_t> bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

}  // namespace vireo::x86::setup_header

#endif  // VIREO_VMM_X86_SETUP_HEADER_H_
