#include "storage/qcow2/compressed.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <random>
#include <vector>

#include "base/async/task_scope.h"
#include "tests/support/memory_file.h"

namespace vireo::qcow2 {
namespace {

constexpr Layout kLayout = {.cluster_bits = 12};

std::vector<uint8_t> Content(uint32_t seed) {
  std::vector<uint8_t> bytes(kLayout.cluster_bytes());
  std::mt19937 random(seed);
  for (uint8_t& byte : bytes) byte = "abcd"[random() % 4];
  return bytes;
}

std::vector<uint8_t> Deflate(const std::vector<uint8_t>& bytes) {
  z_stream z = {};
  deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY);
  std::vector<uint8_t> out(2 * bytes.size());
  z.next_in = const_cast<uint8_t*>(bytes.data());
  z.avail_in = static_cast<uInt>(bytes.size());
  z.next_out = out.data();
  z.avail_out = static_cast<uInt>(out.size());
  deflate(&z, Z_FINISH);
  out.resize(out.size() - z.avail_out);
  deflateEnd(&z);
  return out;
}

std::vector<uint8_t> Zstd(const std::vector<uint8_t>& bytes) {
  std::vector<uint8_t> out(ZSTD_compressBound(bytes.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 3));
  return out;
}

struct Codec {
  const char* name;
  Compression compression;
  std::vector<uint8_t> (*compress)(const std::vector<uint8_t>&);
};

class DecompressTest : public testing::TestWithParam<Codec> {};

TEST_P(DecompressTest, IgnoresWhatFollowsTheStream) {
  const std::vector<uint8_t> content = Content(1);
  std::vector<uint8_t> stream = GetParam().compress(content);
  stream.resize(stream.size() + 300, 0xff);
  std::vector<uint8_t> out(content.size());
  ASSERT_TRUE(Decompress(GetParam().compression, stream, out).ok());
  EXPECT_EQ(out, content);
}

TEST_P(DecompressTest, AStreamOfLessThanAClusterIsDamaged) {
  const std::vector<uint8_t> stream = GetParam().compress(std::vector<uint8_t>(1000));
  std::vector<uint8_t> out(kLayout.cluster_bytes());
  EXPECT_TRUE(absl::IsDataLoss(Decompress(GetParam().compression, stream, out)));
}

TEST_P(DecompressTest, ABombStopsAtOneCluster) {
  const std::vector<uint8_t> stream = GetParam().compress(std::vector<uint8_t>(64 << 20));
  std::vector<uint8_t> out(kLayout.cluster_bytes(), 1);
  // What counts is that nothing is written behind it; the sanitizers see to that.
  (void)Decompress(GetParam().compression, stream, out);
  EXPECT_EQ(out[0], 0);
}

TEST_P(DecompressTest, CutAndGarbledStreamsAreDamaged) {
  std::vector<uint8_t> stream = GetParam().compress(Content(2));
  std::vector<uint8_t> out(kLayout.cluster_bytes());
  const std::span<const uint8_t> cut(stream.data(), stream.size() / 2);
  EXPECT_TRUE(absl::IsDataLoss(Decompress(GetParam().compression, cut, out)));
  EXPECT_TRUE(absl::IsDataLoss(Decompress(GetParam().compression, {}, out)));
  std::fill(stream.begin(), stream.end(), 0xff);
  EXPECT_TRUE(absl::IsDataLoss(Decompress(GetParam().compression, stream, out)));
}

INSTANTIATE_TEST_SUITE_P(Codecs, DecompressTest,
                         testing::Values(Codec{"Deflate", Compression::kDeflate, Deflate},
                                         Codec{"Zstd", Compression::kZstd, Zstd}),
                         [](const testing::TestParamInfo<Codec>& info) { return info.param.name; });

class CompressedClustersTest : public testing::Test {
 protected:
  Task<void> GetInto(CompressedClusters* clusters, Compressed mapping,
                     CompressedClusters::Cluster* cluster) {
    const absl::StatusOr<CompressedClusters::Cluster> got = co_await clusters->Get(mapping);
    if (got.ok()) *cluster = *got;
  }
  Task<void> Join(TaskScope* scope) { co_await scope->Join(); }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  MemoryMedium medium_;
  MemoryFile file_{*loop_, medium_};
};

TEST_F(CompressedClustersTest, ThoseWhoAskTogetherShareTheWork) {
  const std::vector<uint8_t> content = Content(3);
  const std::vector<uint8_t> stream = Deflate(content);
  medium_.bytes.assign(777, 0);
  medium_.bytes.insert(medium_.bytes.end(), stream.begin(), stream.end());
  CompressedClusters clusters(*loop_, file_, kLayout, Compression::kDeflate);
  // Claims more than the file holds: the rest is zeros.
  const Compressed mapping = {.host_offset = 777, .bytes = 4096};
  std::vector<CompressedClusters::Cluster> got(4);
  EventLoop::CurrentScope current(*loop_);
  TaskScope scope(*loop_);
  for (CompressedClusters::Cluster& cluster : got) {
    scope.Spawn(GetInto(&clusters, mapping, &cluster));
  }
  loop_->RunTask(Join(&scope));
  for (const CompressedClusters::Cluster& cluster : got) {
    ASSERT_NE(cluster, nullptr);
    EXPECT_EQ(*cluster, content);
  }
  EXPECT_EQ(medium_.reads, 1u);
  ASSERT_TRUE(loop_->RunTask(clusters.Get(mapping)).ok());
  EXPECT_EQ(medium_.reads, 1u);
}

TEST_F(CompressedClustersTest, FailuresAreNotRemembered) {
  medium_.bytes.assign(8192, 0xff);
  CompressedClusters clusters(*loop_, file_, kLayout, Compression::kDeflate);
  const Compressed mapping = {.host_offset = 4096, .bytes = 4096};
  EXPECT_TRUE(absl::IsDataLoss(loop_->RunTask(clusters.Get(mapping)).status()));
  const std::vector<uint8_t> stream = Deflate(Content(4));
  std::copy(stream.begin(), stream.end(), medium_.bytes.begin() + 4096);
  EXPECT_TRUE(loop_->RunTask(clusters.Get(mapping)).ok());
}

TEST_F(CompressedClustersTest, PastTheEndIsDamage) {
  CompressedClusters clusters(*loop_, file_, kLayout, Compression::kDeflate);
  EXPECT_TRUE(
      absl::IsDataLoss(loop_->RunTask(clusters.Get({.host_offset = 4096, .bytes = 512})).status()));
}

}  // namespace
}  // namespace vireo::qcow2
