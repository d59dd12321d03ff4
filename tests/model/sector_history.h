// The flat model of a disk under test: for each sector, which contents it may hold and from when to
// when.
//
// A content is named by its tag; 0 is zeros. A write stands between the moments at which it began
// and ended, and may take effect at any moment in between, sector by sector. So a sector may hold
// whatever was written last, or, where writes ran side by side, what any of them wrote. A power cut
// may bring back any older content that was not yet flushed over; nothing older, nothing of
// another sector.

#ifndef VIREO_TESTS_MODEL_SECTOR_HISTORY_H_
#define VIREO_TESTS_MODEL_SECTOR_HISTORY_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace vireo {

class SectorHistory {
 public:
  enum class Effect {
    kSure,
    kOptional,  // A discard: may change nothing.
  };

  // What each sector holds, durably, from moment 0.
  explicit SectorHistory(const std::vector<uint64_t>& tags);

  uint64_t sectors() const { return versions_.size(); }
  // More sectors, which hold zeros since moment 0.
  void Grow(uint64_t sectors) { versions_.resize(sectors, {Version{}}); }

  // A change of `sector` begins; answers its number, for End().
  size_t Begin(uint64_t sector, uint64_t tag, uint64_t moment, Effect effect = Effect::kSure);
  // It has ended; `durably` (FUA) says that no flush is needed. A change that fails never ends.
  void End(uint64_t sector, size_t change, uint64_t moment, bool durably = false);
  void Flushed(uint64_t began, uint64_t ended) { flushes_.emplace_back(began, ended); }

  // Whether a read between the two moments may answer `tag`.
  bool AllowsRead(uint64_t sector, uint64_t tag, uint64_t began, uint64_t ended) const;
  // Whether the sector may hold `tag` after the power went at `moment`.
  bool AllowsAfterCut(uint64_t sector, uint64_t tag, uint64_t moment) const;

  // Whether a change of the sector, whatever became of it, had begun by `moment`.
  bool HasBegun(uint64_t sector, uint64_t moment) const;

  // All that a failure message needs.
  std::string Describe(uint64_t sector) const;

 private:
  static constexpr uint64_t kNever = ~uint64_t{0};

  struct Version {
    uint64_t tag = 0;
    uint64_t began = 0;
    uint64_t ended = 0;
    bool optional = false;
    bool durably = true;
  };

  std::vector<std::vector<Version>> versions_;
  std::vector<std::pair<uint64_t, uint64_t>> flushes_;  // In the order in which they ended.
};

}  // namespace vireo

#endif  // VIREO_TESTS_MODEL_SECTOR_HISTORY_H_
