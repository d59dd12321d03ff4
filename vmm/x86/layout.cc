#include "vmm/x86/layout.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "base/align.h"

namespace vireo::x86 {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint64_t kMinMemoryBytes = 32 * kMiB;
// The largest 64-bit PCI window, and the least that is worth having.
constexpr uint64_t kMaxPci64Bytes = 256 * kGiB;
constexpr uint64_t kMinPci64Bytes = 1 * kGiB;

}  // namespace

std::vector<AddressRange> Layout::Ram() const {
  std::vector<AddressRange> ram = {low_ram};
  if (high_ram.size != 0) ram.push_back(high_ram);
  return ram;
}

absl::StatusOr<Layout> MakeLayout(const LayoutOptions& options) {
  const uint64_t memory = options.memory_bytes;
  const uint64_t maximum = options.max_memory_bytes == 0 ? memory : options.max_memory_bytes;
  if (options.physical_address_bits < 36 || options.physical_address_bits > 52) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "physical addresses of %d bits, not within [36, 52]", options.physical_address_bits));
  }
  const uint64_t address_end = uint64_t{1} << options.physical_address_bits;
  if (!IsAligned(memory, kPageBytes) || !IsAligned(maximum, kPageBytes)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "memory of %d bytes (at most %d) is not a multiple of 4096", memory, maximum));
  }
  if (memory < kMinMemoryBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("memory of %d bytes is less than the 32 MiB that a guest needs", memory));
  }
  if (maximum < memory) {
    return absl::InvalidArgumentError(
        absl::StrFormat("max_memory of %d bytes is less than memory of %d bytes", maximum, memory));
  }
  // So that the sums below cannot wrap.
  if (maximum >= address_end) {
    return absl::InvalidArgumentError(
        absl::StrFormat("memory of %d bytes does not fit the %d-bit physical addresses of this "
                        "host's processor",
                        maximum, options.physical_address_bits));
  }

  Layout layout;
  layout.low_ram = {0, std::min(memory, kLowRamLimit)};
  layout.high_ram = {k4GiB, memory - layout.low_ram.size};
  layout.hotplug = {AlignUp(layout.high_ram.end(), kGiB), AlignUp(maximum - memory, kGiB)};
  layout.pci32 = {kPci32Address, kPci32End - kPci32Address};
  const uint64_t pci64_base = layout.hotplug.end();
  if (pci64_base > address_end || address_end - pci64_base < kMinPci64Bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("memory of %d bytes does not fit the %d-bit physical addresses of this "
                        "host's processor",
                        maximum, options.physical_address_bits));
  }
  layout.pci64 = {pci64_base, std::min(AlignDown(address_end - pci64_base, kGiB), kMaxPci64Bytes)};
  return layout;
}

}  // namespace vireo::x86
