#include "vmm/x86/linux_boot.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "vmm/x86/cmdline.h"
#include "vmm/x86/e820.h"
#include "vmm/x86/kernel_file.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/setup_header.h"

namespace vireo::x86 {
namespace {

using namespace setup_header;  // NOLINT(google-build-using-namespace): field names only.

// Other fields of boot_params (zero-page.rst).
constexpr size_t kBootParamsBytes = 0x1000;
constexpr size_t kAcpiRsdpAddr = 0x070;
constexpr size_t kExtRamdiskImage = 0x0c0;
constexpr size_t kExtRamdiskSize = 0x0c4;
constexpr size_t kE820Entries = 0x1e8;
constexpr size_t kE820Table = 0x2d0;
constexpr size_t kE820EntryBytes = 20;
constexpr size_t kMostE820Entries = 128;
constexpr size_t kHeaderEndLimit = 0x290;  // boot_params has no more room for it.

constexpr uint16_t kLeastVersion = 0x20c;
constexpr uint8_t kLoadedHigh = 1 << 0;
constexpr uint16_t kXlfKernel64 = 1 << 0;
constexpr uint16_t kXlfCanBeLoadedAbove4G = 1 << 1;
constexpr uint64_t kEntry64 = 0x200;  // From the start of the protected-mode part.
constexpr uint64_t kSectorBytes = 512;

std::vector<uint8_t> MakeBootParams(const BzImage& image, const DirectBoot& boot,
                                    const PlacedInitrd& initrd) {
  std::vector<uint8_t> params(kBootParamsBytes);
  std::copy(image.setup_header.begin(), image.setup_header.end(), params.begin() + kSetupSects);
  Put<uint8_t>(params, kTypeOfLoader, kUndefinedLoader);
  Put<uint32_t>(params, kCmdLinePtr, static_cast<uint32_t>(kCommandLineAddress));
  Put<uint32_t>(params, kRamdiskImage, static_cast<uint32_t>(initrd.address));
  Put<uint32_t>(params, kExtRamdiskImage, static_cast<uint32_t>(initrd.address >> 32));
  Put<uint32_t>(params, kRamdiskSize, static_cast<uint32_t>(initrd.bytes));
  Put<uint32_t>(params, kExtRamdiskSize, static_cast<uint32_t>(initrd.bytes >> 32));
  Put<uint64_t>(params, kAcpiRsdpAddr, boot.rsdp);
  const std::vector<E820Entry> map = BuildE820(boot.layout);
  const size_t entries = std::min(map.size(), kMostE820Entries);
  Put<uint8_t>(params, kE820Entries, static_cast<uint8_t>(entries));
  for (size_t i = 0; i < entries; ++i) {
    const size_t at = kE820Table + i * kE820EntryBytes;
    Put<uint64_t>(params, at, map[i].base);
    Put<uint64_t>(params, at + 8, map[i].size);
    Put<uint32_t>(params, at + 16, static_cast<uint32_t>(map[i].type));
  }
  return params;
}

}  // namespace

absl::StatusOr<BzImage> ParseBzImage(std::span<const uint8_t> head, uint64_t file_bytes,
                                     std::string_view name) {
  ASSIGN_OR_RETURN(const KernelKind kind, DetectKernelKind(head, name));
  if (kind != KernelKind::kBzImage) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: not a bzImage", name));
  }
  if (head.size() < kLeastHeaderEnd) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the file ends within the setup header", name));
  }
  BzImage image;
  image.version = Load<uint16_t>(head, kVersion);
  if (image.version < kLeastVersion) {
    return absl::UnimplementedError(absl::StrFormat(
        "%s: boot protocol %d.%02d is older than 2.12 (Linux 3.8), and has no 64-bit entry", name,
        image.version >> 8, image.version & 0xff));
  }
  // The short jump over the header tells its end: boot.rst, "The Real-Mode Kernel Header".
  const size_t header_end = kJump + 2 + head[kJump + 1];
  if (header_end < kLeastHeaderEnd || header_end > kHeaderEndLimit || header_end > head.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the setup header ends at 0x%x, not within [0x%x, 0x%x]", name,
                        header_end, kLeastHeaderEnd, std::min(kHeaderEndLimit, head.size())));
  }
  const uint16_t xloadflags = Load<uint16_t>(head, kXloadFlags);
  if ((xloadflags & kXlfKernel64) == 0) {
    return absl::UnimplementedError(
        absl::StrFormat("%s: a 32-bit kernel: it has no 64-bit entry point", name));
  }
  if ((head[kLoadFlags] & kLoadedHigh) == 0) {
    return absl::UnimplementedError(
        absl::StrFormat("%s: a zImage, which loads below 1 MiB, and not a bzImage", name));
  }
  image.setup_header.assign(head.begin() + kSetupSects, head.begin() + header_end);

  // 0 stands for 4, for historical reasons.
  const uint64_t setup_sectors = head[kSetupSects] == 0 ? 4 : head[kSetupSects];
  image.payload_offset = (setup_sectors + 1) * kSectorBytes;
  image.payload_bytes = uint64_t{Load<uint32_t>(head, kSysSize)} * 16;
  if (image.payload_bytes <= kEntry64) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: the setup header tells of a kernel of %d bytes", name, image.payload_bytes));
  }
  // Both are under 2^37, so the sum does not wrap.
  if (image.payload_offset + image.payload_bytes > file_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: truncated: the kernel ends at byte %d, the file at %d", name,
                        image.payload_offset + image.payload_bytes, file_bytes));
  }
  image.preferred_address = Load<uint64_t>(head, kPrefAddress);
  image.init_size = Load<uint32_t>(head, kInitSize);
  const uint32_t alignment = Load<uint32_t>(head, kKernelAlignment);
  image.alignment = head[kRelocatable] != 0 ? alignment : 0;
  if (image.alignment != 0 && !std::has_single_bit(image.alignment)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: kernel_alignment is 0x%x, not a power of two", name, alignment));
  }
  if (image.preferred_address < kKernelAreaAddress || image.preferred_address >= kLowRamLimit) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the kernel wants to be loaded at 0x%x, not within [0x%x, 0x%x)", name,
                        image.preferred_address, kKernelAreaAddress, kLowRamLimit));
  }
  image.initrd_above_4g = (xloadflags & kXlfCanBeLoadedAbove4G) != 0;
  // A kernel that can be loaded above 4 GiB reaches all memory, whatever initrd_addr_max says.
  image.initrd_limit =
      image.initrd_above_4g ? k4GiB : uint64_t{Load<uint32_t>(head, kInitrdAddrMax)} + 1;
  image.command_line_limit = Load<uint32_t>(head, kCmdlineSize);
  return image;
}

