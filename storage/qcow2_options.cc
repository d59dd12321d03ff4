#include "storage/qcow2_options.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/qcow2/cache_budget.h"

namespace vireo {
namespace {

absl::Status Invalid(const std::string& text) { return absl::InvalidArgumentError(text); }

absl::Status TakeOverlapCheck(DriverOptions& options) {
  const std::optional<std::string> plain = options.Take("overlap-check");
  const std::optional<std::string> template_name = options.Take("overlap-check.template");
  if (plain.has_value() && template_name.has_value() && *plain != *template_name) {
    return Invalid(
        absl::StrFormat("Conflicting values for qcow2 options 'overlap-check' ('%s') and "
                        "'overlap-check.template' ('%s')",
                        *plain, *template_name));
  }
  const std::string name = plain.value_or(template_name.value_or("cached"));
  if (name != "none" && name != "constant" && name != "cached" && name != "all") {
    return Invalid(
        absl::StrFormat("Unsupported value '%s' for qcow2 option 'overlap-check'. Allowed are any "
                        "of the following: none, constant, cached, all",
                        name));
  }
  for (const char* table :
       {"main-header", "active-l1", "active-l2", "refcount-table", "refcount-block",
        "snapshot-table", "inactive-l1", "inactive-l2", "bitmap-directory"}) {
    RETURN_IF_ERROR(options.TakeSwitch(absl::StrCat("overlap-check.", table), true).status());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status TakeQcow2Options(DriverOptions& options, uint64_t cluster_bytes,
                              std::optional<uint64_t>* cache_bytes) {
  for (const char* key :
       {"lazy-refcounts", "pass-discard-request", "pass-discard-snapshot", "pass-discard-other"}) {
    RETURN_IF_ERROR(options.TakeSwitch(key, true).status());
  }
  RETURN_IF_ERROR(TakeOverlapCheck(options));
  ASSIGN_OR_RETURN(const std::optional<uint64_t> all, options.TakeSize("cache-size"));
  ASSIGN_OR_RETURN(const std::optional<uint64_t> l2, options.TakeSize("l2-cache-size"));
  ASSIGN_OR_RETURN(const std::optional<uint64_t> refcounts,
                   options.TakeSize("refcount-cache-size"));
  ASSIGN_OR_RETURN(const std::optional<uint64_t> entry, options.TakeSize("l2-cache-entry-size"));
  ASSIGN_OR_RETURN(const std::optional<int64_t> interval,
                   options.TakeNumber("cache-clean-interval"));
  if (all.has_value() && l2.has_value() && refcounts.has_value()) {
    return Invalid(
        "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
  }
  if (all.has_value() && l2.value_or(0) > *all) {
    return Invalid("l2-cache-size may not exceed cache-size");
  }
  if (all.has_value() && refcounts.value_or(0) > *all) {
    return Invalid("refcount-cache-size may not exceed cache-size");
  }
  if (entry.has_value() &&
      (*entry < 512 || *entry > cluster_bytes || !std::has_single_bit(*entry))) {
    return Invalid(absl::StrFormat(
        "L2 cache entry size must be a power of two between 512 and the cluster size (%d)",
        cluster_bytes));
  }
  if (interval.has_value() && (*interval < 0 || *interval > 0xffffffff)) {
    return Invalid("Cache clean interval too big");
  }
  using qcow2::kMaxCacheBytes;
  if (all.has_value() || l2.has_value() || refcounts.has_value()) {
    // The engine's tables share one bound.
    const uint64_t wanted = all.has_value() ? *all
                                            : std::min(l2.value_or(0), kMaxCacheBytes) +
                                                  std::min(refcounts.value_or(0), kMaxCacheBytes);
    *cache_bytes = std::clamp(wanted, qcow2::kMinCacheBytes, kMaxCacheBytes);
  }
  return absl::OkStatus();
}

}  // namespace vireo
