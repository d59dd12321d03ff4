// Agreement with QEMU's tools, where they are installed: what one writes the other reads and finds
// sound.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/async/event_loop.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/opener.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/open_image.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/format.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

struct Shape {
  const char* name;
  const char* options;  // qemu-img's.
  qcow2::CreateOptions ours;
  bool backing = false;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.name; }

constexpr uint64_t kBytes = (3 << 20) + 5 * 512;

bool HasQemu() {
  return ::access("/usr/bin/qemu-img", X_OK) == 0 && ::access("/usr/bin/qemu-io", X_OK) == 0;
}

class QemuTest : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!HasQemu()) GTEST_SKIP() << "qemu-img and qemu-io are not installed";
    if (!GetParam().backing) return;
    std::vector<uint8_t> bytes(2 << 20);
    std::mt19937 random(1);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    std::fill_n(bytes.begin() + (1 << 20), 256 << 10, 0);
    std::ofstream out(directory_.File("base.raw"), std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

  // Runs a shell command in the test's folder; its exit status.
  int Shell(const std::string& command) {
    const std::string line =
        absl::StrCat("cd ", directory_.path(), " && (", command, ") > output.txt 2>&1");
    const int status = std::system(line.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
  }
  std::string Output() {
    std::ifstream in(directory_.File("output.txt"));
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::vector<uint8_t> FileBytes(const std::string& name) {
    std::ifstream in(directory_.File(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(bool read_only) {
    return loop_->RunTask(OpenImage(*loop_, opener_,
                                    {.path = directory_.File("disk.qcow2"),
                                     .format = ImageFormat::kQcow2,
                                     .read_only = read_only,
                                     .named_data_files = true}));
  }
  static Task<absl::Status> CreateTask(EventLoop& loop, Opener& opener, std::string path,
                                       qcow2::CreateOptions options) {
    const std::string file_path = path;
    HostFile::Options file_options = {.path = std::move(path), .create = true};
    absl::StatusOr<std::unique_ptr<File>> file =
        co_await HostFile::Open(loop, opener, std::move(file_options));
    CO_RETURN_IF_ERROR(file.status());
    std::unique_ptr<File> data;
    if (options.data_file.has_value()) {
      HostFile::Options data_options = {.path = file_path + ".data", .create = true};
      CO_ASSIGN_OR_RETURN(data, co_await HostFile::Open(loop, opener, std::move(data_options)));
    }
    CO_RETURN_IF_ERROR(co_await qcow2::CreateImage(**file, std::move(options), data.get()));
    if (data != nullptr) CO_RETURN_IF_ERROR(co_await data->Close());
    const absl::Status closed = co_await (*file)->Close();
    co_return closed;
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
};

TEST_P(QemuTest, ReadsOurImagesAndFindsThemSound) {
  qcow2::CreateOptions options = GetParam().ours;
  options.size_bytes = kBytes;
  if (GetParam().backing) {
    options.backing_file = "base.raw";
    options.backing_format = "raw";
  }
  ASSERT_TRUE(
      loop_->RunTask(CreateTask(*loop_, opener_, directory_.File("disk.qcow2"), options)).ok());
  std::vector<uint8_t> model(kBytes);
  if (GetParam().backing) {
    const std::vector<uint8_t> base = FileBytes("base.raw");
    std::copy(base.begin(), base.end(), model.begin());
  }
  {
    absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(false);
    ASSERT_TRUE(disk.ok()) << disk.status();
    std::mt19937 random(2);
    for (int i = 0; i < 60; ++i) {
      const uint64_t length = 512 * (1 + random() % (i % 5 == 0 ? 600 : 40));
      const uint64_t offset = random() % ((kBytes - length) / 512 + 1) * 512;
      const uint8_t byte = i % 4 == 3 ? 0 : static_cast<uint8_t>(1 + random() % 255);
      std::vector<uint8_t> bytes(length, byte);
      const iovec part = ToIoVec(std::span<uint8_t>(bytes));
      if (i % 7 == 5 && !options.data_file.has_value()) {
        const uint64_t cluster = uint64_t{1} << options.cluster_bits;
        const uint64_t first = offset / cluster * cluster;
        const uint64_t count = std::min(cluster, kBytes - first);
        std::fill_n(model.begin() + first, count, byte);
        const iovec whole = {model.data() + first, count};
        const absl::Status done =
            loop_->RunTask((*disk)->WriteCompressed(first, IoVecs(&whole, 1)));
        ASSERT_TRUE(done.ok()) << done;
        continue;
      }
      const absl::Status done =
          byte == 0 ? loop_->RunTask(
                          (*disk)->WriteZeroes(offset, length, {.may_unmap = random() % 2 == 0}))
                    : loop_->RunTask((*disk)->Write(offset, IoVecs(&part, 1), WriteFlags{}));
      ASSERT_TRUE(done.ok()) << done;
      std::copy(bytes.begin(), bytes.end(), model.begin() + offset);
    }
    const absl::Status closed = loop_->RunTask((*disk)->Close());
    ASSERT_TRUE(closed.ok()) << closed;
  }
  ASSERT_EQ(Shell("qemu-img check -f qcow2 disk.qcow2"), 0) << Output();
  ASSERT_EQ(Shell("qemu-img convert -f qcow2 -O raw disk.qcow2 theirs.raw"), 0) << Output();
  EXPECT_TRUE(FileBytes("theirs.raw") == model);
}

TEST_P(QemuTest, WritesImagesThatWeReadAndGoOnWith) {
  const std::string backing = GetParam().backing ? "-b base.raw -F raw" : "";
  ASSERT_EQ(Shell(absl::StrCat("qemu-img create -f qcow2 ", GetParam().options, " ", backing,
                               " disk.qcow2 ", kBytes)),
            0)
      << Output();
  std::string commands = "qemu-io";
  std::mt19937 random(3);
  for (int i = 0; i < 40; ++i) {
    const uint64_t length = 512 * (1 + random() % 200);
    const uint64_t offset = random() % ((kBytes - length) / 512 + 1) * 512;
    const char* const verb = i % 5 == 4 ? "write -z -u" : i % 5 == 3 ? "write -z" : "write";
    const std::string pattern = i % 5 >= 3 ? "" : absl::StrCat("-P ", 1 + i);
    absl::StrAppend(&commands, " -c '", verb, " ", pattern, " ", offset, " ", length, "'");
  }
  ASSERT_EQ(Shell(commands + " disk.qcow2"), 0) << Output();
  ASSERT_EQ(Shell("qemu-img convert -f qcow2 -O raw disk.qcow2 theirs.raw"), 0) << Output();
  std::vector<uint8_t> model = FileBytes("theirs.raw");

  absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(false);
  ASSERT_TRUE(disk.ok()) << disk.status();
  std::vector<uint8_t> bytes(kBytes);
  const iovec whole = ToIoVec(std::span<uint8_t>(bytes));
  ASSERT_TRUE(loop_->RunTask((*disk)->Read(0, IoVecs(&whole, 1))).ok());
  EXPECT_TRUE(bytes == model);
  for (uint64_t offset = 1024; offset + 2048 < kBytes; offset += 37 * 1024) {
    std::fill_n(model.begin() + offset, 1536, 0x5a);
    const iovec part = {model.data() + offset, 1536};
    ASSERT_TRUE(loop_->RunTask((*disk)->Write(offset, IoVecs(&part, 1), WriteFlags{})).ok());
  }
  ASSERT_TRUE(loop_->RunTask((*disk)->Close()).ok());
  ASSERT_EQ(Shell("qemu-img check -f qcow2 disk.qcow2"), 0) << Output();
  ASSERT_EQ(Shell("qemu-img convert -f qcow2 -O raw disk.qcow2 theirs.raw"), 0) << Output();
  EXPECT_TRUE(FileBytes("theirs.raw") == model);
}

TEST_P(QemuTest, IsKeptOutWhileWeWrite) {
  ASSERT_EQ(Shell(absl::StrCat("qemu-img create -f qcow2 disk.qcow2 ", kBytes)), 0) << Output();
  absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(false);
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_NE(Shell("qemu-io -f qcow2 -c 'write 0 512' disk.qcow2"), 0);
  EXPECT_NE(Shell("qemu-img info disk.qcow2"), 0);
  EXPECT_EQ(Shell("qemu-img info -U disk.qcow2"), 0) << Output();
  EXPECT_TRUE(absl::IsAborted(Open(false).status()));
  ASSERT_TRUE(loop_->RunTask((*disk)->Close()).ok());
  EXPECT_EQ(Shell("qemu-io -f qcow2 -c 'write 0 512' disk.qcow2"), 0) << Output();
}

// What each L2 entry of an image says, but where its host cluster is.
std::vector<std::string> EntryStates(const std::vector<uint8_t>& image) {
  const auto load = [&image](uint64_t offset) {
    Be64 value;
    std::memcpy(&value, image.data() + offset, sizeof(value));
    return value.value();
  };
  const uint64_t cluster_bytes = uint64_t{1} << (load(16) & 0xff);  // cluster_bits, at 20.
  const bool extended = (load(72) & qcow2::kIncompatibleExtendedL2) != 0;
  const uint64_t entry_bytes = extended ? 16 : 8;
  const uint64_t clusters = (load(24) + cluster_bytes - 1) / cluster_bytes;
  const uint64_t per_table = cluster_bytes / entry_bytes;
  std::vector<std::string> states;
  for (uint64_t cluster = 0; cluster < clusters; ++cluster) {
    const uint64_t table =
        load(load(40) + cluster / per_table * sizeof(uint64_t)) & qcow2::kEntryOffsetMask;
    const uint64_t at = table + cluster % per_table * entry_bytes;
    const uint64_t entry = table == 0 ? 0 : load(at);
    const uint64_t bitmap = table == 0 || !extended ? 0 : load(at + 8);
    const char* const kind = (entry & qcow2::kEntryCompressed) != 0   ? "compressed"
                             : (entry & qcow2::kEntryOffsetMask) != 0 ? "host"
                                                                      : "none";
    states.push_back(absl::StrFormat("cluster %d: %s%s%s %016x", cluster, kind,
                                     (entry & qcow2::kEntryCopied) != 0 ? " copied" : "",
                                     (entry & qcow2::kEntryZero) != 0 ? " zero" : "", bitmap));
  }
  return states;
}

struct Operation {
  enum class Kind { kWrite, kZero, kZeroAndUnmap, kDiscard };
  Kind kind;
  uint64_t offset;
  uint64_t length;
};

std::string QemuIoCommand(const Operation& operation) {
  const char* const verbs[] = {"write -P 7", "write -z", "write -z -u", "discard"};
  return absl::StrFormat(" -c '%s %d %d'", verbs[static_cast<int>(operation.kind)],
                         operation.offset, operation.length);
}

Task<absl::Status> Perform(BlockBackend& disk, Operation operation) {
  if (operation.kind == Operation::Kind::kDiscard) {
    const absl::Status status = co_await disk.Discard(operation.offset, operation.length);
    co_return status;
  }
  if (operation.kind != Operation::Kind::kWrite) {
    const ZeroFlags flags = {.may_unmap = operation.kind == Operation::Kind::kZeroAndUnmap};
    const absl::Status status =
        co_await disk.WriteZeroes(operation.offset, operation.length, flags);
    co_return status;
  }
  std::vector<uint8_t> bytes(operation.length, 7);
  const iovec part = ToIoVec(std::span<uint8_t>(bytes));
  const absl::Status status = co_await disk.Write(operation.offset, IoVecs(&part, 1));
  co_return status;
}

class QemuStatesTest : public QemuTest {};

// From the same image the same operations lead to the same states. Where QEMU cannot say in an
// entry that a part of a compressed cluster is zeros, it writes zeros to all of the request: with
// compressed clusters about, requests for zeros stay inside one cluster.
TEST_P(QemuStatesTest, LeavesTheSameStatesBehind) {
  const uint64_t cluster_bytes = uint64_t{1} << GetParam().ours.cluster_bits;
  const std::string backing = GetParam().backing ? "-b base.raw -F raw" : "";
  ASSERT_EQ(Shell(absl::StrCat("qemu-img create -f qcow2 ", GetParam().options, " ", backing,
                               " start.qcow2 ", kBytes)),
            0)
      << Output();
  std::string compress = "qemu-io";
  for (uint64_t at = 0; at + cluster_bytes < kBytes;
       at += std::max<uint64_t>(7 * cluster_bytes, 100 << 10)) {
    const uint64_t offset = at / cluster_bytes * cluster_bytes;
    absl::StrAppend(&compress, " -c 'write -c -P 9 ", offset, " ", cluster_bytes, "'");
  }
  ASSERT_EQ(Shell(absl::StrCat("cp start.qcow2 start0.qcow2; ", compress, " start.qcow2; ",
                               "mv start.qcow2 start1.qcow2")),
            0)
      << Output();

  for (uint32_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    std::vector<Operation> operations;
    for (int i = 0; i < 30; ++i) {
      const uint64_t longest = i % 3 == 0 ? 600 : 50;
      uint64_t length = 512 * (1 + random() % longest);
      const uint64_t offset = random() % ((kBytes - length) / 512 + 1) * 512;
      const auto kind = static_cast<Operation::Kind>(random() % 4);
      if (seed % 2 == 1 && kind != Operation::Kind::kWrite) {
        length = std::min(length, cluster_bytes - offset % cluster_bytes);
      }
      operations.push_back({kind, offset, length});
    }
    const std::string start = absl::StrCat("cp start", seed % 2, ".qcow2 ");
    std::string commands =
        absl::StrCat(start, "theirs.qcow2; ", start, "disk.qcow2; qemu-io -d unmap");
    for (const Operation& operation : operations) commands += QemuIoCommand(operation);
    ASSERT_EQ(Shell(commands + " theirs.qcow2"), 0) << Output();
    absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(false);
    ASSERT_TRUE(disk.ok()) << disk.status();
    for (const Operation& operation : operations) {
      const absl::Status done = loop_->RunTask(Perform(**disk, operation));
      ASSERT_TRUE(done.ok()) << done;
    }
    ASSERT_TRUE(loop_->RunTask((*disk)->Close()).ok());
    ASSERT_EQ(Shell("qemu-img compare theirs.qcow2 disk.qcow2"), 0) << Output();
    ASSERT_EQ(Shell("qemu-img check disk.qcow2"), 0) << Output();
    EXPECT_THAT(EntryStates(FileBytes("disk.qcow2")),
                testing::ElementsAreArray(EntryStates(FileBytes("theirs.qcow2"))))
        << commands;
  }
}

std::vector<Shape> Shapes() {
  return {
      Shape{.name = "Default", .options = ""},
      Shape{.name = "Version2", .options = "-o compat=0.10", .ours = {.version = 2}},
      Shape{.name = "Clusters512", .options = "-o cluster_size=512", .ours = {.cluster_bits = 9}},
      Shape{.name = "Clusters512Refcounts64",
            .options = "-o cluster_size=512,refcount_bits=64",
            .ours = {.cluster_bits = 9, .refcount_order = 6}},
      Shape{.name = "Clusters4KRefcounts1",
            .options = "-o cluster_size=4k,refcount_bits=1",
            .ours = {.cluster_bits = 12, .refcount_order = 0}},
      Shape{.name = "Clusters2M", .options = "-o cluster_size=2M", .ours = {.cluster_bits = 21}},
      Shape{.name = "Overlay", .options = "", .backing = true},
      Shape{.name = "DataFile",
            .options = "-o data_file=disk.qcow2.data",
            .ours = {.data_file = "disk.qcow2.data"}},
      Shape{.name = "RawDataFile",
            .options = "-o data_file=disk.qcow2.data,data_file_raw=on",
            .ours = {.data_file = "disk.qcow2.data", .data_file_raw = true}},
      Shape{.name = "PreallocatedExtendedL2Overlay",
            .options = "-o extended_l2=on,preallocation=metadata",
            .ours = {.extended_l2 = true, .preallocation = qcow2::Preallocation::kMetadata},
            .backing = true},
      Shape{.name = "Preallocated",
            .options = "-o preallocation=metadata",
            .ours = {.preallocation = qcow2::Preallocation::kMetadata}},
      Shape{.name = "ExtendedL2", .options = "-o extended_l2=on", .ours = {.extended_l2 = true}},
      Shape{.name = "ExtendedL2Of16K",
            .options = "-o extended_l2=on,cluster_size=16k",
            .ours = {.cluster_bits = 14, .extended_l2 = true}},
      Shape{.name = "ExtendedL2Overlay",
            .options = "-o extended_l2=on,cluster_size=128k",
            .ours = {.cluster_bits = 17, .extended_l2 = true},
            .backing = true},
      Shape{.name = "OverlayVersion2",
            .options = "-o compat=0.10,cluster_size=4k",
            .ours = {.version = 2, .cluster_bits = 12},
            .backing = true}};
}

// Without zero flags there is little to compare, and copies would share a data file.
std::vector<Shape> ShapesWithStates() {
  std::vector<Shape> shapes = Shapes();
  std::erase_if(shapes, [](const Shape& shape) {
    return shape.ours.version < 3 || shape.ours.data_file.has_value();
  });
  return shapes;
}

constexpr auto kName = [](const testing::TestParamInfo<Shape>& info) { return info.param.name; };
INSTANTIATE_TEST_SUITE_P(Shapes, QemuTest, testing::ValuesIn(Shapes()), kName);
INSTANTIATE_TEST_SUITE_P(Shapes, QemuStatesTest, testing::ValuesIn(ShapesWithStates()), kName);

}  // namespace
}  // namespace vireo
