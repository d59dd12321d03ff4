// What a distribution says of its firmware images (QEMU's docs/interop/firmware.json): a JSON file
// each, in known folders.
#ifndef VIREO_VMM_FIRMWARE_DESCRIPTORS_H_
#define VIREO_VMM_FIRMWARE_DESCRIPTORS_H_

#include <string>
#include <vector>

namespace vireo {

// Where Debian has them.
std::vector<std::string> FirmwareDescriptorFolders();

// The descriptor in one of `folders` that names one of `images` and its feature "requires-smm";
// empty when there is none. Folders and files that cannot be read are left out.
std::string DescriptorThatRequiresSmm(const std::vector<std::string>& folders,
                                      const std::vector<std::string>& images);

}  // namespace vireo

#endif  // VIREO_VMM_FIRMWARE_DESCRIPTORS_H_
