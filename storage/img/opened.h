// A Source of a verb that runs outside of the loop: closed when it goes out of scope.

#ifndef VIREO_STORAGE_IMG_OPENED_H_
#define VIREO_STORAGE_IMG_OPENED_H_

#include <cstdio>
#include <string>
#include <utility>

#include "storage/img/source.h"
#include "storage/img/tool.h"

namespace vireo::img {

class Opened {
 public:
  // `tool` outlives it. Says why when it fails; ok() tells.
  Opened(const Tool& tool, SourceOptions options) : tool_(tool) {
    options.secrets = tool.secrets;
    absl::StatusOr<Source> source =
        tool.loop.RunTask(OpenSource(tool.loop, tool.opener, std::move(options)));
    if (source.ok()) {
      source_ = *std::move(source);
      std::fputs(source_.warning.c_str(), tool.err);
    } else {
      tool.Fail("%s", std::string(source.status().message()));
    }
  }
  ~Opened() { static_cast<void>(Close()); }
  Opened(Opened&& other) noexcept : tool_(other.tool_), source_(std::move(other.source_)) {}
  Opened& operator=(Opened&&) = delete;

  bool ok() const { return source_.disk != nullptr; }
  const Source& source() const { return source_; }
  BlockBackend& disk() const { return *source_.disk; }
  uint64_t size_bytes() const { return source_.disk->geometry().size_bytes; }

  // Before the end, for those whom its answer matters.
  absl::Status Close() {
    if (source_.disk == nullptr) return absl::OkStatus();
    absl::Status closed = tool_.loop.RunTask(source_.disk->Close());
    source_.disk.reset();
    return closed;
  }

 private:
  const Tool& tool_;
  Source source_;
};

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_OPENED_H_
