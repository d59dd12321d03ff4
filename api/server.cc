#include "api/server.h"

#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "api/grpc_timers.h"
#include "base/log.h"
#include "base/status.h"

namespace vireo::api {
namespace {

constexpr int kAcceptRetryMs = 100;  // After accept(2) failed for want of descriptors or memory.

bool IsSet(short events) { return (events & (POLLIN | POLLHUP | POLLERR)) != 0; }

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(UnixListener listener,
                                                      VmController& controller, Grpc grpc) {
  ASSIGN_OR_RETURN(EventFd stop, EventFd::Create());
  std::unique_ptr<Server> server(
      new Server(std::move(listener), controller, grpc, std::move(stop)));
  server->thread_ = std::thread(&Server::Serve, server.get());
  return server;
}

Server::Server(UnixListener listener, VmController& controller, Grpc grpc, EventFd stop)
    : grpc_(grpc),
      listener_(std::make_unique<UnixListener>(std::move(listener))),
      service_(controller),
      stop_(std::move(stop)) {}

Server::~Server() { Stop(absl::ZeroDuration()); }

void Server::Serve() {
  ::pthread_setname_np(::pthread_self(), "api");
  if (StartGrpc()) {
    AcceptConnections();
  } else {
    LogError("%s: gRPC does not start; there is no API", listener_->address());
  }
}

bool Server::StartGrpc() {
  if (grpc_ == Grpc::kOwned) UseLazyEventEngine();
  grpc::ServerBuilder builder;
  DoWithoutTimers(builder);
  builder.RegisterService(&service_.grpc_service());
  queue_ = std::make_unique<CallQueue>(builder.AddCompletionQueue());
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return false;
  if (grpc_ == Grpc::kOwned) StopTimerThreads();
  calls_thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "api-calls");
    queue_->Run();
  });
  service_.Listen(*queue_);
  return true;
}

// gRPC gets connected sockets only: its own listener would make the socket file before its mode
// could be set, would replace a live VM's socket, and knows no inherited one. This thread has no
// event loop, hence poll(2).
void Server::AcceptConnections() {
  pollfd polled[2] = {{.fd = stop_.fd(), .events = POLLIN, .revents = 0},
                      {.fd = listener_->fd(), .events = POLLIN, .revents = 0}};
  for (;;) {
    if (::poll(polled, 2, -1) < 0) continue;  // EINTR
    if (IsSet(polled[0].revents)) return;
    if (!IsSet(polled[1].revents)) continue;
    const int fd = ::accept4(listener_->fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      grpc::AddInsecureChannelFromFd(server_.get(), fd);  // Takes the descriptor.
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      ::poll(polled, 1, kAcceptRetryMs);
    }
  }
}

void Server::Stop(absl::Duration grace) {
  if (!thread_.joinable()) return;
  stop_.Signal();
  thread_.join();
  if (server_ != nullptr) {
    // Before gRPC shuts down: that would tell clients so, who answer, find the connection closed if
    // the calls have ended by then, and throw away what they have not read yet.
    const absl::Time deadline = absl::Now() + grace;
    queue_->WaitForCalls(grace);
    server_->Shutdown(absl::ToChronoTime(deadline));
    queue_->Close();
    calls_thread_.join();
    server_.reset();
  }
  queue_.reset();
  listener_.reset();
}

}  // namespace vireo::api
