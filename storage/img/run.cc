#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "base/status.h"
#include "storage/img/secret_object.h"
#include "storage/img/tool.h"

namespace vireo::img {
namespace {

struct Verb {
  const char* name;
  int (*run)(const Tool& tool, const std::vector<std::string>& args);
  const char* help;  // Its options on a line of their own, then what it does, indented.
};

// In alphabetical order.
constexpr Verb kVerbs[] = {
    {"amend", Amend,
     "[--image-opts] [-p] [-q] [-f FORMAT] [-t CACHE] [--force] -o OPTIONS FILE\n"
     "    Changes what FILE was made as; -o help lists OPTIONS. Of an encrypted image, named with\n"
     "    the secret that opens it, encrypt.state=active,encrypt.new-secret=ID adds a passphrase\n"
     "    and encrypt.state=inactive,encrypt.old-secret=ID erases one, but never the last without\n"
     "    --force.\n"},
    {"bench", Bench,
     "[-w] [-c COUNT] [-d DEPTH] [-s SIZE] [-S STEP] [-o OFFSET] [-f FORMAT] [-t CACHE] [-U]\n"
     "      [--flush-interval=COUNT [--no-drain]] [--pattern=BYTE] [--latency] FILE\n"
     "    Sends COUNT requests of SIZE bytes, each STEP bytes behind the one before, DEPTH at a\n"
     "    time, and says how long they took; --latency also how long one took. -i is accepted and\n"
     "    means io_uring.\n"},
    {"bitmap", Bitmap,
     "(--add [-g GRANULARITY] | --remove | --clear | --enable | --disable | --merge SOURCE)...\n"
     "      [-b SOURCE_FILE [-F FORMAT]] [--image-opts] [-f FORMAT] FILE BITMAP\n"
     "    Changes a persistent dirty bitmap of FILE, in the order of the options. --merge takes "
     "in\n"
     "    what the bitmap SOURCE, of FILE or SOURCE_FILE, has.\n"},
    {"check", Check,
     "[--image-opts] [-q] [-f FORMAT] [--output=human|json] [-r leaks|all] [-T CACHE] [-U] FILE\n"
     "    Compares refcounts with references; -r mends them. Exit status: 0 clean, 1 could not be\n"
     "    checked, 2 corruptions, 3 leaked clusters only, 63 nothing to check in this format.\n"},
    {"commit", Commit,
     "[--image-opts] [-f FORMAT] [-t CACHE] [-b BASE] [-r RATE] [-d] [-p] [-q]\n"
     "      FILE\n"
     "    Writes what FILE holds into its backing file, or into BASE further down, and empties "
     "FILE\n"
     "    then; with -d or -b it stays as it is.\n"},
    {"compare", Compare,
     "[--image-opts] [-f FORMAT] [-F FORMAT2] [-T CACHE] [-p] [-q] [-s] [-U] FILE FILE2\n"
     "    Tells whether two images hold the same bytes; -s: also the same size and allocation.\n"
     "    Exit status: 0 the same, 1 different, 2 could not be opened, 3 or 4 could not be "
     "read.\n"},
    {"convert", Convert,
     "[--image-opts] [--target-image-opts] [--target-is-zero] [-U] [-C] [-p] [-q] [-n]\n"
     "      [-f FORMAT] [-t CACHE] [-T CACHE2] [-O FORMAT2] [-B BACKING_FILE -F BACKING_FORMAT]\n"
     "      [-o OPTIONS] [-l SNAPSHOT] [-S SIZE] [-r RATE] [-m N] [-W] [-c] [--salvage]\n"
     "      [--bitmaps [--skip-broken-bitmaps]] FILE [FILE2...] TARGET\n"
     "    Copies disks, one behind the other, into a new image; -n: into one that is there. Runs\n"
     "    of zeros of SIZE (4k) and more are left out, with -S 0 none. -m: pieces under way at a\n"
     "    time (8); -W: written in any order. --salvage goes on where FILE cannot be read.\n"},
    {"create", Create,
     "[-q] [-f FORMAT] [-b BACKING_FILE -F BACKING_FORMAT] [-u] [-o OPTIONS] FILE [SIZE]\n"
     "    Makes an empty image, or with -b a linked clone, which has the size of its backing file\n"
     "    unless SIZE is given. -u does not open the backing file. -o help lists OPTIONS.\n"},
    {"dd", Dd,
     "[--image-opts] [-U] [-f FORMAT] [-O FORMAT2] [bs=SIZE] [count=N] [skip=N] if=FILE of=FILE2\n"
     "    Copies blocks of SIZE (512) bytes: COUNT of them (all), from number SKIP (0) on.\n"},
    {"info", Info,
     "[--image-opts] [-f FORMAT] [--output=human|json] [--backing-chain] [-U] FILE\n"
     "    Shows what an image's header says.\n"},
    {"map", Map,
     "[--image-opts] [-f FORMAT] [-s|--start-offset=N] [-l|--max-length=N] [--output=human|json]\n"
     "      [-U] FILE\n"
     "    Shows which bytes are stored where, in which file of the chain.\n"},
    {"measure", Measure,
     "[--output=human|json] [-O FORMAT] [-o OPTIONS] [--size N | [--image-opts] [-f FORMAT]\n"
     "      [-l SNAPSHOT] [-U] FILE]\n"
     "    Tells how large a file a new image needs for the disk in FILE, or for an empty one.\n"},
    {"rebase", Rebase,
     "[--image-opts] [-U] [-f FORMAT] [-t CACHE] [-T CACHE] [-p] [-q] [-u] -b BACKING_FILE\n"
     "      [-F BACKING_FORMAT] FILE\n"
     "    Gives FILE another backing file, or with -b '' none; what it shows stays the same. -u\n"
     "    changes the name only.\n"},
    {"resize", Resize,
     "[--image-opts] [-f FORMAT] [--preallocation=off|metadata|falloc|full] [-q] [--shrink]\n"
     "      FILE [+|-]SIZE\n"
     "    Makes the disk larger, or with --shrink smaller.\n"},
    {"snapshot", Snapshot,
     "[--image-opts] [-q] [-U] [-l | -c NAME | -d NAME | -a ID_OR_NAME] FILE\n"
     "    Lists the internal snapshots of FILE, makes one, deletes one, or goes back to one.\n"},
    {"verify-upload", VerifyUpload,
     "[-q] [-f qcow2|raw] [--max-virtual-size=SIZE] [--max-ratio=N] [--allow-snapshots]\n"
     "      [--output=human|json] [-U] FILE\n"
     "    Tells whether a stranger's image may become a template: stands alone, names no other\n"
     "    file, is sound, and is no larger than SIZE (2T) and N (100) times its file. Exit "
     "status:\n"
     "    0 accepted, 1 refused, 2 could not tell.\n"},
};

constexpr char kHelpHead[] =
    "usage: vireo-img COMMAND [OPTIONS]\n"
    "Makes, shows, checks and converts disk images. Options, output and exit codes are those of "
    "qemu-img.\n\n";
constexpr char kHelpTail[] =
    "\n"
    "  FORMAT is raw or qcow2. Without -f an image's first bytes tell; that of a backing file is\n"
    "  what its overlay states, never guessed. CACHE is none, writeback, writethrough, directsync\n"
    "  or unsafe. SIZE and N are bytes, or with k, M, G, T, P, E in powers of 1024.\n"
    "  -U takes no lock and respects none: for an image that a running VM has open.\n"
    "  -p shows progress, as does the signal SIGUSR1 without it; -q is quiet but for errors.\n"
    "  --image-opts: FILE is driver=FORMAT,file.filename=NAME.\n"
    "  --object secret,id=ID,data=TEXT|file=PATH[,format=raw|base64]: the passphrase of an\n"
    "  encrypted image, which encrypt.key-secret=ID names (with create in -o, else among the\n"
    "  options of --image-opts).\n"
    "\n"
    "  --help, --version\n";

constexpr char kVersion[] = "vireo-img version 0.1 (as qemu-img 7.2)\n";

void PrintHelp(const Tool& tool) {
  tool.Print("%s", kHelpHead);
  for (const Verb& verb : kVerbs) {
    std::string text = verb.help;
    for (size_t at = text.find('\n'); at + 1 < text.size(); at = text.find('\n', at + 1)) {
      text.insert(at + 1, "  ");
    }
    tool.Print("  %s %s", verb.name, text);
  }
  tool.Print("%s", kHelpTail);
}

// --object is the same for every verb: takes it out of their arguments.
absl::Status TakeObjects(const Tool& tool, std::vector<std::string>* args, SecretStore* secrets) {
  constexpr char kLong[] = "--object=";
  std::vector<std::string> left;
  for (size_t i = 0; i < args->size(); ++i) {
    const std::string& arg = (*args)[i];
    if (arg == "--") {
      left.insert(left.end(), args->begin() + i, args->end());
      break;
    }
    if (arg == "--object") {
      if (++i == args->size()) {
        return absl::InvalidArgumentError("option '--object' requires an argument");
      }
      RETURN_IF_ERROR(AddObject(tool.opener, (*args)[i], secrets));
    } else if (absl::StartsWith(arg, kLong)) {
      RETURN_IF_ERROR(AddObject(tool.opener, arg.substr(sizeof(kLong) - 1), secrets));
    } else {
      left.push_back(arg);
    }
  }
  *args = std::move(left);
  return absl::OkStatus();
}

}  // namespace

int Run(const Tool& tool, const std::vector<std::string>& args) {
  if (args.empty()) return tool.FailUsage("Not enough arguments");
  const std::string& verb = args[0];
  std::vector<std::string> rest(args.begin() + 1, args.end());
  for (const std::string& arg : args) {
    if (arg == "--") break;
    if (arg == "--help" || arg == "-h") {
      PrintHelp(tool);
      return 0;
    }
  }
  if (verb == "--version" || verb == "-V") {
    tool.Print("%s", kVersion);
    return 0;
  }
  for (const Verb& known : kVerbs) {
    if (verb != known.name) continue;
    SecretStore secrets;
    if (const absl::Status taken = TakeObjects(tool, &rest, &secrets); !taken.ok()) {
      return tool.Fail("%s", std::string(taken.message()));
    }
    const Tool with_secrets = {.loop = tool.loop,
                               .opener = tool.opener,
                               .out = tool.out,
                               .err = tool.err,
                               .secrets = &secrets};
    return known.run(with_secrets, rest);
  }
  return tool.FailUsage("Command not found: %s", verb);
}

}  // namespace vireo::img
