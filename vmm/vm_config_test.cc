#include "vmm/vm_config.h"

#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

using ::testing::HasSubstr;

VmConfig Good() {
  VmConfig config;
  config.uuid = "12345678-1234-4234-8234-123456789abc";
  config.boot.kernel = "/boot/vmlinuz";
  config.disks.push_back({.path = "/a.qcow2", .format = DiskFormat::kQcow2});
  config.nics.push_back({.tap = "vnet0", .bridge = "br0"});
  Complete(&config);
  return config;
}

TEST(VmConfigTest, ACompletedMinimalConfigIsValid) {
  VmConfig config;
  config.boot.kernel = "k";
  Complete(&config);
  EXPECT_TRUE(Validate(config).ok()) << Validate(config);
  EXPECT_EQ(config.name, config.uuid);
  EXPECT_EQ(config.cpus.max, 1u);
}

TEST(VmConfigTest, CompleteNamesDevicesAndDerivesAStableMac) {
  const VmConfig first = Good();
  const VmConfig second = Good();
  EXPECT_EQ(first.disks[0].id, "disk0");
  EXPECT_EQ(first.disks[0].serial, "disk0");
  EXPECT_EQ(first.nics[0].id, "nic0");
  ASSERT_TRUE(first.nics[0].mac.has_value());
  EXPECT_EQ(*first.nics[0].mac, *second.nics[0].mac);
  EXPECT_EQ((*first.nics[0].mac)[0] & 3, 2) << "unicast and locally administered";
}

TEST(VmConfigTest, CompleteMakesDifferentUuids) {
  VmConfig a, b;
  Complete(&a);
  Complete(&b);
  EXPECT_NE(a.uuid, b.uuid);
}

VmConfig WithFirmware() {
  VmConfig config = Good();
  config.boot = {.firmware = kFirmwareBios};
  return config;
}

TEST(VmConfigTest, FirmwareNeedsNoKernel) {
  VmConfig config = WithFirmware();
  config.boot.menu_ms = 5000;
  config.boot.retry_ms = 0;
  config.boot.firmware_log = "log";
  config.disks[0].boot_index = 3;
  config.smbios = {.vendor = "v", .product = "p", .serial = "s", .asset_tag = "a"};
  EXPECT_TRUE(Validate(config).ok()) << Validate(config);
  config.boot.firmware = "/usr/share/firmware.bin";
  EXPECT_TRUE(Validate(config).ok()) << Validate(config);
}

TEST(VmConfigTest, UefiKeepsVariables) {
  VmConfig config = WithFirmware();
  config.boot.firmware = kFirmwareUefi;
  config.boot.variables = "vars.fd";
  EXPECT_TRUE(Validate(config).ok()) << Validate(config);
}

struct BadConfig {
  std::string name;
  std::function<void(VmConfig&)> spoil;
  std::string want;
};

