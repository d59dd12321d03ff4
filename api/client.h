// One connection to one VM's API: what vireoctl and the agent use. Any thread.
#ifndef VIREO_API_CLIENT_H_
#define VIREO_API_CLIENT_H_

#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "api/v1/vireo.grpc.pb.h"

namespace vireo::api {

class Client {
 public:
  // `address` as in unix_socket.h. UNAVAILABLE when no VM listens there.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const std::string& address);

  // One call, e.g. Call(&Client::Stub::Pause, request). The VM's own error, or UNAVAILABLE when the
  // connection broke, DEADLINE_EXCEEDED when there was no answer within `timeout`; these two name
  // the address.
  using Stub = v1::VmService::Stub;
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request, absl::Duration timeout) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    Response response;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    if (!status.ok()) return Explain(status);
    return response;
  }

  // For streams; their status goes through Explain().
  Stub& stub() { return *stub_; }
  absl::Status Explain(const grpc::Status& status) const;

 private:
  Client(std::string address, std::shared_ptr<grpc::Channel> channel);

  const std::string address_;
  const std::unique_ptr<Stub> stub_;
};

}  // namespace vireo::api

#endif  // VIREO_API_CLIENT_H_
