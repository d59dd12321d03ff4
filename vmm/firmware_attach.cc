// Firmware: its image at the top of 4 GiB and below 1 MiB, and what it is told through fw_cfg. What
// a machine that starts in a kernel gets from us (BAR addresses, tables, registers), firmware sets
// up itself.
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "devices/firmware/linux_rom.h"
#include "devices/firmware/smbios.h"
#include "vmm/firmware_descriptors.h"
#include "vmm/firmware_rom.h"
#include "vmm/machine_builder.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/e820.h"
#include "vmm/x86/firmware_kernel.h"
#include "vmm/x86/kernel_file.h"
#include "vmm/x86/table_loader.h"

namespace vireo {
namespace {

constexpr char kSeabiosPath[] = "/usr/share/seabios/bios-256k.bin";
constexpr char kOvmfCodePath[] = "/usr/share/OVMF/OVMF_CODE_4M.fd";
constexpr char kOvmfVariablesPath[] = "/usr/share/OVMF/OVMF_VARS_4M.fd";

// What SeaBIOS reads in CMOS besides the memory's sizes.
constexpr uint8_t kCmosBootOrder = 0x3d;  // Two of the three nibbles, first one low.
constexpr uint8_t kDiskThenCd = 0x32;
constexpr uint8_t kCmosCpus = 0x5f;  // Less one.

template <typename T>
std::vector<uint8_t> LittleEndian(T value) {
  std::vector<uint8_t> bytes(sizeof(T));
  for (size_t i = 0; i < sizeof(T); ++i) bytes[i] = static_cast<uint8_t>(value >> (8 * i));
  return bytes;
}

std::array<uint8_t, 16> UuidBytes(const std::string& uuid) {
  std::string digits = uuid;
  std::erase(digits, '-');
  std::array<uint8_t, 16> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(std::stoul(digits.substr(2 * i, 2), nullptr, 16));
  }
  return bytes;
}

}  // namespace

absl::StatusOr<UniqueFd> MachineBuilder::OpenInstalled(const std::string& path,
                                                       std::string_view package) {
  DirectOpener anywhere;
  absl::StatusOr<UniqueFd> fd = anywhere.Open(path, O_RDONLY);
  if (fd.ok()) return fd;
  return absl::FailedPreconditionError(
      absl::StrFormat("%s; the package %s has it", fd.status().message(), package));
}

absl::Status MachineBuilder::OpenFirmware() {
  const std::string& firmware = m_.config_.boot.firmware;
  if (firmware == kFirmwareBios) {
    ASSIGN_OR_RETURN(const UniqueFd fd, OpenInstalled(kSeabiosPath, "seabios"));
    ASSIGN_OR_RETURN(m_.firmware_rom_, LoadFirmwareRom(fd, kSeabiosPath));
    return absl::OkStatus();
  }
  if (firmware == kFirmwareUefi) {
    ASSIGN_OR_RETURN(const UniqueFd fd, OpenInstalled(kOvmfCodePath, "ovmf"));
    ASSIGN_OR_RETURN(m_.firmware_rom_, LoadFirmwareRom(fd, kOvmfCodePath));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const UniqueFd fd, m_.opener_.Open(firmware, O_RDONLY | O_NONBLOCK));
  ASSIGN_OR_RETURN(const std::string canonical, m_.opener_.Canonical(firmware));
  const std::string descriptor =
      DescriptorThatRequiresSmm(FirmwareDescriptorFolders(), {firmware, canonical});
  if (!descriptor.empty()) {
    return absl::UnimplementedError(
        absl::StrFormat("%s needs system management mode (SMM), says %s, which this machine does "
                        "not have",
                        firmware, descriptor));
  }
  ASSIGN_OR_RETURN(m_.firmware_rom_, LoadFirmwareRom(fd, firmware));
  return absl::OkStatus();
}

