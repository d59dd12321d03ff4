// vireo-img check: compares an image's refcounts with its references, and mends them on request.
// Exit status: 0 clean, 1 could not be done, 2 corruptions, 3 leaks only, 63 no such check.

#include "storage/qcow2/check.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/img/arguments.h"
#include "storage/img/json.h"
#include "storage/img/tool.h"
#include "storage/open_image.h"
#include "storage/qcow2/header_reader.h"

namespace vireo::img {
namespace {

using qcow2::CheckResult;
using qcow2::Repair;

constexpr int kNoSuchCheck = 63;

Task<absl::StatusOr<bool>> LooksLikeQcow2(EventLoop& loop, Opener& opener, std::string path,
                                          LockMode lock) {
  HostFile::Options options = {.path = std::move(path), .read_only = true, .lock = lock};
  absl::StatusOr<std::unique_ptr<File>> file =
      co_await HostFile::Open(loop, opener, std::move(options));
  CO_RETURN_IF_ERROR(file.status());
  const absl::StatusOr<qcow2::Header> header =
      co_await qcow2::ReadHeader(**file, qcow2::Access::kInspect);
  CO_RETURN_IF_ERROR(co_await (*file)->Close());
  co_return !absl::IsInvalidArgument(header.status());
}

Task<absl::StatusOr<CheckResult>> CheckOnce(EventLoop& loop, Opener& opener, std::string path,
                                            LockMode lock, Repair repair,
                                            qcow2::CheckReport* report) {
  HostFile::Options options = {
      .path = std::move(path), .read_only = repair == Repair::kNone, .lock = lock};
  absl::StatusOr<std::unique_ptr<File>> file =
      co_await HostFile::Open(loop, opener, std::move(options));
  CO_RETURN_IF_ERROR(file.status());
  const absl::StatusOr<CheckResult> result = co_await qcow2::CheckImage(**file, repair, report);
  const absl::Status closed = co_await (*file)->Close();
  CO_RETURN_IF_ERROR(result.status());
  CO_RETURN_IF_ERROR(closed);
  co_return *result;
}

Json ToJson(const std::string& path, const CheckResult& result) {
  Json json = Json::Object();
  const auto add = [&json](const char* key, uint64_t value) {
    if (value != 0) json.Add(key, value);
  };
  add("image-end-offset", result.image_end_offset);
  add("total-clusters", result.total_clusters);
  if (result.allocated_clusters != 0) json.Add("allocated-clusters", result.allocated_clusters);
  add("fragmented-clusters", result.fragmented_clusters);
  add("compressed-clusters", result.compressed_clusters);
  add("leaks", result.leaks);
  add("corruptions", result.corruptions);
  add("leaks-fixed", result.leaks_fixed);
  add("corruptions-fixed", result.corruptions_fixed);
  json.Add("check-errors", result.check_errors);
  json.Add("filename", path);
  json.Add("format", "qcow2");
  return json;
}

void PrintHuman(const Tool& tool, const CheckResult& result) {
  if (result.clean()) tool.Print("No errors were found on the image.\n");
  if (result.corruptions > 0) {
    tool.Print(
        "\n%d errors were found on the image.\n"
        "Data may be corrupted, or further writes to the image may corrupt it.\n",
        result.corruptions);
  }
  if (result.leaks > 0) {
    tool.Print(
        "\n%d leaked clusters were found on the image.\n"
        "This means waste of disk space, but no harm to data.\n",
        result.leaks);
  }
  if (result.check_errors > 0) {
    tool.Print("\n%d internal errors have occurred during the check.\n", result.check_errors);
  }
  if (result.total_clusters != 0 && result.allocated_clusters != 0) {
    const double allocated = static_cast<double>(result.allocated_clusters);
    tool.Print("%d/%d = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
               result.allocated_clusters, result.total_clusters,
               allocated * 100 / static_cast<double>(result.total_clusters),
               static_cast<double>(result.fragmented_clusters) * 100 / allocated,
               static_cast<double>(result.compressed_clusters) * 100 / allocated);
  }
  if (result.image_end_offset != 0) {
    tool.Print("Image end offset: %d\n", result.image_end_offset);
  }
}

}  // namespace

int Check(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'q', "quiet", false},
                                                                 {'f', "format", true},
                                                                 {'r', "repair", true},
                                                                 {'T', nullptr, true},
                                                                 {0, "output", true},
                                                                 {'U', "force-share", false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  const std::string output = parsed->Value("output").value_or("human");
  if (output != "human" && output != "json") {
    return tool.Fail("--output must be used with human or json as argument.");
  }
  Repair repair = Repair::kNone;
  if (const auto wanted = parsed->Value("r")) {
    if (*wanted == "leaks") {
      repair = Repair::kLeaks;
    } else if (*wanted == "all") {
      repair = Repair::kAll;
    } else {
      return tool.FailUsage("Unknown option value for -r (expecting 'leaks' or 'all'): %s",
                            *wanted);
    }
  }
  if (parsed->operands.size() != 1) return tool.FailUsage("Expecting one image file name");
  const std::string& path = parsed->operands[0];
  const bool share = parsed->Has("U");
  std::optional<ImageFormat> format;
  if (const auto name = parsed->Value("f")) {
    format = ImageFormatFromName(*name);
    if (!format.has_value()) return tool.Fail("Unknown driver '%s'", *name);
  } else {
    // Looking is enough to say that there is nothing to check; nothing else trusts it.
    const absl::StatusOr<bool> qcow2 = tool.loop.RunTask(
        LooksLikeQcow2(tool.loop, tool.opener, path, share ? LockMode::kNone : LockMode::kShared));
    if (!qcow2.ok()) {
      return tool.Fail("Could not open '%s': %s", path, std::string(qcow2.status().message()));
    }
    format = *qcow2 ? ImageFormat::kQcow2 : ImageFormat::kRaw;
  }
  if (*format == ImageFormat::kRaw) {
    tool.Fail("This image format does not support checks");
    return kNoSuchCheck;
  }

  const bool quiet = parsed->Has("q");
  qcow2::CheckReport report = [&tool, quiet](const std::string& line) {
    if (quiet) return;
    std::fflush(tool.out);
    std::fprintf(tool.err, "%s\n", line.c_str());
  };
  const auto lock_for = [share](Repair mode) {
    if (share) return LockMode::kNone;
    return mode == Repair::kNone ? LockMode::kShared : LockMode::kExclusive;
  };
  absl::StatusOr<CheckResult> result =
      tool.loop.RunTask(CheckOnce(tool.loop, tool.opener, path, lock_for(repair), repair, &report));
  if (!result.ok()) {
    return tool.Fail("Could not open '%s': %s", path, std::string(result.status().message()));
  }
  if (result->leaks_fixed > 0 || result->corruptions_fixed > 0) {
    const CheckResult fixed = *result;
    if (output == "human" && !quiet) {
      tool.Print(
          "The following inconsistencies were found and repaired:\n\n"
          "    %d leaked clusters\n    %d corruptions\n\n"
          "Double checking the fixed image now...\n",
          fixed.leaks_fixed, fixed.corruptions_fixed);
    }
    result = tool.loop.RunTask(
        CheckOnce(tool.loop, tool.opener, path, lock_for(Repair::kNone), Repair::kNone, &report));
    if (!result.ok()) {
      return tool.Fail("Could not open '%s': %s", path, std::string(result.status().message()));
    }
    result->leaks_fixed = fixed.leaks_fixed;
    result->corruptions_fixed = fixed.corruptions_fixed;
  }
  if (output == "json") {
    tool.Print("%s\n", ToJson(path, *result).ToString());
  } else if (!quiet) {
    PrintHuman(tool, *result);
  }
  if (result->check_errors > 0) return 1;
  if (result->corruptions > 0) return 2;
  if (result->leaks > 0) return 3;
  return 0;
}

}  // namespace vireo::img
