#include "cmd/run_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace vireo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Args = std::vector<std::string>;

RunOptions RunLine(Args more) {
  Args args = {"run", "--kernel", "vmlinuz"};
  args.insert(args.end(), more.begin(), more.end());
  const absl::StatusOr<VireoCommand> command = ParseVireoArgs(args);
  EXPECT_TRUE(command.ok()) << command.status();
  return command.ok() ? std::get<RunOptions>(*command) : RunOptions();
}

// The line that design and manual promise to keep.
TEST(VireoArgs, TheStableCommandLine) {
  const RunOptions run = RunLine({"--initrd", "initrd.img", "--cmdline", "console=ttyS0", "--cpus",
                                  "2", "--memory", "2G", "--disk", "path=root.qcow2,format=qcow2",
                                  "--disk", "path=data.raw,format=raw,readonly=on", "--net",
                                  "tap=vnet0,bridge=cloudbr0,mac=02:00:00:00:00:01", "--console",
                                  "stdio", "--api", "unix:/run/vireo/web1.sock"});
  EXPECT_EQ(run.config.boot.kernel, "vmlinuz");
  EXPECT_EQ(run.config.boot.initrd, "initrd.img");
  EXPECT_EQ(run.config.boot.cmdline, "console=ttyS0");
  EXPECT_EQ(run.config.cpus.boot, 2u);
  EXPECT_EQ(run.config.memory.size_bytes, uint64_t{2} << 30);
  ASSERT_EQ(run.config.disks.size(), 2u);
  EXPECT_EQ(run.config.disks[0].path, "root.qcow2");
  EXPECT_EQ(run.config.disks[0].format, DiskFormat::kQcow2);
  EXPECT_FALSE(run.config.disks[0].read_only);
  EXPECT_EQ(run.config.disks[1].format, DiskFormat::kRaw);
  EXPECT_TRUE(run.config.disks[1].read_only);
  ASSERT_EQ(run.config.nics.size(), 1u);
  EXPECT_EQ(run.config.nics[0].tap, "vnet0");
  EXPECT_EQ(run.config.nics[0].bridge, "cloudbr0");
  EXPECT_EQ((*run.config.nics[0].mac)[5], 1);
  EXPECT_EQ(run.config.console.mode, ConsoleMode::kStdio);
  EXPECT_EQ(run.api, "unix:/run/vireo/web1.sock");
}

TEST(VireoArgs, FirmwareAndWhatItIsTold) {
  const absl::StatusOr<VireoCommand> command =
      ParseVireoArgs({"run", "--firmware", "bios", "--firmware-vars", "v.fd", "--boot",
                      "menu=1500ms,retry=off", "--firmware-log", "f.log", "--smbios",
                      "vendor=V,,Inc,product=P,version=1,serial=S,asset-tag=A", "--disk",
                      "path=a,format=raw,bootindex=2", "--net", "tap=t,bootindex=7"});
  ASSERT_TRUE(command.ok()) << command.status();
  const VmConfig& config = std::get<RunOptions>(*command).config;
  EXPECT_EQ(config.boot.kernel, "");
  EXPECT_EQ(config.boot.firmware, "bios");
  EXPECT_EQ(config.boot.variables, "v.fd");
  EXPECT_EQ(config.boot.menu_ms, 1500u);
  EXPECT_EQ(config.boot.retry_ms, 0u);
  EXPECT_EQ(config.boot.firmware_log, "f.log");
  EXPECT_EQ(
      config.smbios,
      (SmbiosConfig{
          .vendor = "V,Inc", .product = "P", .version = "1", .serial = "S", .asset_tag = "A"}));
  EXPECT_EQ(config.disks[0].boot_index, 2);
  EXPECT_EQ(config.nics[0].boot_index, 7);
}

