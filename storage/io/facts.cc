// Commands that tell about the open disk.

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "base/align.h"
#include "base/status.h"
#include "storage/io/commands.h"
#include "storage/io/words.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header.h"

namespace vireo::io {
namespace {

struct Stretch {
  bool allocated = false;
  uint64_t length = 0;
};

// What of [offset, offset + length), in whole blocks, the top layer says first.
absl::StatusOr<Stretch> AllocatedAt(Session& session, uint64_t offset, uint64_t length) {
  const uint64_t block = session.disk().geometry().block_size;
  const uint64_t first = AlignDown<uint64_t>(offset, block);
  const uint64_t last = AlignUp<uint64_t>(offset + length, block);
  ASSIGN_OR_RETURN(const RangeStatus status,
                   session.loop().RunTask(session.disk().Status(first, last - first)));
  return Stretch{.allocated = status.present && status.depth == 0,
                 .length = std::min(status.length - (offset - first), length)};
}

}  // namespace

Result Alloc(Session& session, const Command& /*command*/, const std::vector<std::string>& words) {
  const absl::StatusOr<int64_t> start = ParseNumber(words[1]);
  if (!start.ok()) {
    session.Print("%s\n", std::string(start.status().message()));
    return Result::kFailed;
  }
  int64_t count = 512;
  if (words.size() == 3) {
    const absl::StatusOr<int64_t> wanted = ParseNumber(words[2]);
    if (!wanted.ok()) {
      session.Print("%s\n", std::string(wanted.status().message()));
      return Result::kFailed;
    }
    count = *wanted;
  }
  const uint64_t size = session.bytes().size();
  uint64_t offset = static_cast<uint64_t>(*start);
  uint64_t rest = static_cast<uint64_t>(count);
  uint64_t allocated = 0;
  while (rest > 0 && offset < size) {
    const absl::StatusOr<Stretch> stretch =
        AllocatedAt(session, offset, std::min(rest, size - offset));
    if (!stretch.ok()) {
      session.Print("is_allocated failed: %s\n", std::strerror(RequestErrno(stretch.status())));
      return Result::kFailed;
    }
    if (stretch->allocated) allocated += stretch->length;
    offset += stretch->length;
    rest -= stretch->length;
  }
  session.Print("%d/%d bytes allocated at offset %s\n", allocated, count,
                FormatSize(static_cast<double>(*start)));
  return Result::kOk;
}

Result Map(Session& session, const Command& /*command*/,
           const std::vector<std::string>& /*words*/) {
  const uint64_t size = session.bytes().size();
  uint64_t offset = 0;
  while (offset < size) {
    Stretch all;
    while (offset + all.length < size) {  // Neighbours of one kind make one line.
      const uint64_t at = offset + all.length;
      const absl::StatusOr<Stretch> next = AllocatedAt(session, at, size - at);
      if (!next.ok()) {
        session.Error("Failed to get allocation status: %s",
                      std::strerror(RequestErrno(next.status())));
        return Result::kFailed;
      }
      if (all.length != 0 && next->allocated != all.allocated) break;
      all.allocated = next->allocated;
      all.length += next->length;
    }
    session.Print("%s (%#x) bytes %s at offset %s (%s)\n",
                  FormatSize(static_cast<double>(all.length)), all.length,
                  all.allocated ? "    allocated" : "not allocated",
                  FormatSize(static_cast<double>(offset)), absl::StrFormat("0x%x", offset));
    offset += all.length;
  }
  return Result::kOk;
}

Result Length(Session& session, const Command& /*command*/,
              const std::vector<std::string>& /*words*/) {
  session.Print("%s\n", FormatSize(static_cast<double>(session.bytes().size())));
  return Result::kOk;
}

Result Info(Session& session, const Command& /*command*/,
            const std::vector<std::string>& /*words*/) {
  const BlockNode& node = session.node();
  session.Print("format name: %s\n", node.driver);
  if (IsProtocolDriver(node.driver)) session.Print("format name: %s\n", node.driver);
  if (node.driver == "null-co" || node.driver == "null-aio") return Result::kFailed;
  if (node.image == nullptr) {
    session.Print("cluster size: 0 bytes\nvm state offset: 0 bytes\n");
    return Result::kOk;
  }
  const qcow2::Header& header = node.image->header();
  const uint64_t cluster = header.layout.cluster_bytes();
  // The state of a VM stands where the first L1 entry after the disk's points.
  const uint64_t covered = header.layout.guest_bytes_per_l2();
  const uint64_t vm_state = DivideRoundUp<uint64_t>(header.size_bytes, covered) * covered;
  session.Print("cluster size: %s\nvm state offset: %s\n", FormatSize(static_cast<double>(cluster)),
                FormatSize(static_cast<double>(vm_state)));
  const auto yes = [](bool value) { return value ? "true" : "false"; };
  const bool version3 = header.layout.version >= 3;
  session.Print("Format specific information:\n    compat: %s\n    compression type: %s\n",
                version3 ? "1.1" : "0.10", header.compression_type == 1 ? "zstd" : "zlib");
  if (version3) {
    session.Print("    lazy refcounts: %s\n",
                  yes((header.compatible & qcow2::kCompatibleLazyRefcounts) != 0));
  }
  session.Print("    refcount bits: %d\n", header.layout.refcount_bits());
  if (header.data_file.has_value()) {
    session.Print("    data file: %s\n    data file raw: %s\n", *header.data_file,
                  yes((header.autoclear & qcow2::kAutoclearRawDataFile) != 0));
  }
  if (version3) {
    session.Print("    corrupt: %s\n    extended l2: %s\n", yes(header.corrupt()),
                  yes((header.incompatible & qcow2::kIncompatibleExtendedL2) != 0));
  }
  return Result::kOk;
}

}  // namespace vireo::io
