// vmm/kvm on the /dev/kvm of whatever host this is, with guests of a few instructions. Skipped
// where there is none.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_fd.h"
#include "tests/guest/tiny/tiny_machine.h"
#include "vmm/x86/cpuid.h"
#include "vmm/x86/layout.h"

namespace vireo::tiny {
namespace {

using kvm::ExitInterrupted;
using kvm::ExitMmio;
using kvm::ExitPio;
using kvm::VcpuExit;
using testing::Each;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

constexpr uint16_t kDonePort = 0x500;
constexpr uint16_t kValuePort = 0x510;
constexpr uint16_t kStringPort = 0x514;
constexpr uint16_t kDoorbellPort = 0x520;
constexpr uint64_t kNoMemory = 0xd0000000;

uint64_t Value(std::span<const uint8_t> data) {
  uint64_t value = 0;
  std::memcpy(&value, data.data(), std::min(data.size(), sizeof(value)));
  return value;
}

std::string Describe(const absl::StatusOr<VcpuExit>& exit) {
  if (!exit.ok()) return exit.status().ToString();
  if (const auto* error = std::get_if<kvm::ExitInternalError>(&*exit)) return error->description;
  return "exit kind " + std::to_string(exit->index());
}

// The next exit, which must be of this kind.
template <typename Exit>
Exit Next(TinyMachine& machine) {
  absl::StatusOr<VcpuExit> exit = machine.vcpu->Run();
  if (exit.ok() && std::holds_alternative<Exit>(*exit)) return std::get<Exit>(*exit);
  ADD_FAILURE() << Describe(exit);
  return Exit{};
}

struct Access {
  uint64_t where;
  uint64_t value;
  size_t bytes;
  friend bool operator==(const Access&, const Access&) = default;
  friend void PrintTo(const Access& access, std::ostream* out) {
    *out << std::hex << access.where << " <- " << access.value << " (" << access.bytes << ")";
  }
};

// All writes that reach user space up to the guest's "done".
std::vector<Access> WritesUntilDone(TinyMachine& machine) {
  std::vector<Access> writes;
  for (;;) {
    const absl::StatusOr<VcpuExit> exit = machine.vcpu->Run();
    if (exit.ok() && std::holds_alternative<ExitPio>(*exit)) {
      const ExitPio& pio = std::get<ExitPio>(*exit);
      if (pio.port == kDonePort) return writes;
      writes.push_back({pio.port, Value(pio.data), pio.data.size()});
    } else if (exit.ok() && std::holds_alternative<ExitMmio>(*exit)) {
      const ExitMmio& mmio = std::get<ExitMmio>(*exit);
      writes.push_back({mmio.address, Value(mmio.data), mmio.data.size()});
    } else {
      ADD_FAILURE() << Describe(exit);
      return writes;
    }
  }
}

std::unique_ptr<TinyMachine> Machine(std::span<const uint8_t> program,
                                     x86::BootEntry::Mode mode = x86::BootEntry::Mode::kPvh32,
                                     uint64_t argument = 0) {
  absl::StatusOr<std::unique_ptr<TinyMachine>> machine =
      TinyMachine::Create(program, mode, argument);
  if (!machine.ok()) {
    std::fprintf(stderr, "%s\n", machine.status().ToString().c_str());
    std::abort();  // Nothing after this would mean anything.
  }
  return *std::move(machine);
}

class TinyGuestTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "skipped: this host has no /dev/kvm that we may use";
    }
  }
};

TEST_F(TinyGuestTest, PortsAndMemoryExit) {
  const auto machine = Machine(Ports());

  const ExitPio first = Next<ExitPio>(*machine);
  EXPECT_EQ(first.port, kValuePort);
  EXPECT_FALSE(first.in);
  EXPECT_THAT(first.data, ElementsAre(0x56));

  const ExitPio in = Next<ExitPio>(*machine);
  EXPECT_TRUE(in.in);
  ASSERT_THAT(in.data, SizeIs(1));
  in.data[0] = 0x41;
  EXPECT_THAT(Next<ExitPio>(*machine).data, ElementsAre(0x42));
  EXPECT_THAT(Next<ExitPio>(*machine).data, ElementsAre(0x44, 0x33, 0x22, 0x11));

  // The data of an MMIO exit lies in the vCPU's shared page: valid until the next Run().
  const ExitMmio write = Next<ExitMmio>(*machine);
  EXPECT_EQ(write.address, kNoMemory + 0x10);
  EXPECT_TRUE(write.is_write);
  EXPECT_THAT(write.data, ElementsAre(0x5a));

  const ExitMmio read = Next<ExitMmio>(*machine);
  EXPECT_EQ(read.address, kNoMemory + 0x20);
  EXPECT_FALSE(read.is_write);
  ASSERT_THAT(read.data, SizeIs(4));
  const uint32_t answer = 0xcafef00d;
  std::memcpy(read.data.data(), &answer, sizeof(answer));
  EXPECT_EQ(Value(Next<ExitPio>(*machine).data), 0xcafef00d);
}

