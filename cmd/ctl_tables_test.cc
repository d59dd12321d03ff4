#include "cmd/ctl_tables.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <time.h>

#include <string>

namespace vireo {
namespace {

using google::protobuf::TextFormat;
using testing::HasSubstr;
using testing::Not;

class CtlTables : public testing::Test {
 protected:
  void SetUp() override {
    ::setenv("TZ", "UTC", 1);
    ::tzset();
  }
};

TEST_F(CtlTables, Description) {
  v1::VmDescription vm;
  ASSERT_TRUE(TextFormat::ParseFromString(R"pb(
                                            state: RUNNING
                                            last_cause: TRIPLE_FAULT
                                            last_cause_detail: "vCPU 0"
                                            machine: "vireo-1"
                                            cpu_model: "host"
                                            pid: 42
                                            resets: 3
                                            kvm_kind: "hardware"
                                            config {
                                              name: "web1"
                                              uuid: "00112233-4455-6677-8899-aabbccddeeff"
                                              cpus { boot: 2 max: 4 }
                                              memory { size_bytes: 2147483648 backing: PRIVATE }
                                              boot { kernel: "vmlinuz" cmdline: "console=ttyS0" }
                                              on_crash: RESET
                                            }
                                            disks {
                                              device { id: "disk0" pci_address: "0000:00:03.0" }
                                              size_bytes: 1610612736
                                              format: "qcow2"
                                              path: "root.qcow2"
                                            }
                                            nics {
                                              device { id: "nic0" pci_address: "0000:00:04.0" }
                                              mac: "02:00:00:00:00:01"
                                              mtu: 1500
                                              link_up: true
                                              tap: "vnet0"
                                            }
                                            devices {
                                              id: "rng"
                                              kind: "virtio-rng"
                                              pci_address: "0000:00:05.0"
                                              driver_ready: true
                                            })pb",
                                          &vm));
  EXPECT_EQ(DescriptionTable(vm),
            "state       running\n"
            "last cause  triple fault (vCPU 0)\n"
            "name        web1\n"
            "uuid        00112233-4455-6677-8899-aabbccddeeff\n"
            "machine     vireo-1\n"
            "cpus        2 of at most 4, model host\n"
            "memory      2 GiB, private\n"
            "kernel      vmlinuz\n"
            "cmdline     console=ttyS0\n"
            "on crash    reset\n"
            "process     42\n"
            "kvm         hardware\n"
            "resets      3\n"
            "\n"
            "disks\n"
            "  ID     PCI ADDRESS   SIZE     FORMAT  READ-ONLY  PATH\n"
            "  disk0  0000:00:03.0  1.5 GiB  qcow2   no         root.qcow2\n"
            "\n"
            "network\n"
            "  ID    PCI ADDRESS   MAC                MTU   LINK  TAP    BRIDGE\n"
            "  nic0  0000:00:04.0  02:00:00:00:00:01  1500  up    vnet0  -\n"
            "\n"
            "devices\n"
            "  ID   KIND        PCI ADDRESS   DRIVER READY\n"
            "  rng  virtio-rng  0000:00:05.0  yes\n");
}

TEST_F(CtlTables, EmptyMachineHasNothingToSayOfItsConfig) {
  v1::VmDescription vm;
  vm.set_state(v1::EMPTY);
  EXPECT_THAT(DescriptionTable(vm), HasSubstr("state    empty\n"));
  EXPECT_THAT(DescriptionTable(vm), Not(HasSubstr("cpus")));
}

TEST_F(CtlTables, Stats) {
  v1::VmStats stats;
  ASSERT_TRUE(TextFormat::ParseFromString(
      R"pb(
        uptime { seconds: 61 nanos: 500000000 }
        process_cpu_time_ns: 2500000000
        resident_bytes: 104857600
        guest_memory_bytes: 268435456
        vcpus { index: 0 cpu_time_ns: 1000000000 exits: 1234 }
        disks {
          id: "disk0"
          read_ops: 10
          read_bytes: 40960
          write_ops: 2
          write_bytes: 1023
          flush_ops: 1
        }
        nics { id: "nic0" rx_packets: 3 rx_bytes: 180 tx_packets: 4 tx_bytes: 2048 })pb",
      &stats));
  EXPECT_EQ(StatsTable(stats),
            "uptime        1m1.5s\n"
            "cpu time      2.50 s\n"
            "resident      100 MiB\n"
            "guest memory  256 MiB\n"
            "\n"
            "VCPU  CPU TIME  EXITS\n"
            "0     1.00 s    1234\n"
            "\n"
            "DISK   READS  READ    WRITES  WRITTEN  FLUSHES  DISCARDS  ERRORS  THROTTLED\n"
            "disk0  10     40 KiB  2       1023 B   1        0         0       0\n"
            "\n"
            "NIC   RX PACKETS  RX     RX DROPPED  TX PACKETS  TX     TX DROPPED\n"
            "nic0  3           180 B  0           4           2 KiB  0\n");
}

TEST_F(CtlTables, Events) {
  v1::Event event;
  ASSERT_TRUE(TextFormat::ParseFromString(R"pb(
                                            sequence: 7
                                            time { seconds: 1700000000 nanos: 5000000 }
                                            kind: STATE_CHANGED
                                            state: STOPPED
                                            cause: GUEST_POWER_OFF
                                            detail: "S5")pb",
                                          &event));
  EXPECT_EQ(EventLine(event),
            "2023-11-14 22:13:20.005  #7  state changed: stopped, guest power off (S5)\n");
}

TEST_F(CtlTables, Bytes) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1024), "1 KiB");
  EXPECT_EQ(HumanBytes(uint64_t{20} << 40), "20 TiB");
  EXPECT_EQ(HumanBytes(UINT64_MAX), "16 EiB");
}

TEST_F(CtlTables, JsonHasTheProtosNamesAndDefaults) {
  v1::DiskStats disk;
  disk.set_id("disk0");
  disk.set_read_ops(1);
  const std::string json = ToJson(disk, JsonForm::kOneLine);
  EXPECT_THAT(json, HasSubstr(R"("read_ops":"1")"));
  EXPECT_THAT(json, HasSubstr(R"("errors":"0")"));
  EXPECT_EQ(json.find('\n'), json.size() - 1);
}

}  // namespace
}  // namespace vireo
