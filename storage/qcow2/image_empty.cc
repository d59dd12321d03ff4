#include "storage/qcow2/image_empty.h"

#include <memory>
#include <vector>

#include "base/endian.h"
#include "base/status.h"
#include "storage/qcow2/offline_image.h"
#include "storage/qcow2/offline_tables.h"

namespace vireo::qcow2 {

Task<absl::Status> EmptyImage(EventLoop& loop, File& file) {
  absl::StatusOr<std::unique_ptr<OfflineImage>> opened = co_await OfflineImage::Open(loop, file);
  CO_RETURN_IF_ERROR(opened.status());
  OfflineImage& image = **opened;
  const Header& header = image.header();
  CO_ASSIGN_OR_RETURN(const std::vector<Be64> l1,
                      co_await ReadL1Table(file, header.l1_offset, header.l1_entries));
  const std::vector<uint8_t> zeros(l1.size() * sizeof(Be64));
  CO_RETURN_IF_ERROR(co_await image.WriteBytes(header.l1_offset, zeros));
  CO_RETURN_IF_ERROR(co_await image.Sync());
  const absl::Status lowered = co_await image.LowerTree(l1);
  CO_RETURN_IF_ERROR(co_await image.counts().Write());
  CO_RETURN_IF_ERROR(co_await image.CutFile());
  co_return lowered;
}

}  // namespace vireo::qcow2
