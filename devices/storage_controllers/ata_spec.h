// Constants of ATA/ATAPI ("AT Attachment 8 - ATA/ATAPI Command Set", ATA8-ACS) that a packet device
// uses.

#ifndef VIREO_DEVICES_STORAGE_CONTROLLERS_ATA_SPEC_H_
#define VIREO_DEVICES_STORAGE_CONTROLLERS_ATA_SPEC_H_

#include <cstdint>

namespace vireo::ata {

// ATA8-ACS §6.2: status.
inline constexpr uint8_t kStatusBusy = 1 << 7;
inline constexpr uint8_t kStatusReady = 1 << 6;
inline constexpr uint8_t kStatusSeekDone = 1 << 4;  // DSC; "service" for packet commands.
inline constexpr uint8_t kStatusDrq = 1 << 3;
inline constexpr uint8_t kStatusError = 1 << 0;  // "Check condition" for packet commands.

// §6.3: error. Packet commands have their sense key in the upper four bits.
inline constexpr uint8_t kErrorAbort = 1 << 2;
inline constexpr uint8_t kErrorSenseKeyShift = 4;
inline constexpr uint8_t kDiagnosticsPassed = 0x01;

// ATA/ATAPI-7 vol. 1 §6.25: interrupt reason of packet commands, in the count register.
inline constexpr uint8_t kReasonCommand = 1 << 0;  // C/D
inline constexpr uint8_t kReasonToHost = 1 << 1;   // I/O

// §6.4 and §7: what the registers of a packet device hold after a reset.
inline constexpr uint8_t kPacketSignature[4] = {0x01, 0x01, 0x14, 0xeb};  // Count, LBA low to high.

// §7: commands.
inline constexpr uint8_t kDeviceReset = 0x08;
inline constexpr uint8_t kReadSectors = 0x20;
inline constexpr uint8_t kExecuteDiagnostic = 0x90;
inline constexpr uint8_t kPacket = 0xa0;
inline constexpr uint8_t kIdentifyPacketDevice = 0xa1;
inline constexpr uint8_t kStandbyImmediate = 0xe0;
inline constexpr uint8_t kIdleImmediate = 0xe1;
inline constexpr uint8_t kStandby = 0xe2;
inline constexpr uint8_t kIdle = 0xe3;
inline constexpr uint8_t kCheckPowerMode = 0xe5;
inline constexpr uint8_t kSleep = 0xe6;
inline constexpr uint8_t kFlushCache = 0xe7;
inline constexpr uint8_t kIdentifyDevice = 0xec;
inline constexpr uint8_t kSetFeatures = 0xef;

// §7.24: features of PACKET.
inline constexpr uint8_t kPacketDma = 1 << 0;

// §7.48: SET FEATURES.
inline constexpr uint8_t kSetTransferMode = 0x03;
inline constexpr uint8_t kKeepDefaults = 0x66;  // Through a software reset: no.
inline constexpr uint8_t kRestoreDefaults = 0xcc;

inline constexpr uint8_t kPowerActive = 0xff;  // §7.5: CHECK POWER MODE

inline constexpr int kIdentifyBytes = 512;

}  // namespace vireo::ata

#endif  // VIREO_DEVICES_STORAGE_CONTROLLERS_ATA_SPEC_H_
