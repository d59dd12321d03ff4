// Commands over one range.

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "storage/io/commands.h"
#include "storage/io/report.h"
#include "storage/io/words.h"

namespace vireo::io {
namespace {

struct Range {
  int64_t offset;
  int64_t count;
};

// The two operands; nothing, having said why, if they are not a range.
std::optional<Range> ParseRange(Session& session, const std::vector<std::string>& operands,
                                bool any_length, const char* unless) {
  const absl::StatusOr<int64_t> offset = ParseNumber(operands[0]);
  if (!offset.ok()) {
    session.Print("%s\n", std::string(offset.status().message()));
    return std::nullopt;
  }
  const absl::StatusOr<int64_t> count = ParseNumber(operands[1]);
  if (!count.ok()) {
    session.Print("%s\n", std::string(count.status().message()));
    return std::nullopt;
  }
  if (*count > kMaxRequestBytes && !any_length) {
    session.Print("length cannot exceed %d%s, given %s\n", kMaxRequestBytes, unless, operands[1]);
    return std::nullopt;
  }
  return Range{*offset, *count};
}

// False, having said so, unless both are whole sectors.
bool IsSectors(Session& session, const Range& range) {
  if (range.offset % 512 != 0) {
    session.Print("%d is not a sector-aligned value for 'offset'\n", range.offset);
    return false;
  }
  if (range.count % 512 != 0) {
    session.Print("%d is not a sector-aligned value for 'count'\n", range.count);
    return false;
  }
  return true;
}

bool IsPattern(Session& session, const std::string& text) {
  if (ParsePattern(text).has_value()) return true;
  session.Print("%s is not a valid pattern byte\n", text);
  return false;
}

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// Fills `buffer` with the file's bytes, over and over.
bool FillFromFile(Session& session, const std::string& path, uint8_t* buffer, size_t size) {
  const std::unique_ptr<std::FILE, FileCloser> file(std::fopen(path.c_str(), "rbe"));
  if (file == nullptr) {
    session.Complain(absl::StrFormat("%s: %s", path, std::strerror(errno)));
    return false;
  }
  const size_t got = std::fread(buffer, 1, size, file.get());
  if (std::ferror(file.get()) != 0) {
    session.Complain(absl::StrFormat("%s: %s", path, std::strerror(errno)));
    return false;
  }
  if (got == 0) {
    session.Complain(absl::StrFormat("%s: file is empty", path));
    return false;
  }
  for (size_t at = got; at < size; at += got) {
    std::memcpy(buffer + at, buffer, std::min(got, size - at));
  }
  return true;
}

}  // namespace

Result Read(Session& session, const Command& command, const std::vector<std::string>& words) {
  const absl::StatusOr<Options> options = Options::Parse(words, "bCl:pP:qs:v");
  if (!options.ok()) return Misuse(session, command, options.status());
  int64_t check_length = 0;
  int64_t check_offset = 0;
  for (const auto& [letter, value] : options->all()) {
    if (letter == 'P' && !IsPattern(session, value)) return Result::kFailed;
    if (letter != 'l' && letter != 's') continue;
    const absl::StatusOr<int64_t> number = ParseNumber(value);
    if (!number.ok()) {
      session.Print("%s\n", std::string(number.status().message()));
      return Result::kFailed;
    }
    (letter == 'l' ? check_length : check_offset) = *number;
  }
  const bool check = options->Has('P');
  const uint8_t pattern = ParsePattern(options->Value('P').value_or("0")).value_or(0);
  if (options->operands().size() != 2) return Misuse(session, command);
  const std::optional<Range> range = ParseRange(session, options->operands(), false, "");
  if (!range.has_value()) return Result::kFailed;
  if (!check && (options->Has('l') || options->Has('s'))) return Misuse(session, command);
  if (!options->Has('l')) check_length = range->count - check_offset;
  if (check_length < 0 || check_offset > range->count - check_length) {
    session.Print("pattern verification range exceeds end of read data\n");
    return Result::kFailed;
  }
  if (options->Has('b')) {
    if (!IsSectors(session, *range)) return Result::kFailed;
    session.Print("read failed: %s\n", std::strerror(ENOTSUP));
    return Result::kFailed;
  }
  const Session::Buffer buffer = session.Allocate(static_cast<uint64_t>(range->count), 0xab);
  const iovec part = {buffer.data(), static_cast<size_t>(range->count)};
  const absl::Time start = absl::Now();
  const absl::Status status = session.loop().RunTask(
      session.bytes().Read(static_cast<uint64_t>(range->offset), IoVecs(&part, 1)));
  const absl::Duration time = absl::Now() - start;
  if (!status.ok()) {
    session.Print("read failed: %s\n", std::strerror(RequestErrno(status)));
    return Result::kFailed;
  }
  Result result = Result::kOk;
  if (check) {
    const uint8_t* const first = buffer.data() + check_offset;
    if (std::any_of(first, first + check_length,
                    [pattern](uint8_t byte) { return byte != pattern; })) {
      session.Print("Pattern verification failed at offset %d, %d bytes\n",
                    range->offset + check_offset, check_length);
      result = Result::kFailed;
    }
  }
  if (options->Has('q')) return result;
  if (options->Has('v')) PrintDump(session, buffer.data(), range->offset, range->count);
  PrintReport(session, {"read", range->offset, range->count, time, options->Has('C')});
  return result;
}

Result Write(Session& session, const Command& command, const std::vector<std::string>& words) {
  const absl::StatusOr<Options> options = Options::Parse(words, "bcCfnpP:qs:uz");
  if (!options.ok()) return Misuse(session, command, options.status());
  for (const auto& [letter, value] : options->all()) {
    if (letter == 'P' && !IsPattern(session, value)) return Result::kFailed;
  }
  const uint8_t pattern = ParsePattern(options->Value('P').value_or("0xcd")).value_or(0);
  if (options->operands().size() != 2) return Misuse(session, command);
  const bool vm_state = options->Has('b');
  const bool compressed = options->Has('c');
  const bool zeroes = options->Has('z');
  const char* conflict = nullptr;
  if (vm_state && zeroes) {
    conflict = "-b and -z cannot be specified at the same time";
  } else if (options->Has('f') && (vm_state || compressed)) {
    conflict = "-f and -b or -c cannot be specified at the same time";
  } else if (options->Has('n') && !zeroes) {
    conflict = "-n requires -z to be specified";
  } else if (options->Has('u') && !zeroes) {
    conflict = "-u requires -z to be specified";
  } else if (zeroes + options->Has('P') + options->Has('s') > 1) {
    conflict = "Only one of -z, -P, and -s can be specified at the same time";
  }
  if (conflict != nullptr) {
    session.Print("%s\n", conflict);
    return Result::kFailed;
  }
  const std::optional<Range> range =
      ParseRange(session, options->operands(), options->Has('n'), " without -n");
  if (!range.has_value()) return Result::kFailed;
  if ((vm_state || compressed) && !IsSectors(session, *range)) return Result::kFailed;
  Session::Buffer buffer;
  if (!zeroes) {
    buffer = session.Allocate(static_cast<uint64_t>(range->count), pattern);
    const std::optional<std::string> path = options->Value('s');
    if (path.has_value() &&
        !FillFromFile(session, *path, buffer.data(), static_cast<size_t>(range->count))) {
      return Result::kFailed;
    }
  }
  const uint64_t offset = static_cast<uint64_t>(range->offset);
  const uint64_t count = static_cast<uint64_t>(range->count);
  const iovec part = {zeroes ? nullptr : buffer.data(), count};
  const absl::Time start = absl::Now();
  absl::Status status;
  if (vm_state) {
    status = ErrnoStatus(ENOTSUP, "write");
  } else if (compressed && offset + count > session.disk().geometry().size_bytes) {
    status = ErrnoStatus(EIO, "write");
  } else if (compressed) {
    status = session.loop().RunTask(session.disk().WriteCompressed(offset, IoVecs(&part, 1)));
    if (absl::IsUnimplemented(status)) status = ErrnoStatus(ENOTSUP, "write");
  } else if (zeroes) {
    status = session.loop().RunTask(
        session.bytes().WriteZeroes(offset, count, {.may_unmap = options->Has('u')}));
    if (status.ok() && options->Has('f')) status = session.loop().RunTask(session.disk().Flush());
  } else {
    status = session.loop().RunTask(
        session.bytes().Write(offset, IoVecs(&part, 1), {.fua = options->Has('f')}));
  }
  const absl::Duration time = absl::Now() - start;
  if (!status.ok()) {
    session.Print("write failed: %s\n", std::strerror(RequestErrno(status)));
    return Result::kFailed;
  }
  if (!options->Has('q')) {
    PrintReport(session, {"wrote", range->offset, range->count, time, options->Has('C')});
  }
  return Result::kOk;
}

Result Discard(Session& session, const Command& command, const std::vector<std::string>& words) {
  const absl::StatusOr<Options> options = Options::Parse(words, "Cq");
  if (!options.ok()) return Misuse(session, command, options.status());
  if (options->operands().size() != 2) return Misuse(session, command);
  const std::optional<Range> range = ParseRange(session, options->operands(), false, "");
  if (!range.has_value()) return Result::kFailed;
  const absl::Time start = absl::Now();
  const absl::Status status = session.loop().RunTask(session.bytes().Discard(
      static_cast<uint64_t>(range->offset), static_cast<uint64_t>(range->count)));
  const absl::Duration time = absl::Now() - start;
  if (!status.ok()) {
    session.Print("discard failed: %s\n", std::strerror(RequestErrno(status)));
    return Result::kFailed;
  }
  if (!options->Has('q')) {
    PrintReport(session, {"discard", range->offset, range->count, time, options->Has('C')});
  }
  return Result::kOk;
}

Result Flush(Session& session, const Command& /*command*/,
             const std::vector<std::string>& /*words*/) {
  const absl::Status status = session.loop().RunTask(session.disk().Flush());
  return status.ok() ? Result::kOk : Result::kFailed;
}

}  // namespace vireo::io