absl::Status MachineBuilder::OpenVariables() {
  const BootConfig& boot = m_.config_.boot;
  if (boot.firmware != kFirmwareUefi && boot.variables.empty()) return absl::OkStatus();
  MappedRegion initial;
  if (boot.firmware == kFirmwareUefi) {
    ASSIGN_OR_RETURN(const UniqueFd fd, OpenInstalled(kOvmfVariablesPath, "ovmf"));
    ASSIGN_OR_RETURN(initial, LoadFirmwarePart(fd, kOvmfVariablesPath));
  }
  absl::StatusOr<VariableStore> store =
      boot.variables.empty() ? VariableStore::InMemory(initial.bytes())
                             : VariableStore::Open(m_.opener_, boot.variables, initial.bytes());
  if (!store.ok()) return store.status();
  if (store->contents().size() + m_.firmware_rom_.bytes().size() > kMaxFirmwareBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: firmware and variables have more than 16 MiB", boot.variables));
  }
  m_.variables_.emplace(*std::move(store));
  return absl::OkStatus();
}

absl::Status MachineBuilder::OpenFirmwareLog() {
  const std::string& path = m_.config_.boot.firmware_log;
  ASSIGN_OR_RETURN(UniqueFd fd,
                   m_.opener_.Open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, 0600));
  m_.firmware_log_ = std::make_unique<FirmwareLog>(std::move(fd), path);
  m_.debug_port_ = std::make_unique<DebugPort>(
      [log = m_.firmware_log_.get()](uint8_t byte) { log->Append(byte); });
  return absl::OkStatus();
}

absl::Status MachineBuilder::PlaceFirmware() {
  const std::span<uint8_t> rom = m_.firmware_rom_.bytes();
  RamWindow backing;
  backing.host = rom;
  backing.read_only = true;
  ASSIGN_OR_RETURN(const uint32_t window, m_.address_space_->Add({.kind = Window::Kind::kMmio,
                                                                  .size = rom.size(),
                                                                  .trapped = nullptr,
                                                                  .doorbells = {},
                                                                  .ram = {backing},
                                                                  .name = "firmware"}));
  RETURN_IF_ERROR(m_.address_space_->Place(window, x86::k4GiB - rom.size()));
  if (m_.variables_.has_value()) {
    // Right below the code, where the template's makers have put it.
    const std::span<uint8_t> contents = m_.variables_->contents();
    ASSIGN_OR_RETURN(
        m_.variable_flash_,
        Pflash::Create(*m_.address_space_, x86::k4GiB - rom.size() - contents.size(), contents));
  }
  m_.shadow_memory_ = std::make_unique<ShadowMemory>(*m_.address_space_, *m_.memory_, rom);
  if (m_.debug_port_ != nullptr) {
    RETURN_IF_ERROR(m_.ports_.Insert(DebugPort::kPort, DebugPort::kPorts, *m_.debug_port_));
  }
  m_.rtc_->SetMemory(kCmosBootOrder, kDiskThenCd);
  m_.rtc_->SetMemory(kCmosCpus, static_cast<uint8_t>(m_.config_.cpus.boot - 1));
  return absl::OkStatus();
}

std::string MachineBuilder::BootOrder() const {
  // Open Firmware's names of devices, as SeaBIOS and OVMF make them too.
  struct Choice {
    std::optional<uint16_t> index;
    std::string name;
  };
  std::vector<Choice> choices;
  const auto slot_of = [this](const std::string& id) {
    const auto function = std::ranges::find(m_.functions_, id, &Machine::PlacedFunction::id);
    VIREO_CHECK(function != m_.functions_.end(), "disks and NICs have been placed");
    return function->address.slot;
  };
  for (const DiskConfig& disk : m_.config_.disks) {
    choices.push_back(
        {disk.boot_index, absl::StrFormat("/pci@i0cf8/scsi@%x/disk@0,0", slot_of(disk.id))});
  }
  for (const std::unique_ptr<Machine::Cdrom>& cdrom : m_.cdroms_) {
    choices.push_back(
        {cdrom->config.boot_index,
         absl::StrFormat("/pci@i0cf8/pci8086,2922@1f,2/drive@%x/disk@0", cdrom->port)});
  }
  for (const NicConfig& nic : m_.config_.nics) {
    if (!nic.boot_index.has_value()) continue;
    choices.push_back({nic.boot_index,
                       absl::StrFormat("/pci@i0cf8/ethernet@%x/ethernet-phy@0", slot_of(nic.id))});
  }
  const bool chosen = std::any_of(choices.begin(), choices.end(),
                                  [](const Choice& choice) { return choice.index.has_value(); });
  if (chosen)
    std::erase_if(choices, [](const Choice& choice) { return !choice.index.has_value(); });
  std::stable_sort(choices.begin(), choices.end(),
                   [](const Choice& a, const Choice& b) { return a.index < b.index; });
  // A line each; a kernel that is to be started comes before all of them.
  std::vector<std::string> lines;
  if (m_.kernel_.valid()) lines.push_back(absl::StrCat("/rom@", kLinuxRomFile));
  for (Choice& choice : choices) lines.push_back(std::move(choice.name));
  return absl::StrJoin(lines, "\n");
}

