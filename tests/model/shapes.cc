#include "tests/model/shapes.h"

namespace vireo {

std::vector<DiskShape> AllShapes() {
  constexpr uint64_t kKiB = 1024;
  constexpr uint64_t kMiB = 1024 * kKiB;
  using Backing = DiskShape::Backing;
  return {
      {.name = "Default", .options = {}, .disk_bytes = 2 * kMiB},
      {.name = "Version2", .options = {.version = 2}, .disk_bytes = 2 * kMiB},
      {.name = "Clusters512", .options = {.cluster_bits = 9}, .disk_bytes = 256 * kKiB},
      {.name = "Clusters512Refcounts64",
       .options = {.cluster_bits = 9, .refcount_order = 6},
       .disk_bytes = 512 * kKiB},
      {.name = "Clusters1KRefcounts2",
       .options = {.cluster_bits = 10, .refcount_order = 1},
       .disk_bytes = 512 * kKiB},
      {.name = "Clusters4KRefcounts1", .options = {.cluster_bits = 12, .refcount_order = 0}},
      {.name = "Clusters8KRefcounts4", .options = {.cluster_bits = 13, .refcount_order = 2}},
      {.name = "Clusters32KRefcounts8", .options = {.cluster_bits = 15, .refcount_order = 3}},
      {.name = "Clusters256KRefcounts32",
       .options = {.cluster_bits = 18, .refcount_order = 5},
       .disk_bytes = 3 * kMiB,
       .cost = 2},
      {.name = "Clusters2M", .options = {.cluster_bits = 21}, .disk_bytes = 6 * kMiB, .cost = 5},
      {.name = "OddSize",
       .options = {.cluster_bits = 14},
       .disk_bytes = kMiB + 3 * 512,
       .backing = Backing::kRaw,
       .backing_bytes = 2 * kMiB},
      {.name = "Overlay", .options = {}, .backing = Backing::kRaw, .backing_bytes = kMiB},
      {.name = "OverlayOfShorter",
       .options = {.cluster_bits = 14},
       .backing = Backing::kRaw,
       .backing_bytes = 300 * kKiB + 512},
      {.name = "OverlayOfQcow2",
       .options = {.cluster_bits = 12},
       .backing = Backing::kQcow2,
       .backing_bytes = kMiB},
      {.name = "OverlayOfShorterQcow2",
       .options = {},
       .backing = Backing::kQcow2,
       .backing_bytes = 700 * kKiB},
      {.name = "OverlayOfLongerQcow2",
       .options = {.cluster_bits = 9},
       .disk_bytes = 300 * kKiB,
       .backing = Backing::kQcow2,
       .backing_bytes = kMiB},
      {.name = "OverlayVersion2",
       .options = {.version = 2, .cluster_bits = 12},
       .backing = Backing::kRaw,
       .backing_bytes = 2 * kMiB},
      {.name = "Snapshot", .options = {.cluster_bits = 12}, .snapshot = true},
      {.name = "SnapshotOverlay",
       .options = {.cluster_bits = 13},
       .backing = Backing::kQcow2,
       .backing_bytes = kMiB,
       .snapshot = true},
  };
}

}  // namespace vireo
