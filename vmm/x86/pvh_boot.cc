#include "vmm/x86/pvh_boot.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/iovecs.h"
#include "base/status.h"
#include "vmm/x86/cmdline.h"
#include "vmm/x86/e820.h"
#include "vmm/x86/kernel_file.h"
#include "vmm/x86/layout.h"

namespace vireo::x86 {
namespace {

constexpr uint32_t kXenElfNotePhys32Entry = 18;
constexpr std::string_view kXenNoteName{"Xen\0", 4};
constexpr uint64_t kMostNoteBytes = 1 << 20;
// Linux keeps 2048 bytes for it, and cuts off what is longer.
constexpr uint64_t kPvhCommandLineLimit = 2047;

// arch-x86/hvm/start_info.h
constexpr uint32_t kStartMagic = 0x336ec578;
constexpr uint32_t kStartVersion = 1;
struct StartInfo {
  uint32_t magic = kStartMagic;
  uint32_t version = kStartVersion;
  uint32_t flags = 0;
  uint32_t nr_modules = 0;
  uint64_t modlist_paddr = 0;
  uint64_t cmdline_paddr = 0;
  uint64_t rsdp_paddr = 0;
  uint64_t memmap_paddr = 0;
  uint32_t memmap_entries = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(StartInfo) == 56);
struct ModuleEntry {
  uint64_t paddr = 0;
  uint64_t size = 0;
  uint64_t cmdline_paddr = 0;
  uint64_t reserved = 0;
};
static_assert(sizeof(ModuleEntry) == 32);
struct MemoryMapEntry {
  uint64_t address = 0;
  uint64_t size = 0;
  uint32_t type = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(MemoryMapEntry) == 24);

constexpr uint64_t kModulesAddress = kPvhStartInfoAddress + 0x40;
constexpr uint64_t kMemoryMapAddress = kPvhStartInfoAddress + 0x100;

absl::Status Bad(std::string_view name, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: not a bzImage or PVH ELF kernel: %s", name, what));
}

// Zeroes what is not zero yet: fresh memory stays untouched, so it costs nothing.
absl::Status ZeroGuest(GuestAddress address, uint64_t bytes, GuestMemory& memory) {
  constexpr uint64_t kStep = 64 * 1024;
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t step = std::min(kStep, bytes - done);
    GuestWritable target(memory);
    if (!target.Append(GuestAddress(address.value() + done), step)) {
      return absl::OutOfRangeError("no guest memory");
    }
    if (!IsAllZero(target.iovecs())) {
      FillIoVecs(target.iovecs(), 0);
      target.Complete(step);
    } else {
      target.Complete(0);
    }
    done += step;
  }
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> FindEntry(const ElfKernel& elf, const InputFile& kernel) {
  for (const ElfNotes& segment : elf.notes) {
    ASSIGN_OR_RETURN(const std::vector<uint8_t> notes,
                     ReadInputFile(kernel, segment.file_offset, segment.bytes));
    ASSIGN_OR_RETURN(const std::optional<uint32_t> entry,
                     FindPvhEntry(notes, segment.alignment, kernel.name));
    if (entry.has_value()) return *entry;
  }
  return Bad(kernel.name, "an ELF file without a PVH entry (no Xen note of type 18)");
}

}  // namespace

absl::StatusOr<ElfKernel> ParseElfKernel(std::span<const uint8_t> head, uint64_t file_bytes,
                                         std::string_view name) {
  Elf64_Ehdr header;
  if (head.size() < sizeof(header)) return Bad(name, "the file ends within the ELF header");
  std::memcpy(&header, head.data(), sizeof(header));
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return Bad(name, "no ELF header");
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != EM_X86_64) {
    return Bad(name, "an ELF file, but not of 64 bits for x86");
  }
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
    return Bad(name, "an ELF file, but not an executable");
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr)) return Bad(name, "program headers of a wrong size");
  // 16-bit counts of 56 bytes: the product does not wrap.
  const uint64_t table_bytes = uint64_t{header.e_phnum} * sizeof(Elf64_Phdr);
  if (header.e_phoff > head.size() || head.size() - header.e_phoff < table_bytes) {
    return Bad(name, "the program headers are not at the beginning of the file");
  }

  ElfKernel elf;
  for (size_t i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment;
    std::memcpy(&segment, head.data() + header.e_phoff + i * sizeof(segment), sizeof(segment));
    if (segment.p_type != PT_LOAD && segment.p_type != PT_NOTE) continue;
    if (segment.p_offset > file_bytes || file_bytes - segment.p_offset < segment.p_filesz) {
      return Bad(name, "truncated: a segment lies past the end of the file");
    }
    if (segment.p_type == PT_NOTE) {
      if (segment.p_filesz > kMostNoteBytes) return Bad(name, "a note segment of over 1 MiB");
      elf.notes.push_back({segment.p_offset, segment.p_filesz, segment.p_align == 8 ? 8u : 4u});
      continue;
    }
    if (segment.p_memsz == 0) continue;
    if (segment.p_filesz > segment.p_memsz) {
      return Bad(name, "a segment is larger in the file than in memory");
    }
    if (!CheckedAdd<uint64_t>(segment.p_paddr, segment.p_memsz).has_value()) {
      return Bad(name, "a segment wraps around the end of memory");
    }
    elf.segments.push_back({segment.p_offset, segment.p_filesz, segment.p_paddr, segment.p_memsz});
  }
  if (elf.segments.empty()) return Bad(name, "an ELF file with nothing to load");
  return elf;
}

