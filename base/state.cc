#include "base/state.h"

#include "absl/strings/str_format.h"
#include "base/status.h"

namespace vireo {

void StateWriter::Put(uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) bytes_.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

void StateWriter::Bytes(std::span<const uint8_t> bytes) {
  U64(bytes.size());
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

void StateWriter::String(std::string_view text) {
  Bytes({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

void StateWriter::State(const EncodedState& state) {
  String(state.type);
  U32(state.version);
  Bytes(state.bytes);
}

void StateReader::Fail(std::string_view message) {
  if (status_.ok()) status_ = absl::DataLossError({message.data(), message.size()});
}

std::span<const uint8_t> StateReader::Take(uint64_t bytes) {
  if (!status_.ok()) return {};
  if (bytes > rest_.size()) {
    Fail(absl::StrFormat("state ends early: %d bytes wanted, %d left", bytes, rest_.size()));
    return {};
  }
  const std::span<const uint8_t> taken = rest_.first(bytes);
  rest_ = rest_.subspan(bytes);
  return taken;
}

uint64_t StateReader::Get(int bytes) {
  uint64_t value = 0;
  int shift = 0;
  for (const uint8_t byte : Take(bytes)) {
    value |= static_cast<uint64_t>(byte) << shift;
    shift += 8;
  }
  return value;
}

bool StateReader::Bool() {
  const uint8_t value = U8();
  if (value > 1) Fail(absl::StrFormat("state has %d where a yes or no is", value));
  return status_.ok() && value == 1;
}

std::vector<uint8_t> StateReader::Bytes() {
  const std::span<const uint8_t> bytes = Take(U64());
  return {bytes.begin(), bytes.end()};
}

std::string StateReader::String() {
  const std::span<const uint8_t> bytes = Take(U64());
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

EncodedState StateReader::State() {
  EncodedState state;
  state.type = String();
  state.version = U32();
  state.bytes = Bytes();
  return state;
}

absl::Status StateReader::Finish() const {
  RETURN_IF_ERROR(status_);
  if (!rest_.empty()) {
    return absl::DataLossError(absl::StrFormat("state has %d bytes too many", rest_.size()));
  }
  return absl::OkStatus();
}

absl::Status CheckState(const EncodedState& state, std::string_view type, uint32_t newest) {
  if (state.type != type) {
    return absl::InvalidArgumentError(
        absl::StrFormat("state of a %s where that of a %s is wanted", state.type, type));
  }
  if (state.version < 1 || state.version > newest) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "state of %s has version %d, not within [1, %d]", type, state.version, newest));
  }
  return absl::OkStatus();
}

}  // namespace vireo
