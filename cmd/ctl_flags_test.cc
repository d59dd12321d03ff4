#include "cmd/ctl_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace vireo {
namespace {

using testing::HasSubstr;
using Args = std::vector<std::string>;

CtlOptions Parse(const Args& args, const std::string& api = "unix:env.sock") {
  const absl::StatusOr<CtlCommand> command = ParseCtlArgs(args, api);
  EXPECT_TRUE(command.ok()) << command.status();
  return command.ok() ? std::get<CtlOptions>(*command) : CtlOptions();
}

class VerbTest : public testing::TestWithParam<std::pair<std::string, CtlVerb>> {};
TEST_P(VerbTest, IsKnownAndExplained) {
  Args args = {GetParam().first};
  if (GetParam().second == CtlVerb::kCreate) args.push_back("--config=vm.json");
  if (GetParam().second == CtlVerb::kThrottle) args.push_back("disk0");
  if (GetParam().second == CtlVerb::kEject) args.push_back("cdrom0");
  if (GetParam().second == CtlVerb::kInsert) args.insert(args.end(), {"cdrom0", "a.iso"});
  EXPECT_EQ(Parse(args).verb, GetParam().second);
  const std::string help = std::get<PrintText>(*ParseCtlArgs({"--help"}, "")).text;
  EXPECT_THAT(help, HasSubstr("\n  " + GetParam().first));
}
INSTANTIATE_TEST_SUITE_P(
    CtlArgs, VerbTest,
    testing::Values(std::pair("info", CtlVerb::kInfo), std::pair("create", CtlVerb::kCreate),
                    std::pair("boot", CtlVerb::kBoot), std::pair("pause", CtlVerb::kPause),
                    std::pair("resume", CtlVerb::kResume),
                    std::pair("shutdown", CtlVerb::kShutdown), std::pair("reset", CtlVerb::kReset),
                    std::pair("stop", CtlVerb::kStop), std::pair("stats", CtlVerb::kStats),
                    std::pair("events", CtlVerb::kEvents), std::pair("console", CtlVerb::kConsole),
                    std::pair("throttle", CtlVerb::kThrottle),
                    std::pair("insert", CtlVerb::kInsert), std::pair("eject", CtlVerb::kEject),
                    std::pair("version", CtlVerb::kVersion)),
    [](const auto& info) { return std::string(info.param.first); });

TEST(CtlArgs, AddressComesFromTheFlagElseFromTheEnvironment) {
  EXPECT_EQ(Parse({"info"}).api, "unix:env.sock");
  EXPECT_EQ(Parse({"--api", "unix:a", "info"}).api, "unix:a");
  EXPECT_EQ(Parse({"info", "--api=unix:a"}).api, "unix:a");
}

TEST(CtlArgs, FlagsReachTheirFields) {
  const CtlOptions create =
      Parse({"create", "--config", "vm.json", "--operation-id=o1", "--json", "--timeout", "2m"});
  EXPECT_EQ(create.config_path, "vm.json");
  EXPECT_EQ(create.operation_id, "o1");
  EXPECT_TRUE(create.json);
  EXPECT_EQ(create.timeout, absl::Minutes(2));
  EXPECT_TRUE(Parse({"shutdown", "--wait"}).wait);
  const CtlOptions events = Parse({"events", "--after", "7", "--until", "stopped"});
  EXPECT_EQ(events.after, 7u);
  EXPECT_EQ(events.until_state, v1::STOPPED);
  const CtlOptions throttle = Parse({"throttle", "disk1", "bps-read=1M,iops-write=50"});
  EXPECT_EQ(throttle.disk, "disk1");
  EXPECT_EQ(throttle.throttle.bytes_read.per_second, uint64_t{1} << 20);
  EXPECT_EQ(throttle.throttle.ops_write.per_second, 50u);
  EXPECT_EQ(Parse({"throttle", "disk1"}).throttle, DiskThrottle());
  const CtlOptions insert = Parse({"insert", "cdrom0", "/iso/a.iso"});
  EXPECT_EQ(insert.verb, CtlVerb::kInsert);
  EXPECT_EQ(insert.cdrom, "cdrom0");
  EXPECT_EQ(insert.path, "/iso/a.iso");
  EXPECT_FALSE(insert.force);
  const CtlOptions eject = Parse({"eject", "cdrom0", "--force"});
  EXPECT_EQ(eject.verb, CtlVerb::kEject);
  EXPECT_EQ(eject.path, "");
  EXPECT_TRUE(eject.force);
  const CtlOptions console = Parse({"console", "--escape=^a", "--until", "login:", "--until-eof"});
  EXPECT_EQ(console.escape_key, 1);
  EXPECT_EQ(console.until_text, "login:");
  EXPECT_TRUE(console.until_eof);
  EXPECT_EQ(Parse({"console"}).escape_key, kEscapeKey);
}

TEST(CtlArgs, VersionNeedsNoVm) {
  EXPECT_EQ(Parse({"version"}, "").verb, CtlVerb::kVersion);
  EXPECT_EQ(Parse({"--version"}, "").verb, CtlVerb::kVersion);
}

struct BadLine {
  std::string name;
  Args args;
  std::string want;
};
class BadLineTest : public testing::TestWithParam<BadLine> {};
TEST_P(BadLineTest, IsSaidInOneLine) {
  EXPECT_EQ(ParseCtlArgs(GetParam().args, "").status(),
            absl::InvalidArgumentError(GetParam().want));
}
INSTANTIATE_TEST_SUITE_P(
    CtlArgs, BadLineTest,
    testing::ValuesIn<BadLine>(
        {{"NoVerb", {"--api=unix:a"}, "no verb; vireoctl --help lists them"},
         {"UnknownVerb",
          {"--api=unix:a", "puase"},
          "puase: unknown verb (did you mean pause?); vireoctl --help lists them"},
         {"NoApi", {"info"}, "--api: missing; give --api unix:PATH or set VIREO_API"},
         {"UnknownFlag", {"info", "--jsno"}, "--jsno: unknown flag (did you mean --json?)"},
         {"FlagOfAnotherVerb",
          {"--api=unix:a", "info", "--wait"},
          "--wait: not for `vireoctl info`"},
         {"Stray", {"--api=unix:a", "boot", "now"}, "now: not expected after `vireoctl boot`"},
         {"ThrottleOfNoDisk",
          {"--api=unix:a", "throttle"},
          "throttle: no disk; `vireoctl throttle` needs its id"},
         {"NoDrive",
          {"--api=unix:a", "eject"},
          "eject: no drive; `vireoctl eject` needs a drive's id"},
         {"NoMedium",
          {"--api=unix:a", "insert", "cdrom0"},
          "insert: no image; `vireoctl insert` needs a drive's id and an ISO image"},
         {"EjectOfAFile",
          {"--api=unix:a", "eject", "cdrom0", "a.iso"},
          "a.iso: not expected after `vireoctl eject`"},
         {"BadLimit",
          {"--api=unix:a", "throttle", "disk0", "iops-read-max=5"},
          "throttle: iops-read: a burst of 5 a second needs a limit to go beyond"},
         {"NoConfig",
          {"--api=unix:a", "create"},
          "--config: missing; `vireoctl create` needs --config FILE"},
         {"BadState",
          {"--api=unix:a", "events", "--until=gone"},
          "--until: \"gone\" is not known; use created or running or paused or stopped"},
         {"BadAfter",
          {"--api=unix:a", "events", "--after=x"},
          "--after: \"x\" is not a number from 0 to 18446744073709551615"},
         {"BadKey",
          {"--api=unix:a", "console", "--escape=ctrl"},
          "--escape: \"ctrl\" is not a key; use ^] and the like, one character, or none"},
         {"EmptyText", {"--api=unix:a", "console", "--until="}, "--until: the text is empty"},
         {"JsonConsole",
          {"--api=unix:a", "console", "--json"},
          "--json: not for `vireoctl console`"},
         {"BadTimeout",
          {"--api=unix:a", "info", "--timeout=x"},
          "--timeout: \"x\" is not a time limit; use seconds, or 500ms, 90s, 2m"}}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
