#include "storage/img/progress.h"

#include <signal.h>

#include <algorithm>
#include <atomic>

namespace vireo::img {
namespace {

std::atomic<bool> asked = false;

void NoteAsked(int) { asked.store(true); }

}  // namespace

Progress::Progress(Options options) : options_(options) {
  struct sigaction action = {};
  action.sa_handler = NoteAsked;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGUSR1, &action, nullptr);
}

Progress::~Progress() {
  if (!options_.shown) return;
  std::fputs("\n", options_.out);
  std::fflush(options_.out);
}

void Progress::Add(float percent) { Set(now_ + percent); }

void Progress::Set(float percent) {
  now_ = std::min(percent, 100.0f);
  if (asked.exchange(false)) {
    std::fprintf(options_.err, "    (%3.2f/100%%)\n", now_);
    std::fflush(options_.err);
  }
  const bool step = now_ > last_shown_ + options_.step_percent ||
                    now_ < last_shown_ - options_.step_percent || now_ == 100 || now_ == 0;
  if (!options_.shown || !step) return;
  last_shown_ = now_;
  std::fprintf(options_.out, "    (%3.2f/100%%)\r", now_);
  std::fflush(options_.out);
}

}  // namespace vireo::img
