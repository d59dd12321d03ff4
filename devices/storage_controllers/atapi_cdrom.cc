#include "devices/storage_controllers/atapi_cdrom.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>
#include <variant>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/check.h"
#include "base/iovecs.h"
#include "base/status.h"
#include "devices/storage_controllers/ata_spec.h"

namespace vireo {
namespace {

constexpr uint8_t kGoodStatus = ata::kStatusReady | ata::kStatusSeekDone;
constexpr uint8_t kBadStatus = kGoodStatus | ata::kStatusError;

// ATA8-ACS table 55: bits 7 to 3 are the kind, bits 2 to 0 the mode.
constexpr uint8_t kMultiwordDma = 0x20;
constexpr uint8_t kUltraDma = 0x40;
constexpr uint8_t kNewestMultiwordDma = 2;
constexpr uint8_t kNewestUltraDma = 5;
constexpr uint8_t kNewestPioFlow = 0x0c;
constexpr uint8_t kModeAtPowerOn = kUltraDma | kNewestUltraDma;

bool IsDmaMode(uint8_t mode) {
  return (mode >= kMultiwordDma && mode <= kMultiwordDma + kNewestMultiwordDma) ||
         (mode >= kUltraDma && mode <= kUltraDma + kNewestUltraDma);
}

bool IsPioMode(uint8_t mode) { return mode <= 0x01 || (mode >= 0x08 && mode <= kNewestPioFlow); }

uint32_t BlocksOf(const BlockBackend& medium) {
  const uint64_t blocks = DivideRoundUp(medium.geometry().size_bytes, uint64_t{mmc::kBlockBytes});
  return static_cast<uint32_t>(std::min<uint64_t>(blocks, std::numeric_limits<uint32_t>::max()));
}

void SetWord(std::span<uint8_t> identify, int word, uint16_t value) {
  identify[2 * word] = static_cast<uint8_t>(value);
  identify[2 * word + 1] = static_cast<uint8_t>(value >> 8);
}

// ATA8-ACS §3.2.9: the first character of a word is in its upper half.
void SetText(std::span<uint8_t> identify, int first_word, int words, std::string_view text) {
  for (int i = 0; i < 2 * words; ++i) {
    const uint8_t character =
        static_cast<size_t>(i) < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{' '};
    identify[2 * first_word + (i ^ 1)] = character;
  }
}

void SetSignature(TaskFile& task_file) {
  task_file.count = ata::kPacketSignature[0];
  std::copy_n(ata::kPacketSignature + 1, 3, task_file.lba);
}

}  // namespace

bool TaskFile::failed() const { return (status & ata::kStatusError) != 0; }

AtapiCdrom::AtapiCdrom(std::unique_ptr<BlockBackend> medium, Options options)
    : options_(std::move(options)),
      drive_({.product = options_.product, .serial = options_.serial}),
      medium_(std::move(medium)),
      transfer_mode_(kModeAtPowerOn) {
  if (medium_ != nullptr) drive_.StartWithMedium(BlocksOf(*medium_));
}

AtapiCdrom::~AtapiCdrom() = default;

Task<AsyncMutex::Guard> AtapiCdrom::Hold() { return in_use_.Lock(); }

// ---- Commands ----

Task<AtaResult> AtapiCdrom::Execute(AtaCommand command) {
  VIREO_DCHECK(in_use_.locked());
  current_ = command;
  switch (command.command) {
    case ata::kPacket: {
      AtaResult result = co_await ExecutePacket(command);
      co_return result;
    }
    case ata::kIdentifyPacketDevice:
      co_return IdentifyPacketDevice(command);
    case ata::kSetFeatures:
      co_return SetFeatures(command);
    case ata::kDeviceReset:
    case ata::kExecuteDiagnostic:
      co_return Diagnose();
    case ata::kCheckPowerMode: {
      AtaResult result = Succeed(command);
      result.task_file.count = ata::kPowerActive;
      co_return result;
    }
    case ata::kStandbyImmediate:
    case ata::kIdleImmediate:
    case ata::kStandby:
    case ata::kIdle:
    case ata::kSleep:
    case ata::kFlushCache:
      co_return Succeed(command);
    case ata::kIdentifyDevice:
    case ata::kReadSectors: {
      // ATA8-ACS §7.12.6, §7.36: whoever takes it for a disk is told what it is.
      AtaResult result = Abort(command);
      SetSignature(result.task_file);
      co_return result;
    }
    default:
      co_return Abort(command);
  }
}

AtaResult AtapiCdrom::Abort(const AtaCommand& command) const {
  AtaResult result;
  result.task_file.status = kBadStatus;
  result.task_file.error = ata::kErrorAbort;
  result.task_file.count = command.count;
  std::copy_n(command.lba, 3, result.task_file.lba);
  result.task_file.device = command.device;
  return result;
}

AtaResult AtapiCdrom::Succeed(const AtaCommand& command) const {
  AtaResult result = Abort(command);
  result.task_file.status = kGoodStatus;
  result.task_file.error = 0;
  return result;
}

TaskFile AtapiCdrom::Signature() {
  // ATA8-ACS §6.2.5: a packet device is not ready before its first command.
  TaskFile task_file = {.status = 0, .error = ata::kDiagnosticsPassed};
  SetSignature(task_file);
  return task_file;
}

AtaResult AtapiCdrom::Diagnose() {
  SoftReset();
  AtaResult result;
  result.task_file = Signature();
  return result;
}

// ATA8-ACS §7.13.
AtaResult AtapiCdrom::IdentifyPacketDevice(const AtaCommand& command) const {
  AtaResult result = Succeed(command);
  result.protocol = AtaResult::Protocol::kPioIn;
  result.data.resize(ata::kIdentifyBytes);
  const std::span<uint8_t> words = result.data;
  const mmc::Identity& identity = drive_.identity();
  // A removable packet device of type 5 (CD/DVD) that takes 12 bytes within 50 microseconds.
  SetWord(words, 0, 0x85c0);
  SetText(words, 10, 10, identity.serial);
  SetText(words, 23, 4, identity.revision);
  SetText(words, 27, 20, identity.vendor + " " + identity.product);
  SetWord(words, 49, 0x0f00);  // IORDY, LBA and DMA.
  SetWord(words, 50, 0x4000);
  SetWord(words, 53, 0x0006);  // Words 64 to 70 and 88 count.
  const uint8_t mode = transfer_mode_ & 0x07;
  const bool ultra = (transfer_mode_ & kUltraDma) != 0;
  const auto selected = [mode](bool in_use) { return in_use ? 0x100 << mode : 0; };
  SetWord(words, 63, static_cast<uint16_t>(0x0007 | selected(!ultra)));
  SetWord(words, 64, 0x0003);  // PIO modes 3 and 4.
  for (const int cycle_time : {65, 66, 67, 68}) SetWord(words, cycle_time, 120);
  SetWord(words, 76, 0x0006);  // Serial ATA of generations 1 and 2.
  SetWord(words, 80, 0x01f0);  // ATA/ATAPI-4 to ATA8-ACS.
  // DEVICE RESET, PACKET, power management; FLUSH CACHE. All of it always on.
  for (const int first : {82, 85}) {
    SetWord(words, first, 0x0218);
    SetWord(words, first + 1, 0x5000);
    SetWord(words, first + 2, 0x4000);
  }
  SetWord(words, 88, static_cast<uint16_t>(0x003f | selected(ultra)));
  words[510] = 0xa5;
  uint8_t sum = 0;
  for (const uint8_t byte : words) sum = static_cast<uint8_t>(sum + byte);
  words[511] = static_cast<uint8_t>(-sum);  // ATA8-ACS §7.12.7.88: all bytes add up to nothing.
  return result;
}

AtaResult AtapiCdrom::SetFeatures(const AtaCommand& command) {
  switch (command.features) {
    case ata::kSetTransferMode:
      if (IsDmaMode(command.count)) {
        transfer_mode_ = command.count;
      } else if (!IsPioMode(command.count)) {
        return Abort(command);
      }
      return Succeed(command);
    case ata::kKeepDefaults:
    case ata::kRestoreDefaults:
      return Succeed(command);
    default:
      return Abort(command);
  }
}

AtaResult AtapiCdrom::PacketResult(const AtaCommand& command,
                                   const std::optional<mmc::Sense>& sense) const {
  AtaResult result = Succeed(command);
  result.task_file.count = ata::kReasonCommand | ata::kReasonToHost;
  if (sense.has_value()) {
    result.task_file.status = kBadStatus;
    result.task_file.error = static_cast<uint8_t>(sense->key << ata::kErrorSenseKeyShift);
    if (sense->key == mmc::kKeyIllegalRequest) result.task_file.error |= ata::kErrorAbort;
  }
  return result;
}

Task<AtaResult> AtapiCdrom::ExecutePacket(AtaCommand command) {
  // A host that has no packet to send where one is due.
  if (!command.packet.has_value()) co_return Abort(command);
  mmc::Answer answer = drive_.Execute(*command.packet);
  if (const auto* failed = std::get_if<mmc::CheckCondition>(&answer)) {
    co_return PacketResult(command, failed->sense);
  }
  AtaResult result = PacketResult(command, std::nullopt);
  const bool dma = (command.features & ata::kPacketDma) != 0;
  const auto protocol = dma ? AtaResult::Protocol::kPacketDma : AtaResult::Protocol::kPacketPio;
  if (auto* reply = std::get_if<mmc::Reply>(&answer)) {
    result.protocol = protocol;
    result.data = std::move(reply->bytes);
  } else if (const auto* blocks = std::get_if<mmc::ReadBlocks>(&answer)) {
    result.protocol = protocol;
    result.blocks = *blocks;
  } else if (std::holds_alternative<mmc::EjectMedium>(answer)) {
    const std::unique_ptr<BlockBackend> medium = TakeMedium();
    co_await CloseTaken(*medium);
    if (options_.on_eject) options_.on_eject();
  }
  co_return result;
}

AtaResult AtapiCdrom::FailRead() { return PacketResult(current_, drive_.FailRead().sense); }

void AtapiCdrom::HardReset() {
  drive_.PowerOn();
  transfer_mode_ = kModeAtPowerOn;
}

void AtapiCdrom::SoftReset() { drive_.SoftReset(); }

// ---- The medium ----

Task<absl::StatusOr<std::span<const uint8_t>>> AtapiCdrom::Read(uint32_t first, uint32_t count) {
  VIREO_DCHECK(in_use_.locked());
  VIREO_CHECK(medium_ != nullptr && count != 0, "only what the medium has is read");
  if (!bounce_.valid()) {
    absl::StatusOr<MappedRegion> region =
        MappedRegion::Anonymous(kMaxReadBytes, {.core_dump = false});
    if (!region.ok()) co_return region.status();
    bounce_ = *std::move(region);
  }
  const Geometry& geometry = medium_->geometry();
  VIREO_CHECK(geometry.block_size <= 2 * mmc::kBlockBytes);
  // The backend's blocks may be two of ours: a read that begins in the middle of one begins
  // earlier.
  const uint32_t blocks = std::min(count, kMaxReadBytes / mmc::kBlockBytes - first % 2);
  const uint64_t begin = uint64_t{first} * mmc::kBlockBytes;
  const uint64_t end = begin + uint64_t{blocks} * mmc::kBlockBytes;
  const uint64_t read_begin = AlignDown(begin, geometry.block_size);
  const uint64_t read_end = std::min(AlignUp(end, geometry.block_size), geometry.size_bytes);
  VIREO_CHECK(read_begin < read_end && read_end - read_begin <= kMaxReadBytes);
  const std::span<uint8_t> bytes = bounce_.bytes();
  const iovec vector = ToIoVec(bytes.first(read_end - read_begin));
  const absl::Status status = co_await medium_->Read(read_begin, IoVecs(&vector, 1));
  if (!status.ok()) {
    if (error_log_.Allow()) {
      LogError("%s: reading block %d: %s", options_.name, first, status.ToString());
    }
    co_return status;
  }
  const std::span<uint8_t> wanted = bytes.subspan(begin - read_begin, end - begin);
  // An image that ends within a block reads as zeros from there.
  if (end > read_end) std::ranges::fill(wanted.last(end - read_end), uint8_t{0});
  co_return std::span<const uint8_t>(wanted);
}

void AtapiCdrom::SetHurry(bool hurry) {
  if (medium_ != nullptr) medium_->SetHurry(hurry);
}

std::unique_ptr<BlockBackend> AtapiCdrom::TakeMedium() {
  bounce_ = MappedRegion();
  return std::move(medium_);
}

// Nothing was written: a medium that could not be closed cleanly is closed all the same.
Task<void> AtapiCdrom::CloseTaken(BlockBackend& medium) {
  const absl::Status closed = co_await medium.Close();
  if (!closed.ok()) LogError("%s: closing the medium: %s", options_.name, closed.ToString());
}

Task<absl::Status> AtapiCdrom::Insert(std::unique_ptr<BlockBackend> medium) {
  VIREO_CHECK(medium != nullptr);
  const AsyncMutex::Guard guard = co_await Hold();
  if (medium_ != nullptr) {
    co_await CloseTaken(*medium);
    co_return absl::FailedPreconditionError(
        absl::StrFormat("%s: there is a medium in the drive", options_.name));
  }
  medium_ = std::move(medium);
  drive_.InsertMedium(BlocksOf(*medium_));
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> AtapiCdrom::Eject(EjectMode mode) {
  const AsyncMutex::Guard guard = co_await Hold();
  if (medium_ == nullptr) {
    co_return absl::FailedPreconditionError(
        absl::StrFormat("%s: there is no medium in the drive", options_.name));
  }
  if (mode == EjectMode::kAsk && drive_.facts().locked) {
    drive_.RequestEject();
    co_return absl::FailedPreconditionError(
        absl::StrFormat("%s: the guest has locked the tray; it was asked", options_.name));
  }
  std::unique_ptr<BlockBackend> medium = TakeMedium();
  drive_.RemoveMedium();
  co_await CloseTaken(*medium);
  co_return std::move(medium);
}

Task<absl::Status> AtapiCdrom::Close() {
  const AsyncMutex::Guard guard = co_await Hold();
  if (medium_ == nullptr) co_return absl::OkStatus();
  const std::unique_ptr<BlockBackend> medium = TakeMedium();
  const absl::Status status = co_await medium->Close();
  co_return status;
}

// ---- State ----

void AtapiCdrom::Save(StateWriter& writer) const {
  writer.U8(transfer_mode_);
  drive_.Save(writer);
}

absl::Status AtapiCdrom::Restore(StateReader& reader) {
  transfer_mode_ = reader.U8();
  if (!IsDmaMode(transfer_mode_)) reader.Fail("a transfer mode that there is not");
  return drive_.Restore(reader);
}

}  // namespace vireo
