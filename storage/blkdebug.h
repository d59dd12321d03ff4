// Faults on request: a File in front of another that fails what its rules say (QEMU's blkdebug,
// docs/devel/blkdebug.rst there).
//
// A rule waits for an event (debug_events.h) in a state; when the event is reached it either makes
// the next requests of a kind fail, changes the state, or holds the request up. States are numbers;
// the first is 1, and a rule for state 0 is for all of them.
//
// Owned by the loop of its file.

#ifndef VIREO_STORAGE_BLKDEBUG_H_
#define VIREO_STORAGE_BLKDEBUG_H_

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/async/async_event.h"
#include "storage/debug_events.h"
#include "storage/driver_options.h"
#include "storage/file_decorator.h"

namespace vireo {

class Blkdebug final : public FileDecorator, public DebugEvents {
 public:
  enum Kind : uint32_t {
    kRead = 1,
    kWrite = 2,
    kWriteZeroes = 4,
    kDiscard = 8,
    kFlush = 16,
    kBlockStatus = 32,
  };
  struct Rule {
    enum class Action { kInjectError, kSetState };

    DebugEvent event = DebugEvent::kNone;
    int64_t state = 0;
    Action action = Action::kInjectError;
    // Of kInjectError.
    int error = 5;  // EIO
    uint32_t kinds = kRead | kWrite | kWriteZeroes | kDiscard | kFlush;
    std::optional<uint64_t> offset;  // Only requests over this byte.
    bool once = false;
    // Of kSetState.
    int64_t new_state = 0;
  };
  // Where "blkdebug: Suspended request 'TAG'" and the like go.
  using Say = std::function<void(const std::string& line)>;

  // The sections of a configuration file ([inject-error], key = "value") as options that Rules()
  // knows. INVALID_ARGUMENT in QEMU's words.
  static absl::StatusOr<DriverOptions> ReadConfig(absl::string_view text);
  // Takes all below "inject-error" and "set-state". INVALID_ARGUMENT in QEMU's words.
  static absl::StatusOr<std::vector<Rule>> Rules(DriverOptions& options);

  Blkdebug(std::unique_ptr<File> file, std::vector<Rule> rules, Say say);

  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  Task<absl::Status> Write(uint64_t offset, IoVecs src) override;
  Task<absl::Status> Sync() override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::StatusOr<FileExtent>> Extent(uint64_t offset) override;
  DebugEvents* debug_events() override { return this; }
  // Lets go of what is held up first.
  Task<absl::Status> Close() override;

  Task<void> Reach(DebugEvent event) override;

  // The next request that reaches `event` is held up, under the name `tag`.
  void Break(DebugEvent event, std::string tag);
  // These let held-up requests go on: one of that name; all of that name, and no more is held up.
  // False if there was nothing to do.
  bool Resume(const std::string& tag);
  bool RemoveBreak(const std::string& tag);
  // All of any name; nothing is held up afterwards. For the end.
  void ResumeAll();
  bool IsSuspended(const std::string& tag) const;

 private:
  struct Breakpoint {
    DebugEvent event;
    std::string tag;
  };
  struct Suspended {
    std::string tag;
    bool resumed = false;
    AsyncEvent resume;
  };

  void Activate(DebugEvent event);
  // The error that the active rules have for a request.
  absl::Status Injected(Kind kind, uint64_t offset, uint64_t length);
  bool ResumeTagged(const std::string& tag, bool all);

  std::list<Rule> rules_;
  std::vector<const Rule*> active_;  // The first one that fits counts.
  int64_t state_ = 1;
  std::vector<Breakpoint> breakpoints_;
  std::list<Suspended> suspended_;  // The latest first.
  const Say say_;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_BLKDEBUG_H_
