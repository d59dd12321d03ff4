#include "api/grpc_timers.h"

#include <climits>
#include <memory>

#include "api/lazy_event_engine.h"

// Of gRPC's core, in no public header; what it does before a fork(2). Weak: a gRPC that has it no
// more keeps its thread, which cmd/programs_test notices.
__attribute__((weak)) void grpc_timer_manager_set_threading(bool threaded);

namespace vireo::api {

void DoWithoutTimers(grpc::ServerBuilder& builder) {
  // A timer for each call with a deadline. The client keeps its deadline too, and cancels the call.
  builder.AddChannelArgument(GRPC_ARG_ENABLE_DEADLINE_CHECKS, 0);
  // Pings, with timers between them, that measure the connection to size its windows: a socket of
  // this host has no latency to make up for.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  // Pings a silent client every two hours. A socket of this host tells when its other end dies.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, INT_MAX);
}

void StopTimerThreads() {
  if (grpc_timer_manager_set_threading != nullptr) grpc_timer_manager_set_threading(false);
}

void UseLazyEventEngine() {
  grpc_event_engine::experimental::SetEventEngineFactory(
      [] { return std::make_unique<LazyEventEngine>(); });
}

}  // namespace vireo::api
