// The kernel's command line: assembled from its parts and checked.

#ifndef VIREO_VMM_X86_CMDLINE_H_
#define VIREO_VMM_X86_CMDLINE_H_

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vireo::x86 {

// `configured`, then each of `extra` unless its key (the part before '=') stands in `configured`
// already, separated by single spaces. INVALID_ARGUMENT when it holds a NUL or a line break.
absl::StatusOr<std::string> AssembleCommandLine(std::string_view configured,
                                                std::span<const std::string> extra = {});

// INVALID_ARGUMENT when `command_line` is longer than `limit` bytes (without the closing NUL): says
// both lengths. `kernel` names the kernel file in the message.
absl::Status CheckCommandLine(std::string_view command_line, size_t limit, std::string_view kernel);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_CMDLINE_H_
