// What a machine tells of itself, as the API's messages. Pure functions, total.
#ifndef VIREO_API_REPORT_CONVERT_H_
#define VIREO_API_REPORT_CONVERT_H_

#include "api/v1/vireo.pb.h"
#include "vmm/vm_controller.h"

namespace vireo::api {

v1::VmState StateToProto(VmState state);
v1::VmCause CauseToProto(VmCause cause);
v1::VmDescription DescriptionToProto(const VmDescription& description);
v1::VmStats StatsToProto(const VmStats& stats);
v1::Event EventToProto(const VmEvent& event);

}  // namespace vireo::api

#endif  // VIREO_API_REPORT_CONVERT_H_
