#include "storage/img/json.h"

#include <gtest/gtest.h>

namespace vireo::img {
namespace {

TEST(JsonTest, PrintsIndentedInOrder) {
  Json json = Json::Object();
  json.Add("b", uint64_t{1})
      .Add("a", true)
      .Add("list", Json::Array().Append(Json::Object().Add("x", "y")));
  EXPECT_EQ(
      json.ToString(),
      "{\n    \"b\": 1,\n    \"a\": true,\n    \"list\": [\n        {\n            \"x\": \"y\"\n"
      "        }\n    ]\n}");
}

TEST(JsonTest, EscapesWhatAFileNameMayHold) {
  EXPECT_EQ(Json::Object().Add("k", "a\"b\\c\n\x1b").ToString(),
            "{\n    \"k\": \"a\\\"b\\\\c\\u000A\\u001B\"\n}");
  EXPECT_EQ(Json::Object().Add("k", "gr\xc3\xbc\xc3\x9f").ToString(),
            "{\n    \"k\": \"gr\xc3\xbc\xc3\x9f\"\n}");
  EXPECT_EQ(Json::Object().Add("k", "\xff\xc3").ToString(), "{\n    \"k\": \"\\uFFFD\\uFFFD\"\n}");
}

}  // namespace
}  // namespace vireo::img
