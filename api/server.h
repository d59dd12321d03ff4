// Serves the API on a unix socket, on threads of its own: the guest need not wait for it to come
// up. The socket is bound before (UnixListener::Bind), so that a wrong address is known before
// anything else is built.
#ifndef VIREO_API_SERVER_H_
#define VIREO_API_SERVER_H_

#include <grpcpp/server.h>

#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "api/unix_socket.h"
#include "api/vm_service.h"
#include "base/event_fd.h"
#include "vmm/vm_controller.h"

namespace vireo::api {

class Server {
 public:
  // Returns at once; connections made meanwhile wait in the socket's backlog. `controller` outlives
  // the server.
  static absl::StatusOr<std::unique_ptr<Server>> Start(UnixListener listener,
                                                       VmController& controller);
  ~Server();  // Stops without grace, if Stop() was not called.

  // Takes no more connections, lets running calls end within `grace`, cancels the rest and removes
  // the socket. Streams end by themselves once the controller has closed them. Not thread-safe.
  void Stop(absl::Duration grace);

  // Removes the socket's file, for a process that is about to end without Stop(). Any thread, while
  // the server stands.
  void RemoveSocketFile() const { listener_->RemoveFile(); }

 private:
  Server(UnixListener listener, VmController& controller, EventFd stop);
  void Serve();

  std::unique_ptr<UnixListener> listener_;
  VmService service_;
  EventFd stop_;
  std::unique_ptr<grpc::Server> server_;  // Made by thread_; others touch it after the join.
  std::thread thread_;
};

}  // namespace vireo::api

#endif  // VIREO_API_SERVER_H_
