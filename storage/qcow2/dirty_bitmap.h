// Which granules of a disk were written since somebody last looked: one dirty bitmap, in memory.
//
// Bits are kept in pieces that exist only where they differ from one another: a bitmap of a large
// disk that is all clean, or all dirty, costs next to nothing.

#ifndef VIREO_STORAGE_QCOW2_DIRTY_BITMAP_H_
#define VIREO_STORAGE_QCOW2_DIRTY_BITMAP_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace vireo::qcow2 {

class DirtyBitmap {
 public:
  // A granule has 1 << granularity_bits bytes. All are clean.
  DirtyBitmap(uint64_t disk_bytes, uint32_t granularity_bits);

  uint64_t disk_bytes() const { return disk_bytes_; }
  uint32_t granularity_bits() const { return granularity_bits_; }
  uint64_t granules() const { return granules_; }

  // Every granule that [offset, offset + length) touches. Past the end nothing is there to mark.
  void MarkDirty(uint64_t offset, uint64_t length) { SetBytes(offset, length, true); }
  // Every granule that lies whole inside [offset, offset + length); the last one of the disk counts
  // as whole.
  void MarkClean(uint64_t offset, uint64_t length);
  void MarkAllClean();

  bool IsDirty(uint64_t offset) const;
  // The first dirty byte at or behind `offset`, which is the start of a granule but for `offset`
  // itself; nothing if there is none.
  std::optional<uint64_t> NextDirty(uint64_t offset) const;
  // The same for clean ones, up to the end of the disk.
  uint64_t NextClean(uint64_t offset) const;
  // Bytes of dirty granules, the last one cut at the end of the disk.
  uint64_t DirtyBytes() const;

  // What is dirty in `other` becomes dirty here, too. It is of a disk of the same size; its
  // granules may have another one.
  void Merge(const DirtyBitmap& other);
  // New space is clean.
  void Resize(uint64_t disk_bytes);

  // --- As stored: bit 0 of byte 0 is granule 0 (qcow2 spec, "Bitmap Data") ---

  uint64_t stored_bytes() const { return (granules_ + 7) / 8; }
  enum class Fill { kZeros, kOnes, kMixed };
  // What bytes [begin, end) would hold; bits behind the last granule do not count.
  Fill FillOf(uint64_t begin, uint64_t end) const;
  // Bytes from `begin` on; zeros behind the end.
  void Store(uint64_t begin, std::span<uint8_t> bytes) const;
  // The reverse. Bits behind the last granule are left out.
  void Load(uint64_t begin, std::span<const uint8_t> bytes);
  void LoadOnes(uint64_t begin, uint64_t end);

 private:
  static constexpr uint64_t kPieceBytes = 4096;
  static constexpr uint64_t kPieceBits = kPieceBytes * 8;

  struct Piece {
    Fill fill = Fill::kZeros;
    std::unique_ptr<uint8_t[]> bytes;  // If mixed.
  };

  void SetBytes(uint64_t offset, uint64_t length, bool dirty);
  // Bits [begin, end).
  void SetBits(uint64_t begin, uint64_t end, bool dirty);
  bool Bit(uint64_t index) const;
  // The first bit of [from, granules_) that is `dirty`, or granules_.
  uint64_t NextBit(uint64_t from, bool dirty) const;
  uint8_t* Mixed(Piece& piece);

  uint64_t disk_bytes_;
  uint32_t granularity_bits_;
  uint64_t granules_;
  std::vector<Piece> pieces_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_DIRTY_BITMAP_H_
