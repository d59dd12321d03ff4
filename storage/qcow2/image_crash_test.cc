// Power cuts and failing operations under a QCOW2 image: whatever happens, the image has no shared
// cluster and every byte that was flushed is there.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/async/event_loop.h"
#include "base/async/task_scope.h"
#include "base/check.h"
#include "base/status.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/image.h"
#include "storage/raw_file.h"
#include "tests/support/faulty_file.h"
#include "tests/support/memory_file.h"
#include "tests/support/qcow2_snapshot.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kBackingTag = 1'000'000;  // Plus the sector: what the backing file holds.

struct CrashCase {
  const char* name;
  uint32_t version = 3;
  uint32_t cluster_bits = 16;
  uint32_t refcount_order = 4;
  uint64_t disk_bytes = 1 << 20;
  uint64_t backing_bytes = 0;
  bool snapshot = false;  // The image starts with content that an internal snapshot shares.
  uint32_t rounds = 12;
};

std::ostream& operator<<(std::ostream& out, const CrashCase& c) { return out << c.name; }

// What may be read from one sector: its writes with the moments at which they began and ended.
struct Version {
  uint64_t tag;
  uint64_t began;
  uint64_t ended = ~uint64_t{0};  // Never: it failed or is under way.
  bool optional = false;          // A discard: may have had no effect.
};

class History {
 public:
  History(uint64_t sectors, uint64_t backing_sectors) : versions_(sectors) {
    for (uint64_t i = 0; i < sectors; ++i) {
      versions_[i].push_back(
          {.tag = i < backing_sectors ? kBackingTag + i : 0, .began = 0, .ended = 0});
    }
  }

  size_t Begin(uint64_t sector, uint64_t tag, uint64_t moment, bool optional) {
    versions_[sector].push_back({.tag = tag, .began = moment, .optional = optional});
    return versions_[sector].size() - 1;
  }
  void End(uint64_t sector, size_t version, uint64_t moment) {
    versions_[sector][version].ended = moment;
  }
  void Flushed(uint64_t began, uint64_t ended) { flushes_.emplace_back(began, ended); }

  // Whether the sector may hold `tag` if the power goes at `moment`.
  bool Allows(uint64_t sector, uint64_t tag, uint64_t moment) const {
    const uint64_t durable = DurableAt(moment);
    bool allowed = false;
    for (const Version& version : versions_[sector]) {
      if (version.began > moment) continue;
      if (version.ended <= durable && !version.optional) allowed = false;
      allowed |= version.tag == tag;
    }
    return allowed;
  }

 private:
  uint64_t DurableAt(uint64_t moment) const {
    uint64_t durable = 0;
    for (const auto& [began, ended] : flushes_) {
      if (ended <= moment) durable = std::max(durable, began);
    }
    return durable;
  }

  std::vector<std::vector<Version>> versions_;
  std::vector<std::pair<uint64_t, uint64_t>> flushes_;
};

std::vector<uint8_t> Tagged(uint64_t sectors, uint64_t tag) {
  std::vector<uint8_t> bytes(sectors * kSector);
  for (size_t at = 0; at < bytes.size(); at += sizeof(tag))
    std::memcpy(&bytes[at], &tag, sizeof(tag));
  return bytes;
}

class Scenario {
 public:
  Scenario(const CrashCase& c, uint32_t seed)
      : case_(c),
        sectors_(c.disk_bytes / kSector),
        random_(seed),
        history_(sectors_, std::min(c.backing_bytes, c.disk_bytes) / kSector) {
    backing_.bytes.resize(c.backing_bytes);
    for (uint64_t i = 0; i < c.backing_bytes / kSector; ++i) {
      const std::vector<uint8_t> sector = Tagged(1, kBackingTag + i);
      std::copy(sector.begin(), sector.end(), backing_.bytes.begin() + i * kSector);
    }
    MemoryMedium made;
    MemoryFile file(*loop_, made);
    CreateOptions options = {.size_bytes = c.disk_bytes,
                             .version = c.version,
                             .cluster_bits = c.cluster_bits,
                             .refcount_order = c.refcount_order};
    if (c.backing_bytes > 0) {
      options.backing_file = "backing";
      options.backing_format = "raw";
    }
    VIREO_CHECK(loop_->RunTask(CreateImage(file, options)).ok());
    if (c.snapshot) {
      FillBeforeSnapshot(made);
      AddInternalSnapshot(made.bytes);
    }
    medium_ = std::make_unique<FaultyMedium>(std::move(made.bytes), seed + 1);
  }

