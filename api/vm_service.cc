#include "api/vm_service.h"

#include <grpcpp/support/async_unary_call.h>

#include <string>
#include <utility>

#include "api/config_convert.h"
#include "api/console_stream.h"
#include "api/event_stream.h"
#include "api/grpc_status.h"
#include "api/report_convert.h"
#include "api/version.h"

namespace vireo::api {

// A call with one request and one response: the method says what is done in between.
template <typename Request, typename Response>
class VmService::UnaryCall final : public ServerCall {
 public:
  struct Kind {
    void (GrpcService::*request)(grpc::ServerContext*, Request*,
                                 grpc::ServerAsyncResponseWriter<Response>*, grpc::CompletionQueue*,
                                 grpc::ServerCompletionQueue*, void*);
    void (VmService::*method)(const Request&, Response*, Done);
  };

  UnaryCall(CallQueue& queue, VmService& service, Kind kind)
      : ServerCall(queue), service_(service), kind_(kind) {}

 private:
  void RequestCall(void* tag) override {
    (service_.grpc_service_.*kind_.request)(context(), &request_, &writer_, grpc_queue(),
                                            grpc_queue(), tag);
  }
  void OnBegin() override {
    (new UnaryCall(queue(), service_, kind_))->Listen();
    (service_.*kind_.method)(request_, &response_, [this](const absl::Status& status) {
      MutexLock lock(mutex_);
      writer_.Finish(response_, ToGrpcStatus(status), ExpectLast());
    });
  }

  VmService& service_;
  const Kind kind_;
  Request request_;
  Response response_;
  grpc::ServerAsyncResponseWriter<Response> writer_{context()};
};

template <typename Base, typename Request, typename Response>
void VmService::ListenFor(CallQueue& queue,
                          void (Base::*request)(grpc::ServerContext*, Request*,
                                                grpc::ServerAsyncResponseWriter<Response>*,
                                                grpc::CompletionQueue*,
                                                grpc::ServerCompletionQueue*, void*),
                          void (VmService::*method)(const Request&, Response*, Done)) {
  using Call = UnaryCall<Request, Response>;
  (new Call(queue, *this, {.request = request, .method = method}))->Listen();
}

void VmService::Listen(CallQueue& queue) {
  ListenFor(queue, &GrpcService::RequestCreate, &VmService::Create);
  ListenFor(queue, &GrpcService::RequestBoot, &VmService::Boot);
  ListenFor(queue, &GrpcService::RequestPause, &VmService::Pause);
  ListenFor(queue, &GrpcService::RequestResume, &VmService::Resume);
  ListenFor(queue, &GrpcService::RequestShutdown, &VmService::Shutdown);
  ListenFor(queue, &GrpcService::RequestReset, &VmService::Reset);
  ListenFor(queue, &GrpcService::RequestStop, &VmService::Stop);
  ListenFor(queue, &GrpcService::RequestSetDiskThrottle, &VmService::SetDiskThrottle);
  ListenFor(queue, &GrpcService::RequestSetMedium, &VmService::SetMedium);
  ListenFor(queue, &GrpcService::RequestDescribe, &VmService::Describe);
  ListenFor(queue, &GrpcService::RequestStats, &VmService::Stats);
  ListenFor(queue, &GrpcService::RequestGetVersion, &VmService::GetVersion);
  (new EventStream(queue, grpc_service_, controller_))->Listen();
  (new ConsoleStream(queue, grpc_service_, controller_))->Listen();
}

template <typename Request, typename Response>
void VmService::Change(const Request& request, Response* response, Done done,
                       OperationLog::Start change) {
  operations_.Run(request.operation_id(),
                  request.GetTypeName() + "\n" + request.SerializeAsString(), std::move(change),
                  [this, response, done = std::move(done)](const absl::Status& status) mutable {
                    response->set_state(StateToProto(controller_.Describe().state));
                    done(status);
                  });
}

void VmService::Create(const v1::CreateRequest& request, v1::CreateResponse* response, Done done) {
  if (!request.has_config()) return done(absl::InvalidArgumentError("config: missing"));
  absl::StatusOr<VmConfig> config = ConfigFromProto(request.config());
  if (!config.ok()) return done(config.status());
  if (config->console.mode == ConsoleMode::kStdio) {
    return done(absl::InvalidArgumentError(
        "console.mode: STDIO is for `vireo run`; use BUFFER, FILE or NONE"));
  }
  Change(request, response, std::move(done),
         [this, config = *std::move(config)](OperationLog::Done created) mutable {
           controller_.Create(std::move(config), std::move(created));
         });
}

void VmService::Boot(const v1::BootRequest& request, v1::BootResponse* response, Done done) {
  Change(request, response, std::move(done),
         [this](OperationLog::Done booted) { controller_.Boot(std::move(booted)); });
}

void VmService::Pause(const v1::PauseRequest& request, v1::PauseResponse* response, Done done) {
  Change(request, response, std::move(done),
         [this](OperationLog::Done paused) { controller_.Pause(std::move(paused)); });
}

void VmService::Resume(const v1::ResumeRequest& request, v1::ResumeResponse* response, Done done) {
  Change(request, response, std::move(done),
         [this](OperationLog::Done resumed) { controller_.Resume(std::move(resumed)); });
}

void VmService::Shutdown(const v1::ShutdownRequest& request, v1::ShutdownResponse* response,
                         Done done) {
  Change(request, response, std::move(done),
         [this](OperationLog::Done pressed) { controller_.Shutdown(std::move(pressed)); });
}

void VmService::Reset(const v1::ResetRequest& request, v1::ResetResponse* response, Done done) {
  Change(request, response, std::move(done),
         [this](OperationLog::Done reset) { controller_.Reset(std::move(reset)); });
}

void VmService::Stop(const v1::StopRequest& request, v1::StopResponse* response, Done done) {
  Change(request, response, std::move(done),
         [this](OperationLog::Done stopped) { controller_.Stop(std::move(stopped)); });
}

void VmService::SetDiskThrottle(const v1::SetDiskThrottleRequest& request,
                                v1::SetDiskThrottleResponse* response, Done done) {
  Change(request, response, std::move(done),
         [this, disk = request.disk(),
          throttle = ThrottleFromProto(request.throttle())](OperationLog::Done set) mutable {
           controller_.SetDiskThrottle(std::move(disk), std::move(throttle), std::move(set));
         });
}

void VmService::SetMedium(const v1::SetMediumRequest& request, v1::SetMediumResponse* response,
                          Done done) {
  Change(request, response, std::move(done),
         [this, cdrom = request.cdrom(), path = request.path(),
          mode = request.force() ? EjectMode::kForce
                                 : EjectMode::kAsk](OperationLog::Done set) mutable {
           controller_.SetMedium(std::move(cdrom), std::move(path), mode, std::move(set));
         });
}

void VmService::Describe(const v1::DescribeRequest&, v1::DescribeResponse* response, Done done) {
  *response->mutable_vm() = DescriptionToProto(controller_.Describe());
  done(absl::OkStatus());
}

void VmService::Stats(const v1::StatsRequest&, v1::StatsResponse* response, Done done) {
  *response->mutable_stats() = StatsToProto(controller_.Stats());
  done(absl::OkStatus());
}

void VmService::GetVersion(const v1::GetVersionRequest&, v1::GetVersionResponse* response,
                           Done done) {
  response->set_version(kVersion);
  response->set_api_version(kApiVersion);
  response->add_machines(kMachineVersion);
  done(absl::OkStatus());
}

}  // namespace vireo::api
