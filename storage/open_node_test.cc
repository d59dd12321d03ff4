#include "storage/open_node.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "base/status.h"
#include "storage/host_file.h"
#include "storage/qcow2/create.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

using testing::HasSubstr;

class OpenNodeTest : public testing::Test {
 protected:
  OpenNodeTest() : before_(std::filesystem::current_path()) {
    std::filesystem::current_path(directory_.path());
    std::ofstream("disk.raw") << std::string(4096, 'r') << std::string(4096, 's');
    MakeQcow2("base.qcow2", {.size_bytes = 1 << 20});
    MakeQcow2("clone.qcow2",
              {.size_bytes = 1 << 20, .backing_file = "disk.raw", .backing_format = "raw"});
  }
  ~OpenNodeTest() override { std::filesystem::current_path(before_); }

  absl::StatusOr<BlockNode> Open(const std::string& text, NodeSettings settings = {}) {
    const bool json = text[0] == '{';
    absl::StatusOr<DriverOptions> options =
        json ? DriverOptions::FromJson(text) : DriverOptions::FromKeyValues(text);
    EXPECT_TRUE(options.ok()) << options.status();
    return loop_->RunTask(OpenNode(*loop_, opener_, *std::move(options), std::move(settings)));
  }
  std::string OpenError(const std::string& text, NodeSettings settings = {}) {
    const absl::StatusOr<BlockNode> node = Open(text, std::move(settings));
    return node.ok() ? "it opened" : std::string(node.status().message());
  }
  // The byte at `offset` of the disk that `text` describes.
  char ByteOf(const std::string& text, uint64_t offset) {
    absl::StatusOr<BlockNode> node = Open(text);
    EXPECT_TRUE(node.ok()) << text << ": " << node.status();
    if (!node.ok()) return '!';
    std::array<uint8_t, 512> bytes = {};
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    EXPECT_TRUE(loop_->RunTask(node->disk->Read(offset, IoVecs(&part, 1))).ok());
    EXPECT_TRUE(loop_->RunTask(node->disk->Close()).ok());
    return static_cast<char>(bytes[0]);
  }
  absl::Status WriteByte(BlockBackend& disk, uint64_t offset, char byte) {
    std::string bytes(512, byte);
    const iovec part = {bytes.data(), bytes.size()};
    return loop_->RunTask(disk.Write(offset, IoVecs(&part, 1)));
  }
  void MakeQcow2(const std::string& name, qcow2::CreateOptions options) {
    auto file = loop_->RunTask(HostFile::Open(*loop_, opener_, {.path = name, .create = true}));
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE(loop_->RunTask(qcow2::CreateImage(**file, options)).ok());
    ASSERT_TRUE(loop_->RunTask((*file)->Close()).ok());
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
  const std::filesystem::path before_;
};

TEST_F(OpenNodeTest, OpensTreesOfManyShapes) {
  EXPECT_EQ(ByteOf("driver=raw,file.driver=file,file.filename=disk.raw", 0), 'r');
  EXPECT_EQ(ByteOf("driver=file,filename=disk.raw", 4096), 's');
  EXPECT_EQ(ByteOf("driver=raw,offset=4096,size=1k,file.filename=disk.raw", 0), 's');
  EXPECT_EQ(ByteOf("driver=qcow2,file.filename=clone.qcow2", 4096), 's');
  EXPECT_EQ(ByteOf("file.filename=clone.qcow2", 0), 'r');
  EXPECT_EQ(ByteOf("driver=raw,file.driver=qcow2,file.file.filename=clone.qcow2,offset=4k", 0),
            's');
  EXPECT_EQ(ByteOf("driver=qcow2,file.driver=raw,file.file.filename=clone.qcow2", 0), 'r');
  EXPECT_EQ(ByteOf("driver=null-co,size=1M,read-zeroes=on", 0), '\0');
  EXPECT_EQ(ByteOf("{'driver':'qcow2','file':{'driver':'blkdebug','image':"
                   "{'driver':'file','filename':'clone.qcow2'}}}",
                   0),
            'r');
}

TEST_F(OpenNodeTest, ABackingFileSharesTheCacheUnlessItHasItsOwn) {
  absl::StatusOr<BlockNode> base =
      Open("driver=qcow2,file.filename=base.qcow2", {.read_only = false});
  ASSERT_TRUE(base.ok()) << base.status();
  ASSERT_TRUE(WriteByte(*base->disk, 0, 'b').ok());
  ASSERT_TRUE(loop_->RunTask(base->disk->Close()).ok());
  MakeQcow2("top.qcow2",
            {.size_bytes = 1 << 20, .backing_file = "base.qcow2", .backing_format = "qcow2"});
  for (const bool own : {false, true}) {
    absl::StatusOr<BlockNode> top =
        Open(own ? "driver=qcow2,file.filename=top.qcow2,backing.cache-size=2M"
                 : "driver=qcow2,file.filename=top.qcow2,cache-size=2M");
    ASSERT_TRUE(top.ok()) << top.status();
    std::array<uint8_t, 512> bytes = {};
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    EXPECT_TRUE(loop_->RunTask(top->disk->Read(0, IoVecs(&part, 1))).ok());
    EXPECT_EQ(bytes[0], 'b');
    // The top layer has no L2 table to keep.
    EXPECT_EQ(top->image->cache_memory_bytes(), 0u);
    EXPECT_EQ(top->image->cache_budget().memory_bytes() == 0, own);
    EXPECT_TRUE(loop_->RunTask(top->disk->Close()).ok());
  }
}

TEST_F(OpenNodeTest, WritesThroughTreesOfManyShapes) {
  for (const char* options :
       {"driver=raw,offset=512,size=2k,file.filename=disk.raw",
        "driver=raw,file.driver=qcow2,file.file.filename=clone.qcow2",
        "driver=blkdebug,image.driver=qcow2,image.file.filename=clone.qcow2",
        "driver=qcow2,file.driver=blkdebug,file.image.filename=base.qcow2,detect-zeroes=on"}) {
    absl::StatusOr<BlockNode> node = Open(options, {.read_only = false, .writethrough = true});
    ASSERT_TRUE(node.ok()) << options << ": " << node.status();
    EXPECT_TRUE(WriteByte(*node->disk, 1024, 'w').ok()) << options;
    EXPECT_TRUE(WriteByte(*node->disk, 1536, '\0').ok()) << options;
    EXPECT_TRUE(loop_->RunTask(node->disk->Close()).ok()) << options;
    EXPECT_EQ(ByteOf(options, 1024), 'w') << options;
    EXPECT_EQ(ByteOf(options, 1536), '\0') << options;
  }
  EXPECT_EQ(ByteOf("driver=file,filename=disk.raw", 1536), 'w') << "through the window";
}

TEST_F(OpenNodeTest, AnImageInAnImageGrows) {
  // The inner image's file is the outer image's disk.
  absl::StatusOr<BlockNode> outer =
      Open("driver=raw,file.driver=qcow2,file.file.filename=base.qcow2", {.read_only = false});
  ASSERT_TRUE(outer.ok()) << outer.status();
  std::ifstream image("clone.qcow2", std::ios::binary);
  std::string bytes(256 << 10, '\0');
  image.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  const iovec part = {bytes.data(), bytes.size()};
  ASSERT_TRUE(loop_->RunTask(outer->disk->Write(0, IoVecs(&part, 1))).ok());
  ASSERT_TRUE(loop_->RunTask(outer->disk->Close()).ok());
  const std::string options =
      "driver=qcow2,file.driver=qcow2,file.file.filename=base.qcow2,backing.driver=raw,"
      "backing.file.driver=null-co,backing.file.read-zeroes=on";
  absl::StatusOr<BlockNode> inner = Open(options, {.read_only = false});
  ASSERT_TRUE(inner.ok()) << inner.status();
  for (uint64_t at = 0; at < 1 << 20; at += 65536) {
    EXPECT_TRUE(WriteByte(*inner->disk, at + 512, 'i').ok()) << at;
  }
  ASSERT_TRUE(loop_->RunTask(inner->disk->Close()).ok());
  EXPECT_EQ(ByteOf(options, 983552), 'i');
}

TEST_F(OpenNodeTest, LetsOptionsReplaceTheBackingFile) {
  EXPECT_EQ(ByteOf("{'driver':'qcow2','file':{'driver':'file','filename':'clone.qcow2'},"
                   "'backing':null}",
                   0),
            '\0');
  EXPECT_EQ(ByteOf("driver=qcow2,file.filename=clone.qcow2,backing.driver=raw,"
                   "backing.offset=4096,backing.file.filename=disk.raw",
                   0),
            's');
  EXPECT_EQ(ByteOf("driver=qcow2,file.filename=clone.qcow2,backing.offset=4096", 0), 's');
}

TEST_F(OpenNodeTest, RulesOfBlkdebugFailRequests) {
  absl::StatusOr<BlockNode> node = Open(
      "driver=raw,file.driver=blkdebug,file.image.filename=disk.raw,"
      "file.inject-error.0.event=write_aio,file.inject-error.0.errno=28,"
      "file.inject-error.0.sector=2,file.inject-error.0.once=on",
      {.read_only = false});
  ASSERT_TRUE(node.ok()) << node.status();
  ASSERT_NE(node->blkdebug, nullptr);
  EXPECT_TRUE(WriteByte(*node->disk, 0, 'x').ok());
  EXPECT_EQ(StatusErrno(WriteByte(*node->disk, 1024, 'x')), 28);
  EXPECT_TRUE(WriteByte(*node->disk, 1024, 'x').ok());
  EXPECT_TRUE(loop_->RunTask(node->disk->Close()).ok());
}

TEST_F(OpenNodeTest, AGuessedRawDiskDoesNotBecomeAnotherFormat) {
  absl::StatusOr<BlockNode> node = Open("file.filename=disk.raw", {.read_only = false});
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_TRUE(node->probed);
  std::string bytes(512, '\0');
  bytes.replace(0, 8, std::string("QFI\xfb\0\0\0\3", 8));
  const iovec part = {bytes.data(), bytes.size()};
  EXPECT_EQ(StatusErrno(loop_->RunTask(node->disk->Write(0, IoVecs(&part, 1)))), EPERM);
  EXPECT_TRUE(loop_->RunTask(node->disk->Write(512, IoVecs(&part, 1))).ok());
  EXPECT_TRUE(loop_->RunTask(node->disk->Close()).ok());
}

struct Refusal {
  const char* name;
  const char* options;
  const char* message;
};

std::ostream& operator<<(std::ostream& out, const Refusal& refusal) { return out << refusal.name; }

class OpenNodeRefusalTest : public OpenNodeTest, public testing::WithParamInterface<Refusal> {};

TEST_P(OpenNodeRefusalTest, IsInQemusWords) {
  EXPECT_THAT(OpenError(GetParam().options), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Options, OpenNodeRefusalTest,
    testing::Values(
        Refusal{"NoDriver", "filename=disk.raw", "Must specify either driver or file"},
        Refusal{"UnknownDriver", "driver=vmdk,file.filename=x", "Unknown driver 'vmdk'"},
        Refusal{"UnknownBelow", "driver=raw,file.driver=nbd", "Unknown driver 'nbd'"},
        Refusal{"NoFile", "driver=qcow2", "A block device must be specified for \"file\""},
        Refusal{"NoImage", "driver=blkdebug", "A block device must be specified for \"image\""},
        Refusal{"NodeName", "driver=raw,file=x", "Cannot find device='x' nor node-name='x'"},
        Refusal{"NoName", "driver=file", "The 'file' block driver requires a file name"},
        Refusal{"Gone", "driver=raw,file.filename=nope",
                "Could not open 'nope': No such file or directory"},
        Refusal{"FormatOption", "driver=qcow2,file.filename=base.qcow2,foo=1",
                "Block format 'qcow2' does not support the option 'foo'"},
        Refusal{"ProtocolOption", "driver=qcow2,file.filename=base.qcow2,file.foo=1",
                "Block protocol 'file' doesn't support the option 'foo'"},
        Refusal{"Switch", "driver=qcow2,file.filename=base.qcow2,lazy-refcounts=x",
                "Parameter 'lazy-refcounts' expects 'on' or 'off'"},
        Refusal{"OverlapCheck", "driver=qcow2,file.filename=base.qcow2,overlap-check=x",
                "Unsupported value 'x' for qcow2 option 'overlap-check'"},
        Refusal{"CacheSizes",
                "driver=qcow2,file.filename=base.qcow2,l2-cache-size=2M,cache-size=1M",
                "l2-cache-size may not exceed cache-size"},
        Refusal{"Window", "driver=raw,file.filename=disk.raw,offset=4k,size=10M",
                "has to be smaller or equal to the  actual size of the containing file (8192)"},
        Refusal{"WindowSize", "driver=raw,file.filename=disk.raw,size=1000",
                "Specified size is not multiple of 512"},
        Refusal{"HostDevice", "driver=raw,file.driver=host_device,file.filename=disk.raw",
                "requires 'disk.raw' to be either a character or block device"},
        Refusal{"Directory", "driver=raw,file.filename=.",
                "'file' driver requires '.' to be a regular file"},
        Refusal{"NotQcow2", "driver=qcow2,file.filename=disk.raw", "Image is not in qcow2 format"},
        Refusal{"NullName", "driver=null-co,filename=x", "The only allowed filename"},
        Refusal{"NullLatency", "driver=null-aio,latency-ns=-1", "latency-ns is invalid"},
        Refusal{"Discard", "driver=raw,file.filename=disk.raw,discard=x", "Invalid discard option"},
        Refusal{"BackingNode", "driver=qcow2,file.filename=clone.qcow2,backing=x",
                "Cannot find device='x' nor node-name='x'"},
        Refusal{"BackingGone", "driver=qcow2,file.filename=clone.qcow2,backing.file.filename=nope",
                "Could not open backing file: Could not open 'nope': No such file or directory"},
        Refusal{"Event", "driver=blkdebug,image.driver=null-co,inject-error.0.event=foo",
                "invalid parameter value: foo"},
        Refusal{"RuleOption",
                "driver=blkdebug,image.driver=null-co,inject-error.0.event=none,"
                "inject-error.0.foo=1",
                "[inject-error] section doesn't support the option 'foo'"}),
    [](const testing::TestParamInfo<Refusal>& info) { return info.param.name; });

TEST_F(OpenNodeTest, AReadOnlyNodeIsNotOpenedForWriting) {
  EXPECT_EQ(OpenError("driver=raw,read-only=on,file.filename=disk.raw", {.read_only = false}),
            "Block node is read-only");
}

TEST_F(OpenNodeTest, TheFormatOfABackingFileIsNotGuessed) {
  MakeQcow2("silent.qcow2",
            {.size_bytes = 1 << 20, .backing_file = "disk.raw", .backing_format = "raw"});
  // As in images of old tools: the extension that names the format is made an unknown one.
  std::fstream image("silent.qcow2", std::ios::in | std::ios::out | std::ios::binary);
  std::string head(512, '\0');
  image.read(head.data(), static_cast<std::streamsize>(head.size()));
  const size_t at = head.find("\xe2\x79\x2a\xca");
  ASSERT_NE(at, std::string::npos);
  image.seekp(static_cast<std::streamoff>(at));
  image << "\x11\x22\x33\x44";
  image.close();
  EXPECT_THAT(OpenError("driver=qcow2,file.filename=silent.qcow2"), HasSubstr("it is not guessed"));
  EXPECT_EQ(ByteOf("driver=qcow2,file.filename=silent.qcow2,backing.driver=raw", 0), 'r');
}

TEST_F(OpenNodeTest, AChainThatReturnsToItselfIsRefused) {
  MakeQcow2("loop.qcow2",
            {.size_bytes = 1 << 20, .backing_file = "loop.qcow2", .backing_format = "qcow2"});
  EXPECT_THAT(OpenError("driver=qcow2,file.filename=loop.qcow2"),
              HasSubstr("its chain of backing files returns to"));
}

struct Name {
  const char* name;
  const char* text;
  const char* driver;
  const char* file_name;
};

std::ostream& operator<<(std::ostream& out, const Name& name) { return out << name.name; }

class OptionsFromNameTest : public testing::TestWithParam<Name> {};

TEST_P(OptionsFromNameTest, FindsTheProtocol) {
  absl::StatusOr<DriverOptions> options = OptionsFromName(GetParam().text);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->Take("file.driver"), GetParam().driver);
  EXPECT_EQ(options->Take("file.filename").value_or(""), GetParam().file_name);
}

INSTANTIATE_TEST_SUITE_P(
    Names, OptionsFromNameTest,
    testing::Values(Name{"Plain", "disk.raw", "file", "disk.raw"},
                    Name{"ColonInADirectory", "./a:b", "file", "./a:b"},
                    Name{"Descriptor", "fd:3", "file", "fd:3"}, Name{"File", "file:x", "file", "x"},
                    Name{"Null", "null-co://", "null-co", "null-co://"},
                    Name{"Blkdebug", "blkdebug:conf:x", "blkdebug", ""},
                    Name{"Json", "json:{'file':{'driver':'file','filename':'y'}}", "file", "y"}),
    [](const testing::TestParamInfo<Name>& info) { return info.param.name; });

TEST(OptionsFromNamesTest, RefusesOtherProtocolsByName) {
  EXPECT_EQ(OptionsFromName("nbd://host/x").status().message(), "Unknown protocol 'nbd'");
  EXPECT_EQ(OptionsFromName("blkdebug:x").status().message(),
            "blkdebug requires both config file and image path");
}

}  // namespace
}  // namespace vireo
