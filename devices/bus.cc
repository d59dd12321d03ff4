#include "devices/bus.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <shared_mutex>

#include "absl/strings/str_format.h"

namespace vireo {

void Parking::Finish() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  changed_.notify_all();
}

bool Parking::done() const {
  const std::lock_guard lock(mutex_);
  return done_;
}

void Parking::Wait(absl::FunctionRef<bool()> interrupted) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_ || interrupted(); });
}

void Parking::Wake() {
  // Through the lock, so that a waiter which has just asked is asleep before it is woken.
  { const std::lock_guard lock(mutex_); }
  changed_.notify_all();
}

struct Bus::Range {
  uint64_t base;
  uint64_t size;
  BusDevice* device;
  std::atomic<uint32_t> running{0};

  // Inclusive, so that a range may end at 2^64.
  uint64_t last() const { return base + (size - 1); }
};

// One access of this thread, from lookup to the device's return. Accesses nest: a device's work may
// lead to another bus or window.
class Bus::Access {
 public:
  explicit Access(std::shared_ptr<Range> range) : range_(std::move(range)), outer_(innermost_) {
    innermost_ = this;
  }
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;
  ~Access() {
    innermost_ = outer_;
    range_->running.fetch_sub(1, std::memory_order_acq_rel);
    range_->running.notify_all();
  }

  Range& range() { return *range_; }

  // How many accesses to `range` the calling thread is inside of.
  static uint32_t CountOwn(const Range& range) {
    uint32_t count = 0;
    for (const Access* access = innermost_; access != nullptr; access = access->outer_) {
      if (access->range_.get() == &range) ++count;
    }
    return count;
  }

 private:
  std::shared_ptr<Range> range_;
  Access* outer_;
  static thread_local Access* innermost_;
};

thread_local Bus::Access* Bus::Access::innermost_ = nullptr;

Bus::Bus() = default;
Bus::~Bus() = default;

absl::Status Bus::InsertLocked(uint64_t base, uint64_t size, BusDevice& device) {
  if (size == 0 || size - 1 > std::numeric_limits<uint64_t>::max() - base) {
    return absl::InvalidArgumentError(
        absl::StrFormat("range of %#x bytes at %#x is empty or past the end", size, base));
  }
  const uint64_t last = base + (size - 1);
  // The first range that ends at or after `base` is the only one that can overlap first.
  const auto next = std::lower_bound(
      ranges_.begin(), ranges_.end(), base,
      [](const std::shared_ptr<Range>& range, uint64_t value) { return range->last() < value; });
  if (next != ranges_.end() && (*next)->base <= last) {
    return absl::AlreadyExistsError(absl::StrFormat("[%#x, %#x] overlaps [%#x, %#x]", base, last,
                                                    (*next)->base, (*next)->last()));
  }
  auto range = std::make_shared<Range>();
  range->base = base;
  range->size = size;
  range->device = &device;
  ranges_.insert(next, std::move(range));
  return absl::OkStatus();
}

std::vector<std::shared_ptr<Bus::Range>>::iterator Bus::FindStart(uint64_t base) {
  const auto at = std::lower_bound(
      ranges_.begin(), ranges_.end(), base,
      [](const std::shared_ptr<Range>& range, uint64_t value) { return range->base < value; });
  return at != ranges_.end() && (*at)->base == base ? at : ranges_.end();
}

void Bus::WithdrawLocked(std::vector<std::shared_ptr<Range>>::iterator at) {
  std::erase_if(withdrawn_,
                [](const std::shared_ptr<Range>& range) { return range->running.load() == 0; });
  // Nobody begins an access under the exclusive lock, so a count of zero stays zero.
  if ((*at)->running.load() != 0) withdrawn_.push_back(*at);
  ranges_.erase(at);
}

absl::Status Bus::Insert(uint64_t base, uint64_t size, BusDevice& device) {
  const std::unique_lock lock(mutex_);
  return InsertLocked(base, size, device);
}

absl::Status Bus::Withdraw(uint64_t base) {
  const std::unique_lock lock(mutex_);
  const auto at = FindStart(base);
  if (at == ranges_.end()) return absl::NotFoundError(absl::StrFormat("no range at %#x", base));
  WithdrawLocked(at);
  return absl::OkStatus();
}

absl::Status Bus::Move(uint64_t from, uint64_t to) {
  const std::unique_lock lock(mutex_);
  const auto at = FindStart(from);
  if (at == ranges_.end()) return absl::NotFoundError(absl::StrFormat("no range at %#x", from));
  const std::shared_ptr<Range> old = *at;
  const auto index = std::distance(ranges_.begin(), at);
  ranges_.erase(at);  // So that it may overlap its own old place.
  if (absl::Status status = InsertLocked(to, old->size, *old->device); !status.ok()) {
    ranges_.insert(ranges_.begin() + index, old);
    return status;
  }
  if (old->running.load() != 0) withdrawn_.push_back(old);
  return absl::OkStatus();
}

absl::Status Bus::Remove(uint64_t base) {
  const BusDevice* device = nullptr;
  {
    const std::unique_lock lock(mutex_);
    const auto at = FindStart(base);
    if (at == ranges_.end()) return absl::NotFoundError(absl::StrFormat("no range at %#x", base));
    device = (*at)->device;
    WithdrawLocked(at);
  }
  Drain(*device);
  return absl::OkStatus();
}

void Bus::Drain(const BusDevice& device) {
  std::vector<std::shared_ptr<Range>> draining;
  {
    const std::shared_lock lock(mutex_);
    for (const std::shared_ptr<Range>& range : withdrawn_) {
      if (range->device == &device) draining.push_back(range);
    }
  }
  for (const std::shared_ptr<Range>& range : draining) {
    const uint32_t own = Access::CountOwn(*range);
    for (uint32_t running = range->running.load(std::memory_order_acquire); running > own;
         running = range->running.load(std::memory_order_acquire)) {
      range->running.wait(running, std::memory_order_acquire);
    }
  }
}

std::shared_ptr<Bus::Range> Bus::Find(uint64_t address) const {
  const std::shared_lock lock(mutex_);
  const auto at = std::lower_bound(
      ranges_.begin(), ranges_.end(), address,
      [](const std::shared_ptr<Range>& range, uint64_t value) { return range->last() < value; });
  if (at == ranges_.end() || address < (*at)->base) return nullptr;
  (*at)->running.fetch_add(1, std::memory_order_relaxed);
  return *at;
}

bool Bus::Read(uint64_t address, std::span<uint8_t> data) const {
  std::shared_ptr<Range> found = Find(address);
  if (found == nullptr) {
    std::ranges::fill(data, uint8_t{0xff});
    return false;
  }
  Access access(std::move(found));
  const Range& range = access.range();
  const uint64_t within =
      data.empty() ? 0 : std::min<uint64_t>(data.size() - 1, range.last() - address) + 1;
  range.device->Read(address - range.base, data.first(within));
  std::ranges::fill(data.subspan(within), uint8_t{0xff});
  return true;
}

std::pair<bool, std::shared_ptr<Parking>> Bus::Write(uint64_t address,
                                                     std::span<const uint8_t> data) const {
  std::shared_ptr<Range> found = Find(address);
  if (found == nullptr) return {false, nullptr};
  Access access(std::move(found));
  const Range& range = access.range();
  const uint64_t within =
      data.empty() ? 0 : std::min<uint64_t>(data.size() - 1, range.last() - address) + 1;
  return {true, range.device->Write(address - range.base, data.first(within))};
}

}  // namespace vireo
