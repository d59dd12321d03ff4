// One tree of nodes, while it is being opened. Private to open_node.cc, open_node_files.cc and
// open_node_disks.cc.

#ifndef VIREO_STORAGE_NODE_OPENER_H_
#define VIREO_STORAGE_NODE_OPENER_H_

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/opener.h"
#include "storage/backing_options.h"
#include "storage/blkdebug.h"
#include "storage/driver_options.h"
#include "storage/file.h"
#include "storage/open_node.h"
#include "storage/qcow2/header.h"
#include "storage/request_policy.h"

namespace vireo {

// Of a chain of backing files, and of drivers over each other.
inline constexpr int kMaxNodeDepth = 200;

inline absl::Status Invalid(const std::string& text) { return absl::InvalidArgumentError(text); }

// --- What every driver goes by (open_node.cc) ---

bool IsKnownDriver(const std::string& driver);
absl::Status UnknownDriver(const std::string& driver);
// What is left over when a driver has taken what it knows.
absl::Status CheckAllTaken(const std::string& driver, const DriverOptions& options);
// Options that every node has.
absl::Status TakeCommon(DriverOptions& options, NodeSettings* settings,
                        RequestPolicy::Options* policy);

class NodeOpener {
 public:
  NodeOpener(EventLoop& loop, Opener& opener) : loop_(loop), opener_(opener) {}

  // A node as a disk. `depth` counts what is above it.
  Task<absl::StatusOr<BlockNode>> OpenDisk(DriverOptions options, NodeSettings settings, int depth);

  Blkdebug* blkdebug() const { return blkdebug_; }

 private:
  // A node as the file of the one above.
  Task<absl::StatusOr<std::unique_ptr<File>>> OpenFile(DriverOptions options, NodeSettings settings,
                                                       int depth);
  Task<absl::StatusOr<std::unique_ptr<File>>> OpenHostFile(std::string driver,
                                                           DriverOptions options,
                                                           NodeSettings settings);
  absl::StatusOr<std::unique_ptr<File>> OpenNull(const std::string& driver, DriverOptions& options);
  Task<absl::StatusOr<std::unique_ptr<File>>> OpenBlkdebug(DriverOptions options,
                                                           NodeSettings settings, int depth);
  // The node below `key` ("file" or "image").
  Task<absl::StatusOr<std::unique_ptr<File>>> OpenChild(DriverOptions* options, std::string key,
                                                        NodeSettings settings, int depth);
  Task<absl::StatusOr<BlockNode>> OpenQcow2(std::unique_ptr<File> file, DriverOptions options,
                                            NodeSettings settings, int depth);
  Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> OpenBacking(const qcow2::Header* header,
                                                                  std::string image_path,
                                                                  BackingOptions backing,
                                                                  NodeSettings settings, int depth);
  Task<absl::StatusOr<std::string>> ReadSmallFile(std::string path);

  EventLoop& loop_;
  Opener& opener_;
  std::set<FileIdentity> chain_;  // Of images above a backing file.
  Blkdebug* blkdebug_ = nullptr;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_NODE_OPENER_H_
