// vireo-img measure: how large a file a new image needs, at least for what its source holds and at
// most when all of it is written.

#include <algorithm>
#include <bit>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/crypto/luks.h"
#include "storage/img/arguments.h"
#include "storage/img/copy_bitmaps.h"
#include "storage/img/json.h"
#include "storage/img/new_image.h"
#include "storage/img/opened.h"
#include "storage/img/size_argument.h"
#include "storage/img/snapshot_argument.h"
#include "storage/img/tool.h"
#include "storage/qcow2/format.h"

namespace vireo::img {
namespace {

struct Measured {
  uint64_t required = 0;
  uint64_t fully_allocated = 0;
  std::optional<uint64_t> bitmaps;
};

// Of a QCOW2 image with all of its disk allocated. `size` is whole clusters.
uint64_t FullyAllocated(uint64_t size, uint64_t cluster_bytes, uint64_t refcount_bits,
                        uint64_t l2_entry_bytes) {
  uint64_t metadata = cluster_bytes;  // The header.
  const uint64_t l2_entries =
      AlignUp<uint64_t>(size / cluster_bytes, cluster_bytes / l2_entry_bytes);
  metadata += l2_entries * l2_entry_bytes;
  const uint64_t l1_entries =
      AlignUp<uint64_t>(l2_entries * l2_entry_bytes / cluster_bytes, cluster_bytes / sizeof(Be64));
  metadata += l1_entries * sizeof(Be64);
  // Refcount blocks count themselves and the table.
  const uint64_t clusters = (metadata + size) / cluster_bytes;
  const uint64_t per_block = cluster_bytes * 8 / refcount_bits;
  uint64_t blocks = 0;
  uint64_t table = 0;
  while (true) {
    const uint64_t wanted = DivideRoundUp<uint64_t>(clusters + table + blocks, per_block);
    const uint64_t wanted_table = DivideRoundUp<uint64_t>(wanted, cluster_bytes / sizeof(Be64));
    if (wanted == blocks && wanted_table == table) break;
    blocks = wanted;
    table = wanted_table;
  }
  return metadata + (blocks + table) * cluster_bytes + size;
}

// Bytes of the clusters that hold what `disk` stores.
absl::StatusOr<uint64_t> StoredBytes(const Tool& tool, BlockBackend& disk, uint64_t cluster_bytes) {
  const uint64_t size = disk.geometry().size_bytes;
  uint64_t stored = 0;
  for (uint64_t offset = 0; offset < size;) {
    ASSIGN_OR_RETURN(const RangeStatus status,
                     tool.loop.RunTask(disk.Status(offset, size - offset)));
    uint64_t length = status.length;
    if (!status.reads_as_zeros) {
      length = AlignUp<uint64_t>(offset + length, cluster_bytes) - offset;
      stored += offset % cluster_bytes + length;
    }
    offset += length;
  }
  return stored;
}

// Of the bitmaps in a new image of the same disk, all of their bits stored.
uint64_t BitmapBytes(const std::vector<qcow2::BitmapRecord>& bitmaps, uint64_t disk_bytes,
                     uint64_t cluster_bytes) {
  constexpr uint64_t kRecordBytes = 24;
  uint64_t bytes = 0;
  uint64_t directory_bytes = 0;
  for (const qcow2::BitmapRecord& bitmap : bitmaps) {
    if (bitmap.in_use()) continue;
    const uint64_t granules =
        DivideRoundUp<uint64_t>(disk_bytes, uint64_t{1} << bitmap.granularity_bits);
    const uint64_t clusters =
        DivideRoundUp<uint64_t>(DivideRoundUp<uint64_t>(granules, 8), cluster_bytes);
    bytes += clusters * cluster_bytes;
    bytes += AlignUp<uint64_t>(clusters * sizeof(Be64), cluster_bytes);  // Its table.
    directory_bytes += AlignUp<uint64_t>(kRecordBytes + bitmap.name.size(), 8);
  }
  return bytes + AlignUp<uint64_t>(directory_bytes, cluster_bytes);
}

absl::StatusOr<Measured> MeasureQcow2(const Tool& tool, const NewImage& wanted, uint64_t disk_bytes,
                                      const Opened* source) {
  ASSIGN_OR_RETURN(const qcow2::CreateOptions options, wanted.Shape());
  const uint64_t cluster_bytes = uint64_t{1} << options.cluster_bits;
  const uint64_t l2_entry_bytes = wanted.Get("extended_l2") == "on" ? 16 : 8;
  const std::optional<uint64_t> size = CheckedAlignUp<uint64_t>(disk_bytes, cluster_bytes);
  const uint64_t per_l1_entry = cluster_bytes / l2_entry_bytes * cluster_bytes;
  if (!size.has_value() ||
      DivideRoundUp<uint64_t>(*size, per_l1_entry) > qcow2::kMaxL1Bytes / sizeof(Be64)) {
    return absl::InvalidArgumentError(
        "The image size is too large (try using a larger cluster size)");
  }
  uint64_t stored = 0;
  if (source != nullptr) {
    if (wanted.IsSet("backing_file")) {
      stored = *size;  // Who knows how much of it the backing file has.
    } else {
      ASSIGN_OR_RETURN(stored, StoredBytes(tool, source->disk(), cluster_bytes));
    }
  }
  if (options.preallocation >= qcow2::Preallocation::kFalloc) stored = *size;
  Measured measured;
  measured.fully_allocated =
      FullyAllocated(*size, cluster_bytes, uint64_t{1} << options.refcount_order, l2_entry_bytes);
  if (wanted.Get("encrypt.format") == "luks") {
    ASSIGN_OR_RETURN(const std::optional<NewEncryption> encryption, wanted.Encryption());
    measured.fully_allocated +=
        AlignUp<uint64_t>(crypto::LuksAreaBytes(encryption->luks.cipher), cluster_bytes);
  }
  measured.required = measured.fully_allocated - *size + stored;
  return measured;
}

}  // namespace

int Measure(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'f', nullptr, true},
                                                                 {'l', nullptr, true},
                                                                 {'o', nullptr, true},
                                                                 {'O', nullptr, true},
                                                                 {'U', "force-share", false},
                                                                 {0, "image-opts", false},
                                                                 {0, "output", true},
                                                                 {0, "size", true}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  std::string options;
  std::optional<uint64_t> size;
  std::optional<qcow2::SnapshotChoice> snapshot;
  for (const auto& [option, text] : parsed->options) {
    if (option == "o") {
      if (const absl::Status list = CheckOptionList(text); !list.ok()) {
        return tool.Fail("%s", std::string(list.message()));
      }
      absl::StrAppend(&options, options.empty() ? "" : ",", text);
    } else if (option == "l") {
      snapshot = SnapshotArgument(tool, text);
      if (!snapshot.has_value()) return 1;
    } else if (option == "size") {
      size = SizeArgument(tool, "image size", text);
      if (!size.has_value()) return 1;
    }
  }
  const std::string output = parsed->Value("output").value_or("human");
  if (output != "human" && output != "json") {
    return tool.Fail("--output must be used with human or json as argument.");
  }
  if (parsed->operands.size() > 1) return tool.Fail("At most one filename argument is allowed.");
  const bool has_source = parsed->operands.size() == 1;
  if (!has_source && (parsed->Has("image-opts") || parsed->Has("f") || parsed->Has("l"))) {
    return tool.Fail("--image-opts, -f, and -l require a filename argument.");
  }
  if (!has_source && !size.has_value()) {
    return tool.Fail("Either --size N or one filename must be specified.");
  }
  if (has_source && size.has_value()) {
    return tool.Fail("--size N cannot be used together with a filename.");
  }

