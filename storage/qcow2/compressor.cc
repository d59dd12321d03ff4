#include "storage/qcow2/compressor.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <memory>

namespace vireo::qcow2 {
namespace {

constexpr int kWindowBits = 12;
constexpr int kDeflateLevel = 6;
constexpr int kDeflateMemory = 9;
constexpr int kZstdLevel = 3;
// Noise takes the compressor longest and gains nothing: a sample of a cluster tells.
constexpr size_t kSampleBytes = 4096;

// Bytes written to `dst`; 0 if it does not fit.
size_t DeflateRaw(std::span<const uint8_t> src, std::span<uint8_t> dst, int level) {
  z_stream z = {};
  // Negative: no header.
  if (deflateInit2(&z, level, Z_DEFLATED, -kWindowBits, kDeflateMemory, Z_DEFAULT_STRATEGY) !=
      Z_OK) {
    return 0;
  }
  z.next_in = const_cast<uint8_t*>(src.data());
  z.avail_in = static_cast<uInt>(src.size());
  z.next_out = dst.data();
  z.avail_out = static_cast<uInt>(dst.size());
  const bool whole = deflate(&z, Z_FINISH) == Z_STREAM_END;
  deflateEnd(&z);
  return whole ? dst.size() - z.avail_out : 0;
}

size_t CompressZstd(std::span<const uint8_t> src, std::span<uint8_t> dst) {
  static thread_local const std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx*)> context(
      ZSTD_createCCtx(), ZSTD_freeCCtx);
  if (context == nullptr) return 0;
  const size_t bytes =
      ZSTD_compressCCtx(context.get(), dst.data(), dst.size(), src.data(), src.size(), kZstdLevel);
  return ZSTD_isError(bytes) ? 0 : bytes;
}

// Whether three places of a large cluster all look like noise.
bool LooksLikeNoise(std::span<const uint8_t> cluster) {
  if (cluster.size() < 8 * kSampleBytes) return false;
  uint8_t out[kSampleBytes - kSampleBytes / 64];
  for (const size_t at : {size_t{0}, cluster.size() / 2, cluster.size() - kSampleBytes}) {
    if (DeflateRaw(cluster.subspan(at, kSampleBytes), out, 1) != 0) return false;
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
    bytes = DeflateRaw(cluster, stream, kDeflateLevel);
  }
  if (bytes == 0) return std::nullopt;
  stream.resize(bytes);
  return stream;
}

}  // namespace vireo::qcow2
