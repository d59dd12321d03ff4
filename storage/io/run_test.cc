#include "storage/io/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "storage/host_file.h"
#include "storage/qcow2/create.h"
#include "tests/support/temp_dir.h"

namespace vireo::io {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

struct Ran {
  int status;
  std::string out;
  std::string err;
};

// What it prints is compared with qemu-io's by cmd/io_agreement_test.py; here is what it does.
class RunTest : public testing::Test {
 protected:
  RunTest() : before_(std::filesystem::current_path()) {
    std::filesystem::current_path(directory_.path());
    auto file =
        loop_->RunTask(HostFile::Open(*loop_, opener_, {.path = "disk.qcow2", .create = true}));
    EXPECT_TRUE(loop_->RunTask(qcow2::CreateImage(**file, {.size_bytes = 1 << 20})).ok());
    EXPECT_TRUE(loop_->RunTask((*file)->Close()).ok());
  }
  ~RunTest() override { std::filesystem::current_path(before_); }

  Ran Run(const std::vector<std::string>& args, std::string input = "") {
    char* out_bytes = nullptr;
    char* err_bytes = nullptr;
    size_t out_size = 0;
    size_t err_size = 0;
    std::FILE* const out = ::open_memstream(&out_bytes, &out_size);
    std::FILE* const err = ::open_memstream(&err_bytes, &err_size);
    input += '\n';
    std::FILE* const in = ::fmemopen(input.data(), input.size(), "r");
    const Program program = {
        .loop = *loop_, .opener = opener_, .name = "vireo-io", .in = in, .out = out, .err = err};
    Ran ran = {.status = io::Run(program, args)};
    std::fclose(out);
    std::fclose(err);
    std::fclose(in);
    ran.out.assign(out_bytes, out_size);
    ran.err.assign(err_bytes, err_size);
    std::free(out_bytes);
    std::free(err_bytes);
    return ran;
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
  const std::filesystem::path before_;
};

TEST_F(RunTest, WritesAndVerifies) {
  const Ran ran = Run({"-c", "write -P 7 1000 2000", "-c", "read -P 7 1000 2000", "-c",
                       "read -P 7 999 2000", "disk.qcow2"});
  EXPECT_EQ(ran.status, 1);
  EXPECT_THAT(ran.out, StartsWith("wrote 2000/2000 bytes at offset 1000\n"));
  EXPECT_THAT(ran.out, HasSubstr("Pattern verification failed at offset 999, 2000 bytes\n"));
  EXPECT_EQ(Run({"-c", "read -P 7 1000 2000", "disk.qcow2"}).status, 0);
}

TEST_F(RunTest, TakesCommandsFromItsInput) {
  const Ran ran = Run({"disk.qcow2"}, "length\nnonsense\nquit\nlength");
  EXPECT_EQ(ran.status, 1);
  EXPECT_EQ(ran.out, "vireo-io> 1 MiB\nvireo-io> vireo-io> ");
  EXPECT_EQ(ran.err, "command \"nonsense\" not found\n");
}

TEST_F(RunTest, RequestsThatNobodyWaitedForEndWithTheDisk) {
  const Ran ran = Run({"-c", "aio_write -P 3 0 64k", "-c", "aio_write -P 4 64k 64k", "disk.qcow2"});
  EXPECT_EQ(ran.status, 0);
  EXPECT_EQ(Run({"-c", "read -P 3 0 64k", "-c", "read -P 4 64k 64k", "disk.qcow2"}).status, 0);
}

TEST_F(RunTest, WhatABreakpointHoldsUpDoesNotHoldUpTheEnd) {
  const Ran ran = Run({"-c", "break write_aio A", "-c", "aio_write -P 3 0 64k", "-c",
                       "wait_break A", "blkdebug::disk.qcow2"});
  EXPECT_EQ(ran.status, 0);
  EXPECT_THAT(ran.out, StartsWith("blkdebug: Suspended request 'A'\n"));
  EXPECT_EQ(Run({"-c", "read -P 3 0 64k", "disk.qcow2"}).status, 0);
}

TEST_F(RunTest, ATemporaryFileTakesTheWrites) {
  ::setenv("TMPDIR", directory_.path().c_str(), 1);
  EXPECT_EQ(Run({"-s", "-c", "write 0 64k", "-c", "read -P 0xcd 0 64k", "disk.qcow2"}).status, 0);
  EXPECT_EQ(Run({"-c", "read -P 0 0 64k", "disk.qcow2"}).status, 0);
  std::vector<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(".")) {
    left.push_back(entry.path().filename());
  }
  EXPECT_THAT(left, ElementsAre("disk.qcow2"));
}

TEST_F(RunTest, AFailedReopeningLeavesTheDiskOpen) {
  const Ran ran = Run({"-c", "reopen -o l2-cache-size=x", "-c", "length", "disk.qcow2"});
  EXPECT_EQ(ran.status, 1);
  EXPECT_EQ(ran.out, "1 MiB\n");
}

struct Refusal {
  const char* name;
  std::vector<std::string> args;
  const char* message;
};

std::ostream& operator<<(std::ostream& out, const Refusal& refusal) { return out << refusal.name; }

class RefusalTest : public RunTest, public testing::WithParamInterface<Refusal> {};

TEST_P(RefusalTest, SaysWhyAndExitsWith1) {
  const Ran ran = Run(GetParam().args);
  EXPECT_EQ(ran.status, 1);
  EXPECT_THAT(ran.err + ran.out, HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Wrong, RefusalTest,
    testing::Values(
        Refusal{"Gone", {"-c", "length", "nope"}, "can't open device nope: "},
        Refusal{"Tracing", {"-T", "x", "disk.qcow2"}, "tracing is not supported"},
        Refusal{"Object", {"--object", "foo,id=x", "disk.qcow2"}, "foo"},
        Refusal{"Option", {"--frob"}, "unrecognized option '--frob'"},
        Refusal{"VmState",
                {"-c", "write -b 0 512", "disk.qcow2"},
                "write failed: Operation not supported"},
        Refusal{"WaitForNothing", {"-c", "wait_break A", "disk.qcow2"}, "Operation not supported"}),
    [](const testing::TestParamInfo<Refusal>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo::io
