// One port of an AHCI controller (AHCI 1.3.1 §5) with a packet device behind it: what writes of its
// registers (port_registers.h) begin, the command engine, and the frames that the device sends.
//
//   vCPU: PxCI written --Post--> loop: Fetch (header, CFIS, ACMD) -> drive -> data, FIS, PxCI
//
// Registers are read and written on any vCPU thread, under the port's mutex. Commands run on the
// loop, one at a time, as one coroutine that ends when there is nothing left to do; a write of PxCI
// wakes it with one post, however often the guest writes before that is heard. The mutex is held
// for what is fetched from guest memory and what is put there, never across an await.
//
// A command belongs to the guest until the guest takes it back: by clearing PxCMD.ST or the bus
// master bit, by COMRESET or by a reset of the controller. Each of these ends a generation. The
// host I/O of a command goes on until it ends by itself, into the drive's own memory; whatever is
// then to reach the guest is dropped when the generation is not the command's.

#ifndef VIREO_DEVICES_STORAGE_CONTROLLERS_AHCI_PORT_H_
#define VIREO_DEVICES_STORAGE_CONTROLLERS_AHCI_PORT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/async/async_event.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "base/memory/guest_address.h"
#include "base/memory/guest_memory.h"
#include "base/mutex.h"
#include "base/state.h"
#include "devices/storage_controllers/ahci_spec.h"
#include "devices/storage_controllers/atapi_cdrom.h"
#include "devices/storage_controllers/port_registers.h"
#include "devices/storage_controllers/prd_table.h"

namespace vireo {

class AhciPort {
 public:
  // All references outlive the port.
  struct Options {
    EventLoop& loop;  // Of the drive's medium too.
    GuestMemory& memory;
    std::unique_ptr<AtapiCdrom> drive;
    // Whether the port asks for an interrupt. Any thread, with the port's mutex held.
    std::function<void(bool)> set_pending;
  };

  explicit AhciPort(Options options);
  // Reset() was the last thing done to it.
  ~AhciPort();
  AhciPort(const AhciPort&) = delete;
  AhciPort& operator=(const AhciPort&) = delete;

  AtapiCdrom& drive() { return *drive_; }

  // --- Any thread. ---

  // `offset` is a multiple of four within the port's registers.
  uint32_t Read(uint32_t offset) const;
  // Only the bits of `mask` are written.
  void Write(uint32_t offset, uint32_t value, uint32_t mask);
  // The function may access memory, or may not any more (Command.BusMaster).
  void SetBusMaster(bool allowed);
  // GHC.HR (§10.4.3): all but the addresses of the lists.
  void ResetByController();

  // --- As Lifecycle, on the loop; the caller lets one of Quiesce() and Reset() run at a time. ---

  // From here on no command is begun; Quiesce() waits for the one that is running.
  void BeginQuiet();
  Task<void> Quiesce();
  void Resume();
  Task<void> Reset();
  void Save(StateWriter& writer) const;
  absl::Status Restore(StateReader& reader);

 private:
  struct Command {
    uint64_t generation = 0;
    uint32_t slot = 0;
    GuestAddress header;
    AtaCommand ata;
    ahci::PrdTable table;
  };
  enum class Fetched { kNothing, kDone, kCommand };
  enum class Delivery { kGoOn, kFull, kOver };

  void Abandon() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { ++generation_; }
  void UpdatePending() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Frames.
  bool PostFis(uint32_t offset, std::span<const uint8_t> fis) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool PostRegisters(const TaskFile& task_file, uint8_t flags)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool PostPioSetup(const TaskFile& task_file, uint64_t bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PostSignature() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The engine, on the loop.
  void Start();
  bool stopping() const { return quiet_ || resetting_; }
  Task<void> Serve();
  Task<void> Run(Command command);
  void ApplyDriveReset();
  Fetched Fetch(std::optional<Command>* command);
  Fetched FetchSlot(uint32_t slot, std::optional<Command>* command)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Fetched Control(uint32_t slot, const ahci::H2dFis& fis, uint16_t flags)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Delivery Deliver(Command& command, std::span<const uint8_t> bytes);
  void PutBack(const Command& command);
  void Finish(Command& command, const AtaResult& result);
  void FinishLocked(Command& command, const AtaResult& result)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Task<void> WaitUntilStopped();

  EventLoop& loop_;
  GuestMemory& memory_;
  const std::unique_ptr<AtapiCdrom> drive_;
  const std::function<void(bool)> set_pending_;

  mutable Mutex mutex_;
  ahci::PortRegisters registers_ ABSL_GUARDED_BY(mutex_);
  bool bus_master_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  bool running_ ABSL_GUARDED_BY(mutex_) = false;      // A command, perhaps an abandoned one.
  bool posted_ ABSL_GUARDED_BY(mutex_) = false;       // A wake-up that the loop has not heard.
  bool reset_drive_ ABSL_GUARDED_BY(mutex_) = false;  // Before the next command.

  // On the loop.
  bool quiet_ = false;
  bool resetting_ = false;
  bool serving_ = false;
  AsyncEvent stopped_;  // Serve() has ended, or nobody is to wait for that any more.
  TaskScope scope_;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_STORAGE_CONTROLLERS_AHCI_PORT_H_
