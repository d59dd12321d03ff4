// A disk that can be handed to another process and taken back, as a migration does it.
//
//   active --Inactivate()--> inactive --Activate()--> active
//
// Inactive, everything is durable and closed and no lock is held: another process, on another host
// perhaps, may open the image, change it and lock it. Activate() opens it anew, so that whatever
// has changed meanwhile (tables, the header, the size) is what this process goes on with. Owned by
// one loop.

#ifndef VIREO_STORAGE_HAND_OVER_DISK_H_
#define VIREO_STORAGE_HAND_OVER_DISK_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/opener.h"
#include "storage/block_backend.h"
#include "storage/in_flight.h"
#include "storage/open_image.h"

namespace vireo {

class HandOverDisk final : public BlockBackend {
 public:
  enum class Start {
    kActive,
    // Only looked at, without locks, for its geometry: the other process still has it.
    kInactive,
  };

  // `loop` and `opener` outlive the disk. As OpenImage().
  static Task<absl::StatusOr<std::unique_ptr<HandOverDisk>>> Open(EventLoop& loop, Opener& opener,
                                                                  ImageOptions options,
                                                                  Start start);

  bool active() const { return disk_ != nullptr; }
  // Waits for what is in flight, makes everything durable and gives the image away. OK when it is
  // inactive already. After an error the disk is inactive too, and what was not durable is lost.
  Task<absl::Status> Inactivate();
  // Takes it back. OK when active already. ABORTED while another has it locked, and otherwise as
  // OpenImage(): the disk then stays inactive, and this may be tried again.
  Task<absl::Status> Activate();

  // As the disk was last seen.
  const Geometry& geometry() const override { return geometry_; }
  // FAILED_PRECONDITION, all of them, while inactive.
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  using BlockBackend::Write;
  Task<absl::Status> Write(uint64_t offset, IoVecs src, WriteFlags flags) override;
  Task<absl::Status> WriteCompressed(uint64_t offset, IoVecs src) override;
  Task<absl::Status> Flush() override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) override;
  Task<absl::StatusOr<RangeStatus>> Status(uint64_t offset, uint64_t length) override;
  Task<absl::Status> Resize(uint64_t size_bytes) override;
  void SetHurry(bool hurry) override;
  // Inactive, there is nothing left to do.
  Task<absl::Status> Close() override;

 private:
  HandOverDisk(EventLoop& loop, Opener& opener, ImageOptions options)
      : loop_(loop), opener_(opener), options_(std::move(options)) {}

  absl::Status GivenAway() const;

  EventLoop& loop_;
  Opener& opener_;
  const ImageOptions options_;
  Geometry geometry_;
  std::unique_ptr<BlockBackend> disk_;  // Null while inactive.
  bool leaving_ = false;                // Inactivate() or Close() waits.
  InFlight in_flight_;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_HAND_OVER_DISK_H_
