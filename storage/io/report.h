// What commands that move bytes print.

#ifndef VIREO_STORAGE_IO_REPORT_H_
#define VIREO_STORAGE_IO_REPORT_H_

#include <cstdint>

#include "absl/time/time.h"
#include "storage/io/session.h"

namespace vireo::io {

struct Report {
  const char* what;  // "read", "wrote", "discard"
  int64_t offset;
  int64_t bytes;
  absl::Duration time;
  bool parsable;  // -C
};

void PrintReport(Session& session, const Report& report);

// Bytes in hexadecimal and as text, 16 in a line.
void PrintDump(Session& session, const uint8_t* bytes, int64_t offset, int64_t length);

// The longest request that there is.
inline constexpr int64_t kMaxRequestBytes = 2147483136;

}  // namespace vireo::io

#endif  // VIREO_STORAGE_IO_REPORT_H_
