// Named points in the work of an image format, for tests that inject faults there or hold a request
// up (blkdebug.h). The names are those of QEMU's block drivers, which test suites are written with.
//
// A File that is interested has a DebugEvents; any other costs the engine one check for null.

#ifndef VIREO_STORAGE_DEBUG_EVENTS_H_
#define VIREO_STORAGE_DEBUG_EVENTS_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "base/async/task.h"

namespace vireo {

enum class DebugEvent : uint8_t {
  kL1Update,
  kL1GrowAllocTable,
  kL1GrowWriteTable,
  kL1GrowActivateTable,
  kL2Load,
  kL2Update,
  kL2UpdateCompressed,
  kL2AllocCowRead,
  kL2AllocWrite,
  kReadAio,
  kReadBackingAio,
  kReadCompressed,
  kWriteAio,
  kWriteCompressed,
  kVmstateLoad,
  kVmstateSave,
  kCowRead,
  kCowWrite,
  kReftableLoad,
  kReftableGrow,
  kReftableUpdate,
  kRefblockLoad,
  kRefblockUpdate,
  kRefblockUpdatePart,
  kRefblockAlloc,
  kRefblockAllocHookup,
  kRefblockAllocWrite,
  kRefblockAllocWriteBlocks,
  kRefblockAllocWriteTable,
  kRefblockAllocSwitchTable,
  kClusterAlloc,
  kClusterAllocBytes,
  kClusterFree,
  kFlushToOs,
  kFlushToDisk,
  kPwritevRmwHead,
  kPwritevRmwAfterHead,
  kPwritevRmwTail,
  kPwritevRmwAfterTail,
  kPwritev,
  kPwritevZero,
  kPwritevDone,
  kEmptyImagePrepare,
  kL1ShrinkWriteTable,
  kL1ShrinkFreeL2Clusters,
  kCorWrite,
  kClusterAllocSpace,
  kNone,  // At opening.
};

// "l1_update" and so on.
std::optional<DebugEvent> DebugEventFromName(absl::string_view name);

class DebugEvents {
 public:
  virtual ~DebugEvents() = default;

  // The engine is about to do what `event` names. Ends later if the request is to be held up.
  virtual Task<void> Reach(DebugEvent event) = 0;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_DEBUG_EVENTS_H_
