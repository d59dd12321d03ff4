#include "storage/qcow2/chain_map.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace vireo::qcow2 {
namespace {

constexpr uint8_t kWhole = 0x80;

}  // namespace

ChainMap::ChainMap(uint32_t cluster_bits, std::shared_ptr<CacheBudget> budget)
    : cluster_bits_(cluster_bits), budget_(std::move(budget)) {}

ChainMap::~ChainMap() {
  for (const auto& [index, unit] : units_) budget_->Leave(unit.get());
}

std::optional<ChainMap::Answer> ChainMap::Find(uint64_t guest_offset) {
  const uint64_t cluster = guest_offset >> cluster_bits_;
  const auto found = units_.find(cluster >> kUnitBits);
  if (found == units_.end()) return std::nullopt;
  Unit& unit = *found->second;
  const uint8_t answer = unit.answers.get()[cluster & ((1 << kUnitBits) - 1)];
  if (answer == 0) return std::nullopt;
  unit.used = true;
  return Answer{.layers = (answer & ~kWhole) - uint32_t{1}, .whole = (answer & kWhole) != 0};
}

void ChainMap::Learn(uint64_t guest_offset, Answer answer) {
  constexpr size_t kUnitBytes = size_t{1} << kUnitBits;
  const uint64_t cluster = guest_offset >> cluster_bits_;
  auto found = units_.find(cluster >> kUnitBits);
  if (found == units_.end()) {
    budget_->MakeRoom(kUnitBytes);  // May cost us units, but not one that we have in hand.
    auto unit = std::make_unique<Unit>();
    unit->owner = this;
    unit->index = cluster >> kUnitBits;
    unit->answers = budget_->Slabs(kUnitBytes).Take();
    std::memset(unit->answers.get(), 0, kUnitBytes);
    budget_->Enter(unit.get());
    found = units_.emplace(unit->index, std::move(unit)).first;
  }
  if (answer.layers > kMostLayers) answer = {.layers = kMostLayers, .whole = false};
  found->second->answers.get()[cluster & (kUnitBytes - 1)] =
      static_cast<uint8_t>((answer.layers + 1) | (answer.whole ? kWhole : 0));
}

void ChainMap::Evict(CacheBudget::Member* member) {
  budget_->Leave(member);
  units_.erase(static_cast<Unit*>(member)->index);
}

}  // namespace vireo::qcow2
