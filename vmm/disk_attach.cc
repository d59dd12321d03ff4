// Disks: an image file opened and checked, a virtio-blk device on the bus.
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "devices/virtio/block.h"
#include "storage/open_image.h"
#include "vmm/machine_builder.h"

namespace vireo {

Task<absl::Status> MachineBuilder::OpenDisk(EventLoop& loop, const DiskConfig& config,
                                            std::unique_ptr<BlockBackend>* backend) {
  // Two writers of one file would be refused by its lock; two readers, or two names of it, would
  // not be named.
  const absl::StatusOr<FileIdentity> identity =
      co_await IdentifyFile(loop, m_.opener_, config.path);
  if (!identity.ok()) co_return identity.status();
  for (const auto& [other, id] : image_files_) {
    if (other == *identity) {
      co_return absl::InvalidArgumentError(
          absl::StrFormat("%s is the same file as the one of %s", config.path, id));
    }
  }
  image_files_.emplace_back(*identity, config.id);
  const ImageOptions options = {
      .path = config.path,
      .format = config.format == DiskFormat::kQcow2 ? ImageFormat::kQcow2 : ImageFormat::kRaw,
      .read_only = config.read_only,
      .direct = config.direct};
  absl::StatusOr<std::unique_ptr<BlockBackend>> opened =
      co_await OpenImage(loop, m_.opener_, options);
  if (!opened.ok()) co_return opened.status();
  *backend = *std::move(opened);
  co_return absl::OkStatus();
}

Task<absl::Status> MachineBuilder::AttachDisk(size_t index) {
  const DiskConfig& config = m_.config_.disks[index];
  CO_ASSIGN_OR_RETURN(LoopThread* const loop, Loop(config.loop));
  std::unique_ptr<BlockBackend> backend;
  LoopThread::Work open = [this, loop, &config, &backend] {
    return OpenDisk(loop->loop(), config, &backend);
  };
  const absl::Status opened = co_await loop->Call(m_.control_, std::move(open));
  if (!opened.ok()) co_return opened;
  const uint64_t size_bytes = backend->geometry().size_bytes;
  auto device = std::make_unique<virtio::VirtioBlock>(
      loop->loop(), *m_.memory_, std::move(backend),
      virtio::VirtioBlock::Options{.serial = config.serial, .write_cache = config.write_cache});
  m_.disks_.push_back(
      {.config = config, .size_bytes = size_bytes, .device = device.get(), .loop = loop});
  NewFunction f = {.id = config.id, .kind = "virtio-blk", .loop = loop, .slot = config.slot};
  f.device = std::move(device);
  co_return AddFunction(std::move(f));
}

}  // namespace vireo