  std::optional<Opened> source;
  SourceOptions source_options;
  if (has_source) {
    source_options = {.name = parsed->operands[0],
                      .format = parsed->Value("f"),
                      .image_opts = parsed->Has("image-opts"),
                      .share = parsed->Has("U"),
                      .snapshot = snapshot};
    source.emplace(tool, source_options);
    if (!source->ok()) return 1;
  }
  const std::string format_name = parsed->Value("O").value_or("raw");
  const std::optional<ImageFormat> format = ImageFormatFromName(format_name);
  if (!format.has_value()) return tool.Fail("Unknown file format '%s'", format_name);
  NewImage wanted(*format);
  wanted.set_secrets(tool.secrets);
  if (const absl::Status added = wanted.Add(options); !added.ok()) {
    tool.Fail("%s", std::string(added.message()));
    return tool.Fail("Invalid options for file format '%s'", format_name);
  }
  const uint64_t disk_bytes = source.has_value() ? source->size_bytes() : *size;

  Measured measured;
  if (*format == ImageFormat::kRaw) {
    measured.required = measured.fully_allocated = AlignUp<uint64_t>(disk_bytes, 512);
  } else {
    const absl::StatusOr<Measured> answer =
        MeasureQcow2(tool, wanted, disk_bytes, source.has_value() ? &*source : nullptr);
    if (!answer.ok()) return tool.Fail("%s", std::string(answer.status().message()));
    measured = *answer;
    const qcow2::Image* const image = source.has_value() ? source->source().image : nullptr;
    const bool keeps_bitmaps =
        image != nullptr && image->header().layout.version >= 3 && wanted.Shape()->version >= 3;
    if (keeps_bitmaps) {
      const absl::StatusOr<std::vector<qcow2::BitmapRecord>> bitmaps =
          tool.loop.RunTask(ListBitmaps(tool.loop, tool.opener, source_options));
      if (!bitmaps.ok()) return tool.Fail("%s", std::string(bitmaps.status().message()));
      measured.bitmaps =
          BitmapBytes(*bitmaps, disk_bytes, uint64_t{1} << wanted.Shape()->cluster_bits);
    }
  }
  if (output == "json") {
    Json json = Json::Object();
    if (measured.bitmaps.has_value()) json.Add("bitmaps", *measured.bitmaps);
    json.Add("required", measured.required).Add("fully-allocated", measured.fully_allocated);
    tool.Print("%s\n", json.ToString());
    return 0;
  }
  tool.Print("required size: %d\nfully allocated size: %d\n", measured.required,
             measured.fully_allocated);
  if (measured.bitmaps.has_value()) tool.Print("bitmaps size: %d\n", *measured.bitmaps);
  return 0;
}

}  // namespace vireo::img
