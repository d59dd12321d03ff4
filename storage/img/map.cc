// vireo-img map: which bytes of an image are stored where, in which file of its chain.

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "storage/img/arguments.h"
#include "storage/img/opened.h"
#include "storage/img/size_argument.h"
#include "storage/img/tool.h"

namespace vireo::img {
namespace {

struct Entry {
  uint64_t start = 0;
  RangeStatus status;

  bool data() const { return status.kind == RangeKind::kData && status.length > 0; }
};

bool Joins(const Entry& entry, const Entry& next) {
  const RangeStatus& a = entry.status;
  const RangeStatus& b = next.status;
  if (a.kind != b.kind || a.reads_as_zeros != b.reads_as_zeros || a.present != b.present ||
      a.depth != b.depth || a.file_name != b.file_name ||
      a.host_offset.has_value() != b.host_offset.has_value()) {
    return false;
  }
  return !a.host_offset.has_value() || *a.host_offset + a.length == *b.host_offset;
}

// 0 is shown as "0", without the prefix of a hexadecimal number.
std::string Hexadecimal(uint64_t value) { return value == 0 ? "0" : absl::StrFormat("%#x", value); }

class Printer {
 public:
  Printer(const Tool& tool, bool json) : tool_(tool), json_(json) {
    if (json_) {
      tool_.Print("[");
    } else {
      tool_.Print("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    }
  }

  // False, having said why, if the entry cannot be shown.
  bool Print(const Entry& entry, bool last) {
    const RangeStatus& status = entry.status;
    if (!json_) {
      if (!entry.data()) return true;
      if (!status.host_offset.has_value()) {
        tool_.Fail("File contains external, encrypted or compressed clusters.");
        return false;
      }
      if (status.reads_as_zeros) return true;
      tool_.Print("%-16s%-16s%-16s%s\n", Hexadecimal(entry.start), Hexadecimal(status.length),
                  Hexadecimal(*status.host_offset),
                  status.file_name != nullptr ? *status.file_name : "");
      return true;
    }
    const auto word = [](bool value) { return value ? "true" : "false"; };
    tool_.Print(
        "{ \"start\": %d, \"length\": %d, \"depth\": %d, \"present\": %s, \"zero\": %s, "
        "\"data\": %s",
        entry.start, status.length, status.depth, word(status.present), word(status.reads_as_zeros),
        word(entry.data()));
    if (status.host_offset.has_value()) tool_.Print(", \"offset\": %d", *status.host_offset);
    tool_.Print("%s", last ? "}]\n" : "},\n");
    return true;
  }

 private:
  const Tool& tool_;
  const bool json_;
};

}  // namespace

int Map(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'f', nullptr, true},
                                                                 {0, "output", true},
                                                                 {0, "image-opts", false},
                                                                 {'U', "force-share", false},
                                                                 {'s', "start-offset", true},
                                                                 {'l', "max-length", true}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  uint64_t start = 0;
  std::optional<uint64_t> max_length;
  for (const auto& [option, text] : parsed->options) {
    if (option != "s" && option != "l") continue;
    const std::optional<uint64_t> value =
        SizeArgument(tool, option == "s" ? "start offset" : "max length", text);
    if (!value.has_value()) return 1;
    if (option == "s") {
      start = *value;
    } else {
      max_length = *value;
    }
  }
  if (parsed->operands.size() != 1) return tool.FailUsage("Expecting one image file name");
  const std::string output = parsed->Value("output").value_or("human");
  if (output != "human" && output != "json") {
    return tool.Fail("--output must be used with human or json as argument.");
  }
  const Opened image(tool, {.name = parsed->operands[0],
                            .format = parsed->Value("f"),
                            .image_opts = parsed->Has("image-opts"),
                            .share = parsed->Has("U")});
  if (!image.ok()) return 1;
  const uint64_t size = image.size_bytes();
  const uint64_t end = max_length.has_value()
                           ? std::min(size, std::min(*max_length, size) + std::min(start, size))
                           : size;

  Printer printer(tool, output == "json");
  Entry entry = {.start = start};
  while (entry.start + entry.status.length < end) {
    const uint64_t offset = entry.start + entry.status.length;
    // Whole sectors are asked for, and cut at both ends.
    const uint64_t sector = offset / 512 * 512;
    const uint64_t sectors_end = std::min(size, (end + 511) / 512 * 512);
    const absl::StatusOr<RangeStatus> status =
        tool.loop.RunTask(image.disk().Status(sector, sectors_end - sector));
    if (!status.ok()) {
      return tool.Fail("Failed to read image metadata: %s", std::string(status.status().message()));
    }
    Entry next = {.start = offset, .status = *status};
    next.status.length = std::min(end, sector + status->length) - offset;
    if (next.status.host_offset.has_value()) *next.status.host_offset += offset - sector;
    if (entry.status.length > 0 && Joins(entry, next)) {
      entry.status.length += next.status.length;
      continue;
    }
    if (entry.status.length > 0 && !printer.Print(entry, false)) return 1;
    entry = next;
  }
  return printer.Print(entry, true) ? 0 : 1;
}

}  // namespace vireo::img
