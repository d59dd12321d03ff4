#include "storage/io/report.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "storage/io/words.h"

namespace vireo::io {

void PrintReport(Session& session, const Report& report) {
  const double seconds = absl::ToDoubleSeconds(report.time);
  const double bytes = static_cast<double>(report.bytes);
  const double bytes_per_second = bytes / seconds;
  const double per_second = 1 / seconds;
  if (report.parsable) {
    session.Print("%d,1,%s,%.3f,%.3f\n", report.bytes, FormatTime(report.time, TimeForm::kFixed),
                  bytes_per_second, per_second);
    return;
  }
  session.Print("%s %d/%d bytes at offset %d\n", report.what, report.bytes, report.bytes,
                report.offset);
  session.Print("%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n", FormatSize(bytes),
                FormatTime(report.time, TimeForm::kPlain), FormatSize(bytes_per_second),
                per_second);
}

void PrintDump(Session& session, const uint8_t* bytes, int64_t offset, int64_t length) {
  constexpr int64_t kInLine = 16;
  for (int64_t at = 0; at < length; at += kInLine) {
    std::string numbers;
    std::string text;
    for (int64_t i = at; i < at + kInLine && i < length; ++i) {
      absl::StrAppendFormat(&numbers, "%02x ", bytes[i]);
      text += absl::ascii_isalnum(bytes[i]) ? static_cast<char>(bytes[i]) : '.';
    }
    session.Print("%08x:  %s %s\n", offset + at, numbers, text);
  }
}

}  // namespace vireo::io
