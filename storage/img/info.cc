// vireo-img info: what an image's header says. Opens nothing but the file it is given, and with
// --backing-chain those that it and its backing files name.

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/align.h"
#include "base/status.h"
#include "storage/img/arguments.h"
#include "storage/img/image_file.h"
#include "storage/img/json.h"
#include "storage/img/size.h"
#include "storage/img/snapshot_list.h"
#include "storage/img/tool.h"
#include "storage/open_image.h"
#include "storage/qcow2/bitmap_directory.h"
#include "storage/qcow2/encryption.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/snapshots.h"

namespace vireo::img {
namespace {

struct Facts {
  std::string path;
  ImageFormat format = ImageFormat::kRaw;
  uint64_t virtual_bytes = 0;
  uint64_t actual_bytes = 0;
  FileIdentity identity;
  qcow2::Header header;  // Of a QCOW2 image.
  std::vector<qcow2::Snapshot> snapshots;
  std::vector<qcow2::BitmapRecord> bitmaps;
  std::optional<crypto::LuksHeader> luks;
};

Task<absl::Status> GatherQcow2(File& file, Facts* facts) {
  CO_ASSIGN_OR_RETURN(facts->header, co_await qcow2::ReadHeader(file, qcow2::Access::kInspect));
  facts->virtual_bytes = facts->header.size_bytes;
  if (facts->header.encryption.has_value()) {
    CO_ASSIGN_OR_RETURN(facts->luks,
                        co_await crypto::ReadLuksHeader(file, qcow2::LuksAreaOf(facts->header)));
  }
  absl::StatusOr<qcow2::SnapshotTable> table =
      co_await qcow2::ReadSnapshotTable(file, facts->header);
  if (table.ok()) facts->snapshots = std::move(table->snapshots);
  absl::StatusOr<std::vector<qcow2::BitmapRecord>> bitmaps =
      co_await qcow2::ReadBitmapDirectory(file, facts->header);
  if (bitmaps.ok()) facts->bitmaps = *std::move(bitmaps);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<Facts>> Gather(EventLoop& loop, Opener& opener, SourceOptions options) {
  const std::string name = options.name;
  CO_ASSIGN_OR_RETURN(const ImageFile image,
                      co_await OpenImageFile(loop, opener, std::move(options)));
  File& file = *image.file;
  Facts facts = {.path = file.name(), .format = image.format};
  const absl::StatusOr<uint64_t> bytes = file.AllocatedBytes();
  absl::Status status = bytes.status();
  if (bytes.ok()) facts.actual_bytes = *bytes;
  facts.virtual_bytes = AlignUp<uint64_t>(file.size(), 512);
  facts.identity = file.identity();
  if (status.ok() && facts.format == ImageFormat::kQcow2) {
    status = co_await GatherQcow2(file, &facts);
  }
  const absl::Status closed = co_await file.Close();
  if (!status.ok()) co_return CouldNotOpen(name, status);
  CO_RETURN_IF_ERROR(closed);
  co_return facts;
}

std::optional<std::string> FullBackingName(const Facts& facts) {
  if (!facts.header.backing_file.has_value()) return std::nullopt;
  const absl::StatusOr<std::string> path = BackingFilePath(facts.path, *facts.header.backing_file);
  return path.ok() ? *path : *facts.header.backing_file;
}

const char* Compat(const qcow2::Header& header) {
  return header.layout.version < 3 ? "0.10" : "1.1";
}

const char* CompressionName(const qcow2::Header& header) {
  return header.compression_type == 1 ? "zstd" : "zlib";
}

bool Has(uint64_t features, uint64_t bit) { return (features & bit) != 0; }

std::vector<std::string> FlagsOf(const qcow2::BitmapRecord& bitmap) {
  std::vector<std::string> flags;
  if (bitmap.in_use()) flags.push_back("in-use");
  if (bitmap.enabled()) flags.push_back("auto");
  return flags;
}

Json BitmapsToJson(const std::vector<qcow2::BitmapRecord>& bitmaps) {
  Json list = Json::Array();
  for (const qcow2::BitmapRecord& bitmap : bitmaps) {
    Json flags = Json::Array();
    for (const std::string& flag : FlagsOf(bitmap)) flags.Append(flag);
    Json entry = Json::Object();
    entry.Add("flags", std::move(flags))
        .Add("name", bitmap.name)
        .Add("granularity", uint64_t{1} << bitmap.granularity_bits);
    list.Append(std::move(entry));
  }
  return list;
}

Json LuksToJson(const crypto::LuksHeader& luks) {
  Json json = Json::Object();
  json.Add("ivgen-alg", crypto::IvGeneratorName(luks.cipher.iv))
      .Add("hash-alg", crypto::HashName(luks.hash))
      .Add("cipher-alg", crypto::CipherName(luks.cipher))
      .Add("uuid", luks.uuid);
  if (luks.cipher.iv_hash.has_value()) {
    json.Add("ivgen-hash-alg", crypto::HashName(*luks.cipher.iv_hash));
  }
  json.Add("format", "luks").Add("cipher-mode", crypto::CipherModeName(luks.cipher.mode));
  Json slots = Json::Array();
  for (const crypto::LuksSlot& slot : luks.slots) {
    Json entry = Json::Object();
    entry.Add("active", slot.active);
    if (slot.active) entry.Add("iters", uint64_t{slot.iterations});
    entry.Add("key-offset", slot.key_material_offset);
    if (slot.active) entry.Add("stripes", uint64_t{slot.stripes});
    slots.Append(std::move(entry));
  }
  json.Add("slots", std::move(slots))
      .Add("payload-offset", luks.payload_offset)
      .Add("master-key-iters", uint64_t{luks.digest_iterations});
  return json;
}

Json ToJson(const Facts& facts) {
  Json json = Json::Object();
  const qcow2::Header& header = facts.header;
  if (!header.backing_format.empty()) json.Add("backing-filename-format", header.backing_format);
  if (!facts.snapshots.empty()) {
    Json list = Json::Array();
    for (const qcow2::Snapshot& snapshot : facts.snapshots) {
      Json entry = Json::Object();
      if (snapshot.instructions != ~uint64_t{0}) entry.Add("icount", snapshot.instructions);
      entry.Add("vm-clock-nsec", snapshot.guest_clock_ns % 1000000000)
          .Add("name", snapshot.name)
          .Add("date-sec", uint64_t{snapshot.date_seconds})
          .Add("date-nsec", uint64_t{snapshot.date_nanoseconds})
          .Add("vm-clock-sec", snapshot.guest_clock_ns / 1000000000)
          .Add("id", snapshot.id)
          .Add("vm-state-size", snapshot.vm_state_bytes);
      list.Append(std::move(entry));
    }
    json.Add("snapshots", std::move(list));
  }
  json.Add("virtual-size", facts.virtual_bytes);
  json.Add("filename", facts.path);
  if (facts.format == ImageFormat::kQcow2) json.Add("cluster-size", header.layout.cluster_bytes());
  json.Add("format", ImageFormatName(facts.format));
  json.Add("actual-size", facts.actual_bytes);
  if (facts.format == ImageFormat::kQcow2) {
    Json data = Json::Object();
    data.Add("compat", Compat(header)).Add("compression-type", CompressionName(header));
    if (header.layout.version >= 3) {
      data.Add("lazy-refcounts", Has(header.compatible, qcow2::kCompatibleLazyRefcounts));
    }
    if (!facts.bitmaps.empty()) data.Add("bitmaps", BitmapsToJson(facts.bitmaps));
    data.Add("refcount-bits", uint64_t{header.layout.refcount_bits()});
    // The order is QEMU's.
    if (header.data_file.has_value()) data.Add("data-file", *header.data_file);
    if (facts.luks.has_value()) {
      data.Add("encrypt", LuksToJson(*facts.luks));
    } else if (header.crypt_method == qcow2::kCryptLegacyAes) {
      data.Add("encrypt", Json::Object().Add("format", "aes"));
    }
    if (header.data_file.has_value()) {
      data.Add("data-file-raw", Has(header.autoclear, qcow2::kAutoclearRawDataFile));
    }
    if (header.layout.version >= 3) {
      data.Add("corrupt", header.corrupt());
      data.Add("extended-l2", Has(header.incompatible, qcow2::kIncompatibleExtendedL2));
    }
    json.Add("format-specific", Json::Object().Add("type", "qcow2").Add("data", std::move(data)));
  }
  const std::optional<std::string> full = FullBackingName(facts);
  if (full.has_value()) json.Add("full-backing-filename", *full);
  if (header.crypt_method != 0) json.Add("encrypted", true);
  if (full.has_value()) json.Add("backing-filename", *header.backing_file);
  json.Add("dirty-flag", header.dirty());
  return json;
}

void PrintLuks(const Tool& tool, const crypto::LuksHeader& luks) {
  tool.Print("    encrypt:\n        ivgen alg: %s\n        hash alg: %s\n        cipher alg: %s\n",
             crypto::IvGeneratorName(luks.cipher.iv), crypto::HashName(luks.hash),
             crypto::CipherName(luks.cipher));
  tool.Print("        uuid: %s\n", Printable(luks.uuid));
  if (luks.cipher.iv_hash.has_value()) {
    tool.Print("        ivgen hash alg: %s\n", crypto::HashName(*luks.cipher.iv_hash));
  }
  tool.Print("        format: luks\n        cipher mode: %s\n        slots:\n",
             crypto::CipherModeName(luks.cipher.mode));
  for (size_t i = 0; i < luks.slots.size(); ++i) {
    const crypto::LuksSlot& slot = luks.slots[i];
    tool.Print("            [%d]:\n                active: %s\n", i,
               slot.active ? "true" : "false");
    if (slot.active) tool.Print("                iters: %d\n", slot.iterations);
    tool.Print("                key offset: %d\n", slot.key_material_offset);
    if (slot.active) tool.Print("                stripes: %d\n", slot.stripes);
  }
  tool.Print("        payload offset: %d\n        master key iters: %d\n", luks.payload_offset,
             luks.digest_iterations);
}

void PrintHuman(const Tool& tool, const Facts& facts) {
  const qcow2::Header& header = facts.header;
  tool.Print("image: %s\nfile format: %s\nvirtual size: %s (%d bytes)\ndisk size: %s\n", facts.path,
             ImageFormatName(facts.format), FormatSize(facts.virtual_bytes), facts.virtual_bytes,
             FormatSize(facts.actual_bytes));
  if (header.crypt_method != 0) tool.Print("encrypted: yes\n");
  if (facts.format == ImageFormat::kRaw) return;
  tool.Print("cluster_size: %d\n", header.layout.cluster_bytes());
  if (header.dirty()) tool.Print("cleanly shut down: no\n");
  if (const std::optional<std::string> full = FullBackingName(facts)) {
    tool.Print("backing file: %s", Printable(*header.backing_file));
    if (*full != *header.backing_file) tool.Print(" (actual path: %s)", Printable(*full));
    tool.Print("\n");
    if (!header.backing_format.empty()) {
      tool.Print("backing file format: %s\n", Printable(header.backing_format));
    }
  }
  tool.Print("%s", SnapshotList(facts.snapshots));
  const auto yes = [](bool value) { return value ? "true" : "false"; };
  tool.Print("Format specific information:\n    compat: %s\n    compression type: %s\n",
             Compat(header), CompressionName(header));
  if (header.layout.version >= 3) {
    tool.Print("    lazy refcounts: %s\n",
               yes(Has(header.compatible, qcow2::kCompatibleLazyRefcounts)));
  }
  if (!facts.bitmaps.empty()) tool.Print("    bitmaps:\n");
  for (size_t i = 0; i < facts.bitmaps.size(); ++i) {
    const qcow2::BitmapRecord& bitmap = facts.bitmaps[i];
    tool.Print("        [%d]:\n            flags:\n", i);
    const std::vector<std::string> flags = FlagsOf(bitmap);
    for (size_t j = 0; j < flags.size(); ++j) {
      tool.Print("                [%d]: %s\n", j, flags[j]);
    }
    tool.Print("            name: %s\n            granularity: %d\n", Printable(bitmap.name),
               uint64_t{1} << bitmap.granularity_bits);
  }
  tool.Print("    refcount bits: %d\n", header.layout.refcount_bits());
  if (header.data_file.has_value()) {
    tool.Print("    data file: %s\n", Printable(*header.data_file));
  }
  if (facts.luks.has_value()) {
    PrintLuks(tool, *facts.luks);
  } else if (header.crypt_method == qcow2::kCryptLegacyAes) {
    tool.Print("    encrypt:\n        format: aes\n");
  }
  if (header.data_file.has_value()) {
    tool.Print("    data file raw: %s\n", yes(Has(header.autoclear, qcow2::kAutoclearRawDataFile)));
  }
  if (header.layout.version >= 3) {
    tool.Print("    corrupt: %s\n", yes(header.corrupt()));
    tool.Print("    extended l2: %s\n",
               yes(Has(header.incompatible, qcow2::kIncompatibleExtendedL2)));
  }
}

}  // namespace

int Info(const Tool& tool, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> parsed = ParseArguments(args, {{'f', nullptr, true},
                                                                 {0, "output", true},
                                                                 {0, "backing-chain", false},
                                                                 {0, "image-opts", false},
                                                                 {'U', "force-share", false}});
  if (!parsed.ok()) return tool.FailUsage("%s", std::string(parsed.status().message()));
  const std::string output = parsed->Value("output").value_or("human");
  if (output != "human" && output != "json") {
    return tool.Fail("--output must be used with human or json as argument.");
  }
  if (parsed->operands.size() != 1) return tool.FailUsage("Expecting one image file name");
  SourceOptions options = {.name = parsed->operands[0],
                           .format = parsed->Value("f"),
                           .image_opts = parsed->Has("image-opts"),
                           .share = parsed->Has("U")};
  if (options.image_opts && options.format.has_value()) {
    return tool.Fail("--image-opts and --format are mutually exclusive");
  }
  const bool whole_chain = parsed->Has("backing-chain");
  std::vector<Facts> chain;
  std::set<FileIdentity> seen;
  while (true) {
    absl::StatusOr<Facts> facts = tool.loop.RunTask(Gather(tool.loop, tool.opener, options));
    if (!facts.ok()) return tool.Fail("%s", std::string(facts.status().message()));
    if (!seen.insert(facts->identity).second) {
      return tool.Fail("Backing file '%s' creates an infinite loop.", options.name);
    }
    chain.push_back(*std::move(facts));
    const qcow2::Header& header = chain.back().header;
    if (!whole_chain || !header.backing_file.has_value()) break;
    const absl::StatusOr<std::string> path =
        BackingFilePath(chain.back().path, *header.backing_file);
    if (!path.ok()) return tool.Fail("%s", std::string(path.status().message()));
    options.name = *path;
    options.image_opts = false;
    options.format.reset();
    if (!header.backing_format.empty()) options.format = header.backing_format;
  }
  if (output == "json") {
    Json list = Json::Array();
    for (const Facts& facts : chain) list.Append(ToJson(facts));
    tool.Print("%s\n", (whole_chain ? list : ToJson(chain.front())).ToString());
    return 0;
  }
  for (size_t i = 0; i < chain.size(); ++i) {
    if (i > 0) tool.Print("\n");
    PrintHuman(tool, chain[i]);
  }
  return 0;
}

}  // namespace vireo::img
