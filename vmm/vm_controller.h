// The interface that the API talks to: everything that can be asked of one virtual machine.
// Implemented by LocalVmController; faked in tests. All calls may be made from any thread.
//
// A call that changes the machine is queued on the control loop and reports through its callback,
// exactly once, on the control loop's thread; callbacks must not block. Describe and Stats return
// at once from a published snapshot and never wait for an io loop, so a dead disk never hangs an
// answer.
#ifndef VIREO_VMM_VM_CONTROLLER_H_
#define VIREO_VMM_VM_CONTROLLER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/vm_config.h"

namespace vireo {

//   kEmpty --Create--> kCreated --Boot--> kRunning <--Pause/Resume--> kPaused
//   kRunning/kPaused --power off, Stop, crash--> kStopped (final for this process)
enum class VmState { kEmpty, kCreated, kRunning, kPaused, kStopped };

// Why a machine stopped or was reset.
enum class VmCause {
  kNone,
  kGuestPowerOff,  // ACPI S5.
  kGuestReset,     // i8042, port 0xcf9.
  kTripleFault,
  kGuestPanic,      // pvpanic.
  kStopRequested,   // Stop().
  kResetRequested,  // Reset().
  kInternalError,   // KVM gave up on a vCPU, or the host failed.
  kDiskError,       // The host failed a request, and the disk's policy is to stop.
  kDiskStalled,     // A disk does not answer, and its policy is to pause.
};

struct DeviceDescription {
  std::string id;             // As configured.
  std::string kind;           // "virtio-blk", "virtio-net", "virtio-rng", ...
  std::string pci_address;    // "0000:00:03.0".
  bool driver_ready = false;  // The guest's driver has set DRIVER_OK.
};

struct DiskDescription {
  DeviceDescription device;
  uint64_t size_bytes = 0;
  std::string path;
  std::string format;
  bool read_only = false;
};

struct CdromDescription {
  std::string id;
  std::string path;  // Of the medium that is in now; empty: none.
};

struct NicDescription {
  DeviceDescription device;
  std::string tap;
  std::string bridge;
  std::string mac;
  uint16_t mtu = 0;
  bool link_up = false;
};

struct VmDescription {
  VmState state = VmState::kEmpty;
  VmCause last_cause = VmCause::kNone;
  std::string last_cause_detail;  // A sentence for people; empty when there is nothing to say.
  VmConfig config;                // Completed: uuid, ids, MAC addresses filled in.
  std::string machine;
  std::string cpu_model;
  uint32_t pid = 0;
  uint64_t resets = 0;
  int64_t started_unix_ms = 0;             // 0 before Boot.
  std::string kvm_kind;                    // "hardware" or "pvm".
  std::vector<DeviceDescription> devices;  // All PCI devices, disks and NICs too.
  std::vector<DiskDescription> disks;
  std::vector<CdromDescription> cdroms;
  std::vector<NicDescription> nics;
};

struct VcpuStats {
  uint32_t index = 0;
  uint64_t cpu_time_ns = 0;  // Of the vCPU thread, guest time included.
  uint64_t exits = 0;        // Returns of KVM_RUN to the VMM.
};

struct DiskStats {
  std::string id;
  uint64_t read_ops = 0, read_bytes = 0, write_ops = 0, write_bytes = 0;
  uint64_t flush_ops = 0, discard_ops = 0, errors = 0;
  uint64_t throttled_ops = 0;  // Requests that had to wait for their turn.
};

struct NicStats {
  std::string id;
  uint64_t rx_packets = 0, rx_bytes = 0, rx_dropped = 0;
  uint64_t tx_packets = 0, tx_bytes = 0, tx_dropped = 0;
};

struct VmStats {
  uint64_t uptime_ms = 0;  // Since Boot.
  uint64_t process_cpu_time_ns = 0;
  uint64_t resident_bytes = 0;  // Of the process, touched guest memory included.
  uint64_t guest_memory_bytes = 0;
  std::vector<VcpuStats> vcpus;
  std::vector<DiskStats> disks;
  std::vector<NicStats> nics;
};

enum class VmEventKind {
  kStateChanged,
  kReset,  // The machine was reset; `cause` says why.
  kGuestPanicked,
  kCrashed,            // Triple fault, panic or internal error; `cause` says which.
  kShutdownRequested,  // The power button was pressed for the guest.
  kDeviceNeedsReset,
  kDiskError,      // The machine is paused for it; Resume tries again.
  kDiskStalled,    // A request waits for the host; the machine is paused for it if so configured.
  kDiskAnswers,    // No request waits any more.
  kMediumEjected,  // By the guest, from a CD/DVD drive.
};

enum class EjectMode {
  kAsk,    // A guest that holds the tray is shown a request, and the medium stays.
  kForce,  // The medium is pulled out, whatever the guest thinks of it.
};

// A request that the host failed.
struct DiskError {
  std::string disk;  // The disk's id.
  std::string path;  // Of its image.
  bool write = false;
  uint64_t offset = 0;    // Bytes, on the disk.
  int host_errno = 0;     // 0: the image itself is at fault.
  bool no_space = false;  // The host is full.
  std::string message;
};

// A disk whose host does not answer, or does so again.
struct DiskStall {
  std::string disk;  // The disk's id.
  std::string path;  // Of its image.
  // Of the oldest request; not set when the disk answers.
  bool write = false;
  uint64_t offset = 0;   // Bytes, on the disk; 0 for a flush.
  uint32_t seconds = 0;  // At least so long without an answer.
};

struct VmEvent {
  uint64_t sequence = 0;  // Starts at 1, no gaps: a watcher knows what it missed.
  int64_t unix_ms = 0;
  VmEventKind kind = VmEventKind::kStateChanged;
  VmState state = VmState::kEmpty;  // After the event.
  VmCause cause = VmCause::kNone;
  std::string detail;
  std::optional<DiskError> disk_error;  // Of kDiskError.
  std::optional<DiskStall> disk_stall;  // Of kDiskStalled and kDiskAnswers.
};

// What a reader of the console or of events gets. Called on a thread of the machine, in order,
// never concurrently with itself; must not block and must not call back into the controller.
class ConsoleReader {
 public:
  virtual ~ConsoleReader() = default;
  virtual void OnOutput(std::string_view bytes) = 0;
  // There may be room for input again, after WriteConsole() took less than it was offered.
  virtual void OnInputRoom() {}
  virtual void OnClosed() = 0;  // The machine is gone; the last call.
};

class EventWatcher {
 public:
  virtual ~EventWatcher() = default;
  virtual void OnEvent(const VmEvent& event) = 0;
  virtual void OnClosed() = 0;
};

class VmController {
 public:
  using Done = absl::AnyInvocable<void(absl::Status)>;

