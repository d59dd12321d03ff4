// The options of one command, read as getopt(3) reads them: anywhere among the words, letters
// together, a value in the same word or the next.

#ifndef VIREO_STORAGE_IO_OPTIONS_H_
#define VIREO_STORAGE_IO_OPTIONS_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vireo::io {

class Options {
 public:
  // `letters` as getopt takes them: "Cqv", "P:". `words` begins with the command's name. The
  // message of an error is getopt's.
  static absl::StatusOr<Options> Parse(const std::vector<std::string>& words,
                                       absl::string_view letters);

  bool Has(char letter) const { return Value(letter).has_value(); }
  // The last one counts.
  std::optional<std::string> Value(char letter) const;
  // In the order in which they came, to find fault with them in that order.
  const std::vector<std::pair<char, std::string>>& all() const { return all_; }
  const std::vector<std::string>& operands() const { return operands_; }

 private:
  std::vector<std::pair<char, std::string>> all_;
  std::vector<std::string> operands_;
};

}  // namespace vireo::io

#endif  // VIREO_STORAGE_IO_OPTIONS_H_
