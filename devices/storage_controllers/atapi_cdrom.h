// A CD/DVD drive with a packet interface (ATA8-ACS §4.3): the ATA commands that such a device
// knows, its packets (mmc_drive.h), and its medium, which is any BlockBackend seen in blocks of
// 2,048 bytes. It never writes.
//
// Belongs to one loop. The controller's port gives it one command at a time; the host changes the
// medium between two of them. Knows no guest memory and no registers of a controller.

#ifndef VIREO_DEVICES_STORAGE_CONTROLLERS_ATAPI_CDROM_H_
#define VIREO_DEVICES_STORAGE_CONTROLLERS_ATAPI_CDROM_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/async_mutex.h"
#include "base/async/task.h"
#include "base/log.h"
#include "base/mapped_region.h"
#include "base/state.h"
#include "devices/storage_controllers/mmc_drive.h"
#include "storage/block_backend.h"

namespace vireo {

// The registers of a command, as the host wrote them.
struct AtaCommand {
  uint8_t command = 0;
  uint8_t features = 0;
  uint8_t count = 0;
  uint8_t lba[3] = {};  // Low, mid, high.
  uint8_t device = 0;
  std::optional<mmc::Packet> packet;  // Where the host has one to send.
};

// The registers when it has ended.
struct TaskFile {
  uint8_t status = 0;
  uint8_t error = 0;
  uint8_t count = 0;
  uint8_t lba[3] = {};
  uint8_t device = 0;

  bool failed() const;
};

struct AtaResult {
  // How the data goes, and so what tells the host of its end.
  enum class Protocol {
    kNoData,     // Registers.
    kPioIn,      // A PIO setup, which has the final status, then the data.
    kPacketPio,  // PIO setups and data, then registers.
    kPacketDma,  // Data, then registers.
  };

  Protocol protocol = Protocol::kNoData;
  std::vector<uint8_t> data;
  mmc::ReadBlocks blocks;  // Or so many blocks of the medium instead; 0 for none.
  TaskFile task_file;
};

class AtapiCdrom {
 public:
  // Most that one Read() gives, and what it takes of memory.
  static constexpr uint32_t kMaxReadBytes = 256 << 10;

  struct Options {
    std::string name;                // For messages: "00:1f.2 port 0".
    std::string serial;              // The guest sees its first 20 characters.
    std::string product = "CD-ROM";  // And 16 of this, after the vendor "VIREO".
    // The guest has ejected the medium, which is closed by now. On the loop, within a command: it
    // does not wait, and calls nothing of the drive. May be empty.
    std::function<void()> on_eject;
  };

  // `medium`, if any, is there from the start: the guest hears of no change.
  AtapiCdrom(std::unique_ptr<BlockBackend> medium, Options options);
  // After Close(), or without a medium.
  ~AtapiCdrom();
  AtapiCdrom(const AtapiCdrom&) = delete;
  AtapiCdrom& operator=(const AtapiCdrom&) = delete;

  // --- For the port. ---

  // While the guard is held the medium stays. One command, its reads included, holds one.
  Task<AsyncMutex::Guard> Hold();
  // Both with a guard held.
  Task<AtaResult> Execute(AtaCommand command);
  // The first of `count` blocks, as many as fit into kMaxReadBytes; they are within the medium. The
  // bytes stay until the next call. Errors are the backend's, or RESOURCE_EXHAUSTED.
  Task<absl::StatusOr<std::span<const uint8_t>>> Read(uint32_t first, uint32_t count);
  // What Execute() would have said, had it known that Read() fails.
  AtaResult FailRead();

  // What the registers hold after a reset of any kind.
  static TaskFile Signature();
  // Power, or a reset of the link: locks are gone, and the guest is told.
  void HardReset();
  // DEVICE RESET, or the software reset of the control register.
  void SoftReset();

  // As BlockBackend::SetHurry().
  void SetHurry(bool hurry);

  // --- For the host, on the loop. Each waits for the command that is running. ---

  const mmc::DriveFacts& facts() const { return drive_.facts(); }
  // Puts a medium in and closes the tray. FAILED_PRECONDITION when there is one; `medium` is then
  // closed and gone.
  Task<absl::Status> Insert(std::unique_ptr<BlockBackend> medium);

  enum class EjectMode {
    kAsk,    // A guest that holds the tray sees a request, and the medium stays.
    kForce,  // The medium is pulled out, whatever the guest thinks of it.
  };
  // Opens the tray and gives back what was in it, closed. FAILED_PRECONDITION when nothing was, or
  // when the guest holds it.
  Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> Eject(EjectMode mode);
  // Closes the medium, and is used no more. No command is running or will be.
  Task<absl::Status> Close();

  // --- State, without the medium. ---

  void Save(StateWriter& writer) const;
  absl::Status Restore(StateReader& reader);

 private:
  AtaResult Abort(const AtaCommand& command) const;
  AtaResult Succeed(const AtaCommand& command) const;
  AtaResult IdentifyPacketDevice(const AtaCommand& command) const;
  AtaResult SetFeatures(const AtaCommand& command);
  AtaResult Diagnose();
  Task<AtaResult> ExecutePacket(AtaCommand command);
  AtaResult PacketResult(const AtaCommand& command, const std::optional<mmc::Sense>& sense) const;
  std::unique_ptr<BlockBackend> TakeMedium();
  Task<void> CloseTaken(BlockBackend& medium);

  const Options options_;
  mmc::MmcDrive drive_;
  std::unique_ptr<BlockBackend> medium_;
  AsyncMutex in_use_;
  AtaCommand current_;     // The last one, for FailRead().
  uint8_t transfer_mode_;  // ATA8-ACS table 55: of DMA, as the guest chose it.
  MappedRegion bounce_;    // kMaxReadBytes, from the first read until the medium goes.
  RateLimited error_log_;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_STORAGE_CONTROLLERS_ATAPI_CDROM_H_
