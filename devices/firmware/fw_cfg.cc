#include "devices/firmware/fw_cfg.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/log.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr std::string_view kStateType = "fw-cfg";
constexpr uint32_t kStateVersion = 1;

constexpr uint64_t kSelector = 0;
constexpr uint64_t kData = 1;
constexpr uint64_t kDmaHigh = 4;
constexpr uint64_t kDmaLow = 8;

// Bits of a key: asked for writing (which nothing here can), and of this architecture. The second
// is part of an item's name.
constexpr uint16_t kWriteChannel = 1 << 14;

constexpr uint64_t kWindowBytes = 64 << 10;

constexpr uint32_t kTraditional = 1 << 0;
constexpr uint32_t kDma = 1 << 1;
constexpr std::string_view kSignatureText = "QEMU";
constexpr std::string_view kDmaSignature = "QEMU CFG";

struct DmaRequest {
  Be32 control;
  Be32 length;
  Be64 address;
};
static_assert(sizeof(DmaRequest) == 16);

// Control. The selector, if bit 3 asks for it, is in the upper half. All zero when done.
constexpr uint32_t kError = 1 << 0;
constexpr uint32_t kRead = 1 << 1;
constexpr uint32_t kSkip = 1 << 2;
constexpr uint32_t kSelect = 1 << 3;
constexpr uint32_t kWrite = 1 << 4;

struct DirectoryEntry {
  Be32 size;
  Be16 key;
  Be16 reserved;
  char name[FwCfg::kNameBytes];
};
static_assert(sizeof(DirectoryEntry) == 64);

template <typename T>
std::span<const uint8_t> BytesOf(const T& object) {
  return {reinterpret_cast<const uint8_t*>(&object), sizeof(T)};
}

uint32_t BigEndian32(std::span<const uint8_t> bytes) {
  Be32 value;
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

}  // namespace

FwCfg::FwCfg(GuestMemory& memory) : memory_(memory) {
  SetItem(kSignature, {kSignatureText.begin(), kSignatureText.end()});
  SetNumber(kInterfaces, kTraditional | kDma, 4);
  SetItem(kFiles, std::vector<uint8_t>(sizeof(Be32)));
}

void FwCfg::SetItem(uint16_t key, std::vector<uint8_t> bytes) {
  VIREO_CHECK((key & kWriteChannel) == 0, "a key is without the flag that asks for writing");
  const MutexLock lock(mutex_);
  items_[key] = {.bytes = std::move(bytes)};
}

void FwCfg::SetItem(uint16_t key, uint64_t bytes, ReadPart read) {
  VIREO_CHECK((key & kWriteChannel) == 0, "a key is without the flag that asks for writing");
  const MutexLock lock(mutex_);
  items_[key] = {.bytes = {}, .read = std::move(read), .read_bytes = bytes};
}

void FwCfg::SetNumber(uint16_t key, uint64_t value, size_t bytes) {
  std::vector<uint8_t> number(bytes);
  for (size_t i = 0; i < bytes; ++i) number[i] = static_cast<uint8_t>(value >> (8 * i));
  SetItem(key, std::move(number));
}

absl::Status FwCfg::AddFile(const std::string& name, std::vector<uint8_t> bytes) {
  return AddItemAsFile(name, {.bytes = std::move(bytes)});
}

absl::Status FwCfg::AddFile(const std::string& name,
                            absl::AnyInvocable<std::vector<uint8_t>()> make) {
  std::vector<uint8_t> bytes = make();
  return AddItemAsFile(name, {.bytes = std::move(bytes), .make = std::move(make)});
}

absl::Status FwCfg::AddItemAsFile(const std::string& name, Item item) {
  if (name.empty() || name.size() >= kNameBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("fw_cfg: \"%s\" is no name of 1 to %d bytes", name, kNameBytes - 1));
  }
  const MutexLock lock(mutex_);
  for (const File& file : files_) {
    if (file.name == name) {
      return absl::AlreadyExistsError(absl::StrFormat("fw_cfg: there is a file %s", name));
    }
  }
  const auto key = static_cast<uint16_t>(kFirstFile + files_.size());
  VIREO_CHECK(key < kWriteChannel, "there are few files");
  files_.push_back({.name = name, .key = key});
  items_[key] = std::move(item);

  std::vector<uint8_t>& directory = items_[kFiles].bytes;
  const Be32 count = static_cast<uint32_t>(files_.size());
  std::memcpy(directory.data(), &count, sizeof(count));
  DirectoryEntry entry = {};
  entry.size = static_cast<uint32_t>(items_[key].bytes.size());
  entry.key = key;
  std::memcpy(entry.name, name.data(), name.size());
  const std::span<const uint8_t> bytes = BytesOf(entry);
  directory.insert(directory.end(), bytes.begin(), bytes.end());
  return absl::OkStatus();
}

void FwCfg::Select(uint16_t key) {
  selected_ = key & static_cast<uint16_t>(~kWriteChannel);
  offset_ = 0;
  window_ = {};
  const auto found = items_.find(selected_);
  if (found == items_.end() || found->second.make == nullptr) return;
  std::vector<uint8_t> bytes = found->second.make();
  VIREO_CHECK(bytes.size() == found->second.bytes.size(), "the directory has told its size");
  found->second.bytes = std::move(bytes);
}

