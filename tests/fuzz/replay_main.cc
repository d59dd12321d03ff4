// main() of a fuzz target as an ordinary test: runs the corpus, then mutations of it.
// usage: NAME [--mutations=N] [--seed=N] [--save=FILE] CORPUS_FILE...
// With --save each input is written to FILE before it runs, so that a crash leaves its input there.
// (Bazel: --test_arg=--save=/tmp/crash, then `--config=fuzz`'s program on it, or this one.)

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/fuzz/mutator.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace vireo {
namespace {

struct Flags {
  uint64_t mutations = 0;
  uint64_t seed = 1;
  std::string save;
  std::vector<std::string> files;
};

Flags ParseFlags(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("--mutations=")) {
      flags.mutations = std::strtoull(argument.c_str() + sizeof("--mutations=") - 1, nullptr, 10);
    } else if (argument.starts_with("--seed=")) {
      flags.seed = std::strtoull(argument.c_str() + sizeof("--seed=") - 1, nullptr, 10);
    } else if (argument.starts_with("--save=")) {
      flags.save = argument.substr(sizeof("--save=") - 1);
    } else {
      flags.files.push_back(argument);
    }
  }
  return flags;
}

void RunOne(const Flags& flags, const Bytes& input) {
  if (!flags.save.empty()) {
    std::ofstream file(flags.save, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(input.data()),
               static_cast<std::streamsize>(input.size()));
  }
  // A copy of exactly its size, so that AddressSanitizer sees a read past the end.
  const Bytes exact(input.begin(), input.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

int Run(const Flags& flags) {
  std::vector<Bytes> corpus;
  for (const std::string& path : flags.files) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "%s: cannot be read\n", path.c_str());
      return 1;
    }
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    RunOne(flags, corpus.back());
  }
  Mutator mutator(flags.seed, std::move(corpus));
  for (uint64_t i = 0; i < flags.mutations; ++i) RunOne(flags, mutator.Next());
  std::printf("%zu corpus files and %llu mutations of them\n", flags.files.size(),
              static_cast<unsigned long long>(flags.mutations));
  return 0;
}

}  // namespace
}  // namespace vireo

int main(int argc, char** argv) { return vireo::Run(vireo::ParseFlags(argc, argv)); }
