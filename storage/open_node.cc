#include "storage/open_node.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/iovecs.h"
#include "base/status.h"
#include "storage/backend_file.h"
#include "storage/file_window.h"
#include "storage/host_file.h"
#include "storage/image_lock.h"
#include "storage/null_file.h"
#include "storage/probe.h"
#include "storage/qcow2/encryption.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2_options.h"
#include "storage/raw_file.h"
#include "storage/request_policy.h"

namespace vireo {
namespace {

constexpr int kMaxDepth = 200;  // Of a chain of backing files, and of drivers over each other.
constexpr size_t kMaxConfigBytes = 1 << 20;

constexpr std::array<const char*, 5> kProtocols = {"file", "host_device", "null-co", "null-aio",
                                                   "blkdebug"};
constexpr std::array<const char*, 2> kFormats = {"raw", "qcow2"};

absl::Status Invalid(const std::string& text) { return absl::InvalidArgumentError(text); }

bool IsKnown(const std::string& driver) {
  return IsProtocolDriver(driver) ||
         std::find(kFormats.begin(), kFormats.end(), driver) != kFormats.end();
}

absl::Status NoSnapshots(const std::string& driver) {
  return Invalid(absl::StrFormat(
      "%s: Block format '%s' used by device '' does not support temporarily loading internal "
      "snapshots",
      kSnapshotFailed, driver));
}

absl::Status UnknownDriver(const std::string& driver) {
  return absl::UnimplementedError(absl::StrFormat("Unknown driver '%s'", driver));
}

// What is left over when a driver has taken what it knows.
absl::Status CheckAllTaken(const std::string& driver, const DriverOptions& options) {
  if (options.empty()) return absl::OkStatus();
  const std::string& key = options.FirstKey();
  if (IsProtocolDriver(driver)) {
    return Invalid(
        absl::StrFormat("Block protocol '%s' doesn't support the option '%s'", driver, key));
  }
  return Invalid(
      absl::StrFormat("Block format '%s' does not support the option '%s'", driver, key));
}

// Options that every node has.
absl::Status TakeCommon(DriverOptions& options, NodeSettings* settings,
                        RequestPolicy::Options* policy) {
  options.Take("node-name");
  ASSIGN_OR_RETURN(settings->read_only, options.TakeSwitch("read-only", settings->read_only));
  ASSIGN_OR_RETURN(const bool automatic, options.TakeSwitch("auto-read-only", false));
  if (automatic) return absl::UnimplementedError("auto-read-only=on is not supported");
  ASSIGN_OR_RETURN(settings->direct, options.TakeSwitch("cache.direct", settings->direct));
  ASSIGN_OR_RETURN(settings->no_flush, options.TakeSwitch("cache.no-flush", settings->no_flush));
  ASSIGN_OR_RETURN(const bool share, options.TakeSwitch("force-share", settings->share));
  if (share && !settings->read_only) {
    return Invalid("force-share=on can only be used with read-only images");
  }
  settings->share = share;
  if (const std::optional<std::string> discard = options.Take("discard")) {
    if (*discard != "ignore" && *discard != "off" && *discard != "unmap" && *discard != "on") {
      return Invalid("Invalid discard option");
    }
    settings->ignore_discards = *discard == "ignore" || *discard == "off";
  }
  if (const std::optional<std::string> detect = options.Take("detect-zeroes")) {
    if (*detect == "off") {
      policy->detect_zeroes = RequestPolicy::Zeroes::kWrite;
    } else if (*detect == "on") {
      policy->detect_zeroes = RequestPolicy::Zeroes::kZero;
    } else if (*detect == "unmap") {
      if (settings->ignore_discards) {
        return Invalid(
            "setting detect-zeroes to unmap is not allowed without setting discard operation to "
            "unmap");
      }
      policy->detect_zeroes = RequestPolicy::Zeroes::kUnmap;
    } else {
      return Invalid(absl::StrCat("invalid parameter value: ", *detect));
    }
  }
  return absl::OkStatus();
}

absl::Status InOtherWords(const absl::Status& status, const std::string& path) {
  if (const std::optional<std::string> lock = LockConflict(status)) {
    return absl::Status(
        status.code(),
        absl::StrFormat("Failed to get %s lock\nIs another process using the image [%s]?", *lock,
                        path));
  }
  const int error = StatusErrno(status);
  if (error == 0) return status;
  return ErrnoStatus(error, absl::StrFormat("Could not open '%s'", path));
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

// What the options of an image say about its backing file.
struct BackingOptions {
  bool none = false;                     // There is to be none.
  std::optional<std::string> node_name;  // Of a node that exists already: there are none such.
  DriverOptions options;
};

// One tree, while it is being opened.
class NodeOpener {
 public:
  NodeOpener(EventLoop& loop, Opener& opener) : loop_(loop), opener_(opener) {}

  // A node as a disk. `depth` counts what is above it.
  Task<absl::StatusOr<BlockNode>> OpenDisk(DriverOptions options, NodeSettings settings, int depth);

  Blkdebug* blkdebug() const { return blkdebug_; }

 private:
  // A node as the file of the one above.
  Task<absl::StatusOr<std::unique_ptr<File>>> OpenFile(DriverOptions options, NodeSettings settings,
                                                       int depth);
  Task<absl::StatusOr<std::unique_ptr<File>>> OpenHostFile(std::string driver,
                                                           DriverOptions options,
                                                           NodeSettings settings);
  absl::StatusOr<std::unique_ptr<File>> OpenNull(const std::string& driver, DriverOptions& options);
  Task<absl::StatusOr<std::unique_ptr<File>>> OpenBlkdebug(DriverOptions options,
                                                           NodeSettings settings, int depth);
  // The node below `key` ("file" or "image").
  Task<absl::StatusOr<std::unique_ptr<File>>> OpenChild(DriverOptions* options, std::string key,
                                                        NodeSettings settings, int depth);
  Task<absl::StatusOr<BlockNode>> OpenQcow2(std::unique_ptr<File> file, DriverOptions options,
                                            NodeSettings settings, int depth);
  Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> OpenBacking(const qcow2::Header* header,
                                                                  std::string image_path,
                                                                  BackingOptions backing,
                                                                  NodeSettings settings, int depth);
  Task<absl::StatusOr<std::string>> ReadSmallFile(std::string path);

  EventLoop& loop_;
  Opener& opener_;
  std::set<FileIdentity> chain_;  // Of images above a backing file.
  Blkdebug* blkdebug_ = nullptr;
};

Task<absl::StatusOr<std::unique_ptr<File>>> NodeOpener::OpenHostFile(std::string driver,
                                                                     DriverOptions options,
                                                                     NodeSettings settings) {
  const std::optional<std::string> path = options.Take("filename");
  if (!path.has_value() || path->empty()) {
    co_return Invalid(absl::StrFormat("The '%s' block driver requires a file name", driver));
  }
  const std::string locking = options.Take("locking").value_or("auto");
  if (locking != "on" && locking != "off" && locking != "auto") {
    co_return Invalid(absl::StrCat("invalid parameter value: ", locking));
  }
  const bool locks = locking != "off" && !settings.share;
  // All I/O is io_uring's; the other names ask for what is as good.
  const std::optional<std::string> aio = options.Take("aio");
  if (aio.has_value() && *aio != "threads" && *aio != "native" && *aio != "io_uring") {
    co_return Invalid(absl::StrCat("invalid parameter value: ", *aio));
  }
  if (aio == "native" && !settings.direct) {
    co_return Invalid(
        "aio=native was specified, but it requires cache.direct=on, which was not specified.");
  }
  CO_RETURN_IF_ERROR(options.TakeSwitch("drop-cache", true).status());
  CO_RETURN_IF_ERROR(options.TakeSwitch("x-check-cache-dropped", false).status());
  CO_RETURN_IF_ERROR(CheckAllTaken(driver, options));
  HostFile::Options file_options = {.path = *path,
                                    .read_only = settings.read_only,
                                    .direct = settings.direct,
                                    .no_flush = settings.no_flush,
                                    .lock = !locks               ? LockMode::kNone
                                            : settings.read_only ? LockMode::kShared
                                                                 : LockMode::kExclusive};
  absl::StatusOr<std::unique_ptr<File>> file =
      co_await HostFile::Open(loop_, opener_, std::move(file_options));
  if (absl::IsInvalidArgument(file.status()) && StatusErrno(file.status()) == 0 &&
      !settings.direct) {
    co_return Invalid(
        absl::StrFormat("'%s' driver requires '%s' to be a regular file", driver, *path));
  }
  if (!file.ok()) co_return InOtherWords(file.status(), *path);
  if (driver == "host_device" && (*file)->traits().growable) {
    CO_RETURN_IF_ERROR(co_await (*file)->Close());
    co_return Invalid(absl::StrFormat(
        "'host_device' driver requires '%s' to be either a character or block device", *path));
  }
  co_return file;
}

absl::StatusOr<std::unique_ptr<File>> NodeOpener::OpenNull(const std::string& driver,
                                                           DriverOptions& options) {
  NullFile::Options null = {.name = absl::StrCat(driver, "://")};
  if (const std::optional<std::string> name = options.Take("filename")) {
    if (*name != null.name) {
      return Invalid(
          absl::StrFormat("The only allowed filename for this driver is '%s'", null.name));
    }
  }
  ASSIGN_OR_RETURN(const std::optional<uint64_t> size, options.TakeSize("size"));
  null.size_bytes = size.value_or(null.size_bytes);
  if (null.size_bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return Invalid("Parameter 'size' is larger than a disk can be");
  }
  ASSIGN_OR_RETURN(const std::optional<int64_t> latency, options.TakeNumber("latency-ns"));
  if (latency.value_or(0) < 0) return Invalid("latency-ns is invalid");
  null.latency = absl::Nanoseconds(latency.value_or(0));
  ASSIGN_OR_RETURN(null.read_zeroes, options.TakeSwitch("read-zeroes", false));
  RETURN_IF_ERROR(CheckAllTaken(driver, options));
  return std::make_unique<NullFile>(loop_, std::move(null));
}

Task<absl::StatusOr<std::string>> NodeOpener::ReadSmallFile(std::string path) {
  HostFile::Options options = {.path = std::move(path), .read_only = true};
  absl::StatusOr<std::unique_ptr<File>> file =
      co_await HostFile::Open(loop_, opener_, std::move(options));
  CO_RETURN_IF_ERROR(file.status());
  std::string text(std::min<uint64_t>((*file)->size(), kMaxConfigBytes), '\0');
  const iovec part = {text.data(), text.size()};
  const absl::Status read = co_await (*file)->Read(0, IoVecs(&part, 1));
  const absl::Status closed = co_await (*file)->Close();
  CO_RETURN_IF_ERROR(read);
  CO_RETURN_IF_ERROR(closed);
  co_return text;
}

Task<absl::StatusOr<std::unique_ptr<File>>> NodeOpener::OpenBlkdebug(DriverOptions options,
                                                                     NodeSettings settings,
                                                                     int depth) {
  std::vector<Blkdebug::Rule> rules;
  const std::optional<std::string> config = options.Take("config");
  if (config.has_value() && !config->empty()) {
    const absl::StatusOr<std::string> text = co_await ReadSmallFile(*config);
    if (!text.ok()) {
      const int error = StatusErrno(text.status());
      co_return Invalid(
          absl::StrCat("Could not read blkdebug config file: ",
                       error != 0 ? std::strerror(error) : std::string(text.status().message())));
    }
    CO_ASSIGN_OR_RETURN(DriverOptions configured, Blkdebug::ReadConfig(*text));
    CO_ASSIGN_OR_RETURN(rules, Blkdebug::Rules(configured));
  }
  CO_ASSIGN_OR_RETURN(const std::vector<Blkdebug::Rule> more, Blkdebug::Rules(options));
  rules.insert(rules.end(), more.begin(), more.end());
  for (const char* limit : {"align", "max-transfer", "opt-write-zero", "max-write-zero",
                            "opt-discard", "max-discard"}) {
    if (options.Has(limit)) {
      co_return absl::UnimplementedError(
          absl::StrFormat("blkdebug's option '%s' is not supported", limit));
    }
  }
  auto opening = OpenChild(&options, "image", settings, depth);
  absl::StatusOr<std::unique_ptr<File>> image = co_await std::move(opening);
  CO_RETURN_IF_ERROR(image.status());
  CO_RETURN_IF_ERROR(CheckAllTaken("blkdebug", options));
  auto blkdebug =
      std::make_unique<Blkdebug>(*std::move(image), std::move(rules), std::move(settings.say));
  blkdebug_ = blkdebug.get();  // The upper ones of several are made later, and count.
  co_return std::unique_ptr<File>(std::move(blkdebug));
}

Task<absl::StatusOr<std::unique_ptr<File>>> NodeOpener::OpenChild(DriverOptions* options,
                                                                  std::string key,
                                                                  NodeSettings settings,
                                                                  int depth) {
  if (const std::optional<std::string> name = options->Take(key)) {
    co_return absl::NotFoundError(
        absl::StrFormat("Cannot find device='%s' nor node-name='%s'", *name, *name));
  }
  DriverOptions below = options->TakeBelow(key);
  if (below.empty()) {
    co_return Invalid(absl::StrFormat("A block device must be specified for \"%s\"", key));
  }
  auto opening = OpenFile(std::move(below), std::move(settings), depth + 1);
  absl::StatusOr<std::unique_ptr<File>> file = co_await std::move(opening);
  co_return file;
}

Task<absl::StatusOr<std::unique_ptr<File>>> NodeOpener::OpenFile(DriverOptions options,
                                                                 NodeSettings settings, int depth) {
  if (depth > kMaxDepth) co_return Invalid("The tree of drivers is too deep");
  RequestPolicy::Options policy;
  settings.writethrough = false;
  settings.no_backing = false;
  std::string driver;
  if (const std::optional<std::string> stated = options.Take("driver")) {
    driver = *stated;
  } else if (options.Has("filename")) {
    driver = "file";
  } else {
    co_return Invalid("Must specify either driver or file");
  }
  if (!IsKnown(driver)) co_return UnknownDriver(driver);
  if (driver == "qcow2") {
    options.Set("driver", driver);
    auto opening = OpenDisk(std::move(options), std::move(settings), depth);
    absl::StatusOr<BlockNode> node = co_await std::move(opening);
    CO_RETURN_IF_ERROR(node.status());
    // Identities tell a chain that returns to itself; one of a disk is as good as its address.
    const FileIdentity identity = {.device = ~uint64_t{0} - 2,
                                   .inode = reinterpret_cast<uintptr_t>(node->disk.get())};
    co_return std::make_unique<BackendFile>(std::move(node->disk), node->file_name, identity);
  }
  CO_RETURN_IF_ERROR(TakeCommon(options, &settings, &policy));
  if (policy != RequestPolicy::Options()) {
    co_return absl::UnimplementedError("detect-zeroes is supported for the node at the top only");
  }
  if (driver == "raw") {
    CO_ASSIGN_OR_RETURN(const std::optional<uint64_t> offset, options.TakeSize("offset"));
    CO_ASSIGN_OR_RETURN(const std::optional<uint64_t> size, options.TakeSize("size"));
    auto opening = OpenChild(&options, "file", settings, depth);
    absl::StatusOr<std::unique_ptr<File>> file = co_await std::move(opening);
    CO_RETURN_IF_ERROR(file.status());
    CO_RETURN_IF_ERROR(CheckAllTaken(driver, options));
    co_return FileWindow::Open(*std::move(file), offset.value_or(0), size);
  }
  if (driver == "blkdebug") {
    auto opening = OpenBlkdebug(std::move(options), std::move(settings), depth);
    absl::StatusOr<std::unique_ptr<File>> file = co_await std::move(opening);
    co_return file;
  }
  if (driver == "null-co" || driver == "null-aio") co_return OpenNull(driver, options);
  auto opening = OpenHostFile(driver, std::move(options), std::move(settings));
  absl::StatusOr<std::unique_ptr<File>> file = co_await std::move(opening);
  co_return file;
}

BackingOptions TakeBacking(DriverOptions& options) {
  BackingOptions backing;
  backing.none = options.TakeNull("backing");
  backing.node_name = options.Take("backing");
  if (backing.node_name == std::string()) {
    backing.none = true;
    backing.node_name.reset();
  }
  backing.options = options.TakeBelow("backing");
  return backing;
}

Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> NodeOpener::OpenBacking(
    const qcow2::Header* header, std::string image_path, BackingOptions backing,
    NodeSettings settings, int depth) {
  std::unique_ptr<BlockBackend> none;
  if (settings.no_backing || backing.none) co_return none;
  if (backing.node_name.has_value()) {
    co_return absl::NotFoundError(
        absl::StrFormat("Could not open backing file: Cannot find device='%s' nor node-name='%s'",
                        *backing.node_name, *backing.node_name));
  }
  DriverOptions options = std::move(backing.options);
  if (options.empty() && !header->backing_file.has_value()) co_return none;
  if (depth >= kMaxDepth) {
    co_return Invalid(absl::StrFormat("The chain of backing files is longer than %d", kMaxDepth));
  }
  if (header->backing_file.has_value() && !options.HasBelow("file") && !options.Has("file")) {
    absl::StatusOr<std::string> path = BackingFilePath(image_path, *header->backing_file);
    CO_RETURN_IF_ERROR(path.status());
    options.Set("file.driver", "file");
    options.Set("file.filename", *std::move(path));
  }
  if (!options.Has("driver")) {
    if (header->backing_format.empty()) {
      co_return Invalid(
          "Could not open backing file: the image does not state its format, and it is not "
          "guessed");
    }
    options.Set("driver", header->backing_format);
  }
  settings.read_only = true;
  settings.writethrough = false;
  Blkdebug* const blkdebug = blkdebug_;
  auto opening = OpenDisk(std::move(options), std::move(settings), depth + 1);
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
  if (depth > kMaxDepth) co_return Invalid("The tree of drivers is too deep");
  const std::optional<std::string> stated = options.Take("driver");
  if (stated.has_value() && !IsKnown(*stated)) co_return UnknownDriver(*stated);
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
      if (!IsKnown(driver)) co_return UnknownDriver(driver);
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

}  // namespace

bool IsProtocolDriver(const std::string& driver) {
  return std::find(kProtocols.begin(), kProtocols.end(), driver) != kProtocols.end();
}

absl::StatusOr<DriverOptions> OptionsFromName(const std::string& name) {
  if (absl::StartsWith(name, "json:")) return DriverOptions::FromJson(name.substr(5));
  DriverOptions options;
  const size_t colon = name.find(':');
  const bool scheme =
      colon != std::string::npos && colon < name.find('/') && !DescriptorInPath(name).has_value();
  if (!scheme) {
    options.Set("file.driver", "file");
    options.Set("file.filename", name);
    return options;
  }
  const std::string protocol = name.substr(0, colon);
  if (protocol == "file" || protocol == "host_device") {
    options.Set("file.driver", protocol);
    options.Set("file.filename", name.substr(colon + 1));
    return options;
  }
  if (protocol == "null-co" || protocol == "null-aio") {
    options.Set("file.driver", protocol);
    options.Set("file.filename", name);
    return options;
  }
  if (protocol == "blkdebug") {
    const size_t second = name.find(':', colon + 1);
    if (second == std::string::npos) {
      return Invalid("blkdebug requires both config file and image path");
    }
    ASSIGN_OR_RETURN(DriverOptions image, OptionsFromName(name.substr(second + 1)));
    DriverOptions below = image.TakeBelow("file");
    options.Set("file.driver", "blkdebug");
    options.Set("file.config", name.substr(colon + 1, second - colon - 1));
    for (const auto& [key, value] : below.values()) {
      options.Set(absl::StrCat("file.image.", key), value.value_or(""));
    }
    return options;
  }
  return absl::UnimplementedError(absl::StrFormat("Unknown protocol '%s'", protocol));
}

Task<absl::StatusOr<BlockNode>> OpenNode(EventLoop& loop, Opener& opener, DriverOptions options,
                                         NodeSettings settings) {
  NodeOpener node_opener(loop, opener);
  const bool writes = !settings.read_only;
  auto opening = node_opener.OpenDisk(std::move(options), std::move(settings), 0);
  absl::StatusOr<BlockNode> node = co_await std::move(opening);
  CO_RETURN_IF_ERROR(node.status());
  node->blkdebug = node_opener.blkdebug();
  if (writes && node->disk->geometry().read_only) {
    CO_RETURN_IF_ERROR(co_await node->disk->Close());
    co_return Invalid("Block node is read-only");
  }
  co_return node;
}

}  // namespace vireo
