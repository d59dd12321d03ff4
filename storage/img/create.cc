// vireo-img create: an empty image, or a linked clone of another.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "storage/img/arguments.h"
#include "storage/img/new_image.h"
#include "storage/img/size_argument.h"
#include "storage/img/source.h"
#include "storage/img/tool.h"
#include "storage/img/unfinished_files.h"
#include "storage/open_image.h"

namespace vireo::img {
namespace {

// The size of the backing file's disk; all of its chain can be opened.
Task<absl::StatusOr<uint64_t>> BackingSize(EventLoop& loop, Opener& opener, std::string path,
                                           std::string format) {
  ImageOptions options = {.path = path, .read_only = true};
  const std::optional<ImageFormat> known = ImageFormatFromName(format);
  if (!known.has_value()) {
    co_return absl::InvalidArgumentError(absl::StrCat("Unknown driver '", format, "'"));
  }
  options.format = *known;
  absl::StatusOr<std::unique_ptr<BlockBackend>> disk =
      co_await OpenImage(loop, opener, std::move(options));
  if (!disk.ok()) {
    const int error = StatusErrno(disk.status());
    if (error == 0) co_return disk.status();
    co_return ErrnoStatus(error, absl::StrCat("Could not open '", path, "'"));
  }
  const uint64_t size = (*disk)->geometry().size_bytes;
  CO_RETURN_IF_ERROR(co_await (*disk)->Close());
  co_return size;
}

// What a backing file says about the image: its size when that was not given.
absl::Status SettleBacking(const Tool& tool, const std::string& path, bool open, NewImage& wanted) {
  const std::string name = *wanted.Get("backing_file");
  if (name.empty())
    return absl::InvalidArgumentError("Expected backing file name, got empty string");
  if (name == path) {
    return absl::InvalidArgumentError(
        "Error: Trying to create an image with the same filename as the backing file");
  }
  const std::optional<std::string> format = wanted.Get("backing_fmt");
  if (!format.has_value() || format->empty()) {
    return absl::InvalidArgumentError("Backing file specified without backing format");
  }
  if (!open) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string backing_path, BackingFilePath(path, name));
  const absl::StatusOr<uint64_t> size =
      tool.loop.RunTask(BackingSize(tool.loop, tool.opener, backing_path, *format));
  if (!size.ok()) {
    return absl::Status(size.status().code(), absl::StrCat(std::string(size.status().message()),
                                                           "\nCould not open backing image."));
  }
  if (wanted.size_bytes().has_value()) return absl::OkStatus();
  return wanted.Set("size", absl::StrCat(*size));
}

}  // namespace

int Create(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'q', "quiet", false},
                                                                 {'f', nullptr, true},
                                                                 {'b', nullptr, true},
                                                                 {'F', nullptr, true},
                                                                 {'o', nullptr, true},
                                                                 {'u', nullptr, false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  std::string options;
  for (const auto& [option, text] : parsed->options) {
    if (option != "o") continue;
    if (const absl::Status list = CheckOptionList(text); !list.ok()) {
      return tool.Fail("%s", std::string(list.message()));
    }
    absl::StrAppend(&options, options.empty() ? "" : ",", text);
  }
  const std::string format_name = parsed->Value("f").value_or("raw");
  const std::optional<ImageFormat> format = ImageFormatFromName(format_name);
  if (AsksForHelp(options)) {
    if (!format.has_value()) return tool.Fail("Unknown file format '%s'", format_name);
    tool.Print("%s", OptionsHelp(*format, parsed->operands.empty() ? HelpOf::kFormat
                                                                   : HelpOf::kFormatAndFile));
    return 0;
  }
  if (parsed->operands.empty()) return tool.FailUsage("Expecting image file name");
  const std::string& path = parsed->operands[0];
  std::optional<uint64_t> size;
  if (parsed->operands.size() > 1) {
    size = SizeArgument(tool, "image size", parsed->operands[1]);
    if (!size.has_value()) return 1;
  }
  if (parsed->operands.size() > 2) {
    return tool.FailUsage("Unexpected argument: %s", parsed->operands[2]);
  }
  const auto fail = [&](const absl::Status& status) {
    return tool.Fail("%s: %s", path, std::string(status.message()));
  };
  if (!format.has_value()) return tool.Fail("%s: Unknown file format '%s'", path, format_name);
  NewImage wanted(*format);
  wanted.set_secrets(tool.secrets);
  if (const absl::Status added = wanted.Add(options); !added.ok()) return fail(added);
  if (size.has_value()) {
    if (wanted.IsSet("size")) {
      return tool.Fail("%s: The image size must be specified only once", path);
    }
    if (const absl::Status set = wanted.Set("size", absl::StrCat(*size)); !set.ok()) {
      return fail(set);
    }
  }
  if (const auto name = parsed->Value("b")) {
    if (!wanted.Set("backing_file", *name).ok()) {
      return tool.Fail("%s: Backing file not supported for file format '%s'", path, format_name);
    }
  }
  if (const auto name = parsed->Value("F")) {
    if (!wanted.Set("backing_fmt", *name).ok()) {
      return tool.Fail("%s: Backing file format not supported for file format '%s'", path,
                       format_name);
    }
  }
  if (wanted.IsSet("backing_file")) {
    const absl::Status settled = SettleBacking(tool, path, !parsed->Has("u"), wanted);
    if (!settled.ok()) return fail(settled);
  }
  if (!wanted.size_bytes().has_value()) {
    return tool.Fail("%s: Image creation needs a size parameter", path);
  }
  if (!parsed->Has("q")) tool.Print("%s\n", wanted.Describe(path));
  UnfinishedFiles files;
  const absl::Status made =
      tool.loop.RunTask(MakeImage(tool.loop, tool.opener, path, wanted, &files));
  if (!made.ok()) return fail(made);
  files.Finish();
  return 0;
}

}  // namespace vireo::img
