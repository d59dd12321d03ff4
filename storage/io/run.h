// The program vireo-io.

#ifndef VIREO_STORAGE_IO_RUN_H_
#define VIREO_STORAGE_IO_RUN_H_

#include <cstdio>
#include <string>
#include <vector>

#include "base/async/event_loop.h"
#include "base/opener.h"

namespace vireo::io {

struct Program {
  EventLoop& loop;
  Opener& opener;
  std::string name;  // What it was called as: in the prompt and in messages.
  std::FILE* in;     // Commands, one a line, when no option has any.
  std::FILE* out;
  std::FILE* err;
};

// `args` without the program's name. Answers the exit status: 1 if any command failed.
int Run(const Program& program, const std::vector<std::string>& args);

}  // namespace vireo::io

#endif  // VIREO_STORAGE_IO_RUN_H_
