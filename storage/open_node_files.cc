// Nodes as the files of others: host files, null devices, the fault injector, windows.

#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/iovecs.h"
#include "base/status.h"
#include "storage/backend_file.h"
#include "storage/file_window.h"
#include "storage/host_file.h"
#include "storage/image_lock.h"
#include "storage/node_opener.h"
#include "storage/null_file.h"

namespace vireo {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

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

}  // namespace

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
  if (depth > kMaxNodeDepth) co_return Invalid("The tree of drivers is too deep");
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
  if (!IsKnownDriver(driver)) co_return UnknownDriver(driver);
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

}  // namespace vireo
