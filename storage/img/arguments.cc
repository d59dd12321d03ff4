#include "storage/img/arguments.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "base/status.h"

namespace vireo::img {
namespace {

std::string KeyOf(const OptionSpec& spec) {
  return spec.letter != 0 ? std::string(1, spec.letter) : std::string(spec.name);
}

}  // namespace

bool Arguments::Has(const std::string& option) const { return Value(option).has_value(); }

std::optional<std::string> Arguments::Value(const std::string& option) const {
  for (auto at = options.rbegin(); at != options.rend(); ++at) {
    if (at->first == option) return at->second;
  }
  return std::nullopt;
}

absl::StatusOr<Arguments> ParseArguments(const std::vector<std::string>& args,
                                         const std::vector<OptionSpec>& specs) {
  Arguments parsed;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--") {
      parsed.operands.insert(parsed.operands.end(), args.begin() + i + 1, args.end());
      break;
    }
    if (arg.size() < 2 || arg[0] != '-') {
      parsed.operands.push_back(arg);
      continue;
    }
    if (arg[1] == '-') {
      const size_t equals = arg.find('=');
      const std::string name =
          arg.substr(2, equals == std::string::npos ? std::string::npos : equals - 2);
      const OptionSpec* spec = nullptr;
      for (const OptionSpec& candidate : specs) {
        if (candidate.name != nullptr && name == candidate.name) spec = &candidate;
      }
      if (spec == nullptr) {
        return absl::InvalidArgumentError(absl::StrFormat("unrecognized option '%s'", arg));
      }
      if (!spec->has_value && equals != std::string::npos) {
        return absl::InvalidArgumentError(
            absl::StrFormat("option '--%s' doesn't allow an argument", name));
      }
      std::string value;
      if (equals != std::string::npos) {
        value = arg.substr(equals + 1);
      } else if (spec->has_value) {
        if (++i == args.size()) {
          return absl::InvalidArgumentError(
              absl::StrFormat("missing argument for option '%s'", arg));
        }
        value = args[i];
      }
      parsed.options.emplace_back(KeyOf(*spec), value);
      continue;
    }
    for (size_t at = 1; at < arg.size(); ++at) {
      const OptionSpec* spec = nullptr;
      for (const OptionSpec& candidate : specs) {
        if (candidate.letter != 0 && candidate.letter == arg[at]) spec = &candidate;
      }
      if (spec == nullptr) {
        return absl::InvalidArgumentError(absl::StrFormat("unrecognized option '-%c'", arg[at]));
      }
      if (!spec->has_value) {
        parsed.options.emplace_back(KeyOf(*spec), "");
        continue;
      }
      std::string value = arg.substr(at + 1);
      if (value.empty()) {
        if (++i == args.size()) {
          return absl::InvalidArgumentError(
              absl::StrFormat("missing argument for option '-%c'", spec->letter));
        }
        value = args[i];
      }
      parsed.options.emplace_back(KeyOf(*spec), value);
      break;
    }
  }
  return parsed;
}

absl::StatusOr<std::map<std::string, std::string>> ParseKeyValues(const std::string& text) {
  std::map<std::string, std::string> values;
  size_t at = 0;
  while (at < text.size()) {
    std::string item;
    for (; at < text.size(); ++at) {
      if (text[at] == ',') {
        if (at + 1 >= text.size() || text[at + 1] != ',') break;
        ++at;
      }
      item += text[at];
    }
    ++at;
    const size_t equals = item.find('=');
    const std::string key = item.substr(0, equals);
    if (key.empty()) {
      return absl::InvalidArgumentError(absl::StrFormat("Invalid parameter '%s'", item));
    }
    values[key] = equals == std::string::npos ? "on" : item.substr(equals + 1);
  }
  return values;
}

absl::StatusOr<bool> ParseSwitch(const std::string& key, const std::string& value) {
  if (value == "on" || value == "yes" || value == "true" || value == "y") return true;
  if (value == "off" || value == "no" || value == "false" || value == "n") return false;
  return absl::InvalidArgumentError(absl::StrFormat("Parameter '%s' expects 'on' or 'off'", key));
}

bool AsksForHelp(const std::string& options) {
  size_t at = 0;
  while (at <= options.size()) {
    const size_t comma = std::min(options.find(',', at), options.size());
    const std::string item = options.substr(at, comma - at);
    if (item == "help" || item == "?") return true;
    at = comma + 1;
  }
  return false;
}

}  // namespace vireo::img
