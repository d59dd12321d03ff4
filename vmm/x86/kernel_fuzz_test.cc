// Whatever file is given as a kernel: it is refused, or what it says about itself lies within it.

#include <algorithm>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "vmm/x86/kernel_file.h"
#include "vmm/x86/linux_boot.h"
#include "vmm/x86/pvh_boot.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace vireo::x86;
  const std::span<const uint8_t> file(data, size);
  const std::span<const uint8_t> head = file.first(std::min<size_t>(size, kBzImageHeadBytes));
  if (const auto image = ParseBzImage(head, size, "fuzz"); image.ok()) {
    VIREO_CHECK(image->payload_offset + image->payload_bytes <= size);
    VIREO_CHECK(image->setup_header.size() <= 0x290 - 0x1f1);
  }
  if (const auto elf = ParseElfKernel(head, size, "fuzz"); elf.ok()) {
    for (const ElfSegment& segment : elf->segments) {
      VIREO_CHECK(segment.file_offset <= size && segment.file_bytes <= size - segment.file_offset);
      VIREO_CHECK(segment.physical_address + segment.memory_bytes >= segment.physical_address);
    }
    for (const ElfNotes& notes : elf->notes) {
      VIREO_CHECK(notes.file_offset <= size && notes.bytes <= size - notes.file_offset);
      FindPvhEntry(file.subspan(notes.file_offset, notes.bytes), notes.alignment, "fuzz")
          .status()
          .IgnoreError();
    }
  }
  FindPvhEntry(file, 4, "fuzz").status().IgnoreError();
  FindPvhEntry(file, 8, "fuzz").status().IgnoreError();
  return 0;
}
