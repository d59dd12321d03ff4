// An owned file descriptor: closed exactly once. Every descriptor is a UniqueFd from the line it is
// born.

#ifndef VIREO_BASE_UNIQUE_FD_H_
#define VIREO_BASE_UNIQUE_FD_H_

#include <utility>

#include "absl/status/statusor.h"

namespace vireo {

class UniqueFd {
 public:
  UniqueFd() = default;
  // Takes ownership; a negative number is "none".
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(other.Release());
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Gives up ownership; the caller closes.
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }
  // Closes what is held and takes `fd`. Keeps errno.
  void Reset(int fd = -1);
  // A second descriptor of the same open file, close-on-exec.
  absl::StatusOr<UniqueFd> Duplicate() const;

 private:
  int fd_ = -1;
};

}  // namespace vireo

#endif  // VIREO_BASE_UNIQUE_FD_H_
