// Numbers and times as qemu-io reads and writes them.

#ifndef VIREO_STORAGE_IO_WORDS_H_
#define VIREO_STORAGE_IO_WORDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace vireo::io {

// Bytes of "512", "0x200", "64k", "1.5M"; up to 2^63 - 1. The message of an error is what to print.
absl::StatusOr<int64_t> ParseNumber(const std::string& text);

// A byte in decimal, octal or hexadecimal.
std::optional<uint8_t> ParsePattern(const std::string& text);

// "512 bytes", "1.500 KiB", "1 MiB".
std::string FormatSize(double bytes);

enum class TimeForm { kPlain, kFixed };

// "00.02 sec", "0:01:05.12"; kFixed: "0:00.02".
std::string FormatTime(absl::Duration time, TimeForm form);

// The words of a command line; blanks separate them and nothing quotes one.
std::vector<std::string> SplitWords(const std::string& line);

}  // namespace vireo::io

#endif  // VIREO_STORAGE_IO_WORDS_H_
