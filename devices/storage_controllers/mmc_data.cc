#include "devices/storage_controllers/mmc_data.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "devices/storage_controllers/mmc_spec.h"

namespace vireo::mmc {
namespace {

constexpr uint8_t kPeripheralCdRom = 0x05;
constexpr uint8_t kDataTrack = 0x14;  // ADR 1, a data track that may not be copied.
constexpr uint8_t kLeadOut = 0xaa;
// Of a drive at 40 times the speed of a CD, in kilobytes per second.
constexpr uint16_t kSpeed = 40 * 176;

void Append(Bytes& out, std::initializer_list<uint8_t> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

void Append16(Bytes& out, uint16_t value) {
  Append(out, {static_cast<uint8_t>(value >> 8), static_cast<uint8_t>(value)});
}

void Append32(Bytes& out, uint32_t value) {
  Append16(out, static_cast<uint16_t>(value >> 16));
  Append16(out, static_cast<uint16_t>(value));
}

// Blanks where the text is too short, cut where it is too long.
void AppendText(Bytes& out, std::string_view text, size_t width) {
  for (size_t i = 0; i < width; ++i) {
    out.push_back(i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{' '});
  }
}

// A length counts what follows it.
void SetLength16(Bytes& bytes) {
  const size_t length = bytes.size() - 2;
  bytes[0] = static_cast<uint8_t>(length >> 8);
  bytes[1] = static_cast<uint8_t>(length);
}

// MMC-5 §4.2.3.7: minute, second and frame of a block; two seconds lie before the first one. What
// does not fit (no CD is that long) is the last time that does.
void AppendMsf(Bytes& out, uint32_t block) {
  const uint64_t frames = uint64_t{block} + 2 * 75;
  if (frames / 75 / 60 > 255) {
    Append(out, {255, 59, 74});
    return;
  }
  Append(out, {static_cast<uint8_t>(frames / 75 / 60), static_cast<uint8_t>(frames / 75 % 60),
               static_cast<uint8_t>(frames % 75)});
}

void AppendAddress(Bytes& out, uint32_t block, AddressForm form) {
  if (form == AddressForm::kLba) {
    Append32(out, block);
  } else {
    out.push_back(0);
    AppendMsf(out, block);
  }
}

struct Feature {
  uint16_t code;
  uint8_t version;
  bool persistent;
  bool current;
  Bytes body;  // A multiple of four bytes.
};

// In rising order of code.
std::vector<Feature> Features(const DriveFacts& facts) {
  const bool cd = facts.cd();
  const bool dvd = facts.dvd();
  const auto flag = [](bool set) { return static_cast<uint8_t>(set ? 1 : 0); };
  std::vector<Feature> features;
  Bytes profiles;
  Append16(profiles, kProfileDvdRom);
  Append(profiles, {flag(dvd), 0});
  Append16(profiles, kProfileCdRom);
  Append(profiles, {flag(cd), 0});
  features.push_back({kFeatureProfiles, 0, true, true, profiles});
  features.push_back({kFeatureCore, 0, true, true, {0, 0, 0, 7}});  // Serial ATAPI.
  features.push_back({kFeatureMorphing, 0, true, true, {0, 0, 0, 0}});
  // A tray that ejects and can be locked.
  features.push_back({kFeatureRemovableMedium, 0, true, true, {0x29, 0, 0, 0}});
  Bytes random;
  Append32(random, kBlockBytes);
  Append16(random, dvd ? 16 : 1);  // Blocks read at once.
  Append(random, {1, 0});          // Its mode page is there.
  features.push_back({kFeatureRandomReadable, 0, false, cd || dvd, random});
  features.push_back({kFeatureMultiRead, 0, false, cd, {}});
  features.push_back({kFeatureCdRead, 2, false, cd, {0, 0, 0, 0}});
  features.push_back({kFeatureDvdRead, 0, false, dvd, {}});
  features.push_back({kFeaturePower, 0, true, true, {}});
  features.push_back({kFeatureTimeout, 0, true, true, {}});
  return features;
}

// MMC-5 §7.3.
Bytes ErrorRecoveryPage() {
  Bytes page = {kPageErrorRecovery, 10, 0, 1};
  page.resize(12);
  return page;
}

// MMC-2 §5.5.2: there is no sound, and its port has no volume.
Bytes AudioControlPage() {
  Bytes page = {kPageAudioControl, 14, 0x04};
  page.resize(16);
  return page;
}

// MMC-3 §5.5.10.
Bytes CapabilitiesPage(const DriveFacts& facts) {
  Bytes page = {kPageCapabilities, 18};
  page.push_back(0x0b);  // Reads CD-R, CD-RW, DVD-ROM,
  page.push_back(0x00);  // writes nothing,
  page.push_back(0x40);  // knows sessions,
  page.push_back(0x00);
  page.push_back(static_cast<uint8_t>(0x29 | (facts.locked ? 0x02 : 0)));
  page.push_back(0x00);
  Append16(page, kSpeed);
  Append16(page, 0);    // Volume levels.
  Append16(page, 256);  // Kilobytes of buffer.
  Append16(page, kSpeed);
  page.resize(20);
  return page;
}

// MMC-3 §5.5.1.
uint8_t MediumType(const DriveFacts& facts) {
  if (facts.tray_open) return 0x71;
  return facts.blocks.has_value() ? 0x01 : 0x70;
}

}  // namespace

Bytes FixedSense(const Sense& sense) {
  Bytes bytes(18);
  bytes[0] = 0x70;  // Of the command before.
  bytes[2] = sense.key;
  bytes[7] = 10;  // More bytes.
  bytes[12] = sense.asc;
  bytes[13] = sense.ascq;
  return bytes;
}

Bytes StandardInquiry(const Identity& identity) {
  Bytes bytes = {kPeripheralCdRom, 0x80 /* removable */, 0x05 /* SPC-3 */, 0x32, 31, 0, 0, 0};
  AppendText(bytes, identity.vendor, 8);
  AppendText(bytes, identity.product, 16);
  AppendText(bytes, identity.revision, 4);
  return bytes;
}

std::optional<Bytes> VitalProductData(uint8_t page, const Identity& identity) {
  Bytes bytes = {kPeripheralCdRom, page, 0, 0};
  switch (page) {
    case 0x00:  // What pages there are.
      Append(bytes, {0x00, 0x80, 0x83});
      break;
    case 0x80:  // Unit serial number.
      AppendText(bytes, identity.serial, std::min<size_t>(identity.serial.size(), 20));
      break;
    case 0x83: {  // Device identification: in ASCII, by a vendor that T10 knows.
      Bytes name;
      AppendText(name, identity.vendor, 8);
      AppendText(name, identity.product, 16);
      AppendText(name, identity.serial, std::min<size_t>(identity.serial.size(), 20));
      Append(bytes, {0x02, 0x01, 0x00, static_cast<uint8_t>(name.size())});
      bytes.insert(bytes.end(), name.begin(), name.end());
      break;
    }
    default:
      return std::nullopt;
  }
  bytes[3] = static_cast<uint8_t>(bytes.size() - 4);
  return bytes;
}

Bytes Capacity(uint32_t blocks) {
  Bytes bytes;
  Append32(bytes, blocks - 1);
  Append32(bytes, kBlockBytes);
  return bytes;
}

std::optional<Bytes> TableOfContents(uint8_t first_track, uint32_t blocks, AddressForm form) {
  if (first_track > 1 && first_track != kLeadOut) return std::nullopt;
  Bytes bytes = {0, 0, 1, 1};
  if (first_track <= 1) {
    Append(bytes, {0, kDataTrack, 1, 0});
    AppendAddress(bytes, 0, form);
  }
  Append(bytes, {0, kDataTrack, kLeadOut, 0});
  AppendAddress(bytes, blocks, form);
  SetLength16(bytes);
  return bytes;
}

Bytes SessionInformation(AddressForm form) {
  Bytes bytes = {0, 0, 1, 1, 0, kDataTrack, 1, 0};
  AppendAddress(bytes, 0, form);
  SetLength16(bytes);
  return bytes;
}

std::optional<Bytes> FullTableOfContents(uint8_t first_session, uint32_t blocks) {
  if (first_session > 1) return std::nullopt;
  Bytes bytes = {0, 0, 1, 1};
  const auto entry = [&bytes](uint8_t point) {
    Append(bytes, {1, kDataTrack, 0, point, 0, 0, 0, 0});
  };
  entry(0xa0);  // The first track, and that this is a CD-ROM.
  Append(bytes, {1, 0, 0});
  entry(0xa1);  // The last track.
  Append(bytes, {1, 0, 0});
  entry(0xa2);  // The lead-out.
  AppendMsf(bytes, blocks);
  entry(1);
  AppendMsf(bytes, 0);
  SetLength16(bytes);
  return bytes;
}

Bytes DiscInformation() {
  Bytes bytes(34);
  bytes[2] = 0x0e;  // The last session and the disc are complete.
  bytes[3] = 1;     // First track; sessions; first and last track of the last one.
  bytes[4] = 1;
  bytes[5] = 1;
  bytes[6] = 1;
  bytes[7] = 0x20;                                    // Of unrestricted use.
  std::fill_n(bytes.begin() + 16, 8, uint8_t{0xff});  // There is nowhere to go on writing.
  SetLength16(bytes);
  return bytes;
}

Bytes Configuration(const DriveFacts& facts, uint16_t first, FeatureChoice choice) {
  Bytes bytes(6);
  Append16(bytes, facts.dvd() ? kProfileDvdRom : facts.cd() ? kProfileCdRom : kProfileNone);
  for (const Feature& feature : Features(facts)) {
    if (feature.code < first) continue;
    if (choice == FeatureChoice::kOne && feature.code != first) continue;
    if (choice == FeatureChoice::kCurrent && !feature.current) continue;
    Append16(bytes, feature.code);
    bytes.push_back(static_cast<uint8_t>(feature.version << 2 | (feature.persistent ? 2 : 0) |
                                         (feature.current ? 1 : 0)));
    bytes.push_back(static_cast<uint8_t>(feature.body.size()));
    bytes.insert(bytes.end(), feature.body.begin(), feature.body.end());
  }
  const size_t length = bytes.size() - 4;
  bytes[2] = static_cast<uint8_t>(length >> 8);
  bytes[3] = static_cast<uint8_t>(length);
  return bytes;
}

std::optional<Bytes> ModePages(const DriveFacts& facts, uint8_t page, ModeValues values) {
  Bytes bytes = {0, 0, MediumType(facts), 0, 0, 0, 0, 0};
  bool found = false;
  for (Bytes body : {ErrorRecoveryPage(), AudioControlPage(), CapabilitiesPage(facts)}) {
    if (page != kPageAll && page != body[0]) continue;
    found = true;
    if (values == ModeValues::kChangeable) std::fill(body.begin() + 2, body.end(), uint8_t{0});
    bytes.insert(bytes.end(), body.begin(), body.end());
  }
  if (!found) return std::nullopt;
  SetLength16(bytes);
  return bytes;
}

Bytes MechanismStatus(const DriveFacts& facts) {
  return {0, static_cast<uint8_t>(facts.tray_open ? 0x10 : 0), 0, 0, 0, 1, 0, 0};
}

Bytes DvdPhysicalFormat(uint32_t blocks) {
  constexpr uint32_t kFirstSector = 0x030000;
  const uint32_t last =
      static_cast<uint32_t>(std::min<uint64_t>(uint64_t{kFirstSector} + blocks - 1, 0xffffff));
  Bytes bytes = {0, 0, 0, 0};
  Append(bytes, {0x01, 0x02, 0x01, 0x00});  // DVD-ROM of 120 mm, 10.08 Mbit/s, one layer, embossed.
  Append32(bytes, kFirstSector);
  Append32(bytes, last);
  bytes.resize(4 + kBlockBytes);
  SetLength16(bytes);
  return bytes;
}

Bytes MediaEvent(const DriveFacts& facts, uint8_t event) {
  const uint8_t status = static_cast<uint8_t>((facts.tray_open ? kMediaTrayOpen : 0) |
                                              (facts.blocks.has_value() ? kMediaPresent : 0));
  return {0, 6, kEventClassMedia, 1 << kEventClassMedia, event, status, 0, 0};
}

Bytes NoSuchEventClass() { return {0, 2, kNoEventAvailable, 1 << kEventClassMedia}; }

}  // namespace vireo::mmc
