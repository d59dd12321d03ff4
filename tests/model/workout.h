// A QCOW2 image under random load, on a host whose power can be cut and whose operations can fail.
//
// A Workout goes through sessions: the image is opened, workers run requests of every kind side by
// side (small, large, aligned, not, on the same few clusters often enough), the image is closed,
// perhaps while they are still at it. Everything that is read on the way is held against a
// SectorHistory. After a session one may look at what any power cut in it would have left, or go on
// from there, or from the closed image.
//
// The first thing that is not as promised is the problem(). Everything that a seed does is the same
// each time: what a disk has threads for, compressing and encrypting, happens on the loop.
//
// One class, a file for each part: requests, snapshots and bitmaps, and what is verified.

#ifndef VIREO_TESTS_MODEL_WORKOUT_H_
#define VIREO_TESTS_MODEL_WORKOUT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/block_backend.h"
#include "storage/qcow2/check.h"
#include "tests/model/bitmap_ledger.h"
#include "tests/model/chance.h"
#include "tests/model/content.h"
#include "tests/model/disk_files.h"
#include "tests/model/disk_shape.h"
#include "tests/model/sector_history.h"
#include "tests/support/faulty_file.h"
#include "tests/support/memory_file.h"

namespace vireo {

class Workout {
 public:
  struct Session {
    uint32_t workers = 6;
    uint32_t steps = 12;  // Of each worker.
    bool close_under_load = false;
    // From this operation of the file on, so many fail.
    std::optional<uint64_t> fail_after;
    int error = 0;
    uint64_t failures = 1;
  };

  Workout(const DiskShape& shape, uint64_t seed);
  ~Workout();

  // From opening to closing.
  void RunSession(const Session& session);
  // Instead, while nobody has the image open: one snapshot is made, deleted or gone back to, or one
  // bitmap made, deleted or changed. Of `session` only the failures count.
  void RunOfflineSession(const Session& session);

  // Of the session that has run:
  uint64_t now() const { return host_->now(); }
  uint64_t operations() const { return host_->operations(); }
  uint64_t steps() const { return steps_; }
  // A digest of what all sessions have done to the files (FaultyHost).
  uint64_t trace() const { return trace_ ^ host_->trace(); }

  // What a power cut at `moment` leaves is sound and holds what was flushed by then.
  void VerifyCut(uint64_t moment, FaultyMedium::Loss loss);
  // So is what the session has left.
  void VerifyLeft();

  // The next session starts from there.
  void ContinueAfterCut(uint64_t moment, FaultyMedium::Loss loss);
  void ContinueAfterClose();

  // Empty while all is well.
  const std::string& problem() const { return problem_; }

 private:
  struct Step;
  // The size of the disk, as it was changed. The first has both moments 0.
  struct SizeChange {
    uint64_t sectors;
    uint64_t began;
    uint64_t ended;
  };

  static constexpr uint64_t kNever = ~uint64_t{0};

  struct Kept {
    std::string id;
    std::vector<uint64_t> tags;
  };
  struct Doubtful {
    Kept kept;
    bool made;               // Else deleted.
    uint64_t done = kNever;  // When that was sure.
  };

  void Problem(const std::string& text);

  void MakeImage();
  DiskFiles::Files FaultyFiles();
  // For the next session, whose disk reads as `tags`.
  void Restart(std::vector<uint8_t> bytes, const std::vector<uint64_t>& tags);

  Task<void> RunWorkers(Session session);
  // A request failed: only a host that fails may do that.
  void Excuse(const char* what, const absl::Status& status);

  // --- Requests ---

  Task<void> Work(uint32_t steps);
  Step PickStep();
  bool MayGrow() const;
  void PickRange(Step& step);
  // Makes it a compressed write of whole clusters.
  void PickClusters(Step& step);
  Task<void> Write(Step step);
  Task<void> Read(Step step);
  Task<void> Change(Step step);  // Zeroing and discarding.
  Task<void> Flush();
  Task<void> Status(Step step);
  Task<void> Resize();
  std::vector<iovec> Split(std::span<uint8_t> bytes);

  // --- Snapshots ---