  FaultyMedium& medium() { return *medium_; }

  // Random work in rounds of requests that run side by side on sectors of their own. Ends with or
  // without Close(), `close_status` says how that went.
  void Run(bool close) {
    absl::StatusOr<std::unique_ptr<BlockBackend>> opened =
        Open(std::make_unique<FaultyFile>(*loop_, *medium_), false);
    if (!opened.ok()) {
      ASSERT_TRUE(medium_->failed()) << opened.status();
      return;
    }
    disk_ = *std::move(opened);
    for (uint32_t round = 0; round < case_.rounds; ++round) RunRound();
    // The image as it stands still answers with what was written, or with an error.
    VerifyReads(*disk_, medium_->Tick());
    const uint64_t began = medium_->Tick();
    const absl::Status closed = loop_->RunTask(disk_->Close());
    if (closed.ok() && close) history_.Flushed(began, medium_->Tick());
    EXPECT_TRUE(closed.ok() || medium_->failed()) << closed;
    disk_.reset();
  }

  // The image that a power cut leaves: sound, and with every flushed byte.
  void VerifyAfterCut(uint64_t moment, FaultyMedium::Loss loss, std::mt19937& random) {
    MemoryMedium left;
    left.bytes = medium_->AfterPowerCut(moment, loss, random);
    VerifyMedium(left, moment);
  }

  void VerifyMedium(MemoryMedium& left, uint64_t moment) {
    VerifyCheck(left);
    absl::StatusOr<std::unique_ptr<BlockBackend>> opened =
        Open(std::make_unique<MemoryFile>(*loop_, left), false);
    ASSERT_TRUE(opened.ok()) << opened.status();
    VerifyReads(**opened, moment);
    // It takes writes again, and they harm nothing.
    std::vector<uint8_t> bytes = Tagged(3, 77);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    for (const uint64_t sector : {uint64_t{1}, sectors_ / 2, sectors_ - 3}) {
      ASSERT_TRUE(loop_->RunTask((*opened)->Write(sector * kSector, IoVecs(&part, 1), {})).ok());
    }
    const absl::Status closed = loop_->RunTask((*opened)->Close());
    ASSERT_TRUE(closed.ok()) << closed;
    VerifyCheck(left);
  }

 private:
  void FillBeforeSnapshot(MemoryMedium& made) {
    auto opened = Open(std::make_unique<MemoryFile>(*loop_, made), false);
    VIREO_CHECK(opened.ok());
    for (uint64_t sector = 0; sector + 8 <= sectors_ / 2; sector += 16) {
      std::vector<uint8_t> bytes = Tagged(8, 500 + sector);
      const iovec part = ToIoVec(std::span<uint8_t>(bytes));
      VIREO_CHECK(loop_->RunTask((*opened)->Write(sector * kSector, IoVecs(&part, 1), {})).ok());
      for (uint64_t i = 0; i < 8; ++i) {
        history_.End(sector + i, history_.Begin(sector + i, 500 + sector, 0, false), 0);
      }
    }
    VIREO_CHECK(loop_->RunTask((*opened)->Close()).ok());
  }

  Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> OpenTask(std::unique_ptr<File> file,
                                                               bool read_only) {
    const Access access = read_only ? Access::kReadOnly : Access::kReadWrite;
    absl::StatusOr<Header> header = co_await ReadHeader(*file, access);
    CO_RETURN_IF_ERROR(header.status());
    Image::Parts parts = {.file = std::move(file)};
    if (case_.backing_bytes > 0) {
      parts.backing = std::make_unique<RawFile>(std::make_unique<MemoryFile>(*loop_, backing_),
                                                RawFile::Options{.read_only = true});
    }
    Image::Options options = {
        .read_only = read_only, .cache_bytes = 64 << 10, .commit_age = absl::InfiniteDuration()};
    absl::StatusOr<std::unique_ptr<BlockBackend>> image =
        co_await Image::Open(*loop_, *std::move(header), std::move(parts), options);
    co_return image;
  }
  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(std::unique_ptr<File> file, bool read_only) {
    return loop_->RunTask(OpenTask(std::move(file), read_only));
  }

