// A controller with its guest memory, address space and interrupt line, and a driver for each port:
// for the tests of this folder.

#ifndef VIREO_DEVICES_STORAGE_CONTROLLERS_AHCI_FIXTURE_H_
#define VIREO_DEVICES_STORAGE_CONTROLLERS_AHCI_FIXTURE_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/async/event_loop.h"
#include "base/check.h"
#include "devices/storage_controllers/ahci.h"
#include "devices/storage_controllers/ahci_spec.h"
#include "devices/storage_controllers/mmc_spec.h"
#include "storage/block_backend.h"
#include "tests/support/ahci_driver.h"
#include "tests/support/fake_address_space.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/fake_interrupts.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/memory_backend.h"

namespace vireo {

// One controller on somebody's loop and memory. What is in its drives can be held up and made to
// fail until it is ejected.
struct AhciHost {
  struct Options {
    size_t drives = 1;
    uint32_t blocks = 1000;
    bool media = true;
  };

  AhciHost(EventLoop& event_loop, FakeGuestMemory& guest, Options options) : loop(event_loop) {
    std::vector<Ahci::Drive> drives;
    for (size_t i = 0; i < options.drives; ++i) {
      Ahci::Drive drive = {.serial = "VR000" + std::to_string(i),
                           .on_eject = [this] { ++ejections; }};
      if (options.media) {
        drive.medium = MakeMedium(options.blocks);
        media.push_back(static_cast<FaultyBackend*>(drive.medium.get()));
      }
      drives.push_back(std::move(drive));
    }
    ahci = *Ahci::Create({.loop = loop,
                          .memory = guest.memory(),
                          .address_space = space,
                          .intx = line,
                          .drives = std::move(drives)});
  }
  ~AhciHost() {
    loop.RunTask(ahci->Reset());
    VIREO_CHECK(loop.RunTask(ahci->Close()).ok());
  }

  static uint8_t ByteAt(uint64_t offset) {
    return static_cast<uint8_t>(offset / mmc::kBlockBytes + offset);
  }
  static std::unique_ptr<BlockBackend> MakeMedium(uint32_t blocks) {
    auto memory = std::make_unique<MemoryBackend>(
        MemoryBackend::Options{.size_bytes = uint64_t{blocks} * mmc::kBlockBytes});
    // ByteAt(), 256 bytes at a time.
    std::array<uint8_t, 512> pattern;
    std::iota(pattern.begin(), pattern.end(), uint8_t{0});
    for (size_t at = 0; at < memory->bytes().size(); at += 256) {
      std::memcpy(memory->bytes().data() + at, pattern.data() + ByteAt(at), 256);
    }
    return std::make_unique<FaultyBackend>(std::move(memory));
  }

  MemoryBackend& memory_of(size_t drive) {
    return static_cast<MemoryBackend&>(media.at(drive)->disk());
  }

  EventLoop& loop;
  FakeAddressSpace space;
  FakeInterruptLine line;
  std::vector<FaultyBackend*> media;
  int ejections = 0;
  std::unique_ptr<Ahci> ahci;
};

struct AhciFixture {
  explicit AhciFixture(AhciHost::Options options = {}) : host(*loop, guest, options) {
    for (uint32_t port = 0; port < options.drives; ++port) {
      drivers.push_back(std::make_unique<AhciDriver>(
          AhciDriver::Options{.ahci = *host.ahci,
                              .space = host.space,
                              .loop = *loop,
                              .guest = guest,
                              .port = port,
                              .buffer_bytes = options.drives > 1 ? 65536u : 1u << 20}));
    }
  }

  Ahci& ahci() { return *host.ahci; }
  AhciDriver& driver(size_t port = 0) { return *drivers.at(port); }

  std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FakeGuestMemory guest;
  AhciHost host;
  std::vector<std::unique_ptr<AhciDriver>> drivers;
};

// A drive that has told of the power-on.
struct ReadyAhciFixture : AhciFixture {
  explicit ReadyAhciFixture(AhciHost::Options options = {}) : AhciFixture(options) {
    driver().Start();
    driver().Send({mmc::kTestUnitReady});
    host.line.TakeEdges();
  }

  AhciDriver::Command ReadCommand(uint8_t first, uint8_t count, uint32_t slot = 0) {
    return driver().PacketCommand({mmc::kRead10, 0, 0, 0, 0, first, 0, 0, count}, count * 2048u,
                                  slot);
  }
  ahci::D2hFis Received() { return driver().ReceivedFis<ahci::D2hFis>(ahci::kFisD2h); }
  void ClearFisArea() { guest.Write(driver().fis_area(), std::vector<uint8_t>(256, 0xee)); }
};

}  // namespace vireo

#endif  // VIREO_DEVICES_STORAGE_CONTROLLERS_AHCI_FIXTURE_H_
