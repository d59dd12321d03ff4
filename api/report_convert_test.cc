#include "api/report_convert.h"

#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "api/config_convert.h"

namespace vireo::api {
namespace {

using google::protobuf::TextFormat;
using google::protobuf::util::MessageDifferencer;

TEST(ReportConvert, DescriptionCarriesEverything) {
  VmDescription description;
  description.state = VmState::kPaused;
  description.last_cause = VmCause::kTripleFault;
  description.last_cause_detail = "vCPU 0";
  description.config.name = "web1";
  description.machine = "vireo-1";
  description.cpu_model = "host";
  description.pid = 42;
  description.resets = 3;
  description.started_unix_ms = 1'500;
  description.kvm_kind = "hardware";
  description.devices = {{"rng", "virtio-rng", "0000:00:02.0", true}};
  description.disks = {
      {{"root", "virtio-blk", "0000:00:03.0", false}, 4096, "r.qcow2", "qcow2", true}};
  description.nics = {
      {{"lan", "virtio-net", "0000:00:04.0", true}, "t0", "br0", "02:00:00:00:00:01", 1500, true}};

  v1::VmDescription want;
  ASSERT_TRUE(TextFormat::ParseFromString(
      R"pb(
        state: PAUSED
        last_cause: TRIPLE_FAULT
        last_cause_detail: "vCPU 0"
        machine: "vireo-1"
        cpu_model: "host"
        pid: 42
        resets: 3
        started { seconds: 1 nanos: 500000000 }
        kvm_kind: "hardware"
        devices { id: "rng" kind: "virtio-rng" pci_address: "0000:00:02.0" driver_ready: true }
        disks {
          device { id: "root" kind: "virtio-blk" pci_address: "0000:00:03.0" }
          size_bytes: 4096
          path: "r.qcow2"
          format: "qcow2"
          read_only: true
        }
        nics {
          device { id: "lan" kind: "virtio-net" pci_address: "0000:00:04.0" driver_ready: true }
          tap: "t0"
          bridge: "br0"
          mac: "02:00:00:00:00:01"
          mtu: 1500
          link_up: true
        })pb",
      &want));
  *want.mutable_config() = ConfigToProto(description.config);
  EXPECT_TRUE(MessageDifferencer::Equals(DescriptionToProto(description), want))
      << DescriptionToProto(description).DebugString();
}

TEST(ReportConvert, EmptyMachineHasNoConfigAndNoStart) {
  const v1::VmDescription message = DescriptionToProto(VmDescription());
  EXPECT_EQ(message.state(), v1::EMPTY);
  EXPECT_FALSE(message.has_config());
  EXPECT_FALSE(message.has_started());
}

TEST(ReportConvert, StatsCarryEverything) {
  VmStats stats;
  stats.uptime_ms = 61'250;
  stats.process_cpu_time_ns = 1;
  stats.resident_bytes = 2;
  stats.guest_memory_bytes = 3;
  stats.vcpus = {{.index = 1, .cpu_time_ns = 4, .exits = 5}};
  stats.disks = {{.id = "root",
                  .read_ops = 1,
                  .read_bytes = 2,
                  .write_ops = 3,
                  .write_bytes = 4,
                  .flush_ops = 5,
                  .discard_ops = 6,
                  .errors = 7,
                  .throttled_ops = 8}};
  stats.nics = {{.id = "lan",
                 .rx_packets = 1,
                 .rx_bytes = 2,
                 .rx_dropped = 3,
                 .tx_packets = 4,
                 .tx_bytes = 5,
                 .tx_dropped = 6}};
  v1::VmStats want;
  ASSERT_TRUE(TextFormat::ParseFromString(R"pb(
                                            uptime { seconds: 61 nanos: 250000000 }
                                            process_cpu_time_ns: 1
                                            resident_bytes: 2
                                            guest_memory_bytes: 3
                                            vcpus { index: 1 cpu_time_ns: 4 exits: 5 }
                                            disks {
                                              id: "root"
                                              read_ops: 1
                                              read_bytes: 2
                                              write_ops: 3
                                              write_bytes: 4
                                              flush_ops: 5
                                              discard_ops: 6
                                              errors: 7
                                              throttled_ops: 8
                                            }
                                            nics {
                                              id: "lan"
                                              rx_packets: 1
                                              rx_bytes: 2
                                              rx_dropped: 3
                                              tx_packets: 4
                                              tx_bytes: 5
                                              tx_dropped: 6
                                            })pb",
                                          &want));
  EXPECT_TRUE(MessageDifferencer::Equals(StatsToProto(stats), want))
      << StatsToProto(stats).DebugString();
}

TEST(ReportConvert, EventCarriesEverything) {
  const VmEvent event = {.sequence = 9,
                         .unix_ms = 2'001,
                         .kind = VmEventKind::kCrashed,
                         .state = VmState::kStopped,
                         .cause = VmCause::kGuestPanic,
                         .detail = "pvpanic"};
  v1::Event want;
  ASSERT_TRUE(TextFormat::ParseFromString(R"pb(
                                            sequence: 9
                                            time { seconds: 2 nanos: 1000000 }
                                            kind: CRASHED
                                            state: STOPPED
                                            cause: GUEST_PANIC
                                            detail: "pvpanic")pb",
                                          &want));
  EXPECT_TRUE(MessageDifferencer::Equals(EventToProto(event), want));
}

TEST(ReportConvert, DiskErrorsTellTheWatcherAll) {
  VmEvent event = {.kind = VmEventKind::kDiskError, .cause = VmCause::kDiskError};
  event.disk_error = DiskError{.disk = "root",
                               .path = "root.qcow2",
                               .write = true,
                               .offset = 512,
                               .host_errno = 28,
                               .no_space = true,
                               .message = "full"};
  v1::DiskError want;
  ASSERT_TRUE(TextFormat::ParseFromString(R"pb(
                                            disk: "root"
                                            path: "root.qcow2"
                                            write: true
                                            offset: 512
                                            host_errno: 28
                                            no_space: true
                                            message: "full")pb",
                                          &want));
  EXPECT_EQ(EventToProto(event).kind(), v1::Event::DISK_FAILED);
  EXPECT_EQ(EventToProto(event).cause(), v1::DISK_ERROR);
  EXPECT_TRUE(MessageDifferencer::Equals(EventToProto(event).disk_error(), want));
}

TEST(ReportConvert, StallsTellTheWatcherAll) {
  VmEvent event = {.kind = VmEventKind::kDiskStalled, .cause = VmCause::kDiskStalled};
  event.disk_stall =
      DiskStall{.disk = "root", .path = "root.qcow2", .write = true, .offset = 4096, .seconds = 30};
  v1::DiskStall want;
  ASSERT_TRUE(TextFormat::ParseFromString(
      R"pb(
        disk: "root" path: "root.qcow2" write: true offset: 4096 seconds: 30)pb",
      &want));
  EXPECT_EQ(EventToProto(event).kind(), v1::Event::DISK_STALLED);
  EXPECT_EQ(EventToProto(event).cause(), v1::DISK_STALL);
  EXPECT_TRUE(MessageDifferencer::Equals(EventToProto(event).disk_stall(), want));
  event.kind = VmEventKind::kDiskAnswers;
  EXPECT_EQ(EventToProto(event).kind(), v1::Event::DISK_ANSWERS);
}

}  // namespace
}  // namespace vireo::api