TEST_F(TinyGuestTest, AStringOfPortWritesArrivesWhole) {
  const auto machine = Machine(Ports());
  std::string text;
  for (;;) {
    const absl::StatusOr<VcpuExit> exit = machine->vcpu->Run();
    ASSERT_TRUE(exit.ok()) << exit.status();
    const ExitPio* const pio = std::get_if<ExitPio>(&*exit);
    if (pio == nullptr) continue;
    if (pio->port == kDonePort) break;
    if (pio->port != kStringPort) continue;
    EXPECT_EQ(pio->size, 1);
    EXPECT_EQ(pio->data.size(), pio->count);
    text.append(pio->data.begin(), pio->data.end());
  }
  EXPECT_EQ(text, "hello");
}

TEST_F(TinyGuestTest, LongModeEntryRunsWithItsArgumentAndKvmLeaves) {
  const auto machine = Machine(LongMode(), x86::BootEntry::Mode::kLong64, 0x7000);
  EXPECT_THAT(WritesUntilDone(*machine),
              ElementsAre(Access{kValuePort, 0x7000, 4}, Access{kNoMemory, 0x1122334455667788, 8},
                          Access{kValuePort, 0x4b4d564b /* "KVMK" */, 4}));
}

TEST_F(TinyGuestTest, DoorbellsSignalAndDoNotExit) {
  const auto machine = Machine(Doorbells());
  const EventFd port = *EventFd::Create();
  const EventFd any = *EventFd::Create();
  const EventFd matching = *EventFd::Create();
  const std::vector<kvm::IoEventFd> doorbells = {
      {.address = kDoorbellPort, .length = 2, .pio = true, .match = 7, .fd = port.fd()},
      {.address = kNoMemory + 0x100, .length = 0, .match = std::nullopt, .fd = any.fd()},
      {.address = kNoMemory + 0x104, .length = 4, .match = 9, .fd = matching.fd()},
  };
  for (const kvm::IoEventFd& doorbell : doorbells) {
    ASSERT_TRUE(machine->vm->AssignIoEventFd(doorbell).ok());
  }
  EXPECT_EQ(machine->vm->AssignIoEventFd(doorbells[0]).code(), absl::StatusCode::kAlreadyExists);

  EXPECT_THAT(WritesUntilDone(*machine),
              ElementsAre(Access{kDoorbellPort, 8, 2}, Access{kNoMemory + 0x104, 10, 4}));
  EXPECT_EQ(port.Drain(), 1u);
  EXPECT_EQ(any.Drain(), 2u);
  EXPECT_EQ(matching.Drain(), 1u);
}

TEST_F(TinyGuestTest, DoorbellsThatAreTakenAwayExitAgain) {
  const auto machine = Machine(Doorbells());
  const EventFd event = *EventFd::Create();
  const kvm::IoEventFd doorbell = {
      .address = kDoorbellPort, .length = 2, .pio = true, .match = 7, .fd = event.fd()};
  ASSERT_TRUE(machine->vm->AssignIoEventFd(doorbell).ok());
  ASSERT_TRUE(machine->vm->DeassignIoEventFd(doorbell).ok());
  EXPECT_THAT(WritesUntilDone(*machine), SizeIs(6));
  EXPECT_EQ(event.Drain(), 0u);
}

// A vCPU on a thread of its own, as in the real machine: values that the guest writes come out at
// Take().
class RunningGuest {
 public:
  explicit RunningGuest(TinyMachine& machine) : machine_(machine), thread_([this] { RunLoop(); }) {}

