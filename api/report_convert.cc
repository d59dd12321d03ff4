#include "api/report_convert.h"

#include <google/protobuf/util/time_util.h>

#include "api/config_convert.h"
#include "api/proto_values.h"

namespace vireo::api {
namespace {

using google::protobuf::util::TimeUtil;

constexpr EnumPair<v1::VmState, VmState> kStates[] = {{v1::EMPTY, VmState::kEmpty},
                                                      {v1::CREATED, VmState::kCreated},
                                                      {v1::RUNNING, VmState::kRunning},
                                                      {v1::PAUSED, VmState::kPaused},
                                                      {v1::STOPPED, VmState::kStopped}};
constexpr EnumPair<v1::VmCause, VmCause> kCauses[] = {
    {v1::VM_CAUSE_UNSPECIFIED, VmCause::kNone},      {v1::GUEST_POWER_OFF, VmCause::kGuestPowerOff},
    {v1::GUEST_RESET, VmCause::kGuestReset},         {v1::TRIPLE_FAULT, VmCause::kTripleFault},
    {v1::GUEST_PANIC, VmCause::kGuestPanic},         {v1::STOP_REQUESTED, VmCause::kStopRequested},
    {v1::RESET_REQUESTED, VmCause::kResetRequested}, {v1::INTERNAL_ERROR, VmCause::kInternalError},
    {v1::DISK_ERROR, VmCause::kDiskError},           {v1::DISK_STALL, VmCause::kDiskStalled}};
constexpr EnumPair<v1::Event::Kind, VmEventKind> kEventKinds[] = {
    {v1::Event::STATE_CHANGED, VmEventKind::kStateChanged},
    {v1::Event::MACHINE_RESET, VmEventKind::kReset},
    {v1::Event::GUEST_PANICKED, VmEventKind::kGuestPanicked},
    {v1::Event::CRASHED, VmEventKind::kCrashed},
    {v1::Event::SHUTDOWN_REQUESTED, VmEventKind::kShutdownRequested},
    {v1::Event::DEVICE_NEEDS_RESET, VmEventKind::kDeviceNeedsReset},
    {v1::Event::MEDIUM_EJECTED, VmEventKind::kMediumEjected},
    {v1::Event::DISK_FAILED, VmEventKind::kDiskError},
    {v1::Event::DISK_STALLED, VmEventKind::kDiskStalled},
    {v1::Event::DISK_ANSWERS, VmEventKind::kDiskAnswers}};

v1::Device* DeviceToProto(const DeviceDescription& device, v1::Device* message) {
  message->set_id(Utf8(device.id));
  message->set_kind(Utf8(device.kind));
  message->set_pci_address(Utf8(device.pci_address));
  message->set_driver_ready(device.driver_ready);
  return message;
}

}  // namespace

v1::VmState StateToProto(VmState state) {
  return ToProto(kStates, state, v1::VM_STATE_UNSPECIFIED);
}

v1::VmCause CauseToProto(VmCause cause) {
  return ToProto(kCauses, cause, v1::VM_CAUSE_UNSPECIFIED);
}

v1::VmDescription DescriptionToProto(const VmDescription& description) {
  v1::VmDescription message;
  message.set_state(StateToProto(description.state));
  message.set_last_cause(CauseToProto(description.last_cause));
  message.set_last_cause_detail(Utf8(description.last_cause_detail));
  if (description.state != VmState::kEmpty) {
    *message.mutable_config() = ConfigToProto(description.config);
  }
  message.set_machine(Utf8(description.machine));
  message.set_cpu_model(Utf8(description.cpu_model));
  message.set_pid(description.pid);
  message.set_resets(description.resets);
  if (description.started_unix_ms != 0) {
    *message.mutable_started() = TimeUtil::MillisecondsToTimestamp(description.started_unix_ms);
  }
  message.set_kvm_kind(Utf8(description.kvm_kind));
  for (const DeviceDescription& device : description.devices) {
    DeviceToProto(device, message.add_devices());
  }
  for (const DiskDescription& disk : description.disks) {
    v1::DiskDescription& to = *message.add_disks();
    DeviceToProto(disk.device, to.mutable_device());
    to.set_size_bytes(disk.size_bytes);
    to.set_path(Utf8(disk.path));
    to.set_format(Utf8(disk.format));
    to.set_read_only(disk.read_only);
  }
  for (const CdromDescription& cdrom : description.cdroms) {
    v1::CdromDescription& to = *message.add_cdroms();
    to.set_id(Utf8(cdrom.id));
    to.set_path(Utf8(cdrom.path));
  }
  for (const NicDescription& nic : description.nics) {
    v1::NicDescription& to = *message.add_nics();
    DeviceToProto(nic.device, to.mutable_device());
    to.set_tap(Utf8(nic.tap));
    to.set_bridge(Utf8(nic.bridge));
    to.set_mac(Utf8(nic.mac));
    to.set_mtu(nic.mtu);
    to.set_link_up(nic.link_up);
  }
  return message;
}

v1::VmStats StatsToProto(const VmStats& stats) {
  v1::VmStats message;
  *message.mutable_uptime() =
      TimeUtil::MillisecondsToDuration(static_cast<int64_t>(stats.uptime_ms));
  message.set_process_cpu_time_ns(stats.process_cpu_time_ns);
  message.set_resident_bytes(stats.resident_bytes);
  message.set_guest_memory_bytes(stats.guest_memory_bytes);
  for (const VcpuStats& vcpu : stats.vcpus) {
    v1::VcpuStats& to = *message.add_vcpus();
    to.set_index(vcpu.index);
    to.set_cpu_time_ns(vcpu.cpu_time_ns);
    to.set_exits(vcpu.exits);
  }
  for (const DiskStats& disk : stats.disks) {
    v1::DiskStats& to = *message.add_disks();
    to.set_id(Utf8(disk.id));
    to.set_read_ops(disk.read_ops);
    to.set_read_bytes(disk.read_bytes);
    to.set_write_ops(disk.write_ops);
    to.set_write_bytes(disk.write_bytes);
    to.set_flush_ops(disk.flush_ops);
    to.set_discard_ops(disk.discard_ops);
    to.set_errors(disk.errors);
    to.set_throttled_ops(disk.throttled_ops);
  }
  for (const NicStats& nic : stats.nics) {
    v1::NicStats& to = *message.add_nics();
    to.set_id(Utf8(nic.id));
    to.set_rx_packets(nic.rx_packets);
    to.set_rx_bytes(nic.rx_bytes);
    to.set_rx_dropped(nic.rx_dropped);
    to.set_tx_packets(nic.tx_packets);
    to.set_tx_bytes(nic.tx_bytes);
    to.set_tx_dropped(nic.tx_dropped);
  }
  return message;
}

v1::Event EventToProto(const VmEvent& event) {
  v1::Event message;
  message.set_sequence(event.sequence);
  *message.mutable_time() = TimeUtil::MillisecondsToTimestamp(event.unix_ms);
  message.set_kind(ToProto(kEventKinds, event.kind, v1::Event::KIND_UNSPECIFIED));
  message.set_state(StateToProto(event.state));
  message.set_cause(CauseToProto(event.cause));
  message.set_detail(Utf8(event.detail));
  if (event.disk_error.has_value()) {
    const DiskError& error = *event.disk_error;
    v1::DiskError& to = *message.mutable_disk_error();
    to.set_disk(Utf8(error.disk));
    to.set_path(Utf8(error.path));
    to.set_write(error.write);
    to.set_offset(error.offset);
    to.set_host_errno(static_cast<uint32_t>(error.host_errno));
    to.set_no_space(error.no_space);
    to.set_message(Utf8(error.message));
  }
  if (event.disk_stall.has_value()) {
    const DiskStall& stall = *event.disk_stall;
    v1::DiskStall& to = *message.mutable_disk_stall();
    to.set_disk(Utf8(stall.disk));
    to.set_path(Utf8(stall.path));
    to.set_write(stall.write);
    to.set_offset(stall.offset);
    to.set_seconds(stall.seconds);
  }
  return message;
}

}  // namespace vireo::api
