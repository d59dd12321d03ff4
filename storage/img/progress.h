// How far a verb has come: shown with -p, told on SIGUSR1 without.

#ifndef VIREO_STORAGE_IMG_PROGRESS_H_
#define VIREO_STORAGE_IMG_PROGRESS_H_

#include <cstdio>

namespace vireo::img {

class Progress {
 public:
  struct Options {
    std::FILE* out;
    std::FILE* err;
    bool shown = false;
    float step_percent = 1;  // Smaller steps are not shown.
  };
  explicit Progress(Options options);
  // Ends the line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Add(float percent);
  void Set(float percent);

 private:
  const Options options_;
  float now_ = 0;
  float last_shown_ = 0;
};

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_PROGRESS_H_
