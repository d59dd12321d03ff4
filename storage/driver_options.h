// Options of a tree of block drivers, as a command line or a JSON name states them.
//
//   driver=qcow2,file.driver=file,file.filename=disk.qcow2
//   json:{"driver": "qcow2", "file": {"driver": "file", "filename": "disk.qcow2"}}
//
// Both become a flat set of keys with dots in them; elements of a JSON array have their number as
// key. Each driver takes out what it knows, so that what is left is what nobody knows. Texts of
// errors are QEMU's. Names that stand in an image are never read here.

#ifndef VIREO_STORAGE_DRIVER_OPTIONS_H_
#define VIREO_STORAGE_DRIVER_OPTIONS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vireo {

class DriverOptions {
 public:
  // "key=value,key=value": a comma in a value is doubled, a later key wins. INVALID_ARGUMENT for a
  // key without a value, and past the limits below.
  static absl::StatusOr<DriverOptions> FromKeyValues(absl::string_view text);
  // What follows "json:" in a name: one object. Strings may stand in single quotes.
  static absl::StatusOr<DriverOptions> FromJson(absl::string_view text);

  // Of text, of nesting, and of keys.
  static constexpr size_t kMaxBytes = 1 << 20;
  static constexpr int kMaxDepth = 256;
  static constexpr size_t kMaxKeys = 16384;

  bool empty() const { return values_.empty(); }
  bool Has(const std::string& key) const { return values_.count(key) != 0; }
  bool HasBelow(const std::string& key) const;
  void Set(const std::string& key, std::string value);
  // The key that comes first, of those that nobody has taken; not of an empty set.
  const std::string& FirstKey() const { return values_.begin()->first; }
  // Adds what is in `other` and not here.
  void Inherit(const DriverOptions& other);

  // These take a key out. Without it: nothing, or `otherwise`. A null of JSON is nothing, too.
  std::optional<std::string> Take(const std::string& key);
  // Null of JSON: true.
  bool TakeNull(const std::string& key);
  absl::StatusOr<bool> TakeSwitch(const std::string& key, bool otherwise);
  // A number of bytes, with a suffix or without.
  absl::StatusOr<std::optional<uint64_t>> TakeSize(const std::string& key);
  absl::StatusOr<std::optional<int64_t>> TakeNumber(const std::string& key);
  // All that is below "key.", without that.
  DriverOptions TakeBelow(const std::string& key);

  // One key with one value, all of it: for tests and for showing.
  const std::map<std::string, std::optional<std::string>>& values() const { return values_; }

 private:
  class JsonReader;

  absl::Status Insert(std::string key, std::optional<std::string> value);

  std::map<std::string, std::optional<std::string>> values_;  // Nothing: a null of JSON.
};

}  // namespace vireo

#endif  // VIREO_STORAGE_DRIVER_OPTIONS_H_
