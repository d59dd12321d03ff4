// Whatever bytes a client sends as a VmConfig: they are refused, or make a configuration that
// survives the way back.
#include <google/protobuf/util/message_differencer.h>

#include <cstdint>
#include <string>

#include "api/config_convert.h"
#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using vireo::api::ConfigFromProto;
  using vireo::api::ConfigToProto;
  vireo::v1::VmConfig message;
  if (message.ParseFromArray(data, static_cast<int>(size))) {
    const absl::StatusOr<vireo::VmConfig> config = ConfigFromProto(message);
    VIREO_CHECK(config.ok() || absl::IsInvalidArgument(config.status()));
    if (config.ok()) {
      const vireo::v1::VmConfig once = ConfigToProto(*config);
      const absl::StatusOr<vireo::VmConfig> again = ConfigFromProto(once);
      VIREO_CHECK(again.ok());
      VIREO_CHECK(google::protobuf::util::MessageDifferencer::Equals(ConfigToProto(*again), once));
      vireo::Validate(*config).IgnoreError();
    }
  }
  const std::string json(reinterpret_cast<const char*>(data), size);
  vireo::api::ConfigFromJson(json).status().IgnoreError();
  return 0;
}
