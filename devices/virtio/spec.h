// Constants and wire structs of "Virtual I/O Device (VIRTIO) Version 1.2", each with its section.
// Only what the devices here use; little-endian on the wire whatever the host is.

#ifndef VIREO_DEVICES_VIRTIO_SPEC_H_
#define VIREO_DEVICES_VIRTIO_SPEC_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/endian.h"

namespace vireo::virtio {

constexpr uint64_t FeatureBit(int bit) { return uint64_t{1} << bit; }

// §5: device types. The PCI device ID is 0x1040 plus the type (§4.1.2.1).
enum class DeviceType : uint16_t {
  kNet = 1,
  kBlock = 2,
  kConsole = 3,
  kRng = 4,
  kBalloon = 5,
};

// §2.1: device status, one bit each.
inline constexpr uint8_t kStatusAcknowledge = 1;
inline constexpr uint8_t kStatusDriver = 2;
inline constexpr uint8_t kStatusDriverOk = 4;
inline constexpr uint8_t kStatusFeaturesOk = 8;
inline constexpr uint8_t kStatusNeedsReset = 64;
inline constexpr uint8_t kStatusFailed = 128;

// §6: feature bits that belong to the ring and the transport rather than to a device type.
inline constexpr uint64_t kFeatureAnyLayout = FeatureBit(27);  // Of legacy drivers (§6.3).
inline constexpr uint64_t kFeatureIndirectDesc = FeatureBit(28);
inline constexpr uint64_t kFeatureEventIdx = FeatureBit(29);
inline constexpr uint64_t kFeatureVersion1 = FeatureBit(32);
inline constexpr uint64_t kFeatureRingReset = FeatureBit(40);

// §2.7.5: descriptor table entry and its flags.
inline constexpr uint16_t kDescNext = 1;
inline constexpr uint16_t kDescWrite = 2;
inline constexpr uint16_t kDescIndirect = 4;

struct Descriptor {
  Le64 address;
  Le32 length;
  Le16 flags;
  Le16 next;
};
static_assert(sizeof(Descriptor) == 16 && std::is_trivially_copyable_v<Descriptor>);

// §2.7.6: available ring: flags, idx, ring[size], used_event. §2.7.8: used ring: flags, idx,
// ring[size] of UsedElement, avail_event.
inline constexpr uint16_t kAvailNoInterrupt = 1;
inline constexpr uint16_t kUsedNoNotify = 1;

struct UsedElement {
  Le32 id;
  Le32 length;
};
static_assert(sizeof(UsedElement) == 8 && std::is_trivially_copyable_v<UsedElement>);

inline constexpr uint64_t kRingHeaderBytes = 4;  // flags and idx.
constexpr uint64_t DescriptorTableBytes(uint16_t size) { return sizeof(Descriptor) * size; }
constexpr uint64_t AvailableRingBytes(uint16_t size) { return kRingHeaderBytes + 2 * size + 2; }
constexpr uint64_t UsedRingBytes(uint16_t size) {
  return kRingHeaderBytes + sizeof(UsedElement) * size + 2;
}

// §2.7.4: "a chain never holds more than 2^32 bytes".
inline constexpr uint64_t kMaxChainBytes = uint64_t{1} << 32;

// ---- PCI transport (§4.1) ----

inline constexpr uint16_t kPciVendor = 0x1af4;
inline constexpr uint16_t kPciModernDeviceBase = 0x1040;
inline constexpr uint8_t kPciModernRevision = 1;
// A transitional device is told by its subsystem ID, which is its type (§4.1.2.1, §4.1.2.3).
inline constexpr uint16_t kPciTransitionalNet = 0x1000;
inline constexpr uint16_t kPciTransitionalBlock = 0x1001;
inline constexpr uint8_t kPciTransitionalRevision = 0;
inline constexpr uint16_t kNoVector = 0xffff;  // VIRTIO_MSI_NO_VECTOR, §4.1.5.1.2.

// §4.1.4: cfg_type of a virtio vendor capability.
enum class PciCapabilityType : uint8_t {
  kCommon = 1,
  kNotify = 2,
  kIsr = 3,
  kDevice = 4,
  kPciAccess = 5,
};

// §4.1.4: struct virtio_pci_cap. Capability ID and next pointer are ConfigSpace's.
struct PciCapability {
  uint8_t vendor_id;  // PCI_CAP_ID_VNDR.
  uint8_t next;
  uint8_t length;
  uint8_t type;
  uint8_t bar;
  uint8_t id;
  uint8_t padding[2];
  Le32 offset;
  Le32 size;
};
static_assert(sizeof(PciCapability) == 16);

// §4.1.4.3: offsets within the common configuration structure.
namespace common_config {
inline constexpr uint16_t kDeviceFeatureSelect = 0;
inline constexpr uint16_t kDeviceFeature = 4;
inline constexpr uint16_t kDriverFeatureSelect = 8;
inline constexpr uint16_t kDriverFeature = 12;
inline constexpr uint16_t kConfigMsixVector = 16;
inline constexpr uint16_t kNumQueues = 18;
inline constexpr uint16_t kDeviceStatus = 20;
inline constexpr uint16_t kConfigGeneration = 21;
inline constexpr uint16_t kQueueSelect = 22;
inline constexpr uint16_t kQueueSize = 24;
inline constexpr uint16_t kQueueMsixVector = 26;
inline constexpr uint16_t kQueueEnable = 28;
inline constexpr uint16_t kQueueNotifyOff = 30;
inline constexpr uint16_t kQueueDesc = 32;
inline constexpr uint16_t kQueueDriver = 40;
inline constexpr uint16_t kQueueDevice = 48;
inline constexpr uint16_t kQueueNotifyData = 56;
inline constexpr uint16_t kQueueReset = 58;
inline constexpr uint16_t kSize = 60;
}  // namespace common_config

// §4.1.4.10: offsets within the I/O BAR of legacy drivers. The device's configuration follows,
// behind the vectors while MSI-X is enabled and in their place while it is not.
namespace legacy_config {
inline constexpr uint16_t kDeviceFeatures = 0;
inline constexpr uint16_t kDriverFeatures = 4;
inline constexpr uint16_t kQueuePfn = 8;
inline constexpr uint16_t kQueueSize = 12;
inline constexpr uint16_t kQueueSelect = 14;
inline constexpr uint16_t kQueueNotify = 16;
inline constexpr uint16_t kDeviceStatus = 18;
inline constexpr uint16_t kIsrStatus = 19;
inline constexpr uint16_t kConfigMsixVector = 20;
inline constexpr uint16_t kQueueMsixVector = 22;
inline constexpr uint16_t kDeviceWithoutMsix = 20;
inline constexpr uint16_t kDeviceWithMsix = 24;
}  // namespace legacy_config

// Unit of a legacy queue's address, and alignment of its used ring (§4.1.5.1.3, §2.7.2).
inline constexpr uint64_t kLegacyPageBytes = 4096;

// §4.1.4.5: ISR status.
inline constexpr uint8_t kIsrQueue = 1;
inline constexpr uint8_t kIsrConfig = 2;

// ---- Block device (§5.2) ----

inline constexpr uint64_t kSectorBytes = 512;  // §5.2.4: the unit of every sector number.

// §5.2.3
inline constexpr uint64_t kBlkFeatureSizeMax = FeatureBit(1);
inline constexpr uint64_t kBlkFeatureSegMax = FeatureBit(2);
inline constexpr uint64_t kBlkFeatureGeometry = FeatureBit(4);
inline constexpr uint64_t kBlkFeatureReadOnly = FeatureBit(5);
inline constexpr uint64_t kBlkFeatureBlkSize = FeatureBit(6);
inline constexpr uint64_t kBlkFeatureFlush = FeatureBit(9);
inline constexpr uint64_t kBlkFeatureTopology = FeatureBit(10);
inline constexpr uint64_t kBlkFeatureConfigWce = FeatureBit(11);
inline constexpr uint64_t kBlkFeatureMultiQueue = FeatureBit(12);
inline constexpr uint64_t kBlkFeatureDiscard = FeatureBit(13);
inline constexpr uint64_t kBlkFeatureWriteZeroes = FeatureBit(14);

// §5.2.6
inline constexpr uint32_t kBlkTypeIn = 0;
inline constexpr uint32_t kBlkTypeOut = 1;
inline constexpr uint32_t kBlkTypeFlush = 4;
inline constexpr uint32_t kBlkTypeGetId = 8;
inline constexpr uint32_t kBlkTypeDiscard = 11;
inline constexpr uint32_t kBlkTypeWriteZeroes = 13;

inline constexpr uint8_t kBlkStatusOk = 0;
inline constexpr uint8_t kBlkStatusIoError = 1;
inline constexpr uint8_t kBlkStatusUnsupported = 2;

inline constexpr uint64_t kBlkIdBytes = 20;
inline constexpr uint32_t kBlkSegmentUnmap = 1;  // Flag of a write-zeroes segment.

struct BlkRequestHeader {
  Le32 type;
  Le32 reserved;
  Le64 sector;
};
static_assert(sizeof(BlkRequestHeader) == 16 && std::is_trivially_copyable_v<BlkRequestHeader>);

// struct virtio_blk_discard_write_zeroes
struct BlkSegment {
  Le64 sector;
  Le32 sectors;
  Le32 flags;
};
static_assert(sizeof(BlkSegment) == 16 && std::is_trivially_copyable_v<BlkSegment>);

// §5.2.4: struct virtio_blk_config up to write_zeroes_may_unmap.
struct BlkConfig {
  Le64 capacity;  // Sectors.
  Le32 size_max;
  Le32 seg_max;
  Le16 cylinders;
  uint8_t heads;
  uint8_t sectors;
  Le32 blk_size;
  uint8_t physical_block_exp;
  uint8_t alignment_offset;
  Le16 min_io_size;  // Logical blocks.
  Le32 opt_io_size;  // Logical blocks.
  uint8_t writeback;
  uint8_t unused0;
  Le16 num_queues;
  Le32 max_discard_sectors;
  Le32 max_discard_seg;
  Le32 discard_sector_alignment;
  Le32 max_write_zeroes_sectors;
  Le32 max_write_zeroes_seg;
  uint8_t write_zeroes_may_unmap;
  uint8_t unused1[3];
};
static_assert(sizeof(BlkConfig) == 60 && std::is_trivially_copyable_v<BlkConfig>);

// ---- Network device (§5.1) ----

// §5.1.3
inline constexpr uint64_t kNetFeatureCsum = FeatureBit(0);
inline constexpr uint64_t kNetFeatureGuestCsum = FeatureBit(1);
inline constexpr uint64_t kNetFeatureMtu = FeatureBit(3);
inline constexpr uint64_t kNetFeatureMac = FeatureBit(5);
inline constexpr uint64_t kNetFeatureGuestTso4 = FeatureBit(7);
inline constexpr uint64_t kNetFeatureGuestTso6 = FeatureBit(8);
inline constexpr uint64_t kNetFeatureGuestEcn = FeatureBit(9);
inline constexpr uint64_t kNetFeatureHostTso4 = FeatureBit(11);
inline constexpr uint64_t kNetFeatureHostTso6 = FeatureBit(12);
inline constexpr uint64_t kNetFeatureHostEcn = FeatureBit(13);
inline constexpr uint64_t kNetFeatureMergeableRx = FeatureBit(15);
inline constexpr uint64_t kNetFeatureStatus = FeatureBit(16);

inline constexpr uint16_t kNetStatusLinkUp = 1;  // §5.1.4

// §5.1.4: struct virtio_net_config up to mtu.
struct NetConfig {
  uint8_t mac[6];
  Le16 status;
  Le16 max_virtqueue_pairs;
  Le16 mtu;
};
static_assert(sizeof(NetConfig) == 12 && std::is_trivially_copyable_v<NetConfig>);

// §5.1.6
inline constexpr uint8_t kNetHeaderNeedsChecksum = 1;
inline constexpr uint8_t kNetHeaderDataValid = 2;
inline constexpr uint8_t kNetGsoNone = 0;
inline constexpr uint8_t kNetGsoTcp4 = 1;
inline constexpr uint8_t kNetGsoTcp6 = 4;
inline constexpr uint8_t kNetGsoEcn = 0x80;

struct NetHeader {
  uint8_t flags;
  uint8_t gso_type;
  Le16 header_length;
  Le16 gso_size;
  Le16 checksum_start;
  Le16 checksum_offset;
  Le16 num_buffers;
};
static_assert(sizeof(NetHeader) == 12 && std::is_trivially_copyable_v<NetHeader>);
// §5.1.6.1: a legacy driver that does not merge buffers has no num_buffers.
inline constexpr size_t kNetLegacyHeaderBytes = 10;

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_SPEC_H_
