// Commands that steer the program and the fault injector.

#include <signal.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "storage/debug_events.h"
#include "storage/io/commands.h"
#include "storage/io/words.h"

namespace vireo::io {
namespace {

constexpr char kNoEvents[] = "Operation not supported";     // ENOTSUP, of a disk without blkdebug.
constexpr char kNoSuchTag[] = "No such file or directory";  // ENOENT

Task<void> WaitUntilSuspended(EventLoop* loop, const Blkdebug* blkdebug, std::string tag) {
  while (!blkdebug->IsSuspended(tag)) {
    // The request that is to be held up may wait for a file or a timer: there is no event for it.
    const absl::Status slept = co_await loop->SleepFor(absl::Milliseconds(1));
    if (!slept.ok()) co_return;
  }
}

}  // namespace

Result Abort(Session& /*session*/, const Command& /*command*/,
             const std::vector<std::string>& /*words*/) {
  std::abort();
}

Result Break(Session& session, const Command& /*command*/, const std::vector<std::string>& words) {
  Blkdebug* const blkdebug = session.node().blkdebug;
  const std::optional<DebugEvent> event = DebugEventFromName(words[1]);
  if (blkdebug == nullptr || !event.has_value()) {
    session.Print("Could not set breakpoint: %s\n", blkdebug == nullptr ? kNoEvents : kNoSuchTag);
    return Result::kFailed;
  }
  blkdebug->Break(*event, words[2]);
  return Result::kOk;
}

Result RemoveBreak(Session& session, const Command& /*command*/,
                   const std::vector<std::string>& words) {
  Blkdebug* const blkdebug = session.node().blkdebug;
  if (blkdebug != nullptr && blkdebug->RemoveBreak(words[1])) return Result::kOk;
  session.Print("Could not remove breakpoint %s: %s\n", words[1],
                blkdebug == nullptr ? kNoEvents : kNoSuchTag);
  return Result::kFailed;
}

Result WaitBreak(Session& session, const Command& /*command*/,
                 const std::vector<std::string>& words) {
  const Blkdebug* const blkdebug = session.node().blkdebug;
  if (blkdebug == nullptr) {  // QEMU waits for ever.
    session.Print("Could not wait for breakpoint: %s\n", kNoEvents);
    return Result::kFailed;
  }
  session.loop().RunTask(WaitUntilSuspended(&session.loop(), blkdebug, words[1]));
  return Result::kOk;
}

Result Resume(Session& session, const Command& /*command*/, const std::vector<std::string>& words) {
  Blkdebug* const blkdebug = session.node().blkdebug;
  if (blkdebug == nullptr || !blkdebug->Resume(words[1])) {
    session.Print("Could not resume request: %s\n", blkdebug == nullptr ? kNoEvents : kNoSuchTag);
    return Result::kFailed;
  }
  session.loop().RunTask(session.loop().Yield());  // It goes on before the next command does.
  return Result::kOk;
}

Result SigRaise(Session& session, const Command& /*command*/,
                const std::vector<std::string>& words) {
  const absl::StatusOr<int64_t> number = ParseNumber(words[1]);
  if (!number.ok()) {
    session.Print("%s\n", std::string(number.status().message()));
    return Result::kFailed;
  }
  if (*number > NSIG) {
    session.Print("signal argument '%s' is too large to be a valid signal\n", words[1]);
    return Result::kFailed;
  }
  session.FlushOutput();
  ::raise(static_cast<int>(*number));
  return Result::kOk;
}

Result Sleep(Session& session, const Command& /*command*/, const std::vector<std::string>& words) {
  errno = 0;
  char* end = nullptr;
  const long milliseconds = std::strtol(words[1].c_str(), &end, 0);
  if (errno != 0 || *end != '\0' || milliseconds < 0) {
    session.Print("%s is not a valid number\n", words[1]);
    return Result::kFailed;
  }
  const absl::Status slept =
      session.loop().RunTask(session.loop().SleepFor(absl::Milliseconds(milliseconds)));
  return slept.ok() ? Result::kOk : Result::kFailed;
}

Result Help(Session& session, const Command& /*command*/, const std::vector<std::string>& words) {
  if (words.size() == 1) {
    for (const Command& each : AllCommands()) session.Print("%s\n", each.Line());
    session.Print("\nUse 'help commandname' for extended help.\n");
    return Result::kOk;
  }
  for (const Command& each : AllCommands()) {
    if (words[1] != each.name && (each.other_name == nullptr || words[1] != each.other_name)) {
      continue;
    }
    session.Print("%s\n", each.Line(words[1]));
    if (each.help != nullptr) session.Print("%s", each.help);
    return Result::kOk;
  }
  session.Print("command %s not found\n", words[1]);
  return Result::kFailed;
}

Result Quit(Session& session, const Command& /*command*/,
            const std::vector<std::string>& /*words*/) {
  session.quit = true;
  return Result::kOk;
}

}  // namespace vireo::io
