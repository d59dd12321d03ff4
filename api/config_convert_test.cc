#include "api/config_convert.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <string>

namespace vireo::api {
namespace {

using google::protobuf::TextFormat;
using google::protobuf::util::MessageDifferencer;
using testing::ElementsAre;
using testing::HasSubstr;

// Every field away from its default.
constexpr char kFull[] = R"pb(
  name: "web1"
  uuid: "00112233-4455-6677-8899-aabbccddeeff"
  machine: "vireo-1"
  cpus {
    boot: 2
    max: 4
    model: "x86-64-v3"
    add_features: "pcid"
    remove_features: "avx512f"
    remove_features: "rdseed"
  }
  memory { size_bytes: 2147483648 max_bytes: 8589934592 backing: SHARED }
  boot {
    kernel: "vmlinuz"
    initrd: "initrd.img"
    cmdline: "console=ttyS0"
    firmware: "bios"
    menu { seconds: 5 }
    retry { nanos: 250000000 }
    firmware_log: "bios.log"
    variables: "vars.fd"
  }
  disks {
    id: "root"
    path: "root.qcow2"
    format: QCOW2
    read_only: true
    direct: true
    write_cache: false
    serial: "S1"
    loop: "a"
    slot: 7
    key_file: "/run/key"
    throttle {
      bytes_total { per_second: 1000 burst: 2000 burst_seconds: 3 }
      bytes_read { burst_seconds: 1 }
      bytes_write { burst_seconds: 1 }
      ops_total { burst_seconds: 1 }
      ops_read { per_second: 10 burst_seconds: 1 }
      ops_write { per_second: 20 burst_seconds: 1 }
      op_bytes: 4096
      group: "g"
    }
    on_read_error: PAUSE_MACHINE
    on_write_error: IGNORE_ERROR
    on_stall: PAUSE_WHILE_STALLED
    stall_seconds: 7
    legacy: true
    boot_index: 300
    cache_bytes: 2097152
  }
  disks { path: "fd:5" format: RAW }
  cdroms { id: "cd" path: "/iso/install.iso" serial: "C1" boot_index: 2 }
  cdroms { id: "empty" }
  nics {
    id: "lan"
    tap: "vnet0"
    bridge: "cloudbr0"
    mac: "02:00:00:00:00:01"
    mtu: 9000
    link_up: false
    loop: "b"
    slot: 8
    legacy: true
    boot_index: 4
  }
  nics { fd: 9 }
  console { mode: FILE path: "/var/log/web1" history_bytes: 4096 }
  rng { enabled: false }
  on_crash: PAUSE
  allowed_directories: "/srv"
  allowed_directories: "/images"
  shutdown_timeout { seconds: 12 nanos: 345000000 }
  smbios { vendor: "v" product: "p" version: "1" serial: "s" asset_tag: "a" }
)pb";

v1::VmConfig Message(const std::string& text) {
  v1::VmConfig message;
  EXPECT_TRUE(TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

TEST(ConfigConvert, ConfigReachesEveryField) {
  const absl::StatusOr<VmConfig> config = ConfigFromProto(Message(kFull));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "web1");
  EXPECT_EQ(config->uuid, "00112233-4455-6677-8899-aabbccddeeff");
  EXPECT_EQ(config->cpus.boot, 2u);
  EXPECT_EQ(config->cpus.max, 4u);
  EXPECT_EQ(config->cpus.model, "x86-64-v3");
  EXPECT_THAT(config->cpus.add_features, ElementsAre("pcid"));
  EXPECT_THAT(config->cpus.remove_features, ElementsAre("avx512f", "rdseed"));
  EXPECT_EQ(config->memory.size_bytes, uint64_t{2} << 30);
  EXPECT_EQ(config->memory.max_bytes, uint64_t{8} << 30);
  EXPECT_EQ(config->memory.backing, MemoryBacking::kShared);
  EXPECT_EQ(config->boot.kernel, "vmlinuz");
  EXPECT_EQ(config->boot.initrd, "initrd.img");
  EXPECT_EQ(config->boot.cmdline, "console=ttyS0");
  EXPECT_EQ(config->boot.firmware, "bios");
  EXPECT_EQ(config->boot.variables, "vars.fd");
  EXPECT_EQ(config->boot.menu_ms, 5000u);
  EXPECT_EQ(config->boot.retry_ms, 250u);
  EXPECT_EQ(config->boot.firmware_log, "bios.log");
  EXPECT_EQ(config->smbios,
            (SmbiosConfig{
                .vendor = "v", .product = "p", .version = "1", .serial = "s", .asset_tag = "a"}));
  ASSERT_EQ(config->disks.size(), 2u);
  EXPECT_EQ(config->disks[0].boot_index, 300);
  EXPECT_EQ(config->disks[1].boot_index, std::nullopt);
  EXPECT_EQ(config->disks[0].path, "root.qcow2");
  EXPECT_EQ(config->disks[0].format, DiskFormat::kQcow2);
  EXPECT_TRUE(config->disks[0].read_only);
  EXPECT_TRUE(config->disks[0].direct);
  EXPECT_FALSE(config->disks[0].write_cache);
  EXPECT_EQ(config->disks[0].slot, 7);
  EXPECT_EQ(config->disks[0].key_file, "/run/key");
  EXPECT_EQ(config->disks[0].throttle.bytes_total,
            (RateLimit{.per_second = 1000, .burst = 2000, .burst_seconds = 3}));
  EXPECT_EQ(config->disks[0].throttle.ops_write, RateLimit{.per_second = 20});
  EXPECT_EQ(config->disks[0].throttle.op_bytes, 4096u);
  EXPECT_EQ(config->disks[0].throttle.group, "g");
  EXPECT_EQ(config->disks[0].on_read_error, OnDiskError::kStop);
  EXPECT_EQ(config->disks[0].on_write_error, OnDiskError::kIgnore);
  EXPECT_EQ(config->disks[0].on_stall, OnDiskStall::kPause);
  EXPECT_EQ(config->disks[0].stall_seconds, 7u);
  EXPECT_TRUE(config->disks[0].legacy);
  EXPECT_FALSE(config->disks[1].legacy);
  EXPECT_EQ(config->disks[0].cache_bytes, 2u << 20);
  ASSERT_EQ(config->cdroms.size(), 2u);
  EXPECT_EQ(config->cdroms[0],
            (CdromConfig{.id = "cd", .path = "/iso/install.iso", .serial = "C1", .boot_index = 2}));
  EXPECT_EQ(config->cdroms[1].path, "");
  EXPECT_EQ(config->disks[1].on_stall, OnDiskStall::kReport);
  EXPECT_EQ(config->disks[1].stall_seconds, 30u);
  EXPECT_EQ(config->disks[1].throttle, DiskThrottle());
  EXPECT_EQ(config->disks[1].on_write_error, OnDiskError::kStopOnNoSpace);
  EXPECT_EQ(config->disks[1].format, DiskFormat::kRaw);
  EXPECT_TRUE(config->disks[1].write_cache);
  EXPECT_EQ(config->disks[1].slot, std::nullopt);
  ASSERT_EQ(config->nics.size(), 2u);
  EXPECT_EQ(FormatMac(*config->nics[0].mac), "02:00:00:00:00:01");
  EXPECT_EQ(config->nics[0].mtu, 9000);
  EXPECT_EQ(config->nics[0].boot_index, 4);
  EXPECT_EQ(config->nics[1].boot_index, std::nullopt);
  EXPECT_FALSE(config->nics[0].link_up);
  EXPECT_TRUE(config->nics[0].legacy);
  EXPECT_FALSE(config->nics[1].legacy);
  EXPECT_EQ(config->nics[1].fd, 9);
  EXPECT_EQ(config->nics[1].mac, std::nullopt);
  EXPECT_EQ(config->console.mode, ConsoleMode::kFile);
  EXPECT_EQ(config->console.history_bytes, 4096u);
  EXPECT_FALSE(config->rng);
  EXPECT_EQ(config->on_crash, OnCrash::kPause);
  EXPECT_THAT(config->allowed_directories, ElementsAre("/srv", "/images"));
  EXPECT_EQ(config->shutdown_timeout_ms, 12'345u);
}

// The struct holds all that the message says: nothing is lost on the way there and back.
TEST(ConfigConvert, ConfigGoesThereAndBack) {
  const absl::StatusOr<VmConfig> config = ConfigFromProto(Message(kFull));
  ASSERT_TRUE(config.ok()) << config.status();
  const v1::VmConfig once = ConfigToProto(*config);
  const absl::StatusOr<VmConfig> again = ConfigFromProto(once);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, *config);

  // What the text leaves out is filled in; all it says is kept.
  EXPECT_EQ(once.name(), "web1");
  EXPECT_TRUE(MessageDifferencer::Equals(once.cpus(), Message(kFull).cpus()));
  EXPECT_TRUE(MessageDifferencer::Equals(once.memory(), Message(kFull).memory()));
  EXPECT_TRUE(MessageDifferencer::Equals(once.boot(), Message(kFull).boot()));
  EXPECT_TRUE(MessageDifferencer::Equals(once.smbios(), Message(kFull).smbios()));
  EXPECT_TRUE(MessageDifferencer::Equals(once.disks(0), Message(kFull).disks(0)));
  EXPECT_TRUE(MessageDifferencer::Equals(once.nics(0), Message(kFull).nics(0)));
  EXPECT_TRUE(MessageDifferencer::Equals(once.console(), Message(kFull).console()));
  EXPECT_TRUE(
      MessageDifferencer::Equals(once.shutdown_timeout(), Message(kFull).shutdown_timeout()));
}

TEST(ConfigConvert, EmptyMessageIsTheDefaultConfig) {
  const absl::StatusOr<VmConfig> config = ConfigFromProto(v1::VmConfig());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(*config, VmConfig());
}

// Zero that was written is not the default: Validate() will refuse it by name.
TEST(ConfigConvert, ExplicitZeroIsKept) {
  const absl::StatusOr<VmConfig> config =
      ConfigFromProto(Message("cpus { boot: 0 } memory { size_bytes: 0 }"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->cpus.boot, 0u);
  EXPECT_EQ(config->memory.size_bytes, 0u);
}

struct BadMessage {
  std::string name;
  std::string text;
  std::string want;
};

class BadMessageTest : public testing::TestWithParam<BadMessage> {};

TEST_P(BadMessageTest, IsRefusedByName) {
  const absl::Status status = ConfigFromProto(Message(GetParam().text)).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().want));
}

INSTANTIATE_TEST_SUITE_P(
    Convert, BadMessageTest,
    testing::ValuesIn<BadMessage>(
        {{"DiskSlot", "disks {} disks { slot: 256 }", "disks[1].slot: 256 is too big; at most 255"},
         {"BootIndex", "disks { boot_index: 65536 }", "disks[0].boot_index: 65536 is too big"},
         {"FineMenu", "boot { menu { nanos: 1 } }", "boot.menu: 0 s and 1 ns"},
         {"NegativeRetry", "boot { retry { seconds: -1 } }", "boot.retry: -1 s"},
         {"NicBootIndex", "nics { boot_index: 65536 }", "nics[0].boot_index: 65536 is too big"},
         {"NicSlot", "nics { slot: 999 }", "nics[0].slot: 999 is too big"},
         {"Mtu", "nics { mtu: 65536 }", "nics[0].mtu: 65536 is too big; at most 65535"},
         {"Mac", "nics {} nics { mac: \"02:00\" }", "nics[1].mac: \"02:00\" is not six bytes"},
         {"NegativeTimeout", "shutdown_timeout { seconds: -1 }", "shutdown_timeout: -1 s"},
         {"HugeTimeout", "shutdown_timeout { seconds: 315576000000 }", "shutdown_timeout: "},
         {"FineTimeout", "shutdown_timeout { nanos: 1 }", "shutdown_timeout: 0 s and 1 ns"},
         {"NegativeNanos", "shutdown_timeout { seconds: 1 nanos: -5 }", "shutdown_timeout: "}}),
    [](const auto& info) { return info.param.name; });

TEST(ConfigConvert, UnknownEnumValuesAreNamed) {
  v1::VmConfig message;
  message.add_disks()->set_format(v1::Disk::RAW);
  message.add_disks()->set_format(static_cast<v1::Disk::Format>(7));
  EXPECT_EQ(ConfigFromProto(message).status(),
            absl::InvalidArgumentError("disks[1].format: 7 is not known; use RAW or QCOW2"));

  message.Clear();
  message.mutable_memory()->set_backing(static_cast<v1::Memory::Backing>(-1));
  EXPECT_EQ(ConfigFromProto(message).status(),
            absl::InvalidArgumentError(
                "memory.backing: -1 is not known; use PRIVATE or SHARED or HUGEPAGES"));

  message.Clear();
  message.set_on_crash(static_cast<v1::OnCrash>(9));
  EXPECT_EQ(ConfigFromProto(message).status(),
            absl::InvalidArgumentError("on_crash: 9 is not known; use RESET or STOP or PAUSE"));

  message.Clear();
  message.mutable_console()->set_mode(static_cast<v1::Console::Mode>(9));
  EXPECT_EQ(ConfigFromProto(message).status(),
            absl::InvalidArgumentError(
                "console.mode: 9 is not known; use NONE or STDIO or FILE or BUFFER"));
}

TEST(ConfigConvert, JsonGoesThereAndBack) {
  const absl::StatusOr<VmConfig> config = ConfigFromProto(Message(kFull));
  ASSERT_TRUE(config.ok()) << config.status();
  const absl::StatusOr<VmConfig> again = ConfigFromJson(ConfigToJson(*config));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(MessageDifferencer::Equals(ConfigToProto(*again), ConfigToProto(*config)));
}

TEST(ConfigConvert, JsonAcceptsBothSpellingsOfAField) {
  const absl::StatusOr<VmConfig> config = ConfigFromJson(
      R"({"memory": {"size_bytes": 1073741824}, "onCrash": "STOP", "shutdown_timeout": "5s"})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->memory.size_bytes, uint64_t{1} << 30);
  EXPECT_EQ(config->on_crash, OnCrash::kStop);
  EXPECT_EQ(config->shutdown_timeout_ms, 5000u);
}

struct BadJson {
  std::string name;
  std::string json;
  std::string want;  // The field or value at fault.
};

class BadJsonTest : public testing::TestWithParam<BadJson> {};

TEST_P(BadJsonTest, IsRefusedInOneLine) {
  const absl::Status status = ConfigFromJson(GetParam().json).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().want));
  EXPECT_EQ(status.message().find('\n'), absl::string_view::npos) << status;
}

