// An EventEngine for gRPC that costs nothing until it is used: no thread before the first task, and
// one that sleeps until the next task is due from then on. Runs closures and timers; has no
// sockets and no DNS, which a gRPC 1.51 server takes from elsewhere. Any thread.
#ifndef VIREO_API_LAZY_EVENT_ENGINE_H_
#define VIREO_API_LAZY_EVENT_ENGINE_H_

#include <grpc/event_engine/event_engine.h>

#include <memory>

namespace vireo::api {

class LazyEventEngine final : public grpc_event_engine::experimental::EventEngine {
 public:
  LazyEventEngine();
  // Tasks that are not due yet are dropped. May be called by a task.
  ~LazyEventEngine() override;

  void Run(Closure* closure) override;
  void Run(absl::AnyInvocable<void()> closure) override;
  TaskHandle RunAfter(Duration when, Closure* closure) override;
  TaskHandle RunAfter(Duration when, absl::AnyInvocable<void()> closure) override;
  bool Cancel(TaskHandle handle) override;
  bool IsWorkerThread() override;

  // UNIMPLEMENTED.
  absl::StatusOr<std::unique_ptr<Listener>> CreateListener(
      Listener::AcceptCallback on_accept, absl::AnyInvocable<void(absl::Status)> on_shutdown,
      const grpc_event_engine::experimental::EndpointConfig& config,
      std::unique_ptr<grpc_event_engine::experimental::MemoryAllocatorFactory> allocators) override;
  ConnectionHandle Connect(OnConnectCallback on_connect, const ResolvedAddress& address,
                           const grpc_event_engine::experimental::EndpointConfig& args,
                           grpc_event_engine::experimental::MemoryAllocator allocator,
                           Duration timeout) override;
  bool CancelConnect(ConnectionHandle handle) override;
  std::unique_ptr<DNSResolver> GetDNSResolver(
      const DNSResolver::ResolverOptions& options) override;  // Null.

 private:
  struct Shared;
  const std::shared_ptr<Shared> shared_;  // Also the thread's, which may be the last to leave.
};

}  // namespace vireo::api

#endif  // VIREO_API_LAZY_EVENT_ENGINE_H_
