#include "vmm/kvm_interrupts.h"

#include <optional>
#include <utility>

#include "base/log.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr uint32_t kInputs = 24;    // Of the I/O APIC.
constexpr uint32_t kMaxGsi = 4096;  // KVM_MAX_IRQ_ROUTES.
constexpr uint32_t kFirstPirq = 16;
// ICH9 datasheet, "PIRQ[n]_ROUT": the timer's, the keyboard's, the cascade, the clock's, the FPU's.
constexpr uint32_t kReservedIsa = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 8 | 1 << 13;

}  // namespace

class KvmInterrupts::Line final : public InterruptLine {
 public:
  Line(KvmInterrupts& owner, uint32_t gsi) : owner_(owner), gsi_(gsi) {}
  ~Line() override { Deassert(); }

  void Assert() override {
    MutexLock lock(mutex_);
    if (!std::exchange(asserted_, true)) owner_.Raise(gsi_);
  }

  void Deassert() override {
    MutexLock lock(mutex_);
    if (std::exchange(asserted_, false)) owner_.Lower(gsi_);
  }

 private:
  KvmInterrupts& owner_;
  const uint32_t gsi_;
  Mutex mutex_;  // Taken before the input's.
  bool asserted_ ABSL_GUARDED_BY(mutex_) = false;
};

namespace {

void Report(uint32_t gsi, const absl::Status& status) {
  if (!status.ok()) LogError("interrupt line %d: %s", gsi, status.message());
}

}  // namespace

void KvmInterrupts::Raise(uint32_t gsi) {
  Input& input = *inputs_[gsi];
  MutexLock lock(input.mutex);
  if (++input.asserted != 1) return;
  Report(gsi, vm_.RaiseIrqLine(gsi));
  if (input.isa.has_value()) Raise(*input.isa);
}

void KvmInterrupts::Lower(uint32_t gsi) {
  Input& input = *inputs_[gsi];
  MutexLock lock(input.mutex);
  if (--input.asserted != 0) return;
  Report(gsi, vm_.LowerIrqLine(gsi));
  if (input.isa.has_value()) Lower(*input.isa);
}

void KvmInterrupts::RoutePirq(int pirq, std::optional<uint8_t> irq) {
  std::optional<uint32_t> isa;
  if (irq.has_value() && *irq < kFirstPirq && (kReservedIsa >> *irq & 1) == 0) isa = *irq;
  Input& input = *inputs_[kFirstPirq + static_cast<uint32_t>(pirq)];
  MutexLock lock(input.mutex);
  if (isa == input.isa) return;
  // A request that is under way moves along.
  const bool asserted = input.asserted != 0;
  if (asserted && input.isa.has_value()) Lower(*input.isa);
  input.isa = isa;
  if (asserted && isa.has_value()) Raise(*isa);
}

class KvmInterrupts::Sink final : public MsiSink {
 public:
  struct Vector {
    EventFd event;
    std::optional<uint32_t> gsi;  // Set while an irqfd is assigned. Under owner_.mutex_.
  };

  Sink(KvmInterrupts& owner, std::vector<Vector> vectors)
      : owner_(owner), vectors_(std::move(vectors)) {}

  ~Sink() override {
    for (uint16_t i = 0; i < vectors_.size(); ++i) Clear(i);
  }

  uint16_t vectors() const override { return static_cast<uint16_t>(vectors_.size()); }

  absl::Status Program(uint16_t vector, const MsiMessage& message) override {
    MutexLock lock(owner_.mutex_);
    Vector& v = vectors_[vector];
    const kvm::MsiTarget target = {.address = message.address, .data = message.data};
    if (v.gsi.has_value()) {
      kvm::MsiTarget& now = owner_.messages_[*v.gsi];
      if (now == target) return absl::OkStatus();
      now = target;
      return owner_.CommitRoutes();
    }
    ASSIGN_OR_RETURN(const uint64_t gsi, owner_.gsis_.Allocate(1, 1));
    owner_.messages_[static_cast<uint32_t>(gsi)] = target;
    absl::Status status = owner_.CommitRoutes();
    if (status.ok()) status = owner_.vm_.AssignIrqFd(static_cast<uint32_t>(gsi), v.event);
    if (!status.ok()) {
      owner_.messages_.erase(static_cast<uint32_t>(gsi));
      owner_.gsis_.Free(gsi);
      return status;
    }
    v.gsi = static_cast<uint32_t>(gsi);
    return absl::OkStatus();
  }

  void Clear(uint16_t vector) override {
    MutexLock lock(owner_.mutex_);
    Vector& v = vectors_[vector];
    if (!v.gsi.has_value()) return;
    absl::Status status = owner_.vm_.DeassignIrqFd(*v.gsi, v.event);
    owner_.messages_.erase(*v.gsi);
    owner_.gsis_.Free(*v.gsi);
    v.gsi.reset();
    status.Update(owner_.CommitRoutes());
    if (!status.ok()) LogError("MSI vector %d: %s", vector, status.message());
    v.event.Drain();  // What was signalled and not delivered is not for the next route.
  }

  void Signal(uint16_t vector) override { vectors_[vector].event.Signal(); }

 private:
  KvmInterrupts& owner_;
  std::vector<Vector> vectors_;
};

KvmInterrupts::KvmInterrupts(kvm::Vm& vm)
    : vm_(vm), gsis_("GSIs for MSI", kInputs, kMaxGsi - kInputs) {
  for (uint32_t i = 0; i < kInputs; ++i) inputs_.push_back(std::make_unique<Input>());
}

absl::StatusOr<std::unique_ptr<KvmInterrupts>> KvmInterrupts::Create(kvm::Vm& vm) {
  std::unique_ptr<KvmInterrupts> interrupts(new KvmInterrupts(vm));
  MutexLock lock(interrupts->mutex_);
  RETURN_IF_ERROR(interrupts->CommitRoutes());
  return interrupts;
}

std::unique_ptr<InterruptLine> KvmInterrupts::MakeLine(uint32_t gsi) {
  return std::make_unique<Line>(*this, gsi);
}

absl::StatusOr<std::unique_ptr<MsiSink>> KvmInterrupts::MakeMsiSink(uint16_t vectors) {
  std::vector<Sink::Vector> made;
  made.reserve(vectors);
  for (uint16_t i = 0; i < vectors; ++i) {
    ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
    made.push_back({std::move(event), std::nullopt});
  }
  return std::make_unique<Sink>(*this, std::move(made));
}

absl::Status KvmInterrupts::CommitRoutes() {
  std::vector<kvm::GsiRoute> routes = kvm::PcIrqchipRoutes();
  for (const auto& [gsi, message] : messages_) routes.push_back({gsi, message});
  return vm_.SetGsiRoutes(routes);
}

}  // namespace vireo
