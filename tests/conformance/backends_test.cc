// The conformance suite over every backend there is.

#include <fcntl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/opener.h"
#include "base/status.h"
#include "storage/copy_on_read.h"
#include "storage/crypto/luks.h"
#include "storage/crypto/secret.h"
#include "storage/driver_options.h"
#include "storage/host_file.h"
#include "storage/open_image.h"
#include "storage/open_node.h"
#include "storage/qcow2/create.h"
#include "storage/request_policy.h"
#include "storage/throttle_group.h"
#include "storage/throttled_backend.h"
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
    ImageOptions options = {.path = path,
                            .format = Kind::kFormat,
                            .read_only = read_only,
                            .direct = Kind::kDirect,
                            .named_data_files = true};
    if constexpr (requires { Kind::kPassphrase; }) {
      options.passphrase = std::make_shared<const Secret>(std::string(Kind::kPassphrase));
    }
    return loop.RunTask(OpenImage(loop, opener_, std::move(options)));
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

struct LazyRefcountsKind {
  static constexpr ImageFormat kFormat = ImageFormat::kQcow2;
  static constexpr bool kDirect = false;
  static absl::Status Make(EventLoop& loop, Opener& opener, const std::string& path) {
    const qcow2::CreateOptions options = {.cluster_bits = 12, .lazy_refcounts = true};
    return loop.RunTask(MakeFile(loop, opener, path, kConformanceBytes, options));
  }
};

template <uint32_t cluster_bits, bool direct, bool extended_l2 = false>
struct LuksKind {
  static constexpr ImageFormat kFormat = ImageFormat::kQcow2;
  static constexpr bool kDirect = direct;
  static constexpr char kPassphrase[] = "open sesame";
  static absl::Status Make(EventLoop& loop, Opener& opener, const std::string& path) {
    const std::string passphrase = kPassphrase;
    const std::vector<uint8_t> bytes(passphrase.begin(), passphrase.end());
    qcow2::CreateOptions options = {.cluster_bits = cluster_bits, .extended_l2 = extended_l2};
    ASSIGN_OR_RETURN(options.luks_area, crypto::MakeLuksArea({.iteration_ms = 1}, bytes));
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

// A disk with a decorator around it; `Around` says which.
template <typename Disk, typename Around>
class DecoratedDisk {
 public:
  static constexpr bool kPersistent = Disk::kPersistent;

  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(EventLoop& loop, bool read_only) {
    ASSIGN_OR_RETURN(std::unique_ptr<BlockBackend> disk, disk_.Open(loop, read_only));
    return Around::Put(loop, std::move(disk));
  }

 private:
  Disk disk_;
};

// By limits that a test never comes near: every request asks, none waits.
struct Throttled {
  static std::unique_ptr<BlockBackend> Put(EventLoop& loop, std::unique_ptr<BlockBackend> disk) {
    const ThrottleLimits limits = {.bytes_total = {.per_second = uint64_t{1} << 40},
                                   .ops_total = {.per_second = 1'000'000'000}};
    return std::make_unique<ThrottledBackend>(loop, std::move(disk),
                                              std::make_shared<ThrottleGroup>(limits),
                                              std::make_unique<HostThrottleClock>(loop));
  }
};

struct CopyingOnRead {
  static std::unique_ptr<BlockBackend> Put(EventLoop&, std::unique_ptr<BlockBackend> disk) {
    if (disk->geometry().read_only) return disk;
    return std::make_unique<CopyOnRead>(std::move(disk));
  }
};

struct WithPolicy {
  static std::unique_ptr<BlockBackend> Put(EventLoop&, std::unique_ptr<BlockBackend> disk) {
    return std::make_unique<RequestPolicy>(
        std::move(disk), RequestPolicy::Options{.writethrough = true,
                                                .ignore_discards = true,
                                                .detect_zeroes = RequestPolicy::Zeroes::kUnmap});
  }
};

// An image over the fault injector, which has nothing to inject.
class BlkdebugDisk {
 public:
  static constexpr bool kPersistent = true;

  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(EventLoop& loop, bool read_only) {
    const std::string path = directory_.path() + "/disk";
    if (!made_) {
      RETURN_IF_ERROR(
          loop.RunTask(MakeFile(loop, opener_, path, kConformanceBytes, qcow2::CreateOptions{})));
      made_ = true;
    }
    const std::string json = absl::StrFormat(
        R"({"driver": "qcow2", "file": {"driver": "blkdebug", "image": {"driver": "file",)"
        R"( "filename": "%s"}}})",
        path);
    ASSIGN_OR_RETURN(DriverOptions options, DriverOptions::FromJson(json));
    absl::StatusOr<BlockNode> node = loop.RunTask(
        OpenNode(loop, opener_, std::move(options), NodeSettings{.read_only = read_only}));
    if (!node.ok()) return node.status();
    if (node->blkdebug == nullptr) return absl::InternalError("there is no fault injector");
    return std::move(node->disk);
  }

 private:
  DirectOpener opener_;
  TempDir directory_;
  bool made_ = false;
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
                   FileDisk<Qcow2Kind<3, 14, 3, true, true>>, FileDisk<LazyRefcountsKind>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Qcow2, BlockBackendSuite, Qcow2);
INSTANTIATE_TYPED_TEST_SUITE_P(Qcow2, PersistentBackendSuite, Qcow2);

using DataFiles =
    testing::Types<FileDisk<DataFileKind<false, false>>, FileDisk<DataFileKind<false, true>>,
                   FileDisk<DataFileKind<true, false>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(DataFiles, BlockBackendSuite, DataFiles);
INSTANTIATE_TYPED_TEST_SUITE_P(DataFiles, PersistentBackendSuite, DataFiles);

using Encrypted = testing::Types<FileDisk<LuksKind<16, false>>, FileDisk<LuksKind<12, true>>,
                                 FileDisk<LuksKind<16, false, true>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Encrypted, BlockBackendSuite, Encrypted);
INSTANTIATE_TYPED_TEST_SUITE_P(Encrypted, PersistentBackendSuite, Encrypted);

using Decorated = testing::Types<
    DecoratedDisk<FileDisk<RawKind<false>>, Throttled>,
    DecoratedDisk<FileDisk<Qcow2Kind<3, 16, 4, false>>, Throttled>,
    DecoratedDisk<FileDisk<OverlayKind<true, kConformanceBytes / 2, 3>>, CopyingOnRead>,
    DecoratedDisk<FileDisk<OverlayKind<false, 2 * kConformanceBytes, 3, true>>, CopyingOnRead>,
    DecoratedDisk<FileDisk<Qcow2Kind<3, 12, 4, false>>, WithPolicy>, BlkdebugDisk>;
INSTANTIATE_TYPED_TEST_SUITE_P(Decorated, BlockBackendSuite, Decorated);
INSTANTIATE_TYPED_TEST_SUITE_P(Decorated, PersistentBackendSuite, Decorated);

using Overlays = testing::Types<FileDisk<OverlayKind<false, kConformanceBytes / 2, 3>>,
                                FileDisk<OverlayKind<true, 2 * kConformanceBytes, 3>>,
                                FileDisk<OverlayKind<true, kConformanceBytes, 2>>,
                                FileDisk<OverlayKind<true, kConformanceBytes / 2, 3, true>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Overlays, BlockBackendSuite, Overlays);
INSTANTIATE_TYPED_TEST_SUITE_P(Overlays, PersistentBackendSuite, Overlays);

}  // namespace
}  // namespace vireo
