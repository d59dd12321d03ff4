#include "tests/model/sector_history.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace vireo {

SectorHistory::SectorHistory(const std::vector<uint64_t>& tags) {
  versions_.reserve(tags.size());
  for (const uint64_t tag : tags) versions_.push_back({Version{.tag = tag}});
}

size_t SectorHistory::Begin(uint64_t sector, uint64_t tag, uint64_t moment, Effect effect) {
  versions_[sector].push_back({.tag = tag,
                               .began = moment,
                               .ended = kNever,
                               .optional = effect == Effect::kOptional,
                               .durably = false});
  return versions_[sector].size() - 1;
}

void SectorHistory::End(uint64_t sector, size_t change, uint64_t moment, bool durably) {
  versions_[sector][change].ended = moment;
  versions_[sector][change].durably = durably;
}

bool SectorHistory::AllowsRead(uint64_t sector, uint64_t tag, uint64_t began,
                               uint64_t ended) const {
  // Of the changes that were over before the read began, the one that began last: what had ended
  // before it is gone.
  uint64_t newest = 0;
  for (const Version& version : versions_[sector]) {
    if (!version.optional && version.ended <= began) newest = std::max(newest, version.began);
  }
  return std::any_of(
      versions_[sector].begin(), versions_[sector].end(), [=](const Version& version) {
        return version.tag == tag && version.began <= ended && version.ended >= newest;
      });
}

bool SectorHistory::AllowsAfterCut(uint64_t sector, uint64_t tag, uint64_t moment) const {
  uint64_t flushed = 0;
  for (const auto& [began, ended] : flushes_) {
    if (ended <= moment) flushed = std::max(flushed, began);
  }
  uint64_t newest = 0;
  for (const Version& version : versions_[sector]) {
    const bool durable = version.ended <= flushed || (version.durably && version.ended <= moment);
    if (!version.optional && durable) newest = std::max(newest, version.began);
  }
  return std::any_of(
      versions_[sector].begin(), versions_[sector].end(), [=](const Version& version) {
        return version.tag == tag && version.began <= moment && version.ended >= newest;
      });
}

bool SectorHistory::HasBegun(uint64_t sector, uint64_t moment) const {
  // The first version is what there was.
  const std::vector<Version>& versions = versions_[sector];
  return versions.size() > 1 && versions[1].began <= moment;
}

std::string SectorHistory::Describe(uint64_t sector) const {
  std::string text;
  for (const Version& version : versions_[sector]) {
    absl::StrAppendFormat(&text, " %x[%d,%s%s%s]", version.tag, version.began,
                          version.ended == kNever ? "-" : std::to_string(version.ended),
                          version.optional ? " optional" : "", version.durably ? " durable" : "");
  }
  return text;
}

}  // namespace vireo
