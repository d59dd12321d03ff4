#include "storage/qcow2/compressor.h"

#include <zlib.h>
#include <zstd.h>

#include <array>
#include <memory>

namespace vireo::qcow2 {
namespace {

constexpr int kWindowBits = 12;
constexpr int kDeflateLevel = 6;
constexpr int kDeflateMemory = 9;
constexpr int kZstdLevel = 3;
// Noise takes the compressor longest and gains nothing: a sample of a cluster tells.
constexpr size_t kSampleBytes = 4096;

// A state of deflate's, which is used again: making one costs as much as compressing a few KiB.
class Deflater {
 public:
  explicit Deflater(int level) {
    // Negative: no header.
    ready_ = deflateInit2(&z_, level, Z_DEFLATED, -kWindowBits, kDeflateMemory,
                          Z_DEFAULT_STRATEGY) == Z_OK;
  }
  ~Deflater() {
    if (ready_) deflateEnd(&z_);
  }
  Deflater(const Deflater&) = delete;
  Deflater& operator=(const Deflater&) = delete;

  // Bytes written to `dst`; 0 if it does not fit.
  size_t Compress(std::span<const uint8_t> src, std::span<uint8_t> dst) {
    if (!ready_ || deflateReset(&z_) != Z_OK) return 0;
    z_.next_in = const_cast<uint8_t*>(src.data());
    z_.avail_in = static_cast<uInt>(src.size());
    z_.next_out = dst.data();
    z_.avail_out = static_cast<uInt>(dst.size());
    return deflate(&z_, Z_FINISH) == Z_STREAM_END ? dst.size() - z_.avail_out : 0;
  }

 private:
  z_stream z_ = {};
  bool ready_;
};

size_t CompressDeflate(std::span<const uint8_t> src, std::span<uint8_t> dst) {
  static thread_local Deflater deflater(kDeflateLevel);
  return deflater.Compress(src, dst);
}

size_t CompressZstd(std::span<const uint8_t> src, std::span<uint8_t> dst) {
  static thread_local const std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx*)> context(
      ZSTD_createCCtx(), ZSTD_freeCCtx);
  if (context == nullptr) return 0;
  const size_t bytes =
      ZSTD_compressCCtx(context.get(), dst.data(), dst.size(), src.data(), src.size(), kZstdLevel);
  return ZSTD_isError(bytes) ? 0 : bytes;
}

// Bytes that are spread so unevenly shrink, whatever their order: the chance that two of them are
// the same is a ninth more than by chance.
bool IsUneven(std::span<const uint8_t> sample) {
  std::array<uint32_t, 256> counts = {};
  for (const uint8_t byte : sample) ++counts[byte];
  uint64_t pairs = 0;
  for (const uint32_t count : counts) pairs += uint64_t{count} * count;
  const uint64_t by_chance = sample.size() * sample.size() / 256 + sample.size();
  return pairs > by_chance + by_chance / 9;
}

// Whether three places of a large cluster all look like noise.
bool LooksLikeNoise(std::span<const uint8_t> cluster) {
  if (cluster.size() < 8 * kSampleBytes) return false;
  static thread_local Deflater fast(1);
  uint8_t out[kSampleBytes - kSampleBytes / 64];
  for (const size_t at : {size_t{0}, cluster.size() / 2, cluster.size() - kSampleBytes}) {
    const std::span<const uint8_t> sample = cluster.subspan(at, kSampleBytes);
    if (IsUneven(sample) || fast.Compress(sample, out) != 0) return false;
  }
  return true;
}

}  // namespace

std::optional<std::vector<uint8_t>> Compress(Compression compression,
                                             std::span<const uint8_t> cluster) {
  std::vector<uint8_t> stream(cluster.size() - 1);
  size_t bytes = 0;
  if (compression == Compression::kZstd) {
    bytes = CompressZstd(cluster, stream);
  } else if (!LooksLikeNoise(cluster)) {
    bytes = CompressDeflate(cluster, stream);
  }
  if (bytes == 0) return std::nullopt;
  stream.resize(bytes);
  return stream;
}

}  // namespace vireo::qcow2
