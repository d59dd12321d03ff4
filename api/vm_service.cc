#include "api/vm_service.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "api/console_stream.h"
#include "api/convert.h"
#include "api/event_stream.h"
#include "api/grpc_status.h"
#include "api/version.h"

namespace vireo::api {
namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace

template <typename Request, typename Response>
grpc::ServerUnaryReactor* VmService::Change(grpc::CallbackServerContext* context,
                                            const Request& request, Response* response,
                                            OperationLog::Start change) {
  // The reactor, and with it the response, lives until Finish, also when the client has gone away.
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  operations_.Run(request.operation_id(),
                  request.GetTypeName() + "\n" + request.SerializeAsString(), std::move(change),
                  [this, reactor, response](const absl::Status& status) {
                    response->set_state(StateToProto(controller_.Describe().state));
                    reactor->Finish(ToGrpcStatus(status));
                  });
  return reactor;
}

grpc::ServerUnaryReactor* VmService::Create(grpc::CallbackServerContext* context,
                                            const v1::CreateRequest* request,
                                            v1::CreateResponse* response) {
  if (!request->has_config()) {
    return Answer(context, absl::InvalidArgumentError("config: missing"));
  }
  absl::StatusOr<VmConfig> config = ConfigFromProto(request->config());
  if (!config.ok()) return Answer(context, config.status());
  if (config->console.mode == ConsoleMode::kStdio) {
    return Answer(context, absl::InvalidArgumentError(
                               "console.mode: STDIO is for `vireo run`; use BUFFER, FILE or NONE"));
  }
  return Change(context, *request, response,
                [this, config = *std::move(config)](OperationLog::Done done) mutable {
                  controller_.Create(std::move(config), std::move(done));
                });
}

grpc::ServerUnaryReactor* VmService::Boot(grpc::CallbackServerContext* context,
                                          const v1::BootRequest* request,
                                          v1::BootResponse* response) {
  return Change(context, *request, response,
                [this](OperationLog::Done done) { controller_.Boot(std::move(done)); });
}

grpc::ServerUnaryReactor* VmService::Pause(grpc::CallbackServerContext* context,
                                           const v1::PauseRequest* request,
                                           v1::PauseResponse* response) {
  return Change(context, *request, response,
                [this](OperationLog::Done done) { controller_.Pause(std::move(done)); });
}

grpc::ServerUnaryReactor* VmService::Resume(grpc::CallbackServerContext* context,
                                            const v1::ResumeRequest* request,
                                            v1::ResumeResponse* response) {
  return Change(context, *request, response,
                [this](OperationLog::Done done) { controller_.Resume(std::move(done)); });
}

grpc::ServerUnaryReactor* VmService::Shutdown(grpc::CallbackServerContext* context,
                                              const v1::ShutdownRequest* request,
                                              v1::ShutdownResponse* response) {
  return Change(context, *request, response,
                [this](OperationLog::Done done) { controller_.Shutdown(std::move(done)); });
}

grpc::ServerUnaryReactor* VmService::Reset(grpc::CallbackServerContext* context,
                                           const v1::ResetRequest* request,
                                           v1::ResetResponse* response) {
  return Change(context, *request, response,
                [this](OperationLog::Done done) { controller_.Reset(std::move(done)); });
}

grpc::ServerUnaryReactor* VmService::Stop(grpc::CallbackServerContext* context,
                                          const v1::StopRequest* request,
                                          v1::StopResponse* response) {
  return Change(context, *request, response,
                [this](OperationLog::Done done) { controller_.Stop(std::move(done)); });
}

grpc::ServerUnaryReactor* VmService::SetDiskThrottle(grpc::CallbackServerContext* context,
                                                     const v1::SetDiskThrottleRequest* request,
                                                     v1::SetDiskThrottleResponse* response) {
  return Change(
      context, *request, response,
      [this, disk = request->disk(),
       throttle = ThrottleFromProto(request->throttle())](OperationLog::Done done) mutable {
        controller_.SetDiskThrottle(std::move(disk), std::move(throttle), std::move(done));
      });
}

grpc::ServerUnaryReactor* VmService::Describe(grpc::CallbackServerContext* context,
                                              const v1::DescribeRequest*,
                                              v1::DescribeResponse* response) {
  *response->mutable_vm() = DescriptionToProto(controller_.Describe());
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* VmService::Stats(grpc::CallbackServerContext* context,
                                           const v1::StatsRequest*, v1::StatsResponse* response) {
  *response->mutable_stats() = StatsToProto(controller_.Stats());
  return Answer(context, absl::OkStatus());
}

grpc::ServerWriteReactor<v1::Event>* VmService::WatchEvents(grpc::CallbackServerContext*,
                                                            const v1::WatchEventsRequest* request) {
  return new EventStream(controller_, request->after_sequence());
}

grpc::ServerBidiReactor<v1::ConsoleInput, v1::ConsoleOutput>* VmService::Console(
    grpc::CallbackServerContext*) {
  return new ConsoleStream(controller_);
}

grpc::ServerUnaryReactor* VmService::GetVersion(grpc::CallbackServerContext* context,
                                                const v1::GetVersionRequest*,
                                                v1::GetVersionResponse* response) {
  response->set_version(kVersion);
  response->set_api_version(kApiVersion);
  response->add_machines(kMachineVersion);
  return Answer(context, absl::OkStatus());
}

}  // namespace vireo::api
