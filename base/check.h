// VIREO_CHECK: our own invariants. A failed check prints file, line and condition, then aborts.
// Never for what a guest, an image, a caller's configuration or the host can cause (those are a
// Status).

#ifndef VIREO_BASE_CHECK_H_
#define VIREO_BASE_CHECK_H_

#include <string_view>

namespace vireo {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              std::string_view invariant = {});

}  // namespace vireo

// VIREO_CHECK(condition) or VIREO_CHECK(condition, "the invariant in words").
#define VIREO_CHECK(condition, ...)                  \
  (__builtin_expect(static_cast<bool>(condition), 1) \
       ? static_cast<void>(0)                        \
       : ::vireo::CheckFailed(__FILE__, __LINE__, #condition __VA_OPT__(, ) __VA_ARGS__))

// Only in builds without NDEBUG; the condition is compiled everywhere.
#ifdef NDEBUG
#define VIREO_DCHECK(condition, ...) \
  static_cast<void>(true || (static_cast<void>(condition), false))
#else
#define VIREO_DCHECK(condition, ...) VIREO_CHECK(condition __VA_OPT__(, ) __VA_ARGS__)
#endif

#endif  // VIREO_BASE_CHECK_H_
