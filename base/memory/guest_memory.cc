#include "base/memory/guest_memory.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr uint64_t kPageSize = DirtyLog::kPageSize;
// Host and guest addresses agree below this, so that KVM can map huge pages.
constexpr uint64_t kHostAlignment = 2 << 20;

// The number behind `key` in /proc/meminfo (kB, or a count), 0 when there is none.
uint64_t MemInfo(const char* key) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen("/proc/meminfo", "re"), std::fclose);
  if (file == nullptr) return 0;
  char line[128];
  const size_t key_length = std::strlen(key);
  while (std::fgets(line, sizeof(line), file.get()) != nullptr) {
    unsigned long long value = 0;
    if (std::strncmp(line, key, key_length) == 0 &&
        std::sscanf(line + key_length, ": %llu", &value) == 1) {
      return value;
    }
  }
  return 0;
}

absl::StatusOr<uint64_t> CheckSpecs(std::vector<GuestMemory::RegionSpec>& specs,
                                    uint64_t granularity) {
  if (specs.empty()) return absl::InvalidArgumentError("guest memory: no region");
  std::sort(specs.begin(), specs.end(),
            [](const auto& a, const auto& b) { return a.base < b.base; });
  uint64_t total = 0;
  uint64_t previous_end = 0;
  for (const GuestMemory::RegionSpec& spec : specs) {
    const uint64_t base = spec.base.value();
    const std::optional<uint64_t> end = CheckedAdd(base, spec.size);
    const std::optional<uint64_t> sum = CheckedAdd(total, spec.size);
    if (spec.size == 0 || !end.has_value() || !sum.has_value() ||
        !IsAligned(spec.size, granularity) || !IsAligned(base, kPageSize)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("guest memory: a region of %d bytes at %#x; sizes are multiples of %d",
                          spec.size, base, granularity));
    }
    if (base < previous_end) {
      return absl::InvalidArgumentError(
          absl::StrFormat("guest memory: the region at %#x overlaps the one before", base));
    }
    previous_end = *end;
    total = *sum;
  }
  return total;
}

absl::StatusOr<UniqueFd> MakeMemfd(uint64_t total, unsigned flags) {
  UniqueFd fd(::memfd_create("vireo-guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags));
  if (!fd.valid()) return ErrnoStatus(errno, "guest memory: memfd_create");
  if (::ftruncate(fd.get(), static_cast<off_t>(total)) != 0) {
    return ErrnoStatus(errno, absl::StrFormat("guest memory: a memfd of %d bytes", total));
  }
  // Nobody who maps it can be hit by SIGBUS because it shrank.
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    return ErrnoStatus(errno, "guest memory: seal the memfd");
  }
  return fd;
}

// A memfd is counted page by page as it is touched, too late to refuse: ask beforehand.
absl::Status CheckHostHas(uint64_t total) {
  struct sysinfo info = {};
  if (::sysinfo(&info) != 0) return ErrnoStatus(errno, "sysinfo");
  const uint64_t host = (uint64_t{info.totalram} + info.totalswap) * info.mem_unit;
  if (total <= host) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrFormat("guest memory: %d MiB wanted, the host has %d MiB", total >> 20, host >> 20));
}

}  // namespace

