#include "vmm/firmware_descriptors.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

namespace vireo {

std::vector<std::string> FirmwareDescriptorFolders() {
  return {"/etc/qemu/firmware", "/usr/share/qemu/firmware"};
}

std::string DescriptorThatRequiresSmm(const std::vector<std::string>& folders,
                                      const std::vector<std::string>& images) {
  for (const std::string& folder : folders) {
    std::error_code error;
    for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error)) {
      if (entry->path().extension() != ".json") continue;
      std::ostringstream text;
      text << std::ifstream(entry->path()).rdbuf();
      // Both are strings of their own in it, whatever else it says.
      const std::string json = text.str();
      if (json.find("\"requires-smm\"") == std::string::npos) continue;
      for (const std::string& image : images) {
        if (json.find("\"" + image + "\"") != std::string::npos) return entry->path().string();
      }
    }
  }
  return "";
}

}  // namespace vireo
