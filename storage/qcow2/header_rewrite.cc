#include "storage/qcow2/header_rewrite.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_reader.h"

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

Task<absl::Status> ChangeBackingFile(File& file, std::optional<std::string> name,
                                     std::string format) {
  CO_ASSIGN_OR_RETURN(Header header, co_await ReadHeader(file, Access::kReadWrite));
  if (name.has_value() && (name->empty() || name->size() > kMaxBackingNameBytes)) {
    co_return absl::InvalidArgumentError(
        absl::StrFormat("a backing file's name has 1 to %d bytes", kMaxBackingNameBytes));
  }
  if (format.size() > kMaxBackingFormatBytes) {
    co_return absl::InvalidArgumentError(
        absl::StrFormat("a backing file's format has at most %d bytes", kMaxBackingFormatBytes));
  }
  header.backing_file = std::move(name);
  header.backing_format = std::move(format);
  // What nobody keeps up is promised no more; bitmaps that do not count go.
  header.autoclear &= kAutoclearBitmaps | kAutoclearRawDataFile;
  if ((header.autoclear & kAutoclearBitmaps) == 0) header.bitmaps.reset();
  const absl::Status status = co_await RewriteHeader(file, std::move(header));
  co_return status;
}

}  // namespace vireo::qcow2
