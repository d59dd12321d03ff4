#include "tests/model/workout.h"

#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/async/task_scope.h"
#include "base/check.h"
#include "base/status.h"
#include "storage/crypto/cipher.h"
#include "storage/crypto/encrypted_file.h"
#include "storage/crypto/luks.h"
#include "storage/crypto/secret.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/image.h"
#include "storage/qcow2/snapshot_edit.h"
#include "storage/qcow2/snapshots.h"
#include "storage/raw_file.h"

namespace vireo {

using qcow2::CheckImage;
using qcow2::CheckReport;
using qcow2::CheckResult;
using qcow2::CreateImage;
using qcow2::CreateOptions;
using qcow2::Image;

struct Workout::Step {
  enum class Kind { kWrite, kRead, kZero, kZeroAndUnmap, kDiscard, kFlush, kStatus, kResize };

  Kind kind = Kind::kRead;
  uint64_t sector = 0;
  uint64_t count = 0;
  bool fua = false;
  Noise noise = Noise::kNo;
};

namespace {

// Opening with a passphrase would take longer than all the rest: guest data is encrypted with a key
// that is known, and the image has a LUKS header for its looks.
const std::vector<uint8_t>& LuksArea() {
  static const std::vector<uint8_t>* const area = [] {
    const std::vector<uint8_t> passphrase(8, 'p');
    absl::StatusOr<std::vector<uint8_t>> made =
        crypto::MakeLuksArea({.iteration_ms = 1}, passphrase);
    VIREO_CHECK(made.ok(), made.status().ToString());
    return new std::vector<uint8_t>(*std::move(made));
  }();
  return *area;
}

absl::StatusOr<std::unique_ptr<File>> Encrypted(EventLoop& loop, File& file) {
  const crypto::CipherSpec cipher;
  Secret key(cipher.key_bytes());
  for (size_t i = 0; i < key.size(); ++i) key.bytes()[i] = static_cast<uint8_t>(i * 7);
  return crypto::EncryptedFile::Create(loop, {.file = &file}, cipher, std::move(key));
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const DiskShape& shape) { return out << shape.name; }

Workout::Workout(const DiskShape& shape, uint64_t seed)
    : shape_(shape), max_sectors_(2 * shape.disk_bytes / kSectorBytes), random_(seed) {
  // Whole disks come and go all the time: what they lived in is kept, not given back and cleared.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
  MakeBacking();
  MakeImage();
}

Workout::~Workout() = default;

void Workout::Problem(const std::string& text) {
  if (problem_.empty()) problem_ = text;
}

// --- What there is at first ---

void Workout::MakeBacking() {
  if (shape_.backing == DiskShape::Backing::kNone) return;
  MemoryFile file(*loop_, backing_, "backing");
  std::unique_ptr<BlockBackend> disk;
  if (shape_.backing == DiskShape::Backing::kRaw) {
    backing_.bytes.resize(shape_.backing_bytes);
    disk = std::make_unique<RawFile>(std::make_unique<MemoryFile>(*loop_, backing_, "backing"),
                                     RawFile::Options{});
  } else {
    VIREO_CHECK(
        loop_->RunTask(CreateImage(file, {.size_bytes = shape_.backing_bytes, .cluster_bits = 13}))
            .ok());
    absl::StatusOr<qcow2::Header> header =
        loop_->RunTask(ReadHeader(file, qcow2::Access::kReadWrite));
    VIREO_CHECK(header.ok());
    Image::Parts parts = {.file = std::make_unique<MemoryFile>(*loop_, backing_, "backing")};
    absl::StatusOr<std::unique_ptr<BlockBackend>> image =
        loop_->RunTask(Image::Open(*loop_, *std::move(header), std::move(parts), {}));
    VIREO_CHECK(image.ok());
    disk = *std::move(image);
  }
  backing_tags_ = Fill(*disk, 1);
  VIREO_CHECK(loop_->RunTask(disk->Close()).ok());
}

std::vector<uint64_t> Workout::Fill(BlockBackend& disk, uint64_t first_request) {
  std::vector<uint64_t> tags(disk.geometry().size_bytes / kSectorBytes);
  // Data and holes of all lengths take turns.
  uint64_t sector = 0;
  while (sector < tags.size()) {
    const uint64_t longest = OneIn(3) ? 300 : 20;
    const uint64_t count = std::min<uint64_t>(1 + Below(longest), tags.size() - sector);
    if (!OneIn(3)) {
      std::vector<uint8_t> bytes(count * kSectorBytes);
      for (uint64_t i = 0; i < count; ++i) {
        tags[sector + i] = MakeTag(first_request, sector + i, Noise::kNo);
        FillSector(tags[sector + i], std::span(bytes).subspan(i * kSectorBytes, kSectorBytes));
      }
      const iovec part = ToIoVec(std::span<uint8_t>(bytes));
      VIREO_CHECK(loop_->RunTask(disk.Write(sector * kSectorBytes, IoVecs(&part, 1))).ok());
    }
    sector += count;
  }
  return tags;
}

void Workout::MakeImage() {
  MemoryMedium made;
  MemoryFile file(*loop_, made);
  CreateOptions options = shape_.options;
  options.size_bytes = shape_.disk_bytes;
  if (shape_.encrypted) options.luks_area = LuksArea();
  if (shape_.backing != DiskShape::Backing::kNone) {
    options.backing_file = "backing";
    options.backing_format = shape_.backing == DiskShape::Backing::kRaw ? "raw" : "qcow2";
  }
  MemoryFile data(*loop_, data_, "data");
  const absl::Status created =
      loop_->RunTask(CreateImage(file, options, options.data_file.has_value() ? &data : nullptr));
  VIREO_CHECK(created.ok(), created.ToString());
  std::vector<uint64_t> tags = backing_tags_;
  tags.resize(shape_.disk_bytes / kSectorBytes);
  if (shape_.snapshots) {
    absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(FilesOf(made), false);
    VIREO_CHECK(disk.ok(), disk.status().ToString());
    const std::vector<uint64_t> filled = Fill(**disk, 2);
    for (size_t i = 0; i < tags.size(); ++i) {
      if (filled[i] != 0) tags[i] = filled[i];
    }
    VIREO_CHECK(loop_->RunTask((*disk)->Close()).ok());
    const absl::StatusOr<std::string> id =
        loop_->RunTask(qcow2::CreateSnapshot(*loop_, file, {.name = "first"}));
    VIREO_CHECK(id.ok(), id.status().ToString());
    snapshots_.push_back({*id, tags});
  }
  Restart(std::move(made.bytes), tags);
}

void Workout::Restart(std::vector<uint8_t> bytes, const std::vector<uint64_t>& tags) {
  host_ = std::make_unique<FaultyHost>(static_cast<uint32_t>(random_()));
  medium_ = std::make_unique<FaultyMedium>(std::move(bytes), *host_);
  backing_medium_ = std::make_unique<FaultyMedium>(backing_.bytes, *host_);
  data_medium_ = std::make_unique<FaultyMedium>(data_.bytes, *host_);
  history_ = std::make_unique<SectorHistory>(tags);
  sectors_ = tags.size();
  sizes_ = {{.sectors = sectors_, .began = 0, .ended = 0}};
  tags_ = tags;
  doubtful_.reset();
  applied_.clear();
}

Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> Workout::OpenBacking(
    std::unique_ptr<File> file, std::shared_ptr<qcow2::CacheBudget> budget) {
  if (shape_.backing == DiskShape::Backing::kRaw) {
    std::unique_ptr<BlockBackend> raw =
        std::make_unique<RawFile>(std::move(file), RawFile::Options{.read_only = true});
    co_return raw;
  }
  CO_ASSIGN_OR_RETURN(qcow2::Header header, co_await ReadHeader(*file, qcow2::Access::kReadOnly));
  Image::Parts parts = {.file = std::move(file)};
  Image::Options options = {.read_only = true, .cache_budget = std::move(budget)};
  absl::StatusOr<std::unique_ptr<BlockBackend>> image =
      co_await Image::Open(*loop_, std::move(header), std::move(parts), options);
  co_return image;
}

Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> Workout::OpenTask(Files files, bool read_only) {
  const qcow2::Access access = read_only ? qcow2::Access::kReadOnly : qcow2::Access::kReadWrite;
  absl::StatusOr<qcow2::Header> header = co_await ReadHeader(*files.image, access);
  CO_RETURN_IF_ERROR(header.status());
  Image::Parts parts = {.file = std::move(files.image)};
  if (shape_.encrypted) {
    CO_ASSIGN_OR_RETURN(parts.data, Encrypted(*loop_, *parts.file));
  }
  if (header->layout.external_data) parts.data = std::move(files.data);
  // Small caches evict, and bring commits forward; a backing file takes its share.
  const auto budget = std::make_shared<qcow2::CacheBudget>(uint64_t{16 << 10} << Below(7));
  if (shape_.backing != DiskShape::Backing::kNone) {
    CO_ASSIGN_OR_RETURN(parts.backing, co_await OpenBacking(std::move(files.backing), budget));
  }
  Image::Options options = {
      .read_only = read_only, .cache_budget = budget, .commit_age = absl::InfiniteDuration()};
  absl::StatusOr<std::unique_ptr<BlockBackend>> image =
      co_await Image::Open(*loop_, *std::move(header), std::move(parts), options);
  co_return image;
}

Workout::Files Workout::FilesOf(MemoryMedium& image) {
  return {.image = std::make_unique<MemoryFile>(*loop_, image),
          .backing = std::make_unique<MemoryFile>(*loop_, backing_, "backing"),
          .data = std::make_unique<MemoryFile>(*loop_, data_, "data")};
}

Workout::Files Workout::FaultyFiles() {
  return {.image = std::make_unique<FaultyFile>(*loop_, *medium_),
          .backing = std::make_unique<FaultyFile>(*loop_, *backing_medium_, "backing", 2),
          .data = std::make_unique<FaultyFile>(*loop_, *data_medium_, "data", 3)};
}

// --- A session ---

void Workout::RunSession(const Session& session) {
  stopping_ = false;
  resizing_ = false;
  if (session.fail_after.has_value()) {
    host_->FailAfter(*session.fail_after, session.error, session.failures);
  }
  absl::StatusOr<std::unique_ptr<BlockBackend>> opened = Open(FaultyFiles(), false);
  if (!opened.ok()) return Excuse("opening", opened.status());
  disk_ = *std::move(opened);
  loop_->RunTask(RunWorkers(session));
  disk_.reset();
}

Task<void> Workout::RunWorkers(Session session) {
  TaskScope scope(*loop_);
  for (uint32_t i = 0; i < session.workers; ++i) scope.Spawn(Work(session.steps));
  if (session.close_under_load) {
    const uint64_t turns = Below(20 * session.steps);
    for (uint64_t i = 0; i < turns; ++i) co_await loop_->Yield();
    stopping_ = true;
  } else {
    co_await scope.Join();
  }
  const uint64_t began = host_->Tick();
  const absl::Status closed = co_await disk_->Close();
  const uint64_t ended = host_->Tick();
  co_await scope.Join();
  // Requests that ended while it waited for them are durable as well.
  if (closed.ok()) history_->Flushed(session.close_under_load ? ended : began, ended);
  if (!closed.ok()) Excuse("closing", closed);
}

Task<void> Workout::Work(uint32_t steps) {
  for (uint32_t i = 0; i < steps && !stopping_ && problem_.empty(); ++i) {
    const Step step = PickStep();
    ++steps_;
    switch (step.kind) {
      case Step::Kind::kWrite:
        co_await Write(step);
        break;
      case Step::Kind::kRead:
        co_await Read(step);
        break;
      case Step::Kind::kZero:
      case Step::Kind::kZeroAndUnmap:
      case Step::Kind::kDiscard:
        co_await Change(step);
        break;
      case Step::Kind::kFlush:
        co_await Flush();
        break;
      case Step::Kind::kStatus:
        co_await Status(step);
        break;
      case Step::Kind::kResize:
        co_await Resize(step);
        break;
    }
  }
}

Workout::Step Workout::PickStep() {
  Step step;
  const uint64_t chance = Below(100);
  if (chance < 45) {
    step.kind = Step::Kind::kWrite;
    step.fua = OneIn(12);
    step.noise = OneIn(3) ? Noise::kYes : Noise::kNo;
  } else if (chance < 64) {
    step.kind = Step::Kind::kRead;
  } else if (chance < 70) {
    step.kind = Step::Kind::kFlush;
  } else if (chance < 77) {
    step.kind = Step::Kind::kZero;
  } else if (chance < 84) {
    step.kind = Step::Kind::kZeroAndUnmap;
  } else if (chance < 93) {
    step.kind = Step::Kind::kDiscard;
  } else if (chance < 98 || resizing_ || sectors_ == max_sectors_ ||
             (shape_.snapshots && shape_.options.version < 3)) {
    step.kind = Step::Kind::kStatus;
  } else {
    step.kind = Step::Kind::kResize;
  }
  PickRange(step);
  return step;
}

void Workout::PickRange(Step& step) {
  const uint64_t cluster = (uint64_t{1} << shape_.options.cluster_bits) / kSectorBytes;
  // Half of all requests meet in the same few clusters.
  const uint64_t area = OneIn(2) ? std::min(sectors_, 4 * cluster) : sectors_;
  step.sector = Below(area);
  switch (Below(8)) {
    case 0:  // Whole clusters.
    case 1:
      step.sector = AlignDown<uint64_t>(step.sector, cluster);
      step.count = cluster * (1 + Below(3));
      break;
    case 2:  // Across the end of one.
      step.sector = AlignDown<uint64_t>(step.sector, cluster) + cluster - 1;
      step.count = 2 + Below(cluster);
      break;
    case 3:  // Up to the end of the disk.
      step.count = 1 + Below(std::min<uint64_t>(sectors_, 2 * cluster));
      step.sector = sectors_ - step.count;
      break;
    case 4:  // Long.
      step.count = 1 + Below(OneIn(4) ? sectors_ / 2 : 64);
      break;
    default:
      step.count = 1 + Below(8);
  }
  step.sector = std::min(step.sector, sectors_ - 1);
  step.count = std::min(step.count, sectors_ - step.sector);
}

void Workout::Excuse(const char* what, const absl::Status& status) {
  if (!host_->failed()) Problem(absl::StrCat(what, ": ", status.ToString()));
}

std::vector<iovec> Workout::Split(std::span<uint8_t> bytes) {
  std::vector<iovec> parts;
  while (!bytes.empty()) {
    const uint64_t length = parts.size() < 4 && OneIn(3) ? 1 + Below(bytes.size()) : bytes.size();
    parts.push_back(ToIoVec(bytes.first(length)));
    bytes = bytes.subspan(length);
  }
  return parts;
}

Task<void> Workout::Write(Step step) {
  const uint64_t request = ++last_request_;
  std::vector<uint8_t> bytes(step.count * kSectorBytes);
  std::vector<size_t> changes;
  const uint64_t began = host_->Tick();
  for (uint64_t i = 0; i < step.count; ++i) {
    const uint64_t tag = MakeTag(request, step.sector + i, step.noise);
    FillSector(tag, std::span(bytes).subspan(i * kSectorBytes, kSectorBytes));
    changes.push_back(history_->Begin(step.sector + i, tag, began));
  }
  const std::vector<iovec> parts = Split(bytes);
  const WriteFlags flags = {.fua = step.fua};
  const absl::Status status = co_await disk_->Write(step.sector * kSectorBytes, parts, flags);
  if (!status.ok()) {
    Excuse("a write", status);
    co_return;
  }
  const uint64_t ended = host_->Tick();
  for (uint64_t i = 0; i < step.count; ++i) {
    history_->End(step.sector + i, changes[i], ended, step.fua);
  }
}

Task<void> Workout::Change(Step step) {
  const bool discard = step.kind == Step::Kind::kDiscard;
  std::vector<size_t> changes;
  const uint64_t began = host_->Tick();
  for (uint64_t i = 0; i < step.count; ++i) {
    changes.push_back(
        history_->Begin(step.sector + i, 0, began,
                        discard ? SectorHistory::Effect::kOptional : SectorHistory::Effect::kSure));
  }
  const uint64_t offset = step.sector * kSectorBytes;
  const uint64_t length = step.count * kSectorBytes;
  absl::Status status;
  if (discard) {
    status = co_await disk_->Discard(offset, length);
  } else {
    const ZeroFlags flags = {.may_unmap = step.kind == Step::Kind::kZeroAndUnmap};
    status = co_await disk_->WriteZeroes(offset, length, flags);
  }
  if (!status.ok()) {
    Excuse(discard ? "a discard" : "zeroing", status);
    co_return;
  }
  const uint64_t ended = host_->Tick();
  for (uint64_t i = 0; i < step.count; ++i) history_->End(step.sector + i, changes[i], ended);
}

Task<void> Workout::Read(Step step) {
  std::vector<uint8_t> bytes(step.count * kSectorBytes, 0xee);
  const std::vector<iovec> parts = Split(bytes);
  const uint64_t began = host_->Tick();
  const absl::Status status = co_await disk_->Read(step.sector * kSectorBytes, parts);
  const uint64_t ended = host_->Tick();
  if (!status.ok()) {
    Excuse("a read", status);
    co_return;
  }
  for (uint64_t i = 0; i < step.count; ++i) {
    const uint64_t sector = step.sector + i;
    const std::optional<uint64_t> tag =
        TagOf(std::span(bytes).subspan(i * kSectorBytes, kSectorBytes));
    if (!tag.has_value()) {
      Problem(absl::StrFormat("a read of sector %d finds a mix", sector));
    } else if (!history_->AllowsRead(sector, *tag, began, ended)) {
      Problem(absl::StrFormat("a read [%d,%d] of sector %d finds %x, not one of%s", began, ended,
                              sector, *tag, history_->Describe(sector)));
    }
  }
}

Task<void> Workout::Flush() {
  const uint64_t began = host_->Tick();
  const absl::Status status = co_await disk_->Flush();
  if (status.ok()) {
    history_->Flushed(began, host_->Tick());
  } else {
    Excuse("a flush", status);
  }
}

Task<void> Workout::Status(Step step) {
  const uint64_t began = host_->Tick();
  const absl::StatusOr<RangeStatus> answer =
      co_await disk_->Status(step.sector * kSectorBytes, step.count * kSectorBytes);
  const uint64_t ended = host_->Tick();
  if (!answer.ok()) {
    Excuse("a status", answer.status());
    co_return;
  }
  if (answer->length == 0 || answer->length > step.count * kSectorBytes) {
    Problem(absl::StrFormat("the status of %d sectors at %d covers %d bytes", step.count,
                            step.sector, answer->length));
    co_return;
  }
  if (answer->kind == RangeKind::kData) co_return;
  for (uint64_t i = 0; i < answer->length / kSectorBytes; ++i) {
    if (history_->AllowsRead(step.sector + i, 0, began, ended)) continue;
    Problem(absl::StrFormat("the status [%d,%d] of sector %d is zeros, not one of%s", began, ended,
                            step.sector + i, history_->Describe(step.sector + i)));
  }
}

Task<void> Workout::Resize(Step step) {
  resizing_ = true;
  const uint64_t sectors = std::min(
      max_sectors_, sectors_ + 1 + Below(OneIn(2) ? 8 : std::max<uint64_t>(sectors_ / 3, 2)));
  history_->Grow(sectors);
  sizes_.push_back({.sectors = sectors, .began = host_->Tick(), .ended = kNever});
  const size_t index = sizes_.size() - 1;
  const absl::Status status = co_await disk_->Resize(sectors * kSectorBytes);
  resizing_ = false;
  if (!status.ok()) {
    Excuse("resizing", status);
    co_return;
  }
  sizes_[index].ended = host_->Tick();
  sectors_ = sectors;
  if (disk_->geometry().size_bytes != sectors * kSectorBytes) Problem("resizing: another size");
  (void)step;
}

// --- Snapshots ---

void Workout::RunSnapshotSession(const Session& session) {
  if (session.fail_after.has_value()) {
    host_->FailAfter(*session.fail_after, session.error, session.failures);
  }
  ++steps_;
  FaultyFile file(*loop_, *medium_);
  absl::Status status;
  if (snapshots_.empty() || (snapshots_.size() < 4 && OneIn(2))) {
    status = CreateSnapshot(file);
  } else if (OneIn(2)) {
    status = DeleteSnapshot(file);
  } else {
    status = ApplySnapshot(file);
  }
  if (!status.ok()) Excuse("a snapshot", status);
}

absl::Status Workout::CreateSnapshot(File& file) {
  const absl::StatusOr<std::string> id =
      loop_->RunTask(qcow2::CreateSnapshot(*loop_, file, {.name = "another"}));
  uint64_t highest = 0;
  for (const Kept& kept : snapshots_) {
    highest = std::max<uint64_t>(highest, std::strtoull(kept.id.c_str(), nullptr, 10));
  }
  doubtful_ = {.kept = {std::to_string(highest + 1), tags_}, .made = true};
  if (!id.ok()) return id.status();
  if (*id != doubtful_->kept.id) Problem("a new snapshot has the id " + *id);
  doubtful_->done = host_->Tick();
  return absl::OkStatus();
}

absl::Status Workout::DeleteSnapshot(File& file) {
  const size_t index = Below(snapshots_.size());
  doubtful_ = {.kept = snapshots_[index], .made = false};
  snapshots_.erase(snapshots_.begin() + static_cast<ptrdiff_t>(index));
  const absl::Status deleted =
      loop_->RunTask(qcow2::DeleteSnapshot(*loop_, file, doubtful_->kept.id));
  if (deleted.ok()) doubtful_->done = host_->Tick();
  return deleted;
}

absl::Status Workout::ApplySnapshot(File& file) {
  const Kept& kept = snapshots_[Below(snapshots_.size())];
  applied_ = kept.tags;
  const uint64_t began = host_->Tick();
  history_->Grow(std::max<uint64_t>(history_->sectors(), applied_.size()));
  std::vector<size_t> changes;
  for (uint64_t i = 0; i < applied_.size(); ++i) {
    changes.push_back(history_->Begin(i, applied_[i], began));
  }
  sizes_.push_back({.sectors = applied_.size(), .began = began, .ended = kNever});
  const absl::Status status = loop_->RunTask(qcow2::ApplySnapshot(*loop_, file, kept.id));
  if (!status.ok()) return status;
  const uint64_t ended = host_->Tick();
  for (uint64_t i = 0; i < applied_.size(); ++i) {
    history_->End(i, changes[i], ended, /*durably=*/true);
  }
  sizes_.back().ended = ended;
  return status;
}

absl::StatusOr<std::vector<std::string>> Workout::SnapshotIds(MemoryMedium& left) {
  MemoryFile file(*loop_, left);
  ASSIGN_OR_RETURN(const qcow2::Header header,
                   loop_->RunTask(ReadHeader(file, qcow2::Access::kInspect)));
  ASSIGN_OR_RETURN(const qcow2::SnapshotTable table,
                   loop_->RunTask(ReadSnapshotTable(file, header)));
  std::vector<std::string> ids;
  for (const qcow2::Snapshot& snapshot : table.snapshots) ids.push_back(snapshot.id);
  return ids;
}

void Workout::VerifySnapshots(MemoryMedium& left, uint64_t moment) {
  const absl::StatusOr<std::vector<std::string>> ids = SnapshotIds(left);
  if (!ids.ok()) return Problem(absl::StrCat("the snapshots: ", ids.status().ToString()));
  std::vector<const Kept*> there;
  for (const Kept& kept : snapshots_) {
    if (std::find(ids->begin(), ids->end(), kept.id) == ids->end()) {
      return Problem("a snapshot is gone: " + kept.id);
    }
    there.push_back(&kept);
  }
  if (doubtful_.has_value()) {
    const bool found = std::find(ids->begin(), ids->end(), doubtful_->kept.id) != ids->end();
    if (found) there.push_back(&doubtful_->kept);
    if (moment >= doubtful_->done && found != doubtful_->made) {
      return Problem("a snapshot is not made or not deleted: " + doubtful_->kept.id);
    }
  }
  if (there.size() != ids->size()) return Problem("there is a snapshot that nobody made");
  if (there.empty() || !OneIn(2)) return;
  const Kept& kept = *there[Below(there.size())];
  MemoryMedium copy = left;
  MemoryFile file(*loop_, copy);
  const absl::Status applied = loop_->RunTask(qcow2::ApplySnapshot(*loop_, file, kept.id));
  if (!applied.ok()) return Problem(absl::StrCat("going back: ", applied.ToString()));
  absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(FilesOf(copy), true);
  if (!disk.ok())
    return Problem(absl::StrCat("opened after going back: ", disk.status().ToString()));
  if (ReadTags(**disk) != kept.tags) Problem("a snapshot holds something else now: " + kept.id);
  (void)loop_->RunTask((*disk)->Close());
}

void Workout::FindSnapshots(MemoryMedium& left) {
  const absl::StatusOr<std::vector<std::string>> ids = SnapshotIds(left);
  if (!ids.ok()) return Problem(absl::StrCat("the snapshots: ", ids.status().ToString()));
  if (doubtful_.has_value() &&
      std::find(ids->begin(), ids->end(), doubtful_->kept.id) != ids->end()) {
    snapshots_.push_back(doubtful_->kept);
  }
}

// --- Verifying ---

std::vector<uint64_t> Workout::ReadTags(BlockBackend& disk) {
  std::vector<uint64_t> tags(disk.geometry().size_bytes / kSectorBytes);
  std::vector<uint8_t> bytes(tags.size() * kSectorBytes);
  const iovec part = ToIoVec(std::span<uint8_t>(bytes));
  const absl::Status read = loop_->RunTask(disk.Read(0, IoVecs(&part, 1)));
  if (!read.ok()) {
    Problem(absl::StrCat("reading it all: ", read.ToString()));
    return {};
  }
  for (uint64_t i = 0; i < tags.size(); ++i) {
    const std::optional<uint64_t> tag =
        TagOf(std::span(bytes).subspan(i * kSectorBytes, kSectorBytes));
    if (!tag.has_value()) {
      Problem(absl::StrFormat("sector %d holds a mix", i));
      return {};
    }
    tags[i] = *tag;
  }
  return tags;
}

void Workout::VerifyStatus(BlockBackend& disk, const std::vector<uint64_t>& tags) {
  const uint64_t end = tags.size() * kSectorBytes;
  for (uint64_t at = 0; at < end && problem_.empty();) {
    const absl::StatusOr<RangeStatus> answer = loop_->RunTask(disk.Status(at, end - at));
    if (!answer.ok() || answer->length == 0 || answer->length > end - at) {
      return Problem(
          absl::StrFormat("the status at %d is wrong: %s", at, answer.status().ToString()));
    }
    for (uint64_t i = at / kSectorBytes; i < (at + answer->length) / kSectorBytes; ++i) {
      if (answer->kind != RangeKind::kData && tags[i] != 0) {
        return Problem(
            absl::StrFormat("the status of sector %d is zeros, it holds %x", i, tags[i]));
      }
    }
    at += answer->length;
  }
}

void Workout::VerifySize(uint64_t sectors, uint64_t moment) {
  uint64_t newest = 0;
  for (const SizeChange& change : sizes_) {
    if (change.ended <= moment) newest = std::max(newest, change.began);
  }
  for (const SizeChange& change : sizes_) {
    if (change.sectors == sectors && change.began <= moment && change.ended >= newest) return;
  }
  Problem(absl::StrFormat("the disk has %d sectors", sectors));
}

void Workout::VerifyTags(const std::vector<uint64_t>& tags, uint64_t moment) {
  VerifySize(tags.size(), moment);
  if (!applied_.empty() && tags != applied_ && tags != tags_) {
    return Problem("going back to a snapshot is half done");
  }
  for (uint64_t i = 0; i < tags.size(); ++i) {
    if (history_->AllowsAfterCut(i, tags[i], moment)) continue;
    return Problem(absl::StrFormat("sector %d holds %x after moment %d, not one of%s", i, tags[i],
                                   moment, history_->Describe(i)));
  }
}

bool Workout::IsDirty(MemoryMedium& left) {
  MemoryFile file(*loop_, left);
  const absl::StatusOr<qcow2::Header> header =
      loop_->RunTask(ReadHeader(file, qcow2::Access::kInspect));
  return header.ok() && header->dirty();
}

void Workout::VerifyCheck(MemoryMedium& left, Leaks leaks) {
  MemoryFile file(*loop_, left);
  std::string findings;
  uint64_t flags = 0;
  CheckReport report = [&findings, &flags](const std::string& line) {
    findings += line + "\n";
    if (line.starts_with("ERROR OFLAG_COPIED")) ++flags;
  };
  const absl::StatusOr<CheckResult> result =
      loop_->RunTask(CheckImage(file, qcow2::Repair::kNone, &report));
  if (!result.ok()) {
    Problem(absl::StrCat("the check: ", result.status().ToString()));
  } else if (result->corruptions > (copied_flags_ ? flags : 0) || result->check_errors > 0 ||
             (result->leaks > 0 && leaks == Leaks::kNone)) {
    Problem(absl::StrCat("the check finds: ", findings));
  }
}

std::vector<uint64_t> Workout::VerifyMedium(MemoryMedium left, uint64_t moment) {
  const MemoryMedium data = data_;
  // With lazy refcounts a crash leaves them for the next one who opens the image to repair.
  const bool dirty = IsDirty(left);
  const bool flags_before = copied_flags_;
  copied_flags_ = copied_flags_ || !applied_.empty() || doubtful_.has_value();
  if (!dirty) VerifyCheck(left, Leaks::kAllowed);
  if (problem_.empty() && !dirty) VerifySnapshots(left, moment);
  absl::StatusOr<std::unique_ptr<BlockBackend>> opened = Open(FilesOf(left), OneIn(8));
  if (!opened.ok()) {
    Problem(absl::StrCat("opening it again: ", opened.status().ToString()));
    return {};
  }
  BlockBackend& disk = **opened;
  std::vector<uint64_t> tags = ReadTags(disk);
  if (problem_.empty()) VerifyTags(tags, moment);
  if (problem_.empty()) VerifyStatus(disk, tags);
  std::vector<uint64_t> now = tags;
  if (!disk.geometry().read_only) {
    // It takes writes again, and they harm nothing.
    for (int i = 0; i < 4 && problem_.empty(); ++i) {
      const uint64_t count = 1 + Below(std::min<uint64_t>(tags.size(), 40));
      const uint64_t sector = Below(tags.size() - count + 1);
      std::vector<uint8_t> bytes(count * kSectorBytes);
      for (uint64_t j = 0; j < count; ++j) {
        now[sector + j] = MakeTag(3, sector + j, Noise::kNo);
        FillSector(now[sector + j], std::span(bytes).subspan(j * kSectorBytes, kSectorBytes));
      }
      const iovec part = ToIoVec(std::span<uint8_t>(bytes));
      const absl::Status written =
          loop_->RunTask(disk.Write(sector * kSectorBytes, IoVecs(&part, 1)));
      if (!written.ok()) Problem(absl::StrCat("writing again: ", written.ToString()));
    }
    if (problem_.empty() && ReadTags(disk) != now) Problem("what is written again reads otherwise");
  }
  const bool read_only = disk.geometry().read_only;
  const absl::Status closed = loop_->RunTask(disk.Close());
  if (!closed.ok()) Problem(absl::StrCat("closing it again: ", closed.ToString()));
  opened->reset();
  if (problem_.empty() && !(dirty && read_only)) VerifyCheck(left, Leaks::kAllowed);
  copied_flags_ = flags_before;
  data_ = data;  // As it was left.
  return tags;
}

void Workout::VerifyCut(uint64_t moment, FaultyMedium::Loss loss) {
  std::mt19937 random(static_cast<uint32_t>(random_()));
  MemoryMedium left;
  left.bytes = medium_->AfterPowerCut(moment, loss, random);
  data_.bytes = data_medium_->AfterPowerCut(moment, loss, random);
  VerifyMedium(std::move(left), moment);
}

void Workout::VerifyLeft() {
  MemoryMedium left;
  left.bytes = medium_->bytes();
  data_.bytes = data_medium_->bytes();
  VerifyMedium(std::move(left), now());
}

void Workout::ContinueAfterCut(uint64_t moment, FaultyMedium::Loss loss) {
  std::mt19937 random(static_cast<uint32_t>(random_()));
  MemoryMedium left;
  left.bytes = medium_->AfterPowerCut(moment, loss, random);
  data_.bytes = data_medium_->AfterPowerCut(moment, loss, random);
  const std::vector<uint64_t> tags = VerifyMedium(left, moment);
  if (!problem_.empty()) return;
  leaks_ = true;
  copied_flags_ = copied_flags_ || !applied_.empty() || doubtful_.has_value();
  FindSnapshots(left);
  if (OneIn(2)) {
    MemoryFile file(*loop_, left);
    const bool all = OneIn(2);
    const absl::StatusOr<CheckResult> repaired =
        loop_->RunTask(CheckImage(file, all ? qcow2::Repair::kAll : qcow2::Repair::kLeaks));
    if (!repaired.ok()) return Problem(absl::StrCat("repairing: ", repaired.status().ToString()));
    leaks_ = IsDirty(left);
    if (all) copied_flags_ = false;
    if (!leaks_) VerifyCheck(left, Leaks::kNone);
  }
  Restart(std::move(left.bytes), tags);
}

void Workout::ContinueAfterClose() {
  MemoryMedium left;
  left.bytes = medium_->bytes();
  data_.bytes = data_medium_->bytes();
  const Leaks leaks = leaks_ || host_->failed() ? Leaks::kAllowed : Leaks::kNone;
  if (IsDirty(left) && !host_->failed()) Problem("it is dirty though it was closed");
  VerifyCheck(left, leaks);
  const std::vector<uint64_t> tags = VerifyMedium(left, now());
  if (!problem_.empty()) return;
  FindSnapshots(left);
  Restart(std::move(left.bytes), tags);
}

// --- Effort ---

uint64_t FirstSeed() {
  static const uint64_t seed = [] {
    const char* const text = std::getenv("VIREO_SEED");
    const std::string wanted = text == nullptr ? "1" : text;
    const uint64_t chosen =
        wanted == "random" ? std::random_device()() : std::strtoull(wanted.c_str(), nullptr, 10);
    std::printf("VIREO_SEED=%llu repeats this run\n", static_cast<unsigned long long>(chosen));
    return chosen;
  }();
  return seed;
}

uint64_t Scaled(uint64_t amount, const DiskShape& shape) {
  const char* const text = std::getenv("VIREO_EFFORT");
  uint64_t percent = text == nullptr ? 100 : std::strtoull(text, nullptr, 10);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  percent = std::max<uint64_t>(percent / 10, 1);
#endif
  return std::max<uint64_t>(amount * percent / 100 / shape.cost, 1);
}

}  // namespace vireo
