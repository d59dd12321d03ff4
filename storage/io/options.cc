#include "storage/io/options.h"

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace vireo::io {

absl::StatusOr<Options> Options::Parse(const std::vector<std::string>& words,
                                       absl::string_view letters) {
  Options options;
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--") {
      options.operands_.insert(options.operands_.end(), words.begin() + i + 1, words.end());
      break;
    }
    if (word.size() < 2 || word[0] != '-') {
      options.operands_.push_back(word);
      continue;
    }
    for (size_t at = 1; at < word.size(); ++at) {
      const size_t known = word[at] == ':' ? absl::string_view::npos : letters.find(word[at]);
      if (known == absl::string_view::npos) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s: invalid option -- '%c'", words[0], word[at]));
      }
      if (known + 1 >= letters.size() || letters[known + 1] != ':') {
        options.all_.emplace_back(word[at], "");
        continue;
      }
      std::string value = word.substr(at + 1);
      if (value.empty()) {
        if (++i == words.size()) {
          return absl::InvalidArgumentError(
              absl::StrFormat("%s: option requires an argument -- '%c'", words[0], word[at]));
        }
        value = words[i];
      }
      options.all_.emplace_back(word[at], std::move(value));
      break;
    }
  }
  return options;
}

std::optional<std::string> Options::Value(char letter) const {
  for (auto at = all_.rbegin(); at != all_.rend(); ++at) {
    if (at->first == letter) return at->second;
  }
  return std::nullopt;
}

}  // namespace vireo::io
