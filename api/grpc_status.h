// absl::Status <-> grpc::Status. Both number the canonical codes alike (google/rpc/code.proto).
#ifndef VIREO_API_GRPC_STATUS_H_
#define VIREO_API_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace vireo::api {

grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace vireo::api

#endif  // VIREO_API_GRPC_STATUS_H_
