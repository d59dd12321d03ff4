// Memory for slices of one size, cut from larger pieces ("slabs").
//
// Slices that are allocated one by one at multiples of their size cost twice what they hold: the
// heap's own words lie between them and take a page each. A slab is taken when a slice wants a
// place and none is free, its pages cost memory when first written to, and it is given back to the
// host when its last slice goes; one empty slab is kept for the next slice.
//
// Owned by one loop.

#ifndef VIREO_STORAGE_QCOW2_SLICE_SLABS_H_
#define VIREO_STORAGE_QCOW2_SLICE_SLABS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/mapped_region.h"

namespace vireo::qcow2 {

class SliceSlabs {
 private:
  struct Slab {
    SliceSlabs* owner;
    MappedRegion memory;
    uint64_t free_places;  // A bit for each.
    size_t index;          // In slabs_.
    size_t room_index;     // In with_room_, if a place is free.
  };

 public:
  // A place for one slice, given back when it ends. Outlived by the slabs.
  class Place {
   public:
    Place() = default;
    Place(Place&& other) noexcept
        : slab_(std::exchange(other.slab_, nullptr)),
          bytes_(std::exchange(other.bytes_, nullptr)) {}
    Place& operator=(Place&& other) noexcept {
      std::swap(slab_, other.slab_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Place() { Release(); }

    uint8_t* get() const { return bytes_; }
    bool valid() const { return bytes_ != nullptr; }
    void Release() {
      if (slab_ != nullptr) slab_->owner->GiveBack(slab_, bytes_);
      slab_ = nullptr;
      bytes_ = nullptr;
    }

   private:
    friend class SliceSlabs;
    Place(Slab* slab, uint8_t* bytes) : slab_(slab), bytes_(bytes) {}

    Slab* slab_ = nullptr;
    uint8_t* bytes_ = nullptr;
  };

  // A power of two.
  explicit SliceSlabs(size_t slice_bytes) : slice_bytes_(slice_bytes) {}
  // CHECKs that every place has been given back.
  ~SliceSlabs();
  SliceSlabs(const SliceSlabs&) = delete;
  SliceSlabs& operator=(const SliceSlabs&) = delete;

  // At a multiple of the slice size; what it holds is undefined.
  Place Take();

  // Of places that are taken.
  uint64_t used_bytes() const { return used_ * slice_bytes_; }
  // Of slabs, whether their places are taken or not.
  uint64_t slab_bytes() const { return slabs_.size() * kPlaces * slice_bytes_; }

 private:
  static constexpr size_t kPlaces = 64;

  Slab* AddSlab();
  void GiveBack(Slab* slab, uint8_t* bytes);
  void EnterRoom(Slab* slab);
  void LeaveRoom(Slab* slab);
  void Drop(Slab* slab);

  const size_t slice_bytes_;
  size_t used_ = 0;
  size_t empty_ = 0;  // Slabs.
  std::vector<std::unique_ptr<Slab>> slabs_;
  std::vector<Slab*> with_room_;  // The next place comes from the last one.
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_SLICE_SLABS_H_
