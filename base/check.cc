#include "base/check.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace vireo {

void CheckFailed(const char* file, int line, const char* condition, std::string_view invariant) {
  char message[1024];
  const int length = std::snprintf(message, sizeof(message), "CHECK failed at %s:%d: %s%s%.*s\n",
                                   file, line, condition, invariant.empty() ? "" : ": ",
                                   static_cast<int>(invariant.size()), invariant.data());
  const size_t bytes =
      length < 0 ? 0
                 : (static_cast<size_t>(length) < sizeof(message) ? length : sizeof(message) - 1);
  // One plain write: the heap and locks may be what is broken.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, message, bytes);
  std::abort();
}

}  // namespace vireo
