// A guest's disk, an image on a host one of whose operations fails: each operation in turn, with
// each error, under each policy. What the guest is told and what the watcher hears is what the
// policy says; a machine that was stopped goes on as if nothing had happened; and the image stays
// sound, with all that the guest knows to be there.

#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/check.h"
#include "base/status.h"
#include "devices/virtio/block.h"
#include "devices/virtio/spec.h"
#include "storage/block_backend.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/image.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/faulty_file.h"
#include "tests/support/memory_file.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kSectors = 1024;
constexpr int kRounds = 6;
constexpr uint64_t kAtOnce = 4;  // Requests of a round; each has a part of the disk of its own.

struct Failure {
  const char* name;
  int error;
  FaultyHost::Written written = FaultyHost::Written::kAny;
};

struct Row {
  const char* name;
  ErrorPolicy policy;
  Failure failure;

  bool stops() const {
    return policy == ErrorPolicy::kStop ||
           (policy == ErrorPolicy::kStopOnNoSpace && failure.error == ENOSPC);
  }
};

std::ostream& operator<<(std::ostream& out, const Row& row) {
  return out << row.name << row.failure.name;
}

struct Request {
  enum class Kind { kWrite, kRead, kFlush };

  Kind kind = Kind::kFlush;
  uint64_t sector = 0;
  uint64_t count = 0;
  uint8_t fill = 0;
};

std::vector<Segment> ChainOf(const Request& request) {
  BlkRequestHeader header;
  header.type = request.kind == Request::Kind::kWrite  ? kBlkTypeOut
                : request.kind == Request::Kind::kRead ? kBlkTypeIn
                                                       : kBlkTypeFlush;
  header.reserved = uint32_t{0};
  header.sector = request.sector;
  std::vector<Segment> chain = {ReadableObject(header)};
  const uint32_t bytes = static_cast<uint32_t>(request.count * kSector);
  if (request.kind == Request::Kind::kWrite) {
    chain.push_back(Readable(std::vector<uint8_t>(bytes, request.fill)));
  } else if (request.kind == Request::Kind::kRead) {
    chain.push_back(Writable(bytes));
  }
  chain.push_back(Writable(1));
  return chain;
}

// The first round makes clusters, the later ones write to these and to new ones.
std::vector<Request> Round(int round) {
  constexpr uint64_t kPart = kSectors / kAtOnce;
  std::vector<Request> requests;
  for (uint64_t i = 0; i < kAtOnce; ++i) {
    const uint64_t sector = i * kPart + (static_cast<uint64_t>(round) * 13 + i * 3) % 48;
    requests.push_back({.kind = (static_cast<uint64_t>(round) + i) % 5 == 4 ? Request::Kind::kRead
                                                                            : Request::Kind::kWrite,
                        .sector = sector,
                        .count = 1 + (static_cast<uint64_t>(round) * 7 + i * 5) % 24,
                        .fill = static_cast<uint8_t>(1 + round * 16 + static_cast<int>(i))});
  }
  if (round % 2 == 1) requests.push_back({});
  return requests;
}

// A machine's disk from its making to its end.
class Machine {
 public:
  explicit Machine(ErrorPolicy policy)
      : policy_(policy),
        may_read_(kSectors, {0}),
        may_be_left_(kSectors, {0}),
        medium_(NewImage(), host_) {
    absl::StatusOr<std::unique_ptr<BlockBackend>> image =
        Open(std::make_unique<FaultyFile>(*loop_, medium_), false);
    VIREO_CHECK(image.ok(), image.status().ToString());
    device_ = std::make_unique<VirtioBlock>(
        *loop_, guest_.memory(), *std::move(image),
        VirtioBlock::Options{
            .serial = "x",
            .on_read_error = policy,
            .on_write_error = policy,
            .on_stop = [this](const BlockError& error) { stops_.push_back(error); }});
    virtio_ = std::make_unique<VirtioHost>(*device_, *loop_);
    driver_ = std::make_unique<VirtioDriver>(*virtio_, guest_);
    VIREO_CHECK(driver_->Start({.features = kBlkFeatureFlush, .queue_size = 64}));
  }
  ~Machine() {
    loop_->RunTask(virtio_->transport().Reset());
    if (!closed_) (void)loop_->RunTask(device_->Close());
  }

  FaultyHost& host() { return host_; }
  VirtioBlock& device() { return *device_; }
  const std::vector<BlockError>& stops() const { return stops_; }
  const std::string& problem() const { return problem_; }

