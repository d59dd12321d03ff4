// A File whose sectors of 512 bytes are encrypted in another: what a QCOW2 image with LUKS keeps
// its guest data in (qcow2 spec, "Data encryption"). A sector's number is its offset in that file.
//
// Nothing is decrypted in the caller's memory but what the caller asked for, and nothing encrypted
// ever passes through it: it may be a guest's. Owned by one loop; big requests are ciphered on the
// loop's pool.

#ifndef VIREO_STORAGE_CRYPTO_ENCRYPTED_FILE_H_
#define VIREO_STORAGE_CRYPTO_ENCRYPTED_FILE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/buffer_pool.h"
#include "storage/crypto/cipher.h"
#include "storage/crypto/secret.h"
#include "storage/file.h"
#include "storage/range_lock.h"

namespace vireo::crypto {

class EncryptedFile final : public File {
 public:
  struct Parts {
    File* file = nullptr;         // Outlives this one, which leaves it open.
    std::unique_ptr<File> owned;  // Or this, which is closed.
  };

  // `key` has cipher.key_bytes().
  static absl::StatusOr<std::unique_ptr<File>> Create(EventLoop& loop, Parts parts,
                                                      const CipherSpec& cipher, Secret key);

  const std::string& name() const override { return file_.name(); }
  const FileTraits& traits() const override { return traits_; }
  FileIdentity identity() const override { return file_.identity(); }
  uint64_t size() const override { return file_.size(); }
  absl::StatusOr<uint64_t> AllocatedBytes() override { return file_.AllocatedBytes(); }

  // What was never written, holes and what lies past the end too, reads as noise.
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  Task<absl::Status> Write(uint64_t offset, IoVecs src) override;
  Task<absl::Status> Sync() override { return file_.Sync(); }
  Task<absl::Status> Extend(uint64_t size) override { return file_.Extend(size); }
  Task<absl::Status> Truncate(uint64_t size) override { return file_.Truncate(size); }
  // Writes them.
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  // Gives back nothing: a hole would read as noise.
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  // All of it is data.
  Task<absl::StatusOr<FileExtent>> Extent(uint64_t offset) override;
  Task<absl::Status> Close() override;

 private:
  using CipherHandle = std::unique_ptr<SectorCipher>;
  enum class Direction { kEncrypt, kDecrypt };

  EncryptedFile(EventLoop& loop, Parts parts, const CipherSpec& cipher, Secret key);

  absl::StatusOr<CipherHandle> TakeCipher();
  // Of `bytes`, whole sectors from `offset` on, in place.
  Task<absl::Status> Apply(Direction direction, uint64_t offset, std::span<uint8_t> bytes);
  // Reads whole sectors into `bytes` and decrypts them there.
  Task<absl::Status> ReadSectors(uint64_t offset, std::span<uint8_t> bytes);

  EventLoop& loop_;
  const std::unique_ptr<File> owned_;
  File& file_;
  const CipherSpec cipher_;
  const Secret key_;
  FileTraits traits_;
  std::vector<CipherHandle> ciphers_;  // Not in use: as many as were at once.
  BufferPool buffers_;
  RangeLock sectors_;  // Writes: one may have to read the sectors at its edges first.
};

}  // namespace vireo::crypto

#endif  // VIREO_STORAGE_CRYPTO_ENCRYPTED_FILE_H_