  ~RunningGuest() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    machine_.vcpu->RequestExit();
    ::pthread_kill(thread_.native_handle(), kvm::KickSignal());
    thread_.join();
  }

  // The next value; the limit only turns a hang into a failure.
  uint64_t Take() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(30), [&] { return !values_.empty(); })) {
      ADD_FAILURE() << "the guest says nothing; " << problem_;
      return ~uint64_t{0};
    }
    const uint64_t value = values_.front();
    values_.pop_front();
    return value;
  }

 private:
  void RunLoop() {
    for (;;) {
      const absl::StatusOr<VcpuExit> exit = machine_.vcpu->Run();
      std::lock_guard lock(mutex_);
      if (stop_) return;
      if (exit.ok() && std::holds_alternative<ExitInterrupted>(*exit)) continue;
      if (!exit.ok() || !std::holds_alternative<ExitPio>(*exit)) {
        problem_ = Describe(exit);
        return;
      }
      values_.push_back(Value(std::get<ExitPio>(*exit).data));
      changed_.notify_all();
    }
  }

  TinyMachine& machine_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<uint64_t> values_;
  std::string problem_;
  bool stop_ = false;
  std::thread thread_;  // Last: it uses the others.
};

class TinyInterruptTest : public TinyGuestTest {
 protected:
  void SetUp() override {
    TinyGuestTest::SetUp();
    if (IsSkipped()) return;
    ASSERT_TRUE(kvm::InstallKickHandler().ok());
    machine_ = Machine(Interrupts());
    ASSERT_TRUE(machine_->SetHandler(0x24, kGuestAddress + OnIsa()).ok());
    ASSERT_TRUE(machine_->SetHandler(0x41, kGuestAddress + OnMessage()).ok());
    ASSERT_TRUE(machine_->SetHandler(0x42, kGuestAddress + OnLevel()).ok());
  }

  std::unique_ptr<TinyMachine> machine_;
};

constexpr uint64_t kReady = 1;
// Intel SDM vol. 3A, "Message Address Register Format": to APIC 0.
constexpr kvm::MsiTarget kMessage = {.address = x86::kLocalApicAddress, .data = 0x41};

TEST_F(TinyInterruptTest, EventFdRaisesAnIsaInterrupt) {
  const EventFd trigger = *EventFd::Create();
  ASSERT_TRUE(machine_->vm->AssignIrqFd(4, trigger).ok());
  RunningGuest guest(*machine_);
  ASSERT_EQ(guest.Take(), kReady);
  trigger.Signal();
  EXPECT_EQ(guest.Take(), 0x24u);
  trigger.Signal();
  EXPECT_EQ(guest.Take(), 0x24u);
}

TEST_F(TinyInterruptTest, EventFdSendsAMessageOfTheRoutingTable) {
  constexpr uint32_t kGsi = 24;
  std::vector<kvm::GsiRoute> routes = kvm::PcIrqchipRoutes();
  routes.push_back({kGsi, kMessage});
  ASSERT_TRUE(machine_->vm->SetGsiRoutes(routes).ok());
  const EventFd trigger = *EventFd::Create();
  ASSERT_TRUE(machine_->vm->AssignIrqFd(kGsi, trigger).ok());
  RunningGuest guest(*machine_);
  ASSERT_EQ(guest.Take(), kReady);
  trigger.Signal();
  EXPECT_EQ(guest.Take(), 0x41u);
  ASSERT_TRUE(machine_->vm->DeassignIrqFd(kGsi, trigger).ok());
  ASSERT_TRUE(machine_->vm->SignalMsi(kMessage).ok());
  EXPECT_EQ(guest.Take(), 0x41u);
}

TEST_F(TinyInterruptTest, LevelInterruptAsksAgainAtItsEnd) {
  const EventFd trigger = *EventFd::Create();
  const EventFd resample = *EventFd::Create();
  ASSERT_TRUE(machine_->vm->AssignIrqFd(16, trigger, &resample).ok());
  RunningGuest guest(*machine_);
  ASSERT_EQ(guest.Take(), kReady);
  trigger.Signal();
  EXPECT_EQ(guest.Take(), 0x42u);
  // The end of interrupt comes after the value; the next interrupt's value comes after that.
  ASSERT_TRUE(machine_->vm->SignalMsi(kMessage).ok());
  EXPECT_EQ(guest.Take(), 0x41u);
  EXPECT_EQ(resample.Drain(), 1u);
}

