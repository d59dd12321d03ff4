// A directory of a test's own, removed with everything in it.
#ifndef VIREO_TESTS_SUPPORT_TEMP_DIR_H_
#define VIREO_TESTS_SUPPORT_TEMP_DIR_H_

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "base/check.h"

namespace vireo {

class TempDir {
 public:
  // Under /tmp whatever TMPDIR says: paths of sockets have to be short.
  TempDir() : TempDir("/tmp") {}
  explicit TempDir(const std::string& where) : path_(where + "/vireo_test_XXXXXX") {
    VIREO_CHECK(::mkdtemp(path_.data()) != nullptr);
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_TEMP_DIR_H_
