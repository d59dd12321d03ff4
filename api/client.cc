#include "api/client.h"

#include <grpcpp/create_channel_posix.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "api/grpc_status.h"
#include "api/unix_socket.h"
#include "base/status.h"

namespace vireo::api {

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const std::string& address) {
  ASSIGN_OR_RETURN(UniqueFd fd, ConnectUnix(address));
  // The target is only what goes into the :authority header.
  return std::unique_ptr<Client>(
      new Client(address, grpc::CreateInsecureChannelFromFd("vireo", fd.Release())));
}

Client::Client(std::string address, std::shared_ptr<grpc::Channel> channel)
    : address_(std::move(address)), stub_(v1::VmService::NewStub(std::move(channel))) {}

absl::Status Client::Explain(const grpc::Status& status) const {
  const absl::Status result = FromGrpcStatus(status);
  if (absl::IsUnavailable(result)) {
    return absl::UnavailableError(
        absl::StrCat(address_, ": the connection broke: ", status.error_message()));
  }
  // The machine has deadlines of its own, whose message says what hangs; this is gRPC's for the
  // client's.
  if (absl::IsDeadlineExceeded(result) && status.error_message() == "Deadline Exceeded") {
    return absl::DeadlineExceededError(absl::StrCat(address_, ": no answer in the time allowed"));
  }
  return result;
}

}  // namespace vireo::api
