#include "vmm/x86/pvh_boot.h"

#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <string>

#include "vmm/x86/e820.h"
#include "vmm/x86/kernel_file.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/test_support.h"

namespace vireo::x86 {
namespace {

using testing::Each;
using testing::HasSubstr;
using testing::StartsWith;

constexpr uint64_t kMiB = 1 << 20;

absl::StatusOr<BootEntry> Load(const TestGuest& guest, const Bytes& kernel,
                               const Bytes& initrd = {1, 2, 3}, std::string command_line = "x=1") {
  const TestFile kernel_file("guest.elf", kernel);
  const TestFile initrd_file("initrd.img", initrd);
  return LoadPvhElf({.memory = *guest.memory,
                     .layout = guest.layout,
                     .kernel = kernel_file.input(),
                     .initrd = initrd_file.input(),
                     .command_line = command_line,
                     .rsdp = 0xe0000});
}

TEST(LoadPvhElfTest, SegmentIsLoadedAndItsRestZero) {
  const TestGuest guest = MakeGuest(32 * kMiB);
  // As after an earlier run of the guest.
  ASSERT_TRUE(guest.memory->Fill(GuestAddress(0x100000), 0xee, 0x4000).ok());
  const absl::StatusOr<BootEntry> entry = Load(guest, MakePvhElf());
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(*entry, (BootEntry{.mode = BootEntry::Mode::kPvh32,
                               .rip = kElfEntry,
                               .argument = kPvhStartInfoAddress}));
  EXPECT_THAT(ReadGuest(*guest.memory, 0x100000, 0x100), Each(0x11));
  EXPECT_THAT(ReadGuest(*guest.memory, 0x100100, 0x2f00), Each(0));
  EXPECT_THAT(ReadGuest(*guest.memory, 0x103000, 0x1000), Each(0xee));
}

// Xen public header arch-x86/hvm/start_info.h.
TEST(LoadPvhElfTest, StartInfoTellsOfEverything) {
  const TestGuest guest = MakeGuest(32 * kMiB);
  ASSERT_TRUE(Load(guest, MakePvhElf()).ok());
  const Bytes info = ReadGuest(*guest.memory, kPvhStartInfoAddress, 56);
  EXPECT_EQ(GetAt<uint32_t>(info, 0), 0x336ec578u);
  EXPECT_EQ(GetAt<uint32_t>(info, 4), 1u);
  EXPECT_EQ(GetAt<uint32_t>(info, 12), 1u);
  EXPECT_EQ(GetAt<uint64_t>(info, 24), kCommandLineAddress);
  EXPECT_EQ(GetAt<uint64_t>(info, 32), 0xe0000u);
  EXPECT_EQ(ReadGuest(*guest.memory, kCommandLineAddress, 4), (Bytes{'x', '=', '1', 0}));

  const Bytes module = ReadGuest(*guest.memory, GetAt<uint64_t>(info, 16), 32);
  EXPECT_EQ(GetAt<uint64_t>(module, 0), 32 * kMiB - 4096);
  EXPECT_EQ(GetAt<uint64_t>(module, 8), 3u);
  EXPECT_EQ(ReadGuest(*guest.memory, 32 * kMiB - 4096, 3), (Bytes{1, 2, 3}));

  const std::vector<E820Entry> map = BuildE820(guest.layout);
  ASSERT_EQ(GetAt<uint32_t>(info, 48), map.size());
  for (size_t i = 0; i < map.size(); ++i) {
    const Bytes entry = ReadGuest(*guest.memory, GetAt<uint64_t>(info, 40) + 24 * i, 24);
    EXPECT_EQ(GetAt<uint64_t>(entry, 0), map[i].base);
    EXPECT_EQ(GetAt<uint64_t>(entry, 8), map[i].size);
    EXPECT_EQ(GetAt<uint32_t>(entry, 16), static_cast<uint32_t>(map[i].type));
  }
}

TEST(LoadPvhElfTest, EntryOfEightBytesAsLinuxWritesIt) {
  Bytes elf = MakePvhElf();
  const size_t note = kElfNoteOffset + 24;
  PutAt<uint32_t>(elf, note + offsetof(Elf64_Nhdr, n_descsz), 8);
  PutAt<uint64_t>(elf, note + 16, kElfEntry);
  PutAt<uint64_t>(elf, kElfNoteHeader + offsetof(Elf64_Phdr, p_filesz), 24 + 24);
  EXPECT_EQ(Load(MakeGuest(32 * kMiB), elf)->rip, kElfEntry);
}

struct BadElf {
  const char* name;
  std::function<void(Bytes&)> spoil;
  const char* says;
};
class BadElfTest : public testing::TestWithParam<BadElf> {};

TEST_P(BadElfTest, IsRefusedSayingWhy) {
  Bytes elf = MakePvhElf();
  GetParam().spoil(elf);
  const absl::Status status = Load(MakeGuest(32 * kMiB), elf).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), StartsWith("guest.elf: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().says));
}

#define VIREO_SET(type, base, field, value) \
  [](Bytes& b) { PutAt<decltype(type::field)>(b, (base) + offsetof(type, field), value); }

INSTANTIATE_TEST_SUITE_P(
    Malformed, BadElfTest,
    testing::Values(
        BadElf{"EndsInHeader", [](Bytes& b) { b.resize(40); }, "ELF header"},
        BadElf{"NoMagic", [](Bytes& b) { b[1] = 'X'; }, "no ELF header"},
        BadElf{"OtherMachine", VIREO_SET(Elf64_Ehdr, 0, e_machine, EM_AARCH64), "not of 64 bits"},
        BadElf{"BigEndian", [](Bytes& b) { b[EI_DATA] = ELFDATA2MSB; }, "not of 64 bits"},
        BadElf{"ObjectFile", VIREO_SET(Elf64_Ehdr, 0, e_type, ET_REL), "not an executable"},
        BadElf{"HeaderSize", VIREO_SET(Elf64_Ehdr, 0, e_phentsize, 32), "wrong size"},
        BadElf{"HeadersFarAway", VIREO_SET(Elf64_Ehdr, 0, e_phoff, 0x800000), "program headers"},
        BadElf{"HeadersWrap", VIREO_SET(Elf64_Ehdr, 0, e_phoff, ~uint64_t{0}), "program headers"},
        BadElf{"TooManyHeaders", VIREO_SET(Elf64_Ehdr, 0, e_phnum, 0xffff), "program headers"},
        BadElf{"NothingToLoad", VIREO_SET(Elf64_Ehdr, 0, e_phnum, 0), "nothing to load"},
        BadElf{"Truncated", [](Bytes& b) { b.pop_back(); }, "truncated"},
        BadElf{"SegmentOffsetWraps",
               VIREO_SET(Elf64_Phdr, kElfSegmentHeader, p_offset, ~uint64_t{0}), "truncated"},
        BadElf{"LargerInFile", VIREO_SET(Elf64_Phdr, kElfSegmentHeader, p_memsz, 0x80),
               "larger in the file"},
        BadElf{"AddressWraps", VIREO_SET(Elf64_Phdr, kElfSegmentHeader, p_paddr, ~uint64_t{0xfff}),
               "wraps"},
        BadElf{"BelowOneMegabyte", VIREO_SET(Elf64_Phdr, kElfSegmentHeader, p_paddr, 0x8000),
               "does not fit"},
        BadElf{"BeyondMemory", VIREO_SET(Elf64_Phdr, kElfSegmentHeader, p_memsz, 64 * kMiB),
               "does not fit"},
        BadElf{"HugeNotes", VIREO_SET(Elf64_Phdr, kElfNoteHeader, p_filesz, 2 * kMiB), "truncated"},
        BadElf{"NoNotes", VIREO_SET(Elf64_Phdr, kElfNoteHeader, p_type, PT_NULL), "PVH entry"},
        BadElf{"OtherNoteType", [](Bytes& b) { PutAt<uint32_t>(b, kElfNoteOffset + 24 + 8, 17); },
               "PVH entry"},
        BadElf{"NoteTooLong", [](Bytes& b) { PutAt<uint32_t>(b, kElfNoteOffset + 4, 0xffffffff); },
               "ELF note"},
        BadElf{"NoteNameTooLong", [](Bytes& b) { PutAt<uint32_t>(b, kElfNoteOffset, 0xfffffffd); },
               "ELF note"},
        BadElf{"EntryOfTwoBytes", [](Bytes& b) { PutAt<uint32_t>(b, kElfNoteOffset + 24 + 4, 2); },
               "4 nor 8"},
        BadElf{"EntryOutside",
               [](Bytes& b) { PutAt<uint32_t>(b, kElfNoteOffset + 24 + 16, 0x90000); }, "outside"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(LoadPvhElfTest, InitrdAndCommandLineAreChecked) {
  const TestGuest guest = MakeGuest(32 * kMiB);
  const Bytes large(31 * kMiB, 1);
  EXPECT_THAT(std::string(Load(guest, MakePvhElf(), large).status().message()),
              HasSubstr("initrd.img: the initrd does not fit"));
  EXPECT_EQ(Load(guest, MakePvhElf(), {1}, std::string(2048, 'x')).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace vireo::x86
