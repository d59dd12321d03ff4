// The conformance suite over every backend there is.

#include <fcntl.h>

#include <string>

#include "base/opener.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/open_image.h"
#include "storage/qcow2/create.h"
#include "tests/conformance/block_backend_suite.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/memory_backend.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

struct MemoryDisk {
  static constexpr bool kPersistent = false;
  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(EventLoop&, bool read_only) {
    return std::make_unique<MemoryBackend>(
        MemoryBackend::Options{.size_bytes = kConformanceBytes, .read_only = read_only});
  }
};

struct FaultyDiskWithoutFaults {
  static constexpr bool kPersistent = false;
  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(EventLoop&, bool read_only) {
    return std::make_unique<FaultyBackend>(std::make_unique<MemoryBackend>(
        MemoryBackend::Options{.size_bytes = kConformanceBytes, .read_only = read_only}));
  }
};

Task<absl::Status> MakeFile(EventLoop& loop, Opener& opener, std::string path, uint64_t size,
                            std::optional<qcow2::CreateOptions> qcow2) {
  HostFile::Options options = {.path = path, .create = true};
  absl::StatusOr<std::unique_ptr<File>> file = co_await HostFile::Open(loop, opener, options);
  CO_RETURN_IF_ERROR(file.status());
  std::unique_ptr<File> data;
  if (qcow2.has_value() && qcow2->data_file.has_value()) {
    options.path = path + ".data";
    CO_ASSIGN_OR_RETURN(data, co_await HostFile::Open(loop, opener, options));
  }
  absl::Status made;
  if (qcow2.has_value()) {
    qcow2->size_bytes = size;
    made = co_await qcow2::CreateImage(**file, *qcow2, data.get());
  } else {
    made = co_await (*file)->Truncate(size);
  }
  if (data != nullptr) {
    const absl::Status data_closed = co_await data->Close();
    if (made.ok()) made = data_closed;
  }
  const absl::Status closed = co_await (*file)->Close();
  co_return made.ok() ? closed : made;
}

// A file of the host in one format; `Kind` says which.
template <typename Kind>
class FileDisk {
 public:
  static constexpr bool kPersistent = true;

  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(EventLoop& loop, bool read_only) {
    const std::string path = directory_.path() + "/disk";
    if (!made_) {
      RETURN_IF_ERROR(Kind::Make(loop, opener_, path));
      made_ = true;
    }
    return loop.RunTask(OpenImage(loop, opener_,
                                  {.path = path,
                                   .format = Kind::kFormat,
                                   .read_only = read_only,
                                   .direct = Kind::kDirect,
                                   .named_data_files = true}));
  }

 private:
  DirectOpener opener_;
  TempDir directory_;
  bool made_ = false;
};

template <bool direct>
struct RawKind {
  static constexpr ImageFormat kFormat = ImageFormat::kRaw;
  static constexpr bool kDirect = direct;
  static absl::Status Make(EventLoop& loop, Opener& opener, const std::string& path) {
    return loop.RunTask(MakeFile(loop, opener, path, kConformanceBytes, std::nullopt));
  }
};

template <uint32_t version, uint32_t cluster_bits, uint32_t refcount_order, bool direct,
          bool extended_l2 = false>
struct Qcow2Kind {
  static constexpr ImageFormat kFormat = ImageFormat::kQcow2;
  static constexpr bool kDirect = direct;
  static absl::Status Make(EventLoop& loop, Opener& opener, const std::string& path) {
    const qcow2::CreateOptions options = {.version = version,
                                          .cluster_bits = cluster_bits,
                                          .refcount_order = refcount_order,
                                          .extended_l2 = extended_l2};
    return loop.RunTask(MakeFile(loop, opener, path, kConformanceBytes, options));
  }
};

template <bool raw, bool extended_l2>
struct DataFileKind {
  static constexpr ImageFormat kFormat = ImageFormat::kQcow2;
  static constexpr bool kDirect = false;
  static absl::Status Make(EventLoop& loop, Opener& opener, const std::string& path) {
    const qcow2::CreateOptions options = {
        .extended_l2 = extended_l2, .data_file = "disk.data", .data_file_raw = raw};
    return loop.RunTask(MakeFile(loop, opener, path, kConformanceBytes, options));
  }
};

// An overlay of an empty base of `base_bytes`, smaller or larger than the overlay.
template <bool qcow2_base, uint64_t base_bytes, uint32_t version, bool extended_l2 = false>
struct OverlayKind {
  static constexpr ImageFormat kFormat = ImageFormat::kQcow2;
  static constexpr bool kDirect = false;
  static absl::Status Make(EventLoop& loop, Opener& opener, const std::string& path) {
    std::optional<qcow2::CreateOptions> base;
    if (qcow2_base) base = qcow2::CreateOptions{};
    RETURN_IF_ERROR(loop.RunTask(MakeFile(loop, opener, path + ".base", base_bytes, base)));
    const qcow2::CreateOptions options = {.version = version,
                                          .extended_l2 = extended_l2,
                                          .backing_file = "disk.base",
                                          .backing_format = qcow2_base ? "qcow2" : "raw"};
    return loop.RunTask(MakeFile(loop, opener, path, kConformanceBytes, options));
  }
};

using InMemory = testing::Types<MemoryDisk, FaultyDiskWithoutFaults>;
INSTANTIATE_TYPED_TEST_SUITE_P(Memory, BlockBackendSuite, InMemory);

using Raw = testing::Types<FileDisk<RawKind<false>>, FileDisk<RawKind<true>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Raw, BlockBackendSuite, Raw);
INSTANTIATE_TYPED_TEST_SUITE_P(Raw, PersistentBackendSuite, Raw);

using Qcow2 =
    testing::Types<FileDisk<Qcow2Kind<3, 16, 4, false>>, FileDisk<Qcow2Kind<3, 16, 4, true>>,
                   FileDisk<Qcow2Kind<2, 16, 4, false>>, FileDisk<Qcow2Kind<3, 9, 4, false>>,
                   FileDisk<Qcow2Kind<3, 9, 6, true>>, FileDisk<Qcow2Kind<3, 12, 0, false>>,
                   FileDisk<Qcow2Kind<3, 21, 5, false>>, FileDisk<Qcow2Kind<3, 16, 4, false, true>>,
                   FileDisk<Qcow2Kind<3, 14, 3, true, true>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Qcow2, BlockBackendSuite, Qcow2);
INSTANTIATE_TYPED_TEST_SUITE_P(Qcow2, PersistentBackendSuite, Qcow2);

using DataFiles =
    testing::Types<FileDisk<DataFileKind<false, false>>, FileDisk<DataFileKind<false, true>>,
                   FileDisk<DataFileKind<true, false>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(DataFiles, BlockBackendSuite, DataFiles);
INSTANTIATE_TYPED_TEST_SUITE_P(DataFiles, PersistentBackendSuite, DataFiles);

using Overlays = testing::Types<FileDisk<OverlayKind<false, kConformanceBytes / 2, 3>>,
                                FileDisk<OverlayKind<true, 2 * kConformanceBytes, 3>>,
                                FileDisk<OverlayKind<true, kConformanceBytes, 2>>,
                                FileDisk<OverlayKind<true, kConformanceBytes / 2, 3, true>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Overlays, BlockBackendSuite, Overlays);
INSTANTIATE_TYPED_TEST_SUITE_P(Overlays, PersistentBackendSuite, Overlays);

}  // namespace
}  // namespace vireo
