#include "tests/support/ahci_driver.h"

#include <algorithm>
#include <span>

#include "base/check.h"
#include "base/endian.h"
#include "devices/pci/config_space.h"
#include "devices/storage_controllers/ata_spec.h"

namespace vireo {

AhciDriver::AhciDriver(const Options& options)
    : options_(options),
      port_base_(ahci::kPorts + options.port * ahci::kPortBytes),
      list_(options.guest.Allocate(1024, 1024)),
      fis_(options.guest.Allocate(256, 256)),
      tables_(options.guest.Allocate(ahci::kSlots * kTableBytes, 128)),
      buffer_(options.guest.Allocate(options.buffer_bytes, 4096)) {}

uint32_t AhciDriver::ReadHba(uint32_t offset) const {
  Le32 value = uint32_t{0};
  options_.space.mmio().Read(kAbar + offset, {reinterpret_cast<uint8_t*>(&value), 4});
  return value;
}

void AhciDriver::WriteHba(uint32_t offset, uint32_t value) {
  const Le32 bytes = value;
  options_.space.mmio().Write(kAbar + offset, {reinterpret_cast<const uint8_t*>(&bytes), 4});
}

uint16_t AhciDriver::ReadCommandRegister() const {
  Le16 value = uint16_t{0};
  options_.ahci.ReadConfig(pci::kCommand, {reinterpret_cast<uint8_t*>(&value), 2});
  return value;
}

void AhciDriver::WriteCommandRegister(uint16_t value) {
  const Le16 bytes = value;
  options_.ahci.WriteConfig(pci::kCommand, {reinterpret_cast<const uint8_t*>(&bytes), 2});
}

void AhciDriver::EnableFunction() {
  const Le32 bar = static_cast<uint32_t>(kAbar);
  options_.ahci.WriteConfig(pci::kBar0 + 4 * Ahci::kBarIndex,
                            {reinterpret_cast<const uint8_t*>(&bar), 4});
  WriteCommandRegister(pci::kCommandMemory | pci::kCommandBusMaster);
}

void AhciDriver::EnablePort() {
  Write(ahci::kPxClb, static_cast<uint32_t>(list_.value()));
  Write(ahci::kPxClbu, static_cast<uint32_t>(list_.value() >> 32));
  Write(ahci::kPxFb, static_cast<uint32_t>(fis_.value()));
  Write(ahci::kPxFbu, static_cast<uint32_t>(fis_.value() >> 32));
  Write(ahci::kPxCmd, Read(ahci::kPxCmd) | ahci::kCmdFre);
  Write(ahci::kPxSerr, 0xffffffff);
  Write(ahci::kPxIs, 0xffffffff);
  Write(ahci::kPxIe, 0xffffffff);
  WriteHba(ahci::kGhc, ahci::kGhcAhci | ahci::kGhcInterrupts);
}

void AhciDriver::StartEngine() { Write(ahci::kPxCmd, Read(ahci::kPxCmd) | ahci::kCmdSt); }

void AhciDriver::StopEngine() { Write(ahci::kPxCmd, Read(ahci::kPxCmd) & ~ahci::kCmdSt); }

void AhciDriver::Start() {
  EnableFunction();
  EnablePort();
  StartEngine();
}

void AhciDriver::Comreset() {
  Write(ahci::kPxSctl, 0x300 | ahci::kSctlDetComreset);
  Write(ahci::kPxSctl, 0x300 | ahci::kSctlDetNone);
}

ahci::H2dFis AhciDriver::Fis(uint8_t command, uint8_t features, uint8_t count) {
  ahci::H2dFis fis = {};
  fis.type = ahci::kFisTypeH2d;
  fis.flags = ahci::kFisCommand;
  fis.command = command;
  fis.features = features;
  fis.count = count;
  return fis;
}

ahci::H2dFis AhciDriver::ControlFis(uint8_t control) {
  ahci::H2dFis fis = {};
  fis.type = ahci::kFisTypeH2d;
  fis.control = control;
  return fis;
}

ahci::PrdEntry AhciDriver::Prd(GuestAddress at, uint32_t bytes, uint32_t flags) {
  VIREO_CHECK(bytes != 0 && bytes % 2 == 0, "a region has an even number of bytes");
  ahci::PrdEntry entry = {};
  entry.dba = at.value();
  entry.dbc = (bytes - 1) | flags;
  return entry;
}

AhciDriver::Command AhciDriver::PacketCommand(std::initializer_list<uint8_t> packet, uint32_t bytes,
                                              uint32_t slot) const {
  Command command = {.slot = slot, .fis = Fis(ata::kPacket, ata::kPacketDma)};
  command.packet.emplace();
  command.packet->fill(0);
  std::copy(packet.begin(), packet.end(), command.packet->begin());
  if (bytes != 0) command.prds = {Prd(buffer_, bytes)};
  return command;
}

GuestAddress AhciDriver::header(uint32_t slot) const {
  return GuestAddress(list_.value() + slot * sizeof(ahci::CommandHeader));
}

GuestAddress AhciDriver::table(uint32_t slot) const {
  return GuestAddress(tables_.value() + slot * kTableBytes);
}

void AhciDriver::Prepare(const Command& command) {
  VIREO_CHECK(ahci::kTablePrdt + command.prds.size() * sizeof(ahci::PrdEntry) <= kTableBytes);
  FakeGuestMemory& guest = options_.guest;
  const GuestAddress at = table(command.slot);
  ahci::CommandHeader header_bytes = {};
  header_bytes.flags =
      static_cast<uint16_t>(sizeof(ahci::H2dFis) / 4 | command.flags |
                            (command.packet.has_value() ? ahci::kHeaderAtapi : uint16_t{0}));
  header_bytes.prdtl = static_cast<uint16_t>(command.prds.size());
  header_bytes.ctba = at.value();
  guest.WriteObject(header(command.slot), header_bytes);
  guest.WriteObject(at, command.fis);
  if (command.packet.has_value()) {
    guest.WriteObject(GuestAddress(at.value() + ahci::kTableAcmd), *command.packet);
  }
  uint64_t entry_at = at.value() + ahci::kTablePrdt;
  for (const ahci::PrdEntry& entry : command.prds) {
    guest.WriteObject(GuestAddress(entry_at), entry);
    entry_at += sizeof(entry);
  }
}

AhciDriver::Outcome AhciDriver::Run(const Command& command) {
  Prepare(command);
  Issue(uint32_t{1} << command.slot);
  options_.loop.RunUntilIdle();
  Outcome outcome = {.is = Read(ahci::kPxIs), .ci = Read(ahci::kPxCi)};
  Write(ahci::kPxIs, outcome.is);
  const uint32_t tfd = Read(ahci::kPxTfd);
  outcome.status = static_cast<uint8_t>(tfd);
  outcome.error = static_cast<uint8_t>(tfd >> 8);
  outcome.prdbc = options_.guest.ReadObject<ahci::CommandHeader>(header(command.slot)).prdbc;
  outcome.data = options_.guest.Read(buffer_, std::min(outcome.prdbc, options_.buffer_bytes));
  return outcome;
}

AhciDriver::Outcome AhciDriver::Send(std::initializer_list<uint8_t> packet, uint32_t bytes) {
  Outcome outcome = Run(PacketCommand(packet, bytes));
  if (outcome.ci != 0) {
    StopEngine();
    StartEngine();
  }
  return outcome;
}

}  // namespace vireo
