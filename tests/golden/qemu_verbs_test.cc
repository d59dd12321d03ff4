// vireo-img beside qemu-img, where that is installed: the same command on copies of the same files
// prints the same, exits the same, and leaves disks that hold the same.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/async/event_loop.h"
#include "base/opener.h"
#include "storage/img/tool.h"
#include "tests/support/temp_dir.h"

namespace vireo::img {
namespace {

struct Case {
  const char* name;
  // Shell commands that make the files; "C" and "W" stand for qemu-img create -q -f qcow2 and
  // qemu-io -f qcow2 -c.
  std::string setup;
  std::vector<std::vector<std::string>> commands;
  // Disks that are compared afterwards, and checked: of the QCOW2 format.
  std::vector<std::string> disks;
  // A shell command that proves what theirs does not have, run on ours.
  std::string proof = "true";
};

std::ostream& operator<<(std::ostream& out, const Case& one) { return out << one.name; }

bool HasQemu() {
  return ::access("/usr/bin/qemu-img", X_OK) == 0 && ::access("/usr/bin/qemu-io", X_OK) == 0;
}

std::string Contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

int Shell(const std::string& command) {
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

std::string Quoted(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

struct Ran {
  int status = 0;
  std::string out;
  std::string err;
};

class QemuVerbsTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!HasQemu()) GTEST_SKIP() << "qemu-img and qemu-io are not installed";
    std::filesystem::create_directory(theirs_);
    const std::string setup = absl::StrReplaceAll(
        GetParam().setup, {{"C ", "qemu-img create -q -f qcow2 "}, {"W ", "qemu-io -f qcow2 -c "}});
    ASSERT_EQ(Shell(absl::StrCat("cd ", theirs_, " && (", setup, ") > /dev/null")), 0);
    std::filesystem::copy(theirs_, ours_, std::filesystem::copy_options::recursive);
  }
  void TearDown() override { std::filesystem::current_path(before_); }

