#include "cmd/terminal.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cctype>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

namespace vireo {
namespace {

// A signal handler has nothing but statics to go by. Written before raw_fd is set, read only while
// it is.
termios saved_settings;
std::atomic<int> raw_fd{-1};

// What a process dies of, unless it handles them: then its own way out runs the destructor.
constexpr int kDeadlySignals[] = {SIGABRT, SIGBUS, SIGFPE,  SIGILL, SIGSEGV,
                                  SIGHUP,  SIGINT, SIGQUIT, SIGTERM};

void RestoreAndDie(int signal) {
  RawTerminal::RestoreNow();
  ::raise(signal);  // SA_RESETHAND: now with its default action.
}

void HandleDeadlySignals() {
  for (const int signal : kDeadlySignals) {
    struct sigaction current = {};
    ::sigaction(signal, nullptr, &current);
    if (current.sa_handler != SIG_DFL) continue;  // Somebody else's (a sanitizer's, or ignored).
    struct sigaction action = {};
    action.sa_handler = RestoreAndDie;
    action.sa_flags = SA_RESETHAND | SA_NODEFER;
    ::sigaction(signal, &action, nullptr);
  }
}

}  // namespace

absl::StatusOr<RawTerminal> RawTerminal::Enter(int fd) {
  VIREO_CHECK(raw_fd.load() < 0, "one raw terminal at a time");
  if (::tcgetattr(fd, &saved_settings) < 0) {
    return absl::FailedPreconditionError(absl::StrCat("descriptor ", fd, " is not a terminal"));
  }
  termios raw = saved_settings;
  ::cfmakeraw(&raw);
  raw.c_oflag = saved_settings.c_oflag;
  HandleDeadlySignals();
  static const bool registered = ::atexit(&RawTerminal::RestoreNow) == 0;
  VIREO_CHECK(registered);
  raw_fd.store(fd);
  RawTerminal terminal;
  terminal.owner_ = true;
  if (::tcsetattr(fd, TCSANOW, &raw) < 0) return ErrnoStatus(errno, "terminal");
  return terminal;
}

RawTerminal::RawTerminal(RawTerminal&& other) noexcept : owner_(other.owner_) {
  other.owner_ = false;
}

RawTerminal::~RawTerminal() {
  if (owner_) RestoreNow();
}

void RawTerminal::RestoreNow() {
  const int fd = raw_fd.exchange(-1);
  if (fd >= 0) ::tcsetattr(fd, TCSANOW, &saved_settings);
}

TypedKeys SplitAtEscape(std::string_view typed, char escape_key) {
  const size_t at = escape_key == 0 ? std::string_view::npos : typed.find(escape_key);
  if (at == std::string_view::npos) return {.before = typed, .escape = false, .rest = ""};
  return {.before = typed.substr(0, at), .escape = true, .rest = typed.substr(at + 1)};
}

absl::StatusOr<char> ParseEscapeKey(std::string_view text) {
  if (text == "none") return '\0';
  if (text.size() == 1) return text[0];
  if (text.size() == 2 && text[0] == '^') {
    const char key = static_cast<char>(std::toupper(static_cast<unsigned char>(text[1])));
    if (key > '@' && key <= '_') return static_cast<char>(key & 0x1f);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", std::string(text), "\" is not a key; use ^] and the like, one character, or none"));
}

}  // namespace vireo
