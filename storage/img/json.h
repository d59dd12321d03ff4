// JSON for output: values that print themselves, indented by four, in the order they were added.

#ifndef VIREO_STORAGE_IMG_JSON_H_
#define VIREO_STORAGE_IMG_JSON_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace vireo::img {

class Json {
 public:
  static Json Object() { return Json('{', '}'); }
  static Json Array() { return Json('[', ']'); }

  // Members of an object.
  Json& Add(const std::string& key, const std::string& value);
  Json& Add(const std::string& key, const char* value) { return Add(key, std::string(value)); }
  Json& Add(const std::string& key, uint64_t value);
  Json& Add(const std::string& key, bool value);
  Json& Add(const std::string& key, Json value);
  // Elements of an array.
  Json& Append(Json value);
  Json& Append(const std::string& value);

  std::string ToString(int indent = 0) const;

 private:
  Json(char open, char close) : open_(open), close_(close) {}
  static Json Literal(std::string text);

  char open_;  // 0 for a literal.
  char close_;
  std::string literal_;
  std::vector<std::pair<std::string, Json>> members_;  // Keys as literals; empty in an array.
};

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_JSON_H_