TEST(VireoArgs, DefaultsAreThoseOfVmConfig) {
  const RunOptions run = RunLine({});
  EXPECT_EQ(run.config.cpus.boot, 1u);
  EXPECT_EQ(run.config.cpus.model, "host");
  EXPECT_EQ(run.config.memory.size_bytes, uint64_t{256} << 20);
  EXPECT_EQ(run.config.memory.backing, MemoryBacking::kPrivate);
  EXPECT_EQ(run.config.console.mode, ConsoleMode::kBuffer);
  EXPECT_EQ(run.config.on_crash, OnCrash::kReset);
  EXPECT_TRUE(run.config.rng);
  EXPECT_EQ(run.api, "");
  EXPECT_EQ(run.log_level, LogLevel::kInfo);
}

TEST(VireoArgs, EveryOtherFlagReachesItsField) {
  const RunOptions run =
      RunLine({"--cpus",
               "2,max=8",
               "--cpu",
               "x86-64-v3,+pcid,-avx512f",
               "--memory",
               "512M,max=1G,backing=shared",
               "--disk",
               "path=fd:7,format=raw,direct=on,write-cache=off,serial=S1,id=root,"
               "slot=5,loop=a,legacy=on",
               "--net",
               "fd=9,mtu=9000,link=off,id=lan,slot=6,loop=b,legacy=on",
               "--console",
               "file:/tmp/a,b",
               "--console-history",
               "64K",
               "--rng",
               "off",
               "--on-crash",
               "pause",
               "--name",
               "web1",
               "--uuid",
               "00112233-4455-6677-8899-aabbccddeeff",
               "--machine",
               "vireo-1",
               "--allow-dir",
               "/srv",
               "--allow-dir",
               "/images",
               "--shutdown-timeout",
               "500ms",
               "--log-level",
               "warning"});
  EXPECT_EQ(run.config.cpus.boot, 2u);
  EXPECT_EQ(run.config.cpus.max, 8u);
  EXPECT_EQ(run.config.cpus.model, "x86-64-v3");
  EXPECT_THAT(run.config.cpus.add_features, ElementsAre("pcid"));
  EXPECT_THAT(run.config.cpus.remove_features, ElementsAre("avx512f"));
  EXPECT_EQ(run.config.memory.max_bytes, uint64_t{1} << 30);
  EXPECT_EQ(run.config.memory.backing, MemoryBacking::kShared);
  const DiskConfig& disk = run.config.disks.at(0);
  EXPECT_EQ(disk.path, "fd:7");
  EXPECT_TRUE(disk.direct);
  EXPECT_FALSE(disk.write_cache);
  EXPECT_EQ(disk.serial, "S1");
  EXPECT_EQ(disk.id, "root");
  EXPECT_EQ(disk.slot, 5);
  EXPECT_EQ(disk.loop, "a");
  EXPECT_TRUE(disk.legacy);
  const NicConfig& nic = run.config.nics.at(0);
  EXPECT_EQ(nic.fd, 9);
  EXPECT_EQ(nic.mtu, 9000);
  EXPECT_FALSE(nic.link_up);
  EXPECT_EQ(nic.slot, 6);
  EXPECT_TRUE(nic.legacy);
  EXPECT_EQ(run.config.console.mode, ConsoleMode::kFile);
  EXPECT_EQ(run.config.console.path, "/tmp/a,b");
  EXPECT_EQ(run.config.console.history_bytes, 64u << 10);
  EXPECT_FALSE(run.config.rng);
  EXPECT_EQ(run.config.on_crash, OnCrash::kPause);
  EXPECT_EQ(run.config.name, "web1");
  EXPECT_THAT(run.config.allowed_directories, ElementsAre("/srv", "/images"));
  EXPECT_EQ(run.config.shutdown_timeout_ms, 500u);
  EXPECT_EQ(run.log_level, LogLevel::kWarning);
}

