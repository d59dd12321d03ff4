#include "storage/qcow2/dirty_bitmap.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/align.h"
#include "base/check.h"

namespace vireo::qcow2 {
namespace {

uint64_t GranulesOf(uint64_t disk_bytes, uint32_t granularity_bits) {
  return DivideRoundUp<uint64_t>(disk_bytes, uint64_t{1} << granularity_bits);
}

}  // namespace

DirtyBitmap::DirtyBitmap(uint64_t disk_bytes, uint32_t granularity_bits)
    : disk_bytes_(disk_bytes),
      granularity_bits_(granularity_bits),
      granules_(GranulesOf(disk_bytes, granularity_bits)),
      pieces_(DivideRoundUp<uint64_t>(granules_, kPieceBits)) {}

uint8_t* DirtyBitmap::Mixed(Piece& piece) {
  if (piece.fill != Fill::kMixed) {
    piece.bytes = std::make_unique<uint8_t[]>(kPieceBytes);
    std::memset(piece.bytes.get(), piece.fill == Fill::kOnes ? 0xff : 0, kPieceBytes);
    piece.fill = Fill::kMixed;
  }
  return piece.bytes.get();
}

void DirtyBitmap::SetBits(uint64_t begin, uint64_t end, bool dirty) {
  end = std::min(end, granules_);
  const Fill fill = dirty ? Fill::kOnes : Fill::kZeros;
  while (begin < end) {
    Piece& piece = pieces_[begin / kPieceBits];
    const uint64_t first = begin % kPieceBits;
    const uint64_t count = std::min(end - begin, kPieceBits - first);
    begin += count;
    if (piece.fill == fill) continue;
    if (count == kPieceBits) {
      piece = {.fill = fill};
      continue;
    }
    uint8_t* const bytes = Mixed(piece);
    for (uint64_t bit = first; bit < first + count;) {
      if (bit % 8 == 0 && first + count - bit >= 8) {
        const uint64_t whole = (first + count - bit) / 8;
        std::memset(bytes + bit / 8, dirty ? 0xff : 0, whole);
        bit += whole * 8;
        continue;
      }
      const auto mask = static_cast<uint8_t>(1u << (bit % 8));
      if (dirty) {
        bytes[bit / 8] |= mask;
      } else {
        bytes[bit / 8] &= static_cast<uint8_t>(~mask);
      }
      ++bit;
    }
  }
}

void DirtyBitmap::SetBytes(uint64_t offset, uint64_t length, bool dirty) {
  if (offset >= disk_bytes_ || length == 0) return;
  const uint64_t end = offset + std::min(length, disk_bytes_ - offset);
  SetBits(offset >> granularity_bits_, ((end - 1) >> granularity_bits_) + 1, dirty);
}

void DirtyBitmap::MarkClean(uint64_t offset, uint64_t length) {
  if (offset >= disk_bytes_ || length == 0) return;
  const uint64_t end = offset + std::min(length, disk_bytes_ - offset);
  const uint64_t granule = uint64_t{1} << granularity_bits_;
  const uint64_t last = end == disk_bytes_ ? granules_ : end >> granularity_bits_;
  SetBits(DivideRoundUp<uint64_t>(offset, granule), last, false);
}

void DirtyBitmap::MarkAllClean() {
  for (Piece& piece : pieces_) piece = {};
}

bool DirtyBitmap::Bit(uint64_t index) const {
  const Piece& piece = pieces_[index / kPieceBits];
  if (piece.fill != Fill::kMixed) return piece.fill == Fill::kOnes;
  const uint64_t bit = index % kPieceBits;
  return (piece.bytes[bit / 8] >> (bit % 8) & 1) != 0;
}

bool DirtyBitmap::IsDirty(uint64_t offset) const {
  return offset < disk_bytes_ && Bit(offset >> granularity_bits_);
}

uint64_t DirtyBitmap::NextBit(uint64_t from, bool dirty) const {
  const Fill fill = dirty ? Fill::kOnes : Fill::kZeros;
  while (from < granules_) {
    const Piece& piece = pieces_[from / kPieceBits];
    const uint64_t piece_end = (from / kPieceBits + 1) * kPieceBits;
    if (piece.fill == fill) return from;
    if (piece.fill != Fill::kMixed) {
      from = piece_end;
      continue;
    }
    for (; from < piece_end && from < granules_;) {
      const uint64_t bit = from % kPieceBits;
      const auto byte = static_cast<uint8_t>(dirty ? piece.bytes[bit / 8] : ~piece.bytes[bit / 8]);
      const auto rest = static_cast<uint8_t>(byte >> (bit % 8));
      if (rest == 0) {
        from += 8 - bit % 8;
        continue;
      }
      from += std::countr_zero(rest);
      return std::min(from, granules_);
    }
  }
  return granules_;
}

std::optional<uint64_t> DirtyBitmap::NextDirty(uint64_t offset) const {
  if (offset >= disk_bytes_) return std::nullopt;
  const uint64_t found = NextBit(offset >> granularity_bits_, true);
  if (found >= granules_) return std::nullopt;
  return std::max(offset, found << granularity_bits_);
}

uint64_t DirtyBitmap::NextClean(uint64_t offset) const {
  if (offset >= disk_bytes_) return disk_bytes_;
  const uint64_t found = NextBit(offset >> granularity_bits_, false);
  if (found >= granules_) return disk_bytes_;
  return std::max(offset, found << granularity_bits_);
}

uint64_t DirtyBitmap::DirtyBytes() const {
  uint64_t bytes = 0;
  for (std::optional<uint64_t> at = NextDirty(0); at.has_value();) {
    const uint64_t end = NextClean(*at);
    bytes += end - *at;
    at = NextDirty(end);
  }
  return bytes;
}

void DirtyBitmap::Merge(const DirtyBitmap& other) {
  VIREO_CHECK(other.disk_bytes_ == disk_bytes_, "bitmaps of one disk");
  for (std::optional<uint64_t> at = other.NextDirty(0); at.has_value();) {
    const uint64_t end = other.NextClean(*at);
    MarkDirty(*at, end - *at);
    at = other.NextDirty(end);
  }
}

void DirtyBitmap::Resize(uint64_t disk_bytes) {
  const uint64_t old_granules = granules_;
  if (disk_bytes < disk_bytes_) {
    SetBits(GranulesOf(disk_bytes, granularity_bits_), old_granules, false);
  }
  disk_bytes_ = disk_bytes;
  granules_ = GranulesOf(disk_bytes, granularity_bits_);
  if (granules_ > old_granules && old_granules % kPieceBits != 0) {
    // A piece that was all ones was so up to the old end only.
    const uint64_t stop = std::min(granules_, AlignUp<uint64_t>(old_granules, kPieceBits));
    SetBits(old_granules, stop, false);
  }
  pieces_.resize(DivideRoundUp<uint64_t>(granules_, kPieceBits));
}

DirtyBitmap::Fill DirtyBitmap::FillOf(uint64_t begin, uint64_t end) const {
  const uint64_t first = std::min(begin * 8, granules_);
  const uint64_t last = std::min(end * 8, granules_);
  if (first >= last || NextBit(first, true) >= last) return Fill::kZeros;
  if (NextBit(first, false) >= last) return Fill::kOnes;
  return Fill::kMixed;
}

void DirtyBitmap::Store(uint64_t begin, std::span<uint8_t> bytes) const {
  std::fill(bytes.begin(), bytes.end(), 0);
  const uint64_t end = std::min(begin + bytes.size(), stored_bytes());
  for (uint64_t at = begin; at < end;) {
    const Piece& piece = pieces_[at / kPieceBytes];
    const uint64_t stop = std::min(end, (at / kPieceBytes + 1) * kPieceBytes);
    uint8_t* const out = bytes.data() + (at - begin);
    if (piece.fill == Fill::kOnes) std::memset(out, 0xff, stop - at);
    if (piece.fill == Fill::kMixed) {
      std::memcpy(out, piece.bytes.get() + at % kPieceBytes, stop - at);
    }
    at = stop;
  }
  if (end == stored_bytes() && end > begin && granules_ % 8 != 0) {
    bytes[end - 1 - begin] &= static_cast<uint8_t>((1u << (granules_ % 8)) - 1);
  }
}

void DirtyBitmap::Load(uint64_t begin, std::span<const uint8_t> bytes) {
  const uint64_t end = std::min(begin + bytes.size(), stored_bytes());
  for (uint64_t at = begin; at < end;) {
    const uint64_t stop = std::min(end, (at / kPieceBytes + 1) * kPieceBytes);
    const std::span<const uint8_t> in = bytes.subspan(at - begin, stop - at);
    Piece& piece = pieces_[at / kPieceBytes];
    const bool zeros = std::all_of(in.begin(), in.end(), [](uint8_t byte) { return byte == 0; });
    if (!zeros || piece.fill != Fill::kZeros) {
      std::memcpy(Mixed(piece) + at % kPieceBytes, in.data(), in.size());
    }
    at = stop;
  }
  // What is stored behind the last granule means nothing and must not come to mean something.
  const uint64_t tail = granules_ % kPieceBits;
  if (tail != 0 && end == stored_bytes() && pieces_.back().fill == Fill::kMixed) {
    uint8_t* const last = pieces_.back().bytes.get();
    if (tail % 8 != 0) last[tail / 8] &= static_cast<uint8_t>((1u << (tail % 8)) - 1);
  }
}

void DirtyBitmap::LoadOnes(uint64_t begin, uint64_t end) { SetBits(begin * 8, end * 8, true); }

}  // namespace vireo::qcow2
