// Accesses of a hostile guest to a flash: commands and data of every size anywhere, resets, and
// saves into a fresh device. Whatever the input: no crash, bits that were programmed to 0 come back
// by an erase only, and what is read of the array is what it holds.
//
// The input is a sequence of records of 4 bytes: operation and size, 16-bit offset, value.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/endian.h"
#include "devices/firmware/pflash.h"
#include "tests/support/fake_address_space.h"

namespace vireo {
namespace {

constexpr uint64_t kBase = 0xffc00000;
constexpr uint64_t kBytes = 2 * Pflash::kBlockBytes;

struct Record {
  uint8_t operation;
  Le16 offset;
  uint8_t value;
};
static_assert(sizeof(Record) == 4);

class Fixture {
 public:
  Fixture() { Make(); }

  void Access(const Record& record) {
    const uint64_t offset = record.offset % kBytes;
    uint8_t data[8];
    std::ranges::fill(data, record.value);
    const size_t size = 1 + (record.operation >> 5);
    const std::vector<uint8_t> before = contents_;
    switch (record.operation % 4) {
      case 0:
        space_.mmio().Read(kBase + offset, std::span(data).first(size));
        VIREO_CHECK(contents_ == before, "reading changes nothing");
        break;
      case 1:
      case 2:
        space_.mmio().Write(kBase + offset, std::span(data).first(size));
        CheckCells(before);
        break;
      default: {
        const EncodedState state = flash_->Save();
        flash_.reset();
        Make();
        VIREO_CHECK(flash_->Restore(state).ok());
        VIREO_CHECK(flash_->Save().bytes == state.bytes);
        break;
      }
    }
  }

 private:
  void Make() { flash_ = *Pflash::Create(space_, kBase, contents_); }

  void CheckCells(const std::vector<uint8_t>& before) const {
    if (contents_ == before) return;
    for (uint64_t block = 0; block < kBytes; block += Pflash::kBlockBytes) {
      const auto now = std::span(contents_).subspan(block, Pflash::kBlockBytes);
      if (std::ranges::all_of(now, [](uint8_t cell) { return cell == 0xff; })) continue;
      for (size_t i = 0; i < now.size(); ++i) {
        VIREO_CHECK((now[i] & ~before[block + i]) == 0, "only an erase sets bits");
      }
    }
  }

  FakeAddressSpace space_;
  std::vector<uint8_t> contents_ = std::vector<uint8_t>(kBytes, 0xff);
  std::unique_ptr<Pflash> flash_;
};

}  // namespace
}  // namespace vireo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  vireo::Fixture fixture;
  for (; size >= sizeof(vireo::Record); size -= sizeof(vireo::Record)) {
    vireo::Record record;
    std::memcpy(&record, input, sizeof(record));
    fixture.Access(record);
    input += sizeof(record);
  }
  return 0;
}
