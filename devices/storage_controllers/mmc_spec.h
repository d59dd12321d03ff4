// Constants of the SCSI commands of a CD/DVD drive: "SCSI Primary Commands - 3" (SPC-3) and
// "MultiMedia Command Set - 5" (MMC-5).

#ifndef VIREO_DEVICES_STORAGE_CONTROLLERS_MMC_SPEC_H_
#define VIREO_DEVICES_STORAGE_CONTROLLERS_MMC_SPEC_H_

#include <cstdint>

namespace vireo::mmc {

// A packet is 12 bytes; shorter commands leave the rest unused.
inline constexpr int kPacketBytes = 12;

// SPC-3 §6 and MMC-5 §6: operation codes.
inline constexpr uint8_t kTestUnitReady = 0x00;
inline constexpr uint8_t kRequestSense = 0x03;
inline constexpr uint8_t kInquiry = 0x12;
inline constexpr uint8_t kStartStopUnit = 0x1b;
inline constexpr uint8_t kPreventAllowRemoval = 0x1e;
inline constexpr uint8_t kReadCapacity = 0x25;
inline constexpr uint8_t kRead10 = 0x28;
inline constexpr uint8_t kSeek10 = 0x2b;
inline constexpr uint8_t kReadToc = 0x43;
inline constexpr uint8_t kGetConfiguration = 0x46;
inline constexpr uint8_t kGetEventStatus = 0x4a;
inline constexpr uint8_t kReadDiscInformation = 0x51;
inline constexpr uint8_t kModeSense10 = 0x5a;
inline constexpr uint8_t kRead12 = 0xa8;
inline constexpr uint8_t kReadDvdStructure = 0xad;
inline constexpr uint8_t kSetCdSpeed = 0xbb;
inline constexpr uint8_t kMechanismStatus = 0xbd;
inline constexpr uint8_t kReadCd = 0xbe;

// SPC-3 §4.5.6: sense keys.
inline constexpr uint8_t kKeyNone = 0x0;
inline constexpr uint8_t kKeyNotReady = 0x2;
inline constexpr uint8_t kKeyMediumError = 0x3;
inline constexpr uint8_t kKeyIllegalRequest = 0x5;
inline constexpr uint8_t kKeyUnitAttention = 0x6;

inline constexpr uint32_t kBlockBytes = 2048;

// MMC-5 §5.3.1: profiles.
inline constexpr uint16_t kProfileNone = 0x0000;
inline constexpr uint16_t kProfileCdRom = 0x0008;
inline constexpr uint16_t kProfileDvdRom = 0x0010;

// MMC-5 §5.3: features.
inline constexpr uint16_t kFeatureProfiles = 0x0000;
inline constexpr uint16_t kFeatureCore = 0x0001;
inline constexpr uint16_t kFeatureMorphing = 0x0002;
inline constexpr uint16_t kFeatureRemovableMedium = 0x0003;
inline constexpr uint16_t kFeatureRandomReadable = 0x0010;
inline constexpr uint16_t kFeatureMultiRead = 0x001d;
inline constexpr uint16_t kFeatureCdRead = 0x001e;
inline constexpr uint16_t kFeatureDvdRead = 0x001f;
inline constexpr uint16_t kFeaturePower = 0x0100;
inline constexpr uint16_t kFeatureTimeout = 0x0105;

// MMC-5 §6.7.2: GET EVENT STATUS NOTIFICATION.
inline constexpr uint8_t kEventClassMedia = 4;
inline constexpr uint8_t kNoEventAvailable = 0x80;
inline constexpr uint8_t kMediaNoChange = 0;
inline constexpr uint8_t kMediaEjectRequest = 1;
inline constexpr uint8_t kMediaNew = 2;
inline constexpr uint8_t kMediaRemoval = 3;
inline constexpr uint8_t kMediaTrayOpen = 1 << 0;
inline constexpr uint8_t kMediaPresent = 1 << 1;

// MMC-5 §7 and MMC-3 §5.5.10: mode pages.
inline constexpr uint8_t kPageErrorRecovery = 0x01;
inline constexpr uint8_t kPageAudioControl = 0x0e;
inline constexpr uint8_t kPageCapabilities = 0x2a;
inline constexpr uint8_t kPageAll = 0x3f;

}  // namespace vireo::mmc

#endif  // VIREO_DEVICES_STORAGE_CONTROLLERS_MMC_SPEC_H_
