#include "storage/img/tool.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "storage/image_lock.h"
#include "storage/img/tool_fixture.h"

namespace vireo::img {
namespace {

using testing::AnyOf;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::StartsWith;

TEST_F(ToolTest, CreatesAndShowsALinkedClone) {
  const Ran base = Run({"create", "-f", "qcow2", "base.qcow2", "64M"});
  EXPECT_EQ(base.status, 0) << base.err;
  EXPECT_EQ(base.out,
            "Formatting 'base.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off "
            "compression_type=zlib size=67108864 lazy_refcounts=off refcount_bits=16\n");
  const Ran clone =
      Run({"create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "clone.qcow2"});
  EXPECT_EQ(clone.status, 0) << clone.err;
  EXPECT_EQ(clone.out, "");
  const Ran info = Run({"info", "clone.qcow2"});
  EXPECT_EQ(info.status, 0) << info.err;
  EXPECT_THAT(info.out, StartsWith("image: clone.qcow2\nfile format: qcow2\nvirtual size: 64 MiB "
                                   "(67108864 bytes)\n"));
  EXPECT_THAT(info.out, HasSubstr("backing file: base.qcow2\nbacking file format: qcow2\n"));
  const Ran json = Run({"info", "--output=json", "clone.qcow2"});
  EXPECT_THAT(json.out, HasSubstr("\"backing-filename\": \"base.qcow2\""));
  EXPECT_THAT(json.out, HasSubstr("\"virtual-size\": 67108864"));
  const Ran check = Run({"check", "clone.qcow2"});
  EXPECT_EQ(check.status, 0);
  EXPECT_EQ(check.out, "No errors were found on the image.\nImage end offset: 262144\n");
}

constexpr char kKey[] = "secret,id=key,data=open sesame";
constexpr char kLuks[] =
    "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=1,encrypt.cipher-alg=aes-128";
constexpr char kEncrypted[] = "driver=qcow2,encrypt.key-secret=key,file.filename=disk.qcow2";

TEST_F(ToolTest, MakesEncryptedImagesAndShowsHow) {
  const Ran made =
      Run({"create", "-f", "qcow2", "--object", kKey, "-o", kLuks, "disk.qcow2", "1M"});
  EXPECT_EQ(made.status, 0) << made.err;
  EXPECT_EQ(made.out,
            "Formatting 'disk.qcow2', fmt=qcow2 encrypt.format=luks encrypt.key-secret=key "
            "encrypt.cipher-alg=aes-128 encrypt.iter-time=1 cluster_size=65536 extended_l2=off "
            "compression_type=zlib size=1048576 lazy_refcounts=off refcount_bits=16\n");
  const Ran info = Run({"info", "disk.qcow2"});
  EXPECT_EQ(info.status, 0) << info.err;
  EXPECT_THAT(info.out, HasSubstr("encrypted: yes\n"));
  EXPECT_THAT(info.out, HasSubstr("    encrypt:\n        ivgen alg: plain64\n        hash alg: "
                                  "sha256\n        cipher alg: aes-128\n        uuid: "));
  EXPECT_THAT(info.out, HasSubstr("            [7]:\n                active: false\n"));
  const Ran json = Run({"info", "--output=json", "disk.qcow2"});
  EXPECT_THAT(json.out, HasSubstr("\"cipher-mode\": \"xts\""));
  EXPECT_EQ(Run({"check", "disk.qcow2"}).status, 0);
}

TEST_F(ToolTest, ConvertsIntoEncryptedImagesAndOutOfThem) {
  std::ofstream("plain.raw", std::ios::binary) << std::string(300000, 'v') << std::string(98, 'w');
  const Ran in =
      Run({"convert", "-O", "qcow2", "--object", kKey, "-o", kLuks, "plain.raw", "disk.qcow2"});
  ASSERT_EQ(in.status, 0) << in.err;
  std::ifstream file("disk.qcow2", std::ios::binary);
  const std::string stored{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(stored.find(std::string(32, 'v')), std::string::npos);
  const Ran out =
      Run({"convert", "-O", "raw", "--object", kKey, "--image-opts", kEncrypted, "back.raw"});
  ASSERT_EQ(out.status, 0) << out.err;
  EXPECT_EQ(Run({"compare", "plain.raw", "back.raw"}).status, 0);
}

TEST_F(ToolTest, EncryptedImagesStayClosedWithoutTheirKey) {
  ASSERT_EQ(Run({"create", "-q", "-f", "qcow2", "--object", kKey, "-o", kLuks, "disk.qcow2", "1M"})
                .status,
            0);
  const Ran none = Run({"map", "disk.qcow2"});
  EXPECT_EQ(none.status, 1);
  EXPECT_EQ(none.err,
            "vireo-img: Could not open 'disk.qcow2': Parameter 'encrypt.key-secret' is required "
            "for cipher\n");
  const Ran unknown = Run({"map", "--image-opts", kEncrypted});
  EXPECT_THAT(unknown.err, HasSubstr("No secret with id 'key'"));
  const Ran wrong = Run({"map", "--object", "secret,id=key,data=open", "--image-opts", kEncrypted});
  EXPECT_EQ(wrong.status, 1);
  EXPECT_THAT(wrong.err, HasSubstr("Invalid password, cannot unlock any keyslot\n"));
  const Ran right = Run({"map", "--object", kKey, "--image-opts", kEncrypted});
  EXPECT_EQ(right.status, 0) << right.err;
}

TEST_F(ToolTest, MeasuresEncryptedImages) {
  const std::string object = "secret,id=k,data=key";
  const auto measure = [&](const std::string& options) {
    return Run({"measure", "--object", object, "-O", "qcow2", "-o",
                "encrypt.format=luks,encrypt.key-secret=k" + options, "--size", "1G"});
  };
  // What qemu-img says where it can.
  EXPECT_EQ(measure("").out, "required size: 2490368\nfully allocated size: 1076232192\n");
  EXPECT_EQ(measure(",cluster_size=4k").out,
            "required size: 4706304\nfully allocated size: 1078448128\n");
  EXPECT_EQ(measure(",cluster_size=2M").out,
            "required size: 12582912\nfully allocated size: 1086324736\n");
  EXPECT_EQ(measure(",encrypt.cipher-alg=aes-128").out,
            "required size: 1507328\nfully allocated size: 1075249152\n");
  EXPECT_EQ(measure(",preallocation=falloc").out,
            "required size: 1076232192\nfully allocated size: 1076232192\n");
  EXPECT_EQ(measure(",extended_l2=on").out,
            "required size: 2621440\nfully allocated size: 1076363264\n");
}

TEST_F(ToolTest, PreallocatedSpaceOfEncryptedImagesReadsAsZeros) {
  const std::string object = "secret,id=k,data=key";
  const std::string image = "driver=qcow2,encrypt.key-secret=k,file.filename=disk.qcow2";
  for (const std::string mode : {"metadata", "falloc", "full"}) {
    ASSERT_EQ(
        Run({"create", "-q", "--object", object, "-f", "qcow2", "-o",
             "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=1", "disk.qcow2", "1M"})
            .status,
        0);
    const Ran grown =
        Run({"resize", "--object", object, "--image-opts", "--preallocation=" + mode, image, "3M"});
    EXPECT_EQ(grown.status, 0) << grown.err;
    EXPECT_THAT(Run({"check", "disk.qcow2"}).out, HasSubstr("32/48 = 66.67% allocated"));
    const Ran back =
        Run({"convert", "--object", object, "--image-opts", "-O", "raw", image, "back"});
    EXPECT_EQ(back.status, 0) << back.err;
    EXPECT_TRUE(ReadFile("back") == std::string(3 << 20, '\0'));
  }
}

TEST_F(ToolTest, CreatesRawImages) {
  EXPECT_EQ(Run({"create", "sparse.raw", "1M"}).status, 0);
  EXPECT_EQ(std::filesystem::file_size("sparse.raw"), 1u << 20);
  EXPECT_EQ(Run({"create", "-o", "preallocation=full", "full.raw", "1000"}).status, 0);
  EXPECT_EQ(std::filesystem::file_size("full.raw"), 1024u);
  const Ran info = Run({"info", "sparse.raw"});
  EXPECT_THAT(info.out, StartsWith("image: sparse.raw\nfile format: raw\nvirtual size: 1 MiB"));
  EXPECT_EQ(Run({"check", "sparse.raw"}).status, 63);
}

TEST_F(ToolTest, ChecksAndMends) {
  ASSERT_EQ(Run({"create", "-q", "-f", "qcow2", "disk.qcow2", "64M"}).status, 0);
  Poke("disk.qcow2", 0x2000a, std::string("\0\x01", 2));  // A cluster that nobody uses, counted.
  const std::filesystem::path disk = "disk.qcow2";
  std::filesystem::resize_file(disk, 6 * 65536);
  const Ran leaks = Run({"check", "disk.qcow2"});
  EXPECT_EQ(leaks.status, 3);
  EXPECT_THAT(leaks.err, HasSubstr("Leaked cluster 5 refcount=1 reference=0"));
  EXPECT_THAT(leaks.out, HasSubstr("1 leaked clusters were found on the image."));
  const Ran json = Run({"check", "--output=json", "disk.qcow2"});
  EXPECT_EQ(json.status, 3);
  EXPECT_THAT(json.out, HasSubstr("\"leaks\": 1"));
  const Ran mended = Run({"check", "-r", "leaks", "disk.qcow2"});
  EXPECT_EQ(mended.status, 0);
  EXPECT_THAT(mended.out, HasSubstr("    1 leaked clusters\n    0 corruptions\n"));
  Poke("disk.qcow2", 0x20006, std::string("\0\0", 2));  // The L1 table, not counted.
  EXPECT_EQ(Run({"check", "disk.qcow2"}).status, 2);
  EXPECT_EQ(Run({"check", "-r", "all", "disk.qcow2"}).status, 0);
  EXPECT_EQ(Run({"check", "disk.qcow2"}).status, 0);
}

// The lines are qemu-img's, but for the time.
TEST_F(ToolTest, BenchSendsItsPattern) {
  ASSERT_EQ(Run({"create", "-q", "-f", "qcow2", "disk.qcow2", "1M"}).status, 0);
  const Ran write = Run({"bench", "-w", "-c", "100", "-d", "8", "-S", "64k", "-o", "512",
                         "--pattern", "0x41", "--flush-interval", "10", "disk.qcow2"});
  EXPECT_EQ(write.status, 0) << write.err;
  EXPECT_THAT(write.out,
              MatchesRegex("Sending 100 write requests, 4096 bytes each, 8 in parallel \\(starting "
                           "at offset 512, step size 65536\\)\nSending flush every 10 "
                           "requests\nRun completed in [0-9.]+ seconds.\n"));
  // 16 clusters, each written at its second sector.
  const Ran check = Run({"check", "disk.qcow2"});
  EXPECT_THAT(check.out, HasSubstr("16/16 = 100.00% allocated"));
  const Ran read = Run({"bench", "-c", "20", "-i", "native", "--latency", "disk.qcow2"});
  EXPECT_EQ(read.status, 0) << read.err;
  EXPECT_THAT(read.out, HasSubstr("20 read requests, 4096 bytes each, 64 in parallel"));
  EXPECT_THAT(read.out, HasSubstr("Latency in microseconds: 50% "));
  const Ran undrained = Run({"bench", "-w", "-c", "64", "-d", "4", "--flush-interval", "4",
                             "--no-drain", "-t", "none", "disk.qcow2"});
  EXPECT_EQ(undrained.status, 0) << undrained.err;
}

TEST_F(ToolTest, BenchEndsAtAFailedRequest) {
  ASSERT_EQ(Run({"create", "-q", "-f", "qcow2", "disk.qcow2", "1M"}).status, 0);
  const Ran ran = Run({"bench", "-o", "2M", "disk.qcow2"});
  EXPECT_EQ(ran.status, 1);
  EXPECT_EQ(ran.err, "vireo-img: Failed request: Input/output error\n");
}

TEST_F(ToolTest, AnImageInUseIsLeftAloneUnlessShared) {
  ASSERT_EQ(Run({"create", "-q", "-f", "qcow2", "disk.qcow2", "1M"}).status, 0);
  const UniqueFd writer(::open("disk.qcow2", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(LockImage(writer.get(), "disk.qcow2", LockMode::kExclusive).ok());
  EXPECT_EQ(Run({"info", "disk.qcow2"}).status, 1);
  EXPECT_EQ(Run({"info", "-U", "disk.qcow2"}).status, 0);
  EXPECT_EQ(Run({"check", "disk.qcow2"}).status, 1);
  EXPECT_EQ(Run({"check", "-U", "disk.qcow2"}).status, 0);
  const Ran create = Run({"create", "-f", "qcow2", "disk.qcow2", "1M"});
  EXPECT_EQ(create.status, 1);
  EXPECT_THAT(create.err, HasSubstr("Failed to get \"write\" lock"));
}

TEST_F(ToolTest, MakesListsAndDeletesSnapshots) {
  ASSERT_EQ(Run({"create", "-q", "-f", "qcow2", "disk.qcow2", "64M"}).status, 0);
  const Ran none = Run({"snapshot", "-l", "disk.qcow2"});
  EXPECT_EQ(none.status, 0) << none.err;
  EXPECT_EQ(none.out, "");
  const Ran made = Run({"snapshot", "-c", "one", "disk.qcow2"});
  EXPECT_EQ(made.status, 0) << made.err;
  EXPECT_EQ(made.out, "");
  ASSERT_EQ(Run({"snapshot", "-c", "two", "disk.qcow2"}).status, 0);
  const Ran list = Run({"snapshot", "-l", "disk.qcow2"});
  EXPECT_THAT(list.out, StartsWith("Snapshot list:\nID        TAG               VM SIZE            "
                                   "    DATE     VM CLOCK     ICOUNT\n1         one             "
                                   "      0 B "));
  EXPECT_EQ(Run({"snapshot", "-a", "2", "disk.qcow2"}).status, 0);
  EXPECT_EQ(Run({"snapshot", "-d", "one", "disk.qcow2"}).status, 0);
  const Ran gone = Run({"snapshot", "-d", "1", "disk.qcow2"});
  EXPECT_EQ(gone.status, 1);
  EXPECT_EQ(gone.err, "vireo-img: Could not delete snapshot '1': snapshot not found\n");
  const Ran apply = Run({"snapshot", "-a", "one", "disk.qcow2"});
  EXPECT_EQ(apply.err,
            "vireo-img: Could not apply snapshot 'one': Failed to load snapshot: No such file or "
            "directory\n");
  EXPECT_EQ(Run({"check", "disk.qcow2"}).status, 0);
}

struct Refusal {
  const char* name;
  std::vector<std::string> args;
  const char* message;
};

std::ostream& operator<<(std::ostream& out, const Refusal& refusal) { return out << refusal.name; }

class RefusalTest : public ToolTest, public testing::WithParamInterface<Refusal> {};

TEST_P(RefusalTest, SaysWhyAndExitsWith1) {
  const Ran ran = Run(GetParam().args);
  EXPECT_EQ(ran.status, 1);
  EXPECT_THAT(ran.err, StartsWith("vireo-img: "));
  EXPECT_THAT(ran.err, HasSubstr(GetParam().message));
  // What is wrong for the engine is found once the image has been described.
  EXPECT_THAT(ran.out, AnyOf("", StartsWith("Formatting 'x', ")));
  EXPECT_FALSE(std::filesystem::exists("x"));
}

INSTANTIATE_TEST_SUITE_P(
    Wrong, RefusalTest,
    testing::Values(
        Refusal{"NoVerb", {}, "Not enough arguments"},
        Refusal{"UnknownVerb", {"frobnicate"}, "Command not found: frobnicate"},
        Refusal{"NoFile", {"create", "-f", "qcow2"}, "Expecting image file name"},
        Refusal{"NoSize", {"create", "-f", "qcow2", "x"}, "needs a size parameter"},
        Refusal{"BadSize", {"create", "x", "1Q"}, "Invalid image size specified"},
        Refusal{"TooMany", {"create", "x", "1", "2"}, "Unexpected argument: 2"},
        Refusal{"UnknownFormat", {"create", "-f", "vmdk", "x", "1M"}, "Unknown file format 'vmdk'"},
        Refusal{"BackingWithoutFormat",
                {"create", "-f", "qcow2", "-b", "base", "x"},
                "Backing file specified without backing format"},
        Refusal{"BackingMissing",
                {"create", "-f", "qcow2", "-b", "base", "-F", "raw", "x"},
                "Could not open 'base': No such file or directory\nCould not open backing image."},
        Refusal{"BackingOfRaw",
                {"create", "-b", "base", "-F", "raw", "x", "1M"},
                "Backing file not supported"},
        Refusal{"BackingIsItself",
                {"create", "-f", "qcow2", "-b", "x", "-F", "qcow2", "x", "1M"},
                "same filename"},
        Refusal{"ClusterSize",
                {"create", "-f", "qcow2", "-o", "cluster_size=1000", "x", "1M"},
                "Cluster size must be a power of two"},
        Refusal{"UnknownOption",
                {"create", "-f", "qcow2", "-o", "foo=1", "x", "1M"},
                "Invalid parameter 'foo'"},
        Refusal{"LaterOption",
                {"create", "-f", "qcow2", "-o", "nocow=on", "x", "1M"},
                "not supported yet"},
        Refusal{"InfoOfNothing", {"info", "x"}, "Could not open 'x'"},
        Refusal{"InfoOutput", {"info", "--output=xml", "x"}, "human or json"},
        Refusal{"CheckRepair", {"check", "-r", "some", "x"}, "expecting 'leaks' or 'all'"},
        Refusal{"CheckOfNothing", {"check", "-f", "qcow2", "x"}, "Could not open 'x'"},
        Refusal{"BenchOfNothing", {"bench", "x"}, "Could not open 'x'"},
        Refusal{"BenchCount", {"bench", "-c", "10k", "x"}, "Invalid request count specified"},
        Refusal{"BenchDepth", {"bench", "-d", "0", "x"}, "Invalid queue depth specified"},
        Refusal{"BenchSize", {"bench", "-s", "3G", "x"}, "Must be between 0 and 2147483647."},
        Refusal{"BenchOffset", {"bench", "-o", "-1", "x"}, "Invalid offset specified. You may"},
        Refusal{"BenchPattern", {"bench", "--pattern=256", "x"}, "Invalid pattern byte specified"},
        Refusal{"BenchCache", {"bench", "-t", "foo", "x"}, "Invalid cache mode"},
        Refusal{"BenchAio", {"bench", "-i", "foo", "x"}, "Invalid aio option: foo"},
        Refusal{"BenchFlushesReads",
                {"bench", "--flush-interval=64", "x"},
                "--flush-interval is only available in write tests"},
        Refusal{"BenchFlushesTooOften",
                {"bench", "-w", "--flush-interval=4", "x"},
                "Flush interval can't be smaller than depth"},
        Refusal{"BenchShared", {"bench", "-U", "-w", "x"}, "force-share=on can only be used"},
        Refusal{"SnapshotOfNothing",
                {"snapshot", "-c", "a", "x"},
                "Could not open 'x': Could not open 'x': No such file or directory"},
        Refusal{"SnapshotTwice",
                {"snapshot", "-l", "-c", "a", "x"},
                "Cannot mix '-l', '-a', '-c', '-d'"},
        Refusal{"SnapshotNoFile", {"snapshot", "-l"}, "Expecting one image file name"},
        Refusal{"CheckOfTwo", {"check", "x", "y"}, "Expecting one image file name"}),
    [](const testing::TestParamInfo<Refusal>& info) { return info.param.name; });

TEST_F(ToolTest, HelpNamesEveryVerb) {
  const Ran help = Run({"--help"});
  EXPECT_EQ(help.status, 0);
  for (const char* verb : {"bench", "create", "info", "check"})
    EXPECT_THAT(help.out, HasSubstr(verb));
  EXPECT_THAT(Run({"create", "-f", "qcow2", "-o", "help"}).out, HasSubstr("cluster_size"));
  EXPECT_THAT(Run({"--version"}).out, HasSubstr("vireo-img"));
}

}  // namespace
}  // namespace vireo::img
