// vireo-img check: compares an image's refcounts with its references, and mends them on request.
// Exit status: 0 clean, 1 could not be done, 2 corruptions, 3 leaks only, 63 no such check.

#include "storage/qcow2/check.h"

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/img/arguments.h"
#include "storage/img/image_file.h"
#include "storage/img/json.h"
#include "storage/img/tool.h"
#include "storage/open_image.h"

namespace vireo::img {
namespace {

using qcow2::CheckResult;
using qcow2::Repair;

constexpr int kNoSuchCheck = 63;

// What one look at the image found; nothing to check in its format.
struct Checked {
  ImageFormat format = ImageFormat::kRaw;
  CheckResult result;
};

Task<absl::StatusOr<Checked>> CheckOnce(EventLoop& loop, Opener& opener, SourceOptions options,
                                        Repair repair, qcow2::CheckReport* report) {
  options.read_only = repair == Repair::kNone;
  const std::string name = options.name;
  CO_ASSIGN_OR_RETURN(const ImageFile image,
                      co_await OpenImageFile(loop, opener, std::move(options)));
  Checked checked = {.format = image.format};
  absl::Status status;
  if (image.format == ImageFormat::kQcow2) {
    const absl::StatusOr<CheckResult> result =
        co_await qcow2::CheckImage(*image.file, repair, report);
    if (result.ok()) {
      checked.result = *result;
    } else {
      status = CouldNotOpen(name, result.status());
    }
  }
  const absl::Status closed = co_await image.file->Close();
  CO_RETURN_IF_ERROR(status);
  CO_RETURN_IF_ERROR(closed);
  co_return checked;
}

Json ToJson(const std::string& path, const CheckResult& result) {
  Json json = Json::Object();
  const auto add = [&json](const char* key, uint64_t value) {
    if (value != 0) json.Add(key, value);
  };
  // QEMU's order.
  add("image-end-offset", result.image_end_offset);
  add("compressed-clusters", result.compressed_clusters);
  add("total-clusters", result.total_clusters);
  add("corruptions", result.corruptions);
  add("corruptions-fixed", result.corruptions_fixed);
  json.Add("check-errors", result.check_errors);
  add("leaks-fixed", result.leaks_fixed);
  add("leaks", result.leaks);
  add("allocated-clusters", result.allocated_clusters);
  json.Add("filename", path);
  json.Add("format", "qcow2");
  add("fragmented-clusters", result.fragmented_clusters);
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
                                                                 {0, "image-opts", false},
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
  const std::string cache_name = parsed->Value("T").value_or("writeback");
  const std::optional<CacheMode> cache = ParseCacheMode(cache_name);
  if (parsed->operands.size() != 1) return tool.FailUsage("Expecting one image file name");
  if (!cache.has_value()) return tool.Fail("Invalid source cache option: %s", cache_name);
  const std::string& path = parsed->operands[0];
  const SourceOptions options = {.name = path,
                                 .format = parsed->Value("f"),
                                 .image_opts = parsed->Has("image-opts"),
                                 .share = parsed->Has("U"),
                                 .cache = *cache,
                                 .secrets = tool.secrets};
  if (options.image_opts && options.format.has_value()) {
    return tool.Fail("--image-opts and --format are mutually exclusive");
  }
  const bool quiet = parsed->Has("q");
  qcow2::CheckReport report = [&tool](const std::string& line) {
    std::fflush(tool.out);
    std::fprintf(tool.err, "%s\n", line.c_str());
  };
  absl::StatusOr<Checked> checked =
      tool.loop.RunTask(CheckOnce(tool.loop, tool.opener, options, repair, &report));
  if (!checked.ok()) return tool.Fail("%s", std::string(checked.status().message()));
  if (checked->format != ImageFormat::kQcow2) {
    tool.Fail("This image format does not support checks");
    return kNoSuchCheck;
  }
  CheckResult* result = &checked->result;
  if (result->stopped.ok() && (result->leaks_fixed > 0 || result->corruptions_fixed > 0)) {
    const CheckResult fixed = *result;
    if (output == "human" && !quiet) {
      tool.Print(
          "The following inconsistencies were found and repaired:\n\n"
          "    %d leaked clusters\n    %d corruptions\n\n"
          "Double checking the fixed image now...\n",
          fixed.leaks_fixed, fixed.corruptions_fixed);
    }
    checked = tool.loop.RunTask(CheckOnce(tool.loop, tool.opener, options, Repair::kNone, &report));
    if (!checked.ok()) return tool.Fail("%s", std::string(checked.status().message()));
    result = &checked->result;
    result->leaks_fixed = fixed.leaks_fixed;
    result->corruptions_fixed = fixed.corruptions_fixed;
  }
  if (!result->stopped.ok()) {
    const int error = StatusErrno(result->stopped);
    return tool.Fail("Check failed: %s", error != 0 ? std::string(std::strerror(error))
                                                    : std::string(result->stopped.message()));
  }
  if (!quiet && output == "json") tool.Print("%s\n", ToJson(path, *result).ToString());
  if (!quiet && output == "human") PrintHuman(tool, *result);
  if (result->check_errors > 0) return tool.Fail("Check failed");
  if (result->corruptions > 0) return 2;
  if (result->leaks > 0) return 3;
  return 0;
}

}  // namespace vireo::img
