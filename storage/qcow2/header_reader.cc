#include "storage/qcow2/header_reader.h"

#include <algorithm>
#include <vector>

#include "base/status.h"

namespace vireo::qcow2 {

Task<absl::StatusOr<Header>> ReadHeader(File& file, Access access) {
  std::vector<uint8_t> bytes(std::min<uint64_t>(file.size(), 4096));
  const iovec head = ToIoVec(std::span<uint8_t>(bytes));
  if (!bytes.empty()) CO_RETURN_IF_ERROR(co_await file.Read(0, IoVecs(&head, 1)));
  CO_ASSIGN_OR_RETURN(const uint64_t cluster_bytes, HeaderClusterBytes(file.name(), bytes));
  const uint64_t wanted = std::min(cluster_bytes, file.size());
  if (wanted > bytes.size()) {
    bytes.resize(wanted);
    const iovec whole = ToIoVec(std::span<uint8_t>(bytes));
    CO_RETURN_IF_ERROR(co_await file.Read(0, IoVecs(&whole, 1)));
  }
  co_return ParseHeader(file.name(), std::span(bytes).first(wanted), file.size(), access);
}

}  // namespace vireo::qcow2
