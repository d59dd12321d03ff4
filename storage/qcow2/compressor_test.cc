#include "storage/qcow2/compressor.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace vireo::qcow2 {
namespace {

constexpr size_t kCluster = 65536;

std::vector<uint8_t> Text() {
  std::vector<uint8_t> bytes;
  for (int i = 0; bytes.size() < kCluster; ++i) {
    const std::string line = "line " + std::to_string(i * 7919) + " of some text\n";
    bytes.insert(bytes.end(), line.begin(), line.end());
  }
  bytes.resize(kCluster);
  return bytes;
}

std::vector<uint8_t> Noise() {
  std::vector<uint8_t> bytes(kCluster);
  std::mt19937 random(1);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

TEST(CompressorTest, WhatItWritesReadsTheSame) {
  for (const Compression compression : {Compression::kDeflate, Compression::kZstd}) {
    for (const size_t size : {size_t{1024}, size_t{4096}, kCluster}) {
      std::vector<uint8_t> cluster = Text();
      cluster.resize(size);
      const std::optional<std::vector<uint8_t>> stream = Compress(compression, cluster);
      ASSERT_TRUE(stream.has_value());
      EXPECT_LE(stream->size(), size - 512);
      std::vector<uint8_t> read(size);
      ASSERT_TRUE(Decompress(compression, *stream, read).ok());
      EXPECT_TRUE(read == cluster);
    }
  }
}

TEST(CompressorTest, NoiseIsLeftAsItIs) {
  EXPECT_EQ(Compress(Compression::kDeflate, Noise()), std::nullopt);
  EXPECT_EQ(Compress(Compression::kZstd, Noise()), std::nullopt);
}

TEST(CompressorTest, EvenTheSmallestClustersShrink) {
  for (const Compression compression : {Compression::kDeflate, Compression::kZstd}) {
    const std::optional<std::vector<uint8_t>> stream =
        Compress(compression, std::vector<uint8_t>(512));
    ASSERT_TRUE(stream.has_value());
    EXPECT_LT(stream->size(), 64);
  }
}

TEST(CompressorTest, HalfOfAClusterIsWorthIt) {
  std::vector<uint8_t> cluster = Noise();
  std::fill(cluster.begin() + kCluster / 4, cluster.end(), 'x');
  EXPECT_TRUE(Compress(Compression::kDeflate, cluster).has_value());
}

// Readers in the field inflate with a window of 4 KiB.
TEST(CompressorTest, DeflateLooksBackNoFurtherThan4KiB) {
  std::vector<uint8_t> cluster = Noise();
  std::copy(cluster.begin(), cluster.begin() + 8192,
            cluster.begin() + 8192);  // Too far to be seen.
  std::fill(cluster.begin() + kCluster / 2, cluster.end(), 'x');
  const std::optional<std::vector<uint8_t>> stream = Compress(Compression::kDeflate, cluster);
  ASSERT_TRUE(stream.has_value());
  EXPECT_GT(stream->size(), kCluster / 2 - 1024);
}

}  // namespace
}  // namespace vireo::qcow2
