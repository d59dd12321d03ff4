// gRPC's own timers, quietened. gRPC 1.51 has two timer systems (iomgr's and the EventEngine's),
// and the thread of each wakes once a second although no timer is set. On a host of thousands of
// idle machines that is thousands of wake-ups a second for nothing.
#ifndef VIREO_API_GRPC_TIMERS_H_
#define VIREO_API_GRPC_TIMERS_H_

#include <grpcpp/server_builder.h>

namespace vireo::api {

// A server so built sets no timer of iomgr's.
void DoWithoutTimers(grpc::ServerBuilder& builder);

// For a process that is a server so built and nothing else: iomgr's timers, which a client's
// deadlines need, never fire again. Once gRPC is up.
void StopTimerThreads();

// gRPC's EventEngine, which has no use in a server beyond being there, becomes one that starts its
// thread only when it has something to do. Before gRPC is up.
void UseLazyEventEngine();

}  // namespace vireo::api

#endif  // VIREO_API_GRPC_TIMERS_H_
