// Files in memory whose power can be cut and whose operations can fail.
//
// A FaultyMedium records every write with the moments at which it began and ended, and every flush.
// AfterPowerCut() answers what the medium may hold if the power goes at a moment: what was flushed
// is there; each of the rest is there, is not, or is torn at sector boundaries. As any subset may
// be there, so may any order: of the writes to one sector since its last flush, each can be the one
// that is found. All media of one FaultyHost (an image and its data file) lose their power together
// and share the count of operations.

#ifndef VIREO_TESTS_SUPPORT_FAULTY_FILE_H_
#define VIREO_TESTS_SUPPORT_FAULTY_FILE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/async/event_loop.h"
#include "storage/file.h"

namespace vireo {

// What media share: time, chance, and the plan of what fails.
class FaultyHost {
 public:
  explicit FaultyHost(uint32_t seed) : random_(seed) {}

  // Moments: each call answers a later one.
  uint64_t Tick() { return ++now_; }
  uint64_t now() const { return now_; }

  // What a failed write has written.
  enum class Written {
    kAny,    // Some of it: its first bytes, or some of its sectors, or nothing.
    kShort,  // Its first half, to the end of a sector.
  };
  // After `successes` more operations the next `times` fail with `error` (an errno).
  void FailAfter(uint64_t successes, int error, uint64_t times = 1,
                 Written written = Written::kAny) {
    fail_from_ = operations_ + successes;
    fail_until_ = fail_from_ + times;
    error_ = error;
    written_ = written;
  }
  bool failed() const { return failed_; }
  // One of those that failed was a flush: what is durable is not known any more.
  bool flush_failed() const { return flush_failed_; }
  uint64_t operations() const { return operations_; }
  // A digest of which operations there were, in their order, and where in which file, but not of
  // what was written: two runs that do the same have the same.
  uint64_t trace() const { return trace_; }

 private:
  friend class FaultyFile;
  friend class FaultyMedium;

  struct Performed {
    uint64_t kind;
    uint64_t inode;
    uint64_t offset;
    uint64_t length;
  };
  // An errno if this operation is one to fail, else 0.
  int NextOperation(const Performed& operation);

  std::mt19937 random_;
  uint64_t now_ = 0;
  uint64_t operations_ = 0;
  uint64_t trace_ = 0;
  uint64_t fail_from_ = 0;
  uint64_t fail_until_ = 0;
  int error_ = 0;
  Written written_ = Written::kAny;
  bool failed_ = false;
  bool flush_failed_ = false;
};

class FaultyMedium {
 public:
  // `bytes` are durable. `host` outlives the medium.
  FaultyMedium(std::vector<uint8_t> bytes, FaultyHost& host)
      : host_(host), initial_(bytes), bytes_(std::move(bytes)) {}
  // With a host of its own.
  FaultyMedium(std::vector<uint8_t> bytes, uint32_t seed)
      : own_host_(std::make_unique<FaultyHost>(seed)),
        host_(*own_host_),
        initial_(bytes),
        bytes_(std::move(bytes)) {}

  FaultyHost& host() { return host_; }
  uint64_t Tick() { return host_.Tick(); }
  uint64_t now() const { return host_.now(); }
  void FailAfter(uint64_t successes, int error) { host_.FailAfter(successes, error); }
  bool failed() const { return host_.failed(); }
  uint64_t operations() const { return host_.operations(); }

  // As the running system sees it.
  const std::vector<uint8_t>& bytes() const { return bytes_; }
  // How many writes, zeroings and changes of size there were.
  size_t changes() const { return changes_.size(); }

  enum class Loss {
    kAll,     // Nothing that was not flushed is there.
    kNone,    // All of it is.
    kRandom,  // Any of it is, whole.
    kTorn,    // Any of it is, in any of its sectors.
  };
  std::vector<uint8_t> AfterPowerCut(uint64_t moment, Loss loss, std::mt19937& random) const;

 private:
  friend class FaultyFile;

  static constexpr uint64_t kNever = ~uint64_t{0};

  struct Change {
    uint64_t began;
    uint64_t ended = kNever;
    uint64_t offset = 0;
    std::vector<uint8_t> bytes;
    std::optional<uint64_t> new_size;  // Instead of bytes.
  };
  struct Flush {
    uint64_t began;
    uint64_t ended;
  };

  static void Apply(const Change& change, std::vector<uint8_t>& bytes);
  // The sectors of a change that `random` picks, each a change of its own.
  static std::vector<Change> Tear(const Change& change, std::mt19937& random);
  // What a failed write has done.
  std::vector<Change> PartOf(const Change& change) const;

  const std::unique_ptr<FaultyHost> own_host_;
  FaultyHost& host_;
  std::vector<uint8_t> initial_;
  std::vector<uint8_t> bytes_;
  std::vector<Change> changes_;  // In the order in which they began.
  std::vector<Flush> flushes_;   // In the order in which they ended.
};

class FaultyFile final : public File {
 public:
  // Both outlive the file.
  FaultyFile(EventLoop& loop, FaultyMedium& medium, std::string name = "faulty", uint64_t inode = 1)
      : loop_(loop), medium_(medium), name_(std::move(name)), inode_(inode) {}

  const std::string& name() const override { return name_; }
  const FileTraits& traits() const override { return traits_; }
  FileIdentity identity() const override { return {.device = 2, .inode = inode_}; }
  uint64_t size() const override { return medium_.bytes_.size(); }
  absl::StatusOr<uint64_t> AllocatedBytes() override { return medium_.bytes_.size(); }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  Task<absl::Status> Write(uint64_t offset, IoVecs src) override;
  Task<absl::Status> Sync() override;
  Task<absl::Status> Extend(uint64_t size) override;
  Task<absl::Status> Truncate(uint64_t size) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::StatusOr<FileExtent>> Extent(uint64_t offset) override;
  Task<absl::Status> Close() override { co_return absl::OkStatus(); }

 private:
  // Others get in between.
  Task<void> Delay();
  Task<absl::Status> Perform(FaultyMedium::Change change);

  EventLoop& loop_;
  FaultyMedium& medium_;
  const std::string name_;
  const uint64_t inode_;
  const FileTraits traits_;
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_FAULTY_FILE_H_
