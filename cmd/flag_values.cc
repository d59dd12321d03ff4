#include "cmd/flag_values.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status.h"

namespace vireo {
namespace {

// SimpleAtoi takes spaces and signs; here nothing but digits is right.
std::optional<uint64_t> Digits(absl::string_view text) {
  uint64_t value = 0;
  const bool digits = !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
  if (!digits || !absl::SimpleAtoi(text, &value)) return std::nullopt;
  return value;
}

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

// Splits at single commas; two in a row stand for one within the part.
std::vector<std::string> SplitParts(absl::string_view text) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ',') {
      parts.back() += text[i];
    } else if (i + 1 < text.size() && text[i + 1] == ',') {
      parts.back() += ',';
      ++i;
    } else {
      parts.emplace_back();
    }
  }
  return parts;
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(absl::string_view text) {
  constexpr absl::string_view kSuffixes = "KMGT";
  absl::string_view number = text;
  int shift = 0;
  if (!number.empty()) {
    const size_t suffix = kSuffixes.find(absl::ascii_toupper(number.back()));
    if (suffix != absl::string_view::npos) {
      shift = 10 * (static_cast<int>(suffix) + 1);
      number.remove_suffix(1);
    }
  }
  const std::optional<uint64_t> value = Digits(number);
  if (!value.has_value() || *value > std::numeric_limits<uint64_t>::max() >> shift) {
    return absl::InvalidArgumentError(
        absl::StrFormat("\"%s\" is not a size; use bytes, or a number with K, M, G or T", text));
  }
  return *value << shift;
}

absl::StatusOr<uint64_t> ParseNumber(absl::string_view text, uint64_t least, uint64_t most) {
  const std::optional<uint64_t> value = Digits(text);
  if (!value.has_value() || *value < least || *value > most) {
    return absl::InvalidArgumentError(
        absl::StrFormat("\"%s\" is not a number from %d to %d", text, least, most));
  }
  return *value;
}

absl::StatusOr<bool> ParseOnOff(absl::string_view text) {
  return ParseWord<bool>(text, {{"on", true}, {"off", false}});
}

absl::StatusOr<absl::Duration> ParseTimeLimit(absl::string_view text) {
  const std::optional<uint64_t> plain = Digits(text);
  absl::Duration duration;
  const bool good = plain.has_value() ? *plain <= std::numeric_limits<uint32_t>::max()
                                      : absl::ParseDuration(text, &duration);
  if (plain.has_value() && good) duration = absl::Seconds(*plain);
  if (!good || duration < absl::ZeroDuration() || duration == absl::InfiniteDuration() ||
      duration != absl::Floor(duration, absl::Milliseconds(1)) || text.front() == '-') {
    return absl::InvalidArgumentError(
        absl::StrFormat("\"%s\" is not a time limit; use seconds, or 500ms, 90s, 2m", text));
  }
  return duration;
}

absl::Status NoSuchWord(absl::string_view text, const std::vector<absl::string_view>& words) {
  return absl::InvalidArgumentError(
      absl::StrFormat("\"%s\" is not known; use %s", text, absl::StrJoin(words, " or ")));
}

absl::StatusOr<std::map<std::string, std::string>> ParseKeyValues(
    absl::string_view text, const std::vector<absl::string_view>& keys,
    std::optional<absl::string_view> first) {
  std::map<std::string, std::string> values;
  bool leading = first.has_value();
  for (const std::string& part : SplitParts(text)) {
    const size_t equals = part.find('=');
    std::string key = part.substr(0, equals);
    if (leading && equals == std::string::npos) {
      values.emplace(std::string(*first), part);
      leading = false;
      continue;
    }
    leading = false;
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("key \"%s\" is not known; use %s", key, absl::StrJoin(keys, ", ")));
    }
    if (equals == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrFormat("key \"%s\" has no value; write %s=VALUE", key, key));
    }
    const auto [unused, inserted] = values.emplace(key, part.substr(equals + 1));
    if (!inserted) {
      return absl::InvalidArgumentError(absl::StrFormat("key \"%s\" is given twice", key));
    }
  }
  return values;
}

std::string DidYouMean(absl::string_view text, const std::vector<absl::string_view>& candidates) {
  constexpr size_t kNear = 2;
  size_t best = kNear + 1;
  absl::string_view nearest;
  for (const absl::string_view candidate : candidates) {
    const size_t distance = EditDistance(text, candidate);
    if (distance < best && 2 * distance < candidate.size()) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest.empty() ? "" : absl::StrCat(" (did you mean ", nearest, "?)");
}

}  // namespace vireo
