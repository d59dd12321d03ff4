// Makes calls with an operation id happen at most once: a repeat waits for the first or gets its
// success. What failed is forgotten, so that a retry tries again. Any thread; outlives every
// operation that it started.
#ifndef VIREO_API_OPERATION_LOG_H_
#define VIREO_API_OPERATION_LOG_H_

#include <cstddef>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "base/mutex.h"

namespace vireo::api {

class OperationLog {
 public:
  using Done = absl::AnyInvocable<void(absl::Status)>;
  using Start = absl::AnyInvocable<void(Done)>;

  static constexpr size_t kRemembered = 128;  // Succeeded operations.
  static constexpr size_t kMaxIdBytes = 64;

  // Calls `start` on this thread, unless `id` names an operation that is running or has succeeded;
  // `done` gets that operation's status exactly once, on this thread or the one that ends the
  // operation. An empty id is always new. `request` says what is asked: INVALID_ARGUMENT when `id`
  // was used for another request, or is too long.
  void Run(const std::string& id, const std::string& request, Start start, Done done);

 private:
  struct Operation {
    std::string request;
    bool succeeded = false;
    std::vector<Done> waiting;  // Empty once it has succeeded.
  };

  void Finish(const std::string& id, const absl::Status& status);

  Mutex mutex_;
  std::map<std::string, Operation> operations_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::string> succeeded_ ABSL_GUARDED_BY(mutex_);  // Oldest first.
};

}  // namespace vireo::api

#endif  // VIREO_API_OPERATION_LOG_H_
