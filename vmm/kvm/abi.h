// Those parts of KVM's ABI that <linux/kvm.h> gets wrong in C++. Private to vmm/kvm.
//
// The 6.1 headers declare flexible arrays through an empty struct, which has size 0 in C and 1 in
// C++: every struct that ends in one has the wrong size, and so has the ioctl number made from it.
// Here are their fixed parts, with the numbers made from those; entries follow in memory.

#ifndef VIREO_VMM_KVM_ABI_H_
#define VIREO_VMM_KVM_ABI_H_

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <type_traits>
#include <vector>

namespace vireo::kvm::abi {

struct CpuidHeader {  // kvm_cpuid2
  uint32_t nent;
  uint32_t padding;
};
struct MsrsHeader {  // kvm_msrs
  uint32_t nmsrs;
  uint32_t pad;
};
struct MsrListHeader {  // kvm_msr_list
  uint32_t nmsrs;
};
struct IrqRoutingHeader {  // kvm_irq_routing
  uint32_t nr;
  uint32_t flags;
};
struct SignalMask {  // kvm_signal_mask with the kernel's 64 signals
  uint32_t len;
  uint8_t sigset[8];
};
struct Xsave {  // kvm_xsave without what dynamic features add
  uint32_t region[1024];
};

static_assert(sizeof(CpuidHeader) == 8);
static_assert(sizeof(kvm_cpuid_entry2) == 40);
static_assert(sizeof(MsrsHeader) == 8);
static_assert(sizeof(kvm_msr_entry) == 16);
static_assert(sizeof(MsrListHeader) == 4);
static_assert(sizeof(IrqRoutingHeader) == 8);
static_assert(sizeof(kvm_irq_routing_entry) == 48);
static_assert(sizeof(SignalMask) == 12);
static_assert(sizeof(Xsave) == 4096);
// And some that must be right as they are.
static_assert(sizeof(kvm_userspace_memory_region) == 32);
static_assert(sizeof(kvm_regs) == 144);
static_assert(sizeof(kvm_sregs) == 312);
static_assert(sizeof(kvm_lapic_state) == 1024);
static_assert(sizeof(kvm_vcpu_events) == 64);
static_assert(sizeof(kvm_debugregs) == 128);
static_assert(sizeof(kvm_xcrs) == 392);
static_assert(sizeof(kvm_irqchip) == 520);
static_assert(sizeof(kvm_pit_state2) == 112);
static_assert(sizeof(kvm_clock_data) == 48);
static_assert(sizeof(kvm_irqfd) == 32);
static_assert(sizeof(kvm_ioeventfd) == 64);
static_assert(offsetof(kvm_run, mmio) == 32);

inline constexpr unsigned long kGetMsrIndexList = _IOWR(KVMIO, 0x02, MsrListHeader);
inline constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, CpuidHeader);
inline constexpr unsigned long kSetGsiRouting = _IOW(KVMIO, 0x6a, IrqRoutingHeader);
inline constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, MsrsHeader);
inline constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, MsrsHeader);
// The kernel's kvm_signal_mask is 4 bytes, the signals beyond them.
inline constexpr unsigned long kSetSignalMask = _IOW(KVMIO, 0x8b, uint32_t);
inline constexpr unsigned long kSetCpuid = _IOW(KVMIO, 0x90, CpuidHeader);
inline constexpr unsigned long kGetCpuid = _IOWR(KVMIO, 0x91, CpuidHeader);
inline constexpr unsigned long kGetXsave = _IOR(KVMIO, 0xa4, Xsave);
inline constexpr unsigned long kSetXsave = _IOW(KVMIO, 0xa5, Xsave);
inline constexpr unsigned long kGetXsave2 = _IOR(KVMIO, 0xcf, Xsave);

// A header followed by `count` zeroed entries, as the kernel takes it.
template <typename Header, typename Entry>
class WithEntries {
  static_assert(std::is_trivially_copyable_v<Header> && std::is_trivially_copyable_v<Entry>);
  static_assert(sizeof(Header) % alignof(Entry) == 0 && alignof(Entry) <= alignof(uint64_t));

 public:
  explicit WithEntries(size_t count)
      : words_((sizeof(Header) + count * sizeof(Entry) + 7) / 8), count_(count) {}

  void* data() { return words_.data(); }
  Header& header() { return *std::launder(reinterpret_cast<Header*>(words_.data())); }
  std::span<Entry> entries() {
    uint8_t* const bytes = reinterpret_cast<uint8_t*>(words_.data());
    return {std::launder(reinterpret_cast<Entry*>(bytes + sizeof(Header))), count_};
  }

 private:
  std::vector<uint64_t> words_;
  size_t count_;
};

using Cpuid = WithEntries<CpuidHeader, kvm_cpuid_entry2>;
using Msrs = WithEntries<MsrsHeader, kvm_msr_entry>;
using MsrList = WithEntries<MsrListHeader, uint32_t>;
using IrqRouting = WithEntries<IrqRoutingHeader, kvm_irq_routing_entry>;

}  // namespace vireo::kvm::abi

#endif  // VIREO_VMM_KVM_ABI_H_