  absl::Status EditSnapshots(File& file);
  absl::Status CreateSnapshot(File& file);
  absl::Status DeleteSnapshot(File& file);
  absl::Status ApplySnapshot(File& file);
  absl::StatusOr<std::vector<std::string>> SnapshotIds(MemoryMedium& left);
  // The snapshots that ought to be there are, and one of them holds what it did.
  void VerifySnapshots(MemoryMedium& left, uint64_t moment);
  // Which of those that may be there are.
  void FindSnapshots(MemoryMedium& left);

  // --- Bitmaps ---

  // Those that there are at first.
  void MakeBitmaps(MemoryMedium& image);
  absl::Status EditBitmaps(File& file);
  BitmapChanges::Edit PickEdit();
  Task<absl::Status> Perform(File* file, BitmapChanges::Edit edit);
  absl::Status RemoveBitmaps(File& file);
  // Empty if there is a problem.
  std::vector<BitmapState> BitmapsOf(MemoryMedium& left);
  // `found` are those of a disk that holds `tags` after a cut at `moment`.
  void VerifyBitmaps(const std::vector<BitmapState>& found, const std::vector<uint64_t>& tags,
                     uint64_t moment);

  // --- Verifying ---

  // Reads a whole disk that nobody uses. Empty if there is a problem.
  std::vector<uint64_t> ReadTags(BlockBackend& disk);
  void VerifyStatus(BlockBackend& disk, const std::vector<uint64_t>& tags);
  void VerifyTags(const std::vector<uint64_t>& tags, uint64_t moment);
  void VerifySize(uint64_t sectors, uint64_t moment);
  enum class Leaks { kNone, kAllowed };
  void VerifyCheck(MemoryMedium& left, Leaks leaks);
  bool IsDirty(MemoryMedium& left);
  // It takes writes again, and they harm nothing. `tags` is what the disk holds, then and after.
  void WriteAgain(BlockBackend& disk, std::vector<uint64_t>& tags, std::vector<bool>& touched);
  // What a cut leaves of the image and, beside it, of the data file.
  MemoryMedium AfterCut(uint64_t moment, FaultyMedium::Loss loss);
  MemoryMedium AfterClose();
  // Opens `left`, which a cut at `moment` has left, verifies and uses it; answers the tags found.
  std::vector<uint64_t> VerifyMedium(MemoryMedium left, uint64_t moment);

  const DiskShape shape_;
  const uint64_t max_sectors_;
  std::unique_ptr<EventLoop> loop_;
  Chance chance_;
  DiskFiles files_;
  bool leaks_ = false;  // An earlier crash may have left some.
  // A crash among the changes of a snapshot may leave COPIED flags that do not go with counts which
  // are too high. A writer does not mind; a check does.
  bool copied_flags_ = false;
  uint64_t last_request_ = 16;
  uint64_t last_bitmap_ = 0;
  uint64_t steps_ = 0;
  uint64_t trace_ = 0;  // Of sessions before this one.
  std::string problem_;

  // Of one session.
  std::unique_ptr<FaultyHost> host_;
  std::unique_ptr<FaultyMedium> medium_;
  std::unique_ptr<FaultyMedium> backing_medium_;
  std::unique_ptr<FaultyMedium> data_medium_;
  std::unique_ptr<SectorHistory> history_;
  std::vector<SizeChange> sizes_;
  std::vector<uint64_t> tags_;  // At its beginning.
  uint64_t closed_ = kNever;    // When all was durable.
  std::vector<Kept> snapshots_;
  std::optional<Doubtful> doubtful_;  // May be there as well.
  std::vector<BitmapState> bitmaps_;  // At its beginning.
  std::optional<BitmapChanges::Edit> bitmap_edit_;
  uint64_t bitmap_edited_ = kNever;  // When that was sure.
  std::vector<uint64_t> applied_;  // All of the disk holds these, or none of it. Empty: no matter.
  uint64_t sectors_ = 0;           // That requests may use.
  std::unique_ptr<BlockBackend> disk_;
  bool stopping_ = false;
  bool resizing_ = false;
};

}  // namespace vireo

#endif  // VIREO_TESTS_MODEL_WORKOUT_H_
