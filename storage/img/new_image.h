// What a new image shall be, as options "name=value" of a command line say it, and its making.
//
// Names, defaults and texts are those of qemu-img. Values are first taken as they stand (they are
// shown before anything is made), then turned into what the engine wants.

#ifndef VIREO_STORAGE_IMG_NEW_IMAGE_H_
#define VIREO_STORAGE_IMG_NEW_IMAGE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/opener.h"
#include "storage/crypto/secret_store.h"
#include "storage/img/luks_options.h"
#include "storage/img/unfinished_files.h"
#include "storage/open_image.h"
#include "storage/qcow2/create.h"

namespace vireo::img {

// The list that "-o help" prints.
enum class HelpOf { kFormat, kFormatAndFile };
std::string OptionsHelp(ImageFormat format, HelpOf what);

class NewImage {
 public:
  explicit NewImage(ImageFormat format) : format_(format) {}

  // Takes the text of one -o. INVALID_ARGUMENT for an unknown name or a value of the wrong type.
  absl::Status Add(const std::string& text);
  // One option. The same.
  absl::Status Set(const std::string& name, const std::string& value);

  // Where encrypt.key-secret finds its secret; outlives the object.
  void set_secrets(const SecretStore* secrets) { secrets_ = secrets; }

  ImageFormat format() const { return format_; }
  // As given, or the default; nothing if there is neither.
  std::optional<std::string> Get(const std::string& name) const;
  bool IsSet(const std::string& name) const { return values_.contains(name); }
  // Of option "size", when set.
  std::optional<uint64_t> size_bytes() const;

  // "Formatting 'PATH', fmt=..."
  std::string Describe(const std::string& path) const;

  // For the engine. INVALID_ARGUMENT: values that do not go together; UNIMPLEMENTED.
  absl::StatusOr<qcow2::CreateOptions> ToQcow2() const;
  // The same for one that nobody makes: only as far as its size depends on it. What does not is not
  // looked at.
  absl::StatusOr<qcow2::CreateOptions> Shape() const;
  // How it is to be encrypted, if so. As EncryptionOf().
  absl::StatusOr<std::optional<NewEncryption>> Encryption() const;

 private:
  bool IsOn(const char* name) const;
  // What both have in common.
  absl::StatusOr<qcow2::CreateOptions> Sizes() const;

  ImageFormat format_;
  std::map<std::string, std::string> values_;
  const SecretStore* secrets_ = nullptr;
};

// OK if "-o" may take `text`: INVALID_ARGUMENT "Invalid option list: ...".
absl::Status CheckOptionList(const std::string& text);

// Makes the image, in place of a file that may be there, and adds what it makes to `made`, which
// outlives the task.
Task<absl::Status> MakeImage(EventLoop& loop, Opener& opener, std::string path, NewImage wanted,
                             UnfinishedFiles* made);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_NEW_IMAGE_H_
