#include "storage/img/unfinished_files.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <utility>

namespace vireo::img {
namespace {

// A target, its data file, and room for those of a later verb.
constexpr int kSlots = 8;
std::array<std::atomic<const char*>, kSlots> unfinished = {};

bool IsRegular(const char* path) {
  struct stat info;
  return ::lstat(path, &info) == 0 && S_ISREG(info.st_mode);
}

void RemoveAndDie(int signal) {
  for (const std::atomic<const char*>& path : unfinished) {
    const char* const name = path.load();
    if (name != nullptr) ::unlink(name);
  }
  // SA_RESETHAND: the second one ends the process, with the status that a shell expects.
  ::raise(signal);
}

void CatchSignals() {
  static const bool caught = [] {
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
      struct sigaction action = {};
      struct sigaction before = {};
      // Who started us with a signal ignored (nohup) wants it ignored.
      if (::sigaction(signal, nullptr, &before) == 0 && before.sa_handler == SIG_IGN) continue;
      action.sa_handler = RemoveAndDie;
      action.sa_flags = static_cast<int>(SA_RESETHAND);
      ::sigaction(signal, &action, nullptr);
    }
    return true;
  }();
  static_cast<void>(caught);
}

}  // namespace

void UnfinishedFiles::Add(const std::string& path) {
  if (!IsRegular(path.c_str())) return;
  CatchSignals();
  auto kept = std::make_unique<const std::string>(path);
  for (int i = 0; i < kSlots; ++i) {
    const char* expected = nullptr;
    if (unfinished[i].compare_exchange_strong(expected, kept->c_str())) {
      listed_.push_back({std::move(kept), i});
      return;
    }
  }
}

UnfinishedFiles::~UnfinishedFiles() {
  for (const Listed& listed : listed_) {
    unfinished[listed.slot].store(nullptr);
    if (IsRegular(listed.path->c_str())) ::unlink(listed.path->c_str());
  }
}

void UnfinishedFiles::Finish() {
  for (const Listed& listed : listed_) unfinished[listed.slot].store(nullptr);
  listed_.clear();
}

}  // namespace vireo::img
