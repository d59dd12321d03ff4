// vireo-img: what its verbs share. Names of options, defaults, exit codes and output are those of
// qemu-img 7.2, so that it stands in for it in other people's scripts.

#ifndef VIREO_STORAGE_IMG_TOOL_H_
#define VIREO_STORAGE_IMG_TOOL_H_

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/async/event_loop.h"
#include "base/opener.h"
#include "storage/crypto/secret_store.h"

namespace vireo::img {

// Where a verb works; all of it outlives the verb.
struct Tool {
  EventLoop& loop;
  Opener& opener;
  std::FILE* out;
  std::FILE* err;
  const SecretStore* secrets = nullptr;  // Of --object, which every verb takes.

  template <typename... Args>
  void Print(const absl::FormatSpec<Args...>& format, const Args&... args) const {
    const std::string text = absl::StrFormat(format, args...);
    std::fwrite(text.data(), 1, text.size(), out);
  }
  // "vireo-img: MESSAGE" on the error stream. Answers 1, the exit status that goes with it.
  template <typename... Args>
  int Fail(const absl::FormatSpec<Args...>& format, const Args&... args) const {
    const std::string text = absl::StrFormat("vireo-img: %s\n", absl::StrFormat(format, args...));
    std::fflush(out);
    std::fwrite(text.data(), 1, text.size(), err);
    return 1;
  }
  // The same for a command line that is wrong.
  template <typename... Args>
  int FailUsage(const absl::FormatSpec<Args...>& format, const Args&... args) const {
    Fail(format, args...);
    std::fputs("Try 'vireo-img --help' for more information\n", err);
    return 1;
  }
};

// The verbs: `args` is what follows the verb's name. Each answers the exit status.
int Amend(const Tool& tool, const std::vector<std::string>& args);
int Bench(const Tool& tool, const std::vector<std::string>& args);
int Bitmap(const Tool& tool, const std::vector<std::string>& args);
int Check(const Tool& tool, const std::vector<std::string>& args);
int Commit(const Tool& tool, const std::vector<std::string>& args);
int Compare(const Tool& tool, const std::vector<std::string>& args);
int Convert(const Tool& tool, const std::vector<std::string>& args);
int Create(const Tool& tool, const std::vector<std::string>& args);
int Dd(const Tool& tool, const std::vector<std::string>& args);
int Info(const Tool& tool, const std::vector<std::string>& args);
int Map(const Tool& tool, const std::vector<std::string>& args);
int Measure(const Tool& tool, const std::vector<std::string>& args);
int Rebase(const Tool& tool, const std::vector<std::string>& args);
int Resize(const Tool& tool, const std::vector<std::string>& args);
int Snapshot(const Tool& tool, const std::vector<std::string>& args);
int VerifyUpload(const Tool& tool, const std::vector<std::string>& args);

// The whole program; `args` without its name.
int Run(const Tool& tool, const std::vector<std::string>& args);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_TOOL_H_
