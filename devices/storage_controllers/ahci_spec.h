// Constants and wire structs of "Serial ATA Advanced Host Controller Interface (AHCI) 1.3.1" and of
// the frames in "Serial ATA Revision 3.0", each with its section. Only what the controller here
// uses; little-endian in guest memory whatever the host is.

#ifndef VIREO_DEVICES_STORAGE_CONTROLLERS_AHCI_SPEC_H_
#define VIREO_DEVICES_STORAGE_CONTROLLERS_AHCI_SPEC_H_

#include <cstdint>
#include <type_traits>

#include "base/endian.h"

namespace vireo::ahci {

// AHCI 1.3.1 §3.1: generic host control, offsets in the ABAR.
inline constexpr uint32_t kCap = 0x00;
inline constexpr uint32_t kGhc = 0x04;
inline constexpr uint32_t kIs = 0x08;
inline constexpr uint32_t kPi = 0x0c;
inline constexpr uint32_t kVs = 0x10;
inline constexpr uint32_t kCap2 = 0x24;
inline constexpr uint32_t kBohc = 0x28;

// §3: port x has its registers at 0x100 + x * 0x80.
inline constexpr uint32_t kPorts = 0x100;
inline constexpr uint32_t kPortBytes = 0x80;

// §3.1.1: CAP. NP and NCS hold the number less one.
inline constexpr uint32_t kCap64Bit = uint32_t{1} << 31;     // S64A
inline constexpr uint32_t kCapClo = uint32_t{1} << 24;       // SCLO
inline constexpr uint32_t kCapIssGen2 = uint32_t{2} << 20;   // ISS
inline constexpr uint32_t kCapAhciOnly = uint32_t{1} << 18;  // SAM
inline constexpr uint32_t kCapSlots32 = uint32_t{31} << 8;   // NCS
inline constexpr uint32_t kSlots = 32;

// §3.1.2: GHC.
inline constexpr uint32_t kGhcReset = 1 << 0;            // HR
inline constexpr uint32_t kGhcInterrupts = 1 << 1;       // IE
inline constexpr uint32_t kGhcAhci = uint32_t{1} << 31;  // AE

// §3.1.5: version 1.3.1.
inline constexpr uint32_t kVersion = 0x00010301;

// §3.3: port registers, offsets in the port's part.
inline constexpr uint32_t kPxClb = 0x00;
inline constexpr uint32_t kPxClbu = 0x04;
inline constexpr uint32_t kPxFb = 0x08;
inline constexpr uint32_t kPxFbu = 0x0c;
inline constexpr uint32_t kPxIs = 0x10;
inline constexpr uint32_t kPxIe = 0x14;
inline constexpr uint32_t kPxCmd = 0x18;
inline constexpr uint32_t kPxTfd = 0x20;
inline constexpr uint32_t kPxSig = 0x24;
inline constexpr uint32_t kPxSsts = 0x28;
inline constexpr uint32_t kPxSctl = 0x2c;
inline constexpr uint32_t kPxSerr = 0x30;
inline constexpr uint32_t kPxSact = 0x34;
inline constexpr uint32_t kPxCi = 0x38;

// §3.3.1, §3.3.3: the lists' alignment is wired into their address registers.
inline constexpr uint32_t kClbMask = 0xfffffc00;
inline constexpr uint32_t kFbMask = 0xffffff00;

// §3.3.5, §3.3.6: PxIS and PxIE.
inline constexpr uint32_t kIsDhrs = 1 << 0;     // A D2H register FIS with its I bit.
inline constexpr uint32_t kIsPss = 1 << 1;      // A PIO setup FIS with its I bit.
inline constexpr uint32_t kIsDps = 1 << 5;      // A PRD with its I bit is through.
inline constexpr uint32_t kIsPcs = 1 << 6;      // Follows PxSERR.DIAG.X.
inline constexpr uint32_t kIsOfs = 1 << 24;     // More data than the PRD table holds.
inline constexpr uint32_t kIsIfs = 1 << 27;     // Interface fatal error.
inline constexpr uint32_t kIsHbfs = 1 << 29;    // Host bus fatal error.
inline constexpr uint32_t kIsTfes = 1 << 30;    // Task file error.
inline constexpr uint32_t kIsAll = 0xfdc000ff;  // What a guest may enable.

// §3.3.7: PxCMD.
inline constexpr uint32_t kCmdSt = 1 << 0;
inline constexpr uint32_t kCmdSud = 1 << 1;
inline constexpr uint32_t kCmdPod = 1 << 2;
inline constexpr uint32_t kCmdClo = 1 << 3;
inline constexpr uint32_t kCmdFre = 1 << 4;
inline constexpr uint32_t kCmdCcsShift = 8;  // The slot being served, 5 bits.
inline constexpr uint32_t kCmdFr = 1 << 14;
inline constexpr uint32_t kCmdCr = 1 << 15;
inline constexpr uint32_t kCmdAtapi = 1 << 24;

// §3.3.8: PxTFD has the status in its low byte, the error in the next. What it holds while no
// device has told its own.
inline constexpr uint32_t kTfdNoDevice = 0x7f;

// §3.3.9: PxSIG of an ATAPI device: LBA high, mid, low and sector count of its first FIS.
inline constexpr uint32_t kSignatureAtapi = 0xeb140101;
inline constexpr uint32_t kSignatureNone = 0xffffffff;

// §3.3.10: PxSSTS: a device, communication, generation 2, active; and the interface put offline.
inline constexpr uint32_t kSstsPresent = 0x123;
inline constexpr uint32_t kSstsNothing = 0x000;
inline constexpr uint32_t kSstsOffline = 0x004;

// §3.3.11: PxSCTL.
inline constexpr uint32_t kSctlDetMask = 0xf;
inline constexpr uint32_t kSctlDetNone = 0;
inline constexpr uint32_t kSctlDetComreset = 1;
inline constexpr uint32_t kSctlDetOffline = 4;
inline constexpr uint32_t kSctlMask = 0xfff;  // DET, SPD, IPM

// §3.3.12: PxSERR.
inline constexpr uint32_t kSerrDiagX = 1 << 26;  // Exchanged: a device came.

// §4.2.1: received FIS area, 256 bytes at PxFB.
inline constexpr uint32_t kFisPioSetup = 0x20;
inline constexpr uint32_t kFisD2h = 0x40;

// §4.2.2: command list entry.
inline constexpr uint16_t kHeaderCflMask = 0x1f;       // Length of the CFIS in dwords.
inline constexpr uint16_t kHeaderAtapi = 1 << 5;       // A
inline constexpr uint16_t kHeaderClearBusy = 1 << 10;  // C
inline constexpr uint32_t kHeaderPrdbc = 4;            // Offset of `prdbc`.

struct CommandHeader {
  Le16 flags;
  Le16 prdtl;  // Entries of the PRD table.
  Le32 prdbc;  // Bytes moved; written by the controller.
  Le64 ctba;   // The command table, a multiple of 128.
  Le32 reserved[4];
};
static_assert(sizeof(CommandHeader) == 32 && std::is_trivially_copyable_v<CommandHeader>);
inline constexpr uint64_t kCtbaMask = ~uint64_t{0x7f};

// §4.2.3: command table.
inline constexpr uint32_t kTableAcmd = 0x40;
inline constexpr uint32_t kTablePrdt = 0x80;

struct PrdEntry {
  Le64 dba;  // Even.
  Le32 reserved;
  Le32 dbc;  // Bits 0 to 21: bytes less one, odd. Bit 31: interrupt.
};
static_assert(sizeof(PrdEntry) == 16 && std::is_trivially_copyable_v<PrdEntry>);
inline constexpr uint32_t kPrdBytesMask = 0x3fffff;
inline constexpr uint32_t kPrdInterrupt = uint32_t{1} << 31;

// Serial ATA 3.0 §10.3.4: register FIS, host to device.
inline constexpr uint8_t kFisTypeH2d = 0x27;
inline constexpr uint8_t kFisCommand = 1 << 7;   // C: the command, not the control register.
inline constexpr uint8_t kControlSrst = 1 << 2;  // ATA8-ACS: device control, software reset.

struct H2dFis {
  uint8_t type;
  uint8_t flags;
  uint8_t command;
  uint8_t features;
  uint8_t lba[3];
  uint8_t device;
  uint8_t lba_exp[3];
  uint8_t features_exp;
  uint8_t count;
  uint8_t count_exp;
  uint8_t icc;
  uint8_t control;
  uint8_t reserved[4];
};
static_assert(sizeof(H2dFis) == 20);

// §10.3.5: register FIS, device to host.
inline constexpr uint8_t kFisTypeD2h = 0x34;
inline constexpr uint8_t kFisInterrupt = 1 << 6;  // I

struct D2hFis {
  uint8_t type;
  uint8_t flags;
  uint8_t status;
  uint8_t error;
  uint8_t lba[3];
  uint8_t device;
  uint8_t lba_exp[3];
  uint8_t reserved0;
  uint8_t count;
  uint8_t count_exp;
  uint8_t reserved1[6];
};
static_assert(sizeof(D2hFis) == 20);

// §10.3.10: PIO setup, device to host.
inline constexpr uint8_t kFisTypePioSetup = 0x5f;
inline constexpr uint8_t kFisToHost = 1 << 5;  // D

struct PioSetupFis {
  uint8_t type;
  uint8_t flags;
  uint8_t status;  // Before the data,
  uint8_t error;
  uint8_t lba[3];
  uint8_t device;
  uint8_t lba_exp[3];
  uint8_t reserved0;
  uint8_t count;
  uint8_t count_exp;
  uint8_t reserved1;
  uint8_t end_status;  // and after.
  Le16 transfer_count;
  uint8_t reserved2[2];
};
static_assert(sizeof(PioSetupFis) == 20);

}  // namespace vireo::ahci

#endif  // VIREO_DEVICES_STORAGE_CONTROLLERS_AHCI_SPEC_H_
