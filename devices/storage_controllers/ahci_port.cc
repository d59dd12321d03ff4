#include "devices/storage_controllers/ahci_port.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "base/async/async_mutex.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/status.h"
#include "devices/storage_controllers/ata_spec.h"

namespace vireo {
namespace {

using ahci::CommandHeader;
using ahci::D2hFis;
using ahci::H2dFis;
using ahci::PioSetupFis;

constexpr uint32_t kBusyOrDrq = ata::kStatusBusy | ata::kStatusDrq;
// ATA8-ACS §7.24: most that a PIO setup announces; a device would send more of them for more data.
constexpr uint64_t kMostOfPioSetup = 0xfffe;
constexpr int kCfisDwords = sizeof(H2dFis) / 4;

uint32_t TaskFileData(const TaskFile& task_file) {
  return uint32_t{task_file.error} << 8 | task_file.status;
}

// A fresh port: the link is up, and the device has sent its signature (§10.4.2).
ahci::PortRegisters PowerOn() {
  ahci::PortRegisters registers;
  registers.ConnectDevice(TaskFileData(AtapiCdrom::Signature()));
  return registers;
}

template <typename T>
std::span<const uint8_t> BytesOf(const T& object) {
  return {reinterpret_cast<const uint8_t*>(&object), sizeof(object)};
}

}  // namespace

AhciPort::AhciPort(Options options)
    : loop_(options.loop),
      memory_(options.memory),
      drive_(std::move(options.drive)),
      set_pending_(std::move(options.set_pending)),
      registers_(PowerOn()),
      scope_(options.loop) {}

AhciPort::~AhciPort() = default;

// ---- Registers, on any thread ----

uint32_t AhciPort::Read(uint32_t offset) const {
  const MutexLock lock(mutex_);
  const uint32_t value = registers_.Read(offset);
  return offset == ahci::kPxCmd && running_ ? value | ahci::kCmdCr : value;
}

void AhciPort::Write(uint32_t offset, uint32_t value, uint32_t mask) {
  const MutexLock lock(mutex_);
  const bool was_started = registers_.started();
  const bool was_up = registers_.link_up();
  registers_.Write(offset, value, mask);
  if (registers_.started() != was_started) {
    registers_.OnStartOrStop();
    if (was_started) Abandon();  // Its host I/O keeps CR set.
  }
  if (was_up && !registers_.link_up()) {
    Abandon();
    registers_.DisconnectDevice();
  } else if (!was_up && registers_.link_up()) {
    registers_.ConnectDevice(TaskFileData(AtapiCdrom::Signature()));
    reset_drive_ = true;
    Wake();
  }
  PostSignature();
  if (offset == ahci::kPxCi && HasWork()) Wake();
  UpdatePending();
}

void AhciPort::SetBusMaster(bool allowed) {
  const MutexLock lock(mutex_);
  if (allowed == bus_master_) return;
  bus_master_ = allowed;
  if (!allowed) {
    Abandon();
    return;
  }
  PostSignature();
  if (HasWork()) Wake();
  UpdatePending();
}

void AhciPort::ResetByController() {
  const MutexLock lock(mutex_);
  Abandon();
  const uint64_t clb = registers_.clb;
  const uint64_t fb = registers_.fb;
  registers_ = PowerOn();
  registers_.clb = clb;
  registers_.fb = fb;
  reset_drive_ = true;
  Wake();
  UpdatePending();
}

void AhciPort::UpdatePending() { set_pending_(registers_.asks_for_interrupt()); }

bool AhciPort::HasWork() const { return registers_.has_commands() && bus_master_; }

void AhciPort::Wake() {
  if (std::exchange(posted_, true)) return;
  loop_.Post([this] {
    {
      const MutexLock lock(mutex_);
      posted_ = false;
    }
    Start();
  });
}

// ---- Frames ----

bool AhciPort::PostFis(uint32_t offset, std::span<const uint8_t> fis) {
  VIREO_DCHECK(bus_master_);
  if (!registers_.receives()) return true;
  // `fb` is a multiple of 256: nothing wraps.
  if (memory_.Write(GuestAddress(registers_.fb + offset), fis).ok()) return true;
  registers_.Halt(ahci::kIsHbfs);
  return false;
}

bool AhciPort::PostRegisters(const TaskFile& task_file, uint8_t flags) {
  D2hFis fis = {};
  fis.type = ahci::kFisTypeD2h;
  fis.flags = flags;
  fis.status = task_file.status;
  fis.error = task_file.error;
  std::copy_n(task_file.lba, 3, fis.lba);
  fis.device = task_file.device;
  fis.count = task_file.count;
  registers_.tfd = TaskFileData(task_file);
  if (!PostFis(ahci::kFisD2h, BytesOf(fis))) return false;
  if ((flags & ahci::kFisInterrupt) != 0) registers_.is |= ahci::kIsDhrs;
  return true;
}

bool AhciPort::PostPioSetup(const TaskFile& task_file, uint64_t bytes) {
  PioSetupFis fis = {};
  fis.type = ahci::kFisTypePioSetup;
  fis.flags = ahci::kFisInterrupt | ahci::kFisToHost;
  fis.status = task_file.status | ata::kStatusDrq;
  std::copy_n(task_file.lba, 3, fis.lba);
  fis.device = task_file.device;
  fis.count = task_file.count;
  fis.end_status = task_file.status;
  fis.transfer_count = static_cast<uint16_t>(std::min<uint64_t>(bytes, kMostOfPioSetup));
  registers_.tfd = TaskFileData(task_file);
  if (!PostFis(ahci::kFisPioSetup, BytesOf(fis))) return false;
  registers_.is |= ahci::kIsPss;
  return true;
}

// §5.3.2.2: the signature of a device that came before the guest could receive it follows when it
// can. Its I bit is clear (Serial ATA 3.0 §11.3, §11.4).
void AhciPort::PostSignature() {
  if (!registers_.signature_unsent || !registers_.receives() || !bus_master_ ||
      !registers_.link_up()) {
    return;
  }
  registers_.signature_unsent = false;
  PostRegisters(AtapiCdrom::Signature(), 0);
}

// ---- The engine ----

void AhciPort::Start() {
  VIREO_DCHECK(loop_.IsCurrent());
  if (serving_ || stopping()) return;
  serving_ = true;
  scope_.Spawn(Serve());
}

Task<void> AhciPort::Serve() {
  while (!stopping()) {
    ApplyDriveReset();
    std::optional<Command> command;
    const Fetched fetched = Fetch(&command);
    if (fetched == Fetched::kNothing) break;
    if (command.has_value()) co_await Run(*std::move(command));
    co_await loop_.Yield();
  }
  serving_ = false;
  stopped_.Set();
}

void AhciPort::ApplyDriveReset() {
  bool reset = false;
  {
    const MutexLock lock(mutex_);
    reset = std::exchange(reset_drive_, false);
  }
  if (reset) drive_->HardReset();
}

AhciPort::Fetched AhciPort::Fetch(std::optional<Command>* command) {
  const MutexLock lock(mutex_);
  // Reset since ApplyDriveReset() looked: what was issued after that is not to come before it.
  if (reset_drive_) return Fetched::kDone;
  if (!HasWork()) return Fetched::kNothing;
  const uint32_t slot = registers_.NextSlot();
  registers_.last_slot = slot;
  registers_.ccs = slot;
  const Fetched fetched = FetchSlot(slot, command);
  UpdatePending();
  return fetched;
}

AhciPort::Fetched AhciPort::FetchSlot(uint32_t slot, std::optional<Command>* command) {
  const GuestAddress header_at(registers_.clb + slot * sizeof(CommandHeader));
  const absl::StatusOr<CommandHeader> header = memory_.ReadObject<CommandHeader>(header_at);
  if (!header.ok()) {
    registers_.Halt(ahci::kIsHbfs);
    return Fetched::kDone;
  }
  const uint16_t flags = header->flags;
  const GuestAddress table(header->ctba & ahci::kCtbaMask);
  const absl::StatusOr<H2dFis> fis = memory_.ReadObject<H2dFis>(table);
  const std::optional<GuestAddress> acmd = table.Plus(ahci::kTableAcmd);
  const std::optional<GuestAddress> prdt = table.Plus(ahci::kTablePrdt);
  if (!fis.ok() || !acmd.has_value() || !prdt.has_value()) {
    registers_.Halt(ahci::kIsHbfs);
    return Fetched::kDone;
  }
  // What is no register frame, the device does not acknowledge.
  if ((flags & ahci::kHeaderCflMask) < kCfisDwords || fis->type != ahci::kFisTypeH2d) {
    registers_.Halt(ahci::kIsIfs);
    return Fetched::kDone;
  }
  if ((fis->flags & ahci::kFisCommand) == 0) return Control(slot, *fis, flags);
  if (registers_.held_in_reset) {
    registers_.halted = true;  // It answers nothing.
    return Fetched::kDone;
  }
  AtaCommand ata = {.command = fis->command,
                    .features = fis->features,
                    .count = fis->count,
                    .lba = {fis->lba[0], fis->lba[1], fis->lba[2]},
                    .device = fis->device};
  if ((flags & ahci::kHeaderAtapi) != 0) {
    const absl::StatusOr<mmc::Packet> packet = memory_.ReadObject<mmc::Packet>(*acmd);
    if (!packet.ok()) {
      registers_.Halt(ahci::kIsHbfs);
      return Fetched::kDone;
    }
    ata.packet = *packet;
  }
  registers_.tfd |= ata::kStatusBusy;
  running_ = true;
  command->emplace(Command{.generation = generation_,
                           .slot = slot,
                           .header = header_at,
                           .ata = ata,
                           .table = ahci::PrdTable(memory_, *prdt, header->prdtl)});
  return Fetched::kCommand;
}

// §10.4.1: a software reset is two frames, the second of which the device answers with its
// signature.
AhciPort::Fetched AhciPort::Control(uint32_t slot, const H2dFis& fis, uint16_t flags) {
  const bool held = (fis.control & ahci::kControlSrst) != 0;
  registers_.ci &= ~(uint32_t{1} << slot);
  if (held) {
    registers_.held_in_reset = true;
    registers_.tfd |= ata::kStatusBusy;
    if ((flags & ahci::kHeaderClearBusy) != 0) registers_.tfd &= ~kBusyOrDrq;
  } else if (registers_.held_in_reset) {
    registers_.held_in_reset = false;
    drive_->SoftReset();
    registers_.tfd = TaskFileData(AtapiCdrom::Signature());
    registers_.signature_unsent = true;
    PostSignature();
  }
  return Fetched::kDone;
}

Task<void> AhciPort::Run(Command command) {
  const AsyncMutex::Guard guard = co_await drive_->Hold();
  AtaResult result = co_await drive_->Execute(command.ata);
  Delivery delivery = Deliver(command, result.data);
  mmc::ReadBlocks left = result.blocks;
  while (left.count != 0 && delivery == Delivery::kGoOn) {
    // A long read is not waited for: it begins anew when the device goes on.
    if (stopping()) {
      PutBack(command);
      co_return;
    }
    const absl::StatusOr<std::span<const uint8_t>> bytes =
        co_await drive_->Read(left.first, left.count);
    if (!bytes.ok()) {
      result = drive_->FailRead();
      break;
    }
    delivery = Deliver(command, *bytes);
    const uint32_t blocks = static_cast<uint32_t>(bytes->size() / mmc::kBlockBytes);
    left.first += blocks;
    left.count -= blocks;
    // A medium in memory is read without waiting: let others have their turn.
    if (left.count != 0) co_await loop_.Yield();
  }
  Finish(command, result);
}

// Nothing of an abandoned command gets past here.
AhciPort::Delivery AhciPort::Deliver(Command& command, std::span<const uint8_t> bytes) {
  const MutexLock lock(mutex_);
  if (command.generation != generation_) return Delivery::kOver;
  const ahci::PrdTable::Outcome outcome = command.table.Write(bytes);
  if (command.table.TakeInterrupt()) registers_.is |= ahci::kIsDps;
  Delivery delivery = Delivery::kGoOn;
  if (outcome == ahci::PrdTable::Outcome::kFull) {
    // §6.1.5: the rest of the data is thrown away.
    registers_.is |= ahci::kIsOfs;
    delivery = Delivery::kFull;
  } else if (outcome == ahci::PrdTable::Outcome::kFault) {
    registers_.Halt(ahci::kIsHbfs);
    Abandon();  // This command's own end.
    delivery = Delivery::kOver;
  }
  UpdatePending();
  return delivery;
}

void AhciPort::PutBack(const Command& command) {
  const MutexLock lock(mutex_);
  running_ = false;
  if (command.generation != generation_) return;
  registers_.last_slot = (command.slot + ahci::kSlots - 1) % ahci::kSlots;
}

void AhciPort::Finish(Command& command, const AtaResult& result) {
  const MutexLock lock(mutex_);
  running_ = false;
  if (command.generation != generation_) return;
  FinishLocked(command, result);
  UpdatePending();
}

void AhciPort::FinishLocked(Command& command, const AtaResult& result) {
  const Le32 prdbc = static_cast<uint32_t>(command.table.written());
  const GuestAddress prdbc_at(command.header.value() + ahci::kHeaderPrdbc);
  if (!memory_.WriteObject(prdbc_at, prdbc).ok()) {
    registers_.Halt(ahci::kIsHbfs);
    return;
  }
  const TaskFile& task_file = result.task_file;
  if (task_file.failed()) {
    // DHRS as well: there is firmware (older SeaBIOS) that waits for nothing else.
    if (PostRegisters(task_file, ahci::kFisInterrupt)) registers_.Halt(ahci::kIsTfes);
    return;
  }
  switch (result.protocol) {
    case AtaResult::Protocol::kPioIn:
      if (!PostPioSetup(task_file, command.table.written())) return;
      break;
    case AtaResult::Protocol::kPacketPio: {
      // Its registers say how much of it there is.
      const uint64_t bytes = std::min(command.table.written(), kMostOfPioSetup);
      TaskFile data = task_file;
      data.count = ata::kReasonToHost;
      data.lba[1] = static_cast<uint8_t>(bytes);
      data.lba[2] = static_cast<uint8_t>(bytes >> 8);
      if (!PostPioSetup(data, command.table.written())) return;
      if (!PostRegisters(task_file, ahci::kFisInterrupt)) return;
      break;
    }
    case AtaResult::Protocol::kNoData:
    case AtaResult::Protocol::kPacketDma:
      if (!PostRegisters(task_file, ahci::kFisInterrupt)) return;
      break;
  }
  registers_.ci &= ~(uint32_t{1} << command.slot);
}

// ---- Lifecycle ----

void AhciPort::BeginQuiet() {
  VIREO_DCHECK(loop_.IsCurrent());
  quiet_ = true;
}

Task<void> AhciPort::WaitUntilStopped() {
  VIREO_DCHECK(loop_.IsCurrent());
  drive_->SetHurry(true);
  while (stopping()) {
    bool posted = false;
    {
      const MutexLock lock(mutex_);
      posted = posted_;
    }
    if (serving_) {
      stopped_.Reset();
      co_await stopped_.Wait();
    } else if (posted) {
      co_await loop_.Yield();
    } else {
      ApplyDriveReset();
      break;
    }
  }
  drive_->SetHurry(false);
}

Task<void> AhciPort::Quiesce() { return WaitUntilStopped(); }

void AhciPort::Resume() {
  quiet_ = false;
  stopped_.Set();
  Start();
}

Task<void> AhciPort::Reset() {
  resetting_ = true;
  co_await WaitUntilStopped();
  {
    const MutexLock lock(mutex_);
    Abandon();
    registers_ = PowerOn();
    bus_master_ = false;
    UpdatePending();
  }
  drive_->HardReset();
  resetting_ = false;
  Start();
}

void AhciPort::Save(StateWriter& writer) const {
  {
    const MutexLock lock(mutex_);
    VIREO_CHECK(!running_, "a quiet port runs no command");
    registers_.Save(writer);
  }
  drive_->Save(writer);
}

absl::Status AhciPort::Restore(StateReader& reader) {
  ahci::PortRegisters registers;
  registers.Restore(reader);
  RETURN_IF_ERROR(reader.status());
  RETURN_IF_ERROR(drive_->Restore(reader));
  const MutexLock lock(mutex_);
  Abandon();
  registers_ = registers;
  reset_drive_ = false;
  UpdatePending();
  return absl::OkStatus();
}

}  // namespace vireo
