#include "storage/io/commands.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "storage/io/words.h"

namespace vireo::io {
namespace {

// What the commands say about themselves, in the form that scripts know.
constexpr char kReadHelp[] =
    "\n"
    " reads a range of bytes from the given offset\n"
    "\n"
    " Example:\n"
    " 'read -v 512 1k' - dumps 1 kilobyte read from 512 bytes into the file\n"
    "\n"
    " -b, -- read the VM state: not supported\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -l, -- length for pattern verification (only with -P)\n"
    " -p, -- ignored for backwards compatibility\n"
    " -P, -- use a pattern to verify read data\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    " -s, -- start offset for pattern verification (only with -P)\n"
    " -v, -- dump buffer to standard output\n"
    "\n";

constexpr char kWriteHelp[] =
    "\n"
    " writes a range of bytes from the given offset\n"
    "\n"
    " Example:\n"
    " 'write 512 1k' - writes 1 kilobyte at 512 bytes into the open file\n"
    "\n"
    " Without -P, -s and -z every byte is 0xcd.\n"
    " -b, -- write the VM state: not supported\n"
    " -c, -- write compressed data\n"
    " -f, -- use Force Unit Access semantics\n"
    " -n, -- with -z, don't allow slow fallback\n"
    " -p, -- ignored for backwards compatibility\n"
    " -P, -- use different pattern to fill file\n"
    " -s, -- use a pattern file to fill the write buffer\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    " -u, -- with -z, allow unmapping\n"
    " -z, -- write zeroes\n"
    "\n";

constexpr char kReadVHelp[] =
    "\n"
    " reads a range of bytes from the given offset into multiple buffers\n"
    "\n"
    " Example:\n"
    " 'readv -v 512 1k 1k ' - dumps 2 kilobytes read from 512 bytes into the file\n"
    "\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -P, -- use a pattern to verify read data\n"
    " -v, -- dump buffer to standard output\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    "\n";

constexpr char kWriteVHelp[] =
    "\n"
    " writes a range of bytes from the given offset source from multiple buffers\n"
    "\n"
    " Example:\n"
    " 'writev 512 1k 1k' - writes 2 kilobytes at 512 bytes into the open file\n"
    "\n"
    " Without -P every byte is 0xcd.\n"
    " -P, -- use different pattern to fill file\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -f, -- use Force Unit Access semantics\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    "\n";

constexpr char kAioReadHelp[] =
    "\n"
    " asynchronously reads a range of bytes from the given offset\n"
    "\n"
    " Example:\n"
    " 'aio_read -v 512 1k 1k ' - dumps 2 kilobytes read from 512 bytes into the file\n"
    "\n"
    " The next command does not wait for it; aio_flush does. How it ends does not change the\n"
    " exit status.\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -P, -- use a pattern to verify read data\n"
    " -i, -- treat request as invalid, for exercising stats\n"
    " -v, -- dump buffer to standard output\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    "\n";

constexpr char kAioWriteHelp[] =
    "\n"
    " asynchronously writes a range of bytes from the given offset source\n"
    " from multiple buffers\n"
    "\n"
    " Example:\n"
    " 'aio_write 512 1k 1k' - writes 2 kilobytes at 512 bytes into the open file\n"
    "\n"
    " The next command does not wait for it; aio_flush does. How it ends does not change the\n"
    " exit status. Without -P and -z every byte is 0xcd.\n"
    " -P, -- use different pattern to fill file\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -f, -- use Force Unit Access semantics\n"
    " -i, -- treat request as invalid, for exercising stats\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    " -u, -- with -z, allow unmapping\n"
    " -z, -- write zeroes\n"
    "\n";

constexpr char kDiscardHelp[] =
    "\n"
    " discards a range of bytes from the given offset\n"
    "\n"
    " Example:\n"
    " 'discard 512 1k' - discards 1 kilobyte from 512 bytes into the file\n"
    "\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    "\n";

constexpr char kOpenHelp[] =
    "\n"
    " opens a new file in the requested mode\n"
    "\n"
    " Example:\n"
    " 'open -n -o driver=raw /tmp/data' - opens raw data file read-write, uncached\n"
    "\n"
    " -r, -- open file read-only\n"
    " -s, -- use snapshot file\n"
    " -C, -- use copy-on-read\n"
    " -n, -- disable host cache, short for -t none\n"
    " -U, -- force shared permissions\n"
    " -k, -- the same as -i native\n"
    " -i, -- threads, native or io_uring: all I/O is io_uring's\n"
    " -t, -- use the given cache mode for the image\n"
    " -d, -- use the given discard mode for the image\n"
    " -o, -- options to be given to the block driver\n";

constexpr char kReopenHelp[] =
    "\n"
    " Changes the open options of an already opened image\n"
    "\n"
    " Example:\n"
    " 'reopen -o lazy-refcounts=on' - activates lazy refcount writeback on a qcow2 image\n"
    "\n"
    " -r, -- Reopen the image read-only\n"
    " -w, -- Reopen the image read-write\n"
    " -c, -- Change the cache mode to the given value\n"
    " -o, -- Changes block driver options (cf. 'open' command)\n"
    "\n";

constexpr char kSigRaiseHelp[] =
    "\n"
    " raises the given signal\n"
    "\n"
    " Example:\n"
    " 'sigraise 15' - raises SIGTERM\n"
    "\n";

constexpr bool kNoDisk = false;
constexpr bool kDisk = true;
constexpr bool kAnyAccess = false;
constexpr bool kWritable = true;

constexpr std::array<Command, 26> kCommands = {{
    {"abort", nullptr, 0, 0, kNoDisk, kAnyAccess, nullptr,
     "simulate a program crash using abort(3)", nullptr, &Abort},
    {"aio_flush", nullptr, 0, 0, kDisk, kAnyAccess, nullptr,
     "completes all outstanding aio requests", nullptr, &AioFlush},
    {"aio_read", nullptr, 2, -1, kDisk, kAnyAccess, "[-Ciqv] [-P pattern] off len [len..]",
     "asynchronously reads a number of bytes", kAioReadHelp, &AioRead},
    {"aio_write", nullptr, 2, -1, kDisk, kWritable, "[-Cfiquz] [-P pattern] off len [len..]",
     "asynchronously writes a number of bytes", kAioWriteHelp, &AioWrite},
    {"alloc", "a", 1, 2, kDisk, kAnyAccess, "offset [count]",
     "checks if offset is allocated in the file", nullptr, &Alloc},
    {"break", nullptr, 2, 2, kDisk, kAnyAccess, "event tag",
     "sets a breakpoint on event and tags the stopped request as tag", nullptr, &Break},
    {"close", "c", 0, 0, kDisk, kAnyAccess, nullptr, "close the current open file", nullptr,
     &Close},
    {"discard", "d", 2, -1, kDisk, kWritable, "[-Cq] off len",
     "discards a number of bytes at a specified offset", kDiscardHelp, &Discard},
    {"flush", "f", 0, 0, kDisk, kAnyAccess, nullptr, "flush all in-core file state to disk",
     nullptr, &Flush},
    {"help", "?", 0, 1, kNoDisk, kAnyAccess, "[command]", "help for one or all commands", nullptr,
     &Help},
    {"info", "i", 0, 0, kDisk, kAnyAccess, nullptr, "prints information about the current file",
     nullptr, &Info},
    {"length", "l", 0, 0, kDisk, kAnyAccess, nullptr, "gets the length of the current file",
     nullptr, &Length},
    {"map", nullptr, 0, 0, kDisk, kAnyAccess, "", "prints the allocated areas of a file", nullptr,
     &Map},
    {"open", "o", 1, -1, kNoDisk, kAnyAccess,
     "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]", "open the file specified by path",
     kOpenHelp, &Open},
    {"quit", "q", 0, -1, kNoDisk, kAnyAccess, nullptr, "exit the program", nullptr, &Quit},
    {"read", "r", 2, -1, kDisk, kAnyAccess, "[-abCqv] [-P pattern [-s off] [-l len]] off len",
     "reads a number of bytes at a specified offset", kReadHelp, &Read},
    {"readv", nullptr, 2, -1, kDisk, kAnyAccess, "[-Cqv] [-P pattern] off len [len..]",
     "reads a number of bytes at a specified offset", kReadVHelp, &ReadV},
    {"remove_break", nullptr, 1, 1, kDisk, kAnyAccess, "tag", "remove a breakpoint by tag", nullptr,
     &RemoveBreak},
    {"reopen", nullptr, 0, -1, kDisk, kAnyAccess, "[(-r|-w)] [-c cache] [-o options]",
     "reopens an image with new options", kReopenHelp, &Reopen},
    {"resume", nullptr, 1, 1, kDisk, kAnyAccess, "tag", "resumes the request tagged as tag",
     nullptr, &Resume},
    {"sigraise", nullptr, 1, 1, kNoDisk, kAnyAccess, "signal", "raises a signal", kSigRaiseHelp,
     &SigRaise},
    {"sleep", nullptr, 1, 1, kNoDisk, kAnyAccess, nullptr,
     "waits for the given value in milliseconds", nullptr, &Sleep},
    {"truncate", "t", 1, 3, kDisk, kWritable, "[-m prealloc_mode] off",
     "truncates the current file at the given offset", nullptr, &Truncate},
    {"wait_break", nullptr, 1, 1, kDisk, kAnyAccess, "tag", "waits for the suspension of a request",
     nullptr, &WaitBreak},
    {"write", "w", 2, -1, kDisk, kWritable, "[-bcCfnquz] [-P pattern | -s source_file] off len",
     "writes a number of bytes at a specified offset", kWriteHelp, &Write},
    {"writev", nullptr, 2, -1, kDisk, kWritable, "[-Cfq] [-P pattern] off len [len..]",
     "writes a number of bytes at a specified offset", kWriteVHelp, &WriteV},
}};

const Command* FindCommand(const std::string& name) {
  for (const Command& command : kCommands) {
    if (name == command.name) return &command;
    if (command.other_name != nullptr && name == command.other_name) return &command;
  }
  return nullptr;
}

}  // namespace

std::string Command::Line(absl::string_view called) const {
  return absl::StrCat(called, " ", arguments != nullptr ? arguments : "",
                      arguments != nullptr ? " " : "", "-- ", summary);
}

std::span<const Command> AllCommands() { return kCommands; }

Result Misuse(Session& session, const Command& command, const absl::Status& status) {
  if (!status.ok()) session.Complain(std::string(status.message()));
  session.Print("%s\n", command.Line());
  return Result::kFailed;
}

Result RunLine(Session& session, const std::string& line) {
  const std::vector<std::string> words = SplitWords(line);
  if (words.empty()) return Result::kOk;
  const Command* const command = FindCommand(words[0]);
  if (command == nullptr) {
    session.Complain(absl::StrFormat("command \"%s\" not found", words[0]));
    return Result::kFailed;
  }
  if (command->needs_disk && !session.is_open()) {
    session.Complain("no file open, try 'help open'");
    return Result::kFailed;
  }
  const int arguments = static_cast<int>(words.size()) - 1;
  if (arguments < command->min_arguments ||
      (command->max_arguments != -1 && arguments > command->max_arguments)) {
    std::string expected = absl::StrFormat("expected %d arguments", command->min_arguments);
    if (command->max_arguments == -1) {
      expected = absl::StrFormat("expected at least %d arguments", command->min_arguments);
    } else if (command->max_arguments != command->min_arguments) {
      expected = absl::StrFormat("expected between %d and %d arguments", command->min_arguments,
                                 command->max_arguments);
    }
    session.Complain(
        absl::StrFormat("bad argument count %d to %s, %s", arguments, words[0], expected));
    return Result::kFailed;
  }
  if (command->needs_writable && session.read_only()) {
    session.Error("Block node is read-only");
    return Result::kFailed;
  }
  return command->run(session, *command, words);
}

}  // namespace vireo::io
