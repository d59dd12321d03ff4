// Accesses of a hostile guest: selectors, reads of every size, DMA requests with any contents
// anywhere. Whatever the input: no crash, no byte outside of RAM, and what is saved is restored.
//
// The input is a sequence of records of 24 bytes: operation, size, 16-bit offset, 32-bit value, and
// a DMA request (control, length, address), of which operation 2 runs the one at `value`.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/endian.h"
#include "devices/firmware/fw_cfg.h"
#include "tests/support/fake_guest_memory.h"

namespace vireo {
namespace {

struct Record {
  uint8_t operation;
  uint8_t size;
  Le16 offset;
  Le32 value;
  uint8_t request[16];
};
static_assert(sizeof(Record) == 24);

void SetItems(FwCfg& device) {
  device.SetItem(0x7, std::vector<uint8_t>(5000, 7));
  device.SetItem(0x11, 100'000, [](uint64_t offset, std::span<uint8_t> part) {
    if (offset >= 90'000) return absl::UnavailableError("the host cannot read it");
    for (uint8_t& byte : part) byte = static_cast<uint8_t>(offset++);
    return absl::OkStatus();
  });
  VIREO_CHECK(device.AddFile("etc/fixed", std::vector<uint8_t>{1, 2, 3}).ok());
  VIREO_CHECK(device.AddFile("etc/made", [] { return std::vector<uint8_t>(100, 4); }).ok());
}

// Made once: guest memory is what it is, and a new one for each input would take most of the time.
FakeGuestMemory& Memory() {
  static FakeGuestMemory& memory = *new FakeGuestMemory();
  return memory;
}

void Access(FwCfg& device, const Record& record) {
  uint8_t data[8] = {};
  const Le32 value = record.value;
  std::memcpy(data, &value, sizeof(value));
  const size_t size = 1 + record.size % 8;
  const uint64_t offset = record.offset % FwCfg::kPorts;
  const std::span<uint8_t> cut =
      std::span(data).first(std::min<uint64_t>(size, FwCfg::kPorts - offset));
  switch (record.operation % 4) {
    case 0:
      device.Read(offset, cut);
      break;
    case 1:
      device.Write(offset, cut);
      break;
    case 2: {
      const uint64_t at = value % (FakeGuestMemory::kLowBytes + 64);
      // Beyond RAM it is put nowhere, and found nowhere.
      (void)Memory().memory().Write(GuestAddress(at), record.request);
      const Be32 low = static_cast<uint32_t>(at);
      device.Write(8, {reinterpret_cast<const uint8_t*>(&low), 4});
      break;
    }
    default: {
      FwCfg fresh(Memory().memory());
      SetItems(fresh);
      VIREO_CHECK(fresh.Restore(device.Save()).ok());
      VIREO_CHECK(fresh.Save().bytes == device.Save().bytes);
      break;
    }
  }
}

}  // namespace
}  // namespace vireo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  vireo::FwCfg device(vireo::Memory().memory());
  vireo::SetItems(device);
  for (; size >= sizeof(vireo::Record); size -= sizeof(vireo::Record)) {
    vireo::Record record;
    std::memcpy(&record, input, sizeof(record));
    vireo::Access(device, record);
    input += sizeof(record);
  }
  return 0;
}
