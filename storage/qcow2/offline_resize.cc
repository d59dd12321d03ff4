#include "storage/qcow2/offline_resize.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/endian.h"
#include "base/status.h"
#include "storage/buffer_pool.h"
#include "storage/qcow2/bitmap_store.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/offline_image.h"
#include "storage/qcow2/offline_tables.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kZeroPieceBytes = 1 << 20;

std::span<const uint8_t> BytesOf(const Be64& value) {
  return {reinterpret_cast<const uint8_t*>(&value), sizeof(value)};
}

// `data` comes with an image that has one.
absl::Status CheckDataFile(OfflineImage& image, const File* data) {
  const bool external = (image.header().incompatible & kIncompatibleDataFile) != 0;
  if (external == (data != nullptr)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      external ? "%s: 'data-file' is required for this image"
               : "%s: 'data-file' can only be set for images with an external data file",
      image.file().name()));
}

// Makes room for a few L2 tables of the range at a time.
class Preallocator {
 public:
  // `data` is the external data file, or null.
  Preallocator(OfflineImage& image, File* data, Preallocation mode)
      : image_(image), data_(data), mode_(mode) {}

  Task<absl::Status> Run(uint64_t begin, uint64_t end) {
    const Layout& layout = image_.layout();
    const Header& header = image_.header();
    CO_ASSIGN_OR_RETURN(l1_,
                        co_await ReadL1Table(image_.file(), header.l1_offset, header.l1_entries));
    CO_RETURN_IF_ERROR(TablesOf(image_.file(), layout, l1_).status());
    const uint64_t step = TableWindow::Size(layout) * layout.guest_bytes_per_l2();
    for (uint64_t at = begin; at < end;) {
      const uint64_t stop =
          std::min(end, AlignDown<uint64_t>(at, layout.guest_bytes_per_l2()) + step);
      CO_RETURN_IF_ERROR(co_await Fill(at, stop));
      at = stop;
    }
    co_return absl::OkStatus();
  }

 private:
  struct Table {
    uint64_t l1_index;
    uint64_t offset;  // Where it will be.
    std::vector<uint8_t> bytes;
    uint64_t replaced = 0;  // The shared table that it is a copy of.
  };

  Task<absl::Status> LoadTable(uint64_t l1_index, Table* table) {
    const Layout& layout = image_.layout();
    table->l1_index = l1_index;
    table->bytes.resize(layout.cluster_bytes());
    const uint64_t entry = l1_[l1_index];
    const uint64_t old = entry & kEntryOffsetMask;
    if (old != 0) {
      const iovec part = ToIoVec(std::span<uint8_t>(table->bytes));
      CO_RETURN_IF_ERROR(co_await image_.file().Read(old, IoVecs(&part, 1)));
      table->offset = old;
      CO_ASSIGN_OR_RETURN(const uint64_t count,
                          co_await image_.counts().Get(layout.cluster_index(old)));
      if (count == 1) co_return absl::OkStatus();
      // Shared with a snapshot: a copy. What both refer to was counted once for each tree already.
      table->replaced = old;
    }
    CO_ASSIGN_OR_RETURN(table->offset, co_await image_.counts().Allocate(1));
    co_return absl::OkStatus();
  }

  // Entries of `table` within [begin, end) that get a host cluster: from `next` on, if not 0; in a
  // data file each has the place that it has on the disk.
  uint64_t Assign(Table& table, uint64_t begin, uint64_t end, uint64_t* next) {
    const Layout& layout = image_.layout();
    uint64_t count = 0;
    for (uint64_t at = begin; at < end; at += layout.cluster_bytes()) {
      uint8_t* const entry = table.bytes.data() + layout.l2_index(at) * layout.l2_entry_bytes;
      Be64 raw;
      std::memcpy(&raw, entry, sizeof(raw));
      if ((raw & kEntryOffsetMask) != 0 || (raw & kEntryCompressed) != 0) continue;
      ++count;
      if (*next == 0) continue;
      raw = (data_ != nullptr ? at : *next) | kEntryCopied;
      std::memcpy(entry, &raw, sizeof(raw));
      if (layout.l2_entry_bytes == 16) {
        const Be64 all_allocated(0xffffffff);
        std::memcpy(entry + sizeof(raw), &all_allocated, sizeof(all_allocated));
      }
      *next += layout.cluster_bytes();
    }
    return count;
  }

