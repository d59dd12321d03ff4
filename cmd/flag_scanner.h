// Splits a command line into flags and the rest, against a list of the flags that exist. A pure
// function.
#ifndef VIREO_CMD_FLAG_SCANNER_H_
#define VIREO_CMD_FLAG_SCANNER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vireo {

struct FlagSpec {
  enum class Kind { kSwitch, kValue, kRepeatedValue };
  absl::string_view name;  // With its dashes: "--disk".
  Kind kind = Kind::kValue;
};

struct ScannedFlag {
  std::string name;
  std::string value;  // Empty for a switch.
};

struct ScannedArgs {
  std::vector<ScannedFlag> flags;  // In the order given.
  std::vector<std::string> rest;   // What is no flag, and all that follows "--".

  // The flag's value; nullptr when it was not given. The first one of a repeated flag.
  const std::string* Find(absl::string_view name) const;
  bool Has(absl::string_view name) const { return Find(name) != nullptr; }
};

// "--name VALUE" and "--name=VALUE" alike; a lone "-" is no flag. INVALID_ARGUMENT for an unknown
// flag (with the nearest known one), a missing or superfluous value, or a flag given twice that is
// not a repeated one.
absl::StatusOr<ScannedArgs> ScanArgs(const std::vector<std::string>& args,
                                     const std::vector<FlagSpec>& specs);

}  // namespace vireo

#endif  // VIREO_CMD_FLAG_SCANNER_H_