TEST_F(TinyInterruptTest, InterruptLineRaisesAndLowers) {
  RunningGuest guest(*machine_);
  ASSERT_EQ(guest.Take(), kReady);
  ASSERT_TRUE(machine_->vm->RaiseIrqLine(4).ok());
  EXPECT_EQ(guest.Take(), 0x24u);
  ASSERT_TRUE(machine_->vm->LowerIrqLine(4).ok());
  ASSERT_TRUE(machine_->vm->RaiseIrqLine(4).ok());
  EXPECT_EQ(guest.Take(), 0x24u);
}

TEST_F(TinyInterruptTest, ChipsRestoredIntoAFreshVmCarryAPendingInterrupt) {
  // To "ready", when the chips are programmed; then an interrupt that nobody takes, and all moves
  // to a new VM.
  ASSERT_EQ(Value(Next<ExitPio>(*machine_).data), kReady);
  machine_->vcpu->RequestExit();
  Next<ExitInterrupted>(*machine_);
  ASSERT_TRUE(machine_->vm->RaiseIrqLine(4).ok());
  const absl::StatusOr<EncodedState> chips = machine_->vm->Save();
  ASSERT_TRUE(chips.ok()) << chips.status();
  const absl::StatusOr<EncodedState> vcpu = machine_->vcpu->Save();
  ASSERT_TRUE(vcpu.ok()) << vcpu.status();

  const auto fresh = Machine(Interrupts());
  std::vector<uint8_t> ram(kRamBytes);
  ASSERT_TRUE(machine_->memory->Read(GuestAddress(0), ram).ok());
  ASSERT_TRUE(fresh->memory->Write(GuestAddress(0), ram).ok());
  ASSERT_TRUE(fresh->vm->Restore(*chips).ok());
  ASSERT_TRUE(fresh->vcpu->Restore(*vcpu).ok());
  RunningGuest guest(*fresh);
  EXPECT_EQ(guest.Take(), 0x24u);
}

TEST_F(TinyGuestTest, WritesShowInTheDirtyLogAndStopAtReadOnlySlots) {
  constexpr GuestAddress kRom(0x400000);
  const auto machine = Machine(Writer());
  const auto rom = *GuestMemory::Create({{kRom, 4096}}, GuestMemory::Backing::kPrivate);
  ASSERT_TRUE(rom->WriteObject(kRom, uint32_t{0xfeed}).ok());
  ASSERT_TRUE(
      machine->vm
          ->SetMemslot(
              {.id = 1, .guest_base = kRom, .host = rom->regions()[0].host, .read_only = true})
          .ok());
  ASSERT_TRUE(machine->vm
                  ->SetMemslot({.id = kRamSlot,
                                .guest_base = GuestAddress(0),
                                .host = machine->memory->regions()[0].host,
                                .log_dirty = true})
                  .ok());

  EXPECT_THAT(WritesUntilDone(*machine),
              ElementsAre(Access{kValuePort, 0xfeed, 4}, Access{kRom.value(), 5, 4}));
  const absl::StatusOr<std::vector<uint64_t>> log = machine->vm->FetchDirtyLog(kRamSlot, kRamBytes);
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_THAT(*log, SizeIs(kRamBytes / 4096 / 64));
  EXPECT_EQ((*log)[0x200 / 64], (uint64_t{1} << 1) | (uint64_t{1} << 5));
  EXPECT_THAT(*machine->vm->FetchDirtyLog(kRamSlot, kRamBytes), Each(0u));
  EXPECT_EQ(*rom->ReadObject<uint32_t>(kRom), 0xfeedu);

  EXPECT_TRUE(machine->vm->RemoveMemslot(1).ok());
}

TEST_F(TinyGuestTest, OverlappingSlotsAreRefused) {
  const auto machine = Machine(Spinner());
  const absl::Status status =
      machine->vm->SetMemslot({.id = 5,
                               .guest_base = GuestAddress(0x1000),
                               .host = machine->memory->regions()[0].host.first(4096)});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
}

