#include "storage/img/new_image.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/buffer_pool.h"
#include "storage/host_file.h"
#include "storage/img/arguments.h"
#include "storage/img/size.h"

namespace vireo::img {
namespace {

enum class Type { kText, kSwitch, kSize, kNumber };

struct Option {
  const char* name;
  Type type;
  const char* preset;  // Null = none.
  const char* help;
};

// In the order in which they are shown.
constexpr Option kQcow2Options[] = {
    {"encryption", Type::kSwitch, nullptr,
     "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"},
    {"encrypt.format", Type::kText, nullptr, "Encrypt the image, format choices: 'aes', 'luks'"},
    {"encrypt.key-secret", Type::kText, nullptr,
     "ID of secret providing qcow AES key or LUKS passphrase"},
    {"encrypt.cipher-alg", Type::kText, nullptr, "Name of encryption cipher algorithm"},
    {"encrypt.cipher-mode", Type::kText, nullptr, "Name of encryption cipher mode"},
    {"encrypt.ivgen-alg", Type::kText, nullptr, "Name of IV generator algorithm"},
    {"encrypt.ivgen-hash-alg", Type::kText, nullptr, "Name of IV generator hash algorithm"},
    {"encrypt.hash-alg", Type::kText, nullptr, "Name of encryption hash algorithm"},
    {"encrypt.iter-time", Type::kNumber, nullptr, "Time to spend in PBKDF in milliseconds"},
    {"cluster_size", Type::kSize, "65536", "qcow2 cluster size"},
    {"extended_l2", Type::kSwitch, "off", "Extended L2 tables"},
    {"preallocation", Type::kText, nullptr,
     "Preallocation mode (allowed values: off, metadata, falloc, full)"},
    {"compression_type", Type::kText, "zlib",
     "Compression method used for image cluster "
     "compression"},
    {"size", Type::kSize, nullptr, "Virtual disk size"},
    {"compat", Type::kText, nullptr, "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"backing_file", Type::kText, nullptr, "File name of a base image"},
    {"backing_fmt", Type::kText, nullptr, "Image format of the base image"},
    {"data_file", Type::kText, nullptr, "File name of an external data file"},
    {"data_file_raw", Type::kSwitch, nullptr,
     "The external data file must stay valid as a raw image"},
    {"lazy_refcounts", Type::kSwitch, "off", "Postpone refcount updates"},
    {"refcount_bits", Type::kNumber, "16", "Width of a reference count entry in bits"},
};
constexpr Option kRawOptions[] = {{"size", Type::kSize, nullptr, "Virtual disk size"}};
// Of the file under an image.
constexpr Option kFileOptions[] = {
    {"nocow", Type::kSwitch, nullptr, "Turn off copy-on-write (valid only on btrfs)"},
    {"preallocation", Type::kText, nullptr,
     "Preallocation mode (allowed values: off, falloc, full)"},
    {"extent_size_hint", Type::kSize, nullptr, "Extent size hint for the image file, 0 to disable"},
};

// Each name once: the format's meaning goes first.
std::vector<Option> OptionsOf(ImageFormat format, HelpOf what) {
  std::vector<Option> options;
  if (format == ImageFormat::kQcow2) {
    options.assign(std::begin(kQcow2Options), std::end(kQcow2Options));
  } else {
    options.assign(std::begin(kRawOptions), std::end(kRawOptions));
  }
  if (what == HelpOf::kFormat) return options;
  for (const Option& option : kFileOptions) {
    const bool known = std::any_of(options.begin(), options.end(), [&](const Option& other) {
      return std::string_view(other.name) == option.name;
    });
    if (!known) options.push_back(option);
  }
  return options;
}

std::optional<Option> FindOption(ImageFormat format, const std::string& name) {
  for (const Option& option : OptionsOf(format, HelpOf::kFormatAndFile)) {
    if (name == option.name) return option;
  }
  return std::nullopt;
}

const char* TypeName(Type type) {
  switch (type) {
    case Type::kText:
      return "str";
    case Type::kSwitch:
      return "bool (on/off)";
    case Type::kSize:
      return "size";
    case Type::kNumber:
      return "num";
  }
  return "";
}

absl::Status NotSupported(const char* name) {
  return absl::UnimplementedError(absl::StrFormat("option '%s' is not supported yet", name));
}

absl::Status BadValue(const char* name, const std::string& value) {
  return absl::InvalidArgumentError(
      absl::StrFormat("Parameter '%s' does not accept value '%s'", name, value));
}

std::optional<qcow2::Preallocation> PreallocationFromName(const std::string& name) {
  if (name == "off") return qcow2::Preallocation::kOff;
  if (name == "metadata") return qcow2::Preallocation::kMetadata;
  if (name == "falloc") return qcow2::Preallocation::kFalloc;
  if (name == "full") return qcow2::Preallocation::kFull;
  return std::nullopt;
}

Task<absl::Status> FillRaw(File& file, const NewImage& wanted) {
  const uint64_t size = AlignUp<uint64_t>(wanted.size_bytes().value_or(0), 512);
  const std::string preallocation = wanted.Get("preallocation").value_or("off");
  if (!file.traits().growable) {
    if (size <= file.size()) co_return absl::OkStatus();
    co_return absl::ResourceExhaustedError(
        absl::StrFormat("%s: the device has %d bytes, not %d", file.name(), file.size(), size));
  }
  CO_RETURN_IF_ERROR(co_await file.Truncate(0));
  if (preallocation == "off") {
    CO_RETURN_IF_ERROR(co_await file.Truncate(size));
  } else {
    CO_RETURN_IF_ERROR(co_await file.Extend(size));
  }
  std::vector<iovec> zeros;
  AppendZeros(1 << 20, zeros);
  for (uint64_t at = 0; preallocation == "full" && at < size; at += 1 << 20) {
    const IoVecList piece = Slice(zeros, 0, std::min<uint64_t>(1 << 20, size - at));
    CO_RETURN_IF_ERROR(co_await file.Write(at, piece));
  }
  const absl::Status status = co_await file.Sync();
  co_return status;
}

// `data` is the data file, or null.
Task<absl::Status> Fill(EventLoop& loop, File& file, const NewImage& wanted, File* data) {
  if (wanted.format() == ImageFormat::kRaw) {
    const absl::Status status = co_await FillRaw(file, wanted);
    co_return status;
  }
  CO_ASSIGN_OR_RETURN(qcow2::CreateOptions options, wanted.ToQcow2());
  CO_ASSIGN_OR_RETURN(const std::optional<NewEncryption> encryption, wanted.Encryption());
  if (encryption.has_value()) {
    const NewEncryption* const luks = &*encryption;
    auto make = [luks]() { return crypto::MakeLuksArea(luks->luks, luks->passphrase->bytes()); };
    auto making = loop.Offload(std::move(make));
    absl::StatusOr<std::vector<uint8_t>> area = co_await std::move(making);
    CO_RETURN_IF_ERROR(area.status());
    options.luks_area = *std::move(area);
  }
  const absl::Status status = co_await qcow2::CreateImage(file, std::move(options), data);
  co_return status;
}

}  // namespace

std::string OptionsHelp(ImageFormat format, HelpOf what) {
  std::vector<Option> options = OptionsOf(format, what);
  std::sort(options.begin(), options.end(), [](const Option& a, const Option& b) {
    return std::string_view(a.name) < std::string_view(b.name);
  });
  std::string text = what == HelpOf::kFormatAndFile
                         ? "Supported options:\n"
                         : absl::StrFormat("Supported %s options:\n", ImageFormatName(format));
  for (const Option& option : options) {
    const std::string name = absl::StrFormat("  %s=<%s>", option.name, TypeName(option.type));
    absl::StrAppendFormat(&text, "%-24s - %s\n", name, option.help);
  }
  if (what == HelpOf::kFormat) {
    absl::StrAppend(&text,
                    "\nThe protocol level may support further options.\n"
                    "Specify the target filename to include those options.\n");
  }
  return text;
}

absl::Status CheckOptionList(const std::string& text) {
  // A comma that separates nothing; a doubled one belongs to a value.
  size_t commas = 0;
  while (commas < text.size() && text[text.size() - 1 - commas] == ',') ++commas;
  if (text.empty() || text[0] == ',' || commas % 2 == 1) {
    return absl::InvalidArgumentError(absl::StrCat("Invalid option list: ", text));
  }
  return absl::OkStatus();
}

absl::Status NewImage::Add(const std::string& text) {
  // Keys may stand twice, the last counts; "NAME" is NAME=on, "noNAME" is NAME=off.
  size_t at = 0;
  while (at < text.size()) {
    std::string item;
    for (; at < text.size(); ++at) {
      if (text[at] == ',') {
        if (at + 1 >= text.size() || text[at + 1] != ',') break;
        ++at;
      }
      item += text[at];
    }
    ++at;
    const size_t equals = item.find('=');
    if (equals != std::string::npos) {
      RETURN_IF_ERROR(Set(item.substr(0, equals), item.substr(equals + 1)));
    } else if (absl::StartsWith(item, "no") && FindOption(format_, item.substr(2)).has_value() &&
               !FindOption(format_, item).has_value()) {
      RETURN_IF_ERROR(Set(item.substr(2), "off"));
    } else {
      RETURN_IF_ERROR(Set(item, "on"));
    }
  }
  return absl::OkStatus();
}

absl::Status NewImage::Set(const std::string& name, const std::string& value) {
  const std::optional<Option> option = FindOption(format_, name);
  if (!option.has_value()) {
    return absl::InvalidArgumentError(absl::StrFormat("Invalid parameter '%s'", name));
  }
  std::string kept = value;
  if (option->type == Type::kSwitch) {
    RETURN_IF_ERROR(ParseSwitch(name, value).status());
  } else if (option->type == Type::kSize) {
    const std::optional<uint64_t> bytes = ParseSize(value);
    if (!bytes.has_value()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "Parameter '%s' expects a non-negative number below 2^64\n"
          "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
          "and exabytes, respectively.",
          name));
    }
    kept = absl::StrCat(*bytes);
  } else if (option->type == Type::kNumber) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(value, &number)) {
      return absl::InvalidArgumentError(absl::StrFormat("Parameter '%s' expects a number", name));
    }
    kept = absl::StrCat(number);
  }
  values_[name] = std::move(kept);
  return absl::OkStatus();
}

