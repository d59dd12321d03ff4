// Saved states of an AHCI controller, damaged or made up. Whatever the bytes: Restore answers a
// status, and a controller that took them can be used, saved and restored.

#include <cstdint>
#include <span>

#include "base/async/event_loop.h"
#include "base/check.h"
#include "base/state.h"
#include "devices/storage_controllers/ahci.h"
#include "devices/storage_controllers/ahci_fixture.h"
#include "devices/storage_controllers/ahci_spec.h"
#include "tests/support/fake_guest_memory.h"

namespace vireo {
namespace {

constexpr AhciHost::Options kOptions = {.drives = 2, .blocks = 10};

EventLoop& Loop() {
  static EventLoop& loop = *EventLoop::Create()->release();
  return loop;
}

void Poke(Ahci& ahci) {
  for (uint64_t offset = 0; offset < ahci::kPorts + 3 * ahci::kPortBytes; offset += 4) {
    uint8_t data[4];
    ahci.Read(offset, data);
    // Not HR: it would begin anew.
    if (offset != ahci::kGhc) ahci.Write(offset, data);
    Loop().RunUntilIdle();
  }
}

}  // namespace
}  // namespace vireo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  vireo::FakeGuestMemory guest;
  vireo::AhciHost host(vireo::Loop(), guest, vireo::kOptions);
  vireo::EncodedState state = host.ahci->Save();
  state.bytes.assign(input, input + size);
  if (!host.ahci->Restore(state).ok()) return 0;
  const vireo::EncodedState saved = host.ahci->Save();
  {
    vireo::AhciHost other(vireo::Loop(), guest, vireo::kOptions);
    VIREO_CHECK(other.ahci->Restore(saved).ok());
    VIREO_CHECK(other.ahci->Save().bytes == saved.bytes);
  }
  host.ahci->Resume();
  vireo::Loop().RunUntilIdle();
  vireo::Poke(*host.ahci);
  return 0;
}
