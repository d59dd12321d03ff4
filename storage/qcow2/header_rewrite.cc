#include "storage/qcow2/header_rewrite.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_reader.h"

namespace vireo::qcow2 {
namespace {

constexpr size_t kSector = 512;

using Bytes = std::vector<uint8_t>;

// Whole sectors, by their bytes in the cluster.
struct Sectors {
  size_t begin = 0;
  size_t end = 0;

  size_t size() const { return end - begin; }
};

Sectors SectorsOf(size_t begin, size_t end) {
  return {AlignDown(begin, kSector), AlignUp(end, kSector)};
}

// From the first difference to the last, of two clusters.
Sectors Difference(const Bytes& a, const Bytes& b) {
  const auto first = std::mismatch(a.begin(), a.end(), b.begin()).first;
  if (first == a.end()) return {};
  const auto last = std::mismatch(a.rbegin(), a.rend(), b.rbegin()).first;
  return SectorsOf(first - a.begin(), a.rend() - last);
}

Task<absl::Status> WriteSectors(File& file, Bytes& bytes, Sectors sectors) {
  const iovec part = {bytes.data() + sectors.begin, sectors.size()};
  const absl::Status status = co_await file.Write(sectors.begin, IoVecs(&part, 1));
  co_return status;
}

// From the first to the last that is used behind the first sector of a cluster.
Sectors UsedBehindFirst(const Bytes& cluster) {
  Bytes unused(cluster.size());
  std::copy(cluster.begin(), cluster.begin() + kSector, unused.begin());
  return Difference(cluster, unused);
}

bool Apart(Sectors a, Sectors b) {
  return a.size() == 0 || b.size() == 0 || a.end <= b.begin || b.end <= a.begin;
}

// The header with everything in its first sector but, if that takes it, the backing file's name,
// which is then where `old` has nothing.
std::optional<Bytes> FirstSectorDecides(Header header, const Bytes& old) {
  header.has_feature_names = false;
  const size_t end = HeaderExtensionsEnd(header);
  if (end > kSector) return std::nullopt;
  const size_t name_bytes = header.backing_file.has_value() ? header.backing_file->size() : 0;
  size_t place = 0;
  if (end + name_bytes > kSector) {
    const Sectors used = UsedBehindFirst(old);
    place = kSector;
    if (used.size() > 0 && place + name_bytes > used.begin) place = used.end;
  }
  absl::StatusOr<Bytes> bytes = SerializeHeader(header, place);
  if (!bytes.ok()) return std::nullopt;
  return *std::move(bytes);
}

// `old` is what the file holds; behind the first sector `bytes` has nothing where `old` has
// something.
Task<absl::Status> WriteByFirstSector(File& file, Bytes bytes, Bytes old) {
  const Sectors name = UsedBehindFirst(bytes);
  if (name.size() > 0) {
    CO_RETURN_IF_ERROR(co_await WriteSectors(file, bytes, name));
    CO_RETURN_IF_ERROR(co_await file.Sync());
  }
  CO_RETURN_IF_ERROR(co_await WriteSectors(file, bytes, {0, kSector}));
  CO_RETURN_IF_ERROR(co_await file.Sync());
  // What nothing refers to any more makes room for the next change, but may as well stay.
  std::copy(bytes.begin() + name.begin, bytes.begin() + name.end, old.begin() + name.begin);
  std::copy(bytes.begin(), bytes.begin() + kSector, old.begin());
  const Sectors rest = Difference(bytes, old);
  if (rest.size() > 0) (void)co_await WriteSectors(file, bytes, rest);
  co_return absl::OkStatus();
}

}  // namespace

Task<absl::Status> RewriteHeader(File& file, Header header) {
  absl::StatusOr<Bytes> bytes = SerializeHeader(header);
  if (absl::IsResourceExhausted(bytes.status()) && header.has_feature_names) {
    header.has_feature_names = false;
    bytes = SerializeHeader(header);
  }
  CO_RETURN_IF_ERROR(bytes.status());
  Bytes old(bytes->size());
  const iovec old_part = ToIoVec(std::span<uint8_t>(old));
  CO_RETURN_IF_ERROR(co_await file.Read(0, IoVecs(&old_part, 1)));
  const Sectors change = Difference(*bytes, old);
  if (change.size() == 0) co_return absl::OkStatus();
  if (change.size() > kSector) {
    std::optional<Bytes> decided;
    if (Apart(UsedBehindFirst(*bytes), UsedBehindFirst(old))) {
      decided = *bytes;
    } else {
      decided = FirstSectorDecides(std::move(header), old);
    }
    if (decided.has_value()) {
      const absl::Status status =
          co_await WriteByFirstSector(file, *std::move(decided), std::move(old));
      co_return status;
    }
  }
  CO_RETURN_IF_ERROR(co_await WriteSectors(file, *bytes, change));
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