uint64_t FwCfg::SelectedSize() const {
  const auto found = items_.find(selected_);
  return found == items_.end() ? 0 : found->second.size();
}

absl::StatusOr<std::span<const uint8_t>> FwCfg::Next() {
  const auto found = items_.find(selected_);
  if (found == items_.end()) return std::span<const uint8_t>();
  Item& item = found->second;
  if (item.read == nullptr) return std::span<const uint8_t>(item.bytes).subspan(offset_);
  if (offset_ < window_offset_ || offset_ >= window_offset_ + window_.size()) {
    window_.resize(std::min<uint64_t>(kWindowBytes, item.read_bytes - offset_));
    window_offset_ = offset_;
    const absl::Status status = item.read(offset_, window_);
    if (!status.ok()) {
      window_.clear();
      if (log_limit_.Allow()) LogError("fw_cfg: item %#x: %s", selected_, status.message());
      return status;
    }
  }
  return std::span<const uint8_t>(window_).subspan(offset_ - window_offset_);
}

bool FwCfg::CopyOut(uint64_t address, uint32_t length) {
  if (!memory_.Contains(GuestAddress(address), length)) return false;
  uint64_t done = 0;
  while (done < length) {
    const absl::StatusOr<std::span<const uint8_t>> next = Next();
    if (!next.ok()) return false;
    if (next->empty()) break;
    const std::span<const uint8_t> part =
        next->first(std::min<uint64_t>(next->size(), length - done));
    if (!memory_.Write(GuestAddress(address + done), part).ok()) return false;
    done += part.size();
    offset_ += part.size();
  }
  return memory_.Fill(GuestAddress(address + done), 0, length - done).ok();
}

void FwCfg::RunDma(GuestAddress at) {
  const absl::StatusOr<DmaRequest> request = memory_.ReadObject<DmaRequest>(at);
  // Who puts a request where there is no RAM hears nothing of it.
  if (!request.ok()) return;
  const uint32_t control = request->control;
  const uint32_t length = request->length;
  if ((control & kSelect) != 0) Select(static_cast<uint16_t>(control >> 16));
  bool good = true;
  if ((control & kRead) != 0) {
    good = length == 0 || CopyOut(request->address, length);
  } else if ((control & kWrite) != 0) {
    good = length == 0;  // No item takes any.
  } else if ((control & kSkip) != 0) {
    offset_ += std::min<uint64_t>(SelectedSize() - offset_, length);
  }
  // The request was read from there, and RAM stays.
  (void)memory_.WriteObject(at, Be32(good ? 0 : kError));
}

void FwCfg::Read(uint64_t offset, std::span<uint8_t> data) {
  std::ranges::fill(data, uint8_t{0xff});
  const MutexLock lock(mutex_);
  for (size_t i = 0; i < data.size(); ++i) {
    const uint64_t at = offset + i;
    if (at == kData) {
      const absl::StatusOr<std::span<const uint8_t>> next = Next();
      const bool has_byte = next.ok() && !next->empty();
      data[i] = has_byte ? (*next)[0] : 0;
      if (has_byte) ++offset_;
    } else if (at >= kDmaHigh && at < kDmaHigh + kDmaSignature.size()) {
      data[i] = static_cast<uint8_t>(kDmaSignature[at - kDmaHigh]);
    }
  }
}

std::shared_ptr<Parking> FwCfg::Write(uint64_t offset, std::span<const uint8_t> data) {
  const MutexLock lock(mutex_);
  // Each register takes accesses of its own width; other writes are to nothing.
  if (offset == kSelector && data.size() == 2) {
    Select(static_cast<uint16_t>(data[0] | data[1] << 8));
  } else if (offset == kDmaHigh && data.size() == 4) {
    dma_high_ = BigEndian32(data);
  } else if (offset == kDmaLow && data.size() == 4) {
    const uint64_t address = uint64_t{std::exchange(dma_high_, 0)} << 32 | BigEndian32(data);
    RunDma(GuestAddress(address));
  }
  return nullptr;
}

Task<void> FwCfg::Quiesce() { co_return; }

Task<void> FwCfg::Reset() {
  const MutexLock lock(mutex_);
  selected_ = 0;
  offset_ = 0;
  window_ = {};
  dma_high_ = 0;
  co_return;
}

EncodedState FwCfg::Save() const {
  const MutexLock lock(mutex_);
  StateWriter writer;
  writer.U16(selected_);
  writer.U64(offset_);
  writer.U32(dma_high_);
  return {.type = std::string(kStateType), .version = kStateVersion, .bytes = writer.Finish()};
}

absl::Status FwCfg::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  StateReader reader(state.bytes);
  const uint16_t selected = reader.U16();
  const uint64_t offset = reader.U64();
  const uint32_t dma_high = reader.U32();
  if ((selected & kWriteChannel) != 0) reader.Fail("impossible key");
  RETURN_IF_ERROR(reader.Finish());
  const MutexLock lock(mutex_);
  Select(selected);
  if (offset > SelectedSize()) {
    return absl::DataLossError(
        absl::StrFormat("fw-cfg: offset %d lies past the end of item %#x", offset, selected));
  }
  offset_ = offset;
  dma_high_ = dma_high;
  return absl::OkStatus();
}

}  // namespace vireo
