// Interrupt lines on this host's own KVM, seen in the chips' registers: no guest runs.
#include "vmm/kvm_interrupts.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "base/opener.h"
#include "base/state.h"
#include "gtest/gtest.h"
#include "vmm/kvm/system.h"
#include "vmm/kvm/vm.h"
#include "vmm/x86/layout.h"

namespace vireo {
namespace {

class KvmInterruptsTest : public testing::Test {
 protected:
  void SetUp() override {
    const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) GTEST_SKIP() << "no usable /dev/kvm on this machine";
    close(kvm);
    DirectOpener opener;
    system_.emplace(*kvm::System::Open(opener));
    vm_ = *kvm::Vm::Create(*system_, {.tss_address = x86::kKvmTssAddress,
                                      .identity_map_address = x86::kKvmIdentityMapAddress});
    interrupts_ = *KvmInterrupts::Create(*vm_);
  }

  // Levels at the inputs of the two PICs, bit 0 IRQ 0, and at those of the I/O APIC. The structs
  // are the kernel's: an 8259's last levels come first, an I/O APIC's requests after its address,
  // index and ID.
  struct Levels {
    uint32_t pics;
    uint32_t ioapic;
    friend bool operator==(const Levels&, const Levels&) = default;
  };
  Levels Seen() {
    constexpr size_t kHeader = 8;
    const EncodedState state = *vm_->Save();
    StateReader reader(state.bytes);
    const std::vector<uint8_t> master = reader.Bytes();
    const std::vector<uint8_t> slave = reader.Bytes();
    const std::vector<uint8_t> ioapic = reader.Bytes();
    Levels levels = {.pics = uint32_t{master.at(kHeader)} | slave.at(kHeader) << 8};
    levels.pics &= ~uint32_t{1 << 2};  // The cascade.
    std::memcpy(&levels.ioapic, ioapic.data() + kHeader + 16, sizeof(levels.ioapic));
    return levels;
  }

  std::optional<kvm::System> system_;
  std::unique_ptr<kvm::Vm> vm_;
  std::unique_ptr<KvmInterrupts> interrupts_;
};

constexpr uint32_t kPirqA = 1 << 16;
constexpr uint32_t kPirqB = 1 << 17;
constexpr uint32_t kIrq10 = 1 << 10;
constexpr uint32_t kIrq11 = 1 << 11;

TEST_F(KvmInterruptsTest, ALineIsHighWhileAnybodyAssertsIt) {
  const std::unique_ptr<InterruptLine> one = interrupts_->MakeLine(16);
  const std::unique_ptr<InterruptLine> other = interrupts_->MakeLine(16);
  one->Assert();
  one->Assert();
  other->Assert();
  EXPECT_EQ(Seen(), (Levels{0, kPirqA}));
  one->Deassert();
  EXPECT_EQ(Seen(), (Levels{0, kPirqA}));
  other->Deassert();
  EXPECT_EQ(Seen(), (Levels{0, 0}));
}

// As SeaBIOS routes them: PIRQA and PIRQE to 10, and so on.
TEST_F(KvmInterruptsTest, LinesReachThePicsAsTheyAreRouted) {
  const std::unique_ptr<InterruptLine> a = interrupts_->MakeLine(16);
  const std::unique_ptr<InterruptLine> b = interrupts_->MakeLine(17);
  interrupts_->RoutePirq(0, 10);
  interrupts_->RoutePirq(1, 10);
  a->Assert();
  EXPECT_EQ(Seen(), (Levels{kIrq10, kPirqA | kIrq10}));
  b->Assert();
  a->Deassert();
  EXPECT_EQ(Seen(), (Levels{kIrq10, kPirqB | kIrq10}));
  b->Deassert();
  EXPECT_EQ(Seen(), (Levels{0, 0}));
}

TEST_F(KvmInterruptsTest, ARequestMovesWithItsRoute) {
  const std::unique_ptr<InterruptLine> a = interrupts_->MakeLine(16);
  a->Assert();
  interrupts_->RoutePirq(0, 10);
  EXPECT_EQ(Seen(), (Levels{kIrq10, kPirqA | kIrq10}));
  interrupts_->RoutePirq(0, 11);
  EXPECT_EQ(Seen(), (Levels{kIrq11, kPirqA | kIrq11}));
  interrupts_->RoutePirq(0, std::nullopt);
  EXPECT_EQ(Seen(), (Levels{0, kPirqA}));
  a->Deassert();
  EXPECT_EQ(Seen(), (Levels{0, 0}));
}

TEST_F(KvmInterruptsTest, ReservedInterruptsAreNoRoutes) {
  const std::unique_ptr<InterruptLine> a = interrupts_->MakeLine(16);
  a->Assert();
  for (const uint8_t irq : {0, 1, 2, 8, 13}) {
    interrupts_->RoutePirq(0, irq);
    EXPECT_EQ(Seen(), (Levels{0, kPirqA})) << int{irq};
  }
}

}  // namespace
}  // namespace vireo
