#include "storage/qcow2/compressed.h"

#include <libdeflate.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status.h"

namespace vireo::qcow2 {
namespace {

// Inflated clusters that are kept: as many as fit, and two at least.
constexpr uint64_t kKeptBytes = 1 << 20;
constexpr uint64_t kMaxKept = 16;

// The largest window that a frame of one cluster can ask for: 8 MiB is what zstd's highest ordinary
// level uses. A hostile frame asks for more and is refused.
constexpr int kMaxZstdWindowLog = 23;

// Twice as fast as zlib, but it wants the stream to end with the cluster. False if it does not, or
// if anything else is odd: zlib knows best.
bool InflateFast(std::span<const uint8_t> stream, std::span<uint8_t> dst) {
  const std::unique_ptr<libdeflate_decompressor, void (*)(libdeflate_decompressor*)> decompressor(
      libdeflate_alloc_decompressor(), libdeflate_free_decompressor);
  if (decompressor == nullptr) return false;
  size_t consumed = 0;
  size_t produced = 0;
  const libdeflate_result result =
      libdeflate_deflate_decompress_ex(decompressor.get(), stream.data(), stream.size(), dst.data(),
                                       dst.size(), &consumed, &produced);
  return result == LIBDEFLATE_SUCCESS && produced == dst.size();
}

absl::Status InflateRaw(std::span<const uint8_t> stream, std::span<uint8_t> dst) {
  if (InflateFast(stream, dst)) return absl::OkStatus();
  z_stream z = {};
  // Negative: no header. Writers use 12 bits; a reader may take the largest.
  if (inflateInit2(&z, -MAX_WBITS) != Z_OK) {
    return absl::ResourceExhaustedError("no memory to inflate a cluster");
  }
  z.next_in = const_cast<uint8_t*>(stream.data());
  z.avail_in = static_cast<uInt>(stream.size());
  z.next_out = dst.data();
  z.avail_out = static_cast<uInt>(dst.size());
  const int result = inflate(&z, Z_FINISH);
  const bool whole = z.avail_out == 0 && (result == Z_STREAM_END || result == Z_BUF_ERROR);
  inflateEnd(&z);
  if (!whole) return absl::DataLossError("the deflate stream of a compressed cluster is damaged");
  return absl::OkStatus();
}

absl::Status InflateZstd(std::span<const uint8_t> stream, std::span<uint8_t> dst) {
  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context(ZSTD_createDCtx(),
                                                                   ZSTD_freeDCtx);
  if (context == nullptr) return absl::ResourceExhaustedError("no memory to inflate a cluster");
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kMaxZstdWindowLog);
  ZSTD_inBuffer in = {stream.data(), stream.size(), 0};
  ZSTD_outBuffer out = {dst.data(), dst.size(), 0};
  size_t hint = 1;
  // A cluster may be several frames; the last one has to be complete.
  while (out.pos < out.size || hint != 0) {
    const size_t in_before = in.pos;
    const size_t out_before = out.pos;
    hint = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(hint) || (in.pos == in_before && out.pos == out_before)) {
      return absl::DataLossError("the zstd stream of a compressed cluster is damaged");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Decompress(Compression compression, std::span<const uint8_t> stream,
                        std::span<uint8_t> dst) {
  return compression == Compression::kZstd ? InflateZstd(stream, dst) : InflateRaw(stream, dst);
}

CompressedClusters::CompressedClusters(EventLoop& loop, File& file, const Layout& layout,
                                       Compression compression)
    : loop_(loop),
      file_(file),
      layout_(layout),
      compression_(compression),
      limit_(std::clamp<uint64_t>(kKeptBytes >> layout.cluster_bits, 2, kMaxKept)) {}

CompressedClusters::~CompressedClusters() = default;

Task<absl::StatusOr<CompressedClusters::Cluster>> CompressedClusters::Inflate(Compressed mapping) {
  if (mapping.host_offset >= file_.size()) {
    co_return absl::DataLossError(
        absl::StrFormat("%s: a compressed cluster at offset %d is past the end", file_.name(),
                        mapping.host_offset));
  }
  std::vector<uint8_t> stream(mapping.bytes);
  const iovec part = ToIoVec(std::span<uint8_t>(stream));
  CO_RETURN_IF_ERROR(co_await file_.Read(mapping.host_offset, IoVecs(&part, 1)));

  auto bytes = std::make_shared<std::vector<uint8_t>>(layout_.cluster_bytes());
  const Compression compression = compression_;
  const std::span<const uint8_t> from(stream);
  const std::span<uint8_t> to(*bytes);
  auto inflate = [compression, from, to]() { return Decompress(compression, from, to); };
  auto inflating = loop_.Offload(std::move(inflate));
  const absl::Status status = co_await std::move(inflating);
  if (!status.ok()) {
    co_return Annotate(status, absl::StrFormat("%s: offset %d", file_.name(), mapping.host_offset));
  }
  Cluster cluster = std::move(bytes);
  co_return cluster;
}

Task<absl::StatusOr<CompressedClusters::Cluster>> CompressedClusters::Get(Compressed mapping) {
  for (auto at = recent_.begin(); at != recent_.end(); ++at) {
    if ((*at)->host_offset != mapping.host_offset) continue;
    const std::shared_ptr<Entry> entry = *at;
    recent_.splice(recent_.begin(), recent_, at);
    if (!entry->ended.is_set()) co_await entry->ended.Wait();
    CO_RETURN_IF_ERROR(entry->status);
    co_return entry->bytes;
  }
  auto entry = std::make_shared<Entry>();
  entry->host_offset = mapping.host_offset;
  recent_.push_front(entry);
  while (recent_.size() > limit_) recent_.pop_back();
  absl::StatusOr<Cluster> cluster = co_await Inflate(mapping);
  entry->status = cluster.status();
  if (cluster.ok()) {
    entry->bytes = *cluster;
  } else {
    recent_.remove(entry);
  }
  entry->ended.Set();
  co_return cluster;
}

void CompressedClusters::Forget(uint64_t host_offset) {
  recent_.remove_if([host_offset](const std::shared_ptr<Entry>& entry) {
    return entry->host_offset == host_offset;
  });
}

}  // namespace vireo::qcow2
