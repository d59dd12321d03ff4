// What the programs and GetVersion say of themselves.
#ifndef VIREO_API_VERSION_H_
#define VIREO_API_VERSION_H_

namespace vireo::api {

inline constexpr char kVersion[] = "0.1.0";
inline constexpr char kApiVersion[] = "v1";

}  // namespace vireo::api

#endif  // VIREO_API_VERSION_H_
