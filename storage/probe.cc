#include "storage/probe.h"

#include <array>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace vireo {
namespace {

struct Signature {
  size_t offset;
  absl::string_view bytes;
  const char* format;
};

// Those that Vireo cannot open are here to be refused by name, not taken for raw.
constexpr std::array<Signature, 12> kSignatures = {{
    {0, absl::string_view("QFI\xfb\0\0\0\1", 8), "qcow"},
    {0, absl::string_view("QFI\xfb", 4), "qcow2"},
    {0, absl::string_view("QED\0", 4), "qed"},
    {0, absl::string_view("KDMV", 4), "vmdk"},
    {0, absl::string_view("COWD", 4), "vmdk"},
    {0, absl::string_view("# Disk DescriptorFile", 21), "vmdk"},
    {0x40, absl::string_view("\x7f\x10\xda\xbe", 4), "vdi"},
    {0, absl::string_view("vhdxfile", 8), "vhdx"},
    {0, absl::string_view("conectix", 8), "vpc"},
    {0, absl::string_view("LUKS\xba\xbe", 6), "luks"},
    {0, absl::string_view("WithoutFreeSpace", 16), "parallels"},
    {0, absl::string_view("WithouFreSpacExt", 16), "parallels"},
}};

}  // namespace

const char* ProbeFormat(std::span<const uint8_t> head) {
  const absl::string_view bytes(reinterpret_cast<const char*>(head.data()), head.size());
  for (const Signature& signature : kSignatures) {
    if (bytes.size() < signature.offset) continue;
    if (absl::StartsWith(bytes.substr(signature.offset), signature.bytes)) return signature.format;
  }
  return "raw";
}

}  // namespace vireo