absl::StatusOr<std::optional<uint32_t>> FindPvhEntry(std::span<const uint8_t> notes,
                                                     uint64_t alignment, std::string_view name) {
  uint64_t at = 0;
  while (at < notes.size() && notes.size() - at >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr note;
    std::memcpy(&note, notes.data() + at, sizeof(note));
    // Both sizes are of 32 bits: these sums do not wrap.
    const uint64_t name_at = at + sizeof(note);
    const uint64_t descriptor_at = AlignUp(name_at + note.n_namesz, alignment);
    const uint64_t end = descriptor_at + note.n_descsz;
    if (end > notes.size()) return Bad(name, "an ELF note reaches past the end of its segment");
    if (note.n_type == kXenElfNotePhys32Entry && note.n_namesz == kXenNoteName.size() &&
        std::memcmp(notes.data() + name_at, kXenNoteName.data(), kXenNoteName.size()) == 0) {
      uint64_t entry = 0;  // Linux writes 8 bytes, others 4.
      if (note.n_descsz != 4 && note.n_descsz != 8) {
        return Bad(name, "its PVH entry has neither 4 nor 8 bytes");
      }
      std::memcpy(&entry, notes.data() + descriptor_at, note.n_descsz);
      if (entry > UINT32_MAX) return Bad(name, "its PVH entry lies above 4 GiB");
      return static_cast<uint32_t>(entry);
    }
    at = AlignUp(end, alignment);
  }
  return std::nullopt;
}

absl::StatusOr<BootEntry> LoadPvhElf(const DirectBoot& boot) {
  const InputFile& kernel = boot.kernel;
  ASSIGN_OR_RETURN(const uint64_t file_bytes, InputFileSize(kernel));
  ASSIGN_OR_RETURN(const std::vector<uint8_t> head, ReadInputFile(kernel, 0, kElfHeadBytes));
  ASSIGN_OR_RETURN(const ElfKernel elf, ParseElfKernel(head, file_bytes, kernel.name));
  ASSIGN_OR_RETURN(const uint32_t entry, FindEntry(elf, kernel));
  RETURN_IF_ERROR(CheckCommandLine(boot.command_line, kPvhCommandLineLimit, kernel.name));

  uint64_t kernel_end = 0;
  bool entry_is_loaded = false;
  for (const ElfSegment& segment : elf.segments) {
    const uint64_t end = segment.physical_address + segment.memory_bytes;
    if (segment.physical_address < kKernelAreaAddress || end > boot.layout.low_ram.end()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: the kernel does not fit: a segment of it is at [0x%x, 0x%x), the guest's memory for "
          "it at [0x%x, 0x%x)",
          kernel.name, segment.physical_address, end, kKernelAreaAddress,
          boot.layout.low_ram.end()));
    }
    kernel_end = std::max(kernel_end, end);
    entry_is_loaded |= entry >= segment.physical_address && entry < end;
  }
  if (!entry_is_loaded) return Bad(kernel.name, "its PVH entry lies outside of its segments");
  for (const ElfSegment& segment : elf.segments) {
    RETURN_IF_ERROR(ReadInputFileToGuest(kernel, segment.file_offset, segment.file_bytes,
                                         GuestAddress(segment.physical_address), boot.memory));
    RETURN_IF_ERROR(ZeroGuest(GuestAddress(segment.physical_address + segment.file_bytes),
                              segment.memory_bytes - segment.file_bytes, boot.memory));
  }

  StartInfo info;
  info.cmdline_paddr = kCommandLineAddress;
  info.rsdp_paddr = boot.rsdp;
  if (boot.initrd.has_value()) {
    ASSIGN_OR_RETURN(
        const PlacedInitrd initrd,
        LoadInitrd(boot, kernel_end, boot.layout.low_ram.end(), InitrdReach::kBelowCeiling));
    const ModuleEntry module = {.paddr = initrd.address, .size = initrd.bytes};
    RETURN_IF_ERROR(boot.memory.WriteObject(GuestAddress(kModulesAddress), module));
    info.nr_modules = 1;
    info.modlist_paddr = kModulesAddress;
  }
  RETURN_IF_ERROR(WriteCommandLine(boot.command_line, boot.memory));
  for (const E820Entry& range : BuildE820(boot.layout)) {
    const MemoryMapEntry map_entry = {
        .address = range.base, .size = range.size, .type = static_cast<uint32_t>(range.type)};
    RETURN_IF_ERROR(boot.memory.WriteObject(
        GuestAddress(kMemoryMapAddress + info.memmap_entries * sizeof(map_entry)), map_entry));
    ++info.memmap_entries;
  }
  info.memmap_paddr = kMemoryMapAddress;
  RETURN_IF_ERROR(boot.memory.WriteObject(GuestAddress(kPvhStartInfoAddress), info));
  return BootEntry{.mode = BootEntry::Mode::kPvh32, .rip = entry, .argument = kPvhStartInfoAddress};
}

}  // namespace vireo::x86