absl::StatusOr<std::unique_ptr<GuestMemory>> GuestMemory::Create(std::vector<RegionSpec> specs,
                                                                 Backing backing) {
  uint64_t granularity = kPageSize;
  if (backing == Backing::kHugepages) {
    granularity = MemInfo("Hugepagesize") << 10;
    if (granularity == 0) {
      return absl::FailedPreconditionError("guest memory: this host has no huge pages");
    }
  }
  ASSIGN_OR_RETURN(const uint64_t total, CheckSpecs(specs, granularity));
  UniqueFd fd;
  if (backing == Backing::kShared) {
    RETURN_IF_ERROR(CheckHostHas(total));
    ASSIGN_OR_RETURN(fd, MakeMemfd(total, 0));
  } else if (backing == Backing::kHugepages) {
    ASSIGN_OR_RETURN(fd, MakeMemfd(total, MFD_HUGETLB));
  }
  std::unique_ptr<GuestMemory> memory(new GuestMemory(specs, std::move(fd)));
  const uint64_t alignment = std::max(kHostAlignment, granularity);
  uint64_t offset = 0;
  for (const RegionSpec& spec : specs) {
    absl::StatusOr<MappedRegion> mapping =
        backing == Backing::kPrivate
            ? MappedRegion::Anonymous(
                  spec.size, {.core_dump = false, .alignment = alignment, .huge_pages = true})
            : MappedRegion::File(memory->fd_, spec.size,
                                 {.offset = offset,
                                  .core_dump = false,
                                  .alignment = alignment,
                                  .huge_pages = backing == Backing::kShared});
    if (!mapping.ok() && backing == Backing::kHugepages &&
        StatusErrno(mapping.status()) == ENOMEM) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "guest memory: %d huge pages of %d KiB wanted, %d free; more with: sysctl -w "
          "vm.nr_hugepages=N",
          total / granularity, granularity >> 10, MemInfo("HugePages_Free")));
    }
    if (!mapping.ok()) return Annotate(mapping.status(), "guest memory");
    memory->regions_.push_back({.base = spec.base,
                                .host = mapping->bytes(),
                                .fd = memory->fd_.get(),
                                .fd_offset = memory->fd_.valid() ? offset : 0});
    memory->mappings_.push_back(*std::move(mapping));
    offset += spec.size;
  }
  memory->size_ = total;
  return memory;
}

namespace {

std::vector<DirtyLog::Range> RangesOf(const std::vector<GuestMemory::RegionSpec>& specs) {
  std::vector<DirtyLog::Range> ranges;
  for (const GuestMemory::RegionSpec& spec : specs) ranges.push_back({spec.base, spec.size});
  return ranges;
}

}  // namespace

GuestMemory::GuestMemory(std::vector<RegionSpec> specs, UniqueFd fd)
    : fd_(std::move(fd)), dirty_log_(RangesOf(specs)) {}

const GuestMemory::Region* GuestMemory::Find(GuestAddress address) const {
  for (const Region& region : regions_) {
    // Below the base the difference wraps to a large number.
    if (address.value() - region.base.value() < region.host.size()) return &region;
  }
  return nullptr;
}

// Calls visit(host bytes) for each piece of the range, in order. False, perhaps after some, when a
// byte is outside.
template <typename Visit>
bool GuestMemory::ForEachPiece(GuestAddress address, uint64_t length, Visit visit) const {
  uint64_t at = address.value();
  while (length > 0) {
    const Region* const region = Find(GuestAddress(at));
    if (region == nullptr) return false;
    const uint64_t offset = at - region->base.value();
    const uint64_t piece = std::min<uint64_t>(length, region->host.size() - offset);
    visit(region->host.subspan(offset, piece));
    length -= piece;
    // Regions end below 2^64, so this wraps only to an address that was checked not to be needed.
    at += piece;
  }
  return true;
}

bool GuestMemory::Contains(GuestAddress address, uint64_t length) const {
  return ForEachPiece(address, length, [](std::span<uint8_t> /*piece*/) {});
}

absl::Status GuestMemory::OutOfRange(GuestAddress address, uint64_t length) const {
  return absl::OutOfRangeError(
      absl::StrFormat("guest memory: %d bytes at %#x are not all RAM", length, address.value()));
}

absl::Status GuestMemory::Read(GuestAddress address, std::span<uint8_t> dst) const {
  const Region* const region = Find(address);
  if (region != nullptr) {
    const uint64_t offset = address.value() - region->base.value();
    if (dst.size() <= region->host.size() - offset) {
      if (!dst.empty()) std::memcpy(dst.data(), region->host.data() + offset, dst.size());
      return absl::OkStatus();
    }
  }
  if (!Contains(address, dst.size())) return OutOfRange(address, dst.size());
  ForEachPiece(address, dst.size(), [&dst](std::span<uint8_t> piece) {
    std::memcpy(dst.data(), piece.data(), piece.size());
    dst = dst.subspan(piece.size());
  });
  return absl::OkStatus();
}