TEST_F(TinyGuestTest, AVcpuRestoredIntoAFreshVmGoesOn) {
  constexpr x86::MsrEntry kMarked = {.index = 0xc0000082 /* LSTAR */, .value = 0xffff800012345678};
  const auto machine = Machine(Doubler());
  ASSERT_THAT(*machine->vcpu->SetMsrs(std::vector{kMarked}), IsEmpty());
  EXPECT_EQ(Value(Next<ExitPio>(*machine).data), 1u);
  EXPECT_EQ(Value(Next<ExitPio>(*machine).data), 2u);
  EXPECT_EQ(Value(Next<ExitPio>(*machine).data), 4u);
  machine->vcpu->RequestExit();
  Next<ExitInterrupted>(*machine);
  const absl::StatusOr<EncodedState> state = machine->vcpu->Save();
  ASSERT_TRUE(state.ok()) << state.status();

  const auto fresh = Machine(Doubler());
  ASSERT_TRUE(fresh->vcpu->Restore(*state).ok());
  EXPECT_EQ(*fresh->vcpu->GetRegisters(), *machine->vcpu->GetRegisters());
  EXPECT_EQ(*fresh->vcpu->GetSpecialRegisters(), *machine->vcpu->GetSpecialRegisters());
  EXPECT_THAT(*fresh->vcpu->GetMsrs(std::vector{kMarked.index}), ElementsAre(kMarked));
  EXPECT_EQ(Value(Next<ExitPio>(*fresh).data), 8u);
  EXPECT_EQ(Value(Next<ExitPio>(*fresh).data), 16u);
}

TEST_F(TinyGuestTest, AStateSavedBeforeTheFirstRunResetsAVcpu) {
  const auto machine = Machine(Doubler());
  const absl::StatusOr<EncodedState> initial = machine->vcpu->Save();
  ASSERT_TRUE(initial.ok()) << initial.status();
  EXPECT_EQ(Value(Next<ExitPio>(*machine).data), 1u);
  EXPECT_EQ(Value(Next<ExitPio>(*machine).data), 2u);
  machine->vcpu->RequestExit();
  Next<ExitInterrupted>(*machine);
  machine->vcpu->ClearExitRequest();
  ASSERT_TRUE(machine->vcpu->Restore(*initial).ok());
  EXPECT_EQ(Value(Next<ExitPio>(*machine).data), 1u);
}

