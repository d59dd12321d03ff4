// What every device and bus can do besides its work, so that a VM can be paused, reset,
// snapshotted, moved to another host and taken over by a newer program.
//
//   running --Quiesce()--> quiet --Resume()--> running
//   quiet: Save(); Reset(); Restore() into an object just constructed with the same options
//
// vCPUs are stopped whenever a device is quiet. All calls come on the device's loop.

#ifndef VIREO_DEVICES_LIFECYCLE_H_
#define VIREO_DEVICES_LIFECYCLE_H_

#include "absl/status/status.h"
#include "base/async/task.h"
#include "base/state.h"

namespace vireo {

class Lifecycle {
 public:
  virtual ~Lifecycle() = default;

  // Ends when the device holds no request, touches no guest memory and raises no interrupt;
  // positions in rings and everything else that the guest can see stays as it is. A quiet device
  // may be quiesced again.
  virtual Task<void> Quiesce() = 0;

  // The device goes on where Quiesce() left it. A Quiesce() that has not ended yet, because a
  // request does not, ends without effect.
  virtual void Resume() = 0;

  // Drains as Quiesce() does, then puts the device into its power-on state with its interrupt lines
  // idle. It is quiet or running after as it was before.
  virtual Task<void> Reset() = 0;

  // All that the guest can see, or that its requests depend on. Called when quiet.
  virtual EncodedState Save() const = 0;

  // Takes over what Save() gave. Called when quiet, on an object constructed with the same options.
  // INVALID_ARGUMENT when the state is of another type, version or configuration, DATA_LOSS when it
  // contradicts itself; the device is then good for Reset() or destruction only.
  virtual absl::Status Restore(const EncodedState& state) = 0;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_LIFECYCLE_H_
