#include "devices/storage_controllers/mmc_drive.h"

#include <algorithm>
#include <iterator>

#include "base/status.h"

namespace vireo::mmc {
namespace {

uint16_t Get16(const Packet& packet, int at) {
  return static_cast<uint16_t>(packet[at] << 8 | packet[at + 1]);
}

uint32_t Get24(const Packet& packet, int at) {
  return uint32_t{packet[at]} << 16 | Get16(packet, at + 1);
}

uint32_t Get32(const Packet& packet, int at) {
  return uint32_t{Get16(packet, at)} << 16 | Get16(packet, at + 2);
}

Answer Cut(Bytes bytes, size_t allocation) {
  if (bytes.size() > allocation) bytes.resize(allocation);
  if (bytes.empty()) return Done{};
  return Reply{std::move(bytes)};
}

AddressForm FormOf(const Packet& packet) {
  return (packet[1] & 0x02) != 0 ? AddressForm::kMsf : AddressForm::kLba;
}

}  // namespace

struct MmcDrive::Command {
  enum class Attention { kTold, kKept };  // What becomes of a unit attention that is pending.
  enum class Medium { kNeeded, kNotNeeded };

  uint8_t opcode;
  Attention attention;
  Medium medium;
  Answer (MmcDrive::*execute)(const Packet& packet);
};

const MmcDrive::Command* MmcDrive::FindCommand(uint8_t opcode) {
  using Attention = Command::Attention;
  using Medium = Command::Medium;
  // SPC-3 §6 and MMC-5 §4.1.8: who asks what happened is not told of it in between.
  static constexpr Command kCommands[] = {
      {kTestUnitReady, Attention::kTold, Medium::kNeeded, &MmcDrive::TestUnitReady},
      {kRequestSense, Attention::kKept, Medium::kNotNeeded, &MmcDrive::RequestSense},
      {kInquiry, Attention::kKept, Medium::kNotNeeded, &MmcDrive::Inquiry},
      {kStartStopUnit, Attention::kTold, Medium::kNotNeeded, &MmcDrive::StartStopUnit},
      {kPreventAllowRemoval, Attention::kTold, Medium::kNotNeeded, &MmcDrive::PreventAllowRemoval},
      {kReadCapacity, Attention::kTold, Medium::kNeeded, &MmcDrive::ReadCapacity},
      {kRead10, Attention::kTold, Medium::kNeeded, &MmcDrive::Read10},
      {kSeek10, Attention::kTold, Medium::kNeeded, &MmcDrive::Seek},
      {kReadToc, Attention::kTold, Medium::kNeeded, &MmcDrive::ReadToc},
      {kGetConfiguration, Attention::kKept, Medium::kNotNeeded, &MmcDrive::GetConfiguration},
      {kGetEventStatus, Attention::kKept, Medium::kNotNeeded, &MmcDrive::GetEventStatus},
      {kReadDiscInformation, Attention::kTold, Medium::kNeeded, &MmcDrive::ReadDiscInformation},
      {kModeSense10, Attention::kTold, Medium::kNotNeeded, &MmcDrive::ModeSense},
      {kRead12, Attention::kTold, Medium::kNeeded, &MmcDrive::Read12},
      {kReadDvdStructure, Attention::kTold, Medium::kNeeded, &MmcDrive::ReadDvdStructure},
      {kSetCdSpeed, Attention::kTold, Medium::kNotNeeded, &MmcDrive::SetCdSpeed},
      {kMechanismStatus, Attention::kTold, Medium::kNotNeeded, &MmcDrive::MechanismStatus},
      {kReadCd, Attention::kTold, Medium::kNeeded, &MmcDrive::ReadCd},
  };
  const auto found = std::find_if(std::begin(kCommands), std::end(kCommands),
                                  [opcode](const Command& c) { return c.opcode == opcode; });
  return found == std::end(kCommands) ? nullptr : found;
}

MmcDrive::MmcDrive(Identity identity) : identity_(std::move(identity)) {}

Answer MmcDrive::Execute(const Packet& packet) {
  if (packet[0] != kRequestSense) sense_ = {};
  const Command* const command = FindCommand(packet[0]);
  if (command == nullptr) return Fail(kInvalidOpcode);
  if (command->attention == Command::Attention::kTold) {
    const std::optional<Sense> attention = TakeUnitAttention();
    if (attention.has_value()) return Fail(*attention);
  }
  if (command->medium == Command::Medium::kNeeded) {
    const std::optional<Sense> missing = NoMedium();
    if (missing.has_value()) return Fail(*missing);
  }
  return (this->*command->execute)(packet);
}

Answer MmcDrive::Fail(const Sense& sense) {
  sense_ = sense;
  return CheckCondition{sense};
}

CheckCondition MmcDrive::FailRead() {
  sense_ = kUnrecoveredRead;
  return {sense_};
}

std::optional<Sense> MmcDrive::TakeUnitAttention() {
  if (std::exchange(was_reset_, false)) return kPowerOnOrReset;
  if (std::exchange(medium_changed_, false)) return kMediumChanged;
  return std::nullopt;
}

std::optional<Sense> MmcDrive::NoMedium() const {
  if (facts_.tray_open) return kNoMediumTrayOpen;
  if (!facts_.blocks.has_value()) return kNoMediumTrayClosed;
  if (*facts_.blocks == 0) return kIncompatibleMedium;
  return std::nullopt;
}

// ---- The medium ----

void MmcDrive::StartWithMedium(uint32_t blocks) { facts_.blocks = blocks; }

void MmcDrive::InsertMedium(uint32_t blocks) {
  facts_.blocks = blocks;
  facts_.tray_open = false;
  medium_changed_ = true;
  arrived_ = true;
}

void MmcDrive::RemoveMedium() {
  facts_.blocks.reset();
  facts_.tray_open = true;
  facts_.locked = false;
  medium_changed_ = false;
  eject_requested_ = false;
  arrived_ = false;
  removed_ = true;
}

void MmcDrive::RequestEject() { eject_requested_ = true; }

void MmcDrive::PowerOn() {
  facts_.locked = false;
  sense_ = {};
  was_reset_ = true;
  medium_changed_ = false;
  eject_requested_ = false;
  removed_ = false;
  arrived_ = false;
}

// ---- Commands ----

Answer MmcDrive::TestUnitReady(const Packet&) { return Done{}; }

// SPC-3 §6.27.
Answer MmcDrive::RequestSense(const Packet& packet) {
  if ((packet[1] & 0x01) != 0) return Fail(kInvalidField);  // Descriptor format.
  Sense sense = std::exchange(sense_, {});
  if (sense.key == kKeyNone) sense = TakeUnitAttention().value_or(Sense{});
  return Cut(FixedSense(sense), packet[4]);
}

// SPC-3 §6.4.
Answer MmcDrive::Inquiry(const Packet& packet) {
  const bool vital = (packet[1] & 0x01) != 0;
  const uint16_t allocation = Get16(packet, 3);
  if (!vital) {
    if (packet[2] != 0) return Fail(kInvalidField);
    return Cut(StandardInquiry(identity_), allocation);
  }
  std::optional<Bytes> page = VitalProductData(packet[2], identity_);
  if (!page.has_value()) return Fail(kInvalidField);
  return Cut(*std::move(page), allocation);
}

// MMC-5 §6.44. Power conditions are all the same here.
Answer MmcDrive::StartStopUnit(const Packet& packet) {
  const bool power_condition = packet[4] >> 4 != 0;
  const bool load_eject = (packet[4] & 0x02) != 0;
  const bool start = (packet[4] & 0x01) != 0;
  if (power_condition) return Done{};
  if (load_eject && start) {
    facts_.tray_open = false;
    return Done{};
  }
  if (load_eject) {
    if (facts_.locked) return Fail(kRemovalPrevented);
    if (!facts_.blocks.has_value()) {
      facts_.tray_open = true;
      return Done{};
    }
    RemoveMedium();
    return EjectMedium{};
  }
  if (start) {
    const std::optional<Sense> missing = NoMedium();
    if (missing.has_value()) return Fail(*missing);
  }
  return Done{};
}

// MMC-5 §6.17. A persistent prevention is held like the other.
Answer MmcDrive::PreventAllowRemoval(const Packet& packet) {
  facts_.locked = (packet[4] & 0x01) != 0;
  return Done{};
}

Answer MmcDrive::ReadCapacity(const Packet&) { return Reply{Capacity(*facts_.blocks)}; }

Answer MmcDrive::ReadRange(uint32_t first, uint32_t count) {
  if (uint64_t{first} + count > *facts_.blocks) return Fail(kOutOfRange);
  if (count == 0) return Done{};
  return ReadBlocks{.first = first, .count = count};
}

Answer MmcDrive::Read10(const Packet& packet) {
  return ReadRange(Get32(packet, 2), Get16(packet, 7));
}

Answer MmcDrive::Read12(const Packet& packet) {
  return ReadRange(Get32(packet, 2), Get32(packet, 6));
}

// MMC-5 §6.19. The user data of mode 1 sectors are all that an image holds.
Answer MmcDrive::ReadCd(const Packet& packet) {
  const int sector_type = packet[1] >> 2 & 0x07;
  if (sector_type != 0 && sector_type != 2) return Fail(kIllegalModeForTrack);
  const uint8_t parts = packet[9] & 0xfe;
  const uint8_t sub_channel = packet[10] & 0x07;
  if (sub_channel != 0 || (parts != 0x10 && parts != 0)) return Fail(kInvalidField);
  const uint32_t count = parts == 0 ? 0 : Get24(packet, 6);
  return ReadRange(Get32(packet, 2), count);
}

Answer MmcDrive::Seek(const Packet& packet) {
  if (Get32(packet, 2) >= *facts_.blocks) return Fail(kOutOfRange);
  return Done{};
}

// MMC-5 §6.30. Old drivers put the format into the last byte (MMC-1).
Answer MmcDrive::ReadToc(const Packet& packet) {
  uint8_t format = packet[2] & 0x0f;
  if (format == 0) format = packet[9] >> 6;
  std::optional<Bytes> bytes;
  if (format == 0) {
    bytes = TableOfContents(packet[6], *facts_.blocks, FormOf(packet));
  } else if (format == 1) {
    bytes = SessionInformation(FormOf(packet));
  } else if (format == 2) {
    bytes = FullTableOfContents(packet[6], *facts_.blocks);
  }
  if (!bytes.has_value()) return Fail(kInvalidField);
  return Cut(*std::move(bytes), Get16(packet, 7));
}

// MMC-5 §6.6.
Answer MmcDrive::GetConfiguration(const Packet& packet) {
  static constexpr FeatureChoice kChoices[] = {FeatureChoice::kAll, FeatureChoice::kCurrent,
                                               FeatureChoice::kOne};
  const int choice = packet[1] & 0x03;
  if (choice == 3) return Fail(kInvalidField);
  return Cut(Configuration(facts_, Get16(packet, 2), kChoices[choice]), Get16(packet, 7));
}

// MMC-5 §6.7. Who asks for the header only does not take the event.
Answer MmcDrive::GetEventStatus(const Packet& packet) {
  const bool polled = (packet[1] & 0x01) != 0;
  if (!polled) return Fail(kInvalidField);
  const uint16_t allocation = Get16(packet, 7);
  if ((packet[4] & 1 << kEventClassMedia) == 0) return Cut(NoSuchEventClass(), allocation);
  uint8_t event = kMediaNoChange;
  bool* told = nullptr;
  if (eject_requested_) {
    event = kMediaEjectRequest;
    told = &eject_requested_;
  } else if (removed_) {
    event = kMediaRemoval;
    told = &removed_;
  } else if (arrived_) {
    event = kMediaNew;
    told = &arrived_;
  }
  if (told != nullptr && allocation > 4) *told = false;
  return Cut(MediaEvent(facts_, event), allocation);
}

Answer MmcDrive::ReadDiscInformation(const Packet& packet) {
  if ((packet[1] & 0x07) != 0) return Fail(kInvalidField);
  return Cut(DiscInformation(), Get16(packet, 7));
}

// SPC-3 §6.10.
Answer MmcDrive::ModeSense(const Packet& packet) {
  const int control = packet[2] >> 6;  // Current, changeable, default, saved.
  if (control == 3) return Fail(kSavingNotSupported);
  const uint8_t subpage = packet[3];
  if (subpage != 0) return Fail(kInvalidField);
  std::optional<Bytes> pages = ModePages(
      facts_, packet[2] & 0x3f, control == 1 ? ModeValues::kChangeable : ModeValues::kCurrent);
  if (!pages.has_value()) return Fail(kInvalidField);
  return Cut(*std::move(pages), Get16(packet, 7));
}

Answer MmcDrive::MechanismStatus(const Packet& packet) {
  return Cut(mmc::MechanismStatus(facts_), Get16(packet, 8));
}

// MMC-5 §6.27.
Answer MmcDrive::ReadDvdStructure(const Packet& packet) {
  const uint8_t layer = packet[6];
  const uint8_t format = packet[7];
  if (format != 0 || layer != 0) return Fail(kInvalidField);
  if (!facts_.dvd()) return Fail(kCannotReadFormat);
  return Cut(DvdPhysicalFormat(*facts_.blocks), Get16(packet, 8));
}

Answer MmcDrive::SetCdSpeed(const Packet&) { return Done{}; }

// ---- State ----

void MmcDrive::Save(StateWriter& writer) const {
  writer.Bool(facts_.blocks.has_value());
  writer.U32(facts_.blocks.value_or(0));
  writer.Bool(facts_.tray_open);
  writer.Bool(facts_.locked);
  writer.U8(sense_.key);
  writer.U8(sense_.asc);
  writer.U8(sense_.ascq);
  for (const bool flag : {was_reset_, medium_changed_, eject_requested_, removed_, arrived_}) {
    writer.Bool(flag);
  }
}

absl::Status MmcDrive::Restore(StateReader& reader) {
  const std::optional<uint32_t> here = facts_.blocks;
  const bool present = reader.Bool();
  const uint32_t blocks = reader.U32();
  if (!present && blocks != 0) reader.Fail("no medium, but it has blocks");
  std::optional<uint32_t> saved;
  if (present) saved = blocks;
  facts_.tray_open = reader.Bool();
  if (present && facts_.tray_open) reader.Fail("a medium in an open tray");
  facts_.locked = reader.Bool();
  sense_.key = reader.U8();
  if (sense_.key > 0x0f) reader.Fail("a sense key of more than four bits");
  sense_.asc = reader.U8();
  sense_.ascq = reader.U8();
  for (bool* const flag :
       {&was_reset_, &medium_changed_, &eject_requested_, &removed_, &arrived_}) {
    *flag = reader.Bool();
  }
  RETURN_IF_ERROR(reader.status());
  if (saved == here) return absl::OkStatus();
  if (present) {
    RemoveMedium();
    facts_.tray_open = false;
  }
  if (here.has_value()) InsertMedium(*here);
  return absl::OkStatus();
}

}  // namespace vireo::mmc
