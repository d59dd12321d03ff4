// Saved state: what a device, a vCPU or the irqchip hands over when it is saved, and gets back in a
// fresh object. The bytes are little-endian, unaligned, without names; `version` says which fields
// follow in which order.

#ifndef VIREO_BASE_STATE_H_
#define VIREO_BASE_STATE_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace vireo {

struct EncodedState {
  std::string type;  // "virtio-blk", ... : a mix-up of two parts is noticed.
  uint32_t version = 0;
  std::vector<uint8_t> bytes;
};

class StateWriter {
 public:
  void U8(uint8_t value) { Put(value, 1); }
  void U16(uint16_t value) { Put(value, 2); }
  void U32(uint32_t value) { Put(value, 4); }
  void U64(uint64_t value) { Put(value, 8); }
  void I64(int64_t value) { Put(static_cast<uint64_t>(value), 8); }
  void Bool(bool value) { Put(value ? 1 : 0, 1); }
  // A length (U64), then the bytes.
  void Bytes(std::span<const uint8_t> bytes);
  void String(std::string_view text);
  // A part within a part.
  void State(const EncodedState& state);
  std::vector<uint8_t> Finish() { return std::move(bytes_); }

 private:
  void Put(uint64_t value, int bytes);

  std::vector<uint8_t> bytes_;
};

// Errors stick: after the first one every read answers zero or empty, and status() tells. Hostile
// input is safe, a length past the end allocates nothing. `bytes` outlives the reader.
class StateReader {
 public:
  explicit StateReader(std::span<const uint8_t> bytes) : rest_(bytes) {}

  uint8_t U8() { return static_cast<uint8_t>(Get(1)); }
  uint16_t U16() { return static_cast<uint16_t>(Get(2)); }
  uint32_t U32() { return static_cast<uint32_t>(Get(4)); }
  uint64_t U64() { return Get(8); }
  int64_t I64() { return static_cast<int64_t>(Get(8)); }
  bool Bool();  // Anything but 0 and 1 is an error.
  std::vector<uint8_t> Bytes();
  std::string String();
  EncodedState State();
  // For fields whose value is impossible: the first message stays.
  void Fail(std::string_view message);

  // DATA_LOSS: too short, or a value that cannot be.
  const absl::Status& status() const { return status_; }
  // As status(), and DATA_LOSS when bytes are left over.
  absl::Status Finish() const;

 private:
  uint64_t Get(int bytes);
  std::span<const uint8_t> Take(uint64_t bytes);

  std::span<const uint8_t> rest_;
  absl::Status status_;
};

// INVALID_ARGUMENT unless `state` is of this type and of a version in [1, newest].
absl::Status CheckState(const EncodedState& state, std::string_view type, uint32_t newest);

}  // namespace vireo

#endif  // VIREO_BASE_STATE_H_