  virtual ~VmController() = default;

  // Checks the configuration, opens every file and builds the machine; no guest instruction runs
  // yet. INVALID_ARGUMENT, NOT_FOUND, ... naming the field; FAILED_PRECONDITION when there is a
  // machine already (OK when it was created from an equal configuration: a retry).
  virtual void Create(VmConfig config, Done done) = 0;
  // FAILED_PRECONDITION unless created; OK when already running.
  virtual void Boot(Done done) = 0;
  // Returns once all vCPUs are out of the guest and all devices quiesced. OK when already paused.
  virtual void Pause(Done done) = 0;
  virtual void Resume(Done done) = 0;
  // Presses the power button; OK says that it was pressed, WatchEvents tells the rest.
  virtual void Shutdown(Done done) = 0;
  virtual void Reset(Done done) = 0;
  // Ends the machine at once: guest caches are lost, images are closed in order. OK when already
  // stopped. DEADLINE_EXCEEDED naming what hangs, when draining did not end in time; the process
  // then exits.
  virtual void Stop(Done done) = 0;

  // New limits for a disk and those that share its group, whose name stays. NOT_FOUND when there is
  // no such disk; INVALID_ARGUMENT.
  virtual void SetDiskThrottle(std::string disk, DiskThrottle throttle, Done done) = 0;

  // Takes out what is in a CD/DVD drive, if anything is, and puts the image `path` in; empty: only
  // the former. NOT_FOUND when there is no such drive, or no such file (nothing has changed then);
  // FAILED_PRECONDITION when the guest holds the tray (and `mode` is to ask), or there is nothing
  // to take out or to put in; DEADLINE_EXCEEDED when the host does not answer: it may still happen.
  virtual void SetMedium(std::string cdrom, std::string path, EjectMode mode, Done done) = 0;

  virtual VmDescription Describe() const = 0;
  virtual VmStats Stats() const = 0;

  // First the kept history (as much of it as the ring buffer holds), then all that follows.
  // Detaching: drop the shared_ptr after RemoveConsoleReader(), which returns when no call is
  // running.
  virtual void AddConsoleReader(std::shared_ptr<ConsoleReader> reader) = 0;
  virtual void RemoveConsoleReader(const ConsoleReader* reader) = 0;
  // Queues input for the serial port. Returns how many bytes were taken: the rest did not fit (64
  // KiB are kept); offer it again when every reader hears OnInputRoom().
  virtual size_t WriteConsole(std::string_view bytes) = 0;

  // Events after `after_sequence` that are still kept (the last 256), then all that follow.
  virtual void AddEventWatcher(std::shared_ptr<EventWatcher> watcher, uint64_t after_sequence) = 0;
  virtual void RemoveEventWatcher(const EventWatcher* watcher) = 0;
};

}  // namespace vireo

#endif  // VIREO_VMM_VM_CONTROLLER_H_
