// vireo-img in the process of a test, in a folder of its own.

#ifndef VIREO_STORAGE_IMG_TOOL_FIXTURE_H_
#define VIREO_STORAGE_IMG_TOOL_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "storage/img/tool.h"
#include "tests/support/temp_dir.h"

namespace vireo::img {

struct Ran {
  int status;
  std::string out;
  std::string err;
};

class ToolTest : public testing::Test {
 protected:
  ToolTest() : before_(std::filesystem::current_path()) {
    std::filesystem::current_path(directory_.path());
  }
  ~ToolTest() override { std::filesystem::current_path(before_); }

  Ran Run(std::vector<std::string> args) {
    char* out_bytes = nullptr;
    char* err_bytes = nullptr;
    size_t out_size = 0;
    size_t err_size = 0;
    std::FILE* const out = ::open_memstream(&out_bytes, &out_size);
    std::FILE* const err = ::open_memstream(&err_bytes, &err_size);
    const Tool tool = {.loop = *loop_, .opener = opener_, .out = out, .err = err};
    Ran ran = {.status = img::Run(tool, args)};
    std::fclose(out);
    std::fclose(err);
    ran.out.assign(out_bytes, out_size);
    ran.err.assign(err_bytes, err_size);
    std::free(out_bytes);
    std::free(err_bytes);
    return ran;
  }
  void Poke(const std::string& name, uint64_t offset, const std::string& bytes) {
    std::fstream image(name, std::ios::in | std::ios::out | std::ios::binary);
    image.seekp(static_cast<std::streamoff>(offset));
    image.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  void WriteFile(const std::string& name, const std::string& bytes) {
    std::ofstream(name, std::ios::binary) << bytes;
  }
  std::string ReadFile(const std::string& name) {
    std::ifstream in(name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
  const std::filesystem::path before_;
};

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_TOOL_FIXTURE_H_