INSTANTIATE_TEST_SUITE_P(
    Convert, BadJsonTest,
    testing::ValuesIn<BadJson>({{"UnknownField", R"({"memroy": {}})", "memroy"},
                                {"UnknownNested", R"({"disks": [{"paht": "x"}]})", "paht"},
                                {"UnknownEnum", R"({"disks": [{"format": "VMDK"}]})", "VMDK"},
                                {"WrongType", R"({"cpus": {"boot": "many"}})", "many"},
                                {"Syntax", "{\"name\":\n \"x\"\n", "Unexpected end of string"},
                                {"Empty", "", ""},
                                {"NotAnObject", "[1]", ""}}),
    [](const auto& info) { return info.param.name; });

TEST(ConfigConvert, NamesThatAreNotUtf8AreStillSerialised) {
  VmConfig config;
  config.name = "caf\xc3\xa9";
  config.boot.kernel = "/boot/\xff\xc0\xaf\xed\xa0\x80/k\xf0\x9f\x90\xa7";
  const v1::VmConfig message = ConfigToProto(config);
  EXPECT_EQ(message.name(), "caf\xc3\xa9");
  EXPECT_EQ(message.boot().kernel(), "/boot/" + std::string(6, '?') + "/k\xf0\x9f\x90\xa7");
  v1::VmConfig parsed;
  EXPECT_TRUE(parsed.ParseFromString(message.SerializeAsString()));
}

TEST(ConfigConvert, MacAddressesAreTakenInEitherCase) {
  const auto mac = ParseMac("02:aB:cd:EF:00:9f");
  ASSERT_TRUE(mac.ok()) << mac.status();
  EXPECT_EQ(FormatMac(*mac), "02:ab:cd:ef:00:9f");
}

class BadMac : public testing::TestWithParam<std::string> {};

TEST_P(BadMac, IsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(ParseMac(GetParam()).status())) << GetParam();
}

INSTANTIATE_TEST_SUITE_P(ConfigConvert, BadMac,
                         testing::Values("", "02", "02:00:00:00:00", "02:00:00:00:00:00:00",
                                         "02:00:00:00:00:0g", "02:00:00:00:00:1",
                                         "02:00:00:00:00:+1", "02-00-00-00-00-01"));

}  // namespace
}  // namespace vireo::api
