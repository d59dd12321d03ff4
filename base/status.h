// Status helpers: errno to Status, and the four macros that leave a function (or a coroutine)
// early.

#ifndef VIREO_BASE_STATUS_H_
#define VIREO_BASE_STATUS_H_

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vireo {

// "`what`: strerror(error)" under the canonical code of `error`: RESOURCE_EXHAUSTED for space, fds
// and memory, CANCELLED for ECANCELED, ... The number itself stays with the status (StatusErrno).
absl::Status ErrnoStatus(int error, std::string_view what);

// The errno that `status` was made from by ErrnoStatus(), 0 if none.
int StatusErrno(const absl::Status& status);

// The same code and payloads (errno), with "`context`: " before the message. OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context);

// The same message and payloads under another code. OK stays OK.
absl::Status WithCode(const absl::Status& status, absl::StatusCode code);

}  // namespace vireo

#define VIREO_STATUS_CONCAT_INNER_(a, b) a##b
#define VIREO_STATUS_CONCAT_(a, b) VIREO_STATUS_CONCAT_INNER_(a, b)

#define VIREO_RETURN_IF_ERROR_(return_keyword, ...)        \
  do {                                                     \
    ::absl::Status vireo_status_ = __VA_ARGS__;            \
    if (!vireo_status_.ok()) return_keyword vireo_status_; \
  } while (false)

#define VIREO_ASSIGN_OR_RETURN_(return_keyword, name, lhs, ...) \
  auto name = __VA_ARGS__;                                      \
  if (!name.ok()) return_keyword std::move(name).status();      \
  lhs = *std::move(name)

// RETURN_IF_ERROR(expression of type absl::Status);
#define RETURN_IF_ERROR(...) VIREO_RETURN_IF_ERROR_(return, __VA_ARGS__)
// The same in a coroutine; the expression may be a `co_await`.
#define CO_RETURN_IF_ERROR(...) VIREO_RETURN_IF_ERROR_(co_return, __VA_ARGS__)

// ASSIGN_OR_RETURN(const Type name, expression of type absl::StatusOr<Type>); several statements:
// brace it under an `if`. The left side may be a declaration or an assignable expression, without a
// comma.
#define ASSIGN_OR_RETURN(lhs, ...)                                                       \
  VIREO_ASSIGN_OR_RETURN_(return, VIREO_STATUS_CONCAT_(vireo_status_or_, __LINE__), lhs, \
                                __VA_ARGS__)
// The same in a coroutine; the expression may be a `co_await`.
#define CO_ASSIGN_OR_RETURN(lhs, ...)                                                       \
  VIREO_ASSIGN_OR_RETURN_(co_return, VIREO_STATUS_CONCAT_(vireo_status_or_, __LINE__), lhs, \
                          __VA_ARGS__)

#endif  // VIREO_BASE_STATUS_H_
