// vireo-io: drives the storage engine on an image, from a script or a prompt.

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/opener.h"
#include "storage/io/run.h"

int main(int argc, char** argv) {
  const absl::StatusOr<std::unique_ptr<vireo::EventLoop>> loop = vireo::EventLoop::Create();
  if (!loop.ok()) {
    std::fprintf(stderr, "vireo-io: %s\n", std::string(loop.status().message()).c_str());
    return 1;
  }
  vireo::DirectOpener opener;
  const std::string path = argc > 0 ? argv[0] : "vireo-io";
  const size_t slash = path.rfind('/');
  const vireo::io::Program program = {
      .loop = **loop,
      .opener = opener,
      .name = slash == std::string::npos ? path : path.substr(slash + 1),
      .in = stdin,
      .out = stdout,
      .err = stderr};
  const int status = vireo::io::Run(program, std::vector<std::string>(argv + 1, argv + argc));
  if (std::fflush(stdout) != 0) {
    std::perror("vireo-io: standard output");
    return 1;
  }
  return status;
}
