// Commands over several buffers, and those that nobody waits for.

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/status.h"
#include "storage/io/commands.h"
#include "storage/io/report.h"
#include "storage/io/words.h"

namespace vireo::io {
namespace {

// One buffer, in parts.
struct Parts {
  Session::Buffer buffer;
  std::vector<iovec> vectors;
  int64_t bytes = 0;
};

// Of the lengths in `operands` from the second on; nothing, having said why, if they are wrong.
std::optional<Parts> MakeParts(Session& session, const std::vector<std::string>& operands,
                               uint8_t byte) {
  Parts parts;
  std::vector<int64_t> lengths;
  for (size_t i = 1; i < operands.size(); ++i) {
    const absl::StatusOr<int64_t> length = ParseNumber(operands[i]);
    if (!length.ok()) {
      session.Print("%s\n", std::string(length.status().message()));
      return std::nullopt;
    }
    if (*length > kMaxRequestBytes) {
      session.Print("Argument '%s' exceeds maximum size %d\n", operands[i], kMaxRequestBytes);
      return std::nullopt;
    }
    if (parts.bytes > kMaxRequestBytes - *length) {
      session.Print("The total number of bytes exceed the maximum size %d\n", kMaxRequestBytes);
      return std::nullopt;
    }
    parts.bytes += *length;
    lengths.push_back(*length);
  }
  parts.buffer = session.Allocate(static_cast<uint64_t>(parts.bytes), byte);
  uint8_t* at = parts.buffer.data();
  for (const int64_t length : lengths) {
    parts.vectors.push_back({at, static_cast<size_t>(length)});
    at += length;
  }
  return parts;
}

struct Plan {
  int64_t offset = 0;
  Parts parts;
  std::optional<uint8_t> pattern;  // To check what was read against.
  bool quiet = false;
  bool parsable = false;
  bool dump = false;
  bool fua = false;
  bool zeroes = false;
  bool unmap = false;
};

// False, having said so, if one of the patterns is none.
bool ArePatterns(Session& session, const Options& options) {
  for (const auto& [letter, value] : options.all()) {
    if (letter != 'P' || ParsePattern(value).has_value()) continue;
    session.Print("%s is not a valid pattern byte\n", value);
    return false;
  }
  return true;
}

// The options and operands that all four have; nothing, having said why.
std::optional<Plan> MakePlan(Session& session, const Options& options, uint8_t fill) {
  Plan plan;
  if (const std::optional<std::string> pattern = options.Value('P')) {
    plan.pattern = ParsePattern(*pattern);
  }
  plan.quiet = options.Has('q');
  plan.parsable = options.Has('C');
  plan.dump = options.Has('v');
  plan.fua = options.Has('f');
  plan.zeroes = options.Has('z');
  plan.unmap = options.Has('u');
  const absl::StatusOr<int64_t> offset = ParseNumber(options.operands()[0]);
  if (!offset.ok()) {
    session.Print("%s\n", std::string(offset.status().message()));
    return std::nullopt;
  }
  plan.offset = *offset;
  if (plan.zeroes) {
    const absl::StatusOr<int64_t> length = ParseNumber(options.operands()[1]);
    if (!length.ok()) {
      session.Print("%s\n", std::string(length.status().message()));
      return std::nullopt;
    }
    plan.parts.bytes = *length;
    return plan;
  }
  std::optional<Parts> parts = MakeParts(session, options.operands(), fill);
  if (!parts.has_value()) return std::nullopt;
  plan.parts = *std::move(parts);
  return plan;
}

Result FinishRead(Session& session, const Plan& plan, const absl::Status& status,
                  absl::Duration time) {
  if (!status.ok()) {
    session.Print("readv failed: %s\n", std::strerror(RequestErrno(status)));
    return Result::kFailed;
  }
  Result result = Result::kOk;
  const uint8_t* const first = plan.parts.buffer.data();
  if (plan.pattern.has_value() &&
      std::any_of(first, first + plan.parts.bytes,
                  [&plan](uint8_t byte) { return byte != *plan.pattern; })) {
    session.Print("Pattern verification failed at offset %d, %d bytes\n", plan.offset,
                  plan.parts.bytes);
    result = Result::kFailed;
  }
  if (plan.quiet) return result;
  if (plan.dump) PrintDump(session, first, plan.offset, plan.parts.bytes);
  PrintReport(session, {"read", plan.offset, plan.parts.bytes, time, plan.parsable});
  return result;
}

Result FinishWrite(Session& session, const char* what, const Plan& plan, const absl::Status& status,
                   absl::Duration time) {
  if (!status.ok()) {
    session.Print("%s failed: %s\n", what, std::strerror(RequestErrno(status)));
    return Result::kFailed;
  }
  if (plan.quiet) return Result::kOk;
  PrintReport(session, {"wrote", plan.offset, plan.parts.bytes, time, plan.parsable});
  return Result::kOk;
}

Task<absl::Status> WriteAll(Session* session, const Plan* plan) {
  const uint64_t offset = static_cast<uint64_t>(plan->offset);
  absl::Status status;
  if (plan->zeroes) {
    status = co_await session->bytes().WriteZeroes(offset, static_cast<uint64_t>(plan->parts.bytes),
                                                   ZeroFlags{.may_unmap = plan->unmap});
    if (status.ok() && plan->fua) status = co_await session->disk().Flush();
  } else {
    status =
        co_await session->bytes().Write(offset, plan->parts.vectors, WriteFlags{.fua = plan->fua});
  }
  co_return status;
}

Task<void> ReadAlone(Session* session, std::unique_ptr<Plan> plan) {
  const absl::Time start = absl::Now();
  const absl::Status status =
      co_await session->bytes().Read(static_cast<uint64_t>(plan->offset), plan->parts.vectors);
  FinishRead(*session, *plan, status, absl::Now() - start);
}

Task<void> WriteAlone(Session* session, std::unique_ptr<Plan> plan) {
  const absl::Time start = absl::Now();
  const absl::Status status = co_await WriteAll(session, plan.get());
  FinishWrite(*session, "aio_write", *plan, status, absl::Now() - start);
}

}  // namespace

Result ReadV(Session& session, const Command& command, const std::vector<std::string>& words) {
  const absl::StatusOr<Options> options = Options::Parse(words, "CP:qv");
  if (!options.ok()) return Misuse(session, command, options.status());
  if (!ArePatterns(session, *options)) return Result::kFailed;
  if (options->operands().size() < 2) return Misuse(session, command);
  const std::optional<Plan> plan = MakePlan(session, *options, 0xab);
  if (!plan.has_value()) return Result::kFailed;
  const absl::Time start = absl::Now();
  const absl::Status status = session.loop().RunTask(
      session.bytes().Read(static_cast<uint64_t>(plan->offset), plan->parts.vectors));
  return FinishRead(session, *plan, status, absl::Now() - start);
}

Result WriteV(Session& session, const Command& command, const std::vector<std::string>& words) {
  const absl::StatusOr<Options> options = Options::Parse(words, "CfqP:");
  if (!options.ok()) return Misuse(session, command, options.status());
  if (!ArePatterns(session, *options)) return Result::kFailed;
  if (options->operands().size() < 2) return Misuse(session, command);
  const std::optional<std::string> byte = options->Value('P');
  const std::optional<Plan> plan =
      MakePlan(session, *options, ParsePattern(byte.value_or("0xcd")).value_or(0));
  if (!plan.has_value()) return Result::kFailed;
  const absl::Time start = absl::Now();
  const absl::Status status = session.loop().RunTask(WriteAll(&session, &*plan));
  return FinishWrite(session, "writev", *plan, status, absl::Now() - start);
}

Result AioRead(Session& session, const Command& command, const std::vector<std::string>& words) {
  const absl::StatusOr<Options> options = Options::Parse(words, "CP:iqv");
  if (!options.ok()) return Misuse(session, command, options.status());
  if (!ArePatterns(session, *options)) return Result::kFailed;
  if (options->Has('i')) {
    session.Print("injecting invalid read request\n");
    return Result::kOk;
  }
  if (options->operands().size() < 2) return Misuse(session, command);
  std::optional<Plan> plan = MakePlan(session, *options, 0xab);
  if (!plan.has_value()) return Result::kFailed;
  session.requests().Spawn(ReadAlone(&session, std::make_unique<Plan>(*std::move(plan))));
  return Result::kOk;
}

Result AioWrite(Session& session, const Command& command, const std::vector<std::string>& words) {
  const absl::StatusOr<Options> options = Options::Parse(words, "CfiP:quz");
  if (!options.ok()) return Misuse(session, command, options.status());
  if (!ArePatterns(session, *options)) return Result::kFailed;
  if (options->Has('i')) {
    session.Print("injecting invalid write request\n");
    return Result::kOk;
  }
  if (options->operands().size() < 2) return Misuse(session, command);
  const char* conflict = nullptr;
  if (options->Has('u') && !options->Has('z')) {
    conflict = "-u requires -z to be specified";
  } else if (options->Has('z') && options->operands().size() > 2) {
    conflict = "-z supports only a single length parameter";
  }
  if (conflict != nullptr) {
    session.Print("%s\n", conflict);
    return Result::kFailed;
  }
  const std::optional<std::string> byte = options->Value('P');
  std::optional<Plan> plan =
      MakePlan(session, *options, ParsePattern(byte.value_or("0xcd")).value_or(0));
  if (!plan.has_value()) return Result::kFailed;
  session.requests().Spawn(WriteAlone(&session, std::make_unique<Plan>(*std::move(plan))));
  return Result::kOk;
}

Result AioFlush(Session& session, const Command& /*command*/,
                const std::vector<std::string>& /*words*/) {
  session.WaitForRequests();
  return Result::kOk;
}

}  // namespace vireo::io
