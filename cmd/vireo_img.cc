// vireo-img: makes, shows and checks disk images.

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/opener.h"
#include "storage/img/tool.h"

int main(int argc, char** argv) {
  const absl::StatusOr<std::unique_ptr<vireo::EventLoop>> loop = vireo::EventLoop::Create();
  if (!loop.ok()) {
    std::fprintf(stderr, "vireo-img: %s\n", std::string(loop.status().message()).c_str());
    return 1;
  }
  vireo::DirectOpener opener;
  const vireo::img::Tool tool = {.loop = **loop, .opener = opener, .out = stdout, .err = stderr};
  const int status = vireo::img::Run(tool, std::vector<std::string>(argv + 1, argv + argc));
  if (std::fflush(stdout) != 0) {
    std::perror("vireo-img: standard output");
    return 1;
  }
  return status;
}
