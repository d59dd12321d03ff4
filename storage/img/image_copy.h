// Copies disks into another, one behind the other: what convert does once everything is open.
//
// The source's map is walked, not its bytes. Several workers each take the next piece, read it,
// look for zeros in it and write it, many pieces at a time; writes start in the order of the pieces
// (so that a new image is laid out in order) unless told otherwise. One loop.

#ifndef VIREO_STORAGE_IMG_IMAGE_COPY_H_
#define VIREO_STORAGE_IMG_IMAGE_COPY_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/async/async_event.h"
#include "base/async/async_mutex.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "storage/block_backend.h"
#include "storage/buffer_pool.h"
#include "storage/img/pace.h"
#include "storage/img/progress.h"
#include "storage/qcow2/packed_writer.h"

namespace vireo::img {

class ImageCopy {
 public:
  struct Options {
    std::vector<BlockBackend*> sources;
    bool source_has_backing = false;
    BlockBackend* target = nullptr;
    uint64_t unit_bytes = 4096;    // The target stores or leaves out this much at a time.
    uint64_t sparse_bytes = 4096;  // Shorter runs of zeros are stored; 0: all of them are.
    bool target_is_zero = false;   // Zeros need no writing.
    // Set: what the source has from its backing file the target has from its own, which is this
    // long.
    bool target_has_backing = false;
    uint64_t target_backing_bytes = 0;
    int workers = 8;
    bool in_order = true;
    bool salvage = false;  // What cannot be read becomes zeros.
    // Set: what is written goes there, compressed, and not to `target`.
    qcow2::PackedWriter* packer = nullptr;
    // Whole units of data are stored compressed in `target`.
    bool compress = false;
    // The host copies from file to file, where both disks are plain files; what it cannot do is
    // read and written.
    bool offload = false;
    uint64_t bytes_per_second = 0;  // 0 = as fast as it goes.
  };

  // `loop` and `progress` outlive it, and so does what `options` points to.
  ImageCopy(EventLoop& loop, Options options, Progress& progress);

  // The disks, behind one another.
  uint64_t size_bytes() const { return total_; }

  // Not OK: the message says what could not be done at which byte.
  Task<absl::Status> Run();

  // Messages of what --salvage could not read, to be shown.
  std::vector<std::string> TakeWarnings() { return std::move(warnings_); }

 private:
  enum class Kind {
    kData,
    kZero,
    kSkip,  // The target has it already.
  };
  struct Extent {
    Kind kind = Kind::kData;
    uint64_t end = 0;
  };
  struct Piece {
    Kind kind = Kind::kData;
    uint64_t offset = 0;
    uint64_t length = 0;
    uint64_t ticket = 0;
  };

  Task<absl::StatusOr<Extent>> ExtentAt(uint64_t offset);
  // Empty at the end.
  Task<absl::StatusOr<Piece>> NextPiece();
  Task<absl::Status> CountBytes();
  Task<void> Work();
  Task<absl::Status> CopyPiece(Piece piece, uint8_t* bytes);
  Task<absl::Status> ReadPiece(uint64_t offset, uint64_t length, uint8_t* bytes);
  Task<absl::Status> Salvage(BlockBackend* source, uint64_t base, uint64_t offset, uint64_t length,
                             uint8_t* bytes);
  // Lets the host copy a piece of data. False, with nothing lost, if it has to be read and written.
  Task<absl::StatusOr<bool>> OffloadPiece(Piece piece);
  // The same for a piece whose clusters are compressed: all of them at once, then packed in turn.
  Task<absl::Status> PackPiece(Piece piece, uint8_t* bytes);
  struct Packed {
    bool zero = false;
    std::vector<uint8_t> stream;  // Empty: to be stored as it is.
  };
  Task<void> CompressCluster(const uint8_t* bytes, Packed* packed);
  Task<absl::Status> PackData(Piece piece, const uint8_t* bytes, std::vector<Packed>* clusters);
  Task<absl::Status> PackZeros(uint64_t offset, uint64_t length);
  void CountDone(const Piece& piece);
  // Starts the writes of a piece that has been read.
  void StartWrites(const Piece& piece, uint8_t* bytes, TaskScope& writes, absl::Status* status);
  Task<void> WriteData(uint64_t offset, const uint8_t* bytes, uint64_t length,
                       absl::Status* status);
  // Whole units; what is left of the last one is written as it is.
  Task<void> WriteCompressed(uint64_t offset, const uint8_t* bytes, uint64_t length,
                             absl::Status* status);
  Task<void> WriteZeros(uint64_t offset, uint64_t length, absl::Status* status);
  Task<void> WaitForTurn(uint64_t ticket);
  void EndTurn(uint64_t ticket);
  void Fail(absl::Status status);

  EventLoop& loop_;
  const Options options_;
  Progress& progress_;
  std::vector<uint64_t> starts_;  // Of each source.
  uint64_t total_ = 0;

  AsyncMutex walking_;
  uint64_t position_ = 0;
  uint64_t next_ticket_ = 0;
  uint64_t turn_ = 0;
  AsyncEvent turned_;
  Pace pace_;

  bool offload_ = false;  // The host has not refused yet.
  uint64_t to_copy_ = 0;
  uint64_t copied_ = 0;
  absl::Status status_;
  std::vector<std::string> warnings_;
  TaskScope workers_;
};

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_IMAGE_COPY_H_