TEST(VireoArgs, DisksHaveKeysLimitsAndPolicies) {
  const RunOptions run =
      RunLine({"--disk",
               "path=a,format=qcow2,key-file=/run/key,rerror=stop,werror=report,"
               "stall=pause,stall-after=5,cache-size=64M,"
               "throttle.bps-total=10M,throttle.bps-total-max=20M,"
               "throttle.bps-total-max-length=5,throttle.iops-read=100,throttle.iops-size=64K,"
               "throttle.group=g"});
  const DiskConfig& disk = run.config.disks.at(0);
  EXPECT_EQ(disk.key_file, "/run/key");
  EXPECT_EQ(disk.on_read_error, OnDiskError::kStop);
  EXPECT_EQ(disk.on_write_error, OnDiskError::kReport);
  EXPECT_EQ(disk.on_stall, OnDiskStall::kPause);
  EXPECT_EQ(disk.stall_seconds, 5u);
  EXPECT_EQ(disk.cache_bytes, 64u << 20);
  EXPECT_EQ(disk.throttle.bytes_total,
            (RateLimit{.per_second = 10 << 20, .burst = 20 << 20, .burst_seconds = 5}));
  EXPECT_EQ(disk.throttle.ops_read, RateLimit{.per_second = 100});
  EXPECT_EQ(disk.throttle.op_bytes, 64u << 10);
  EXPECT_EQ(disk.throttle.group, "g");
  EXPECT_FALSE(disk.legacy);
}

TEST(VireoArgs, DrivesMayBeEmpty) {
  const RunOptions run = RunLine({"--cdrom", "install.iso,bootindex=3", "--cdrom",
                                  "id=cd,serial=X1", "--cdrom", "path=/a,,b.iso"});
  ASSERT_EQ(run.config.cdroms.size(), 3u);
  EXPECT_EQ(run.config.cdroms[0], (CdromConfig{.path = "install.iso", .boot_index = 3}));
  EXPECT_EQ(run.config.cdroms[1], (CdromConfig{.id = "cd", .serial = "X1"}));
  EXPECT_EQ(run.config.cdroms[2].path, "/a,b.iso");
}

TEST(VireoArgs, CpuMayAddFeaturesToTheModelOfCpus) {
  const RunOptions run = RunLine({"--cpus", "2,model=x86-64-v2", "--cpu", "+pcid"});
  EXPECT_EQ(run.config.cpus.model, "x86-64-v2");
  EXPECT_THAT(run.config.cpus.add_features, ElementsAre("pcid"));
}

TEST(VireoArgs, RunWithAFile) {
  const absl::StatusOr<VireoCommand> command =
      ParseVireoArgs({"run", "--config=vm.json", "--api", "fd=3"});
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(std::get<RunOptions>(*command).config_path, "vm.json");
  EXPECT_EQ(std::get<RunOptions>(*command).api, "fd=3");
}

TEST(VireoArgs, Serve) {
  const absl::StatusOr<VireoCommand> command =
      ParseVireoArgs({"serve", "--api", "unix:/run/a.sock", "--log-level=debug"});
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(std::get<ServeOptions>(*command).api, "unix:/run/a.sock");
  EXPECT_EQ(std::get<ServeOptions>(*command).log_level, LogLevel::kDebug);
}

class PrintArgs : public testing::TestWithParam<std::pair<Args, std::string>> {};
TEST_P(PrintArgs, Print) {
  const absl::StatusOr<VireoCommand> command = ParseVireoArgs(GetParam().first);
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_THAT(std::get<PrintText>(*command).text, HasSubstr(GetParam().second));
}
INSTANTIATE_TEST_SUITE_P(VireoArgs, PrintArgs,
                         testing::Values(std::pair(Args{"--help"}, "usage: vireo run"),
                                         std::pair(Args{"-h"}, "usage: vireo run"),
                                         std::pair(Args{"run", "--help"}, "--disk KEY=VALUE"),
                                         std::pair(Args{"serve", "-h"}, "vireo serve --api"),
                                         std::pair(Args{"--version"}, "vireo 0."),
                                         std::pair(Args{"run", "--version"}, "vireo 0.")));

