// Bytes that nobody may find later: passphrases and keys. Wiped when they go.

#ifndef VIREO_STORAGE_CRYPTO_SECRET_H_
#define VIREO_STORAGE_CRYPTO_SECRET_H_

#include <string.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

namespace vireo {

class Secret {
 public:
  Secret() = default;
  // Zeros.
  explicit Secret(size_t size) : bytes_(std::make_unique<uint8_t[]>(size)), size_(size) {}
  explicit Secret(std::span<const uint8_t> bytes) : Secret(bytes.size()) {
    if (!bytes.empty()) memcpy(bytes_.get(), bytes.data(), bytes.size());
  }
  explicit Secret(const std::string& text)
      : Secret(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size())) {}
  Secret(Secret&& other) noexcept
      : bytes_(std::move(other.bytes_)), size_(std::exchange(other.size_, 0)) {}
  Secret& operator=(Secret&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Secret() {
    if (bytes_ != nullptr) explicit_bzero(bytes_.get(), size_);
  }

  size_t size() const { return size_; }
  std::span<const uint8_t> bytes() const { return {bytes_.get(), size_}; }
  std::span<uint8_t> bytes() { return {bytes_.get(), size_}; }

 private:
  std::unique_ptr<uint8_t[]> bytes_;
  size_t size_ = 0;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_CRYPTO_SECRET_H_
