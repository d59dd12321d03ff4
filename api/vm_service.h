// The API's calls, each passed on to the controller. Called on the call queue's thread, where
// nothing waits: a call that changes the machine is answered by the controller's callback, the
// others from its published snapshot.
#ifndef VIREO_API_VM_SERVICE_H_
#define VIREO_API_VM_SERVICE_H_

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "api/call_queue.h"
#include "api/operation_log.h"
#include "api/v1/vireo.grpc.pb.h"
#include "vmm/vm_controller.h"

namespace vireo::api {

class VmService {
 public:
  // `controller` outlives the service, and calls none of the service's callbacks after that.
  explicit VmService(VmController& controller) : controller_(controller) {}

  // To be registered with the server.
  grpc::Service& grpc_service() { return grpc_service_; }

  // Takes calls from here on, until the server shuts down. The server has been started, and `queue`
  // is its own.
  void Listen(CallQueue& queue);

 private:
  using GrpcService = v1::VmService::AsyncService;
  using Done = absl::AnyInvocable<void(const absl::Status&)>;

  template <typename Request, typename Response>
  class UnaryCall;

  template <typename Base, typename Request, typename Response>
  void ListenFor(CallQueue& queue,
                 void (Base::*request)(grpc::ServerContext*, Request*,
                                       grpc::ServerAsyncResponseWriter<Response>*,
                                       grpc::CompletionQueue*, grpc::ServerCompletionQueue*, void*),
                 void (VmService::*method)(const Request&, Response*, Done));

  // One method for each call. `response` and `request` live until `done` is called, once, on any
  // thread: also when the client has gone away.
  void Create(const v1::CreateRequest& request, v1::CreateResponse* response, Done done);
  void Boot(const v1::BootRequest& request, v1::BootResponse* response, Done done);
  void Pause(const v1::PauseRequest& request, v1::PauseResponse* response, Done done);
  void Resume(const v1::ResumeRequest& request, v1::ResumeResponse* response, Done done);
  void Shutdown(const v1::ShutdownRequest& request, v1::ShutdownResponse* response, Done done);
  void Reset(const v1::ResetRequest& request, v1::ResetResponse* response, Done done);
  void Stop(const v1::StopRequest& request, v1::StopResponse* response, Done done);
  void SetDiskThrottle(const v1::SetDiskThrottleRequest& request,
                       v1::SetDiskThrottleResponse* response, Done done);
  void SetMedium(const v1::SetMediumRequest& request, v1::SetMediumResponse* response, Done done);
  void Describe(const v1::DescribeRequest& request, v1::DescribeResponse* response, Done done);
  void Stats(const v1::StatsRequest& request, v1::StatsResponse* response, Done done);
  void GetVersion(const v1::GetVersionRequest& request, v1::GetVersionResponse* response,
                  Done done);

  // Runs `change` under the request's operation id; the response gets the state after it.
  template <typename Request, typename Response>
  void Change(const Request& request, Response* response, Done done, OperationLog::Start change);

  VmController& controller_;
  OperationLog operations_;
  GrpcService grpc_service_;
};

}  // namespace vireo::api

#endif  // VIREO_API_VM_SERVICE_H_
