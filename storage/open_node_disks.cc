// Nodes as disks: raw and QCOW2, with their backing files.

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/iovecs.h"
#include "base/status.h"
#include "storage/file_window.h"
#include "storage/node_opener.h"
#include "storage/probe.h"
#include "storage/qcow2/encryption.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2_options.h"
#include "storage/raw_file.h"

namespace vireo {
namespace {

absl::Status NoSnapshots(const std::string& driver) {
  return Invalid(absl::StrFormat(
      "%s: Block format '%s' used by device '' does not support temporarily loading internal "
      "snapshots",
      kSnapshotFailed, driver));
}

// The secret that the options name, if they do.
absl::StatusOr<std::shared_ptr<const Secret>> TakePassphrase(DriverOptions& options,
                                                             const qcow2::Header& header,
                                                             const SecretStore* secrets) {
  if (const std::optional<std::string> format = options.Take("encrypt.format")) {
    if (*format != "aes" && *format != "luks") {
      return Invalid(absl::StrFormat("Parameter 'format' does not accept value '%s'", *format));
    }
    if (header.crypt_method == qcow2::kCryptNone) {
      return Invalid(absl::StrFormat(
          "No encryption in image header, but options specified format '%s'", *format));
    }
    if (*format != "luks") {
      return Invalid(absl::StrFormat(
          "Header reported 'luks' encryption format but options specify '%s'", *format));
    }
  }
  const std::optional<std::string> id = options.Take("encrypt.key-secret");
  if (!id.has_value() || !header.encryption.has_value()) return nullptr;
  return secrets == nullptr ? SecretStore().Find(*id) : secrets->Find(*id);
}

}  // namespace

Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> NodeOpener::OpenBacking(
    const qcow2::Header* header, std::string image_path, BackingOptions backing,
    NodeSettings settings, int depth) {
  std::unique_ptr<BlockBackend> none;
  if (settings.no_backing) co_return none;
  CO_ASSIGN_OR_RETURN(std::optional<DriverOptions> options,
                      CompleteBacking(std::move(backing), *header, image_path));
  if (!options.has_value()) co_return none;
  if (depth >= kMaxNodeDepth) {
    co_return Invalid(
        absl::StrFormat("The chain of backing files is longer than %d", kMaxNodeDepth));
  }
  settings.read_only = true;
  settings.writethrough = false;
  Blkdebug* const blkdebug = blkdebug_;
  auto opening = OpenDisk(*std::move(options), std::move(settings), depth + 1);
  absl::StatusOr<BlockNode> node = co_await std::move(opening);
  blkdebug_ = blkdebug;  // One of a backing file is not on the way down from the top.
  if (!node.ok()) co_return Annotate(node.status(), "Could not open backing file");
  co_return std::move(node->disk);
}

Task<absl::StatusOr<BlockNode>> NodeOpener::OpenQcow2(std::unique_ptr<File> file,
                                                      DriverOptions options, NodeSettings settings,
                                                      int depth) {
  BlockNode node = {.driver = "qcow2", .format = ImageFormat::kQcow2, .file_name = file->name()};
  if (!chain_.insert(file->identity()).second) {
    co_return absl::DataLossError(
        absl::StrFormat("its chain of backing files returns to %s", file->name()));
  }
  const qcow2::Access access =
      settings.read_only ? qcow2::Access::kReadOnly : qcow2::Access::kReadWrite;
  absl::StatusOr<qcow2::Header> header = co_await qcow2::ReadHeader(*file, access);
  if (const int error = StatusErrno(header.status()); error != 0) {
    co_return ErrnoStatus(error, "Could not read qcow2 header");
  }
  if (absl::IsInvalidArgument(header.status())) co_return Invalid("Image is not in qcow2 format");
  CO_RETURN_IF_ERROR(header.status());
  std::optional<uint64_t> cache_bytes;
  CO_RETURN_IF_ERROR(TakeQcow2Options(options, header->layout.cluster_bytes(), &cache_bytes));
  if (cache_bytes.has_value() || settings.cache_budget == nullptr) {
    settings.cache_budget =
        std::make_shared<qcow2::CacheBudget>(cache_bytes.value_or(qcow2::kDefaultCacheBytes));
  }
  const qcow2::Image::Options image_options = {.read_only = settings.read_only,
                                               .cache_budget = settings.cache_budget};
  CO_ASSIGN_OR_RETURN(std::shared_ptr<const Secret> passphrase,
                      TakePassphrase(options, *header, settings.secrets));
  BackingOptions backing_options = TakeBacking(options);
  std::unique_ptr<File> data_file;
  if (!header->layout.external_data &&
      (options.Has("data-file") || options.HasBelow("data-file"))) {
    co_return Invalid("'data-file' can only be set for images with an external data file");
  }
  if (header->layout.external_data) {
    if (!options.Has("data-file") && !options.HasBelow("data-file")) {
      if (!header->data_file.has_value()) {
        co_return Invalid("'data-file' is required for this image");
      }
      absl::StatusOr<std::string> path = DataFilePath(node.file_name, *header->data_file);
      CO_RETURN_IF_ERROR(path.status());
      options.Set("data-file.filename", *std::move(path));
    }
    auto opening_data = OpenChild(&options, "data-file", settings, depth);
    absl::StatusOr<std::unique_ptr<File>> opened = co_await std::move(opening_data);
    CO_RETURN_IF_ERROR(opened.status());
    data_file = *std::move(opened);
  }
  CO_RETURN_IF_ERROR(CheckAllTaken("qcow2", options));
  if (settings.snapshot.has_value()) {
    absl::StatusOr<qcow2::Header> then =
        co_await qcow2::HeaderOfSnapshot(*file, *std::move(header), *std::move(settings.snapshot));
    if (!then.ok()) co_return Annotate(then.status(), kSnapshotFailed);
    header = *std::move(then);
    settings.snapshot.reset();
  }
  auto opening_data =
      qcow2::OpenGuestData(loop_, *file, *header, std::move(data_file), std::move(passphrase));
  absl::StatusOr<std::unique_ptr<File>> data = co_await std::move(opening_data);
  if (!data.ok()) {
    // QEMU names no file here.
    absl::string_view why = data.status().message();
    absl::ConsumePrefix(&why, absl::StrCat(node.file_name, ": "));
    co_return absl::Status(data.status().code(), why);
  }
  qcow2::Image::Parts parts = {.file = std::move(file), .data = *std::move(data)};
  auto opening = OpenBacking(&*header, node.file_name, std::move(backing_options), settings, depth);
  absl::StatusOr<std::unique_ptr<BlockBackend>> backing = co_await std::move(opening);
  CO_RETURN_IF_ERROR(backing.status());
  parts.backing = *std::move(backing);
  absl::StatusOr<std::unique_ptr<BlockBackend>> image =
      co_await qcow2::Image::Open(loop_, *std::move(header), std::move(parts), image_options);
  CO_RETURN_IF_ERROR(image.status());
  node.disk = *std::move(image);
  node.image = static_cast<qcow2::Image*>(node.disk.get());
  co_return node;
}

Task<absl::StatusOr<BlockNode>> NodeOpener::OpenDisk(DriverOptions options, NodeSettings settings,
                                                     int depth) {
  if (depth > kMaxNodeDepth) co_return Invalid("The tree of drivers is too deep");
  const std::optional<std::string> stated = options.Take("driver");
  if (stated.has_value() && !IsKnownDriver(*stated)) co_return UnknownDriver(*stated);
  if (!stated.has_value() && !options.HasBelow("file") && !options.Has("file")) {
    co_return Invalid("Must specify either driver or file");
  }
  RequestPolicy::Options policy = {.writethrough = settings.writethrough};
  CO_ASSIGN_OR_RETURN(const bool writeback,
                      options.TakeSwitch("cache.writeback", !policy.writethrough));
  policy.writethrough = !writeback;
  const bool image = !stated.has_value() || *stated == "qcow2";
  // Others are opened as files, which take these themselves.
  NodeSettings own = settings;
  DriverOptions common = options;
  CO_RETURN_IF_ERROR(TakeCommon(common, &own, &policy));
  policy.ignore_discards = own.ignore_discards;
  options.Take("detect-zeroes");
  BlockNode node;
  if (image) {
    options = std::move(common);
    NodeSettings below = own;
    below.no_backing = false;
    below.snapshot.reset();
    auto opening = OpenChild(&options, "file", std::move(below), depth);
    absl::StatusOr<std::unique_ptr<File>> file = co_await std::move(opening);
    CO_RETURN_IF_ERROR(file.status());
    std::string driver = stated.value_or("");
    if (!stated.has_value()) {
      std::array<uint8_t, kProbeBytes> head = {};
      const size_t length = std::min<uint64_t>(head.size(), (*file)->size());
      const iovec part = ToIoVec(std::span<uint8_t>(head).first(length));
      CO_RETURN_IF_ERROR(co_await (*file)->Read(0, IoVecs(&part, 1)));
      driver = ProbeFormat(std::span<const uint8_t>(head).first(length));
      if (!IsKnownDriver(driver)) co_return UnknownDriver(driver);
    }
    if (driver == "qcow2") {
      auto opening_image = OpenQcow2(*std::move(file), std::move(options), own, depth);
      absl::StatusOr<BlockNode> opened = co_await std::move(opening_image);
      CO_RETURN_IF_ERROR(opened.status());
      node = *std::move(opened);
    } else {
      if (settings.snapshot.has_value()) co_return NoSnapshots("raw");
      CO_ASSIGN_OR_RETURN(const std::optional<uint64_t> offset, options.TakeSize("offset"));
      CO_ASSIGN_OR_RETURN(const std::optional<uint64_t> size, options.TakeSize("size"));
      CO_RETURN_IF_ERROR(CheckAllTaken("raw", options));
      CO_ASSIGN_OR_RETURN(std::unique_ptr<File> window,
                          FileWindow::Open(*std::move(file), offset.value_or(0), size));
      node = {.driver = "raw", .file_name = window->name()};
      node.disk = std::make_unique<RawFile>(std::move(window),
                                            RawFile::Options{.read_only = own.read_only});
      policy.guard_format = !own.read_only;
    }
    node.probed = !stated.has_value();
  } else {
    if (settings.snapshot.has_value()) co_return NoSnapshots(*stated);
    options.Set("driver", *stated);
    auto opening = OpenFile(std::move(options), settings, depth);
    absl::StatusOr<std::unique_ptr<File>> file = co_await std::move(opening);
    CO_RETURN_IF_ERROR(file.status());
    node = {.driver = *stated, .file_name = (*file)->name()};
    node.disk =
        std::make_unique<RawFile>(*std::move(file), RawFile::Options{.read_only = own.read_only});
  }
  if (policy != RequestPolicy::Options()) {
    node.disk = std::make_unique<RequestPolicy>(std::move(node.disk), policy);
  }
  co_return node;
}

}  // namespace vireo
