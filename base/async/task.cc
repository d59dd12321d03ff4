#include "base/async/task.h"

namespace vireo::async_internal {

constinit thread_local Epilogue epilogue = {};

void ResumeFromLoop(std::coroutine_handle<> coroutine) {
  VIREO_DCHECK(!epilogue.resume && epilogue.ended_root == nullptr);
  while (coroutine) {
    coroutine.resume();
    coroutine = std::exchange(epilogue.resume, nullptr);
    if (PromiseBase* const root = std::exchange(epilogue.ended_root, nullptr)) {
      root->owner()->OnRootEnded(*root);
    }
  }
}

void RootSet::Start(Task<void> task) {
  const std::coroutine_handle<Promise<void>> frame = task.Release();
  VIREO_CHECK(frame && !frame.promise().started(), "a task is started once");
  frame.promise().set_started();
  ++size_;
  frame.resume();
  if (frame.done()) {
    --size_;
    frame.destroy();
    return;
  }
  frame.promise().SetOwner(this, frame);
  roots_.PushBack(frame.promise());
}

void RootSet::OnRootEnded(PromiseBase& root) {
  IntrusiveList<PromiseBase>::Remove(root);
  const std::coroutine_handle<> frame = root.self();
  frame.destroy();
  --size_;
  if (size_ == 0 && listener_ != nullptr) listener_->OnRootSetEmpty();
}

}  // namespace vireo::async_internal
