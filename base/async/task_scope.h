// TaskScope: the tasks that an object has running. Fan-out goes through one; nothing is detached.
//
//   scope_.Spawn(ServeQueue(queue));   // Runs beside its caller.
//   scope_.RequestStop();              // Tokens of the scope are stopped: operations end with
//   CANCELLED. co_await scope_.Join();            // Until the last one has ended.

#ifndef VIREO_BASE_ASYNC_TASK_SCOPE_H_
#define VIREO_BASE_ASYNC_TASK_SCOPE_H_

#include <cstddef>

#include "base/async/async_event.h"
#include "base/async/event_loop.h"
#include "base/async/stop_token.h"
#include "base/async/task.h"

namespace vireo {

// On the loop. The destructor CHECKs that no task is left.
class TaskScope final : private async_internal::RootSet::Listener {
 public:
  // `loop` outlives the scope.
  explicit TaskScope(EventLoop& loop);
  TaskScope(const TaskScope&) = delete;
  TaskScope& operator=(const TaskScope&) = delete;

  // Starts `task` inline; when it suspends, Spawn returns. Also after RequestStop(): the task sees
  // the token.
  void Spawn(Task<void> task);
  // Stops stop_token(). Tasks that do not ask it go on.
  void RequestStop();
  bool stop_requested() const { return stop_.stop_requested(); }
  StopToken stop_token() { return stop_.token(); }
  // Ends when no task is left; with nothing running, at once. Several may wait. Not from a task of
  // the scope.
  Task<void> Join();
  size_t size() const { return roots_.size(); }
  // After RequestStop() and Join(): as new.
  void Rearm();

 private:
  void OnRootSetEmpty() override;

  EventLoop& loop_;
  StopSource stop_;
  AsyncEvent emptied_;
  async_internal::RootSet roots_;
};

}  // namespace vireo

#endif  // VIREO_BASE_ASYNC_TASK_SCOPE_H_