std::optional<std::string> NewImage::Get(const std::string& name) const {
  if (const auto found = values_.find(name); found != values_.end()) return found->second;
  const std::optional<Option> option = FindOption(format_, name);
  if (!option.has_value() || option->preset == nullptr) return std::nullopt;
  return option->preset;
}

std::optional<uint64_t> NewImage::size_bytes() const {
  const auto found = values_.find("size");
  if (found == values_.end()) return std::nullopt;
  return ParseSize(found->second);
}

std::string NewImage::Describe(const std::string& path) const {
  std::string text = absl::StrFormat("Formatting '%s', fmt=%s", path, ImageFormatName(format_));
  for (const Option& option : OptionsOf(format_, HelpOf::kFormatAndFile)) {
    std::optional<std::string> value = Get(option.name);
    if (!value.has_value()) continue;
    if (option.type == Type::kText) *value = absl::StrReplaceAll(*value, {{",", ",,"}});
    absl::StrAppend(&text, " ", option.name, "=", *value);
  }
  return text;
}

bool NewImage::IsOn(const char* name) const {
  const std::optional<std::string> value = Get(name);
  if (!value.has_value()) return false;
  const absl::StatusOr<bool> on = ParseSwitch(name, *value);
  return on.ok() && *on;
}

absl::StatusOr<qcow2::CreateOptions> NewImage::Sizes() const {
  qcow2::CreateOptions wanted = {.size_bytes = size_bytes().value_or(0)};
  const uint64_t cluster_bytes = *ParseSize(*Get("cluster_size"));
  if (!std::has_single_bit(cluster_bytes) || cluster_bytes < 512 || cluster_bytes > (2 << 20)) {
    return absl::InvalidArgumentError("Cluster size must be a power of two between 512 and 2048k");
  }
  wanted.cluster_bits = static_cast<uint32_t>(std::countr_zero(cluster_bytes));
  if (const auto compat = Get("compat")) {
    if (*compat == "0.10" || *compat == "v2") {
      wanted.version = 2;
    } else if (*compat != "1.1" && *compat != "v3") {
      return BadValue("version", *compat);
    }
  }
  wanted.extended_l2 = IsOn("extended_l2");
  const uint64_t refcount_bits = static_cast<uint64_t>(std::stoll(*Get("refcount_bits")));
  if (!std::has_single_bit(refcount_bits) || refcount_bits > 64) {
    return absl::InvalidArgumentError(
        "Refcount width must be a power of two and may not exceed 64 bits");
  }
  wanted.refcount_order = static_cast<uint32_t>(std::countr_zero(refcount_bits));
  return wanted;
}

