// A verb's command line, read as getopt_long(3) reads it: options anywhere, "--" ends them.

#ifndef VIREO_STORAGE_IMG_ARGUMENTS_H_
#define VIREO_STORAGE_IMG_ARGUMENTS_H_

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vireo::img {

struct OptionSpec {
  char letter;       // 0 = long form only.
  const char* name;  // Null = short form only.
  bool has_value;
};

struct Arguments {
  // By letter, or by name where there is no letter; in order.
  std::vector<std::pair<std::string, std::string>> options;
  std::vector<std::string> operands;

  bool Has(const std::string& option) const;
  // The last one counts.
  std::optional<std::string> Value(const std::string& option) const;
};

// INVALID_ARGUMENT in getopt's words.
absl::StatusOr<Arguments> ParseArguments(const std::vector<std::string>& args,
                                         const std::vector<OptionSpec>& specs);

// "key=value,key=value": a comma in a value is doubled; a key without "=" has the value "on". Later
// keys win over earlier ones.
absl::StatusOr<std::map<std::string, std::string>> ParseKeyValues(const std::string& text);

// "on", "off" and their kin; INVALID_ARGUMENT naming `key` otherwise.
absl::StatusOr<bool> ParseSwitch(const std::string& key, const std::string& value);

// An -o text that asks for the list of options: "help" or "?" among its items.
bool AsksForHelp(const std::string& options);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_ARGUMENTS_H_
