// Disks: an image file opened and checked, a virtio-blk device on the bus.
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "devices/virtio/block.h"
#include "storage/crypto/secret_file.h"
#include "storage/open_image.h"
#include "storage/stall_watch.h"
#include "storage/throttled_backend.h"
#include "vmm/disk_throttle.h"
#include "vmm/machine_builder.h"

namespace vireo {
namespace {

virtio::ErrorPolicy PolicyOf(OnDiskError on_error) {
  switch (on_error) {
    case OnDiskError::kReport:
      return virtio::ErrorPolicy::kReport;
    case OnDiskError::kStop:
      return virtio::ErrorPolicy::kStop;
    case OnDiskError::kStopOnNoSpace:
      return virtio::ErrorPolicy::kStopOnNoSpace;
    case OnDiskError::kIgnore:
      break;
  }
  return virtio::ErrorPolicy::kIgnore;
}

std::unique_ptr<BlockBackend> WatchStalls(EventLoop& loop, std::unique_ptr<BlockBackend> backend,
                                          const DiskConfig& config, GuestEvents& events) {
  if (config.on_stall == OnDiskStall::kIgnore) return backend;
  StallWatch::Options options = {.limit = absl::Seconds(config.stall_seconds)};
  const DiskStall disk = {.disk = config.id, .path = config.path};
  options.on_stall = [&events, disk, pause = config.on_stall == OnDiskStall::kPause,
                      seconds = config.stall_seconds](const Stall& oldest) {
    DiskStall stall = disk;
    stall.write = oldest.write;
    stall.offset = oldest.offset;
    stall.seconds = seconds;
    events.OnDiskStalled(std::move(stall), pause);
  };
  options.on_answer = [&events, disk] { events.OnDiskAnswers(disk); };
  return std::make_unique<StallWatch>(loop, std::move(backend), std::move(options));
}

}  // namespace

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
  std::shared_ptr<const Secret> passphrase;
  if (!config.key_file.empty()) {
    Opener* const opener = &m_.opener_;
    auto read = [opener, path = config.key_file]() { return ReadSecretFile(*opener, path); };
    auto reading = loop.OffloadBlocking(std::move(read));
    absl::StatusOr<Secret> secret = co_await std::move(reading);
    if (!secret.ok()) co_return secret.status();
    passphrase = std::make_shared<const Secret>(*std::move(secret));
  }
  ImageOptions options = {
      .path = config.path,
      .format = config.format == DiskFormat::kQcow2 ? ImageFormat::kQcow2 : ImageFormat::kRaw,
      .read_only = config.read_only,
      .direct = config.direct,
      .passphrase = std::move(passphrase)};
  if (config.cache_bytes != 0) options.cache_bytes = config.cache_bytes;
  absl::StatusOr<std::unique_ptr<BlockBackend>> opened =
      co_await OpenImage(loop, m_.opener_, options);
  if (absl::IsUnauthenticated(opened.status())) {
    co_return absl::InvalidArgumentError(absl::StrFormat(
        "%s; key-file= (or key_file) names the file that holds the passphrase of disk %s",
        std::string(opened.status().message()), config.id));
  }
  if (!opened.ok()) co_return opened.status();
  *backend = *std::move(opened);
  co_return absl::OkStatus();
}

std::shared_ptr<ThrottleGroup> MachineBuilder::FindThrottle(const DiskThrottle& throttle) {
  for (const Machine::Disk& disk : m_.disks_) {
    if (!throttle.group.empty() && disk.config.throttle.group == throttle.group) {
      return disk.throttle;
    }
  }
  return std::make_shared<ThrottleGroup>(ThrottleLimitsOf(throttle));
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
  backend = WatchStalls(loop->loop(), std::move(backend), config, m_.events_);
  const std::shared_ptr<ThrottleGroup> throttle = FindThrottle(config.throttle);
  auto throttled =
      std::make_unique<ThrottledBackend>(loop->loop(), std::move(backend), throttle,
                                         std::make_unique<HostThrottleClock>(loop->loop()));
  ThrottledBackend* const throttled_pointer = throttled.get();
  GuestEvents* const events = &m_.events_;
  virtio::VirtioBlock::Options options = {
      .serial = config.serial,
      .write_cache = config.write_cache,
      .on_read_error = PolicyOf(config.on_read_error),
      .on_write_error = PolicyOf(config.on_write_error),
      .on_stop = [events, id = config.id, path = config.path](const virtio::BlockError& error) {
        events->OnDiskFailed({.disk = id,
                              .path = path,
                              .write = error.write,
                              .offset = error.offset,
                              .host_errno = StatusErrno(error.status),
                              .no_space = error.no_space(),
                              .message = std::string(error.status.message())});
      }};
  auto device = std::make_unique<virtio::VirtioBlock>(loop->loop(), *m_.memory_,
                                                      std::move(throttled), std::move(options));
  m_.disks_.push_back({.config = config,
                       .size_bytes = size_bytes,
                       .device = device.get(),
                       .loop = loop,
                       .throttled = throttled_pointer,
                       .throttle = throttle});
  NewFunction f = {.id = config.id, .kind = "virtio-blk", .loop = loop, .slot = config.slot};
  f.legacy = config.legacy;
  f.device = std::move(device);
  co_return AddFunction(std::move(f));
}

}  // namespace vireo
