// The commands of vireo-io.

#ifndef VIREO_STORAGE_IO_COMMANDS_H_
#define VIREO_STORAGE_IO_COMMANDS_H_

#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "storage/io/options.h"
#include "storage/io/session.h"

namespace vireo::io {

enum class Result { kOk, kFailed };  // One failure makes the program's exit status 1.

struct Command {
  const char* name;
  const char* other_name;  // May be null.
  int min_arguments;
  int max_arguments;  // -1: any number.
  bool needs_disk;
  bool needs_writable;
  const char* arguments;  // For the help; null: none worth a word.
  const char* summary;
  const char* help;  // May be null.
  // `words` begins with the command's name as it was given.
  Result (*run)(Session& session, const Command& command, const std::vector<std::string>& words);

  // "NAME ARGUMENTS -- SUMMARY", under the name it was called by.
  std::string Line(absl::string_view called) const;
  std::string Line() const { return Line(name); }
};

// In alphabetical order.
std::span<const Command> AllCommands();

// Runs one line; an empty one is nothing.
Result RunLine(Session& session, const std::string& line);

// The message of `options`' error, and how the command is used.
Result Misuse(Session& session, const Command& command, const absl::Status& status = {});

// read_write.cc
Result Read(Session& session, const Command& command, const std::vector<std::string>& words);
Result Write(Session& session, const Command& command, const std::vector<std::string>& words);
Result Discard(Session& session, const Command& command, const std::vector<std::string>& words);
Result Flush(Session& session, const Command& command, const std::vector<std::string>& words);
// vectors.cc
Result ReadV(Session& session, const Command& command, const std::vector<std::string>& words);
Result WriteV(Session& session, const Command& command, const std::vector<std::string>& words);
Result AioRead(Session& session, const Command& command, const std::vector<std::string>& words);
Result AioWrite(Session& session, const Command& command, const std::vector<std::string>& words);
Result AioFlush(Session& session, const Command& command, const std::vector<std::string>& words);
// file.cc
Result Open(Session& session, const Command& command, const std::vector<std::string>& words);
Result Close(Session& session, const Command& command, const std::vector<std::string>& words);
Result Reopen(Session& session, const Command& command, const std::vector<std::string>& words);
Result Truncate(Session& session, const Command& command, const std::vector<std::string>& words);
// facts.cc
Result Alloc(Session& session, const Command& command, const std::vector<std::string>& words);
Result Map(Session& session, const Command& command, const std::vector<std::string>& words);
Result Length(Session& session, const Command& command, const std::vector<std::string>& words);
Result Info(Session& session, const Command& command, const std::vector<std::string>& words);
// control.cc
Result Abort(Session& session, const Command& command, const std::vector<std::string>& words);
Result Break(Session& session, const Command& command, const std::vector<std::string>& words);
Result RemoveBreak(Session& session, const Command& command, const std::vector<std::string>& words);
Result WaitBreak(Session& session, const Command& command, const std::vector<std::string>& words);
Result Resume(Session& session, const Command& command, const std::vector<std::string>& words);
Result SigRaise(Session& session, const Command& command, const std::vector<std::string>& words);
Result Sleep(Session& session, const Command& command, const std::vector<std::string>& words);
Result Help(Session& session, const Command& command, const std::vector<std::string>& words);
Result Quit(Session& session, const Command& command, const std::vector<std::string>& words);

}  // namespace vireo::io

#endif  // VIREO_STORAGE_IO_COMMANDS_H_
