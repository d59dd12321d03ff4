#include "storage/io/session.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "storage/copy_on_read.h"
#include "storage/host_file.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/header_reader.h"

namespace vireo::io {

std::optional<CacheMode> ParseCacheMode(const std::string& name) {
  if (name == "none" || name == "off") return CacheMode{.direct = true};
  if (name == "directsync") return CacheMode{.direct = true, .writethrough = true};
  if (name == "writeback") return CacheMode{};
  if (name == "unsafe") return CacheMode{.no_flush = true};
  if (name == "writethrough") return CacheMode{.writethrough = true};
  return std::nullopt;
}

int RequestErrno(const absl::Status& status) {
  if (status.ok()) return 0;
  if (const int error = StatusErrno(status); error != 0) return error;
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return EINVAL;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
      return EPERM;
    case absl::StatusCode::kUnimplemented:
      return ENOTSUP;
    case absl::StatusCode::kResourceExhausted:
      return ENOSPC;
    case absl::StatusCode::kCancelled:
      return ECANCELED;
    default:
      return EIO;
  }
}

Session::Session(EventLoop& loop, Opener& opener, std::string program, std::FILE* out,
                 std::FILE* err)
    : loop_(loop),
      opener_(opener),
      program_(std::move(program)),
      out_(out),
      err_(err),
      requests_(loop) {}

Session::~Session() = default;

void Session::Complain(const std::string& line) {
  std::fwrite(line.data(), 1, line.size(), err_);
  std::fputc('\n', err_);
}

Session::Buffer Session::Allocate(uint64_t size, uint8_t byte) const {
  Buffer buffer;
  buffer.skip = misalign_ ? 16 : 0;
  buffer.bytes = AllocateAligned(size + buffer.skip);
  std::memset(buffer.bytes.get(), byte, size + buffer.skip);
  return buffer;
}

Task<absl::StatusOr<BlockNode>> Session::OpenTemporary(BlockNode backing) {
  const char* const directory = ::getenv("TMPDIR");
  std::string path = absl::StrCat(
      directory != nullptr && *directory != '\0' ? directory : "/var/tmp", "/vl.XXXXXX");
  const UniqueFd made(::mkostemp(path.data(), O_CLOEXEC));
  absl::Status failed;
  std::unique_ptr<File> file;
  if (!made.valid()) {
    failed = ErrnoStatus(errno, absl::StrFormat("Could not open temporary file '%s'", path));
  } else {
    HostFile::Options options = {.path = absl::StrCat("fd:", made.get()), .no_flush = true};
    absl::StatusOr<std::unique_ptr<File>> opened =
        co_await HostFile::Open(loop_, opener_, std::move(options));
    ::unlink(path.c_str());  // Gone with its last descriptor, whatever happens.
    failed = opened.status();
    if (opened.ok()) file = *std::move(opened);
  }
  if (failed.ok()) {
    qcow2::CreateOptions create = {.size_bytes = backing.disk->geometry().size_bytes};
    failed = co_await qcow2::CreateImage(*file, create);
  }
  absl::StatusOr<qcow2::Header> header = absl::UnknownError("");
  if (!failed.ok()) {
    header = failed;
  } else {
    header = co_await qcow2::ReadHeader(*file, qcow2::Access::kReadWrite);
  }
  if (!header.ok()) {
    const absl::Status closed = co_await backing.disk->Close();
    static_cast<void>(closed);  // What went wrong first counts.
    co_return header.status();
  }
  qcow2::Image::Parts parts = {.file = std::move(file), .backing = std::move(backing.disk)};
  absl::StatusOr<std::unique_ptr<BlockBackend>> image =
      co_await qcow2::Image::Open(loop_, *std::move(header), std::move(parts), {});
  CO_RETURN_IF_ERROR(image.status());
  BlockNode node = {.driver = "qcow2", .format = ImageFormat::kQcow2};
  node.disk = *std::move(image);
  node.image = static_cast<qcow2::Image*>(node.disk.get());
  node.file_name = std::move(path);
  co_return node;
}

bool Session::Open(OpenOptions options) {
  const auto stated_share = options.options.values().find("force-share");
  if (options.share && stated_share != options.options.values().end() &&
      stated_share->second != std::optional<std::string>("on")) {
    Error("-U conflicts with image options");
    return false;
  }
  absl::StatusOr<BlockNode> node = absl::InvalidArgumentError("Must specify either driver or file");
  absl::StatusOr<DriverOptions> drivers = options.options;
  if (options.name.has_value()) {
    drivers = OptionsFromName(*options.name);
    if (drivers.ok()) {
      const std::optional<std::string> driver = DriverOptions(options.options).Take("driver");
      if (driver.has_value() && IsProtocolDriver(*driver) && !drivers->Has("driver")) {
        drivers = drivers->TakeBelow("file");
        drivers->Set("driver", *driver);
      }
      DriverOptions stated = options.options;
      stated.Inherit(*drivers);
      drivers = std::move(stated);
    }
  }
  if (options.share && !options.read_only) {
    drivers = absl::InvalidArgumentError("force-share=on can only be used with read-only images");
  } else if (options.copy_on_read && options.read_only) {
    drivers = absl::InvalidArgumentError("Can't use copy-on-read on read-only device");
  }
  if (drivers.ok()) {
    NodeSettings settings = {.read_only = options.read_only || options.temporary,
                             .direct = options.cache.direct,
                             .no_flush = options.cache.no_flush,
                             .writethrough = options.cache.writethrough,
                             .ignore_discards = options.ignore_discards,
                             .share = options.share,
                             .secrets = &secrets_};
    settings.say = [this](const std::string& line) { Print("%s\n", line); };
    node = loop_.RunTask(OpenNode(loop_, opener_, *std::move(drivers), std::move(settings)));
  } else {
    node = drivers.status();
  }
  if (node.ok() && options.temporary) node = loop_.RunTask(OpenTemporary(*std::move(node)));
  if (!node.ok()) {
    Error("can't open%s%s: %s", options.name.has_value() ? " device " : "",
          options.name.value_or(""), std::string(node.status().message()));
    return false;
  }
  node_ = *std::move(node);
  if (node_.probed && node_.format == ImageFormat::kRaw && !read_only()) {
    Complain(absl::StrFormat(
        "WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
        "         Automatically detecting the format is dangerous for raw images, write "
        "operations on block 0 will be restricted.\n"
        "         Specify the 'raw' format explicitly to remove the restrictions.",
        node_.file_name));
  }
  if (options.copy_on_read) node_.disk = std::make_unique<CopyOnRead>(std::move(node_.disk));
  bytes_ = std::make_unique<ByteDisk>(*node_.disk);
  options_ = std::move(options);
  return true;
}

void Session::WaitForRequests() { loop_.RunTask(requests_.Join()); }

absl::Status Session::Close() {
  if (!is_open()) return absl::OkStatus();
  // Nobody is left to resume what a breakpoint holds up.
  if (node_.blkdebug != nullptr) node_.blkdebug->ResumeAll();
  WaitForRequests();
  absl::Status closed = loop_.RunTask(node_.disk->Close());
  bytes_.reset();
  node_ = BlockNode();
  return closed;
}

}  // namespace vireo::io