  Task<absl::Status> Fill(uint64_t begin, uint64_t end) {
    const Layout& layout = image_.layout();
    const uint64_t per_table = layout.guest_bytes_per_l2();
    std::vector<Table> tables(layout.l1_index(end - 1) - layout.l1_index(begin) + 1);
    uint64_t wanted = 0;
    uint64_t none = 0;
    for (size_t i = 0; i < tables.size(); ++i) {
      const uint64_t index = layout.l1_index(begin) + i;
      CO_RETURN_IF_ERROR(co_await LoadTable(index, &tables[i]));
      wanted += Assign(tables[i], std::max(begin, index * per_table),
                       std::min(end, (index + 1) * per_table), &none);
    }
    if (data_ != nullptr) {
      CO_RETURN_IF_ERROR(co_await PrepareSpace(*data_, begin, end - begin));
      uint64_t next = ~uint64_t{0};
      for (Table& table : tables) {
        Assign(table, std::max(begin, table.l1_index * per_table),
               std::min(end, (table.l1_index + 1) * per_table), &next);
      }
      CO_RETURN_IF_ERROR(co_await data_->Sync());
    } else if (wanted > 0) {
      // Behind the end of a file nothing has ever been: it reads as zeros.
      CO_ASSIGN_OR_RETURN(const uint64_t data, co_await image_.counts().AllocateAtEnd(wanted));
      CO_RETURN_IF_ERROR(co_await PrepareSpace(image_.file(), data, wanted << layout.cluster_bits));
      uint64_t next = data;
      for (Table& table : tables) {
        Assign(table, std::max(begin, table.l1_index * per_table),
               std::min(end, (table.l1_index + 1) * per_table), &next);
      }
    }
    CO_RETURN_IF_ERROR(co_await image_.counts().Write());
    CO_RETURN_IF_ERROR(co_await image_.Sync());
    for (const Table& table : tables) {
      CO_RETURN_IF_ERROR(co_await image_.WriteBytes(table.offset, table.bytes));
    }
    CO_RETURN_IF_ERROR(co_await image_.Sync());
    std::vector<ClusterRun> replaced;
    for (const Table& table : tables) {
      l1_[table.l1_index] = table.offset | kEntryCopied;
      if (table.replaced != 0) replaced.push_back({layout.cluster_index(table.replaced), 1});
      CO_RETURN_IF_ERROR(co_await image_.WriteBytes(
          image_.header().l1_offset + table.l1_index * sizeof(Be64), BytesOf(l1_[table.l1_index])));
    }
    CO_RETURN_IF_ERROR(co_await image_.Sync());
    if (replaced.empty()) co_return absl::OkStatus();
    CO_RETURN_IF_ERROR(co_await image_.counts().Lower(replaced));
    CO_RETURN_IF_ERROR(co_await image_.counts().Write());
    const absl::Status status = co_await image_.Sync();
    co_return status;
  }

  Task<absl::Status> PrepareSpace(File& file, uint64_t offset, uint64_t length) {
    uint64_t end = offset + length;
    // A data file ends where the disk does.
    if (data_ != nullptr) end = std::min(end, image_.header().size_bytes);
    if (end > file.size() && mode_ == Preallocation::kMetadata) {
      CO_RETURN_IF_ERROR(co_await file.Truncate(end));
    } else if (end > file.size()) {
      CO_RETURN_IF_ERROR(co_await file.Extend(end));
    }
    if (data_ != nullptr && mode_ != Preallocation::kFull) {
      // It may have been longer than its disk, and holes in it have no space yet.
      const bool may_unmap = mode_ == Preallocation::kMetadata;
      CO_RETURN_IF_ERROR(co_await file.WriteZeroes(offset, end - offset, may_unmap));
    }
    if (data_ == nullptr && mode_ != Preallocation::kFull && !file.traits().growable) {
      const bool may_unmap = mode_ == Preallocation::kMetadata;
      CO_RETURN_IF_ERROR(co_await file.WriteZeroes(offset, length, may_unmap));
    }
    if (mode_ != Preallocation::kFull) co_return absl::OkStatus();
    std::vector<iovec> zeros;
    AppendZeros(kZeroPieceBytes, zeros);
    for (uint64_t at = offset; at < end; at += kZeroPieceBytes) {
      const IoVecList piece = Slice(zeros, 0, std::min(kZeroPieceBytes, end - at));
      CO_RETURN_IF_ERROR(co_await file.Write(at, piece));
    }
    co_return absl::OkStatus();
  }

  OfflineImage& image_;
  File* const data_;
  const Preallocation mode_;
  std::vector<Be64> l1_;
};

