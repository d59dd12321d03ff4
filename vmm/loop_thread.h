// An event loop on a thread of its own, and calls from one loop to another that hold neither up.
#ifndef VIREO_VMM_LOOP_THREAD_H_
#define VIREO_VMM_LOOP_THREAD_H_

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"

namespace vireo {

class LoopThread {
 public:
  using Work = absl::AnyInvocable<Task<absl::Status>()>;

  // FAILED_PRECONDITION when the host refuses io_uring. `name` is the thread's, at most 15 bytes.
  static absl::StatusOr<std::unique_ptr<LoopThread>> Start(const std::string& name);

  // Stops the loop and joins the thread. No Call() is under way.
  ~LoopThread();

  EventLoop& loop() { return *loop_; }

  // Ends the thread; the loop stays, and whoever holds it may use it. Not on the loop. Idempotent.
  void StopThread();

  // On `home`'s thread: runs `work()` on this loop and resumes on `home` with its status.
  Task<absl::Status> Call(EventLoop& home, Work work);

  // As Call(), for `limit` at most: nullopt says that the work has not ended. It goes on, so that
  // what it uses must stay for as long as the process lives.
  Task<std::optional<absl::Status>> CallWithin(EventLoop& home, Work work, absl::Duration limit);

 private:
  struct RemoteCall;

  explicit LoopThread(std::unique_ptr<EventLoop> loop);

  static Task<void> Execute(std::shared_ptr<RemoteCall> call);
  static Task<void> SetAfter(EventLoop& loop, std::shared_ptr<RemoteCall> call,
                             absl::Duration limit, StopToken stop);

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<TaskScope> calls_;  // On the loop.
  std::thread thread_;
};

}  // namespace vireo

#endif  // VIREO_VMM_LOOP_THREAD_H_
