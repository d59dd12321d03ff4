#include "devices/storage_controllers/port_registers.h"

#include "devices/storage_controllers/ata_spec.h"

namespace vireo::ahci {
namespace {

constexpr uint32_t kCmdStored = kCmdSt | kCmdFre | kCmdAtapi;
constexpr uint32_t kIsStored = kIsAll & ~kIsPcs;
constexpr uint32_t kBusyOrDrq = ata::kStatusBusy | ata::kStatusDrq;

uint32_t Merge(uint32_t before, uint32_t value, uint32_t mask) {
  return (before & ~mask) | (value & mask);
}

void SetLow(uint64_t* address, uint32_t value) {
  *address = (*address & ~uint64_t{0xffffffff}) | value;
}

void SetHigh(uint64_t* address, uint32_t value) {
  *address = (*address & 0xffffffff) | uint64_t{value} << 32;
}

}  // namespace

bool PortRegisters::link_up() const {
  const uint32_t det = sctl & kSctlDetMask;
  return det != kSctlDetComreset && det != kSctlDetOffline;
}

uint32_t PortRegisters::shown_is() const { return is | ((serr & kSerrDiagX) != 0 ? kIsPcs : 0); }

uint32_t PortRegisters::Read(uint32_t offset) const {
  switch (offset) {
    case kPxClb:
      return static_cast<uint32_t>(clb);
    case kPxClbu:
      return static_cast<uint32_t>(clb >> 32);
    case kPxFb:
      return static_cast<uint32_t>(fb);
    case kPxFbu:
      return static_cast<uint32_t>(fb >> 32);
    case kPxIs:
      return shown_is();
    case kPxIe:
      return ie;
    case kPxCmd: {
      // §3.3.7: no staggered spin-up and no cold presence detection, so both are always on.
      uint32_t value = cmd | kCmdSud | kCmdPod | ccs << kCmdCcsShift;
      if (receives()) value |= kCmdFr;
      if (started()) value |= kCmdCr;
      return value;
    }
    case kPxTfd:
      return tfd;
    case kPxSig:
      return sig;
    case kPxSsts:
      if (link_up()) return kSstsPresent;
      return (sctl & kSctlDetMask) == kSctlDetOffline ? kSstsOffline : kSstsNothing;
    case kPxSctl:
      return sctl;
    case kPxSerr:
      return serr;
    case kPxCi:
      return ci;
    default:
      return 0;  // No native queuing, notifications, port multiplier or device sleep.
  }
}

void PortRegisters::Write(uint32_t offset, uint32_t value, uint32_t mask) {
  const uint32_t ones = value & mask;  // For registers that take ones.
  switch (offset) {
    case kPxClb:
      SetLow(&clb, Merge(Read(offset), value, mask) & kClbMask);
      break;
    case kPxClbu:
      SetHigh(&clb, Merge(Read(offset), value, mask));
      break;
    case kPxFb:
      SetLow(&fb, Merge(Read(offset), value, mask) & kFbMask);
      break;
    case kPxFbu:
      SetHigh(&fb, Merge(Read(offset), value, mask));
      break;
    case kPxIs:
      is &= ~ones;
      break;
    case kPxIe:
      ie = Merge(ie, value, mask) & kIsAll;
      break;
    case kPxCmd:
      // §3.3.7: CLO is for an engine that stands.
      if ((ones & kCmdClo) != 0 && !started()) tfd &= ~kBusyOrDrq;
      cmd = Merge(cmd, value, mask) & kCmdStored;
      break;
    case kPxSctl:
      sctl = Merge(sctl, value, mask) & kSctlMask;
      break;
    case kPxSerr:
      serr &= ~ones;
      break;
    case kPxCi:
      if (started()) ci |= ones;  // §3.3.14: not before the engine runs.
      break;
    default:
      break;
  }
}

void PortRegisters::OnStartOrStop() {
  halted = false;
  last_slot = kSlots - 1;
  ccs = 0;
  ci = 0;
  if (!started()) tfd &= ~kBusyOrDrq;
}

void PortRegisters::ConnectDevice(uint32_t task_file) {
  tfd = task_file;
  sig = kSignatureAtapi;
  serr |= kSerrDiagX;
  signature_unsent = true;
}

void PortRegisters::DisconnectDevice() {
  tfd = kTfdNoDevice;
  sig = kSignatureNone;
  signature_unsent = false;
  held_in_reset = false;
  halted = started();
}

void PortRegisters::Halt(uint32_t is_bits) {
  is |= is_bits;
  halted = true;
}

uint32_t PortRegisters::NextSlot() const {
  for (uint32_t i = 1; i < kSlots; ++i) {
    const uint32_t slot = (last_slot + i) % kSlots;
    if ((ci >> slot & 1) != 0) return slot;
  }
  return last_slot;
}

void PortRegisters::Save(StateWriter& writer) const {
  writer.U64(clb);
  writer.U64(fb);
  for (const uint32_t value : {is, ie, cmd, ccs, tfd, sig, sctl, serr, ci, last_slot}) {
    writer.U32(value);
  }
  for (const bool flag : {halted, held_in_reset, signature_unsent}) writer.Bool(flag);
}

void PortRegisters::Restore(StateReader& reader) {
  clb = reader.U64();
  fb = reader.U64();
  for (uint32_t* const value : {&is, &ie, &cmd, &ccs, &tfd, &sig, &sctl, &serr, &ci, &last_slot}) {
    *value = reader.U32();
  }
  for (bool* const flag : {&halted, &held_in_reset, &signature_unsent}) *flag = reader.Bool();
  if ((clb & 0xffffffff & ~kClbMask) != 0 || (fb & 0xffffffff & ~kFbMask) != 0) {
    reader.Fail("a list of an AHCI port is not aligned");
  }
  if ((is & ~kIsStored) != 0 || (ie & ~kIsAll) != 0 || (cmd & ~kCmdStored) != 0 ||
      (tfd & ~uint32_t{0xffff}) != 0 || (sctl & ~kSctlMask) != 0 || (serr & ~kSerrDiagX) != 0) {
    reader.Fail("a register of an AHCI port has bits that there are not");
  }
  if (ccs >= kSlots || last_slot >= kSlots) {
    reader.Fail("an AHCI port serves a slot that there is not");
  }
  if (ci != 0 && !started()) reader.Fail("an AHCI port that is stopped has commands");
}

}  // namespace vireo::ahci
