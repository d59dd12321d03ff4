#include "cmd/config_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_format.h"
#include "api/config_convert.h"
#include "base/opener.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;

}  // namespace

absl::StatusOr<VmConfig> LoadConfigFile(const std::string& path) {
  DirectOpener opener;
  ASSIGN_OR_RETURN(const UniqueFd file, opener.Open(path, O_RDONLY));
  std::string json;
  char buffer[4096];
  while (true) {
    const ssize_t got = ::read(file.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const absl::Status status = ErrnoStatus(errno, path);
      return errno == EISDIR ? WithCode(status, absl::StatusCode::kInvalidArgument) : status;
    }
    if (got == 0) break;
    json.append(buffer, static_cast<size_t>(got));
    if (json.size() > kMaxBytes) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: more than %d bytes, so not a configuration", path, kMaxBytes));
    }
  }
  absl::StatusOr<VmConfig> config = api::ConfigFromJson(json);
  if (!config.ok()) return Annotate(config.status(), path);
  return config;
}

}  // namespace vireo
