#include "base/async/task_scope.h"

#include <utility>

#include "base/check.h"

namespace vireo {

TaskScope::TaskScope(EventLoop& loop) : loop_(loop), roots_(this) {}

void TaskScope::Spawn(Task<void> task) {
  VIREO_DCHECK(loop_.IsCurrent());
  EventLoop::CurrentScope current(loop_);
  roots_.Start(std::move(task));
}

void TaskScope::RequestStop() {
  VIREO_DCHECK(loop_.IsCurrent());
  stop_.RequestStop();
}

Task<void> TaskScope::Join() {
  VIREO_DCHECK(loop_.IsCurrent());
  while (roots_.size() > 0) {
    emptied_.Reset();
    co_await emptied_.Wait();
  }
}

void TaskScope::Rearm() {
  VIREO_CHECK(roots_.size() == 0, "a scope is joined before it is used again");
  stop_.Rearm();
}

void TaskScope::OnRootSetEmpty() { emptied_.Set(); }

}  // namespace vireo
