#include "storage/qcow2/header_rewrite.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/status.h"

namespace vireo::qcow2 {
namespace {

constexpr size_t kSector = 512;

}  // namespace

Task<absl::Status> RewriteHeader(File& file, Header header) {
  absl::StatusOr<std::vector<uint8_t>> bytes = SerializeHeader(header);
  if (absl::IsResourceExhausted(bytes.status()) && header.has_feature_names) {
    header.has_feature_names = false;
    bytes = SerializeHeader(header);
  }
  CO_RETURN_IF_ERROR(bytes.status());
  std::vector<uint8_t> old(bytes->size());
  const iovec old_part = ToIoVec(std::span<uint8_t>(old));
  CO_RETURN_IF_ERROR(co_await file.Read(0, IoVecs(&old_part, 1)));
  const auto first = std::mismatch(bytes->begin(), bytes->end(), old.begin()).first;
  if (first == bytes->end()) co_return absl::OkStatus();
  const auto last = std::mismatch(bytes->rbegin(), bytes->rend(), old.rbegin()).first;
  const size_t begin = (first - bytes->begin()) / kSector * kSector;
  const size_t end = (bytes->rend() - last + kSector - 1) / kSector * kSector;
  const iovec part = {bytes->data() + begin, end - begin};
  CO_RETURN_IF_ERROR(co_await file.Write(begin, IoVecs(&part, 1)));
  const absl::Status status = co_await file.Sync();
  co_return status;
}

}  // namespace vireo::qcow2