// What the table of the new last cluster says of clusters behind the end, which are gone.
Task<absl::Status> ForgetBehindEnd(OfflineImage& image, const std::vector<Be64>& l1,
                                   uint64_t size_bytes) {
  const Layout& layout = image.layout();
  const uint64_t end = AlignUp<uint64_t>(size_bytes, layout.cluster_bytes());
  const uint64_t index = layout.l1_index(end);
  if (end % layout.guest_bytes_per_l2() == 0 || index >= l1.size()) co_return absl::OkStatus();
  const uint64_t table = l1[index] & kEntryOffsetMask;
  if (table == 0) co_return absl::OkStatus();
  const uint64_t begin = layout.l2_index(end) * layout.l2_entry_bytes;
  const std::vector<uint8_t> zeros(layout.cluster_bytes() - begin);
  const absl::Status written = co_await image.WriteBytes(table + begin, zeros);
  co_return written;
}

}  // namespace

Task<absl::Status> ShrinkImage(EventLoop& loop, File& file, File* data, uint64_t size_bytes) {
  absl::StatusOr<std::unique_ptr<BitmapStore>> store = co_await BitmapStore::Open(loop, file);
  CO_RETURN_IF_ERROR(store.status());
  OfflineImage& image = (*store)->image();
  Header& header = image.header();
  const Layout& layout = image.layout();
  CO_RETURN_IF_ERROR(CheckDataFile(image, data));
  if (layout.version < 3 && header.snapshot_count > 0) {
    co_return absl::UnimplementedError("Can't resize a v2 image which has snapshots");
  }
  // Marked in use until they have the new size.
  CO_ASSIGN_OR_RETURN(std::vector<DirtyBitmap> bitmaps, co_await (*store)->TakeAll());

  CO_ASSIGN_OR_RETURN(std::vector<Be64> l1,
                      co_await ReadL1Table(file, header.l1_offset, header.l1_entries));
  const uint64_t kept = std::min<uint64_t>(layout.l1_entries_for(size_bytes), l1.size());
  const std::vector<Be64> dropped(l1.begin() + kept, l1.end());
  const std::vector<uint8_t> zeros(dropped.size() * sizeof(Be64));
  CO_RETURN_IF_ERROR(co_await image.WriteBytes(header.l1_offset + kept * sizeof(Be64), zeros));
  CO_RETURN_IF_ERROR(co_await image.Sync());
  const Be64 size(size_bytes);
  CO_RETURN_IF_ERROR(co_await image.WriteBytes(kSizeFieldOffset, BytesOf(size)));
  CO_RETURN_IF_ERROR(co_await image.Sync());
  header.size_bytes = size_bytes;

  const absl::Status lowered = co_await image.LowerTree(dropped);
  CO_RETURN_IF_ERROR(co_await image.counts().Write());
  std::vector<BitmapStore::Stored> stored;
  for (size_t i = 0; i < bitmaps.size(); ++i) {
    bitmaps[i].Resize(size_bytes);
    stored.push_back({.name = (*store)->records()[i].name, .bits = &bitmaps[i]});
  }
  if (!stored.empty()) CO_RETURN_IF_ERROR(co_await (*store)->Store(std::move(stored)));
  CO_RETURN_IF_ERROR(co_await image.CutFile());
  // In a data file nothing else is counted that these entries refer to.
  if (data != nullptr) CO_RETURN_IF_ERROR(co_await ForgetBehindEnd(image, l1, size_bytes));
  if (data != nullptr && lowered.ok() && data->traits().growable) {
    CO_RETURN_IF_ERROR(co_await data->Truncate(size_bytes));
    CO_RETURN_IF_ERROR(co_await data->Sync());
  }
  co_return lowered;
}

Task<absl::Status> PreallocateRange(EventLoop& loop, File& file, File* data, uint64_t begin,
                                    uint64_t end, Preallocation mode) {
  if (begin >= end) co_return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<OfflineImage>> image = co_await OfflineImage::Open(loop, file);
  CO_RETURN_IF_ERROR(image.status());
  CO_RETURN_IF_ERROR(CheckDataFile(**image, data));
  if ((*image)->header().encryption.has_value()) {
    co_return absl::UnimplementedError(absl::StrFormat(
        "%s: space that is only set aside would not decrypt to zeros", file.name()));
  }
  Preallocator preallocator(**image, data, mode);
  const absl::Status status = co_await preallocator.Run(begin, end);
  co_return status;
}

}  // namespace vireo::qcow2
