// Any bytes as the options of a name: refused or read, never more.

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "storage/driver_options.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  absl::StatusOr<vireo::DriverOptions> options = vireo::DriverOptions::FromJson(text);
  if (options.ok()) {
    for (const char* key : {"size", "offset"}) options->TakeSize(key).IgnoreError();
    options->TakeNumber("errno").IgnoreError();
    options->TakeSwitch("read-only", false).IgnoreError();
    while (options->HasBelow("file")) *options = options->TakeBelow("file");
  }
  vireo::DriverOptions::FromKeyValues(text).status().IgnoreError();
  return 0;
}
