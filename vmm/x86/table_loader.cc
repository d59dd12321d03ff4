#include "vmm/x86/table_loader.h"

#include <cstring>
#include <string>

#include "base/check.h"
#include "base/endian.h"

namespace vireo::x86 {
namespace {

constexpr size_t kNameBytes = 56;
constexpr size_t kCommandBytes = 128;

enum : uint32_t { kAllocate = 1, kAddPointer = 2, kAddChecksum = 3 };
enum : uint8_t { kAnywhere = 1, kFSegment = 2 };

struct Allocate {
  Le32 command = uint32_t{kAllocate};
  char file[kNameBytes] = {};
  Le32 alignment;
  uint8_t zone;
};

// Adds the address of `source` to the field, which holds an offset into it.
struct AddPointer {
  Le32 command = uint32_t{kAddPointer};
  char destination[kNameBytes] = {};
  char source[kNameBytes] = {};
  Le32 offset;
  uint8_t size;
};

// Makes the bytes from `start` on sum to zero by way of the one at `offset`.
struct AddChecksum {
  Le32 command = uint32_t{kAddChecksum};
  char file[kNameBytes] = {};
  Le32 offset, start, length;
};
static_assert(sizeof(Allocate) <= kCommandBytes && sizeof(AddPointer) <= kCommandBytes &&
              sizeof(AddChecksum) <= kCommandBytes);

void CopyName(const std::string& name, char (&field)[kNameBytes]) {
  VIREO_CHECK(name.size() < kNameBytes);
  std::memcpy(field, name.data(), name.size());
}

template <typename T>
void Append(const T& command, std::vector<uint8_t>& script) {
  const auto* const bytes = reinterpret_cast<const uint8_t*>(&command);
  script.insert(script.end(), bytes, bytes + sizeof(T));
  script.insert(script.end(), kCommandBytes - sizeof(T), 0);
}

}  // namespace

std::vector<uint8_t> BuildTableLoader(const AcpiTables& tables) {
  std::vector<uint8_t> script;
  for (const AcpiBlob& blob : tables.blobs) {
    Allocate command;
    CopyName(blob.name, command.file);
    command.alignment = blob.alignment;
    command.zone = blob.in_f_segment ? kFSegment : kAnywhere;
    Append(command, script);
  }
  for (const AcpiPointerFixup& pointer : tables.pointers) {
    AddPointer command;
    CopyName(tables.blobs[pointer.blob].name, command.destination);
    CopyName(tables.blobs[pointer.target].name, command.source);
    command.offset = pointer.offset;
    command.size = pointer.size;
    Append(command, script);
  }
  for (const AcpiChecksumFixup& checksum : tables.checksums) {
    AddChecksum command;
    CopyName(tables.blobs[checksum.blob].name, command.file);
    command.offset = checksum.offset;
    command.start = checksum.start;
    command.length = checksum.length;
    Append(command, script);
  }
  return script;
}

}  // namespace vireo::x86
