#include "vmm/x86/test_support.h"

#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#include "base/check.h"

namespace vireo::x86 {

Bytes MakeBzImage() {
  Bytes image(kBzImagePayloadOffset + kBzImagePayloadBytes);
  PutAt<uint8_t>(image, 0x1f1, 1);                           // setup_sects
  PutAt<uint32_t>(image, 0x1f4, kBzImagePayloadBytes / 16);  // syssize
  PutAt<uint16_t>(image, 0x1fe, 0xaa55);                     // boot_flag
  PutAt<uint16_t>(image, 0x200, 0x6aeb);                     // jump: the header ends at 0x26c
  std::memcpy(image.data() + 0x202, "HdrS", 4);
  PutAt<uint16_t>(image, 0x206, 0x020f);            // version
  PutAt<uint8_t>(image, 0x211, 1);                  // loadflags: LOADED_HIGH
  PutAt<uint32_t>(image, 0x22c, 0x7fffffff);        // initrd_addr_max
  PutAt<uint32_t>(image, 0x230, 0x200000);          // kernel_alignment
  PutAt<uint8_t>(image, 0x234, 1);                  // relocatable_kernel
  PutAt<uint16_t>(image, 0x236, 3);                 // xloadflags: 64-bit, above 4 GiB
  PutAt<uint32_t>(image, 0x238, 2047);              // cmdline_size
  PutAt<uint64_t>(image, 0x258, kBzImageAddress);   // pref_address
  PutAt<uint32_t>(image, 0x260, kBzImageInitSize);  // init_size
  for (size_t i = 0; i < kBzImagePayloadBytes; ++i) {
    image[kBzImagePayloadOffset + i] = static_cast<uint8_t>(i * 7 + 1);
  }
  return image;
}

Bytes MakePvhElf() {
  Bytes elf(kElfSegmentOffset);
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_entry = kElfEntry;
  header.e_phoff = kElfSegmentHeader;
  header.e_ehsize = sizeof(Elf64_Ehdr);
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 2;
  PutAt(elf, 0, header);

  Elf64_Phdr load = {};
  load.p_type = PT_LOAD;
  load.p_offset = kElfSegmentOffset;
  load.p_paddr = load.p_vaddr = 0x100000;
  load.p_filesz = 0x100;
  load.p_memsz = 0x3000;
  PutAt(elf, kElfSegmentHeader, load);

  // Another note first, with a name that needs padding.
  Elf64_Nhdr other = {.n_namesz = 5, .n_descsz = 3, .n_type = 18};
  PutAt(elf, kElfNoteOffset, other);
  std::memcpy(elf.data() + kElfNoteOffset + 12, "Xenx", 5);
  const size_t second = kElfNoteOffset + 12 + 8 + 4;
  Elf64_Nhdr pvh = {.n_namesz = 4, .n_descsz = 4, .n_type = 18};
  PutAt(elf, second, pvh);
  std::memcpy(elf.data() + second + 12, "Xen", 4);
  PutAt<uint32_t>(elf, second + 16, kElfEntry);

  Elf64_Phdr note = {};
  note.p_type = PT_NOTE;
  note.p_offset = kElfNoteOffset;
  note.p_filesz = second + 20 - kElfNoteOffset;
  note.p_align = 4;
  PutAt(elf, kElfNoteHeader, note);

  elf.resize(kElfSegmentOffset + 0x100, 0x11);
  return elf;
}

TestFile::TestFile(std::string name, std::span<const uint8_t> contents)
    : name_(std::move(name)), fd_(::memfd_create("vireo-test", MFD_CLOEXEC)) {
  VIREO_CHECK(fd_.valid());
  VIREO_CHECK(::write(fd_.get(), contents.data(), contents.size()) ==
              static_cast<ssize_t>(contents.size()));
}

TestGuest MakeGuest(uint64_t memory_bytes) {
  TestGuest guest;
  absl::StatusOr<Layout> layout =
      MakeLayout({.memory_bytes = memory_bytes, .physical_address_bits = 40});
  VIREO_CHECK(layout.ok());
  guest.layout = *layout;
  std::vector<GuestMemory::RegionSpec> regions;
  for (const AddressRange& ram : guest.layout.Ram()) {
    regions.push_back({GuestAddress(ram.base), ram.size});
  }
  absl::StatusOr<std::unique_ptr<GuestMemory>> memory =
      GuestMemory::Create(std::move(regions), GuestMemory::Backing::kPrivate);
  VIREO_CHECK(memory.ok());
  guest.memory = *std::move(memory);
  return guest;
}

Bytes ReadGuest(const GuestMemory& memory, uint64_t address, size_t bytes) {
  Bytes out(bytes);
  VIREO_CHECK(memory.Read(GuestAddress(address), out).ok());
  return out;
}

}  // namespace vireo::x86
