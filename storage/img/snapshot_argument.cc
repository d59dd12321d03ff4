#include "storage/img/snapshot_argument.h"

#include <map>

#include "absl/strings/match.h"
#include "storage/img/arguments.h"

namespace vireo::img {

std::optional<qcow2::SnapshotChoice> SnapshotArgument(const Tool& tool, const std::string& text) {
  qcow2::SnapshotChoice choice = {.id_or_name = text};
  if (!absl::StartsWith(text, "snapshot.")) return choice;
  const absl::StatusOr<std::map<std::string, std::string>> values = ParseKeyValues(text);
  std::string wrong = values.ok() ? "" : std::string(values.status().message());
  if (values.ok()) {
    for (const auto& [key, value] : *values) {
      if (key == "snapshot.id") {
        choice.id = value;
      } else if (key == "snapshot.name") {
        choice.name = value;
      } else if (wrong.empty()) {
        wrong = "Invalid parameter '" + key + "'";
      }
    }
  }
  if (wrong.empty()) return choice;
  tool.Fail("%s", wrong);
  tool.Fail("Failed in parsing snapshot param '%s'", text);
  return std::nullopt;
}

}  // namespace vireo::img
