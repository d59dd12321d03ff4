// Where UEFI firmware's variables are kept: a file of its flash's size, mapped, so that what the
// guest programs is in the file at once, and survives the process. One machine has it at a time.
#ifndef VIREO_VMM_VARIABLE_STORE_H_
#define VIREO_VMM_VARIABLE_STORE_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "base/mapped_region.h"
#include "base/opener.h"
#include "base/unique_fd.h"

namespace vireo {

class VariableStore {
 public:
  // The file `path`, locked; what is absent or empty begins as a copy of `initial`, unless that is
  // empty. INVALID_ARGUMENT for a file of another size than `initial`, of an impossible one, or
  // that holds no variables; ABORTED when another machine has it.
  static absl::StatusOr<VariableStore> Open(Opener& opener, const std::string& path,
                                            std::span<const uint8_t> initial);
  // A copy of `initial` that is gone with the process.
  static absl::StatusOr<VariableStore> InMemory(std::span<const uint8_t> initial);

  VariableStore(VariableStore&&) = default;
  VariableStore& operator=(VariableStore&&) = default;
  // What was written is on the disk before the file is given up.
  ~VariableStore();

  std::span<uint8_t> contents() const { return contents_.bytes(); }

 private:
  VariableStore(UniqueFd fd, MappedRegion contents)
      : fd_(std::move(fd)), contents_(std::move(contents)) {}

  UniqueFd fd_;  // Not valid when it is in memory only. Holds the lock.
  MappedRegion contents_;
};

}  // namespace vireo

#endif  // VIREO_VMM_VARIABLE_STORE_H_