absl::Status GuestMemory::Write(GuestAddress address, std::span<const uint8_t> src) {
  const uint64_t length = src.size();
  if (!Contains(address, length)) return OutOfRange(address, length);
  ForEachPiece(address, length, [&src](std::span<uint8_t> piece) {
    std::memcpy(piece.data(), src.data(), piece.size());
    src = src.subspan(piece.size());
  });
  dirty_log_.Mark(address, length);
  return absl::OkStatus();
}

absl::Status GuestMemory::Fill(GuestAddress address, uint8_t byte, uint64_t length) {
  if (!Contains(address, length)) return OutOfRange(address, length);
  ForEachPiece(address, length,
               [byte](std::span<uint8_t> piece) { std::memset(piece.data(), byte, piece.size()); });
  dirty_log_.Mark(address, length);
  return absl::OkStatus();
}

absl::StatusOr<uint16_t*> GuestMemory::Locate16(GuestAddress address) const {
  if (!IsAligned(address.value(), sizeof(uint16_t))) {
    return absl::InvalidArgumentError(
        absl::StrFormat("guest memory: a 16-bit index at the odd address %#x", address.value()));
  }
  // Regions are page-aligned, so an even address in one has both bytes there.
  const Region* const region = Find(address);
  if (region == nullptr) return OutOfRange(address, sizeof(uint16_t));
  return reinterpret_cast<uint16_t*>(region->host.data() +
                                     (address.value() - region->base.value()));
}

absl::StatusOr<uint16_t> GuestMemory::LoadAcquire16(GuestAddress address) const {
  ASSIGN_OR_RETURN(const uint16_t* const host, Locate16(address));
  return __atomic_load_n(host, __ATOMIC_ACQUIRE);
}

absl::Status GuestMemory::StoreRelease16(GuestAddress address, uint16_t value) {
  ASSIGN_OR_RETURN(uint16_t* const host, Locate16(address));
  __atomic_store_n(host, value, __ATOMIC_RELEASE);
  dirty_log_.Mark(address, sizeof(value));
  return absl::OkStatus();
}

namespace {

template <typename List>
void AppendPiece(std::span<uint8_t> piece, List* out) {
  out->push_back({piece.data(), piece.size()});
}

}  // namespace

bool GuestMemory::AppendReadable(GuestAddress address, uint64_t length,
                                 std::vector<iovec>* out) const {
  const size_t before = out->size();
  const bool inside =
      ForEachPiece(address, length, [out](std::span<uint8_t> piece) { AppendPiece(piece, out); });
  if (!inside) out->resize(before);
  return inside;
}

bool GuestMemory::AppendReadable(GuestAddress address, uint64_t length, IoVecList* out) const {
  const size_t before = out->size();
  const bool inside =
      ForEachPiece(address, length, [out](std::span<uint8_t> piece) { AppendPiece(piece, out); });
  if (!inside) out->resize(before);
  return inside;
}

void GuestMemory::MarkHost(const uint8_t* host, uint64_t length) {
  for (const Region& region : regions_) {
    const uint64_t offset =
        reinterpret_cast<uintptr_t>(host) - reinterpret_cast<uintptr_t>(region.host.data());
    if (offset < region.host.size()) {
      dirty_log_.Mark(GuestAddress(region.base.value() + offset), length);
      return;
    }
  }
}

bool GuestWritable::Append(GuestAddress address, uint64_t length) {
  if (!memory_->AppendReadable(address, length, &iovecs_)) return false;
  size_ += length;
  return true;
}

void GuestWritable::Complete(uint64_t bytes_written) {
  if (!memory_->dirty_log().enabled()) return;
  for (const iovec& vector : iovecs_) {
    const uint64_t length = std::min<uint64_t>(vector.iov_len, bytes_written);
    if (length == 0) return;
    memory_->MarkHost(static_cast<const uint8_t*>(vector.iov_base), length);
    bytes_written -= length;
  }
}

}  // namespace vireo
