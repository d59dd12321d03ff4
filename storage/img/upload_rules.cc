#include "storage/img/upload_rules.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/iovecs.h"
#include "base/status.h"
#include "storage/probe.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/snapshots.h"

namespace vireo::img {
namespace {

class Judge {
 public:
  Judge(File& file, const UploadLimits& limits) : file_(file), limits_(limits) {}

  Task<absl::Status> JudgeRaw();
  Task<absl::Status> JudgeQcow2();
  UploadVerdict& verdict() { return verdict_; }

 private:
  template <typename... Args>
  void Break(const char* rule, const absl::FormatSpec<Args...>& format, const Args&... args) {
    verdict_.broken.push_back({rule, absl::StrFormat(format, args...)});
  }
  // What the bytes at the start, or at the end, say that they are; "raw" if nothing.
  Task<absl::StatusOr<std::string>> Probe();
  void JudgeHeader(const qcow2::Header& header);
  Task<absl::Status> JudgeSnapshots(const qcow2::Header& header);
  Task<absl::Status> JudgeContent(const qcow2::Header& header);
  void JudgeSize(uint64_t bytes);

  File& file_;
  const UploadLimits limits_;
  UploadVerdict verdict_;
};

// An error of the host, not of the image.
bool IsOfTheHost(const absl::Status& status) { return StatusErrno(status) != 0; }

Task<absl::StatusOr<std::string>> Judge::Probe() {
  std::array<uint8_t, kProbeBytes> bytes = {};
  const size_t length = std::min<uint64_t>(bytes.size(), file_.size());
  const iovec part = ToIoVec(std::span<uint8_t>(bytes).first(length));
  CO_RETURN_IF_ERROR(co_await file_.Read(0, IoVecs(&part, 1)));
  std::string found = ProbeFormat(std::span<const uint8_t>(bytes).first(length));
  if (found != "raw" || file_.size() < bytes.size()) co_return found;
  // A VHD of fixed size has its mark at the end.
  const iovec whole = ToIoVec(std::span<uint8_t>(bytes));
  CO_RETURN_IF_ERROR(co_await file_.Read(file_.size() - bytes.size(), IoVecs(&whole, 1)));
  found = ProbeFormat(bytes);
  co_return found == "vpc" ? found : "raw";
}

void Judge::JudgeSize(uint64_t bytes) {
  verdict_.virtual_bytes = bytes;
  if (bytes == 0) Break("virtual-size", "the disk has no bytes");
  if (bytes > limits_.max_virtual_bytes) {
    Break("virtual-size", "the disk has %d bytes, more than %d", bytes, limits_.max_virtual_bytes);
  }
}

Task<absl::Status> Judge::JudgeRaw() {
  CO_ASSIGN_OR_RETURN(const std::string found, co_await Probe());
  if (found != "raw") {
    Break("format", "stated as raw, but the bytes are those of a %s image", found);
  }
  JudgeSize(AlignUp<uint64_t>(file_.size(), 512));
  co_return absl::OkStatus();
}

Task<absl::Status> Judge::JudgeQcow2() {
  CO_ASSIGN_OR_RETURN(const std::string found, co_await Probe());
  if (found != "qcow2") {
    Break("format", "stated as qcow2, but the bytes are those of a %s image", found);
    co_return absl::OkStatus();
  }
  const absl::StatusOr<qcow2::Header> header =
      co_await qcow2::ReadHeader(file_, qcow2::Access::kInspect);
  if (IsOfTheHost(header.status())) co_return header.status();
  if (!header.ok()) {
    const char* rule = "header";
    if (absl::IsInvalidArgument(header.status())) rule = "format";
    if (absl::IsUnimplemented(header.status())) rule = "features";
    Break(rule, "%s", std::string(header.status().message()));
    co_return absl::OkStatus();
  }
  JudgeHeader(*header);
  JudgeSize(header->size_bytes);
  CO_RETURN_IF_ERROR(co_await JudgeSnapshots(*header));
  const absl::Status status = co_await JudgeContent(*header);
  co_return status;
}

void Judge::JudgeHeader(const qcow2::Header& header) {
  if (header.backing_file.has_value()) {
    Break("backing-file", "it names the backing file \"%s\"",
          absl::CHexEscape(*header.backing_file));
  }
  if (header.data_file.has_value() || (header.incompatible & qcow2::kIncompatibleDataFile) != 0) {
    Break("data-file", "it keeps its data in another file, \"%s\"",
          absl::CHexEscape(header.data_file.value_or("")));
  }
  if (header.crypt_method != 0) {
    Break("encryption", "it is encrypted (method %d)", header.crypt_method);
  }
  const uint64_t incompatible = header.incompatible & ~qcow2::kKnownIncompatible;
  const uint64_t compatible = header.compatible & ~qcow2::kCompatibleLazyRefcounts;
  const uint64_t autoclear =
      header.autoclear & ~(qcow2::kAutoclearBitmaps | qcow2::kAutoclearRawDataFile);
  if (incompatible != 0 || compatible != 0 || autoclear != 0) {
    Break("features",
          "it has features that nobody knows: incompatible bits 0x%x, compatible bits 0x%x, "
          "autoclear bits 0x%x",
          incompatible, compatible, autoclear);
  }
  if (header.dirty()) Break("clean", "it was not closed cleanly");
  if (header.corrupt()) Break("clean", "it is marked as corrupt");
}

Task<absl::Status> Judge::JudgeSnapshots(const qcow2::Header& header) {
  if (header.snapshot_count == 0) co_return absl::OkStatus();
  if (!limits_.allow_snapshots) {
    Break("snapshots", "it has %d internal snapshots", header.snapshot_count);
  }
  const absl::StatusOr<qcow2::SnapshotTable> table =
      co_await qcow2::ReadSnapshotTable(file_, header);
  if (IsOfTheHost(table.status())) co_return table.status();
  if (!table.ok()) {
    Break("header", "%s", std::string(table.status().message()));
    co_return absl::OkStatus();
  }
  for (const qcow2::Snapshot& snapshot : table->snapshots) {
    const absl::Status sound = qcow2::CheckSnapshotL1(file_, header.layout, snapshot);
    if (!sound.ok()) Break("header", "%s", std::string(sound.message()));
    if (snapshot.disk_bytes > limits_.max_virtual_bytes) {
      Break("virtual-size", "the disk of snapshot %s has %d bytes, more than %d",
            absl::CHexEscape(snapshot.id), snapshot.disk_bytes, limits_.max_virtual_bytes);
    }
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Judge::JudgeContent(const qcow2::Header& header) {
  // What cannot be read as a whole cannot be checked; it is refused already.
  for (const BrokenRule& broken : verdict_.broken) {
    if (broken.rule == "header" || broken.rule == "data-file" || broken.rule == "features" ||
        broken.rule == "encryption") {
      co_return absl::OkStatus();
    }
  }
  const absl::StatusOr<qcow2::CheckResult> result =
      co_await qcow2::CheckImage(file_, qcow2::Repair::kNone);
  if (IsOfTheHost(result.status())) co_return result.status();
  if (result.ok() && IsOfTheHost(result->stopped)) co_return result->stopped;
  if (!result.ok()) {
    Break("check", "%s", std::string(result.status().message()));
    co_return absl::OkStatus();
  }
  if (result->corruptions > 0 || result->check_errors > 0) {
    Break("check", "its metadata has %d errors", result->corruptions + result->check_errors);
  }
  const uint64_t cluster_bytes = header.layout.cluster_bytes();
  // Nothing that is sound needs more: the disk and each snapshot of it, their tables and counts.
  const uint64_t trees = uint64_t{1} + header.snapshot_count;
  const std::optional<uint64_t> largest =
      CheckedMul<uint64_t>(header.size_bytes + header.size_bytes / 8 + 64 * cluster_bytes, trees);
  if (largest.has_value() && file_.size() > *largest) {
    Break("file-size", "the file has %d bytes, where its disk needs no more than %d", file_.size(),
          *largest);
  }
  const std::optional<uint64_t> expanded =
      CheckedMul<uint64_t>(result->allocated_clusters, cluster_bytes);
  const std::optional<uint64_t> allowed =
      CheckedMul<uint64_t>(std::max<uint64_t>(file_.size(), 1), limits_.max_ratio);
  if (!expanded.has_value() || (allowed.has_value() && *expanded > *allowed)) {
    Break("ratio", "its clusters hold %d bytes, more than %d times those of the file",
          expanded.value_or(UINT64_MAX), limits_.max_ratio);
  }
  co_return absl::OkStatus();
}

}  // namespace

Task<absl::StatusOr<UploadVerdict>> JudgeUpload(File& file, UploadLimits limits) {
  Judge judge(file, limits);
  absl::Status judged;
  if (limits.format == ImageFormat::kRaw) {
    judged = co_await judge.JudgeRaw();
  } else {
    judged = co_await judge.JudgeQcow2();
  }
  CO_RETURN_IF_ERROR(judged);
  co_return std::move(judge.verdict());
}

}  // namespace vireo::img