  // What the guest was told.
  struct Told {
    uint64_t ok = 0;
    uint64_t errors = 0;
  };
  // The requests of one round, side by side; those that are kept stay with us.
  Told Send(const std::vector<Request>& requests) {
    errors_before_ = device_->stats().errors;
    in_round_.clear();
    for (const Request& request : requests) {
      sent_.push_back({driver_->ring().Add(ChainOf(request)), request});
      if (request.kind != Request::Kind::kWrite) continue;
      for (uint64_t i = 0; i < request.count; ++i) {
        in_round_.insert(request.sector + i);
        may_read_[request.sector + i].insert(request.fill);
        may_be_left_[request.sector + i].insert(request.fill);
      }
    }
    driver_->Run();
    loop_->RunUntilIdle();
    return TakeUsed();
  }
  // Stopped by the watcher, and let go on.
  Told StopAndGoOn() {
    loop_->RunTask(virtio_->transport().Quiesce());
    virtio_->transport().Resume();
    loop_->RunUntilIdle();
    return TakeUsed();
  }
  size_t kept() const { return sent_.size(); }

  absl::Status Close() {
    loop_->RunTask(virtio_->transport().Reset());
    closed_ = true;
    const absl::Status closed = loop_->RunTask(device_->Close());
    if (closed.ok()) may_be_left_ = may_read_;
    return closed;
  }
  // The image is sound, and each sector holds what it may.
  void VerifyLeft() {
    MemoryMedium left = {.bytes = medium_.bytes()};
    MemoryFile file(*loop_, left);
    const absl::StatusOr<qcow2::CheckResult> result =
        loop_->RunTask(qcow2::CheckImage(file, qcow2::Repair::kNone));
    if (!result.ok() || result->corruptions > 0 || result->check_errors > 0) {
      return Problem("the check finds errors: " + result.status().ToString());
    }
    absl::StatusOr<std::unique_ptr<BlockBackend>> image =
        Open(std::make_unique<MemoryFile>(*loop_, left), true);
    if (!image.ok()) return Problem("opening it again: " + image.status().ToString());
    std::vector<uint8_t> bytes(kSectors * kSector);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    const absl::Status read = loop_->RunTask((*image)->Read(0, IoVecs(&part, 1)));
    if (!read.ok()) Problem("reading it again: " + read.ToString());
    for (uint64_t sector = 0; read.ok() && sector < kSectors; ++sector) {
      VerifySector(sector, std::span(bytes).subspan(sector * kSector, kSector), may_be_left_);
    }
    (void)loop_->RunTask((*image)->Close());
  }

 private:
  using Model = std::vector<std::set<uint8_t>>;  // The bytes that each sector may be full of.

  struct Sent {
    uint16_t head;
    Request request;
  };

  std::vector<uint8_t> NewImage() {
    MemoryMedium made;
    MemoryFile file(*loop_, made);
    VIREO_CHECK(loop_
                    ->RunTask(qcow2::CreateImage(
                        file, {.size_bytes = kSectors * kSector, .cluster_bits = 12}))
                    .ok());
    return made.bytes;
  }
  Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> OpenTask(std::unique_ptr<File> file,
                                                               bool read_only) {
    const qcow2::Access access = read_only ? qcow2::Access::kReadOnly : qcow2::Access::kReadWrite;
    absl::StatusOr<qcow2::Header> header = co_await qcow2::ReadHeader(*file, access);
    CO_RETURN_IF_ERROR(header.status());
    qcow2::Image::Parts parts = {.file = std::move(file)};
    const qcow2::Image::Options options = {.read_only = read_only,
                                           .commit_age = absl::InfiniteDuration()};
    auto image = co_await qcow2::Image::Open(*loop_, *std::move(header), std::move(parts), options);
    co_return image;
  }
  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(std::unique_ptr<File> file, bool read_only) {
    return loop_->RunTask(OpenTask(std::move(file), read_only));
  }

  void Problem(const std::string& text) {
    if (problem_.empty()) problem_ = text;
  }
  void VerifySector(uint64_t sector, std::span<const uint8_t> bytes, const Model& model) {
    const bool whole = std::all_of(bytes.begin(), bytes.end(),
                                   [&](uint8_t byte) { return byte == bytes.front(); });
    if (whole && model[sector].contains(bytes.front())) return;
    Problem(absl::StrFormat("sector %d holds %d%s", sector, bytes.front(), whole ? "" : ", mixed"));
  }

  Told TakeUsed() {
    // One of these "ok" may be a lie: nothing follows from any of them.
    const bool deceived =
        policy_ == ErrorPolicy::kIgnore && device_->stats().errors != errors_before_;
    Told told;
    bool flushed = false;
    while (std::optional<UsedChain> used = driver_->ring().PopUsed()) {
      const auto found = std::find_if(sent_.begin(), sent_.end(),
                                      [&](const Sent& sent) { return sent.head == used->head; });
      if (found == sent_.end()) {
        Problem("a request ends twice");
        continue;
      }
      const Request request = found->request;
      sent_.erase(found);
      if (used->bytes.back() != kBlkStatusOk) {
        ++told.errors;
        continue;
      }
      ++told.ok;
      if (deceived) continue;
      if (request.kind == Request::Kind::kFlush) flushed = true;
      for (uint64_t i = 0; i < request.count; ++i) {
        const uint64_t sector = request.sector + i;
        if (request.kind == Request::Kind::kWrite) {
          may_read_[sector] = {request.fill};
        } else {
          VerifySector(sector, std::span(used->bytes).subspan(i * kSector, kSector), may_read_);
        }
      }
    }
    // What was sent beside the flush may have come after it.
    if (flushed) {
      for (uint64_t sector = 0; sector < kSectors; ++sector) {
        if (!in_round_.contains(sector)) may_be_left_[sector] = may_read_[sector];
      }
    }
    return told;
  }

