#include "storage/driver_options.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"

namespace vireo {
namespace {

absl::Status Invalid(const std::string& text) { return absl::InvalidArgumentError(text); }

// JSON knows double quotes only; people at a shell write single ones.
std::string WithDoubleQuotes(absl::string_view text) {
  std::string json;
  json.reserve(text.size());
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quote == 0) {
      if (c == '"' || c == '\'') quote = c;
      json += c == '\'' ? '"' : c;
    } else if (c == '\\' && i + 1 < text.size()) {
      ++i;
      if (text[i] != '\'') json += c;
      json += text[i];
    } else if (c == quote) {
      quote = 0;
      json += '"';
    } else {
      if (c == '"') json += '\\';
      json += c;
    }
  }
  return json;
}

// "1", "64k", "1.5M"; nothing for anything else.
std::optional<uint64_t> ParseBytes(const std::string& text) {
  const size_t digits = text.find_first_not_of("0123456789");
  uint64_t whole = 0;
  if (digits == 0 || !absl::SimpleAtoi(text.substr(0, digits), &whole)) return std::nullopt;
  size_t at = digits == std::string::npos ? text.size() : digits;
  double fraction = 0;
  if (at < text.size() && text[at] == '.') {
    const size_t end = text.find_first_not_of("0123456789", at + 1);
    if (!absl::SimpleAtod(absl::StrCat("0", text.substr(at, end - at)), &fraction)) {
      return std::nullopt;
    }
    at = end == std::string::npos ? text.size() : end;
  }
  int shift = 0;
  if (at < text.size()) {
    static constexpr absl::string_view kSuffixes = "BKMGTPE";
    const size_t power = kSuffixes.find(absl::ascii_toupper(static_cast<unsigned char>(text[at])));
    if (power == absl::string_view::npos || at + 1 != text.size()) return std::nullopt;
    shift = static_cast<int>(power) * 10;
  }
  if (fraction != 0 && shift == 0) return std::nullopt;
  if (whole > (std::numeric_limits<uint64_t>::max() >> shift)) return std::nullopt;
  const uint64_t rest = static_cast<uint64_t>(fraction * std::ldexp(1.0, shift));
  const uint64_t bytes = whole << shift;
  if (bytes > std::numeric_limits<uint64_t>::max() - rest) return std::nullopt;
  return bytes + rest;
}

}  // namespace

// Flattens while it reads: no tree is built, so depth costs nothing but the limit.
class DriverOptions::JsonReader {
 public:
  explicit JsonReader(DriverOptions& options) : options_(options) {}

  const absl::Status& status() const { return status_; }

  // The interface of nlohmann::json::sax_parse(); false ends it.
  bool null() { return Add(std::nullopt); }
  bool boolean(bool value) { return Add(value ? "on" : "off"); }
  bool number_integer(int64_t value) { return Add(absl::StrCat(value)); }
  bool number_unsigned(uint64_t value) { return Add(absl::StrCat(value)); }
  bool number_float(double /*value*/, const std::string& text) { return Add(text); }
  bool string(std::string& value) {
    if (value.find('\0') != std::string::npos) return Fail("a string holds a NUL");
    return Add(std::move(value));
  }
  bool binary(std::vector<uint8_t>& /*value*/) { return Fail("no such value"); }
  bool start_object(size_t /*elements*/) { return Open(false); }
  bool start_array(size_t /*elements*/) { return Open(true); }
  bool key(std::string& name) {
    if (name.empty() || name.find('\0') != std::string::npos) return Fail("invalid key");
    levels_.back().name = std::move(name);
    return true;
  }
  bool end_object() { return Close(); }
  bool end_array() { return Close(); }
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::json::exception& error) {
    if (levels_.empty() && opened_) {
      status_ = Invalid("Could not parse the JSON options: Expecting at most one JSON value");
      return false;
    }
    if (absl::StrContains(error.what(), "unexpected end of input")) return Fail("premature EOI");
    return Fail(absl::StrFormat("unexpected \"%s\" at byte %d", token, position));
  }

 private:
  struct Level {
    bool array;
    uint64_t next = 0;  // Of an array.
    std::string name;   // Of an object: the key whose value comes.
    size_t prefix = 0;  // Bytes of `prefix_` above this level.
  };

  bool Fail(const std::string& why) {
    if (status_.ok()) {
      status_ = Invalid(absl::StrCat("Could not parse the JSON options: JSON parse error, ", why));
    }
    return false;
  }
  bool Add(std::optional<std::string> value) {
    if (levels_.empty()) {
      status_ = Invalid("Invalid JSON object given");
      return false;
    }
    status_.Update(options_.Insert(absl::StrCat(prefix_, NextName()), std::move(value)));
    return status_.ok();
  }
  bool Open(bool array) {
    if (levels_.size() == kMaxDepth) return Fail("it is nested too deeply");
    if (levels_.empty() && array) {
      status_ = Invalid("Invalid JSON object given");
      return false;
    }
    opened_ = true;
    const size_t before = prefix_.size();
    if (!levels_.empty()) absl::StrAppend(&prefix_, NextName(), ".");
    // Each key repeats what is above it: this bounds how much that can come to.
    if (prefix_.size() > kMaxPrefix) return Fail("its keys are too long");
    levels_.push_back({.array = array, .prefix = before});
    return true;
  }
  bool Close() {
    prefix_.resize(levels_.back().prefix);
    levels_.pop_back();
    return true;
  }
  std::string NextName() {
    Level& level = levels_.back();
    return level.array ? absl::StrCat(level.next++) : std::move(level.name);
  }

  static constexpr size_t kMaxPrefix = 4096;

  DriverOptions& options_;
  std::vector<Level> levels_;
  bool opened_ = false;  // The object has begun.
  std::string prefix_;   // Of keys at this level, with its dot.
  absl::Status status_;
};

