#include "cmd/vm_session.h"

#include <sys/signalfd.h>
#include <sys/uio.h>

#include <utility>

#include "base/log.h"
#include "base/mutex.h"

namespace vireo {

// Turns the machine's end into stopped_, and callbacks of the controller into calls on the loop;
// knows when the session has gone.
class VmSession::Watcher final : public EventWatcher, public std::enable_shared_from_this<Watcher> {
 public:
  Watcher(EventLoop& loop, VmSession& session) : loop_(loop), session_(&session) {}

  // On the controller's thread.
  void OnEvent(const VmEvent& event) override {
    if (event.state == VmState::kStopped) OnClosed();
  }
  void OnClosed() override {
    Post([](VmSession& session) { session.stopped_.Set(); });
  }
  // Any thread: on the loop, unless the session has gone by then.
  void Post(absl::AnyInvocable<void(VmSession&)> call) {
    loop_.Post([self = shared_from_this(), call = std::move(call)]() mutable {
      if (self->session_ != nullptr) call(*self->session_);
    });
  }
  // On the loop.
  void Forget() { session_ = nullptr; }

 private:
  EventLoop& loop_;
  VmSession* session_;  // The loop's.
};

VmSession::VmSession(EventLoop& loop, VmController& controller, Options options)
    : loop_(loop),
      controller_(controller),
      options_(std::move(options)),
      watcher_(std::make_shared<Watcher>(loop, *this)),
      tasks_(loop),
      output_(loop) {
  controller_.AddEventWatcher(watcher_, 0);
  tasks_.Spawn(HandleSignals(tasks_.stop_token()));
  if (!options_.console.has_value()) return;
  console_.emplace(loop_, controller_, *std::move(options_.console));
  output_.Spawn(console_->CarryOutput(abandon_output_.token()));
  tasks_.Spawn(console_->CarryInput(tasks_.stop_token()));
}

VmSession::~VmSession() {
  controller_.RemoveEventWatcher(watcher_.get());
  watcher_->Forget();
}

struct VmSession::Answer {
  AsyncEvent there;
  absl::Status status;
};

Task<absl::Status> VmSession::Ask(absl::AnyInvocable<void(VmController::Done)> call) {
  const auto answer = std::make_shared<Answer>();
  call([loop = &loop_, answer](absl::Status status) {
    loop->Post([answer, status = std::move(status)] {
      answer->status = status;
      answer->there.Set();
    });
  });
  co_await answer->there.Wait();
  co_return answer->status;
}

Task<absl::Status> VmSession::CreateAndBoot(VmConfig config) {
  absl::AnyInvocable<void(VmController::Done)> create =
      [this, config = std::move(config)](VmController::Done done) mutable {
        controller_.Create(std::move(config), std::move(done));
      };
  const absl::Status created = co_await Ask(std::move(create));
  if (!created.ok()) co_return created;
  absl::AnyInvocable<void(VmController::Done)> boot = [this](VmController::Done done) {
    controller_.Boot(std::move(done));
  };
  const absl::Status booted = co_await Ask(std::move(boot));
  co_return booted;
}

Task<void> VmSession::WaitUntilStopped() {
  co_await stopped_.Wait();
  tasks_.RequestStop();
  co_await tasks_.Join();
  // The machine has closed its console too; what it printed last is still on its way out.
  TaskScope limit(loop_);
  limit.Spawn(AbandonOutputAfter(options_.output_limit, limit.stop_token()));
  co_await output_.Join();
  limit.RequestStop();
  co_await limit.Join();
}

void VmSession::RequestEnd() {
  if (stopped_.is_set()) return;
  if (++requests_ > 1) {
    LogInfo("asked again to end: stopping the machine");
    StopMachine();
    return;
  }
  const absl::Duration limit =
      absl::Milliseconds(controller_.Describe().config.shutdown_timeout_ms);
  LogInfo("asked to end: the guest has %s to shut down; ask again to stop it",
          absl::FormatDuration(limit));
  tasks_.Spawn(StopAfter(limit, tasks_.stop_token()));
  controller_.Shutdown([watcher = watcher_](absl::Status status) {
    if (status.ok()) return;
    // Not booted, or paused: there is no guest that could hear of it.
    watcher->Post([](VmSession& session) { session.StopMachine(); });
  });
}

Task<void> VmSession::HandleSignals(StopToken stop) {
  while (true) {
    signalfd_siginfo info = {};
    const iovec buffer = {.iov_base = &info, .iov_len = sizeof info};
    const absl::StatusOr<size_t> got =
        co_await loop_.ReadSome(options_.signal_fd, {&buffer, 1}, stop);
    if (!got.ok()) co_return;
    RequestEnd();
  }
}

Task<void> VmSession::StopAfter(absl::Duration limit, StopToken stop) {
  const absl::Status slept = co_await loop_.SleepFor(limit, stop);
  if (!slept.ok()) co_return;
  LogWarning("the guest has not shut down within %s: stopping the machine",
             absl::FormatDuration(limit));
  StopMachine();
}

Task<void> VmSession::AbandonOutputAfter(absl::Duration limit, StopToken stop) {
  const absl::Status slept = co_await loop_.SleepFor(limit, stop);
  if (slept.ok()) abandon_output_.RequestStop();
}

void VmSession::StopMachine() {
  controller_.Stop([](absl::Status status) {
    if (!status.ok()) LogError("stop: %s", status.message());
  });
}

}  // namespace vireo
