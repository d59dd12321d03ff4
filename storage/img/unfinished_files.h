// Files that this run of the program makes: an interrupted or failed run leaves no half of one.
//
// One list per process, since a signal finds its way to no object. What a signal handler does here
// is unlink(2) and nothing else.

#ifndef VIREO_STORAGE_IMG_UNFINISHED_FILES_H_
#define VIREO_STORAGE_IMG_UNFINISHED_FILES_H_

#include <memory>
#include <string>
#include <vector>

namespace vireo::img {

// Of one verb. Until Finish() the destructor and the signals SIGINT, SIGTERM and SIGHUP remove
// them.
class UnfinishedFiles {
 public:
  UnfinishedFiles() = default;
  ~UnfinishedFiles();
  UnfinishedFiles(const UnfinishedFiles&) = delete;
  UnfinishedFiles& operator=(const UnfinishedFiles&) = delete;

  // `path` has been made, or emptied to be made anew. Block devices, symbolic links and whatever
  // else is no regular file stay.
  void Add(const std::string& path);
  // All of them are whole and stay.
  void Finish();

 private:
  struct Listed {
    std::unique_ptr<const std::string> path;
    int slot;
  };
  std::vector<Listed> listed_;
};

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_UNFINISHED_FILES_H_
