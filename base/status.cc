#include "base/status.h"

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace vireo {
namespace {

constexpr char kErrnoPayload[] = "vireo/errno";

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case EFBIG:
      return absl::StatusCode::kResourceExhausted;
    case ECANCELED:
      return absl::StatusCode::kCancelled;
    default:
      return absl::ErrnoToStatusCode(error);
  }
}

absl::Status Copy(const absl::Status& from, absl::StatusCode code, absl::string_view message) {
  absl::Status copy(code, message);
  from.ForEachPayload([&copy](absl::string_view type_url, const absl::Cord& payload) {
    copy.SetPayload(type_url, payload);
  });
  return copy;
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

absl::Status ErrnoStatus(int error, std::string_view what) {
  char buffer[128];
  const char* const text = ::strerror_r(error, buffer, sizeof(buffer));
  absl::Status status(CodeOf(error), absl::StrCat(View(what), ": ", text));
  status.SetPayload(kErrnoPayload, absl::Cord(absl::StrCat(error)));
  return status;
}

int StatusErrno(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kErrnoPayload);
  int error = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &error)) return 0;
  return error;
}

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  return Copy(status, status.code(), absl::StrCat(View(context), ": ", status.message()));
}

absl::Status WithCode(const absl::Status& status, absl::StatusCode code) {
  if (status.ok()) return status;
  return Copy(status, code, status.message());
}

}  // namespace vireo
