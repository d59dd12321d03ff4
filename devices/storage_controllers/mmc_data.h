// What a CD/DVD drive answers about itself and its medium, as bytes: pure functions, one per
// command or page. Nothing here is cut to an allocation length. Big-endian, as SCSI is.

#ifndef VIREO_DEVICES_STORAGE_CONTROLLERS_MMC_DATA_H_
#define VIREO_DEVICES_STORAGE_CONTROLLERS_MMC_DATA_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace vireo::mmc {

using Bytes = std::vector<uint8_t>;

// SPC-3 §4.5.3: why a command failed. A key of zero: nothing to tell.
struct Sense {
  uint8_t key = 0;
  uint8_t asc = 0;
  uint8_t ascq = 0;

  friend bool operator==(const Sense&, const Sense&) = default;
};

struct Identity {
  std::string vendor = "VIREO";    // Its first 8 characters show,
  std::string product = "CD-ROM";  // 16 of these,
  std::string revision = "1.0";    // 4 of these.
  std::string serial;
};

// Where a medium and the tray are.
struct DriveFacts {
  std::optional<uint32_t> blocks;  // Of 2,048 bytes; nothing without a medium.
  bool tray_open = false;
  bool locked = false;

  // Longer than any CD (80 minutes of 75 blocks a second).
  bool dvd() const { return blocks.has_value() && *blocks > 80 * 60 * 75; }
  bool cd() const { return blocks.has_value() && !dvd(); }
};

// REQUEST SENSE, fixed format (SPC-3 §4.5.3).
Bytes FixedSense(const Sense& sense);

// INQUIRY (SPC-3 §6.4.2, §7.6). Nothing for a page that there is not.
Bytes StandardInquiry(const Identity& identity);
std::optional<Bytes> VitalProductData(uint8_t page, const Identity& identity);

// READ CAPACITY (MMC-5 §6.24). `blocks` is not 0.
Bytes Capacity(uint32_t blocks);

// READ TOC/PMA/ATIP (MMC-5 §6.30): one session with one data track. Nothing for a track or session
// that there is not.
enum class AddressForm { kLba, kMsf };
std::optional<Bytes> TableOfContents(uint8_t first_track, uint32_t blocks, AddressForm form);
Bytes SessionInformation(AddressForm form);
std::optional<Bytes> FullTableOfContents(uint8_t first_session, uint32_t blocks);

// READ DISC INFORMATION, standard (MMC-5 §6.26).
Bytes DiscInformation();

// GET CONFIGURATION (MMC-5 §6.6). All features from `first` on, those that are current, or that one
// alone.
enum class FeatureChoice { kAll, kCurrent, kOne };
Bytes Configuration(const DriveFacts& facts, uint16_t first, FeatureChoice choice);

// MODE SENSE(10) (MMC-5 §7). Nothing for a page that there is not.
enum class ModeValues { kCurrent, kChangeable };
std::optional<Bytes> ModePages(const DriveFacts& facts, uint8_t page, ModeValues values);

// MECHANISM STATUS (MMC-5 §6.10).
Bytes MechanismStatus(const DriveFacts& facts);

// READ DVD STRUCTURE, format 0, of a medium with one layer (MMC-5 §6.27.2).
Bytes DvdPhysicalFormat(uint32_t blocks);

// GET EVENT STATUS NOTIFICATION (MMC-5 §6.7). A media event, or that none of the classes asked for
// is there.
Bytes MediaEvent(const DriveFacts& facts, uint8_t event);
Bytes NoSuchEventClass();

}  // namespace vireo::mmc

#endif  // VIREO_DEVICES_STORAGE_CONTROLLERS_MMC_DATA_H_