  const ErrorPolicy policy_;
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  Model may_read_;
  Model may_be_left_;            // If the image is opened without having been closed well.
  std::set<uint64_t> in_round_;  // Sectors that were written beside what was sent last.
  FaultyHost host_{1};
  FaultyMedium medium_;
  FakeGuestMemory guest_;
  std::vector<BlockError> stops_;
  std::unique_ptr<VirtioBlock> device_;
  std::unique_ptr<VirtioHost> virtio_;
  std::unique_ptr<VirtioDriver> driver_;
  std::vector<Sent> sent_;  // And not ended.
  uint64_t errors_before_ = 0;
  bool closed_ = false;
  std::string problem_;
};

// The watcher hears of one failure that stops the machine, and once more if it is for good. False
// if the machine goes on no more.
bool GoOn(Machine& machine, const Row& row) {
  if (machine.kept() == 0) return true;
  EXPECT_TRUE(row.stops());
  EXPECT_EQ(machine.stops().size(), 1u);
  EXPECT_EQ(StatusErrno(machine.stops().front().status), row.failure.error);
  const Machine::Told told = machine.StopAndGoOn();
  EXPECT_EQ(told.errors, 0u);
  // Nobody knows what a flush that failed has left: it stays so, and so does what depends on it.
  EXPECT_EQ(machine.kept() > 0, machine.host().flush_failed());
  EXPECT_EQ(machine.stops().size(), machine.host().flush_failed() ? 2u : 1u);
  return machine.kept() == 0;
}

void RunWithFault(const Row& row, uint64_t k) {
  SCOPED_TRACE("operation " + std::to_string(k));
  Machine machine(row.policy);
  machine.host().FailAfter(k, row.failure.error, 1, row.failure.written);
  uint64_t errors = 0;
  int rounds_with_errors = 0;
  for (int round = 0; round < kRounds; ++round) {
    const Machine::Told told = machine.Send(Round(round));
    errors += told.errors;
    if (told.errors > 0) ++rounds_with_errors;
    if (!GoOn(machine, row)) break;
  }
  const bool reports = !row.stops() && row.policy != ErrorPolicy::kIgnore;
  EXPECT_EQ(errors, reports ? machine.device().stats().errors : 0u);
  if (!row.stops()) {
    EXPECT_TRUE(machine.stops().empty());
  }
  if (!machine.host().flush_failed()) {
    EXPECT_LE(rounds_with_errors, 1);
  }
  const bool failed_before = machine.host().failed();
  const absl::Status closed = machine.Close();
  if (failed_before && !machine.host().flush_failed()) {
    EXPECT_TRUE(closed.ok()) << closed;
  }
  machine.VerifyLeft();
  ASSERT_EQ(machine.problem(), "");
}

class PolicyTest : public testing::TestWithParam<Row> {};

TEST_P(PolicyTest, HoldsWhicheverOperationFails) {
  uint64_t operations = 0;
  {
    Machine machine(GetParam().policy);
    const uint64_t before = machine.host().operations();
    for (int round = 0; round < kRounds; ++round) {
      EXPECT_EQ(machine.Send(Round(round)).errors, 0u);
    }
    ASSERT_TRUE(machine.Close().ok());
    operations = machine.host().operations() - before;
    machine.VerifyLeft();
    ASSERT_EQ(machine.problem(), "");
  }
  ASSERT_GT(operations, 40u);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr uint64_t kStride = 7;
#else
  constexpr uint64_t kStride = 1;
#endif
  for (uint64_t k = 0; k < operations && !HasFailure(); k += kStride) RunWithFault(GetParam(), k);
}

std::vector<Row> Rows() {
  std::vector<Row> rows;
  for (const Failure& failure :
       {Failure{"Eio", EIO}, Failure{"Enospc", ENOSPC},
        Failure{"Short", ENOSPC, FaultyHost::Written::kShort}, Failure{"Estale", ESTALE}}) {
    rows.push_back({"Report", ErrorPolicy::kReport, failure});
    rows.push_back({"Stop", ErrorPolicy::kStop, failure});
    rows.push_back({"StopOnNoSpace", ErrorPolicy::kStopOnNoSpace, failure});
    rows.push_back({"Ignore", ErrorPolicy::kIgnore, failure});
  }
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Policies, PolicyTest, testing::ValuesIn(Rows()), [](const auto& info) {
  return std::string(info.param.name) + info.param.failure.name;
});

}  // namespace
}  // namespace vireo::virtio
