#include "vmm/loop_thread.h"

#include <pthread.h>

#include <csignal>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/async/async_event.h"
#include "base/async/stop_token.h"
#include "base/status.h"

namespace vireo {

// Shared by the two loops: `home` may stop waiting while the work goes on.
struct LoopThread::RemoteCall {
  RemoteCall(EventLoop& home_in, Work work_in) : home(home_in), work(std::move(work_in)) {}

  EventLoop& home;
  Work work;
  absl::Status result;    // Written by the target loop, read once `finished` is set.
  bool finished = false;  // Of `home`, as is `wake`.
  AsyncEvent wake;
};

absl::StatusOr<std::unique_ptr<LoopThread>> LoopThread::Start(const std::string& name) {
  EventLoop::Options options;
  options.name = name;
  ASSIGN_OR_RETURN(std::unique_ptr<EventLoop> loop, EventLoop::Create(options));
  std::unique_ptr<LoopThread> self(new LoopThread(std::move(loop)));
  // Signals belong to the main thread.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  absl::Status status;
  try {
    self->thread_ = std::thread([raw = self.get(), name] {
      pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
      raw->loop_->Run();
    });
  } catch (const std::system_error& error) {
    status =
        absl::ResourceExhaustedError(absl::StrCat("cannot make thread ", name, ": ", error.what()));
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  RETURN_IF_ERROR(status);
  return self;
}

LoopThread::LoopThread(std::unique_ptr<EventLoop> loop)
    : loop_(std::move(loop)), calls_(std::make_unique<TaskScope>(*loop_)) {}

LoopThread::~LoopThread() { StopThread(); }

void LoopThread::StopThread() {
  if (!thread_.joinable()) return;
  loop_->Stop();
  thread_.join();
}

Task<void> LoopThread::Execute(std::shared_ptr<RemoteCall> call) {
  Task<absl::Status> task = call->work();
  call->result = co_await std::move(task);
  call->home.Post([call] {
    call->finished = true;
    call->wake.Set();
  });
}

Task<absl::Status> LoopThread::Call(EventLoop& home, Work work) {
  auto call = std::make_shared<RemoteCall>(home, std::move(work));
  loop_->Post([this, call] { calls_->Spawn(Execute(call)); });
  co_await call->wake.Wait();
  co_return std::move(call->result);
}

Task<void> LoopThread::SetAfter(EventLoop& loop, std::shared_ptr<RemoteCall> call,
                                absl::Duration limit, StopToken stop) {
  const absl::Status slept = co_await loop.SleepFor(limit, stop);
  if (slept.ok()) call->wake.Set();
}

Task<std::optional<absl::Status>> LoopThread::CallWithin(EventLoop& home, Work work,
                                                         absl::Duration limit) {
  auto call = std::make_shared<RemoteCall>(home, std::move(work));
  loop_->Post([this, call] { calls_->Spawn(Execute(call)); });
  TaskScope timer(home);
  timer.Spawn(SetAfter(home, call, limit, timer.stop_token()));
  co_await call->wake.Wait();
  timer.RequestStop();
  co_await timer.Join();
  if (!call->finished) co_return std::nullopt;
  co_return std::move(call->result);
}

}  // namespace vireo
