#include "cmd/ctl_console.h"

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/event_fd.h"
#include "base/status.h"
#include "cmd/terminal.h"

namespace vireo {
namespace {

bool WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return false;
    bytes.remove_prefix(static_cast<size_t>(put));
  }
  return true;
}

// Finds a text that may be spread over several pieces.
class TextSearch {
 public:
  explicit TextSearch(std::string text) : text_(std::move(text)) {}
  bool FoundIn(std::string_view piece) {
    if (text_.empty()) return false;
    seen_.append(piece);
    const bool found = seen_.find(text_) != std::string::npos;
    if (seen_.size() >= text_.size()) seen_.erase(0, seen_.size() - (text_.size() - 1));
    return found;
  }

 private:
  const std::string text_;
  std::string seen_;  // The end of what came, shorter than text_.
};

class Call {
 public:
  Call(api::Client& client, const CtlConsoleOptions& options, const EventFd& output_ended)
      : client_(client),
        options_(options),
        output_ended_(output_ended),
        escape_key_(::isatty(options.in_fd) ? options.escape_key : 0),
        search_(options.until_text) {
    if (options.timeout.has_value()) {
      context_.set_deadline(absl::ToChronoTime(absl::Now() + *options.timeout));
    }
    stream_ = client.stub().Console(&context_);
  }

  absl::Status Run() {
    std::thread output(&Call::CarryOutput, this);
    CarryInput();
    output.join();
    const absl::Status status = client_.Explain(stream_->Finish());
    if (ended_as_asked_) return absl::OkStatus();
    if (status.ok() && !options_.until_text.empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat("the console has ended without \"", options_.until_text, "\""));
    }
    return status;
  }

 private:
  void EndAsAsked() {
    ended_as_asked_ = true;
    context_.TryCancel();
  }

  // On a thread of its own, until the stream ends.
  void CarryOutput() {
    v1::ConsoleOutput output;
    while (stream_->Read(&output)) {
      if (output.lost_bytes() > 0) {
        output.set_data(
            absl::StrCat("\r\n[", output.lost_bytes(), " bytes lost]\r\n", output.data()));
      }
      const bool written = WriteAll(options_.out_fd, output.data());
      if (!written || search_.FoundIn(output.data())) EndAsAsked();
    }
    output_ended_.Signal();
  }

  // Until the stream ends.
  void CarryInput() {
    pollfd polled[2] = {{.fd = output_ended_.fd(), .events = POLLIN, .revents = 0},
                        {.fd = options_.in_fd, .events = POLLIN, .revents = 0}};
    if (options_.until_eof) SendInput("");  // Says so, in case there is no input at all.
    while (true) {
      if (::poll(polled, 2, -1) < 0) continue;  // EINTR
      if (polled[0].revents != 0) return;
      if (polled[1].revents == 0) continue;
      char buffer[4096];
      const ssize_t got = ::read(options_.in_fd, buffer, sizeof buffer);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        stream_->WritesDone();
        polled[1].fd = -1;  // Not polled any more.
        continue;
      }
      const TypedKeys keys = SplitAtEscape({buffer, static_cast<size_t>(got)}, escape_key_);
      if (!keys.before.empty()) SendInput(keys.before);
      if (keys.escape) EndAsAsked();
    }
  }

  void SendInput(std::string_view bytes) {
    v1::ConsoleInput input;
    input.set_data(std::string(bytes));
    input.set_detach_at_eof(options_.until_eof);
    stream_->Write(input);  // False when the stream has ended, which the output thread sees too.
  }

  api::Client& client_;
  const CtlConsoleOptions& options_;
  const EventFd& output_ended_;
  const char escape_key_;
  TextSearch search_;
  std::atomic<bool> ended_as_asked_{false};
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ConsoleInput, v1::ConsoleOutput>> stream_;
};

}  // namespace

absl::Status RunCtlConsole(api::Client& client, const CtlConsoleOptions& options) {
  ASSIGN_OR_RETURN(const EventFd output_ended, EventFd::Create());
  std::optional<RawTerminal> raw;
  if (::isatty(options.in_fd)) {
    ASSIGN_OR_RETURN(RawTerminal terminal, RawTerminal::Enter(options.in_fd));
    raw.emplace(std::move(terminal));
  }
  return Call(client, options, output_ended).Run();
}

}  // namespace vireo
