#include "storage/img/whole_file.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/image_lock.h"

namespace vireo::img {

Task<absl::StatusOr<WholeFile>> OpenWholeFile(EventLoop& loop, Opener& opener,
                                              SourceOptions options) {
  absl::StatusOr<Source> source = co_await OpenSource(loop, opener, options);
  CO_RETURN_IF_ERROR(source.status());
  CO_RETURN_IF_ERROR(co_await source->disk->Close());
  WholeFile whole = {.format = source->format, .warning = std::move(source->warning)};
  HostFile::Options file_options = {.path = source->file_name,
                                    .read_only = options.read_only,
                                    .direct = options.cache.direct,
                                    .no_flush = options.cache.no_flush,
                                    .lock = options.share       ? LockMode::kNone
                                            : options.read_only ? LockMode::kShared
                                                                : LockMode::kExclusive};
  absl::StatusOr<std::unique_ptr<File>> file =
      co_await HostFile::Open(loop, opener, std::move(file_options));
  if (!file.ok()) {
    co_return Annotate(file.status(), absl::StrFormat("Could not open '%s'", options.name));
  }
  whole.file = *std::move(file);
  co_return whole;
}

}  // namespace vireo::img
