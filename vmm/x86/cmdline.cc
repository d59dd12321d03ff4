#include "vmm/x86/cmdline.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace vireo::x86 {
namespace {

constexpr std::string_view kBlanks = " \t";

std::string_view KeyOf(std::string_view parameter) {
  return parameter.substr(0, std::min(parameter.find('='), parameter.size()));
}

bool HasKey(std::string_view line, std::string_view key) {
  size_t start = line.find_first_not_of(kBlanks);
  while (start != std::string_view::npos) {
    const size_t stop = std::min(line.find_first_of(kBlanks, start), line.size());
    if (KeyOf(line.substr(start, stop - start)) == key) return true;
    start = line.find_first_not_of(kBlanks, stop);
  }
  return false;
}

std::string_view Trim(std::string_view text) {
  const size_t start = text.find_first_not_of(kBlanks);
  if (start == std::string_view::npos) return {};
  return text.substr(start, text.find_last_not_of(kBlanks) - start + 1);
}

}  // namespace

absl::StatusOr<std::string> AssembleCommandLine(std::string_view configured,
                                                std::span<const std::string> extra) {
  std::string line(Trim(configured));
  for (const std::string& parameter : extra) {
    if (HasKey(configured, KeyOf(parameter))) continue;
    if (!line.empty()) line += ' ';
    line += parameter;
  }
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (c != '\0' && c != '\n' && c != '\r') continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "the kernel command line holds a %s at byte %d", c == '\0' ? "NUL" : "line break", i));
  }
  return line;
}

absl::Status CheckCommandLine(std::string_view command_line, size_t limit,
                              std::string_view kernel) {
  if (command_line.size() <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("the kernel command line has %d bytes, %s takes at most %d",
                      command_line.size(), kernel, limit));
}

}  // namespace vireo::x86
