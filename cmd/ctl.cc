#include "cmd/ctl.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "api/client.h"
#include "api/config_convert.h"
#include "api/version.h"
#include "base/status.h"
#include "cmd/config_file.h"
#include "cmd/ctl_console.h"
#include "cmd/ctl_tables.h"

namespace vireo {
namespace {

using api::Client;

constexpr absl::Duration kCallTimeout = absl::Seconds(60);

class Ctl {
 public:
  Ctl(const CtlOptions& options, const CtlStreams& streams, Client& client)
      : options_(options), streams_(streams), client_(client) {}

  absl::Status Run() {
    switch (options_.verb) {
      case CtlVerb::kInfo:
        return Info();
      case CtlVerb::kStats:
        return Stats();
      case CtlVerb::kCreate:
        return Create();
      case CtlVerb::kBoot:
        return Change(&Client::Stub::Boot, v1::BootRequest());
      case CtlVerb::kPause:
        return Change(&Client::Stub::Pause, v1::PauseRequest());
      case CtlVerb::kResume:
        return Change(&Client::Stub::Resume, v1::ResumeRequest());
      case CtlVerb::kShutdown:
        return ChangeAndWait(&Client::Stub::Shutdown, v1::ShutdownRequest());
      case CtlVerb::kReset:
        return Change(&Client::Stub::Reset, v1::ResetRequest());
      case CtlVerb::kStop:
        return ChangeAndWait(&Client::Stub::Stop, v1::StopRequest());
      case CtlVerb::kEvents:
        return Events();
      case CtlVerb::kConsole:
        return RunCtlConsole(client_, {.in_fd = streams_.in_fd,
                                       .out_fd = streams_.out_fd,
                                       .escape_key = options_.escape_key,
                                       .until_eof = options_.until_eof,
                                       .until_text = options_.until_text,
                                       .timeout = options_.timeout});
      case CtlVerb::kThrottle:
        return Throttle();
      case CtlVerb::kInsert:
      case CtlVerb::kEject:
        return SetMedium();
      case CtlVerb::kVersion:
        return Version();
    }
    return absl::InternalError("no such verb");
  }

 private:
  template <typename Request, typename Response>
  using Method = grpc::Status (Client::Stub::*)(grpc::ClientContext*, const Request&, Response*);

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(Method<Request, Response> method, const Request& request) {
    return client_.Call(method, request, options_.timeout.value_or(kCallTimeout));
  }

  void Print(const google::protobuf::Message& message, const std::string& text) {
    streams_.print(options_.json ? ToJson(message, JsonForm::kIndented) : text);
  }

  absl::Status Info() {
    ASSIGN_OR_RETURN(const v1::DescribeResponse response,
                     Call(&Client::Stub::Describe, v1::DescribeRequest()));
    Print(response.vm(), DescriptionTable(response.vm()));
    return absl::OkStatus();
  }

  absl::Status Stats() {
    ASSIGN_OR_RETURN(const v1::StatsResponse response,
                     Call(&Client::Stub::Stats, v1::StatsRequest()));
    Print(response.stats(), StatsTable(response.stats()));
    return absl::OkStatus();
  }

  absl::Status Create() {
    ASSIGN_OR_RETURN(const VmConfig config, LoadConfigFile(options_.config_path));
    v1::CreateRequest request;
    *request.mutable_config() = api::ConfigToProto(config);
    return Change(&Client::Stub::Create, std::move(request));
  }

  absl::Status Throttle() {
    v1::SetDiskThrottleRequest request;
    request.set_disk(options_.disk);
    api::ThrottleToProto(options_.throttle, request.mutable_throttle());
    return Change(&Client::Stub::SetDiskThrottle, std::move(request));
  }

  absl::Status SetMedium() {
    v1::SetMediumRequest request;
    request.set_cdrom(options_.cdrom);
    request.set_path(options_.path);
    request.set_force(options_.force);
    return Change(&Client::Stub::SetMedium, std::move(request));
  }

  template <typename Request, typename Response>
  absl::Status Change(Method<Request, Response> method, Request request) {
    request.set_operation_id(options_.operation_id);
    ASSIGN_OR_RETURN(const Response response, Call(method, request));
    Print(response, absl::StrCat(StateWord(response.state()), "\n"));
    return absl::OkStatus();
  }

  // The watch begins before the change, so that its end is not missed.
  template <typename Request, typename Response>
  absl::Status ChangeAndWait(Method<Request, Response> method, Request request) {
    if (!options_.wait) return Change(method, std::move(request));
    grpc::ClientContext context;
    if (options_.timeout.has_value()) {
      context.set_deadline(absl::ToChronoTime(absl::Now() + *options_.timeout));
    }
    const auto watch = client_.stub().WatchEvents(&context, v1::WatchEventsRequest());
    watch->WaitForInitialMetadata();
    request.set_operation_id(options_.operation_id);
    ASSIGN_OR_RETURN(Response response, Call(method, request));
    v1::Event event;
    bool stopped = false;
    while (!stopped && watch->Read(&event)) stopped = event.state() == v1::STOPPED;
    if (stopped) {
      context.TryCancel();
      watch->Finish();
    } else {
      const absl::Status status = client_.Explain(watch->Finish());
      // Without an event the process has gone all the same.
      if (!status.ok() && !absl::IsUnavailable(status)) return status;
    }
    response.set_state(v1::STOPPED);
    Print(response, absl::StrCat(StateWord(response.state()), "\n"));
    return absl::OkStatus();
  }

  absl::Status Events() {
    grpc::ClientContext context;
    if (options_.timeout.has_value()) {
      context.set_deadline(absl::ToChronoTime(absl::Now() + *options_.timeout));
    }
    v1::WatchEventsRequest request;
    request.set_after_sequence(options_.after);
    const auto watch = client_.stub().WatchEvents(&context, request);
    v1::Event event;
    bool done = false;
    while (!done && watch->Read(&event)) {
      const bool printed =
          streams_.print(options_.json ? ToJson(event, JsonForm::kOneLine) : EventLine(event));
      done =
          !printed || (options_.until_state.has_value() && event.state() == *options_.until_state);
    }
    if (done) {
      context.TryCancel();
      watch->Finish();
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(client_.Explain(watch->Finish()));
    if (!options_.until_state.has_value()) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("the machine is gone and was never ", StateWord(*options_.until_state)));
  }

  absl::Status Version() {
    ASSIGN_OR_RETURN(const v1::GetVersionResponse response,
                     Call(&Client::Stub::GetVersion, v1::GetVersionRequest()));
    Print(response, absl::StrCat("vireoctl ", api::kVersion, "\nvireo ", response.version(),
                                 ", API ", response.api_version(), ", machines ",
                                 absl::StrJoin(response.machines(), " "), "\n"));
    return absl::OkStatus();
  }

  const CtlOptions& options_;
  const CtlStreams& streams_;
  Client& client_;
};

}  // namespace

absl::Status RunCtl(const CtlOptions& options, const CtlStreams& streams) {
  if (options.api.empty()) {  // Only `version` comes here without.
    v1::GetVersionResponse own;
    own.set_version(api::kVersion);
    own.set_api_version(api::kApiVersion);
    streams.print(options.json ? ToJson(own, JsonForm::kIndented)
                               : absl::StrCat("vireoctl ", api::kVersion, "\n"));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Client> client, Client::Connect(options.api));
  return Ctl(options, streams, *client).Run();
}

int CtlExitStatus(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnknown:
      return 2;
    default:
      return 1;
  }
}

}  // namespace vireo