// Whoever adds a flag says so in --help.
TEST(VireoArgs, HelpNamesEveryFlag) {
  const std::string help = std::get<PrintText>(*ParseVireoArgs({"--help"})).text;
  for (const char* flag : {"--kernel",
                           "--initrd",
                           "--cmdline",
                           "--firmware",
                           "--firmware-vars",
                           "--boot",
                           "--firmware-log",
                           "--smbios",
                           "--cpus",
                           "--cpu",
                           "--memory",
                           "--disk",
                           "--cdrom",
                           "--net",
                           "--console",
                           "--console-history",
                           "--rng",
                           "--on-crash",
                           "--name",
                           "--uuid",
                           "--machine",
                           "--allow-dir",
                           "--shutdown-timeout",
                           "--config",
                           "--api",
                           "--log-level",
                           "--help",
                           "--version"}) {
    EXPECT_THAT(help, HasSubstr(flag));
  }
}

struct BadLine {
  std::string name;
  Args args;
  std::string want;  // The whole line.
};
class BadLineTest : public testing::TestWithParam<BadLine> {};
TEST_P(BadLineTest, IsSaidInOneLine) {
  EXPECT_EQ(ParseVireoArgs(GetParam().args).status(), absl::InvalidArgumentError(GetParam().want));
}