  Task<void> WriteSectors(uint64_t sector, uint64_t count, uint64_t tag) {
    std::vector<uint8_t> bytes = Tagged(count, tag);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    const std::vector<size_t> versions = Begin(sector, count, tag, false);
    const bool fua = random_() % 16 == 0;
    const absl::Status status =
        co_await disk_->Write(sector * kSector, IoVecs(&part, 1), {.fua = fua});
    End(sector, versions, status);
  }
  Task<void> ZeroSectors(uint64_t sector, uint64_t count, bool may_unmap) {
    const std::vector<size_t> versions = Begin(sector, count, 0, false);
    const absl::Status status =
        co_await disk_->WriteZeroes(sector * kSector, count * kSector, {.may_unmap = may_unmap});
    End(sector, versions, status);
  }
  Task<void> DiscardSectors(uint64_t sector, uint64_t count) {
    const std::vector<size_t> versions = Begin(sector, count, 0, true);
    const absl::Status status = co_await disk_->Discard(sector * kSector, count * kSector);
    End(sector, versions, status);
  }
  Task<void> Flush() {
    const uint64_t began = medium_->Tick();
    const absl::Status status = co_await disk_->Flush();
    if (status.ok()) history_.Flushed(began, medium_->Tick());
    EXPECT_TRUE(status.ok() || medium_->failed()) << status;
  }
  std::vector<size_t> Begin(uint64_t sector, uint64_t count, uint64_t tag, bool optional) {
    const uint64_t moment = medium_->Tick();
    std::vector<size_t> versions;
    for (uint64_t i = 0; i < count; ++i) {
      versions.push_back(history_.Begin(sector + i, tag, moment, optional));
    }
    return versions;
  }
  void End(uint64_t sector, const std::vector<size_t>& versions, const absl::Status& status) {
    if (!status.ok()) {
      EXPECT_TRUE(medium_->failed()) << status;
      return;
    }
    const uint64_t moment = medium_->Tick();
    for (size_t i = 0; i < versions.size(); ++i) history_.End(sector + i, versions[i], moment);
  }

  Task<void> Join(TaskScope* scope) { co_await scope->Join(); }

  void RunRound() {
    EventLoop::CurrentScope current(*loop_);
    TaskScope scope(*loop_);
    std::vector<bool> taken(sectors_);
    for (int i = 0; i < 6; ++i) {
      const uint64_t longest = random_() % 4 == 0 ? sectors_ / 4 : 24;
      const uint64_t count = 1 + random_() % longest;
      const uint64_t sector = random_() % (sectors_ - count + 1);
      if (std::any_of(taken.begin() + sector, taken.begin() + sector + count,
                      [](bool t) { return t; })) {
        continue;
      }
      std::fill_n(taken.begin() + sector, count, true);
      switch (random_() % 8) {
        case 0:
          scope.Spawn(DiscardSectors(sector, count));
          break;
        case 1:
          scope.Spawn(ZeroSectors(sector, count, random_() % 2 == 0));
          break;
        case 2:
          scope.Spawn(Flush());
          [[fallthrough]];
        default:
          scope.Spawn(WriteSectors(sector, count, ++last_tag_));
      }
    }
    if (random_() % 3 == 0) scope.Spawn(Flush());
    loop_->RunTask(Join(&scope));
  }

  void VerifyReads(BlockBackend& disk, uint64_t moment) {
    std::vector<uint8_t> bytes(sectors_ * kSector);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    const absl::Status read = loop_->RunTask(disk.Read(0, IoVecs(&part, 1)));
    if (!read.ok()) {
      ASSERT_TRUE(&disk == disk_.get() && medium_->failed()) << read;
      return;
    }
    for (uint64_t sector = 0; sector < sectors_; ++sector) {
      const uint8_t* const at = &bytes[sector * kSector];
      uint64_t tag;
      std::memcpy(&tag, at, sizeof(tag));
      ASSERT_EQ(std::memcmp(at, at + sizeof(tag), kSector - sizeof(tag)), 0)
          << "sector " << sector << " is mixed";
      ASSERT_TRUE(history_.Allows(sector, tag, moment)) << "sector " << sector << " holds " << tag;
    }
  }

