#include "storage/img/json.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace vireo::img {
namespace {

// Length of the UTF-8 sequence at `at`, 0 if there is none.
size_t Utf8Length(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  const size_t length = first >= 0xf0 && first < 0xf5   ? 4
                        : first >= 0xe0 && first < 0xf0 ? 3
                        : first >= 0xc2 && first < 0xe0 ? 2
                                                        : 0;
  if (length == 0 || text.size() - at < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  }
  return length;
}

std::string Quote(const std::string& text) {
  std::string quoted = "\"";
  for (size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte == '"' || byte == '\\') {
      quoted += '\\';
      quoted += text[at++];
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&quoted, "\\u%04X", byte);
      ++at;
    } else if (byte < 0x80) {
      quoted += text[at++];
    } else if (const size_t length = Utf8Length(text, at)) {
      quoted.append(text, at, length);
      at += length;
    } else {
      quoted += "\\uFFFD";
      ++at;
    }
  }
  return quoted + "\"";
}

}  // namespace

Json Json::Literal(std::string text) {
  Json json(0, 0);
  json.literal_ = std::move(text);
  return json;
}

Json& Json::Add(const std::string& key, const std::string& value) {
  return Add(key, Literal(Quote(value)));
}
Json& Json::Add(const std::string& key, uint64_t value) {
  return Add(key, Literal(absl::StrCat(value)));
}
Json& Json::Add(const std::string& key, bool value) {
  return Add(key, Literal(value ? "true" : "false"));
}
Json& Json::Add(const std::string& key, Json value) {
  members_.emplace_back(Quote(key), std::move(value));
  return *this;
}
Json& Json::Append(Json value) {
  members_.emplace_back("", std::move(value));
  return *this;
}

Json& Json::Append(const std::string& value) { return Append(Literal(Quote(value))); }

std::string Json::ToString(int indent) const {
  if (open_ == 0) return literal_;
  std::string text(1, open_);
  for (size_t i = 0; i < members_.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "\n" : ",\n", std::string((indent + 1) * 4, ' '));
    if (!members_[i].first.empty()) absl::StrAppend(&text, members_[i].first, ": ");
    absl::StrAppend(&text, members_[i].second.ToString(indent + 1));
  }
  absl::StrAppend(&text, "\n", std::string(indent * 4, ' '), std::string(1, close_));
  return text;
}

}  // namespace vireo::img
