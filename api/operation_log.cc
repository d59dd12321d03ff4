#include "api/operation_log.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace vireo::api {

void OperationLog::Run(const std::string& id, const std::string& request, Start start, Done done) {
  if (id.empty()) {
    start(std::move(done));
    return;
  }
  absl::Status answer;  // For a repeat that need not wait.
  bool first = false;
  {
    MutexLock lock(mutex_);
    const auto found = operations_.find(id);
    if (id.size() > kMaxIdBytes) {
      answer = absl::InvalidArgumentError(absl::StrFormat(
          "operation_id: %d bytes; at most %d are possible", id.size(), kMaxIdBytes));
    } else if (found == operations_.end()) {
      Operation& operation = operations_[id];
      operation.request = request;
      operation.waiting.push_back(std::move(done));
      first = true;
    } else if (found->second.request != request) {
      answer = absl::InvalidArgumentError(absl::StrFormat(
          "operation_id: \"%s\" was used for another request; make up a new one", id));
    } else if (!found->second.succeeded) {
      found->second.waiting.push_back(std::move(done));
      return;
    }
  }
  if (first) {
    start([this, id](absl::Status status) { Finish(id, status); });
  } else {
    done(std::move(answer));
  }
}

void OperationLog::Finish(const std::string& id, const absl::Status& status) {
  std::vector<Done> waiting;
  {
    MutexLock lock(mutex_);
    const auto found = operations_.find(id);
    waiting = std::move(found->second.waiting);
    found->second.waiting.clear();
    if (!status.ok()) {
      operations_.erase(found);
    } else {
      found->second.succeeded = true;
      succeeded_.push_back(id);
      if (succeeded_.size() > kRemembered) {
        operations_.erase(succeeded_.front());
        succeeded_.pop_front();
      }
    }
  }
  for (Done& done : waiting) done(status);
}

}  // namespace vireo::api
