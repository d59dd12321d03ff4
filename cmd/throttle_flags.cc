#include "cmd/throttle_flags.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cmd/flag_values.h"

namespace vireo {
namespace {

struct Limit {
  const char* name;
  RateLimit DiskThrottle::*limit;
};
constexpr std::array<Limit, 6> kLimits = {{{"bps-total", &DiskThrottle::bytes_total},
                                           {"bps-read", &DiskThrottle::bytes_read},
                                           {"bps-write", &DiskThrottle::bytes_write},
                                           {"iops-total", &DiskThrottle::ops_total},
                                           {"iops-read", &DiskThrottle::ops_read},
                                           {"iops-write", &DiskThrottle::ops_write}}};

absl::Status TakeSize(const std::map<std::string, std::string>& values, const std::string& key,
                      uint64_t* slot) {
  const auto found = values.find(key);
  if (found == values.end()) return absl::OkStatus();
  const absl::StatusOr<uint64_t> size = ParseSize(found->second);
  if (!size.ok()) return Annotate(size.status(), key);
  *slot = *size;
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> ThrottleKeys(absl::string_view prefix) {
  std::vector<std::string> keys;
  for (const Limit& limit : kLimits) {
    for (const char* suffix : {"", "-max", "-max-length"}) {
      keys.push_back(absl::StrCat(prefix, limit.name, suffix));
    }
  }
  keys.push_back(absl::StrCat(prefix, "iops-size"));
  return keys;
}

absl::Status TakeThrottle(const std::map<std::string, std::string>& values,
                          absl::string_view prefix, DiskThrottle* throttle) {
  for (const Limit& limit : kLimits) {
    RateLimit& rate = throttle->*limit.limit;
    const std::string key = absl::StrCat(prefix, limit.name);
    RETURN_IF_ERROR(TakeSize(values, key, &rate.per_second));
    RETURN_IF_ERROR(TakeSize(values, absl::StrCat(key, "-max"), &rate.burst));
    const std::string length_key = absl::StrCat(key, "-max-length");
    if (const auto length = values.find(length_key); length != values.end()) {
      const absl::StatusOr<uint64_t> seconds = ParseNumber(length->second, 1, UINT32_MAX);
      if (!seconds.ok()) return Annotate(seconds.status(), length_key);
      rate.burst_seconds = static_cast<uint32_t>(*seconds);
    }
  }
  return TakeSize(values, absl::StrCat(prefix, "iops-size"), &throttle->op_bytes);
}

}  // namespace vireo
