// CD/DVD drives: the AHCI controller that they hang on, their media at the start, and media that
// come and go.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/async/async_mutex.h"
#include "base/mutex.h"
#include "base/status.h"
#include "devices/storage_controllers/ahci.h"
#include "devices/storage_controllers/atapi_cdrom.h"
#include "storage/open_image.h"
#include "vmm/machine.h"
#include "vmm/machine_builder.h"

namespace vireo {
namespace {

constexpr pci::Address kAhciAddress = {.slot = 0x1f, .function = 2};
constexpr uint8_t kIntPinA = 1;

Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> OpenMedium(EventLoop& loop, Opener& opener,
                                                               std::string path) {
  ImageOptions options = {.path = std::move(path), .format = ImageFormat::kRaw, .read_only = true};
  auto opening = OpenImage(loop, opener, std::move(options));
  absl::StatusOr<std::unique_ptr<BlockBackend>> medium = co_await std::move(opening);
  co_return medium;
}

// Opens the media of all drives, or none.
struct MediaToOpen {
  std::vector<std::string> paths;  // Empty: no medium.
  std::vector<std::unique_ptr<BlockBackend>> media;
};

Task<absl::Status> OpenMedia(EventLoop& loop, Opener& opener, MediaToOpen* media) {
  absl::Status status;
  for (size_t i = 0; i < media->paths.size() && status.ok(); ++i) {
    media->media.emplace_back();
    if (media->paths[i].empty()) continue;
    absl::StatusOr<std::unique_ptr<BlockBackend>> medium =
        co_await OpenMedium(loop, opener, media->paths[i]);
    if (medium.ok()) {
      media->media.back() = *std::move(medium);
    } else {
      status = absl::Status(medium.status().code(),
                            absl::StrFormat("cdroms[%d]: %s", i, medium.status().message()));
    }
  }
  if (status.ok()) co_return status;
  for (std::unique_ptr<BlockBackend>& medium : media->media) {
    if (medium != nullptr) (void)co_await medium->Close();  // It was read from, at most.
  }
  co_return status;
}

}  // namespace

Task<absl::Status> MachineBuilder::AttachCdroms() {
  if (m_.config_.cdroms.empty()) co_return absl::OkStatus();
  CO_ASSIGN_OR_RETURN(m_.ahci_loop_, Loop(""));
  MediaToOpen media;
  for (const CdromConfig& config : m_.config_.cdroms) media.paths.push_back(config.path);
  LoopThread::Work open = [this, &media] {
    return OpenMedia(m_.ahci_loop_->loop(), m_.opener_, &media);
  };
  const absl::Status opened = co_await m_.ahci_loop_->Call(m_.control_, std::move(open));
  if (!opened.ok()) co_return opened;

  std::vector<Ahci::Drive> drives;
  for (size_t i = 0; i < m_.config_.cdroms.size(); ++i) {
    m_.cdroms_.push_back(std::make_unique<Machine::Cdrom>());
    Machine::Cdrom& cdrom = *m_.cdroms_.back();
    cdrom.config = m_.config_.cdroms[i];
    cdrom.port = i;
    {
      MutexLock lock(cdrom.mutex);
      cdrom.path = cdrom.config.path;
    }
    Ahci::Drive drive;
    drive.serial = cdrom.config.serial;
    drive.medium = std::move(media.media[i]);
    drive.on_eject = [&cdrom, &events = m_.events_] {
      {
        MutexLock lock(cdrom.mutex);
        cdrom.path.clear();
      }
      events.OnMediumEjected(cdrom.config.id);
    };
    drives.push_back(std::move(drive));
  }
  absl::StatusOr<std::unique_ptr<Ahci>> ahci =
      Ahci::Create({.loop = m_.ahci_loop_->loop(),
                    .memory = *m_.memory_,
                    .address_space = *m_.address_space_,
                    .intx = Line(pci::IntxGsi(kAhciAddress.slot, kIntPinA - 1)),
                    .drives = std::move(drives)});
  CO_RETURN_IF_ERROR(ahci.status());
  m_.ahci_ = *std::move(ahci);
  CO_RETURN_IF_ERROR(m_.pci_->Insert(kAhciAddress, *m_.ahci_));
  m_.functions_.push_back({.address = kAhciAddress,
                           .id = kAhciId,
                           .kind = "ahci",
                           .function = m_.ahci_.get(),
                           .driver_ready = [ahci = m_.ahci_.get()] { return ahci->driver_ready(); },
                           .loop = m_.ahci_loop_});
  co_return absl::OkStatus();
}

// Outlives whoever asked, should the host not answer in time.
struct Machine::MediumChange {
  Cdrom& cdrom;
  std::string path;
  EjectMode mode;
};

Task<absl::Status> Machine::CloseMedia() {
  const AsyncMutex::Guard guard = co_await medium_change_.Lock();
  const absl::Status status = co_await ahci_->Close();
  co_return status;
}

Task<absl::Status> Machine::ChangeMedium(std::shared_ptr<MediumChange> change) {
  const AsyncMutex::Guard guard = co_await medium_change_.Lock();
  std::unique_ptr<BlockBackend> medium;
  if (!change->path.empty()) {
    absl::StatusOr<std::unique_ptr<BlockBackend>> opened =
        co_await OpenMedium(ahci_loop_->loop(), opener_, change->path);
    CO_RETURN_IF_ERROR(opened.status());
    medium = *std::move(opened);
  }
  AtapiCdrom& drive = ahci_->drive(change->cdrom.port);
  if (drive.facts().blocks.has_value() || medium == nullptr) {
    const auto mode = change->mode == EjectMode::kForce ? AtapiCdrom::EjectMode::kForce
                                                        : AtapiCdrom::EjectMode::kAsk;
    absl::StatusOr<std::unique_ptr<BlockBackend>> ejected = co_await drive.Eject(mode);
    // The guest may have been faster.
    const bool gone = !drive.facts().blocks.has_value();
    if (!ejected.ok() && (medium == nullptr || !gone)) {
      if (medium != nullptr) (void)co_await medium->Close();  // Nothing was read from it.
      co_return ejected.status();
    }
    MutexLock lock(change->cdrom.mutex);
    change->cdrom.path.clear();
  }
  if (medium == nullptr) co_return absl::OkStatus();
  const absl::Status inserted = co_await drive.Insert(std::move(medium));
  CO_RETURN_IF_ERROR(inserted);
  MutexLock lock(change->cdrom.mutex);
  change->cdrom.path = change->path;
  co_return absl::OkStatus();
}

Task<absl::Status> Machine::SetMedium(const std::string& id, const std::string& path,
                                      EjectMode mode, absl::Duration limit) {
  Cdrom* found = nullptr;
  for (const std::unique_ptr<Cdrom>& cdrom : cdroms_) {
    if (cdrom->config.id == id) found = cdrom.get();
  }
  if (found == nullptr) {
    co_return absl::NotFoundError(absl::StrFormat("cdrom: there is no drive \"%s\"", id));
  }
  const auto change =
      std::make_shared<MediumChange>(MediumChange{.cdrom = *found, .path = path, .mode = mode});
  LoopThread::Work work = [this, change] { return ChangeMedium(change); };
  const std::optional<absl::Status> changed =
      co_await ahci_loop_->CallWithin(control_, std::move(work), limit);
  if (!changed.has_value()) {
    co_return absl::DeadlineExceededError(
        absl::StrFormat("%s: the host did not answer within %s; the medium may change yet", id,
                        absl::FormatDuration(limit)));
  }
  co_return *changed;
}

}  // namespace vireo
