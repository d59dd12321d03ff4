#include "vmm/x86/direct_boot.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"
#include "vmm/x86/layout.h"

namespace vireo::x86 {
namespace {

constexpr uint64_t kPageBytes = 4096;

// The highest place for an initrd of `bytes` in [floor, ceiling); nullopt when there is none.
std::optional<uint64_t> PlaceHigh(uint64_t floor, uint64_t ceiling, uint64_t bytes) {
  floor = AlignUp(floor, kPageBytes);
  if (ceiling < floor || ceiling - floor < bytes) return std::nullopt;
  const uint64_t address = AlignDown(ceiling - bytes, kPageBytes);
  if (address < floor) return std::nullopt;
  return address;
}

}  // namespace

absl::StatusOr<PlacedInitrd> PlaceInitrd(const InputFile& initrd, const Layout& layout,
                                         uint64_t kernel_end, uint64_t ceiling, InitrdReach reach) {
  ASSIGN_OR_RETURN(const uint64_t bytes, InputFileSize(initrd));
  if (bytes == 0) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: the initrd is empty", initrd.name));
  }
  ceiling = std::min(ceiling, layout.low_ram.end());
  std::optional<uint64_t> address = PlaceHigh(kernel_end, ceiling, bytes);
  if (!address.has_value() && reach == InitrdReach::kAllMemory && layout.high_ram.size != 0) {
    address = PlaceHigh(layout.high_ram.base, layout.high_ram.end(), bytes);
  }
  if (!address.has_value()) {
    const uint64_t room = ceiling > kernel_end ? ceiling - kernel_end : 0;
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: the initrd does not fit: it needs %d bytes, the guest's memory has %d that the kernel "
        "can reach and does not use itself",
        initrd.name, bytes, room));
  }
  return PlacedInitrd{*address, bytes};
}

absl::StatusOr<PlacedInitrd> LoadInitrd(const DirectBoot& boot, uint64_t kernel_end,
                                        uint64_t ceiling, InitrdReach reach) {
  ASSIGN_OR_RETURN(const PlacedInitrd place,
                   PlaceInitrd(*boot.initrd, boot.layout, kernel_end, ceiling, reach));
  RETURN_IF_ERROR(
      ReadInputFileToGuest(*boot.initrd, 0, place.bytes, GuestAddress(place.address), boot.memory));
  return place;
}

absl::Status WriteCommandLine(std::string_view command_line, GuestMemory& memory) {
  std::vector<uint8_t> bytes(command_line.begin(), command_line.end());
  bytes.push_back(0);
  return memory.Write(GuestAddress(kCommandLineAddress), bytes);
}

}  // namespace vireo::x86
