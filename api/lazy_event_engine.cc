#include "api/lazy_event_engine.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace vireo::api {

struct LazyEventEngine::Shared {
  using Key = std::pair<int64_t, int64_t>;  // When it is due, in nanoseconds, and a number.

  static int64_t Now() {
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  }

  void Work() ABSL_LOCKS_EXCLUDED(mutex) {
    ::pthread_setname_np(::pthread_self(), "grpc-tasks");
    mutex.Lock();
    while (!stopping) {
      if (tasks.empty()) {
        changed.Wait(mutex);
      } else if (const int64_t wait_ns = tasks.begin()->first.first - Now(); wait_ns > 0) {
        changed.WaitFor(mutex, absl::Nanoseconds(wait_ns));
      } else {
        absl::AnyInvocable<void()> task = std::move(tasks.begin()->second);
        tasks.erase(tasks.begin());
        mutex.Unlock();
        task();
        task = nullptr;  // What it holds goes now, without the mutex.
        mutex.Lock();
      }
    }
    mutex.Unlock();
  }

  Mutex mutex;
  CondVar changed;
  std::map<Key, absl::AnyInvocable<void()>> tasks ABSL_GUARDED_BY(mutex);
  int64_t last_number ABSL_GUARDED_BY(mutex) = 0;
  std::thread thread ABSL_GUARDED_BY(mutex);  // Started with the first task.
  bool stopping ABSL_GUARDED_BY(mutex) = false;
};

LazyEventEngine::LazyEventEngine() : shared_(std::make_shared<Shared>()) {}

LazyEventEngine::~LazyEventEngine() {
  std::thread thread;
  {
    MutexLock lock(shared_->mutex);
    shared_->stopping = true;
    shared_->changed.NotifyAll();
    thread = std::move(shared_->thread);
  }
  if (!thread.joinable()) return;
  if (thread.get_id() == std::this_thread::get_id()) {
    thread.detach();  // Ends by itself once the task that holds us has returned.
  } else {
    thread.join();
  }
}

void LazyEventEngine::Run(Closure* closure) { RunAfter(Duration::zero(), closure); }

void LazyEventEngine::Run(absl::AnyInvocable<void()> closure) {
  RunAfter(Duration::zero(), std::move(closure));
}

LazyEventEngine::TaskHandle LazyEventEngine::RunAfter(Duration when, Closure* closure) {
  return RunAfter(when, [closure] { closure->Run(); });
}

LazyEventEngine::TaskHandle LazyEventEngine::RunAfter(Duration when,
                                                      absl::AnyInvocable<void()> closure) {
  Shared& s = *shared_;
  MutexLock lock(s.mutex);
  // gRPC's "never" is the greatest duration; the task then is due in a century.
  constexpr Duration kCentury = std::chrono::hours(24 * 36525);
  const Shared::Key key(Shared::Now() + std::min(when, kCentury).count(), ++s.last_number);
  s.tasks.emplace(key, std::move(closure));
  if (!s.thread.joinable()) {
    s.thread = std::thread([shared = shared_] { shared->Work(); });
  } else if (s.tasks.begin()->first == key) {
    s.changed.NotifyAll();
  }
  return {{key.first, key.second}};
}

bool LazyEventEngine::Cancel(TaskHandle handle) {
  absl::AnyInvocable<void()> cancelled;  // Destroyed without the mutex.
  MutexLock lock(shared_->mutex);
  const auto found = shared_->tasks.find({handle.keys[0], handle.keys[1]});
  if (found == shared_->tasks.end()) return false;
  cancelled = std::move(found->second);
  shared_->tasks.erase(found);
  return true;
}

bool LazyEventEngine::IsWorkerThread() {
  MutexLock lock(shared_->mutex);
  return shared_->thread.get_id() == std::this_thread::get_id();
}

absl::StatusOr<std::unique_ptr<LazyEventEngine::Listener>> LazyEventEngine::CreateListener(
    Listener::AcceptCallback, absl::AnyInvocable<void(absl::Status)>,
    const grpc_event_engine::experimental::EndpointConfig&,
    std::unique_ptr<grpc_event_engine::experimental::MemoryAllocatorFactory>) {
  return absl::UnimplementedError("this EventEngine has no sockets");
}

LazyEventEngine::ConnectionHandle LazyEventEngine::Connect(
    OnConnectCallback on_connect, const ResolvedAddress&,
    const grpc_event_engine::experimental::EndpointConfig&,
    grpc_event_engine::experimental::MemoryAllocator, Duration) {
  Run([on_connect = std::move(on_connect)]() mutable {
    on_connect(absl::UnimplementedError("this EventEngine has no sockets"));
  });
  return {{0, 0}};
}

bool LazyEventEngine::CancelConnect(ConnectionHandle) { return false; }

std::unique_ptr<LazyEventEngine::DNSResolver> LazyEventEngine::GetDNSResolver(
    const DNSResolver::ResolverOptions&) {
  return nullptr;
}

}  // namespace vireo::api
