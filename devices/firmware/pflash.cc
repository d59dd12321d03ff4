#include "devices/firmware/pflash.h"

#include <algorithm>
#include <string_view>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr std::string_view kStateType = "pflash";
constexpr uint32_t kStateVersion = 1;

constexpr uint8_t kReadArray = 0xff;
constexpr uint8_t kProgramByte = 0x10;
constexpr uint8_t kProgramByteToo = 0x40;
constexpr uint8_t kEraseBlock = 0x20;
constexpr uint8_t kEraseConfirm = 0xd0;
constexpr uint8_t kReadStatus = 0x70;
constexpr uint8_t kClearStatus = 0x50;

constexpr uint8_t kDone = 1 << 7;
constexpr uint8_t kEraseError = 1 << 5;
constexpr uint8_t kProgramError = 1 << 4;

}  // namespace

absl::StatusOr<std::unique_ptr<Pflash>> Pflash::Create(AddressSpace& address_space, uint64_t base,
                                                       std::span<uint8_t> contents) {
  VIREO_CHECK(!contents.empty() && contents.size() % kBlockBytes == 0, "flash has whole blocks");
  std::unique_ptr<Pflash> flash(new Pflash(address_space, base, contents));
  RamWindow backing;
  backing.host = contents;
  backing.read_only = true;
  Window window = {.kind = Window::Kind::kMmio,
                   .size = contents.size(),
                   .trapped = flash.get(),
                   .doorbells = {},
                   .ram = {},
                   .name = "flash"};
  ASSIGN_OR_RETURN(flash->command_window_, address_space.Add(window));
  window.ram.push_back(backing);
  ASSIGN_OR_RETURN(flash->array_window_, address_space.Add(std::move(window)));
  RETURN_IF_ERROR(address_space.Place(flash->array_window_, base));
  return flash;
}

Pflash::~Pflash() {
  if (array_window_ != 0) address_space_.Remove(array_window_);
  if (command_window_ != 0) address_space_.Remove(command_window_);
}

absl::Status Pflash::Show(bool array) {
  address_space_.Unplace(array ? command_window_ : array_window_);
  return address_space_.Place(array ? array_window_ : command_window_, base_);
}

void Pflash::Enter(Mode mode) {
  const bool array = mode == Mode::kArray;
  const bool moves = array != (mode_ == Mode::kArray);
  mode_ = mode;
  if (!moves) return;
  // Nothing else is ever placed here but what a guest moves here in between; it has its way then.
  const absl::Status status = Show(array);
  if (!status.ok()) LogDebug("flash at %#x: %s", base_, status.message());
}

void Pflash::Command(uint8_t command) {
  switch (command) {
    case kReadArray:
      Enter(Mode::kArray);
      return;
    case kProgramByte:
    case kProgramByteToo:
      Enter(Mode::kProgram);
      return;
    case kEraseBlock:
      Enter(Mode::kErase);
      return;
    case kClearStatus:
      status_ = 0;
      Enter(Mode::kStatus);
      return;
    case kReadStatus:
      Enter(Mode::kStatus);
      return;
    default:
      // Of other commands (identification, buffered writes, locks) this flash knows nothing.
      return;
  }
}

void Pflash::Read(uint64_t offset, std::span<uint8_t> data) {
  const MutexLock lock(mutex_);
  if (mode_ == Mode::kArray) {
    // Just on its way back to the memory slot.
    std::ranges::copy(contents_.subspan(offset, data.size()), data.begin());
    return;
  }
  std::ranges::fill(data, status_);
}

std::shared_ptr<Parking> Pflash::Write(uint64_t offset, std::span<const uint8_t> data) {
  const MutexLock lock(mutex_);
  switch (mode_) {
    case Mode::kProgram: {
      const std::span<uint8_t> cells = contents_.subspan(offset, data.size());
      status_ |= kDone;
      for (size_t i = 0; i < data.size(); ++i) {
        if ((data[i] & ~cells[i]) != 0) status_ |= kProgramError;  // That takes an erase.
        cells[i] &= data[i];
      }
      Enter(Mode::kStatus);
      return nullptr;
    }
    case Mode::kErase:
      status_ |= kDone;
      if (data[0] == kEraseConfirm) {
        std::ranges::fill(contents_.subspan(offset / kBlockBytes * kBlockBytes, kBlockBytes),
                          uint8_t{0xff});
      } else {
        status_ |= kEraseError | kProgramError;  // An improper sequence.
      }
      Enter(Mode::kStatus);
      return nullptr;
    case Mode::kArray:
    case Mode::kStatus:
      Command(data[0]);
      return nullptr;
  }
  return nullptr;
}

Task<void> Pflash::Quiesce() { co_return; }

Task<void> Pflash::Reset() {
  const MutexLock lock(mutex_);
  status_ = 0;
  Enter(Mode::kArray);
  co_return;
}

EncodedState Pflash::Save() const {
  const MutexLock lock(mutex_);
  StateWriter writer;
  writer.U8(static_cast<uint8_t>(mode_));
  writer.U8(status_);
  return {.type = std::string(kStateType), .version = kStateVersion, .bytes = writer.Finish()};
}

absl::Status Pflash::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  StateReader reader(state.bytes);
  const uint8_t mode = reader.U8();
  const uint8_t status = reader.U8();
  if (mode > static_cast<uint8_t>(Mode::kErase)) reader.Fail("impossible mode");
  RETURN_IF_ERROR(reader.Finish());
  const MutexLock lock(mutex_);
  status_ = status & (kDone | kEraseError | kProgramError);
  Enter(static_cast<Mode>(mode));
  return absl::OkStatus();
}

}  // namespace vireo