class BadConfigTest : public testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, IsRefusedNamingTheField) {
  VmConfig config = Good();
  GetParam().spoil(config);
  const absl::Status status = Validate(config);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().want));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadConfigTest,
    testing::Values(
        BadConfig{"Uuid", [](VmConfig& c) { c.uuid = "x"; }, "uuid: \"x\""},
        BadConfig{"Machine", [](VmConfig& c) { c.machine = "pc"; },
                  "machine: unknown machine \"pc\""},
        BadConfig{"NoCpu", [](VmConfig& c) { c.cpus.boot = 0; }, "cpus.boot: 0 vCPUs"},
        BadConfig{"TooManyCpus", [](VmConfig& c) { c.cpus.boot = c.cpus.max = 65; },
                  "cpus.boot: 65"},
        BadConfig{"MaxBelowBoot", [](VmConfig& c) { c.cpus.boot = 4; }, "cpus.max: 1"},
        BadConfig{"Model", [](VmConfig& c) { c.cpus.model = "epyc"; },
                  "cpus.model: unknown model \"epyc\""},
        BadConfig{"FeatureBothWays",
                  [](VmConfig& c) { c.cpus.add_features = c.cpus.remove_features = {"avx2"}; },
                  "avx2"},
        BadConfig{"LittleMemory", [](VmConfig& c) { c.memory.size_bytes = 1 << 20; },
                  "memory.size"},
        BadConfig{"OddMemory", [](VmConfig& c) { c.memory.size_bytes += 4096; }, "memory.size"},
        BadConfig{"HugeMemory",
                  [](VmConfig& c) { c.memory.size_bytes = c.memory.max_bytes = uint64_t{1} << 50; },
                  "memory.size"},
        BadConfig{"MaxMemory", [](VmConfig& c) { c.memory.max_bytes = 64 << 20; }, "memory.max"},
        BadConfig{"NoKernel", [](VmConfig& c) { c.boot.kernel.clear(); }, "boot.kernel: missing"},
        BadConfig{"FirmwareAndInitrd",
                  [](VmConfig& c) { c.boot = {.initrd = "i", .firmware = "bios"}; }, "boot.initrd"},
        BadConfig{"FirmwareAndCmdline",
                  [](VmConfig& c) { c.boot = {.cmdline = "quiet", .firmware = "bios"}; },
                  "boot.cmdline"},
        BadConfig{"MenuOfAKernel", [](VmConfig& c) { c.boot.menu_ms = 1; }, "boot.menu"},
        BadConfig{"LongMenu", [](VmConfig& c) { c.boot = {.firmware = "bios", .menu_ms = 65536}; },
                  "boot.menu: 65536 ms"},
        BadConfig{"VariablesOfAKernel", [](VmConfig& c) { c.boot.variables = "v"; },
                  "boot.variables"},
        BadConfig{"VariablesOfABios",
                  [](VmConfig& c) { c.boot = {.firmware = "bios", .variables = "v"}; },
                  "boot.variables: a BIOS keeps none"},
        BadConfig{"RetryOfAKernel", [](VmConfig& c) { c.boot.retry_ms = 0; }, "boot.retry"},
        BadConfig{"LogOfNoFirmware", [](VmConfig& c) { c.boot.firmware_log = "l"; },
                  "boot.firmware_log"},
        BadConfig{"BootIndexOfAKernel", [](VmConfig& c) { c.disks[0].boot_index = 1; },
                  "disks[0].boot_index"},
        BadConfig{"BootIndexTwice",
                  [](VmConfig& c) {
                    c.boot = {.firmware = "bios"};
                    c.disks[0].boot_index = 1;
                    c.disks.push_back(c.disks[0]);
                  },
                  "disks[1].boot_index: 1 is used twice"},
        BadConfig{"SmbiosOfAKernel", [](VmConfig& c) { c.smbios.asset_tag = "a"; },
                  "smbios.asset_tag"},
        BadConfig{"LongSmbios",
                  [](VmConfig& c) {
                    c.boot = {.firmware = "bios"};
                    c.smbios.product = std::string(65, 'p');
                  },
                  "smbios.product: use at most 64"},
        BadConfig{"UnprintableSmbios",
                  [](VmConfig& c) {
                    c.boot = {.firmware = "bios"};
                    c.smbios.serial = "a\nb";
                  },
                  "smbios.serial"},
        BadConfig{"NoFormat", [](VmConfig& c) { c.disks[0].format = DiskFormat::kUnspecified; },
                  "disks[0].format: not stated for /a.qcow2"},
        BadConfig{"KeyOfARawDisk",
                  [](VmConfig& c) {
                    c.disks[0].format = DiskFormat::kRaw;
                    c.disks[0].key_file = "/key";
                  },
                  "disks[0].key_file"},
        BadConfig{"ReadingNeedsNoSpace",
                  [](VmConfig& c) { c.disks[0].on_read_error = OnDiskError::kStopOnNoSpace; },
                  "disks[0].on_read_error"},
        BadConfig{"DiskLikeTheEntropyDevice", [](VmConfig& c) { c.disks[0].id = "rng"; },
                  "disks[0].id: \"rng\" is a device of the machine's own"},
        BadConfig{"ManyDrives", [](VmConfig& c) { c.cdroms.resize(7); }, "cdroms: 7 drives"},
        BadConfig{"LongSerialOfADrive",
                  [](VmConfig& c) { c.cdroms = {{.serial = std::string(21, 's')}}; },
                  "cdroms[0].serial"},
        BadConfig{"DriveLikeADisk", [](VmConfig& c) { c.cdroms = {{.id = c.disks[0].id}}; },
                  "cdroms[0].id"},
        BadConfig{"DriveAndDiskInOnePlace",
                  [](VmConfig& c) {
                    c.boot = {.firmware = "bios"};
                    c.disks[0].boot_index = 1;
                    c.cdroms = {{.id = "cd", .boot_index = 1}};
                  },
                  "cdroms[0].boot_index: 1 is used twice"},
        BadConfig{"BootIndexOfADriveWithoutFirmware",
                  [](VmConfig& c) { c.cdroms = {{.id = "cd", .boot_index = 1}}; },
                  "cdroms[0].boot_index"},
        BadConfig{"NicAndDiskInOnePlace",
                  [](VmConfig& c) {
                    c.boot = {.firmware = "bios"};
                    c.disks[0].boot_index = 1;
                    c.nics[0].boot_index = 1;
                  },
                  "nics[0].boot_index: 1 is used twice"},
        BadConfig{"BootIndexOfANicWithoutFirmware", [](VmConfig& c) { c.nics[0].boot_index = 1; },
                  "nics[0].boot_index"},
        BadConfig{"SmallCache", [](VmConfig& c) { c.disks[0].cache_bytes = 1000; },
                  "disks[0].cache_bytes: 1000 bytes; use 1 MiB to 4 GiB"},
        BadConfig{"LargeCache", [](VmConfig& c) { c.disks[0].cache_bytes = (4ULL << 30) + 1; },
                  "disks[0].cache_bytes"},
        BadConfig{"CacheOfARawDisk",
                  [](VmConfig& c) {
                    c.disks[0].format = DiskFormat::kRaw;
                    c.disks[0].cache_bytes = 2 << 20;
                  },
                  "disks[0].cache_bytes: a raw disk"},
        BadConfig{"StallAtOnce", [](VmConfig& c) { c.disks[0].stall_seconds = 0; },
                  "disks[0].stall_seconds: 0 s is not from 1 to 86400"},
        BadConfig{"StallNever", [](VmConfig& c) { c.disks[0].stall_seconds = 86401; },
                  "disks[0].stall_seconds"},
        BadConfig{"Throttle", [](VmConfig& c) { c.disks[0].throttle.ops_read.burst = 5; },
                  "disks[0].throttle: iops-read"},
        BadConfig{"ThrottleGroupOfTwoMinds",
                  [](VmConfig& c) {
                    c.disks[0].throttle = {.ops_read = {.per_second = 5}, .group = "g"};
                    c.disks.push_back(c.disks[0]);
                    c.disks[1].id = "other";
                    c.disks[1].path = "/b.qcow2";
                    c.disks[1].throttle.ops_read.per_second = 6;
                  },
                  "disks[1].throttle: disks[0] has other limits"},
        BadConfig{"SameDiskTwice",
                  [](VmConfig& c) {
                    c.disks.push_back(c.disks[0]);
                    c.disks[1].id = "other";
                  },
                  "disks[1].path: /a.qcow2 is disks[0] already"},
        BadConfig{"SameIdTwice", [](VmConfig& c) { c.nics[0].id = "disk0"; },
                  "nics[0].id: \"disk0\""},
        BadConfig{"Serial", [](VmConfig& c) { c.disks[0].serial = std::string(21, 's'); },
                  "disks[0].serial"},
        BadConfig{"Slot", [](VmConfig& c) { c.disks[0].slot = 31; }, "disks[0].slot: 31"},
        BadConfig{"SlotTwice", [](VmConfig& c) { c.disks[0].slot = c.nics[0].slot = 4; },
                  "nics[0].slot: 4"},
        BadConfig{"LongTap", [](VmConfig& c) { c.nics[0].tap = "a-name-too-long-"; },
                  "nics[0].tap"},
        BadConfig{"TapName", [](VmConfig& c) { c.nics[0].tap = "a/b"; }, "nics[0].tap"},
        BadConfig{"FdAndTap", [](VmConfig& c) { c.nics[0].fd = 5; }, "nics[0]: fd excludes tap"},
        BadConfig{"Multicast", [](VmConfig& c) { c.nics[0].mac = {1, 0, 0, 0, 0, 1}; },
                  "nics[0].mac"},
        BadConfig{"Mtu", [](VmConfig& c) { c.nics[0].mtu = 60; }, "nics[0].mtu: 60"},
        BadConfig{"ConsoleFile", [](VmConfig& c) { c.console.mode = ConsoleMode::kFile; },
                  "console.path"},
        BadConfig{"History", [](VmConfig& c) { c.console.history_bytes = 1; },
                  "console.history_bytes"}),
    [](const testing::TestParamInfo<BadConfig>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