absl::StatusOr<BootEntry> LoadBzImage(const DirectBoot& boot) {
  const InputFile& kernel = boot.kernel;
  ASSIGN_OR_RETURN(const uint64_t file_bytes, InputFileSize(kernel));
  ASSIGN_OR_RETURN(const std::vector<uint8_t> head, ReadInputFile(kernel, 0, kBzImageHeadBytes));
  ASSIGN_OR_RETURN(const BzImage image, ParseBzImage(head, file_bytes, kernel.name));
  RETURN_IF_ERROR(CheckCommandLine(
      boot.command_line, std::min<uint64_t>(image.command_line_limit, kCommandLineAreaBytes - 1),
      kernel.name));

  // A 64-bit Linux unpacks itself at its preferred address or above, never below: there is no use
  // in moving it down when memory is short.
  const uint64_t address = image.preferred_address;
  const uint64_t needed = std::max(image.init_size, image.payload_bytes);
  const uint64_t kernel_end = address + needed;  // Under 2^38.
  if (kernel_end > boot.layout.low_ram.end()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: the kernel does not fit: it needs memory up to 0x%x, the guest's ends at 0x%x",
        kernel.name, kernel_end, boot.layout.low_ram.end()));
  }
  RETURN_IF_ERROR(ReadInputFileToGuest(kernel, image.payload_offset, image.payload_bytes,
                                       GuestAddress(address), boot.memory));
  PlacedInitrd initrd;
  if (boot.initrd.has_value()) {
    ASSIGN_OR_RETURN(initrd, LoadInitrd(boot, kernel_end, image.initrd_limit,
                                        image.initrd_above_4g ? InitrdReach::kAllMemory
                                                              : InitrdReach::kBelowCeiling));
  }
  RETURN_IF_ERROR(WriteCommandLine(boot.command_line, boot.memory));
  RETURN_IF_ERROR(
      boot.memory.Write(GuestAddress(kBootParamsAddress), MakeBootParams(image, boot, initrd)));
  return BootEntry{
      .mode = BootEntry::Mode::kLong64, .rip = address + kEntry64, .argument = kBootParamsAddress};
}

}  // namespace vireo::x86