absl::Status MachineBuilder::TellFirmware() {
  Machine& m = m_;
  m.fw_cfg_ = std::make_unique<FwCfg>(*m.memory_);
  FwCfg& fw_cfg = *m.fw_cfg_;
  const std::array<uint8_t, 16> uuid = UuidBytes(m.config_.uuid);
  const uint64_t ram_bytes = m.layout_.low_ram.size + m.layout_.high_ram.size;
  fw_cfg.SetItem(FwCfg::kUuid, {uuid.begin(), uuid.end()});
  fw_cfg.SetNumber(FwCfg::kRamBytes, ram_bytes, 8);
  fw_cfg.SetNumber(FwCfg::kNoGraphics, 1, 2);
  fw_cfg.SetNumber(FwCfg::kCpus, m.config_.cpus.boot, 2);
  const x86::CpuTopology topology = x86::DefaultTopology(m.config_.cpus.max);
  fw_cfg.SetNumber(FwCfg::kMaxCpus, x86::ApicId(topology, m.config_.cpus.max - 1) + 1, 2);
  fw_cfg.SetNumber(FwCfg::kIrq0Override, 1, 1);
  fw_cfg.SetNumber(FwCfg::kBootMenu, m.config_.boot.menu_ms != 0 ? 1 : 0, 2);

  std::vector<std::pair<std::string, std::vector<uint8_t>>> files = {
      {"etc/e820", x86::EncodeE820(x86::BuildFirmwareE820(m.layout_))},
      // Above it firmware may place what does not fit below 4 GiB.
      {"etc/reserved-memory-end", LittleEndian(m.layout_.pci64.base)},
      // S3 and S4 are not offered; their numbers would be 1 and 2.
      {"etc/system-states", {0x80, 0, 0, 1, 2, 0x80}},
      // There is no display: what a BIOS shows appears on the serial port.
      {"etc/sercon-port", LittleEndian(x86::kCom1Port)}};
  if (m.config_.boot.menu_ms != 0) {
    // Two bytes: OVMF takes no other length.
    files.emplace_back("etc/boot-menu-wait",
                       LittleEndian(static_cast<uint16_t>(m.config_.boot.menu_ms)));
  }
  if (m.config_.boot.retry_ms.has_value()) {
    constexpr uint32_t kNever = 0xffffffff;
    const uint32_t retry_ms = *m.config_.boot.retry_ms;
    files.emplace_back("etc/boot-fail-wait", LittleEndian(retry_ms == 0 ? kNever : retry_ms));
  }
  const std::string order = BootOrder();
  if (!order.empty()) {
    std::vector<uint8_t> bytes(order.begin(), order.end());
    bytes.push_back(0);
    files.emplace_back("bootorder", std::move(bytes));
  }
  if (m.kernel_.valid()) {
    RETURN_IF_ERROR(OfferKernel());
    files.emplace_back(kLinuxRomFile, LinuxRom());
  }
  SmbiosTables smbios = DescribeMachine(uuid);
  files.emplace_back("etc/smbios/smbios-anchor", std::move(smbios.entry_point));
  files.emplace_back("etc/smbios/smbios-tables", std::move(smbios.structures));
  const x86::AcpiTables tables = x86::BuildAcpiTables(m.MakeAcpiOptions());
  files.emplace_back(x86::kTableLoaderFile, x86::BuildTableLoader(tables));
  for (auto& [name, bytes] : files) RETURN_IF_ERROR(fw_cfg.AddFile(name, std::move(bytes)));
  for (size_t i = 0; i < tables.blobs.size(); ++i) {
    // Made when read: firmware has placed ECAM by then.
    RETURN_IF_ERROR(fw_cfg.AddFile(tables.blobs[i].name, [&m, i] {
      return x86::BuildAcpiTables(m.MakeAcpiOptions()).blobs[i].bytes;
    }));
  }
  return m.ports_.Insert(FwCfg::kPort, FwCfg::kPorts, fw_cfg);
}

