// The API's calls, each passed on to the controller. Called on gRPC's threads, where nothing waits:
// a call that changes the machine is answered by the controller's callback, the others from its
// published snapshot.
#ifndef VIREO_API_VM_SERVICE_H_
#define VIREO_API_VM_SERVICE_H_

#include "api/operation_log.h"
#include "api/v1/vireo.grpc.pb.h"
#include "vmm/vm_controller.h"

namespace vireo::api {

class VmService final : public v1::VmService::CallbackService {
 public:
  // `controller` outlives the service, and calls none of the service's callbacks after that.
  explicit VmService(VmController& controller) : controller_(controller) {}

  grpc::ServerUnaryReactor* Create(grpc::CallbackServerContext* context,
                                   const v1::CreateRequest* request,
                                   v1::CreateResponse* response) override;
  grpc::ServerUnaryReactor* Boot(grpc::CallbackServerContext* context,
                                 const v1::BootRequest* request,
                                 v1::BootResponse* response) override;
  grpc::ServerUnaryReactor* Pause(grpc::CallbackServerContext* context,
                                  const v1::PauseRequest* request,
                                  v1::PauseResponse* response) override;
  grpc::ServerUnaryReactor* Resume(grpc::CallbackServerContext* context,
                                   const v1::ResumeRequest* request,
                                   v1::ResumeResponse* response) override;
  grpc::ServerUnaryReactor* Shutdown(grpc::CallbackServerContext* context,
                                     const v1::ShutdownRequest* request,
                                     v1::ShutdownResponse* response) override;
  grpc::ServerUnaryReactor* Reset(grpc::CallbackServerContext* context,
                                  const v1::ResetRequest* request,
                                  v1::ResetResponse* response) override;
  grpc::ServerUnaryReactor* Stop(grpc::CallbackServerContext* context,
                                 const v1::StopRequest* request,
                                 v1::StopResponse* response) override;
  grpc::ServerUnaryReactor* SetDiskThrottle(grpc::CallbackServerContext* context,
                                            const v1::SetDiskThrottleRequest* request,
                                            v1::SetDiskThrottleResponse* response) override;
  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const v1::DescribeRequest* request,
                                     v1::DescribeResponse* response) override;
  grpc::ServerUnaryReactor* Stats(grpc::CallbackServerContext* context,
                                  const v1::StatsRequest* request,
                                  v1::StatsResponse* response) override;
  grpc::ServerWriteReactor<v1::Event>* WatchEvents(grpc::CallbackServerContext* context,
                                                   const v1::WatchEventsRequest* request) override;
  grpc::ServerBidiReactor<v1::ConsoleInput, v1::ConsoleOutput>* Console(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetVersion(grpc::CallbackServerContext* context,
                                       const v1::GetVersionRequest* request,
                                       v1::GetVersionResponse* response) override;

 private:
  // Runs `change` under the request's operation id; the response gets the state after it.
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Change(grpc::CallbackServerContext* context, const Request& request,
                                   Response* response, OperationLog::Start change);

  VmController& controller_;
  OperationLog operations_;
};

}  // namespace vireo::api

#endif  // VIREO_API_VM_SERVICE_H_