Args RunWith(Args more) {
  Args args = {"run", "--kernel=k"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

INSTANTIATE_TEST_SUITE_P(
    VireoArgs, BadLineTest,
    testing::ValuesIn<BadLine>({
        {"NoCommand", {}, "no command; use `vireo run` or `vireo serve` (vireo --help says how)"},
        {"UnknownCommand",
         {"start"},
         "start: unknown command; use run or serve (vireo --help says how)"},
        {"NoKernel",
         {"run"},
         "--kernel: missing; name a kernel, --firmware bios, or a --config file"},
        {"UnknownFlag", RunWith({"--memroy", "1G"}),
         "--memroy: unknown flag (did you mean --memory?)"},
        {"Stray", RunWith({"disk.qcow2"}), "disk.qcow2: not expected; flags begin with --"},
        {"Twice", RunWith({"--memory=1G", "--memory=2G"}), "--memory: given twice"},
        {"NoValue", RunWith({"--memory"}), "--memory: the value is missing"},
        {"BadMemory", RunWith({"--memory", "12Q"}),
         "--memory: size: \"12Q\" is not a size; use bytes, or a number with K, M, G or T"},
        {"BadBacking", RunWith({"--memory", "1G,backing=file"}),
         "--memory: backing: \"file\" is not known; use private or shared or hugepages"},
        {"BadCpus", RunWith({"--cpus", "two"}),
         "--cpus: boot: \"two\" is not a number from 0 to 4294967295"},
        {"BadCpu", RunWith({"--cpu", "host,pcid"}),
         "--cpu: \"pcid\" is not a feature; write MODEL,+FEATURE,-FEATURE"},
        {"TwoModels", RunWith({"--cpus", "2,model=x86-64-v2", "--cpu", "host"}),
         "--cpu: host contradicts --cpus ...,model=x86-64-v2"},
        {"NoFormat", RunWith({"--disk", "path=a.qcow2"}),
         "--disk: a.qcow2: format= is missing; use format=raw or format=qcow2 (a format is never "
         "guessed)"},
        {"BadFormat", RunWith({"--disk", "path=a,format=vmdk"}),
         "--disk: format: \"vmdk\" is not known; use raw or qcow2"},
        {"NoPath", RunWith({"--disk", "format=raw"}), "--disk: path= is missing"},
        {"UnknownDiskKey", RunWith({"--disk", "path=a,format=raw,cache=none"}),
         "--disk: key \"cache\" is not known; use path, format, readonly, direct, write-cache, "
         "serial, id, slot, loop, key-file, rerror, werror, stall, stall-after, legacy, "
         "bootindex, cache-size, throttle.group, "
         "throttle.bps-total, throttle.bps-total-max, throttle.bps-total-max-length, "
         "throttle.bps-read, throttle.bps-read-max, throttle.bps-read-max-length, "
         "throttle.bps-write, throttle.bps-write-max, throttle.bps-write-max-length, "
         "throttle.iops-total, throttle.iops-total-max, throttle.iops-total-max-length, "
         "throttle.iops-read, throttle.iops-read-max, throttle.iops-read-max-length, "
         "throttle.iops-write, throttle.iops-write-max, throttle.iops-write-max-length, "
         "throttle.iops-size"},
        {"BadSwitch", RunWith({"--disk", "path=a,format=raw,readonly=yes"}),
         "--disk: readonly: \"yes\" is not known; use on or off"},
        {"BadSlot", RunWith({"--disk", "path=a,format=raw,slot=256"}),
         "--disk: slot: \"256\" is not a number from 0 to 255"},
        {"BadBootIndex", RunWith({"--disk", "path=a,format=raw,bootindex=65536"}),
         "--disk: bootindex: \"65536\" is not a number from 0 to 65535"},
        {"BadNicBootIndex", RunWith({"--net", "tap=a,bootindex=first"}),
         "--net: bootindex: \"first\" is not a number from 0 to 65535"},
        {"BadMenu", RunWith({"--boot", "menu=soon"}),
         "--boot: menu: \"soon\" is not a time limit; use seconds, or 500ms, 90s, 2m"},
        {"BadRetry", RunWith({"--boot", "retry=9999h"}),
         "--boot: retry: too long; at most 49 days are possible"},
        {"UnknownBootKey", RunWith({"--boot", "order=cd"}),
         "--boot: key \"order\" is not known; use menu, retry"},
        {"UnknownSmbiosKey", RunWith({"--smbios", "colour=red"}),
         "--smbios: key \"colour\" is not known; use vendor, product, version, serial, asset-tag"},
        {"NoTap", RunWith({"--net", "bridge=br0"}), "--net: neither tap= nor fd= is given"},
        {"TapAndFd", RunWith({"--net", "tap=a,fd=3"}),
         "--net: tap= and fd= contradict each other; give one"},
        {"BadMac", RunWith({"--net", "tap=a,mac=1:2"}),
         "--net: mac: \"1:2\" is not six bytes like 02:00:00:00:00:01"},
        {"BadMtu", RunWith({"--net", "tap=a,mtu=70000"}),
         "--net: mtu: \"70000\" is not a number from 0 to 65535"},
        {"BadConsole", RunWith({"--console", "pty"}),
         "--console: \"pty\" is not known; use stdio or buffer or none or file:PATH"},
        {"NoConsoleFile", RunWith({"--console", "file:"}), "--console: file: has no path"},
        {"ConsolePlaceholder", RunWith({"--console=file"}),
         "--console: \"file\" is not known; use stdio or buffer or none or file:PATH"},
        {"BadHistory", RunWith({"--console-history=5G"}),
         "--console-history: too big; 4K to 16M are possible"},
        {"BadOnCrash", RunWith({"--on-crash=burn"}),
         "--on-crash: \"burn\" is not known; use reset or stop or pause"},
        {"BadRng", RunWith({"--rng=1"}), "--rng: \"1\" is not known; use on or off"},
        {"BadTimeout", RunWith({"--shutdown-timeout=never"}),
         "--shutdown-timeout: \"never\" is not a time limit; use seconds, or 500ms, 90s, 2m"},
        {"LongTimeout", RunWith({"--shutdown-timeout=9999h"}),
         "--shutdown-timeout: too long; at most 49 days are possible"},
        {"BadLogLevel", RunWith({"--log-level=loud"}),
         "--log-level: \"loud\" is not known; use debug or info or warning or error"},
        {"ConfigAndMemory",
         {"run", "--config", "vm.json", "--memory", "1G"},
         "--memory: contradicts --config, whose file describes the whole machine"},
        {"ConfigAndKernel", RunWith({"--config", "vm.json"}),
         "--kernel: contradicts --config, whose file describes the whole machine"},
        {"ServeWithoutApi", {"serve"}, "--api: missing; `vireo serve` needs --api unix:PATH"},
        {"ServeWithMachine",
         {"serve", "--api=unix:a", "--memory=1G"},
         "--memory: not for `vireo serve`, whose machine comes over the API; use `vireo run`"},
    }),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