absl::Status MachineBuilder::OfferKernel() {
  const BootConfig& boot = m_.config_.boot;
  std::optional<x86::InputFile> initrd;
  if (m_.initrd_.valid()) initrd.emplace(x86::InputFile{m_.initrd_, boot.initrd});
  ASSIGN_OR_RETURN(
      x86::FirmwareKernel kernel,
      x86::PrepareFirmwareKernel(m_.layout_, {m_.kernel_, boot.kernel}, initrd, boot.cmdline));
  FwCfg& fw_cfg = *m_.fw_cfg_;
  fw_cfg.SetNumber(FwCfg::kSetupAddress, kernel.setup_address, 4);
  fw_cfg.SetNumber(FwCfg::kSetupBytes, kernel.setup.size(), 4);
  fw_cfg.SetItem(FwCfg::kSetup, std::move(kernel.setup));
  fw_cfg.SetNumber(FwCfg::kCommandLineAddress, kernel.command_line_address, 4);
  fw_cfg.SetNumber(FwCfg::kCommandLineBytes, kernel.command_line.size(), 4);
  fw_cfg.SetItem(FwCfg::kCommandLine, std::move(kernel.command_line));
  // These are large, and read from their files when firmware asks.
  fw_cfg.SetNumber(FwCfg::kKernelAddress, kernel.payload_address, 4);
  fw_cfg.SetNumber(FwCfg::kKernelBytes, kernel.payload_bytes, 4);
  fw_cfg.SetItem(FwCfg::kKernel, kernel.payload_bytes,
                 [this_machine = &m_, begin = kernel.payload_offset](uint64_t offset,
                                                                     std::span<uint8_t> part) {
                   return x86::ReadInputFileExactly(
                       {this_machine->kernel_, this_machine->config_.boot.kernel}, begin + offset,
                       part);
                 });
  if (kernel.initrd_bytes == 0) return absl::OkStatus();
  fw_cfg.SetNumber(FwCfg::kInitrdAddress, kernel.initrd_address, 4);
  fw_cfg.SetNumber(FwCfg::kInitrdBytes, kernel.initrd_bytes, 4);
  fw_cfg.SetItem(FwCfg::kInitrd, kernel.initrd_bytes,
                 [this_machine = &m_](uint64_t offset, std::span<uint8_t> part) {
                   return x86::ReadInputFileExactly(
                       {this_machine->initrd_, this_machine->config_.boot.initrd}, offset, part);
                 });
  return absl::OkStatus();
}

SmbiosTables MachineBuilder::DescribeMachine(const std::array<uint8_t, 16>& uuid) const {
  const SmbiosConfig& config = m_.config_.smbios;
  SmbiosOptions options = {.uuid = uuid,
                           .vendor = config.vendor,
                           .product = config.product,
                           .version = config.version,
                           .serial = config.serial,
                           .asset_tag = config.asset_tag,
                           .cpus = m_.config_.cpus.boot,
                           .rom_bytes = m_.firmware_rom_.bytes().size()};
  for (const x86::CpuidEntry& entry : m_.cpuid_->For(0)) {
    if (entry.function != 1) continue;
    options.cpuid_signature = entry.eax;
    options.cpuid_features = entry.edx;
  }
  for (const x86::AddressRange& range : m_.layout_.Ram()) {
    options.memory.push_back({.base = range.base, .size = range.size});
  }
  return BuildSmbios(options);
}

}  // namespace vireo
