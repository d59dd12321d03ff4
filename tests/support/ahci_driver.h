// An AHCI driver for tests, from the guest's side: configuration space, ABAR, command lists and
// tables in a fake guest's memory.
//
//   AhciDriver driver({.ahci = ahci, .space = space, .loop = loop, .guest = guest});
//   driver.Start();
//   driver.Send({mmc::kReadCapacity}).data
//
// The loop is the caller's: Send() and Run() step it until it is idle, everything else leaves it
// alone.

#ifndef VIREO_TESTS_SUPPORT_AHCI_DRIVER_H_
#define VIREO_TESTS_SUPPORT_AHCI_DRIVER_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "base/async/event_loop.h"
#include "base/memory/guest_address.h"
#include "devices/storage_controllers/ahci.h"
#include "devices/storage_controllers/ahci_spec.h"
#include "devices/storage_controllers/mmc_drive.h"
#include "tests/support/fake_address_space.h"
#include "tests/support/fake_guest_memory.h"

namespace vireo {

class AhciDriver {
 public:
  static constexpr uint64_t kAbar = 0xfebf0000;

  struct Options {
    Ahci& ahci;
    FakeAddressSpace& space;
    EventLoop& loop;
    FakeGuestMemory& guest;
    uint32_t port = 0;
    uint32_t buffer_bytes = 1 << 20;
  };
  explicit AhciDriver(const Options& options);

  // --- Registers ---

  uint32_t ReadHba(uint32_t offset) const;
  void WriteHba(uint32_t offset, uint32_t value);
  uint32_t Read(uint32_t offset) const { return ReadHba(port_base_ + offset); }
  void Write(uint32_t offset, uint32_t value) { WriteHba(port_base_ + offset, value); }

  uint16_t ReadCommandRegister() const;
  void WriteCommandRegister(uint16_t value);

  // --- Bringing it up ---

  // The ABAR at kAbar, memory and bus master on.
  void EnableFunction();
  // The lists; frames are received, nothing is pending any more, all interrupts are on.
  void EnablePort();
  void StartEngine();
  void StopEngine();
  void Start();  // All of it.
  void Comreset();

  // --- Commands ---

  struct Command {
    uint32_t slot = 0;
    ahci::H2dFis fis = {};
    std::optional<mmc::Packet> packet = {};
    std::vector<ahci::PrdEntry> prds = {};
    uint16_t flags = 0;  // Beside the frame's length and the packet's bit.
  };
  static ahci::H2dFis Fis(uint8_t command, uint8_t features = 0, uint8_t count = 0);
  static ahci::H2dFis ControlFis(uint8_t control);
  static ahci::PrdEntry Prd(GuestAddress at, uint32_t bytes, uint32_t flags = 0);
  // A packet by DMA into buffer(). `bytes` is even.
  Command PacketCommand(std::initializer_list<uint8_t> packet, uint32_t bytes = 0,
                        uint32_t slot = 0) const;

  // Puts it into its slot.
  void Prepare(const Command& command);
  void Issue(uint32_t slots) { Write(ahci::kPxCi, slots); }

  struct Outcome {
    uint32_t is = 0;  // What was pending when the loop had nothing left to do; cleared since.
    uint32_t ci = 0;
    uint8_t status = 0;
    uint8_t error = 0;
    uint32_t prdbc = 0;
    std::vector<uint8_t> data = {};  // As many bytes of buffer().
  };
  // Prepares, issues and steps the loop. An engine that has stopped stays so.
  Outcome Run(const Command& command);
  // The same for a packet; an engine that has stopped is started again.
  Outcome Send(std::initializer_list<uint8_t> packet, uint32_t bytes = 4096);

  GuestAddress buffer() const { return buffer_; }
  GuestAddress list() const { return list_; }
  GuestAddress fis_area() const { return fis_; }
  GuestAddress header(uint32_t slot) const;
  GuestAddress table(uint32_t slot) const;
  template <typename T>
  T ReceivedFis(uint32_t offset) const {
    return options_.guest.ReadObject<T>(GuestAddress(fis_.value() + offset));
  }

 private:
  static constexpr uint32_t kTableBytes = 1024;  // With 56 entries.

  const Options options_;
  const uint32_t port_base_;
  const GuestAddress list_;
  const GuestAddress fis_;
  const GuestAddress tables_;
  const GuestAddress buffer_;
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_AHCI_DRIVER_H_
