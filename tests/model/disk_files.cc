#include "tests/model/disk_files.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"
#include "storage/crypto/cipher.h"
#include "storage/crypto/encrypted_file.h"
#include "storage/crypto/luks.h"
#include "storage/crypto/secret.h"
#include "storage/qcow2/cache_budget.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/image.h"
#include "storage/raw_file.h"
#include "tests/model/content.h"

namespace vireo {

using qcow2::CreateImage;
using qcow2::CreateOptions;
using qcow2::Image;

namespace {

// Opening with a passphrase would take longer than all the rest: guest data is encrypted with a key
// that is known, and the image has a LUKS header for its looks.
const std::vector<uint8_t>& LuksArea() {
  static const std::vector<uint8_t>* const area = [] {
    const std::vector<uint8_t> passphrase(8, 'p');
    absl::StatusOr<std::vector<uint8_t>> made =
        crypto::MakeLuksArea({.iteration_ms = 1}, passphrase);
    VIREO_CHECK(made.ok(), made.status().ToString());
    return new std::vector<uint8_t>(*std::move(made));
  }();
  return *area;
}

absl::StatusOr<std::unique_ptr<File>> Encrypted(EventLoop& loop, File& file) {
  const crypto::CipherSpec cipher;
  Secret key(cipher.key_bytes());
  for (size_t i = 0; i < key.size(); ++i) key.bytes()[i] = static_cast<uint8_t>(i * 7);
  return crypto::EncryptedFile::Create(loop, {.file = &file}, cipher, std::move(key));
}

}  // namespace

DiskFiles::DiskFiles(EventLoop& loop, const DiskShape& shape, Chance& chance)
    : loop_(loop), shape_(shape), chance_(chance) {
  MakeBacking();
}

void DiskFiles::MakeBacking() {
  if (shape_.backing == DiskShape::Backing::kNone) return;
  MemoryFile file(loop_, backing_, "backing");
  std::unique_ptr<BlockBackend> disk;
  if (shape_.backing == DiskShape::Backing::kRaw) {
    backing_.bytes.resize(shape_.backing_bytes);
    disk = std::make_unique<RawFile>(std::make_unique<MemoryFile>(loop_, backing_, "backing"),
                                     RawFile::Options{});
  } else {
    VIREO_CHECK(
        loop_.RunTask(CreateImage(file, {.size_bytes = shape_.backing_bytes, .cluster_bits = 13}))
            .ok());
    absl::StatusOr<qcow2::Header> header =
        loop_.RunTask(ReadHeader(file, qcow2::Access::kReadWrite));
    VIREO_CHECK(header.ok());
    Image::Parts parts = {.file = std::make_unique<MemoryFile>(loop_, backing_, "backing")};
    absl::StatusOr<std::unique_ptr<BlockBackend>> image =
        loop_.RunTask(Image::Open(loop_, *std::move(header), std::move(parts), {}));
    VIREO_CHECK(image.ok());
    disk = *std::move(image);
  }
  backing_tags_ = Fill(*disk, 1);
  VIREO_CHECK(loop_.RunTask(disk->Close()).ok());
}

std::vector<uint64_t> DiskFiles::Fill(BlockBackend& disk, uint64_t first_request) {
  std::vector<uint64_t> tags(disk.geometry().size_bytes / kSectorBytes);
  // Data and holes of all lengths take turns.
  uint64_t sector = 0;
  while (sector < tags.size()) {
    const uint64_t longest = chance_.OneIn(3) ? 300 : 20;
    const uint64_t count = std::min<uint64_t>(1 + chance_.Below(longest), tags.size() - sector);
    if (!chance_.OneIn(3)) {
      std::vector<uint8_t> bytes(count * kSectorBytes);
      for (uint64_t i = 0; i < count; ++i) {
        tags[sector + i] = MakeTag(first_request, sector + i, Noise::kNo);
        FillSector(tags[sector + i], std::span(bytes).subspan(i * kSectorBytes, kSectorBytes));
      }
      const iovec part = ToIoVec(std::span<uint8_t>(bytes));
      VIREO_CHECK(loop_.RunTask(disk.Write(sector * kSectorBytes, IoVecs(&part, 1))).ok());
    }
    sector += count;
  }
  return tags;
}

MemoryMedium DiskFiles::MakeImage() {
  MemoryMedium made;
  MemoryFile file(loop_, made);
  CreateOptions options = shape_.options;
  options.size_bytes = shape_.disk_bytes;
  if (shape_.encrypted) options.luks_area = LuksArea();
  if (shape_.backing != DiskShape::Backing::kNone) {
    options.backing_file = "backing";
    options.backing_format = shape_.backing == DiskShape::Backing::kRaw ? "raw" : "qcow2";
  }
  MemoryFile data(loop_, data_, "data");
  const absl::Status created =
      loop_.RunTask(CreateImage(file, options, options.data_file.has_value() ? &data : nullptr));
  VIREO_CHECK(created.ok(), created.ToString());
  return made;
}

Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> DiskFiles::OpenBacking(
    std::unique_ptr<File> file, std::shared_ptr<qcow2::CacheBudget> budget) {
  if (shape_.backing == DiskShape::Backing::kRaw) {
    std::unique_ptr<BlockBackend> raw =
        std::make_unique<RawFile>(std::move(file), RawFile::Options{.read_only = true});
    co_return raw;
  }
  CO_ASSIGN_OR_RETURN(qcow2::Header header, co_await ReadHeader(*file, qcow2::Access::kReadOnly));
  Image::Parts parts = {.file = std::move(file)};
  Image::Options options = {.read_only = true, .cache_budget = std::move(budget)};
  absl::StatusOr<std::unique_ptr<BlockBackend>> image =
      co_await Image::Open(loop_, std::move(header), std::move(parts), options);
  co_return image;
}

Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> DiskFiles::OpenTask(Files files,
                                                                        bool read_only) {
  const qcow2::Access access = read_only ? qcow2::Access::kReadOnly : qcow2::Access::kReadWrite;
  absl::StatusOr<qcow2::Header> header = co_await ReadHeader(*files.image, access);
  CO_RETURN_IF_ERROR(header.status());
  Image::Parts parts = {.file = std::move(files.image)};
  if (shape_.encrypted) {
    CO_ASSIGN_OR_RETURN(parts.data, Encrypted(loop_, *parts.file));
  }
  if (header->layout.external_data) parts.data = std::move(files.data);
  // Small caches evict, and bring commits forward; a backing file takes its share.
  const auto budget = std::make_shared<qcow2::CacheBudget>(uint64_t{16 << 10} << chance_.Below(7));
  if (shape_.backing != DiskShape::Backing::kNone) {
    CO_ASSIGN_OR_RETURN(parts.backing, co_await OpenBacking(std::move(files.backing), budget));
  }
  Image::Options options = {
      .read_only = read_only, .cache_budget = budget, .commit_age = absl::InfiniteDuration()};
  absl::StatusOr<std::unique_ptr<BlockBackend>> image =
      co_await Image::Open(loop_, *std::move(header), std::move(parts), options);
  co_return image;
}

DiskFiles::Files DiskFiles::FilesOf(MemoryMedium& image) {
  return {.image = std::make_unique<MemoryFile>(loop_, image),
          .backing = std::make_unique<MemoryFile>(loop_, backing_, "backing"),
          .data = std::make_unique<MemoryFile>(loop_, data_, "data")};
}

absl::StatusOr<std::vector<uint64_t>> DiskFiles::ReadTags(BlockBackend& disk) {
  std::vector<uint64_t> tags(disk.geometry().size_bytes / kSectorBytes);
  std::vector<uint8_t> bytes(tags.size() * kSectorBytes);
  const iovec part = ToIoVec(std::span<uint8_t>(bytes));
  RETURN_IF_ERROR(loop_.RunTask(disk.Read(0, IoVecs(&part, 1))));
  for (uint64_t i = 0; i < tags.size(); ++i) {
    const std::optional<uint64_t> tag =
        TagOf(std::span(bytes).subspan(i * kSectorBytes, kSectorBytes));
    if (!tag.has_value()) return absl::DataLossError(absl::StrFormat("sector %d holds a mix", i));
    tags[i] = *tag;
  }
  return tags;
}

}  // namespace vireo
