// From driver options to a disk: trees of any shape over the drivers file, host_device, raw, qcow2,
// null-co, null-aio and blkdebug, for tools whose users say what they want. A VM's disks come from
// OpenImage() (open_image.h).
//
// What options name is the user's own and is opened as it stands. Names that stand in an image are
// local paths, relative to the directory of that image, and the format of a backing file is what
// the image or the options state: it is never looked for. Texts of errors are QEMU's.

#ifndef VIREO_STORAGE_OPEN_NODE_H_
#define VIREO_STORAGE_OPEN_NODE_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/opener.h"
#include "storage/blkdebug.h"
#include "storage/block_backend.h"
#include "storage/crypto/secret_store.h"
#include "storage/driver_options.h"
#include "storage/open_image.h"
#include "storage/qcow2/cache_budget.h"
#include "storage/qcow2/image.h"
#include "storage/qcow2/snapshots.h"

namespace vireo {

struct NodeSettings {
  // What options may say otherwise, node by node.
  bool read_only = true;
  bool direct = false;           // O_DIRECT: cache.direct
  bool no_flush = false;         // Nothing is made durable: cache.no-flush
  bool writethrough = false;     // Of the top node: not cache.writeback
  bool ignore_discards = false;  // discard=ignore
  // Nothing says otherwise.
  bool share = false;       // No locks are taken and none respected: force-share
  bool no_backing = false;  // Of the top node: what a backing file holds reads as zeros.
  // Of the top node, which is QCOW2 and read-only: the disk as it was then.
  std::optional<qcow2::SnapshotChoice> snapshot;
  // What the metadata of the image above may take, for this one to share unless its options say
  // otherwise. Null: it has its own.
  std::shared_ptr<qcow2::CacheBudget> cache_budget;
  Blkdebug::Say say;                     // May be null.
  const SecretStore* secrets = nullptr;  // For encrypt.key-secret; outlives the opening.
};

struct BlockNode {
  std::unique_ptr<BlockBackend> disk;  // To be closed, whatever happens.
  std::string driver;                  // Of the top node.
  ImageFormat format = ImageFormat::kRaw;
  bool probed = false;            // The driver was found by looking at the file.
  std::string file_name;          // Of the file at the bottom.
  qcow2::Image* image = nullptr;  // Inside `disk`, when the top node is a QCOW2 image.
  Blkdebug* blkdebug = nullptr;   // Inside `disk`, the first one from the top; or null.
};

// "x", "file:x", "null-co://", "blkdebug:CONF:x" and "json:{...}" as options. INVALID_ARGUMENT,
// naming it, for a protocol that is none of these.
absl::StatusOr<DriverOptions> OptionsFromName(const std::string& name);

// True for a driver that has no format of its own: "file", "null-co" and so on.
bool IsProtocolDriver(const std::string& driver);

// Opens what `options` describe. Without a "driver" at the top the first bytes of the file tell the
// format. INVALID_ARGUMENT for options that nobody knows or understands; others as OpenImage().
// What is wrong with a snapshot begins with kSnapshotFailed.
inline constexpr char kSnapshotFailed[] = "Failed to load snapshot";
Task<absl::StatusOr<BlockNode>> OpenNode(EventLoop& loop, Opener& opener, DriverOptions options,
                                         NodeSettings settings);

}  // namespace vireo

#endif  // VIREO_STORAGE_OPEN_NODE_H_
