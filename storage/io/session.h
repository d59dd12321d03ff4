// One run of vireo-io: the disk that is open, if any, the requests that are on their way, and where
// output goes. Names of options and commands, output and exit status are those of qemu-io 7.2.

#ifndef VIREO_STORAGE_IO_SESSION_H_
#define VIREO_STORAGE_IO_SESSION_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_format.h"
#include "base/async/event_loop.h"
#include "base/async/task_scope.h"
#include "base/opener.h"
#include "storage/buffer_pool.h"
#include "storage/byte_disk.h"
#include "storage/crypto/secret_store.h"
#include "storage/driver_options.h"
#include "storage/open_node.h"

namespace vireo::io {

// The names of -t, as qemu-io has them.
struct CacheMode {
  bool direct = false;
  bool no_flush = false;
  bool writethrough = false;
};
std::optional<CacheMode> ParseCacheMode(const std::string& name);

// How to open a disk: what the program's options and those of `open` say.
struct OpenOptions {
  std::optional<std::string> name;  // Of a file; without it `options` say all.
  DriverOptions options;
  bool read_only = false;
  bool share = false;
  bool copy_on_read = false;
  bool temporary = false;  // Writes go to a file that is gone with the disk.
  bool ignore_discards = false;
  CacheMode cache;
};

class Session {
 public:
  // All of them outlive the session. `program` is what it was called as.
  Session(EventLoop& loop, Opener& opener, std::string program, std::FILE* out, std::FILE* err);
  // Close() has been called.
  ~Session();

  EventLoop& loop() { return loop_; }
  const std::string& program() const { return program_; }

  template <typename... Args>
  void Print(const absl::FormatSpec<Args...>& format, const Args&... args) {
    const std::string text = absl::StrFormat(format, args...);
    std::fwrite(text.data(), 1, text.size(), out_);
  }
  // A line of its own on the error stream, as getopt writes them.
  void Complain(const std::string& line);
  // "PROGRAM: MESSAGE" there.
  template <typename... Args>
  void Error(const absl::FormatSpec<Args...>& format, const Args&... args) {
    Complain(absl::StrFormat("%s: %s", program_, absl::StrFormat(format, args...)));
  }
  void FlushOutput() { std::fflush(out_); }

  bool is_open() const { return node_.disk != nullptr; }
  // True if it worked; otherwise it has said why not.
  bool Open(OpenOptions options);
  // Waits for what is on its way. The disk is gone afterwards, also when that answers an error.
  absl::Status Close();

  // Of the open disk.
  const OpenOptions& open_options() const { return options_; }
  const BlockNode& node() const { return node_; }
  BlockBackend& disk() { return *node_.disk; }
  ByteDisk& bytes() { return *bytes_; }
  bool read_only() const { return node_.disk->geometry().read_only; }
  // Requests that nobody waits for.
  TaskScope& requests() { return requests_; }
  void WaitForRequests();

  // A buffer of `size` bytes, each `byte`; misplaced by 16 bytes if so asked for.
  struct Buffer {
    AlignedBytes bytes;
    size_t skip = 0;

    uint8_t* data() const { return bytes.get() + skip; }
  };
  Buffer Allocate(uint64_t size, uint8_t byte) const;
  void set_misalign() { misalign_ = true; }
  void set_image_opts() { image_opts_ = true; }
  bool image_opts() const { return image_opts_; }

  SecretStore& secrets() { return secrets_; }  // Of --object.
  Opener& opener() { return opener_; }

  bool quit = false;

 private:
  Task<absl::StatusOr<BlockNode>> OpenTemporary(BlockNode backing);

  EventLoop& loop_;
  Opener& opener_;
  const std::string program_;
  std::FILE* const out_;
  std::FILE* const err_;
  OpenOptions options_;
  BlockNode node_;
  std::unique_ptr<ByteDisk> bytes_;
  TaskScope requests_;
  SecretStore secrets_;
  bool misalign_ = false;
  bool image_opts_ = false;
};

// The errno that a command reports for a failed request.
int RequestErrno(const absl::Status& status);

}  // namespace vireo::io

#endif  // VIREO_STORAGE_IO_SESSION_H_