absl::Status DriverOptions::Insert(std::string key, std::optional<std::string> value) {
  if (values_.size() == kMaxKeys) {
    return Invalid(absl::StrFormat("More than %d options", kMaxKeys));
  }
  values_.insert_or_assign(std::move(key), std::move(value));
  return absl::OkStatus();
}

absl::StatusOr<DriverOptions> DriverOptions::FromKeyValues(absl::string_view text) {
  if (text.size() > kMaxBytes) {
    return Invalid(absl::StrFormat("Options of more than %d bytes", kMaxBytes));
  }
  DriverOptions options;
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
    if (equals == std::string::npos) {
      // "help" is a word of its own there; anything else is a switch.
      RETURN_IF_ERROR(absl::StartsWith(item, "no") && item.size() > 2
                          ? options.Insert(item.substr(2), "off")
                          : options.Insert(item, "on"));
      continue;
    }
    RETURN_IF_ERROR(options.Insert(item.substr(0, equals), item.substr(equals + 1)));
  }
  return options;
}

absl::StatusOr<DriverOptions> DriverOptions::FromJson(absl::string_view text) {
  if (text.size() > kMaxBytes) {
    return Invalid(absl::StrFormat("A JSON name of more than %d bytes", kMaxBytes));
  }
  if (text.find_first_not_of(" \t\r\n") == absl::string_view::npos) {
    return Invalid("Could not parse the JSON options: Expecting a JSON value");
  }
  DriverOptions options;
  JsonReader reader(options);
  const std::string json = WithDoubleQuotes(text);
  const bool read = nlohmann::json::sax_parse(json, &reader);
  RETURN_IF_ERROR(reader.status());
  if (!read) return Invalid("Could not parse the JSON options");
  return options;
}

bool DriverOptions::HasBelow(const std::string& key) const {
  const std::string prefix = absl::StrCat(key, ".");
  const auto at = values_.lower_bound(prefix);
  return at != values_.end() && absl::StartsWith(at->first, prefix);
}

void DriverOptions::Set(const std::string& key, std::string value) {
  values_.insert_or_assign(key, std::move(value));
}

void DriverOptions::Inherit(const DriverOptions& other) {
  values_.insert(other.values_.begin(), other.values_.end());
}

std::optional<std::string> DriverOptions::Take(const std::string& key) {
  const auto node = values_.extract(key);
  if (node.empty()) return std::nullopt;
  return node.mapped();
}

bool DriverOptions::TakeNull(const std::string& key) {
  const auto at = values_.find(key);
  if (at == values_.end() || at->second.has_value()) return false;
  values_.erase(at);
  return true;
}

absl::StatusOr<bool> DriverOptions::TakeSwitch(const std::string& key, bool otherwise) {
  const std::optional<std::string> value = Take(key);
  if (!value.has_value()) return otherwise;
  if (*value == "on" || *value == "yes" || *value == "true" || *value == "y") return true;
  if (*value == "off" || *value == "no" || *value == "false" || *value == "n") return false;
  return Invalid(absl::StrFormat("Parameter '%s' expects 'on' or 'off'", key));
}

absl::StatusOr<std::optional<uint64_t>> DriverOptions::TakeSize(const std::string& key) {
  const std::optional<std::string> value = Take(key);
  if (!value.has_value()) return std::optional<uint64_t>();
  const std::optional<uint64_t> bytes = ParseBytes(*value);
  if (!bytes.has_value()) {
    return Invalid(
        absl::StrFormat("Parameter '%s' expects a non-negative number below 2^64\n"
                        "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, "
                        "peta-\nand exabytes, respectively.",
                        key));
  }
  return bytes;
}

absl::StatusOr<std::optional<int64_t>> DriverOptions::TakeNumber(const std::string& key) {
  const std::optional<std::string> value = Take(key);
  if (!value.has_value()) return std::optional<int64_t>();
  int64_t number = 0;
  const bool hex = absl::StartsWith(*value, "0x") && absl::SimpleHexAtoi(value->substr(2), &number);
  if (!hex && !absl::SimpleAtoi(*value, &number)) {
    return Invalid(absl::StrFormat("Parameter '%s' expects a number", key));
  }
  return std::optional<int64_t>(number);
}

DriverOptions DriverOptions::TakeBelow(const std::string& key) {
  const std::string prefix = absl::StrCat(key, ".");
  DriverOptions below;
  auto at = values_.lower_bound(prefix);
  while (at != values_.end() && absl::StartsWith(at->first, prefix)) {
    below.values_.insert_or_assign(at->first.substr(prefix.size()), std::move(at->second));
    at = values_.erase(at);
  }
  return below;
}

}  // namespace vireo
