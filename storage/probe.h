// What the first bytes of a file say about its format: for a tool whose user did not state it, and
// nothing else. Whoever can write to a raw disk can make it look like any format.

#ifndef VIREO_STORAGE_PROBE_H_
#define VIREO_STORAGE_PROBE_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace vireo {

constexpr size_t kProbeBytes = 512;

// QEMU's name of the format; "raw" if none is recognised. `head` is the first kProbeBytes of the
// file, or all of a shorter one.
const char* ProbeFormat(std::span<const uint8_t> head);

}  // namespace vireo

#endif  // VIREO_STORAGE_PROBE_H_
