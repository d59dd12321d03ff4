#include "storage/crypto/encrypted_file.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"

namespace vireo::crypto {
namespace {

constexpr uint64_t kBounceBytes = 256 << 10;
// Smaller ones are ciphered sooner than another thread wakes up.
constexpr size_t kOffloadBytes = 32 << 10;

}  // namespace

absl::StatusOr<std::unique_ptr<File>> EncryptedFile::Create(EventLoop& loop, Parts parts,
                                                            const CipherSpec& cipher, Secret key) {
  // Whatever can be wrong with the key is found now.
  ASSIGN_OR_RETURN(CipherHandle first, SectorCipher::Create(cipher, key.bytes()));
  std::unique_ptr<EncryptedFile> file(
      new EncryptedFile(loop, std::move(parts), cipher, std::move(key)));
  file->ciphers_.push_back(std::move(first));
  return file;
}

EncryptedFile::EncryptedFile(EventLoop& loop, Parts parts, const CipherSpec& cipher, Secret key)
    : loop_(loop),
      owned_(std::move(parts.owned)),
      file_(owned_ == nullptr ? *parts.file : *owned_),
      cipher_(cipher),
      key_(std::move(key)),
      traits_(file_.traits()) {
  traits_.alignment = std::max<uint32_t>(traits_.alignment, kSectorBytes);
  traits_.zero_filled = false;
}

absl::StatusOr<EncryptedFile::CipherHandle> EncryptedFile::TakeCipher() {
  if (ciphers_.empty()) return SectorCipher::Create(cipher_, key_.bytes());
  CipherHandle cipher = std::move(ciphers_.back());
  ciphers_.pop_back();
  return cipher;
}

Task<absl::Status> EncryptedFile::Apply(Direction direction, uint64_t offset,
                                        std::span<uint8_t> bytes) {
  CO_ASSIGN_OR_RETURN(CipherHandle handle, TakeCipher());
  SectorCipher* const cipher = handle.get();
  const uint64_t sector = offset / kSectorBytes;
  auto apply = [cipher, direction, sector, bytes]() {
    if (direction == Direction::kEncrypt) {
      cipher->Encrypt(sector, bytes, bytes);
    } else {
      cipher->Decrypt(sector, bytes, bytes);
    }
  };
  if (bytes.size() < kOffloadBytes) {
    apply();
  } else {
    auto applying = loop_.Offload(std::move(apply));
    co_await std::move(applying);
  }
  ciphers_.push_back(std::move(handle));
  co_return absl::OkStatus();
}

Task<absl::Status> EncryptedFile::ReadSectors(uint64_t offset, std::span<uint8_t> bytes) {
  const iovec part = ToIoVec(bytes);
  CO_RETURN_IF_ERROR(co_await file_.Read(offset, IoVecs(&part, 1)));
  const absl::Status status = co_await Apply(Direction::kDecrypt, offset, bytes);
  co_return status;
}

Task<absl::Status> EncryptedFile::Read(uint64_t offset, IoVecs dst) {
  const uint64_t end = offset + TotalSize(dst);
  const uint64_t first = AlignDown<uint64_t>(offset, kSectorBytes);
  const uint64_t last = AlignUp<uint64_t>(end, kSectorBytes);
  if (end == offset) co_return absl::OkStatus();
  BufferPool::Buffer buffer = buffers_.Get(std::min(last - first, kBounceBytes));
  uint64_t done = 0;
  for (uint64_t at = first; at < last; at += buffer.size()) {
    const std::span<uint8_t> piece =
        buffer.bytes().first(std::min<uint64_t>(buffer.size(), last - at));
    CO_RETURN_IF_ERROR(co_await ReadSectors(at, piece));
    const uint64_t skip = at < offset ? offset - at : 0;
    done += CopyToIoVecs(piece.subspan(skip), dst, done);
  }
  co_return absl::OkStatus();
}

Task<absl::Status> EncryptedFile::Write(uint64_t offset, IoVecs src) {
  const uint64_t length = TotalSize(src);
  const std::optional<uint64_t> padded_end = CheckedAdd(offset, length + kSectorBytes);
  if (!padded_end.has_value()) {
    co_return absl::OutOfRangeError(
        absl::StrFormat("%s: no file holds %d bytes at offset %d", name(), length, offset));
  }
  if (length == 0) co_return absl::OkStatus();
  const uint64_t end = offset + length;
  const uint64_t first = AlignDown<uint64_t>(offset, kSectorBytes);
  const uint64_t last = AlignUp<uint64_t>(end, kSectorBytes);
  const RangeLock::Guard guard =
      co_await sectors_.Lock(first / kSectorBytes, last / kSectorBytes - 1);
  BufferPool::Buffer buffer = buffers_.Get(std::min(last - first, kBounceBytes));
  uint64_t done = 0;
  for (uint64_t at = first; at < last; at += buffer.size()) {
    const uint64_t stop = std::min<uint64_t>(at + buffer.size(), last);
    const std::span<uint8_t> piece = buffer.bytes().first(stop - at);
    const uint64_t skip = at < offset ? offset - at : 0;
    const uint64_t used = std::min(end, stop) - (at + skip);
    if (skip != 0) {  // The first sector keeps its head.
      CO_RETURN_IF_ERROR(co_await ReadSectors(at, piece.first(kSectorBytes)));
    }
    if (stop > end && !(skip != 0 && piece.size() == kSectorBytes)) {  // The last its tail.
      CO_RETURN_IF_ERROR(co_await ReadSectors(stop - kSectorBytes, piece.last(kSectorBytes)));
    }
    done += CopyFromIoVecs(src, piece.subspan(skip, used), done);
    CO_RETURN_IF_ERROR(co_await Apply(Direction::kEncrypt, at, piece));
    const iovec part = ToIoVec(piece);
    CO_RETURN_IF_ERROR(co_await file_.Write(at, IoVecs(&part, 1)));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> EncryptedFile::WriteZeroes(uint64_t offset, uint64_t length,
                                              bool /*may_unmap*/) {
  std::vector<iovec> parts;
  while (length > 0) {
    const uint64_t piece = std::min(length, kBounceBytes);
    parts.clear();
    AppendZeros(piece, parts);
    CO_RETURN_IF_ERROR(co_await Write(offset, parts));
    offset += piece;
    length -= piece;
  }
  co_return absl::OkStatus();
}

Task<absl::Status> EncryptedFile::Discard(uint64_t /*offset*/, uint64_t /*length*/) {
  co_return absl::OkStatus();
}

Task<absl::StatusOr<FileExtent>> EncryptedFile::Extent(uint64_t offset) {
  co_return FileExtent{.data = true, .length = size() > offset ? size() - offset : 0};
}

Task<absl::Status> EncryptedFile::Close() {
  if (owned_ == nullptr) co_return absl::OkStatus();
  const absl::Status status = co_await owned_->Close();
  co_return status;
}

}  // namespace vireo::crypto
