// vireo-img snapshot: lists, makes, deletes and goes back to internal snapshots.

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "storage/img/arguments.h"
#include "storage/img/snapshot_list.h"
#include "storage/img/source.h"
#include "storage/img/tool.h"
#include "storage/img/whole_file.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/snapshot_edit.h"
#include "storage/qcow2/snapshots.h"

namespace vireo::img {
namespace {

enum class Action { kNothing, kList, kCreate, kDelete, kApply };

// qemu-img keeps this much of a name.
constexpr size_t kMaxNameBytes = 255;

struct Request {
  Action action = Action::kNothing;
  std::string snapshot;
  SourceOptions source;
};

struct Outcome {
  ImageFormat format = ImageFormat::kRaw;
  std::vector<qcow2::Snapshot> snapshots;
  std::string warning;
  absl::Status status;  // Of the action; the image could be opened.
};

Task<absl::StatusOr<std::vector<qcow2::Snapshot>>> ReadSnapshots(File& file, bool read_only) {
  const qcow2::Access access = read_only ? qcow2::Access::kInspect : qcow2::Access::kReadWrite;
  CO_ASSIGN_OR_RETURN(const qcow2::Header header, co_await qcow2::ReadHeader(file, access));
  CO_ASSIGN_OR_RETURN(qcow2::SnapshotTable table, co_await qcow2::ReadSnapshotTable(file, header));
  co_return std::move(table.snapshots);
}

// Deleting goes by name alone, going back by id or name, as in qemu-img.
const qcow2::Snapshot* Find(const std::vector<qcow2::Snapshot>& snapshots, Action action,
                            const std::string& text) {
  if (action == Action::kApply) return qcow2::FindSnapshot(snapshots, text);
  for (const qcow2::Snapshot& snapshot : snapshots) {
    if (snapshot.name == text) return &snapshot;
  }
  return nullptr;
}

Task<absl::Status> Act(EventLoop& loop, File& file, const Request& request,
                       const std::vector<qcow2::Snapshot>& snapshots) {
  if (request.action == Action::kCreate) {
    const absl::Time now = absl::Now();
    const int64_t seconds = absl::ToUnixSeconds(now);
    const int64_t microseconds = absl::ToUnixMicros(now) % 1000000;
    qcow2::NewSnapshot wanted = {.name = request.snapshot.substr(0, kMaxNameBytes),
                                 .date_seconds = static_cast<uint32_t>(seconds),
                                 .date_nanoseconds = static_cast<uint32_t>(microseconds * 1000)};
    const absl::StatusOr<std::string> id =
        co_await qcow2::CreateSnapshot(loop, file, std::move(wanted));
    co_return id.status();
  }
  const qcow2::Snapshot* const found = Find(snapshots, request.action, request.snapshot);
  if (found == nullptr) co_return absl::NotFoundError("");
  std::string id = found->id;
  if (request.action == Action::kDelete) {
    const absl::Status deleted = co_await qcow2::DeleteSnapshot(loop, file, std::move(id));
    co_return deleted;
  }
  const absl::Status applied = co_await qcow2::ApplySnapshot(loop, file, std::move(id));
  co_return applied;
}

Task<absl::StatusOr<Outcome>> Perform(EventLoop& loop, Opener& opener, const Request& request) {
  absl::StatusOr<WholeFile> source = co_await OpenWholeFile(loop, opener, request.source);
  CO_RETURN_IF_ERROR(source.status());
  Outcome outcome = {.format = source->format, .warning = source->warning};
  if (source->format == ImageFormat::kQcow2) {
    absl::StatusOr<std::vector<qcow2::Snapshot>> snapshots =
        co_await ReadSnapshots(*source->file, request.source.read_only);
    if (!snapshots.ok()) {
      const absl::Status closed = co_await source->file->Close();
      co_return Annotate(snapshots.status(),
                         absl::StrFormat("Could not open '%s'", request.source.name));
    }
    outcome.snapshots = *std::move(snapshots);
    if (request.action != Action::kNothing && request.action != Action::kList) {
      outcome.status = co_await Act(loop, *source->file, request, outcome.snapshots);
    }
  } else if (request.action != Action::kNothing && request.action != Action::kList) {
    outcome.status =
        request.action == Action::kDelete ? absl::NotFoundError("") : absl::UnimplementedError("");
  }
  const absl::Status closed = co_await source->file->Close();
  if (outcome.status.ok()) outcome.status = closed;
  co_return outcome;
}

// qemu-img's number for what went wrong, and ours words.
std::string WhyNotCreated(const absl::Status& status) {
  int error = StatusErrno(status);
  if (error == 0) error = absl::IsUnimplemented(status) ? EOPNOTSUPP : EINVAL;
  std::string why = absl::StrFormat("-%d (%s)", error, std::strerror(error));
  if (!absl::IsUnimplemented(status)) why += ": " + std::string(status.message());
  return why;
}

int FailAction(const Tool& tool, const Request& request, const Outcome& outcome) {
  const std::string& name = request.snapshot;
  const absl::Status& status = outcome.status;
  const std::string why(status.message());
  switch (request.action) {
    case Action::kCreate:
      return tool.Fail("Could not create snapshot '%s': %s", name, WhyNotCreated(status));
    case Action::kDelete:
      if (absl::IsNotFound(status)) {
        return tool.Fail("Could not delete snapshot '%s': snapshot not found", name);
      }
      return tool.Fail("Could not delete snapshot '%s': %s", name, why);
    default:
      break;
  }
  std::string text = "Failed to load snapshot: " + why;
  if (absl::IsNotFound(status)) text = "Failed to load snapshot: No such file or directory";
  if (absl::IsFailedPrecondition(status)) text = "Device has active dirty bitmaps";
  if (absl::IsUnimplemented(status)) {
    text = outcome.format == ImageFormat::kQcow2
               ? "Failed to load snapshot: Operation not supported"
               : "Block driver does not support snapshots";
  }
  return tool.Fail("Could not apply snapshot '%s': %s", name, text);
}

}  // namespace

int Snapshot(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'l', nullptr, false},
                                                                 {'a', nullptr, true},
                                                                 {'c', nullptr, true},
                                                                 {'d', nullptr, true},
                                                                 {'q', "quiet", false},
                                                                 {'U', "force-share", false},
                                                                 {0, "image-opts", false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  Request request;
  for (const auto& [option, value] : parsed->options) {
    Action action = Action::kNothing;
    if (option == "l") action = Action::kList;
    if (option == "a") action = Action::kApply;
    if (option == "c") action = Action::kCreate;
    if (option == "d") action = Action::kDelete;
    if (action == Action::kNothing) continue;
    if (request.action != Action::kNothing) {
      return tool.FailUsage("Cannot mix '-l', '-a', '-c', '-d'");
    }
    request.action = action;
    request.snapshot = value;
  }
  if (parsed->operands.size() != 1) return tool.FailUsage("Expecting one image file name");
  request.source = {.name = parsed->operands[0],
                    .image_opts = parsed->Has("image-opts"),
                    .read_only = request.action == Action::kList,
                    .share = parsed->Has("U"),
                    .secrets = tool.secrets};
  const absl::StatusOr<Outcome> outcome =
      tool.loop.RunTask(Perform(tool.loop, tool.opener, request));
  if (!outcome.ok()) return tool.Fail("%s", std::string(outcome.status().message()));
  std::fputs(outcome->warning.c_str(), tool.err);
  if (!outcome->status.ok()) return FailAction(tool, request, *outcome);
  if (request.action == Action::kList) tool.Print("%s", SnapshotList(outcome->snapshots));
  return 0;
}

}  // namespace vireo::img
