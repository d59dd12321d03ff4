// A number of bytes on a command line, and what to say when it is none.

#ifndef VIREO_STORAGE_IMG_SIZE_ARGUMENT_H_
#define VIREO_STORAGE_IMG_SIZE_ARGUMENT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "storage/img/tool.h"

namespace vireo::img {

struct SizeLimits {
  uint64_t min = 0;
  uint64_t max = INT64_MAX;
};

// Nothing, once it has told the user what is wrong with the `name` that was given as `text`.
std::optional<uint64_t> SizeArgument(const Tool& tool, const char* name, const std::string& text,
                                     SizeLimits limits = {});

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_SIZE_ARGUMENT_H_
