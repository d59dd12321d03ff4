#include "storage/qcow2/slice_slabs.h"

#include <bit>

#include "absl/status/statusor.h"
#include "base/check.h"

namespace vireo::qcow2 {

SliceSlabs::~SliceSlabs() { VIREO_CHECK(used_ == 0, "slabs outlive the slices in them"); }

SliceSlabs::Slab* SliceSlabs::AddSlab() {
  // Mapped, not from the heap: its pages go back to the host whatever lies around it. A multiple of
  // the page size also for the smallest slices, of 512 bytes.
  absl::StatusOr<MappedRegion> memory = MappedRegion::Anonymous(kPlaces * slice_bytes_);
  VIREO_CHECK(memory.ok(), "out of memory");
  slabs_.push_back(std::make_unique<Slab>(Slab{.owner = this,
                                               .memory = *std::move(memory),
                                               .free_places = ~uint64_t{0},
                                               .index = slabs_.size(),
                                               .room_index = 0}));
  ++empty_;
  EnterRoom(slabs_.back().get());
  return slabs_.back().get();
}

SliceSlabs::Place SliceSlabs::Take() {
  Slab* const slab = with_room_.empty() ? AddSlab() : with_room_.back();
  if (slab->free_places == ~uint64_t{0}) --empty_;
  const size_t place = static_cast<size_t>(std::countr_zero(slab->free_places));
  slab->free_places &= slab->free_places - 1;
  if (slab->free_places == 0) LeaveRoom(slab);
  ++used_;
  return Place(slab, slab->memory.bytes().data() + place * slice_bytes_);
}

void SliceSlabs::GiveBack(Slab* slab, uint8_t* bytes) {
  const size_t place = static_cast<size_t>(bytes - slab->memory.bytes().data()) / slice_bytes_;
  if (slab->free_places == 0) EnterRoom(slab);
  slab->free_places |= uint64_t{1} << place;
  --used_;
  if (slab->free_places != ~uint64_t{0}) return;
  if (empty_ == 0) {
    ++empty_;
  } else {
    Drop(slab);
  }
}

void SliceSlabs::EnterRoom(Slab* slab) {
  slab->room_index = with_room_.size();
  with_room_.push_back(slab);
}

void SliceSlabs::LeaveRoom(Slab* slab) {
  with_room_.back()->room_index = slab->room_index;
  with_room_[slab->room_index] = with_room_.back();
  with_room_.pop_back();
}

void SliceSlabs::Drop(Slab* slab) {
  LeaveRoom(slab);
  const size_t index = slab->index;
  slabs_.back()->index = index;
  std::swap(slabs_[index], slabs_.back());
  slabs_.pop_back();
}

}  // namespace vireo::qcow2
