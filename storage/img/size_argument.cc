#include "storage/img/size_argument.h"

#include "absl/status/statusor.h"
#include "storage/img/size.h"

namespace vireo::img {

std::optional<uint64_t> SizeArgument(const Tool& tool, const char* name, const std::string& text,
                                     SizeLimits limits) {
  const absl::StatusOr<uint64_t> bytes = ReadSize(text);
  if (!bytes.ok() && !absl::IsOutOfRange(bytes.status())) {
    tool.Fail("Invalid %s specified. You may use k, M, G, T, P or E suffixes for", name);
    tool.Fail("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
    return std::nullopt;
  }
  if (!bytes.ok() || *bytes < limits.min || *bytes > limits.max) {
    tool.Fail("Invalid %s specified. Must be between %d and %d.", name, limits.min, limits.max);
    return std::nullopt;
  }
  return *bytes;
}

}  // namespace vireo::img
