// A QCOW2 image in memory with blocking calls, for tests.

#ifndef VIREO_TESTS_SUPPORT_QCOW2_DISK_H_
#define VIREO_TESTS_SUPPORT_QCOW2_DISK_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/async/event_loop.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/status.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/image.h"
#include "tests/support/memory_file.h"

namespace vireo::qcow2 {

class Qcow2Disk {
 public:
  explicit Qcow2Disk(CreateOptions options) {
    MemoryFile file(*loop_, medium_);
    MemoryFile data(*loop_, data_medium_, "data");
    has_data_file_ = options.data_file.has_value();
    File* const data_file = has_data_file_ ? &data : nullptr;
    const absl::Status made = loop_->RunTask(CreateImage(file, std::move(options), data_file));
    VIREO_CHECK(made.ok(), made.ToString());
  }
  explicit Qcow2Disk(std::vector<uint8_t> image) { medium_.bytes = std::move(image); }
  ~Qcow2Disk() {
    if (disk_ != nullptr) (void)Close();
  }

  // `backing` may be null.
  absl::Status Open(Image::Options options = {}, std::unique_ptr<BlockBackend> backing = nullptr) {
    absl::StatusOr<std::unique_ptr<BlockBackend>> opened =
        loop_->RunTask(OpenTask(options, std::move(backing)));
    if (!opened.ok()) return opened.status();
    disk_ = *std::move(opened);
    return absl::OkStatus();
  }
  absl::Status Close() {
    const absl::Status closed = loop_->RunTask(disk_->Close());
    disk_.reset();
    return closed;
  }
  // The open disk, as the backing file of another; it closes with that one.
  std::unique_ptr<BlockBackend> Release() { return std::move(disk_); }
  // As if the process had died: what was not written is gone.
  std::vector<uint8_t> TakeBytes() { return medium_.bytes; }

  absl::Status Write(uint64_t offset, uint64_t length, uint8_t byte) {
    std::vector<uint8_t> bytes(length, byte);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    return loop_->RunTask(disk_->Write(offset, IoVecs(&part, 1), WriteFlags{}));
  }
  absl::StatusOr<std::vector<uint8_t>> Read(uint64_t offset, uint64_t length) {
    std::vector<uint8_t> bytes(length, 0xee);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    const absl::Status read = loop_->RunTask(disk_->Read(offset, IoVecs(&part, 1)));
    if (!read.ok()) return read;
    return bytes;
  }
  bool Holds(uint64_t offset, uint64_t length, uint8_t byte) {
    const auto bytes = Read(offset, length);
    return bytes.ok() && *bytes == std::vector<uint8_t>(length, byte);
  }
  absl::Status Flush() { return loop_->RunTask(disk_->Flush()); }
  absl::Status Discard(uint64_t offset, uint64_t length) {
    return loop_->RunTask(disk_->Discard(offset, length));
  }
  absl::Status Zero(uint64_t offset, uint64_t length, bool may_unmap) {
    return loop_->RunTask(disk_->WriteZeroes(offset, length, {.may_unmap = may_unmap}));
  }
  absl::StatusOr<CheckResult> Check(Repair repair = Repair::kNone, CheckReport* report = nullptr) {
    MemoryFile file(*loop_, medium_);
    return loop_->RunTask(CheckImage(file, repair, report));
  }
  absl::StatusOr<Header> ReadTheHeader(Access access = Access::kInspect) {
    MemoryFile file(*loop_, medium_);
    return loop_->RunTask(ReadHeader(file, access));
  }

  uint64_t Load64(uint64_t offset) const {
    Be64 value;
    std::memcpy(&value, medium_.bytes.data() + offset, sizeof(value));
    return value;
  }
  void Store64(uint64_t offset, uint64_t value) {
    const Be64 wire(value);
    std::memcpy(medium_.bytes.data() + offset, &wire, sizeof(wire));
  }
  uint16_t Load16(uint64_t offset) const {
    Be16 value;
    std::memcpy(&value, medium_.bytes.data() + offset, sizeof(value));
    return value;
  }
  void Store16(uint64_t offset, uint16_t value) {
    const Be16 wire(value);
    std::memcpy(medium_.bytes.data() + offset, &wire, sizeof(wire));
  }

  EventLoop& loop() { return *loop_; }
  MemoryMedium& medium() { return medium_; }
  MemoryMedium& data_medium() { return data_medium_; }
  BlockBackend& disk() { return *disk_; }

 private:
  Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> OpenTask(
      Image::Options options, std::unique_ptr<BlockBackend> backing) {
    auto file = std::make_unique<MemoryFile>(*loop_, medium_);
    absl::StatusOr<Header> header =
        co_await ReadHeader(*file, options.read_only ? Access::kReadOnly : Access::kReadWrite);
    CO_RETURN_IF_ERROR(header.status());
    Image::Parts parts = {.file = std::move(file), .backing = std::move(backing)};
    if (has_data_file_) {
      parts.data = std::make_unique<MemoryFile>(*loop_, data_medium_, "data");
    }
    auto image = co_await Image::Open(*loop_, *std::move(header), std::move(parts), options);
    co_return image;
  }

  // One for all disks of a test program: the kernel takes its time to free a ring, and a fuzz
  // target would need thousands.
  static EventLoop& SharedLoop() {
    static EventLoop* const loop = EventLoop::Create()->release();
    return *loop;
  }

  EventLoop* const loop_ = &SharedLoop();
  MemoryMedium medium_;
  MemoryMedium data_medium_ = {.inode = 2};
  bool has_data_file_ = false;
  std::unique_ptr<BlockBackend> disk_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_TESTS_SUPPORT_QCOW2_DISK_H_
