#include "cmd/flag_scanner.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cmd/flag_values.h"

namespace vireo {

const std::string* ScannedArgs::Find(absl::string_view name) const {
  const auto found = std::find_if(flags.begin(), flags.end(),
                                  [name](const ScannedFlag& flag) { return flag.name == name; });
  return found == flags.end() ? nullptr : &found->value;
}

absl::StatusOr<ScannedArgs> ScanArgs(const std::vector<std::string>& args,
                                     const std::vector<FlagSpec>& specs) {
  ScannedArgs scanned;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--") {
      scanned.rest.insert(scanned.rest.end(), args.begin() + i + 1, args.end());
      break;
    }
    if (!absl::StartsWith(arg, "-") || arg == "-") {
      scanned.rest.push_back(arg);
      continue;
    }
    const size_t equals = arg.find('=');
    ScannedFlag flag = {.name = arg.substr(0, equals), .value = ""};
    const auto spec = std::find_if(specs.begin(), specs.end(), [&flag](const FlagSpec& known) {
      return known.name == flag.name;
    });
    if (spec == specs.end()) {
      std::vector<absl::string_view> names;
      for (const FlagSpec& known : specs) names.push_back(known.name);
      return absl::InvalidArgumentError(
          absl::StrCat(flag.name, ": unknown flag", DidYouMean(flag.name, names)));
    }
    if (spec->kind == FlagSpec::Kind::kSwitch) {
      if (equals != std::string::npos) {
        return absl::InvalidArgumentError(absl::StrCat(flag.name, ": takes no value"));
      }
    } else if (equals != std::string::npos) {
      flag.value = arg.substr(equals + 1);
    } else if (i + 1 < args.size()) {
      flag.value = args[++i];
    } else {
      return absl::InvalidArgumentError(absl::StrCat(flag.name, ": the value is missing"));
    }
    if (spec->kind != FlagSpec::Kind::kRepeatedValue && scanned.Has(flag.name)) {
      return absl::InvalidArgumentError(absl::StrCat(flag.name, ": given twice"));
    }
    scanned.flags.push_back(std::move(flag));
  }
  return scanned;
}

}  // namespace vireo
