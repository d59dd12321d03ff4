// Which layer of a chain of backing files a cluster is to be read from.
//
// The layers beneath the one that is written never change while they are open. So that of the
// topmost of them that hold nothing of a cluster need be found only once: from then on a deep chain
// costs as much as one of two layers, and the L2 slices of the layers passed by need not stay in
// memory. The answers take part in the budget of the metadata (cache_budget.h) and are forgotten
// when others need the room.
//
// Owned by one loop.

#ifndef VIREO_STORAGE_QCOW2_CHAIN_MAP_H_
#define VIREO_STORAGE_QCOW2_CHAIN_MAP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "storage/qcow2/cache_budget.h"
#include "storage/qcow2/slice_slabs.h"

namespace vireo::qcow2 {

class ChainMap final : private CacheBudget::Owner {
 public:
  // More layers than this are not passed by at once.
  static constexpr uint32_t kMostLayers = 126;

  struct Answer {
    uint32_t layers = 0;  // That hold nothing of the cluster, from the first one down.
    // Whether the next one answers for the cluster as a whole. Otherwise parts of the cluster may
    // be further down.
    bool whole = false;
  };

  ChainMap(uint32_t cluster_bits, std::shared_ptr<CacheBudget> budget);
  ~ChainMap();
  ChainMap(const ChainMap&) = delete;
  ChainMap& operator=(const ChainMap&) = delete;

  // About the cluster that `guest_offset` is in, if it has been learnt.
  std::optional<Answer> Find(uint64_t guest_offset);
  void Learn(uint64_t guest_offset, Answer answer);

 private:
  static constexpr uint32_t kUnitBits = 9;

  // The answers for neighbouring clusters, a byte each: 0 is none.
  struct Unit : CacheBudget::Member {
    uint64_t index;
    SliceSlabs::Place answers;
  };
  static_assert(sizeof(Unit) + 48 <= CacheBudget::kOverhead);

  // From the budget.
  void Evict(CacheBudget::Member* member) override;

  const uint32_t cluster_bits_;
  const std::shared_ptr<CacheBudget> budget_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Unit>> units_;  // By index.
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CHAIN_MAP_H_
