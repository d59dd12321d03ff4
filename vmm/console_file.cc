#include "vmm/console_file.h"

#include <sys/uio.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vireo {

ConsoleFile::ConsoleFile(EventLoop& loop, UniqueFd fd, std::string name)
    : loop_(loop), fd_(std::move(fd)), name_(std::move(name)), scope_(loop) {}

void ConsoleFile::OnOutput(std::string_view bytes) {
  if (failed_) return;
  if (pending_.size() + bytes.size() > kMaxPending) {
    if (log_limit_.Allow()) {
      LogWarning("%s: takes no output; %d bytes of the console are lost", name_, bytes.size());
    }
    return;
  }
  pending_ += bytes;
  if (!writing_) scope_.Spawn(WritePending());
}

Task<void> ConsoleFile::WritePending() {
  writing_ = true;
  while (!pending_.empty() && !failed_) {
    std::string chunk = std::exchange(pending_, {});
    size_t done = 0;
    while (done < chunk.size()) {
      const iovec rest = {chunk.data() + done, chunk.size() - done};
      const absl::StatusOr<size_t> written = co_await loop_.WriteSome(fd_.get(), IoVecs(&rest, 1));
      if (!written.ok()) {
        LogError("%s: %s; the console is no longer written there", name_,
                 written.status().message());
        failed_ = true;
        break;
      }
      done += *written;
    }
  }
  writing_ = false;
}

Task<void> ConsoleFile::Finish() { co_await scope_.Join(); }

}  // namespace vireo