TEST_F(TinyGuestTest, BrokenStatesAreRefused) {
  const auto machine = Machine(Doubler());
  EncodedState vcpu = *machine->vcpu->Save();
  EncodedState vm = *machine->vm->Save();
  EXPECT_FALSE(machine->vcpu->Restore(vm).ok());
  EXPECT_FALSE(machine->vm->Restore(vcpu).ok());
  vcpu.bytes.pop_back();
  vm.bytes.pop_back();
  EXPECT_EQ(machine->vcpu->Restore(vcpu).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(machine->vm->Restore(vm).code(), absl::StatusCode::kDataLoss);
}

TEST_F(TinyGuestTest, AnExitRequestEndsRunAtOnceUntilCleared) {
  const auto machine = Machine(Doubler());
  machine->vcpu->RequestExit();
  Next<ExitInterrupted>(*machine);
  Next<ExitInterrupted>(*machine);
  machine->vcpu->ClearExitRequest();
  EXPECT_EQ(Value(Next<ExitPio>(*machine).data), 1u);
}

TEST_F(TinyGuestTest, AKickEndsAGuestThatNeverExits) {
  ASSERT_TRUE(kvm::InstallKickHandler().ok());
  const auto machine = Machine(Spinner());
  RunningGuest guest(*machine);
  guest.Take();  // It spins from here on; the destructor kicks and joins.
}

TEST_F(TinyGuestTest, ClockGoesForwardFromWhereItIsSet) {
  const auto machine = Machine(Spinner());
  constexpr uint64_t kHour = 3600ull * 1000 * 1000 * 1000;
  ASSERT_TRUE(machine->vm->SetClock({.nanoseconds = kHour, .realtime_ns = std::nullopt}).ok());
  const absl::StatusOr<kvm::Clock> clock = machine->vm->GetClock();
  ASSERT_TRUE(clock.ok()) << clock.status();
  EXPECT_GE(clock->nanoseconds, kHour);
  EXPECT_LT(clock->nanoseconds, 2 * kHour);
}

TEST_F(TinyGuestTest, OtherVcpusWaitForTheFirst) {
  const auto machine = Machine(Spinner());
  const absl::StatusOr<std::unique_ptr<kvm::Vcpu>> second = machine->vm->CreateVcpu(1);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(*machine->vcpu->GetMpState(), kvm::MpState::kRunnable);
  EXPECT_EQ(*(*second)->GetMpState(), kvm::MpState::kUninitialized);
  EXPECT_TRUE((*second)->NotifyPaused().ok());
}

TEST_F(TinyGuestTest, MsrsThatDoNotExistAreReportedAndTheRestSet) {
  const auto machine = Machine(Spinner());
  constexpr uint32_t kNoSuchMsr = 0x4ffffff0;
  constexpr x86::MsrEntry kStar = {.index = 0xc0000081, .value = 0x0023001000000000};
  EXPECT_THAT(*machine->vcpu->SetMsrs(std::vector<x86::MsrEntry>{{kNoSuchMsr, 1}, kStar}),
              ElementsAre(kNoSuchMsr));
  EXPECT_THAT(*machine->vcpu->GetMsrs(std::vector<uint32_t>{kNoSuchMsr, kStar.index}),
              ElementsAre(kStar));
}

using Leaf = std::pair<uint32_t, uint32_t>;

class TinyCpuModelTest : public TinyGuestTest, public testing::WithParamInterface<const char*> {};

TEST_P(TinyCpuModelTest, KvmTakesItsLeavesForEveryVcpu) {
  const auto machine = Machine(Spinner());
  const std::vector<x86::CpuidEntry> supported = *machine->system->SupportedCpuid();
  const absl::StatusOr<x86::CpuidTemplate> cpuid =
      x86::CpuidTemplate::Build({.supported = supported,
                                 .model = *x86::ParseCpuModel(GetParam()),
                                 .topology = {.sockets = 2, .cores_per_socket = 3},
                                 .tsc_deadline_timer = true});
  if (absl::IsFailedPrecondition(cpuid.status())) {
    GTEST_SKIP() << "skipped: " << cpuid.status().message();
  }
  ASSERT_TRUE(cpuid.ok()) << cpuid.status();
  for (uint32_t i = 1; i < 6; ++i) {
    const std::unique_ptr<kvm::Vcpu> vcpu =
        *machine->vm->CreateVcpu(x86::ApicId({.sockets = 2, .cores_per_socket = 3}, i));
    const std::vector<x86::CpuidEntry> wanted = cpuid->For(i);
    ASSERT_TRUE(vcpu->SetCpuid(wanted).ok());
    // KVM may add leaves of its own kind; it drops and renumbers none.
    std::vector<Leaf> leaves;
    const std::vector<x86::CpuidEntry> kept = *vcpu->GetCpuid();
    for (const x86::CpuidEntry& entry : kept) {
      leaves.push_back({entry.function, entry.index});
    }
    for (const x86::CpuidEntry& entry : wanted) {
      EXPECT_THAT(leaves, testing::Contains(Leaf{entry.function, entry.index}));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TinyCpuModelTest,
                         testing::Values("host", "x86-64-v2", "x86-64-v3"), [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_F(TinyGuestTest, TscFrequencyIsTold) {
  const auto machine = Machine(Spinner());
  EXPECT_GT(*machine->vcpu->TscKhz(), 100'000u);
}

// Printed for people: how long a VM takes to its first exit. Only that it exits is tested.
TEST_F(TinyGuestTest, TimeToTheFirstExit) {
  std::vector<long> microseconds;
  for (int i = 0; i < 11; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const auto machine = Machine(Ports());
    EXPECT_EQ(Next<ExitPio>(*machine).port, kValuePort);
    microseconds.push_back(std::chrono::duration_cast<std::chrono::microseconds>(
                               std::chrono::steady_clock::now() - start)
                               .count());
  }
  std::sort(microseconds.begin(), microseconds.end());
  std::printf("open /dev/kvm to the first exit: median %ld us, from %ld to %ld us\n",
              microseconds[5], microseconds.front(), microseconds.back());
}

}  // namespace
}  // namespace vireo::tiny
