// A CD/DVD drive as the commands in its packets see it (MMC-5, SPC-3): what it knows of its medium,
// its tray and its lock, what it has to tell (sense, unit attentions, events), and what it answers.
// No bytes of the medium and nothing of ATA: a packet goes in, an answer comes out.
//
// One thread; whoever owns it reads the medium.

#ifndef VIREO_DEVICES_STORAGE_CONTROLLERS_MMC_DRIVE_H_
#define VIREO_DEVICES_STORAGE_CONTROLLERS_MMC_DRIVE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "base/state.h"
#include "devices/storage_controllers/mmc_data.h"
#include "devices/storage_controllers/mmc_spec.h"

namespace vireo::mmc {

using Packet = std::array<uint8_t, kPacketBytes>;

// SPC-3 annex D: the additional sense codes in use here.
inline constexpr Sense kInvalidOpcode = {kKeyIllegalRequest, 0x20, 0x00};
inline constexpr Sense kOutOfRange = {kKeyIllegalRequest, 0x21, 0x00};
inline constexpr Sense kInvalidField = {kKeyIllegalRequest, 0x24, 0x00};
inline constexpr Sense kSavingNotSupported = {kKeyIllegalRequest, 0x39, 0x00};
inline constexpr Sense kCannotReadFormat = {kKeyIllegalRequest, 0x30, 0x02};
inline constexpr Sense kRemovalPrevented = {kKeyIllegalRequest, 0x53, 0x02};
inline constexpr Sense kIllegalModeForTrack = {kKeyIllegalRequest, 0x64, 0x00};
inline constexpr Sense kNoMediumTrayClosed = {kKeyNotReady, 0x3a, 0x01};
inline constexpr Sense kNoMediumTrayOpen = {kKeyNotReady, 0x3a, 0x02};
inline constexpr Sense kIncompatibleMedium = {kKeyNotReady, 0x30, 0x00};
inline constexpr Sense kUnrecoveredRead = {kKeyMediumError, 0x11, 0x00};
inline constexpr Sense kMediumChanged = {kKeyUnitAttention, 0x28, 0x00};
inline constexpr Sense kPowerOnOrReset = {kKeyUnitAttention, 0x29, 0x00};

// What becomes of a packet.
struct Done {};  // It has worked, and there is nothing to send.
struct Reply {   // These bytes, already cut to what was asked for.
  Bytes bytes;
};
struct ReadBlocks {  // These blocks of the medium; they are within it, at least one.
  uint32_t first = 0;
  uint32_t count = 0;
};
struct EjectMedium {};   // It has worked; the drive has let go of the medium.
struct CheckCondition {  // It has failed; REQUEST SENSE tells the same.
  Sense sense;
};
using Answer = std::variant<Done, Reply, ReadBlocks, EjectMedium, CheckCondition>;

class MmcDrive {
 public:
  // As at power-on, with the tray closed and nothing in it.
  explicit MmcDrive(Identity identity);

  const DriveFacts& facts() const { return facts_; }
  const Identity& identity() const { return identity_; }

  Answer Execute(const Packet& packet);

  // The blocks that the last packet asked for could not be read: its answer instead.
  CheckCondition FailRead();

  // The medium of the configuration, before the guest runs: nothing new to tell.
  void StartWithMedium(uint32_t blocks);
  // From outside, while it runs. The tray is closed after an insertion and open after a removal,
  // which also ends the guest's lock.
  void InsertMedium(uint32_t blocks);
  void RemoveMedium();
  // Somebody has pushed the button, but the guest holds the tray.
  void RequestEject();

  // Power, or a reset of the link: the lock ends, and the guest is told.
  void PowerOn();
  // DEVICE RESET and the software reset: only what the last command left is gone.
  void SoftReset() { sense_ = {}; }

  void Save(StateWriter& writer) const;
  // When another medium is there than was saved, the guest sees it come and go.
  absl::Status Restore(StateReader& reader);

 private:
  struct Command;
  static const Command* FindCommand(uint8_t opcode);

  std::optional<Sense> TakeUnitAttention();
  std::optional<Sense> NoMedium() const;
  Answer Fail(const Sense& sense);

  Answer TestUnitReady(const Packet& packet);
  Answer RequestSense(const Packet& packet);
  Answer Inquiry(const Packet& packet);
  Answer StartStopUnit(const Packet& packet);
  Answer PreventAllowRemoval(const Packet& packet);
  Answer ReadCapacity(const Packet& packet);
  Answer Read10(const Packet& packet);
  Answer Read12(const Packet& packet);
  Answer ReadCd(const Packet& packet);
  Answer Seek(const Packet& packet);
  Answer ReadToc(const Packet& packet);
  Answer GetConfiguration(const Packet& packet);
  Answer GetEventStatus(const Packet& packet);
  Answer ReadDiscInformation(const Packet& packet);
  Answer ModeSense(const Packet& packet);
  Answer MechanismStatus(const Packet& packet);
  Answer ReadDvdStructure(const Packet& packet);
  Answer SetCdSpeed(const Packet& packet);
  Answer ReadRange(uint32_t first, uint32_t count);

  const Identity identity_;
  DriveFacts facts_;
  Sense sense_;  // Of the last command, until the next one or until it was told.
  // Unit attentions, told in this order.
  bool was_reset_ = true;
  bool medium_changed_ = false;
  // Media events, told in this order.
  bool eject_requested_ = false;
  bool removed_ = false;
  bool arrived_ = false;
};

}  // namespace vireo::mmc

#endif  // VIREO_DEVICES_STORAGE_CONTROLLERS_MMC_DRIVE_H_
