#include "storage/img/copy_bitmaps.h"

#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/img/whole_file.h"
#include "storage/qcow2/bitmap_store.h"
#include "storage/qcow2/dirty_bitmap.h"
#include "storage/qcow2/header_reader.h"

namespace vireo::img {
namespace {

Task<absl::Status> CopyOne(File& source, const qcow2::Header& header, qcow2::BitmapStore& target,
                           qcow2::BitmapRecord record) {
  CO_ASSIGN_OR_RETURN(const qcow2::DirtyBitmap bits,
                      co_await qcow2::LoadBitmap(source, header.layout, record, header.size_bytes));
  CO_RETURN_IF_ERROR(co_await target.Add(record.name, record.granularity_bits, record.enabled()));
  std::vector<qcow2::BitmapStore::Stored> stored = {{record.name, &bits}};
  const absl::Status status = co_await target.Store(std::move(stored));
  co_return status;
}

Task<absl::Status> CopyAll(EventLoop& loop, File& source, File& target,
                           std::vector<qcow2::BitmapRecord> records) {
  CO_ASSIGN_OR_RETURN(const qcow2::Header header,
                      co_await qcow2::ReadHeader(source, qcow2::Access::kReadOnly));
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<qcow2::BitmapStore> store,
                      co_await qcow2::BitmapStore::Open(loop, target));
  for (const qcow2::BitmapRecord& record : records) {
    const absl::Status copied = co_await CopyOne(source, header, *store, record);
    if (!copied.ok()) {
      co_return Annotate(copied, absl::StrFormat("Failed to copy bitmap %s", record.name));
    }
  }
  co_return absl::OkStatus();
}

}  // namespace

Task<absl::StatusOr<std::vector<qcow2::BitmapRecord>>> ListBitmaps(EventLoop& loop, Opener& opener,
                                                                   SourceOptions image) {
  image.no_backing = true;
  image.snapshot.reset();
  CO_ASSIGN_OR_RETURN(const WholeFile whole,
                      co_await OpenWholeFile(loop, opener, std::move(image)));
  std::vector<qcow2::BitmapRecord> none;
  absl::StatusOr<std::vector<qcow2::BitmapRecord>> records = std::move(none);
  if (whole.format == ImageFormat::kQcow2) {
    const absl::StatusOr<qcow2::Header> header =
        co_await qcow2::ReadHeader(*whole.file, qcow2::Access::kReadOnly);
    if (header.ok()) {
      records = co_await qcow2::ReadBitmapDirectory(*whole.file, *header);
    } else {
      records = header.status();
    }
  }
  const absl::Status closed = co_await whole.file->Close();
  CO_RETURN_IF_ERROR(closed);
  co_return records;
}

Task<absl::Status> CopyBitmaps(EventLoop& loop, Opener& opener, SourceOptions source,
                               SourceOptions target, std::vector<qcow2::BitmapRecord> records) {
  source.no_backing = true;
  source.snapshot.reset();
  target.no_backing = true;
  target.read_only = false;
  CO_ASSIGN_OR_RETURN(const WholeFile from,
                      co_await OpenWholeFile(loop, opener, std::move(source)));
  const absl::StatusOr<WholeFile> into = co_await OpenWholeFile(loop, opener, std::move(target));
  absl::Status status = into.status();
  if (into.ok()) {
    status = co_await CopyAll(loop, *from.file, *into->file, std::move(records));
    const absl::Status closed = co_await into->file->Close();
    if (status.ok()) status = closed;
  }
  const absl::Status closed = co_await from.file->Close();
  co_return status.ok() ? closed : status;
}

}  // namespace vireo::img