  void VerifyCheck(MemoryMedium& left) {
    MemoryFile file(*loop_, left);
    std::string findings;
    CheckReport report = [&findings](const std::string& line) { findings += line + "\n"; };
    const absl::StatusOr<CheckResult> result =
        loop_->RunTask(CheckImage(file, Repair::kNone, &report));
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->corruptions, 0u) << findings;
    ASSERT_EQ(result->check_errors, 0u) << findings;
  }

  const CrashCase case_;
  const uint64_t sectors_;
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  std::mt19937 random_;
  History history_;
  MemoryMedium backing_;
  std::unique_ptr<FaultyMedium> medium_;
  std::unique_ptr<BlockBackend> disk_;
  uint64_t last_tag_ = 1000;
};

class CrashTest : public testing::TestWithParam<CrashCase> {};

TEST_P(CrashTest, PowerCutsLeaveASoundImageWithEverythingFlushed) {
  for (uint32_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Scenario scenario(GetParam(), seed);
    scenario.Run(/*close=*/true);
    std::mt19937 random(seed);
    const uint64_t end = scenario.medium().now();
    for (int cut = 0; cut < 60; ++cut) {
      const uint64_t moment = cut == 0 ? end : random() % (end + 1);
      const auto loss = static_cast<FaultyMedium::Loss>(random() % 4);
      SCOPED_TRACE(testing::Message()
                   << "cut at " << moment << " of " << end << ", loss " << static_cast<int>(loss));
      scenario.VerifyAfterCut(moment, loss, random);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST_P(CrashTest, AFailureOfAnyOperationLeavesASoundImage) {
  uint64_t operations = 0;
  {
    Scenario scenario(GetParam(), 9);
    scenario.Run(true);
    operations = scenario.medium().operations();
  }
  // Every operation of the first thousand, then some.
  for (uint64_t k = 0; k < operations; k += 1 + k / 24) {
    SCOPED_TRACE(testing::Message() << "operation " << k << " fails");
    Scenario scenario(GetParam(), 9);
    scenario.medium().FailAfter(k, k % 2 == 0 ? EIO : ENOSPC);
    scenario.Run(true);
    if (testing::Test::HasFatalFailure()) return;
    std::mt19937 random(static_cast<uint32_t>(k));
    MemoryMedium left;
    left.bytes = scenario.medium().bytes();
    scenario.VerifyMedium(left, scenario.medium().now());
    scenario.VerifyAfterCut(scenario.medium().now(), FaultyMedium::Loss::kRandom, random);
    if (testing::Test::HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Images, CrashTest,
    testing::Values(
        CrashCase{.name = "Default", .disk_bytes = 2 << 20},
        CrashCase{.name = "Version2", .version = 2, .disk_bytes = 2 << 20},
        CrashCase{.name = "TinyClusters", .cluster_bits = 9, .disk_bytes = 256 << 10},
        CrashCase{.name = "TinyClustersWideRefcounts",
                  .cluster_bits = 9,
                  .refcount_order = 6,
                  .disk_bytes = 512 << 10},
        CrashCase{.name = "SmallClustersOneBit", .cluster_bits = 12, .refcount_order = 0},
        CrashCase{.name = "LargeClusters", .cluster_bits = 18, .disk_bytes = 2 << 20},
        CrashCase{.name = "Overlay", .backing_bytes = 1 << 20},
        CrashCase{.name = "OverlayOfShorter", .cluster_bits = 14, .backing_bytes = 300 << 10},
        CrashCase{
            .name = "OverlayVersion2", .version = 2, .cluster_bits = 12, .backing_bytes = 2 << 20},
        CrashCase{.name = "OddSize", .disk_bytes = (1 << 20) + 3 * 512, .backing_bytes = 2 << 20},
        CrashCase{.name = "Snapshot", .cluster_bits = 12, .snapshot = true},
        CrashCase{.name = "SnapshotOverlay",
                  .cluster_bits = 13,
                  .backing_bytes = 1 << 20,
                  .snapshot = true}),
    [](const testing::TestParamInfo<CrashCase>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo::qcow2
