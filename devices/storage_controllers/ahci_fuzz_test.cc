// A hostile guest at an AHCI controller: accesses of every size anywhere in its registers and its
// configuration space, lists and tables with any contents, packets with any bytes, while the host
// holds reads up, changes media, pauses, and moves the machine. Whatever the input: no crash, the
// interrupt line says what the registers say, and what is saved is restored.
//
// The input is a sequence of records of 32 bytes: operation, size, 16-bit offset, 64-bit value, 20
// bytes of payload.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/async/event_loop.h"
#include "base/check.h"
#include "base/endian.h"
#include "devices/pci/config_space.h"
#include "devices/storage_controllers/ahci.h"
#include "devices/storage_controllers/ahci_fixture.h"
#include "devices/storage_controllers/ahci_spec.h"
#include "devices/storage_controllers/mmc_drive.h"
#include "tests/support/ahci_driver.h"
#include "tests/support/fake_guest_memory.h"

namespace vireo {
namespace {

struct Record {
  uint8_t operation;
  uint8_t size;
  Le16 offset;
  Le64 value;
  uint8_t payload[20];
};
static_assert(sizeof(Record) == 32);

constexpr uint32_t kRegisterBytes = ahci::kPorts + 3 * ahci::kPortBytes;

// Made once: a ring costs more than most inputs.
EventLoop& Loop() {
  static EventLoop& loop = *EventLoop::Create()->release();
  return loop;
}

class Fixture {
 public:
  Fixture() {
    Make();
    driver_->Start();
  }
  ~Fixture() { Release(); }

  void Act(const Record& record) {
    uint8_t data[8];
    const Le64 value = record.value;
    std::memcpy(data, &value, sizeof(data));
    const std::span<uint8_t> cut = std::span(data).first(1 + record.size % 8);
    const uint64_t offset = record.offset % kRegisterBytes;
    switch (record.operation % 12) {
      case 0:
        host_->ahci->Read(offset, cut);
        break;
      case 1:
        host_->ahci->Write(offset, cut);
        break;
      case 2:
        host_->ahci->WriteConfig(record.offset % pci::ConfigSpace::kConventionalBytes, cut);
        break;
      case 3: {
        // Beyond RAM it is put nowhere, and found nowhere.
        const GuestAddress at(record.value % (FakeGuestMemory::kLowBytes + 64));
        (void)guest_.memory().Write(at, record.payload);
        break;
      }
      case 4:
        // Where it matters: a slot's header, or what its table begins with.
        guest_.Write(record.size % 2 == 0 ? driver_->header(record.offset % ahci::kSlots)
                                          : driver_->table(record.offset % ahci::kSlots),
                     record.payload);
        break;
      case 5:
      case 6:
        IssuePacket(record);
        break;
      case 7:
        Loop().RunUntilIdle();
        break;
      case 8:
        if (MediumToHold() != nullptr) MediumToHold()->Hold();
        break;
      case 9:
        Release();
        break;
      case 10:
        ChangeMedium(record);
        break;
      default:
        Move();
        break;
    }
    CheckLine();
  }

 private:
  void Make() {
    host_ =
        std::make_unique<AhciHost>(Loop(), guest_, AhciHost::Options{.drives = 2, .blocks = 10});
    if (driver_ != nullptr) return;
    driver_ = std::make_unique<AhciDriver>(MakeOptions());
  }
  AhciDriver::Options MakeOptions() {
    return {.ahci = *host_->ahci,
            .space = host_->space,
            .loop = Loop(),
            .guest = guest_,
            .buffer_bytes = 65536};
  }

  void IssuePacket(const Record& record) {
    const uint32_t slot = record.size % ahci::kSlots;
    AhciDriver::Command command = driver_->PacketCommand({}, 0, slot);
    std::memcpy(command.packet->data(), record.payload, command.packet->size());
    command.fis.features = static_cast<uint8_t>(record.offset);
    command.prds = {AhciDriver::Prd(driver_->buffer(), 32768)};
    driver_->Prepare(command);
    const Le32 slots = uint32_t{1} << slot;
    host_->ahci->Write(ahci::kPorts + ahci::kPxCi, {reinterpret_cast<const uint8_t*>(&slots), 4});
  }

  // The first drive's, as long as it is the one that was there from the start.
  MemoryBackend* MediumToHold() {
    if (host_->ejections != 0 || medium_changed_) return nullptr;
    return &host_->memory_of(0);
  }
  void Release() {
    if (MediumToHold() != nullptr) MediumToHold()->Release();
  }

  void ChangeMedium(const Record& record) {
    Release();
    medium_changed_ = true;
    AtapiCdrom& drive = host_->ahci->drive(0);
    if (record.size % 2 == 0) {
      (void)Loop().RunTask(drive.Insert(AhciHost::MakeMedium(record.offset % 20)));
    } else {
      (void)Loop().RunTask(drive.Eject(record.offset % 2 == 0 ? AtapiCdrom::EjectMode::kAsk
                                                              : AtapiCdrom::EjectMode::kForce));
    }
  }

  // The machine goes on elsewhere, perhaps with other media.
  void Move() {
    Release();
    Loop().RunTask(host_->ahci->Quiesce());
    const EncodedState state = host_->ahci->Save();
    const bool same_media = MediumToHold() != nullptr;
    Make();
    medium_changed_ = false;
    VIREO_CHECK(host_->ahci->Restore(state).ok());
    VIREO_CHECK(!same_media || host_->ahci->Save().bytes == state.bytes);
    CheckLine();
    host_->ahci->Resume();
  }

  uint32_t Register(uint64_t offset) {
    Le32 value = uint32_t{0};
    host_->ahci->Read(offset, {reinterpret_cast<uint8_t*>(&value), 4});
    return value;
  }

  void CheckLine() {
    bool pending = false;
    for (uint32_t port = 0; port < 2; ++port) {
      const uint64_t at = ahci::kPorts + port * ahci::kPortBytes;
      pending |= (Register(at + ahci::kPxIs) & Register(at + ahci::kPxIe)) != 0;
      VIREO_CHECK(
          (Register(at + ahci::kPxCmd) & ahci::kCmdSt) != 0 || Register(at + ahci::kPxCi) == 0,
          "a port that stands has no commands");
    }
    Le16 command = uint16_t{0};
    host_->ahci->ReadConfig(pci::kCommand, {reinterpret_cast<uint8_t*>(&command), 2});
    const bool want = pending && (Register(ahci::kGhc) & ahci::kGhcInterrupts) != 0 &&
                      (command & pci::kCommandIntxDisable) == 0;
    VIREO_CHECK(host_->line.asserted() == want);
  }

  FakeGuestMemory guest_;
  std::unique_ptr<AhciHost> host_;
  std::unique_ptr<AhciDriver> driver_;  // Of the first host; used later for its addresses only.
  bool medium_changed_ = false;
};

}  // namespace
}  // namespace vireo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  vireo::Fixture fixture;
  for (; size >= sizeof(vireo::Record); size -= sizeof(vireo::Record)) {
    vireo::Record record;
    std::memcpy(&record, input, sizeof(record));
    fixture.Act(record);
    input += sizeof(record);
  }
  return 0;
}
