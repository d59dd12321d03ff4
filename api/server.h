// Serves the API on a unix socket, on two threads of its own: one takes connections, one answers
// calls, and neither wakes while there is nothing to do. The guest need not wait for them to come
// up. The socket is bound before (UnixListener::Bind), so that a wrong address is known before
// anything else is built.
#ifndef VIREO_API_SERVER_H_
#define VIREO_API_SERVER_H_

#include <grpcpp/server.h>

#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "api/call_queue.h"
#include "api/unix_socket.h"
#include "api/vm_service.h"
#include "base/event_fd.h"
#include "vmm/vm_controller.h"

namespace vireo::api {

class Server {
 public:
  // Whose gRPC's own threads are, in this process.
  enum class Grpc {
    kShared,  // Also clients', whose deadlines are kept by timers.
    kOwned,   // The server's alone, which needs no timers: they are stopped, for good.
  };

  // Returns at once; connections made meanwhile wait in the socket's backlog. `controller` outlives
  // the server.
  static absl::StatusOr<std::unique_ptr<Server>> Start(UnixListener listener,
                                                       VmController& controller,
                                                       Grpc grpc = Grpc::kShared);
  ~Server();  // Stops without grace, if Stop() was not called.

  // Takes no more connections, lets calls on those that there are end within `grace`, cancels the
  // rest and removes the socket. Streams end by themselves once the controller has closed them. Not
  // thread-safe.
  void Stop(absl::Duration grace);

  // Removes the socket's file, for a process that is about to end without Stop(). Any thread, while
  // the server stands; nothing is left to do after Stop().
  void RemoveSocketFile() const {
    if (listener_ != nullptr) listener_->RemoveFile();
  }

 private:
  Server(UnixListener listener, VmController& controller, Grpc grpc, EventFd stop);
  void Serve();
  bool StartGrpc();
  void AcceptConnections();

  const Grpc grpc_;
  std::unique_ptr<UnixListener> listener_;
  VmService service_;
  EventFd stop_;
  std::thread thread_;
  // Made by thread_; others touch them after its join.
  std::unique_ptr<CallQueue> queue_;
  std::thread calls_thread_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace vireo::api

#endif  // VIREO_API_SERVER_H_
