// vireo-img verify-upload: may this stranger's image become a template? Exit status: 0 accepted, 1
// refused, 2 could not tell.

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/img/arguments.h"
#include "storage/img/json.h"
#include "storage/img/size.h"
#include "storage/img/size_argument.h"
#include "storage/img/tool.h"
#include "storage/img/upload_rules.h"

namespace vireo::img {
namespace {

constexpr int kRefused = 1;
constexpr int kCouldNotTell = 2;

Task<absl::StatusOr<UploadVerdict>> JudgeFile(EventLoop& loop, Opener& opener, std::string path,
                                              LockMode lock, UploadLimits limits) {
  HostFile::Options options = {.path = std::move(path), .read_only = true, .lock = lock};
  absl::StatusOr<std::unique_ptr<File>> file =
      co_await HostFile::Open(loop, opener, std::move(options));
  CO_RETURN_IF_ERROR(file.status());
  absl::StatusOr<UploadVerdict> verdict = co_await JudgeUpload(**file, limits);
  const absl::Status closed = co_await (*file)->Close();
  CO_RETURN_IF_ERROR(verdict.status());
  CO_RETURN_IF_ERROR(closed);
  co_return verdict;
}

void PrintJson(const Tool& tool, const std::string& path, ImageFormat format,
               const UploadVerdict& verdict) {
  Json failures = Json::Array();
  for (const BrokenRule& broken : verdict.broken) {
    Json failure = Json::Object();
    failure.Add("rule", broken.rule).Add("reason", broken.reason);
    failures.Append(std::move(failure));
  }
  Json json = Json::Object();
  json.Add("filename", path)
      .Add("format", ImageFormatName(format))
      .Add("verdict", verdict.accepted() ? "accepted" : "refused")
      .Add("virtual-size", verdict.virtual_bytes)
      .Add("failures", std::move(failures));
  tool.Print("%s\n", json.ToString());
}

void PrintHuman(const Tool& tool, const std::string& path, const UploadVerdict& verdict) {
  if (verdict.accepted()) {
    tool.Print("%s: accepted, a disk of %s (%d bytes)\n", path, FormatSize(verdict.virtual_bytes),
               verdict.virtual_bytes);
    return;
  }
  tool.Print("%s: refused\n", path);
  for (const BrokenRule& broken : verdict.broken) {
    tool.Print("    %s: %s\n", broken.rule, broken.reason);
  }
}

}  // namespace

int VerifyUpload(const Tool& tool, const std::vector<std::string>& args) {
  const auto could_not_tell = [](int) { return kCouldNotTell; };
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'q', "quiet", false},
                                                                 {'f', "format", true},
                                                                 {0, "max-virtual-size", true},
                                                                 {0, "max-ratio", true},
                                                                 {0, "allow-snapshots", false},
                                                                 {0, "output", true},
                                                                 {'U', "force-share", false}});
  if (!parsed.ok()) {
    return could_not_tell(tool.FailUsage("%s", std::string(parsed.status().message())));
  }
  UploadLimits limits = {.allow_snapshots = parsed->Has("allow-snapshots")};
  if (const auto name = parsed->Value("f")) {
    const std::optional<ImageFormat> format = ImageFormatFromName(*name);
    if (!format.has_value()) {
      return could_not_tell(tool.Fail("-f %s: a template is qcow2 or raw", *name));
    }
    limits.format = *format;
  }
  if (const auto text = parsed->Value("max-virtual-size")) {
    const std::optional<uint64_t> bytes = SizeArgument(tool, "maximum virtual size", *text);
    if (!bytes.has_value()) return kCouldNotTell;
    limits.max_virtual_bytes = *bytes;
  }
  if (const auto text = parsed->Value("max-ratio")) {
    if (!absl::SimpleAtoi(*text, &limits.max_ratio) || limits.max_ratio == 0) {
      return could_not_tell(tool.Fail("--max-ratio=%s: a whole number from 1 on", *text));
    }
  }
  const std::string output = parsed->Value("output").value_or("human");
  if (output != "human" && output != "json") {
    return could_not_tell(tool.Fail("--output must be used with human or json as argument."));
  }
  if (parsed->operands.size() != 1) {
    return could_not_tell(tool.FailUsage("Expecting one image file name"));
  }
  const std::string& path = parsed->operands[0];
  const LockMode lock = parsed->Has("U") ? LockMode::kNone : LockMode::kShared;
  const absl::StatusOr<UploadVerdict> verdict =
      tool.loop.RunTask(JudgeFile(tool.loop, tool.opener, path, lock, limits));
  if (!verdict.ok()) {
    return could_not_tell(tool.Fail("%s", std::string(verdict.status().message())));
  }
  if (output == "json") {
    PrintJson(tool, path, limits.format, *verdict);
  } else if (!parsed->Has("q")) {
    PrintHuman(tool, path, *verdict);
  }
  return verdict->accepted() ? 0 : kRefused;
}

}  // namespace vireo::img