absl::StatusOr<qcow2::CreateOptions> NewImage::Shape() const {
  // Some words are measure's own.
  if (const auto compat = Get("compat")) {
    if (*compat != "0.10" && *compat != "v2" && *compat != "1.1" && *compat != "v3") {
      return absl::InvalidArgumentError(
          absl::StrFormat("Invalid compatibility level: '%s'", *compat));
    }
  }
  ASSIGN_OR_RETURN(qcow2::CreateOptions wanted, Sizes());
  if (wanted.version < 3 && wanted.refcount_order != 4) {
    return absl::InvalidArgumentError(
        "Different refcount widths than 16 bits require compatibility level 1.1 or above (use "
        "compat=1.1 or greater)");
  }
  const std::string name = Get("preallocation").value_or("off");
  const std::optional<qcow2::Preallocation> preallocation = PreallocationFromName(name);
  if (!preallocation.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("invalid parameter value: ", name));
  }
  const uint64_t size = wanted.size_bytes;
  wanted.size_bytes = 0;  // What is measured says that.
  RETURN_IF_ERROR(qcow2::ValidateCreateOptions(wanted));
  wanted.size_bytes = size;
  wanted.preallocation = *preallocation;
  return wanted;
}

absl::StatusOr<qcow2::CreateOptions> NewImage::ToQcow2() const {
  ASSIGN_OR_RETURN(qcow2::CreateOptions wanted, Sizes());
  const std::string compression = *Get("compression_type");
  if (compression != "zlib" && compression != "zstd") {
    return BadValue("compression-type", compression);
  }
  wanted.zstd = compression == "zstd";
  wanted.lazy_refcounts = IsOn("lazy_refcounts");
  wanted.backing_file = Get("backing_file");
  wanted.backing_format = Get("backing_fmt").value_or("");
  if (!wanted.backing_file.has_value() && !wanted.backing_format.empty()) {
    return absl::InvalidArgumentError("Backing format cannot be used without backing file");
  }
  const std::string name = Get("preallocation").value_or("off");
  const std::optional<qcow2::Preallocation> preallocation = PreallocationFromName(name);
  if (!preallocation.has_value()) return BadValue("preallocation", name);
  wanted.preallocation = *preallocation;
  if (IsSet("data_file")) wanted.data_file = Get("data_file");
  wanted.data_file_raw = IsOn("data_file_raw");

  // What the engine does not make yet.
  RETURN_IF_ERROR(Encryption().status());

  if (IsOn("nocow")) return NotSupported("nocow");
  RETURN_IF_ERROR(qcow2::ValidateCreateOptions(wanted));
  return wanted;
}

