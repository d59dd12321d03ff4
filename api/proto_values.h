// What conversions to and from the API's messages share: enumerators by table, and text.

#ifndef VIREO_API_PROTO_VALUES_H_
#define VIREO_API_PROTO_VALUES_H_

#include <google/protobuf/descriptor.h>
#include <google/protobuf/generated_enum_reflection.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace vireo::api {

// One table serves both ways, so that a new value is added in one place.
template <typename Proto, typename Plain>
struct EnumPair {
  Proto proto;
  Plain plain;
};

// `otherwise` stands for a struct that holds no enumerator, which our own code never makes.
template <typename Proto, typename Plain, size_t N>
Proto ToProto(const EnumPair<Proto, Plain> (&table)[N], Plain plain, Proto otherwise) {
  for (const auto& pair : table) {
    if (pair.plain == plain) return pair.proto;
  }
  return otherwise;
}

// `unspecified` is what zero, the message's default, means.
template <typename Proto, typename Plain, size_t N>
absl::StatusOr<Plain> FromProto(const EnumPair<Proto, Plain> (&table)[N], Proto proto,
                                Plain unspecified, absl::string_view field) {
  if (proto == Proto{}) return unspecified;
  std::vector<std::string> known;
  for (const auto& pair : table) {
    if (pair.proto == proto) return pair.plain;
    known.push_back(std::string(
        google::protobuf::GetEnumDescriptor<Proto>()->FindValueByNumber(pair.proto)->name()));
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: %d is not known; use %s", field, static_cast<int>(proto), absl::StrJoin(known, " or ")));
}

// proto3 strings are UTF-8, file names need not be: what is not becomes '?'.
std::string Utf8(absl::string_view text);

}  // namespace vireo::api

#endif  // VIREO_API_PROTO_VALUES_H_
