// What the persistent dirty bitmaps of a disk under test may say.
//
// A bitmap that is not marked in use has every sector that has changed since the bitmap was made,
// and no granule that nobody wrote to, whatever happened to the host. One that was found in use
// once stays so.

#ifndef VIREO_TESTS_MODEL_BITMAP_LEDGER_H_
#define VIREO_TESTS_MODEL_BITMAP_LEDGER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "storage/file.h"

namespace vireo {

struct BitmapState {
  std::string name;
  uint32_t granularity_bits = 16;
  bool enabled = true;
  bool in_use = false;
  std::vector<bool> dirty;  // By sector; empty if in use.
};

// Those of the image in `file`. DATA_LOSS if one that is not in use cannot be read.
absl::StatusOr<std::vector<BitmapState>> ReadBitmaps(EventLoop& loop, File& file);

// What may have happened to the bitmaps since they were as in `before`.
struct BitmapChanges {
  // By sector. Enabled bitmaps have what is changed, and have nothing that nobody has touched.
  std::vector<bool> changed;
  std::vector<bool> touched;
  bool may_be_in_use = false;  // One that was not before.
  // One of them was made, removed or changed, or is about to be.
  struct Edit {
    std::optional<BitmapState> from;
    std::optional<BitmapState> to;
    bool done = false;
  };
  std::optional<Edit> edit;
};

// Empty if `found` is what `before` may have become; else what is wrong.
std::string CompareBitmaps(const std::vector<BitmapState>& before,
                           const std::vector<BitmapState>& found, const BitmapChanges& changes);

}  // namespace vireo

#endif  // VIREO_TESTS_MODEL_BITMAP_LEDGER_H_