  Ran RunTheirs(const std::vector<std::string>& args) {
    std::string line = absl::StrCat("cd ", theirs_, " && qemu-img");
    for (const std::string& arg : args) absl::StrAppend(&line, " ", Quoted(arg));
    const std::string out = directory_.File("out.txt");
    const std::string err = directory_.File("err.txt");
    Ran ran = {.status = Shell(absl::StrCat(line, " > ", out, " 2> ", err))};
    ran.out = Contents(out);
    ran.err = absl::StrReplaceAll(Contents(err), {{"qemu-img", "vireo-img"}});
    return ran;
  }
  Ran RunOurs(const std::vector<std::string>& args) {
    std::filesystem::current_path(ours_);
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
    ran.err = absl::StrReplaceAll(std::string(err_bytes, err_size), {{"qemu-img", "vireo-img"}});
    std::free(out_bytes);
    std::free(err_bytes);
    return ran;
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
  const std::string theirs_ = directory_.File("theirs");
  const std::string ours_ = directory_.File("ours");
  const std::filesystem::path before_ = std::filesystem::current_path();
};

TEST_P(QemuVerbsTest, SaysAndDoesTheSame) {
  for (const std::vector<std::string>& args : GetParam().commands) {
    std::string trace;
    for (const std::string& arg : args) absl::StrAppend(&trace, arg, " ");
    SCOPED_TRACE(trace);
    const Ran theirs = RunTheirs(args);
    const Ran ours = RunOurs(args);
    EXPECT_EQ(ours.status, theirs.status);
    EXPECT_EQ(ours.out, theirs.out);
    EXPECT_EQ(ours.err, theirs.err);
  }
  EXPECT_EQ(Shell(absl::StrCat("cd ", ours_, " && (", GetParam().proof, ") > /dev/null")), 0);
  for (const std::string& disk : GetParam().disks) {
    SCOPED_TRACE(disk);
    const std::string in_ours = absl::StrCat("cd ", ours_, " && ");
    EXPECT_EQ(Shell(absl::StrCat(in_ours, "qemu-img check -q -f qcow2 ", disk)), 0);
    EXPECT_EQ(Shell(absl::StrCat(in_ours, "qemu-img compare -q -f qcow2 -F qcow2 ", disk, " ",
                                 theirs_, "/", disk)),
              0);
    const std::string fields = "grep -v 'disk size\\|image:'";
    EXPECT_EQ(
        Shell(absl::StrCat(in_ours, "qemu-img info ", disk, " | ", fields, " > ../info.ours; cd ",
                           theirs_, " && qemu-img info ", disk, " | ", fields,
                           " > ../info.theirs; cmp "
                           "../info.ours ../info.theirs")),
        0);
  }
}

constexpr char kChain[] =
    "C base 4M; W 'write -P 1 0 3M' base; C -b base -F qcow2 middle 4M; "
    "W 'write -P 2 1M 1M' middle; C -b middle -F qcow2 top 6M; "
    "W 'write -P 3 1536k 128k' -c 'write -z 256k 128k' -c 'write -P 4 5M 64k' top; ";

INSTANTIATE_TEST_SUITE_P(
    Verbs, QemuVerbsTest,
    testing::Values(
        Case{"Bitmaps",
             "C a 64M; C b 64M; C small 32M; C -o compat=0.10 old 1M; qemu-img create -q r 1M",
             {{"bitmap", "--add", "a", "b0"},
              {"bitmap", "--add", "a", "b0"},
              {"bitmap", "--add", "-g", "100", "a", "b1"},
              {"bitmap", "--add", "-g", "4k", "a", "b1"},
              {"bitmap", "--disable", "a", "b1"},
              {"bitmap", "--disable", "a", "b1"},
              {"bitmap", "--enable", "a", "nope"},
              {"bitmap", "--remove", "a", "nope"},
              {"bitmap", "--clear", "a", "nope"},
              {"bitmap", "a", "b0"},
              {"bitmap", "--add", "a"},
              {"bitmap", "--add", "--disable", "a", "b2"},
              {"bitmap", "--merge", "b0", "a", "b1"},
              {"bitmap", "--merge", "b0", "a", "b9"},
              {"bitmap", "--merge", "b8", "a", "b1"},
              {"bitmap", "-g", "4k", "--remove", "a", "b0"},
              {"bitmap", "-b", "x", "--remove", "a", "b0"},
              {"bitmap", "-F", "qcow2", "--add", "a", "b0"},
              {"bitmap", "--add", "none", "x"},
              {"bitmap", "--add", "a", ""},
              {"bitmap", "--add", "-g", "foo", "a", "z"},
              {"bitmap", "--add", "--clear", "--merge", "b0", "--disable", "a", "b7"},
              {"bitmap", "--add", "--merge", "b0", "-b", "a", "-F", "qcow2", "b", "c"},
              {"bitmap", "--add", "--merge", "b0", "-b", "a", "-F", "qcow2", "small", "c"},
              {"bitmap", "--remove", "a", "b0"},
              {"bitmap", "--frob", "a", "b0"}},
             {"a", "b", "small"}},
        Case{"InconsistentBitmap",
             "C a 64M; qemu-img bitmap --add a b0; qemu-img bitmap --add a b1; "
             "(W 'write 0 1M' -c 'sigraise 9' a || true)",
             {{"bitmap", "--clear", "a", "b0"},
              {"bitmap", "--merge", "b0", "a", "b1"},
              {"resize", "a", "128M"},
              {"bitmap", "--remove", "a", "b0"},
              {"bitmap", "--remove", "a", "b1"},
              {"resize", "a", "128M"}},
             {"a"}},
        Case{"Snapshots",
             "C a 64M; W 'write -P 1 0 1M' a; qemu-img create -q r 1M",
             {{"snapshot"},
              {"snapshot", "a"},
              {"snapshot", "-l", "a"},
              {"snapshot", "-c", "one", "a"},
              {"snapshot", "-d", "nope", "a"},
              {"snapshot", "-a", "nope", "a"},
              {"snapshot", "-c", "x", "r"},
              {"snapshot", "-l", "r"},
              {"snapshot", "-d", "x", "r"},
              {"snapshot", "-c", "a", "-d", "b", "a"},
              {"snapshot", "-l", "a", "b"},
              {"snapshot", "-c", "x", "none"},
              {"snapshot", "-U", "-c", "x", "a"},
              {"snapshot", "-a", "one", "a"},
              {"snapshot", "-d", "1", "a"},
              {"snapshot", "-d", "one", "a"},
              {"bitmap", "--add", "a", "b"},
              {"snapshot", "-c", "two", "a"},
              {"snapshot", "-a", "two", "a"},
              {"snapshot", "-d", "two", "a"}},
             {"a"}},
        Case{"Resize",
             "C a 64M; W 'write -P 1 0 64M' a; qemu-img create -q r 1M; "
             "C -o compat=0.10 old 1M; qemu-img snapshot -c x old; qemu-img bitmap --add a b",
             {{"resize"},
              {"resize", "a"},
              {"resize", "a", "+64M"},
              {"resize", "a", "-64M"},
              {"resize", "--shrink", "a", "-65M"},
              {"resize", "--shrink", "a", "-640M"},
              {"resize", "a", "foo"},
              {"resize", "-q", "a", "64M"},
              {"resize", "a", "1000"},
              {"resize", "--shrink", "a", "1000"},
              {"resize", "-f", "raw", "r", "2M"},
              {"resize", "-f", "raw", "--preallocation=metadata", "r", "3M"},
              {"resize", "-f", "raw", "--preallocation=falloc", "r", "3M"},
              {"resize", "-f", "raw", "--preallocation=full", "r", "4M"},
              {"resize", "r", "5M"},
              {"resize", "--preallocation=foo", "a", "4M"},
              {"resize", "--preallocation=metadata", "a", "64M"},
              {"resize", "--preallocation=falloc", "--shrink", "a", "-1M"},
              {"resize", "none", "4M"},
              {"resize", "a", "9E"},
              {"resize", "a", "+0"},
              {"resize", "a", "--shrink", "-1M"},
              {"resize", "x", "a", "1M"},
              {"resize", "-f", "raw", "r", "0"},
              {"resize", "old", "2M"}},
             {"a", "old"}},
        Case{"ShrinksInsideACluster",
             "C a 2M; W 'write -P 1 0 2M' a; qemu-img snapshot -c x a",
             {{"resize", "--shrink", "a", "1000448"}},
             {"a"}},
        // Theirs shows old bytes where the disk grows again.
        Case{"GrowsAgainInsideACluster",
             "C a 2M; W 'write -P 1 0 2M' a; qemu-img snapshot -c x a",
             {{"resize", "--shrink", "a", "1000448"}, {"resize", "a", "3M"}},
             {},
             "qemu-img check a && qemu-io -f qcow2 -c 'read -P 1 0 1000448' -c 'read -P 0 1000448 "
             "2145280' a | grep -v verification"},
        Case{"Preallocates",
             "C a 64M; W 'write -P 1 0 1M' a; C -b a -F qcow2 o",
             {{"resize", "--preallocation=metadata", "a", "+10M"},
              {"resize", "--preallocation=falloc", "a", "+1M"},
              {"resize", "--preallocation=full", "a", "+1M"},
              {"resize", "--preallocation=metadata", "o", "+10M"}},
             {"a", "o"}},
        Case{"Rebase",
             std::string(kChain) + "C new 3M; W 'write -P 1 0 1M' -c 'write -P 7 2M 64k' new; "
                                   "qemu-img create -q r 1M",
             {{"rebase"},
              {"rebase", "top"},
              {"rebase", "-b", "new", "top"},
              {"rebase", "-b", "nope", "-F", "qcow2", "top"},
              {"rebase", "-b", "new", "-F", "foo", "top"},
              {"rebase", "-f", "raw", "-b", "new", "-F", "qcow2", "r"},
              {"rebase", "-t", "foo", "-b", "x", "top"},
              {"rebase", "-T", "foo", "-b", "x", "top"},
              {"rebase", "-b", "x", "none"},
              {"rebase", "-b", "x", "top", "y"},
              {"rebase", "-b", "new", "-F", "qcow2", "top"},
              {"rebase", "-u", "-b", "nope", "-F", "qcow2", "middle"},
              {"rebase", "-b", "new", "-F", "qcow2", "middle"},
              {"rebase", "-u", "-b", "base", "-F", "qcow2", "middle"},
              {"rebase", "-b", "", "middle"}},
             {"top", "middle"}},
        Case{"RebaseOntoALongerOne",
             "C base 1M; W 'write -P 1 0 1M' base; C -b base -F qcow2 top 2M; C new 4M; "
             "W 'write -P 9 0 4M' new",
             {{"rebase", "-b", "new", "-F", "qcow2", "top"}},
             {"top"}},
        Case{"RebaseUnsafeAway",
             std::string(kChain),
             {{"rebase", "-u", "-b", "", "top"}, {"rebase", "-u", "middle"}},
             {"top", "middle"}},
        Case{"Commit",
             std::string(kChain) + "qemu-img create -q r 1M",
             {{"commit"},
              {"commit", "r"},
              {"commit", "none"},
              {"commit", "x", "y"},
              {"commit", "-t", "foo", "top"},
              {"commit", "-b", "nope", "top"},
              {"commit", "-r", "x", "top"},
              {"commit", "top"},
              {"commit", "-q", "top"}},
             {"top", "middle", "base"}},
        Case{"CommitKeeps", std::string(kChain), {{"commit", "-d", "top"}}, {"top", "middle"}},
        Case{"CommitFurtherDown", std::string(kChain), {{"commit", "-b", "base", "top"}}, {"base"}},
        Case{"CommitIntoRaw",
             "qemu-img create -q base 1M; C -b base -F raw top 2M; W 'write -P 1 0 2M' top",
             {{"commit", "top"}},
             {"top"}},
        Case{"Amend",
             "C a 64M; W 'write -P 1 0 1M' -c 'write -z 0 256k' a; qemu-img create -q r 1M; "
             "C -o extended_l2=on e 1M; C -b a -F qcow2 o; W 'write -z 0 128k' o",
             {{"amend"},
              {"amend", "a"},
              {"amend", "-o", "help", "-f", "qcow2"},
              {"amend", "-o", "help", "a"},
              {"amend", "-f", "raw", "-o", "help"},
              {"amend", "-o", "compat=0.10", "a"},
              {"amend", "-o", "lazy_refcounts=on", "a"},
              {"amend", "-o", "compat=1.1,lazy_refcounts=on", "a"},
              {"amend", "-o", "compat=0.10", "a"},
              {"amend", "-o", "compat=v3,refcount_bits=64", "a"},
              {"amend", "-o", "compat=0.10", "a"},
              {"amend", "-o", "refcount_bits=3", "a"},
              {"amend", "-o", "refcount_bits=128", "a"},
              {"amend", "-o", "cluster_size=4k", "a"},
              {"amend", "-o", "preallocation=full", "a"},
              {"amend", "-o", "foo=on", "a"},
              {"amend", "-o", "size=128M", "a"},
              {"amend", "-o", "size=12M", "a"},
              {"amend", "-o", "backing_file=x", "a"},
              {"amend", "-f", "raw", "-o", "size=2M", "r"},
              {"amend", "-o", "compat=v9", "a"},
              {"amend", "-t", "x", "-o", "lazy_refcounts=off", "a"},
              {"amend", "-o", "lazy_refcounts=off", "a", "b"},
              {"amend", "-o", "lazy_refcounts=off", "none"},
              {"amend", "-o", "data_file=x", "a"},
              {"amend", "-o", "data_file_raw=on", "a"},
              {"amend", "-o", "refcount_bits=1", "a"},
              {"amend", "-o", "compat=0.10", "o"}},
             {"a", "o"}}),
    [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo::img
