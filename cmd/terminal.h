// The terminal in raw mode for a guest's console, given back as it was on every way out: normal
// return, exit(), and death by a signal.
#ifndef VIREO_CMD_TERMINAL_H_
#define VIREO_CMD_TERMINAL_H_

#include <termios.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace vireo {

inline constexpr char kEscapeKey = 0x1d;  // Ctrl-]

// At most one at a time in a process.
class RawTerminal {
 public:
  // Every key reaches the guest as it is, Ctrl-C included; output keeps its newline translation,
  // since log lines share the terminal. FAILED_PRECONDITION when `fd` is no terminal.
  static absl::StatusOr<RawTerminal> Enter(int fd);

  RawTerminal(RawTerminal&& other) noexcept;
  RawTerminal& operator=(RawTerminal&&) = delete;
  ~RawTerminal();

  // For ways out that run no destructors. Async-signal-safe, any thread; harmless when no terminal
  // is raw.
  static void RestoreNow();

 private:
  RawTerminal() = default;
  bool owner_ = false;
};

// What typed bytes mean: those before the first escape key, and whether there was one. `rest` is
// what follows it.
struct TypedKeys {
  std::string_view before;
  bool escape = false;
  std::string_view rest;
};
TypedKeys SplitAtEscape(std::string_view typed, char escape_key);

// "^]", "^a" and the like, a single character, or "none" (which answers 0, a key that SplitAtEscape
// never finds).
absl::StatusOr<char> ParseEscapeKey(std::string_view text);

}  // namespace vireo

#endif  // VIREO_CMD_TERMINAL_H_
