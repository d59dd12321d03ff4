#include "storage/driver_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

namespace vireo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

DriverOptions Parse(const std::string& text) {
  absl::StatusOr<DriverOptions> options = DriverOptions::FromKeyValues(text);
  EXPECT_TRUE(options.ok()) << options.status();
  return options.ok() ? *options : DriverOptions();
}

TEST(DriverOptionsTest, ReadsKeysAndValues) {
  EXPECT_THAT(Parse("driver=raw,file.filename=a,,b=c,read-only,noauto,driver=qcow2").values(),
              ElementsAre(Pair("auto", "off"), Pair("driver", "qcow2"),
                          Pair("file.filename", "a,b=c"), Pair("read-only", "on")));
}

TEST(DriverOptionsTest, FlattensJson) {
  const auto options = DriverOptions::FromJson(
      R"( {"driver": "qcow2", "file": {"driver": "file", "filename": "a\"b", "locking": true},)"
      R"( "backing": null, "list": [{"n": -1}, {"n": 18446744073709551615}, 2], "o": {}} )");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_THAT(options->values(),
              ElementsAre(Pair("backing", std::nullopt), Pair("driver", "qcow2"),
                          Pair("file.driver", "file"), Pair("file.filename", "a\"b"),
                          Pair("file.locking", "on"), Pair("list.0.n", "-1"),
                          Pair("list.1.n", "18446744073709551615"), Pair("list.2", "2")));
}

TEST(DriverOptionsTest, TakesSingleQuotes) {
  const auto options = DriverOptions::FromJson(R"({'a': 'it\'s "so"', "b": "it's"})");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_THAT(options->values(), ElementsAre(Pair("a", "it's \"so\""), Pair("b", "it's")));
}

struct BadJson {
  const char* name;
  std::string text;
  const char* message;
};

std::ostream& operator<<(std::ostream& out, const BadJson& bad) { return out << bad.name; }

class BadJsonTest : public testing::TestWithParam<BadJson> {};

TEST_P(BadJsonTest, IsRefused) {
  const auto options = DriverOptions::FromJson(GetParam().text);
  ASSERT_FALSE(options.ok());
  EXPECT_THAT(std::string(options.status().message()), HasSubstr(GetParam().message));
}

std::string Nested(int depth) {
  std::string text;
  for (int i = 0; i < depth; ++i) text += "{\"a\":";
  text += "1";
  return text + std::string(depth, '}');
}

std::string ManyKeys() {
  std::string text = "{\"a\":[0";
  for (size_t i = 0; i < DriverOptions::kMaxKeys; ++i) text += ",0";
  return text + "]}";
}

INSTANTIATE_TEST_SUITE_P(
    Json, BadJsonTest,
    testing::Values(
        BadJson{"Nothing", " ", "Expecting a JSON value"},
        BadJson{"Array", "[1]", "Invalid JSON object given"},
        BadJson{"Number", "1", "Invalid JSON object given"},
        BadJson{"Open", "{", "Could not parse the JSON options: JSON parse error, premature EOI"},
        BadJson{"Comma", "{\"a\":1,}", "JSON parse error, "},
        BadJson{"Rest", "{\"a\":1}x", "Expecting at most one JSON value"},
        BadJson{"OpenQuote", "{'a", "JSON parse error, "},
        BadJson{"Nul", "{\"a\":\"\\u0000\"}", "holds a NUL"},
        BadJson{"EmptyKey", "{\"\":1}", "invalid key"},
        BadJson{"Deep", Nested(DriverOptions::kMaxDepth + 1), "nested too deeply"},
        BadJson{"ManyKeys", ManyKeys(), "options"},
        BadJson{"LongKeys", "{\"" + std::string(5000, 'k') + "\":{\"a\":1}}", "keys are too long"},
        BadJson{"Long", "{\"a\":\"" + std::string(1 << 20, 'v') + "\"}",
                "more than 1048576 bytes"}),
    [](const testing::TestParamInfo<BadJson>& info) { return info.param.name; });

TEST(DriverOptionsTest, ChecksTypes) {
  DriverOptions options = Parse("s=on,t=maybe,size=64k,half=1.5M,b=1x,n=-5,h=0x10,m=x,e=16E");
  EXPECT_EQ(*options.TakeSwitch("s", false), true);
  EXPECT_EQ(*options.TakeSwitch("absent", true), true);
  EXPECT_EQ(options.TakeSwitch("t", false).status().message(),
            "Parameter 't' expects 'on' or 'off'");
  EXPECT_EQ(*options.TakeSize("size"), std::optional<uint64_t>(65536));
  EXPECT_EQ(*options.TakeSize("half"), std::optional<uint64_t>(3 << 19));
  EXPECT_EQ(*options.TakeSize("absent"), std::nullopt);
  EXPECT_FALSE(options.TakeSize("b").ok());
  EXPECT_FALSE(options.TakeSize("e").ok());
  EXPECT_EQ(*options.TakeNumber("n"), std::optional<int64_t>(-5));
  EXPECT_EQ(*options.TakeNumber("h"), std::optional<int64_t>(16));
  EXPECT_EQ(options.TakeNumber("m").status().message(), "Parameter 'm' expects a number");
  EXPECT_TRUE(options.empty());
}

TEST(DriverOptionsTest, GivesEachDriverItsOwn) {
  DriverOptions options = Parse("driver=qcow2,file.driver=raw,file.file.filename=x,filed=1");
  EXPECT_TRUE(options.HasBelow("file"));
  DriverOptions file = options.TakeBelow("file");
  EXPECT_THAT(file.values(), ElementsAre(Pair("driver", "raw"), Pair("file.filename", "x")));
  EXPECT_EQ(options.Take("driver"), "qcow2");
  EXPECT_EQ(options.FirstKey(), "filed");
}

TEST(DriverOptionsTest, TellsNullFromAbsent) {
  auto options = DriverOptions::FromJson(R"({"backing": null, "file": "x"})");
  ASSERT_TRUE(options.ok());
  EXPECT_TRUE(options->TakeNull("backing"));
  EXPECT_FALSE(options->TakeNull("backing"));
  EXPECT_FALSE(options->TakeNull("file"));
  EXPECT_EQ(options->Take("file"), "x");
}

}  // namespace
}  // namespace vireo
