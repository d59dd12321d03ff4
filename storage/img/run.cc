#include <array>
#include <string>
#include <vector>

#include "storage/img/tool.h"

namespace vireo::img {
namespace {

constexpr char kHelp[] =
    "usage: vireo-img COMMAND [OPTIONS]\n"
    "Makes, shows and checks disk images. Options, output and exit codes are those of qemu-img.\n"
    "\n"
    "  create [-q] [-f FORMAT] [-b BACKING_FILE -F BACKING_FORMAT] [-u] [-o OPTIONS] FILE [SIZE]\n"
    "      Makes an empty image, or with -b a linked clone. FORMAT is raw (the default) or qcow2.\n"
    "      SIZE is in bytes, or with k, M, G, T, P, E in powers of 1024; without it a clone gets "
    "the\n"
    "      size of its backing file. -u does not open the backing file. -o help lists OPTIONS.\n"
    "\n"
    "  info [-f FORMAT] [--output=human|json] [-U] FILE\n"
    "      Shows what an image's header says. Opens nothing but FILE.\n"
    "\n"
    "  check [-q] [-f FORMAT] [--output=human|json] [-r leaks|all] [-U] FILE\n"
    "      Compares refcounts with references; -r mends them. Exit status: 0 clean, 1 could not "
    "be\n"
    "      checked, 2 corruptions, 3 leaked clusters only, 63 nothing to check in this format.\n"
    "\n"
    "  bench [-w] [-c COUNT] [-d DEPTH] [-s SIZE] [-S STEP] [-o OFFSET] [-f FORMAT] [-t CACHE] "
    "[-U]\n"
    "        [--flush-interval=COUNT [--no-drain]] [--pattern=BYTE] [--latency] FILE\n"
    "      Sends COUNT requests of SIZE bytes, each STEP bytes behind the one before, DEPTH at a "
    "time,\n"
    "      and says how long they took; --latency also how long one took. -i is accepted and "
    "means\n"
    "      io_uring.\n"
    "\n"
    "-U takes no lock and respects none: for an image that a running VM has open.\n"
    "\n"
    "  --help, --version\n";

constexpr char kVersion[] = "vireo-img version 0.1 (as qemu-img 7.2)\n";

// Verbs of qemu-img that are to come.
constexpr std::array<const char*, 12> kLater = {"amend",   "bitmap", "commit",   "compare",
                                                "convert", "dd",     "map",      "measure",
                                                "rebase",  "resize", "snapshot", "verify-upload"};

}  // namespace

int Run(const Tool& tool, const std::vector<std::string>& args) {
  if (args.empty()) return tool.FailUsage("Not enough arguments");
  const std::string& verb = args[0];
  const std::vector<std::string> rest(args.begin() + 1, args.end());
  for (const std::string& arg : args) {
    if (arg == "--") break;
    if (arg == "--help" || arg == "-h") {
      tool.Print("%s", kHelp);
      return 0;
    }
  }
  if (verb == "--version" || verb == "-V") {
    tool.Print("%s", kVersion);
    return 0;
  }
  if (verb == "bench") return Bench(tool, rest);
  if (verb == "create") return Create(tool, rest);
  if (verb == "info") return Info(tool, rest);
  if (verb == "check") return Check(tool, rest);
  for (const char* later : kLater) {
    if (verb == later) return tool.Fail("%s is not supported yet", verb);
  }
  return tool.FailUsage("Command not found: %s", verb);
}

}  // namespace vireo::img
