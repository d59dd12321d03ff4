#include "storage/io/words.h"

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace vireo::io {
namespace {

absl::Status NotANumber(const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- ", text));
}

absl::Status TooLarge(const std::string& text) {
  return absl::OutOfRangeError(absl::StrCat("Parsing error: argument too large -- ", text));
}

struct Unit {
  const char* name;
  int shift;
};

constexpr Unit kUnits[] = {{" EiB", 60}, {" PiB", 50}, {" TiB", 40},
                           {" GiB", 30}, {" MiB", 20}, {" KiB", 10}};

}  // namespace

absl::StatusOr<int64_t> ParseNumber(const std::string& text) {
  if (text.empty() || !absl::ascii_isdigit(static_cast<unsigned char>(text[0]))) {
    return NotANumber(text);
  }
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
  const bool hex = text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
  errno = 0;
  char* end = nullptr;
  const uint64_t whole = std::strtoull(text.c_str(), &end, hex ? 16 : 10);
  if (errno == ERANGE) return TooLarge(text);
  double fraction = 0;
  if (!hex && *end == '.') {
    const char* const digits = end + 1;
    const char* stop = digits;
    while (absl::ascii_isdigit(static_cast<unsigned char>(*stop))) ++stop;
    fraction = std::strtod(absl::StrCat("0.", std::string(digits, stop), "0").c_str(), nullptr);
    end += stop - end;
  }
  int shift = 0;
  if (*end != '\0' && !hex) {
    static constexpr char kSuffixes[] = "BKMGTPE";
    const char suffix = absl::ascii_toupper(static_cast<unsigned char>(*end));
    const char* const at = std::char_traits<char>::find(kSuffixes, 7, suffix);
    if (at == nullptr) return NotANumber(text);
    shift = static_cast<int>(at - kSuffixes) * 10;
    ++end;
  }
  if (*end != '\0' || (fraction != 0 && shift == 0)) return NotANumber(text);
  if (whole > (kMost >> shift)) return TooLarge(text);
  const uint64_t rest = static_cast<uint64_t>(fraction * std::ldexp(1.0, shift) + 0.5);
  if ((whole << shift) > kMost - rest) return TooLarge(text);
  return static_cast<int64_t>((whole << shift) + rest);
}

std::optional<uint8_t> ParsePattern(const std::string& text) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 0);
  if (text.empty() || *end != '\0' || value < 0 || value > 0xff) return std::nullopt;
  return static_cast<uint8_t>(value);
}

std::string FormatSize(double bytes) {
  std::string text;
  const char* suffix = " bytes";
  for (const Unit& unit : kUnits) {
    const double one = std::ldexp(1.0, unit.shift);
    if (bytes < one) continue;
    text = absl::StrFormat("%.3f", bytes / one);
    suffix = unit.name;
    break;
  }
  if (text.empty()) text = absl::StrFormat("%f", bytes);
  // Whole numbers are shown as such.
  const size_t zeros = text.find(".000");
  if (zeros != std::string::npos) text.resize(zeros);
  return text + suffix;
}

std::string FormatTime(absl::Duration time, TimeForm form) {
  const int64_t seconds = absl::ToInt64Seconds(time);
  const double fraction = absl::ToDoubleSeconds(time - absl::Seconds(seconds));
  const int64_t hours = seconds / 3600;
  const int64_t minutes = seconds / 60 % 60;
  const double rest = static_cast<double>(seconds % 60) + fraction;
  if (form == TimeForm::kFixed || seconds != 0) {
    return absl::StrFormat("%d:%02d:%05.2f", hours, minutes, rest);
  }
  return absl::StrFormat("%05.2f sec", fraction);
}

std::vector<std::string> SplitWords(const std::string& line) {
  return absl::StrSplit(line, ' ', absl::SkipEmpty());
}

}  // namespace vireo::io