absl::StatusOr<std::optional<NewEncryption>> NewImage::Encryption() const {
  const SecretStore none;
  return EncryptionOf([this](const char* name) { return Get(name); },
                      secrets_ == nullptr ? none : *secrets_);
}

Task<absl::Status> MakeImage(EventLoop& loop, Opener& opener, std::string path, NewImage wanted,
                             UnfinishedFiles* made) {
  // What cannot be leaves alone what is there.
  if (wanted.format() == ImageFormat::kQcow2) {
    CO_RETURN_IF_ERROR(wanted.ToQcow2().status());
  } else {
    const std::string mode = wanted.Get("preallocation").value_or("off");
    if (mode == "metadata") {
      co_return absl::InvalidArgumentError("Unsupported preallocation mode: metadata");
    }
    if (mode != "off" && mode != "falloc" && mode != "full") {
      co_return absl::InvalidArgumentError(absl::StrCat("invalid parameter value: ", mode));
    }
  }
  HostFile::Options options = {.path = path, .create = true, .lock = LockMode::kExclusive};
  absl::StatusOr<std::unique_ptr<File>> file =
      co_await HostFile::Open(loop, opener, std::move(options));
  if (!file.ok()) {
    if (const int error = StatusErrno(file.status()); error != 0) {
      co_return ErrnoStatus(error, absl::StrFormat("Could not create '%s'", path));
    }
    if (absl::IsAborted(file.status())) {
      co_return absl::AbortedError(absl::StrFormat(
          "Failed to get \"write\" lock\nIs another process using the image [%s]?", path));
    }
    co_return file.status();
  }
  made->Add(path);
  std::unique_ptr<File> data;
  absl::Status filled;
  if (const std::optional<std::string> name = wanted.Get("data_file")) {
    HostFile::Options data_options = {.path = *name, .create = true, .lock = LockMode::kExclusive};
    auto opened = co_await HostFile::Open(loop, opener, std::move(data_options));
    filled = opened.status();
    if (filled.ok()) {
      made->Add(*name);
      data = *std::move(opened);
    }
  }
  if (filled.ok()) filled = co_await Fill(loop, **file, wanted, data.get());
  if (data != nullptr) {
    const absl::Status data_closed = co_await data->Close();
    if (filled.ok()) filled = data_closed;
  }
  const absl::Status closed = co_await (*file)->Close();
  co_return filled.ok() ? closed : filled;
}

}  // namespace vireo::img
