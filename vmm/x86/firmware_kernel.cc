#include "vmm/x86/firmware_kernel.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "vmm/x86/cmdline.h"
#include "vmm/x86/direct_boot.h"
#include "vmm/x86/linux_boot.h"
#include "vmm/x86/setup_header.h"

namespace vireo::x86 {
namespace {

using namespace setup_header;  // NOLINT(google-build-using-namespace): field names only.

constexpr uint8_t kCanUseHeap = 1 << 7;

// The real-mode part with its heap and stack has 64 KiB, the command line comes after it.
constexpr uint32_t kSetupAddress = 0x10000;
constexpr uint32_t kSetupRoom = 0x8000;
constexpr uint32_t kCommandLinePlace = 0x20000;
constexpr uint32_t kStackBytes = 0x200;
constexpr uint32_t kPayloadAddress = 0x100000;

// At the end of low memory a BIOS has its tables; SeaBIOS takes a quarter of this.
constexpr uint64_t kKeptByBios = 1 << 20;

}  // namespace

absl::StatusOr<FirmwareKernel> PrepareFirmwareKernel(const Layout& layout, InputFile kernel,
                                                     std::optional<InputFile> initrd,
                                                     std::string_view command_line) {
  ASSIGN_OR_RETURN(const uint64_t file_bytes, InputFileSize(kernel));
  ASSIGN_OR_RETURN(const std::vector<uint8_t> head, ReadInputFile(kernel, 0, kBzImageHeadBytes));
  ASSIGN_OR_RETURN(const BzImage image, ParseBzImage(head, file_bytes, kernel.name));
  if (image.payload_offset > kSetupRoom) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: its real-mode part has %d bytes, more than %d", kernel.name,
                        image.payload_offset, kSetupRoom));
  }
  RETURN_IF_ERROR(CheckCommandLine(
      command_line, std::min<uint64_t>(image.command_line_limit, kCommandLineAreaBytes - 1),
      kernel.name));

  FirmwareKernel result = {.payload_offset = image.payload_offset,
                           .payload_bytes = file_bytes - image.payload_offset,
                           .command_line = {command_line.begin(), command_line.end()},
                           .setup_address = kSetupAddress,
                           .payload_address = kPayloadAddress,
                           .command_line_address = kCommandLinePlace};
  result.command_line.push_back(0);
  ASSIGN_OR_RETURN(result.setup, ReadInputFile(kernel, 0, image.payload_offset));
  if (result.setup.size() < image.payload_offset) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: it became shorter while it was read", kernel.name));
  }

  const uint64_t kernel_end =
      std::max(kPayloadAddress + result.payload_bytes,
               image.preferred_address + std::max(image.init_size, image.payload_bytes));
  const uint64_t ceiling =
      std::min(layout.low_ram.end() - std::min(layout.low_ram.size, kKeptByBios),
               uint64_t{Load<uint32_t>(result.setup, kInitrdAddrMax)} + 1);
  if (kernel_end > ceiling) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: the kernel does not fit: it needs memory up to 0x%x, with firmware there is some up "
        "to 0x%x",
        kernel.name, kernel_end, ceiling));
  }
  if (initrd.has_value()) {
    ASSIGN_OR_RETURN(const PlacedInitrd place,
                     PlaceInitrd(*initrd, layout, kernel_end, ceiling, InitrdReach::kBelowCeiling));
    result.initrd_bytes = place.bytes;
    result.initrd_address = static_cast<uint32_t>(place.address);
  }

  Put<uint8_t>(result.setup, kTypeOfLoader, kUndefinedLoader);
  Put<uint8_t>(result.setup, kLoadFlags, result.setup[kLoadFlags] | kCanUseHeap);
  Put<uint16_t>(result.setup, kHeapEndPtr,
                static_cast<uint16_t>(kCommandLinePlace - kSetupAddress - kStackBytes));
  Put<uint32_t>(result.setup, kCmdLinePtr, kCommandLinePlace);
  Put<uint32_t>(result.setup, kRamdiskImage, result.initrd_address);
  Put<uint32_t>(result.setup, kRamdiskSize, static_cast<uint32_t>(result.initrd_bytes));
  return result;
}

}  // namespace vireo::x86
