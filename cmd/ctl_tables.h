// The API's answers as text for people, and as JSON for programs. Pure functions; every text ends
// with a newline.
#ifndef VIREO_CMD_CTL_TABLES_H_
#define VIREO_CMD_CTL_TABLES_H_

#include <google/protobuf/message.h>

#include <cstdint>
#include <string>

#include "api/v1/vireo.pb.h"

namespace vireo {

std::string DescriptionTable(const v1::VmDescription& vm);
std::string StatsTable(const v1::VmStats& stats);
// One line: time, number, what happened, the state after it, why.
std::string EventLine(const v1::Event& event);
std::string StateWord(v1::VmState state);  // "running"

// Sizes as people read them: "512 B", "1.5 GiB".
std::string HumanBytes(uint64_t bytes);

enum class JsonForm { kIndented, kOneLine };
// Fields by their names in the .proto, those that hold a default included.
std::string ToJson(const google::protobuf::Message& message, JsonForm form);

}  // namespace vireo

#endif  // VIREO_CMD_CTL_TABLES_H_
