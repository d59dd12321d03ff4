// How a verb opens an image that its command line names. Texts of errors are those of qemu-img.
//
// A name is a path, "json:{...}", "blkdebug:CONF:FILE" and so on, or options (open_node.h). The
// format of the file that was named is stated (-f), or looked for in its first bytes where qemu-img
// does so; that of a backing file is never looked for.

#ifndef VIREO_STORAGE_IMG_SOURCE_H_
#define VIREO_STORAGE_IMG_SOURCE_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/opener.h"
#include "storage/block_backend.h"
#include "storage/crypto/secret_store.h"
#include "storage/driver_options.h"
#include "storage/open_image.h"
#include "storage/open_node.h"
#include "storage/qcow2/image.h"

namespace vireo::img {

// The names of -t and -T.
struct CacheMode {
  bool direct = false;        // O_DIRECT.
  bool no_flush = false;      // Nothing is made durable.
  bool writethrough = false;  // Each write is made durable before it ends.
};

// "none", "off", "directsync", "writeback", "unsafe" or "writethrough"; nothing for another.
std::optional<CacheMode> ParseCacheMode(const std::string& name);

struct SourceOptions {
  std::string name;                   // A file name, or options if image_opts.
  std::optional<std::string> format;  // -f; without it the first bytes tell.
  bool image_opts = false;            // --image-opts
  bool read_only = true;
  bool share = false;                             // -U: no lock is taken and none respected.
  bool no_backing = false;                        // The backing file is not opened.
  std::optional<qcow2::SnapshotChoice> snapshot;  // Read-only, the disk as it was then.
  CacheMode cache;
  std::optional<std::string> key_secret;  // As encrypt.key-secret of an image-opts would say.
  const SecretStore* secrets = nullptr;   // For encrypt.key-secret; outlives the opening.
  std::optional<DriverOptions> drivers;   // Instead of the name, which is for messages then.
};

struct Source {
  std::string name;    // As the command line has it.
  std::string driver;  // "qcow2", "raw", "file", ...
  ImageFormat format = ImageFormat::kRaw;
  std::string file_name;               // Of the file at the bottom.
  std::unique_ptr<BlockBackend> disk;  // To be closed, whatever happens.
  qcow2::Image* image = nullptr;       // Inside `disk`, when that is a QCOW2 image.
  std::string warning;                 // For the error stream, when not empty.
};

// What the name says, or the options that it is, with the format.
absl::StatusOr<DriverOptions> DriversOf(const SourceOptions& options);

// The message of an error is all that there is to print: "Could not open 'NAME': WHY". Codes as of
// OpenNode().
Task<absl::StatusOr<Source>> OpenSource(EventLoop& loop, Opener& opener, SourceOptions options);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_SOURCE_H_
