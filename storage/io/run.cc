#include "storage/io/run.h"

#include <array>
#include <cstdio>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "storage/img/secret_object.h"
#include "storage/io/commands.h"
#include "storage/io/session.h"

namespace vireo::io {
namespace {

constexpr char kUsage[] =
    "Usage: %s [OPTIONS]... [-c STRING]... [file]\n"
    "Drives the storage engine on an image; options, commands and output are those of qemu-io.\n"
    "\n"
    "  --object OBJECTDEF   secret,id=ID,data=TEXT|file=PATH: the passphrase of an image\n"
    "  --image-opts         treat file as option string\n"
    "  -c, --cmd STRING     execute command with its arguments\n"
    "                       from the given string\n"
    "  -f, --format FMT     specifies the block driver to use\n"
    "  -r, --read-only      open the file read-only\n"
    "  -s, --snapshot       write to a temporary file instead\n"
    "  -n, --nocache        disable host cache, short for -t none\n"
    "  -C, --copy-on-read   enable copy-on-read\n"
    "  -m, --misalign       misalign allocations for O_DIRECT\n"
    "  -k, --native-aio     the same as -i native\n"
    "  -i, --aio=MODE       threads, native or io_uring: all I/O is io_uring's\n"
    "  -t, --cache=MODE     use the given cache mode for the image\n"
    "  -d, --discard=MODE   use the given discard mode for the image\n"
    "  -U, --force-share    take no locks and respect none\n"
    "  -h, --help           display this help and exit\n"
    "  -V, --version        output version information and exit\n"
    "\n"
    "See '%s -c help' for information on available commands.\n";

constexpr char kVersion[] = "vireo-io version 0.1 (as qemu-io 7.2)\n";

struct LongOption {
  const char* name;
  char letter;
};

constexpr std::array<LongOption, 18> kLongOptions = {{{"help", 'h'},
                                                      {"version", 'V'},
                                                      {"cmd", 'c'},
                                                      {"format", 'f'},
                                                      {"read-only", 'r'},
                                                      {"snapshot", 's'},
                                                      {"nocache", 'n'},
                                                      {"copy-on-read", 'C'},
                                                      {"misalign", 'm'},
                                                      {"native-aio", 'k'},
                                                      {"aio", 'i'},
                                                      {"discard", 'd'},
                                                      {"cache", 't'},
                                                      {"trace", 'T'},
                                                      {"force-share", 'U'},
                                                      {"object", 'O'},
                                                      {"image-opts", 'I'},
                                                      {"image_opts", 'I'}}};

// Options in their short form, so that one reader does for both. 'O' and 'I' have none.
constexpr char kLetters[] = "hVc:f:rsnCmki:t:d:T:UO:I";

absl::StatusOr<std::vector<std::string>> InShortForm(const std::string& program,
                                                     const std::vector<std::string>& args) {
  std::vector<std::string> words = {program};
  bool ended = false;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (ended || arg.size() < 3 || arg.compare(0, 2, "--") != 0) {
      ended = ended || arg == "--";
      if (!ended && arg.size() > 1 && arg[0] == '-' && (arg[1] == 'O' || arg[1] == 'I')) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s: invalid option -- '%c'", program, arg[1]));
      }
      words.push_back(arg);
      continue;
    }
    const size_t equals = arg.find('=');
    const std::string name = arg.substr(2, equals == std::string::npos ? equals : equals - 2);
    const LongOption* option = nullptr;
    for (const LongOption& each : kLongOptions) {
      if (name == each.name) option = &each;
    }
    if (option == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: unrecognized option '%s'", program, arg));
    }
    words.push_back({'-', option->letter});
    if (equals != std::string::npos) words.push_back(arg.substr(equals + 1));
  }
  return words;
}

// The next line without its end; nothing when there is none.
std::optional<std::string> ReadLine(std::FILE* in) {
  std::string line;
  int c;
  while ((c = std::fgetc(in)) != EOF && c != '\n') line += static_cast<char>(c);
  if (c == EOF && line.empty()) return std::nullopt;
  return line;
}

int RunCommands(const Program& program, Session& session, const Options& options) {
  int status = 0;
  for (const auto& [letter, value] : options.all()) {
    if (letter != 'c' || session.quit) continue;
    if (RunLine(session, value) == Result::kFailed) status = 1;
  }
  if (options.Has('c')) return status;
  while (!session.quit) {
    session.Print("%s> ", session.program());
    session.FlushOutput();
    const std::optional<std::string> line = ReadLine(program.in);
    if (!line.has_value()) break;
    if (RunLine(session, *line) == Result::kFailed) status = 1;
  }
  return status;
}

}  // namespace

int Run(const Program& program, const std::vector<std::string>& args) {
  Session session(program.loop, program.opener, program.name, program.out, program.err);
  const absl::StatusOr<std::vector<std::string>> words = InShortForm(program.name, args);
  const absl::StatusOr<Options> options =
      words.ok() ? Options::Parse(*words, kLetters) : absl::StatusOr<Options>(words.status());
  if (!options.ok()) {
    session.Complain(std::string(options.status().message()));
    session.Print(kUsage, program.name, program.name);
    return 1;
  }
  OpenOptions open;
  for (const auto& [letter, value] : options->all()) {
    if (letter == 'h') {
      session.Print(kUsage, program.name, program.name);
      return 0;
    }
    if (letter == 'V') {
      session.Print("%s", std::string(kVersion));
      return 0;
    }
    if (letter == 'n') open.cache.direct = true;
    if (letter == 't') {
      const std::optional<CacheMode> mode = ParseCacheMode(value);
      if (!mode.has_value()) {
        session.Error("Invalid cache option: %s", value);
        return 1;
      }
      open.cache = *mode;
    }
    if (letter == 'd') {
      if (value != "ignore" && value != "off" && value != "unmap" && value != "on") {
        session.Error("Invalid discard option: %s", value);
        return 1;
      }
      open.ignore_discards = value == "ignore" || value == "off";
    }
    if (letter == 'i' && value != "threads" && value != "native" && value != "io_uring") {
      session.Error("Invalid aio option: %s", value);
      return 1;
    }
    if (letter == 'T') {
      session.Error("tracing is not supported");
      return 1;
    }
    if (letter == 'O') {
      const absl::Status added = img::AddObject(program.opener, value, &session.secrets());
      if (!added.ok()) {
        session.Error("%s", std::string(added.message()));
        return 1;
      }
    }
    if (letter == 'm') session.set_misalign();
    if (letter == 'I') session.set_image_opts();
  }
  open.read_only = options->Has('r');
  open.temporary = options->Has('s');
  open.copy_on_read = options->Has('C');
  open.share = options->Has('U');
  const std::vector<std::string>& operands = options->operands();
  if (operands.size() > 1) {
    session.Print(kUsage, program.name, program.name);
    return 1;
  }
  const std::optional<std::string> format = options->Value('f');
  if (format.has_value() && session.image_opts()) {
    session.Error("--image-opts and -f are mutually exclusive");
    return 1;
  }
  if (operands.size() == 1) {
    if (session.image_opts()) {
      absl::StatusOr<DriverOptions> drivers = DriverOptions::FromKeyValues(operands[0]);
      if (!drivers.ok()) {
        session.Error("%s", std::string(drivers.status().message()));
        return 1;
      }
      open.options = *std::move(drivers);
    } else {
      open.name = operands[0];
      if (format.has_value()) open.options.Set("driver", *format);
    }
    if (!session.Open(std::move(open))) return 1;
  }
  int status = RunCommands(program, session, *options);
  if (!session.Close().ok()) status = 1;
  return status;
}

}  // namespace vireo::io
