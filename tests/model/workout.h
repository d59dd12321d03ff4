// A QCOW2 image under random load, on a host whose power can be cut and whose operations can fail.
//
// A Workout goes through sessions: the image is opened, workers run requests of every kind side by
// side (small, large, aligned, not, on the same few clusters often enough), the image is closed,
// perhaps while they are still at it. Everything that is read on the way is held against a
// SectorHistory. After a session one may look at what any power cut in it would have left, or go on
// from there, or from the closed image.
//
// The first thing that is not as promised is the problem(); everything that a seed does is the same
// each time.

#ifndef VIREO_TESTS_MODEL_WORKOUT_H_
#define VIREO_TESTS_MODEL_WORKOUT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/block_backend.h"
#include "storage/qcow2/cache_budget.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"
#include "tests/model/content.h"
#include "tests/model/sector_history.h"
#include "tests/support/faulty_file.h"
#include "tests/support/memory_file.h"

namespace vireo {

struct DiskShape {
  enum class Backing { kNone, kRaw, kQcow2 };

  const char* name;
  qcow2::CreateOptions options;  // Without size and backing file.
  uint64_t disk_bytes = 1 << 20;
  Backing backing = Backing::kNone;
  uint64_t backing_bytes = 0;
  // The image starts with content that an internal snapshot shares, and more of them come and go.
  bool snapshots = false;
  bool encrypted = false;
  uint64_t cost = 1;  // Of a step, in those of others: tests do that much less.
};

std::ostream& operator<<(std::ostream& out, const DiskShape& shape);

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
  // Instead: one snapshot is made, deleted or gone back to. Of `session` only the failures count.
  void RunSnapshotSession(const Session& session);

  // Of the session that has run:
  uint64_t now() const { return host_->now(); }
  uint64_t operations() const { return host_->operations(); }
  uint64_t steps() const { return steps_; }

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
  uint64_t Below(uint64_t limit) { return random_() % limit; }
  bool OneIn(uint64_t n) { return random_() % n == 0; }

  void MakeBacking();
  void MakeImage();
  // Content that was there before the first session.
  std::vector<uint64_t> Fill(BlockBackend& disk, uint64_t first_request);

  // Those of one disk; what its image does not have is not opened.
  struct Files {
    std::unique_ptr<File> image;
    std::unique_ptr<File> backing;
    std::unique_ptr<File> data;
  };
  Files FilesOf(MemoryMedium& image);
  Files FaultyFiles();
  Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> OpenBacking(
      std::unique_ptr<File> file, std::shared_ptr<qcow2::CacheBudget> budget);
  Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> OpenTask(Files files, bool read_only);
  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(Files files, bool read_only) {
    return loop_->RunTask(OpenTask(std::move(files), read_only));
  }
  // For the next session, whose disk reads as `tags`.
  void Restart(std::vector<uint8_t> bytes, const std::vector<uint64_t>& tags);

  Task<void> RunWorkers(Session session);
  absl::Status CreateSnapshot(File& file);
  absl::Status DeleteSnapshot(File& file);
  absl::Status ApplySnapshot(File& file);
  absl::StatusOr<std::vector<std::string>> SnapshotIds(MemoryMedium& left);
  Task<void> Work(uint32_t steps);
  Step PickStep();
  void PickRange(Step& step);
  Task<void> Write(Step step);
  Task<void> Read(Step step);
  Task<void> Change(Step step);  // Zeroing and discarding.
  Task<void> Flush();
  Task<void> Status(Step step);
  Task<void> Resize(Step step);
  std::vector<iovec> Split(std::span<uint8_t> bytes);
  // A request failed: only a host that fails may do that.
  void Excuse(const char* what, const absl::Status& status);

  // Reads a whole disk that nobody uses. Empty if there is a problem.
  std::vector<uint64_t> ReadTags(BlockBackend& disk);
  void VerifyStatus(BlockBackend& disk, const std::vector<uint64_t>& tags);
  void VerifyTags(const std::vector<uint64_t>& tags, uint64_t moment);
  void VerifySize(uint64_t sectors, uint64_t moment);
  enum class Leaks { kNone, kAllowed };
  void VerifyCheck(MemoryMedium& left, Leaks leaks);
  bool IsDirty(MemoryMedium& left);
  // The snapshots that ought to be there are, and one of them holds what it did.
  void VerifySnapshots(MemoryMedium& left, uint64_t moment);
  // Which of those that may be there are.
  void FindSnapshots(MemoryMedium& left);
  // Opens `left`, which a cut at `moment` has left, verifies and uses it; answers the tags found.
  std::vector<uint64_t> VerifyMedium(MemoryMedium left, uint64_t moment);

  const DiskShape shape_;
  const uint64_t max_sectors_;
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  std::mt19937_64 random_;
  MemoryMedium backing_;
  MemoryMedium data_ = {.inode = 3};  // Beside an image that lies in memory.
  std::vector<uint64_t> backing_tags_;
  bool leaks_ = false;  // An earlier crash may have left some.
  // A crash among the changes of a snapshot may leave COPIED flags that do not go with counts which
  // are too high. A writer does not mind; a check does.
  bool copied_flags_ = false;
  uint64_t last_request_ = 16;
  uint64_t steps_ = 0;
  std::string problem_;

  // Of one session.
  std::unique_ptr<FaultyHost> host_;
  std::unique_ptr<FaultyMedium> medium_;
  std::unique_ptr<FaultyMedium> backing_medium_;
  std::unique_ptr<FaultyMedium> data_medium_;
  std::unique_ptr<SectorHistory> history_;
  std::vector<SizeChange> sizes_;
  std::vector<uint64_t> tags_;  // At its beginning.
  std::vector<Kept> snapshots_;
  std::optional<Doubtful> doubtful_;  // May be there as well.
  std::vector<uint64_t> applied_;  // All of the disk holds these, or none of it. Empty: no matter.
  uint64_t sectors_ = 0;           // That requests may use.
  std::unique_ptr<BlockBackend> disk_;
  bool stopping_ = false;
  bool resizing_ = false;
};

// What tests print with every problem, and read from the environment: VIREO_SEED is the first seed
// ("random": another one each time), VIREO_EFFORT multiplies what a test does (in percent).
uint64_t FirstSeed();
uint64_t Scaled(uint64_t amount, const DiskShape& shape);

}  // namespace vireo

#endif  // VIREO_TESTS_MODEL_WORKOUT_H_
