// What may stand behind a flag: sizes, numbers, switches and key=value lists. Pure functions.
// Errors are INVALID_ARGUMENT, say what was found and what would be right, and do not name the
// flag: the caller puts it in front.
#ifndef VIREO_CMD_FLAG_VALUES_H_
#define VIREO_CMD_FLAG_VALUES_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace vireo {

// "4096", "512K", "256M", "2G", "1T" (powers of 1024, either case) to bytes.
absl::StatusOr<uint64_t> ParseSize(absl::string_view text);
// A decimal number from `least` to `most`.
absl::StatusOr<uint64_t> ParseNumber(absl::string_view text, uint64_t least, uint64_t most);
absl::StatusOr<bool> ParseOnOff(absl::string_view text);
// "90", "90s", "500ms", "2m": seconds unless a unit is given; whole milliseconds, not negative.
absl::StatusOr<absl::Duration> ParseTimeLimit(absl::string_view text);

// One of a few words, e.g. ParseWord<DiskFormat>("raw", {{"raw", DiskFormat::kRaw}, ...}).
template <typename T>
struct Word {
  absl::string_view text;
  T value;
};
absl::Status NoSuchWord(absl::string_view text, const std::vector<absl::string_view>& words);
template <typename T>
absl::StatusOr<T> ParseWord(absl::string_view text, const std::vector<Word<T>>& words) {
  std::vector<absl::string_view> known;
  for (const Word<T>& word : words) {
    if (word.text == text) return word.value;
    known.push_back(word.text);
  }
  return NoSuchWord(text, known);
}

// "path=a.raw,format=raw": each key once and one of `keys`. A comma within a value is written
// twice. With `first`, a part without "=" may lead and is kept under that name: "2G,max=4G".
absl::StatusOr<std::map<std::string, std::string>> ParseKeyValues(
    absl::string_view text, const std::vector<absl::string_view>& keys,
    std::optional<absl::string_view> first = std::nullopt);

// " (did you mean X?)" with the candidate nearest to `text`, or nothing when none is near.
std::string DidYouMean(absl::string_view text, const std::vector<absl::string_view>& candidates);

}  // namespace vireo

#endif  // VIREO_CMD_FLAG_VALUES_H_
