#include "storage/qcow2/snapshots.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/qcow2/format.h"

namespace vireo::qcow2 {
namespace {

// Reads of the table go through a window, so that one record after the other costs few reads.
constexpr uint64_t kWindowBytes = 64 << 10;

uint64_t Load64(std::span<const uint8_t> bytes, uint64_t offset) {
  Be64 value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value.value();
}

// `extra` is as much of the extra data as is wanted, `strings` is id and name.
Snapshot Decode(const RawSnapshot& raw, std::span<const uint8_t> extra,
                std::span<const uint8_t> strings, uint64_t image_bytes) {
  Snapshot snapshot = {.l1_offset = raw.l1_table_offset,
                       .l1_entries = raw.l1_size,
                       .date_seconds = raw.date_seconds,
                       .date_nanoseconds = raw.date_nanoseconds,
                       .guest_clock_ns = raw.guest_clock_ns,
                       .vm_state_bytes = raw.vm_state_bytes,
                       .disk_bytes = image_bytes,
                       .extra_data_bytes = raw.extra_data_bytes};
  if (extra.size() >= 8) snapshot.vm_state_bytes = Load64(extra, 0);
  if (extra.size() >= 16) snapshot.disk_bytes = Load64(extra, 8);
  if (extra.size() >= 24) snapshot.instructions = Load64(extra, 16);
  if (extra.size() > kSnapshotExtraBytes) {
    snapshot.unknown_extra.assign(extra.begin() + kSnapshotExtraBytes, extra.end());
  }
  const char* const text = reinterpret_cast<const char*>(strings.data());
  snapshot.id.assign(text, raw.id_length);
  snapshot.name.assign(text + raw.id_length, raw.name_length);
  return snapshot;
}

absl::Status PastTheEnd(const File& file, uint32_t record, uint64_t offset) {
  return absl::DataLossError(
      absl::StrFormat("%s: record %d of the snapshot table, at offset %d, is past the end",
                      file.name(), record, offset));
}

}  // namespace

const Snapshot* FindSnapshot(const std::vector<Snapshot>& snapshots, const SnapshotChoice& choice) {
  if (!choice.id.has_value() && !choice.name.has_value()) {
    return FindSnapshot(snapshots, choice.id_or_name);
  }
  for (const Snapshot& snapshot : snapshots) {
    if (choice.id.has_value() && snapshot.id != *choice.id) continue;
    if (choice.name.has_value() && snapshot.name != *choice.name) continue;
    return &snapshot;
  }
  return nullptr;
}

Task<absl::StatusOr<Header>> HeaderOfSnapshot(File& file, Header header, SnapshotChoice choice) {
  CO_ASSIGN_OR_RETURN(const SnapshotTable table, co_await ReadSnapshotTable(file, header));
  const Snapshot* const snapshot = FindSnapshot(table.snapshots, choice);
  if (snapshot == nullptr) co_return absl::NotFoundError("Can't find snapshot");
  CO_RETURN_IF_ERROR(CheckSnapshotL1(file, header.layout, *snapshot));
  const uint64_t size = AlignDown<uint64_t>(snapshot->disk_bytes, 512);
  if (size > INT64_MAX || snapshot->l1_entries < header.layout.l1_entries_for(size)) {
    co_return absl::DataLossError(
        absl::StrFormat("%s: the L1 table of the snapshot does not cover its disk", file.name()));
  }
  header.l1_offset = snapshot->l1_offset;
  header.l1_entries = snapshot->l1_entries;
  header.size_bytes = size;
  // Its tables may be those of the snapshots, too: they are looked at as this disk's alone.
  header.snapshot_count = 0;
  header.snapshots_offset = 0;
  co_return header;
}

absl::Status CheckSnapshotL1(const File& file, const Layout& layout, const Snapshot& snapshot) {
  const uint64_t bytes = uint64_t{snapshot.l1_entries} * 8;
  if (bytes > kMaxL1Bytes) {
    return absl::DataLossError(absl::StrFormat("%s: the L1 table of snapshot %s has %d entries",
                                               file.name(), snapshot.id, snapshot.l1_entries));
  }
  if (layout.offset_in_cluster(snapshot.l1_offset) != 0 || snapshot.l1_offset >= kMaxHostOffset ||
      (bytes > 0 &&
       (snapshot.l1_offset < layout.cluster_bytes() || snapshot.l1_offset + bytes > file.size()))) {
    return absl::DataLossError(absl::StrFormat("%s: the L1 table of snapshot %s is at offset %d",
                                               file.name(), snapshot.id, snapshot.l1_offset));
  }
  return absl::OkStatus();
}

Task<absl::StatusOr<SnapshotTable>> ReadSnapshotTable(File& file, const Header& header) {
  SnapshotTable table;
  if (header.snapshot_count == 0) co_return table;
  std::vector<uint8_t> window(kWindowBytes);
  uint64_t at = header.snapshots_offset;
  uint32_t i = 0;
  while (i < header.snapshot_count) {
    // A record has at most 40 + 1024 + 2 * 65535 bytes; its fixed part and extra data come first.
    const iovec part = ToIoVec(std::span<uint8_t>(window));
    CO_RETURN_IF_ERROR(co_await file.Read(at, IoVecs(&part, 1)));
    const std::span<const uint8_t> bytes(window);
    uint64_t next = 0;
    // As many records as lie whole in the window.
    while (i < header.snapshot_count) {
      if (at + next >= file.size()) co_return PastTheEnd(file, i, at + next);
      RawSnapshot raw;
      if (next + sizeof(raw) > bytes.size()) break;
      std::memcpy(&raw, bytes.data() + next, sizeof(raw));
      if (raw.extra_data_bytes > kMaxSnapshotExtraBytes) {
        co_return absl::DataLossError(
            absl::StrFormat("%s: record %d of the snapshot table has %d bytes of extra data",
                            file.name(), i, raw.extra_data_bytes.value()));
      }
      const uint64_t extra = next + sizeof(raw);
      const uint64_t strings = extra + raw.extra_data_bytes;
      const uint64_t end = strings + raw.id_length + raw.name_length;
      if (end > bytes.size()) break;
      table.snapshots.push_back(Decode(raw, bytes.subspan(extra, raw.extra_data_bytes),
                                       bytes.subspan(strings, end - strings), header.size_bytes));
      next = AlignUp<uint64_t>(end, 8);
      ++i;
      if (next >= bytes.size()) break;
    }
    if (next == 0) {
      if (window.size() > kWindowBytes) {
        co_return absl::DataLossError(
            absl::StrFormat("%s: record %d of the snapshot table is too long", file.name(), i));
      }
      window.resize(4 * kWindowBytes);
    }
    at += next;
    if (at - header.snapshots_offset > kMaxSnapshotTableBytes) {
      co_return absl::DataLossError(absl::StrFormat("%s: the snapshot table has more than %d bytes",
                                                    file.name(), kMaxSnapshotTableBytes));
    }
  }
  table.bytes = at - header.snapshots_offset;
  co_return table;
}

Task<absl::StatusOr<SnapshotTable>> ReadDamagedSnapshotTable(File& file, const Header& header,
                                                             SnapshotTableDamage& damage) {
  SnapshotTable table;
  const uint32_t count = std::min(header.snapshot_count, kMaxSnapshots);
  damage = {.long_extra_data = {}, .too_many = header.snapshot_count - count};
  std::vector<uint8_t> extra;
  std::vector<uint8_t> strings;
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t at = header.snapshots_offset + table.bytes;
    if (at >= file.size() && i == 0) co_return PastTheEnd(file, i, at);
    if (at >= file.size()) {
      damage.past_end = count - i;
      break;
    }
    RawSnapshot raw;
    const iovec fixed = {.iov_base = &raw, .iov_len = sizeof(raw)};
    CO_RETURN_IF_ERROR(co_await file.Read(at, IoVecs(&fixed, 1)));
    const uint32_t extra_bytes = raw.extra_data_bytes;
    extra.resize(std::min(extra_bytes, kMaxSnapshotExtraBytes));
    strings.resize(size_t{raw.id_length} + raw.name_length);
    const uint64_t length = sizeof(raw) + uint64_t{extra_bytes} + strings.size();
    if (table.bytes + length > kMaxSnapshotTableBytes) {
      damage.too_long = count - i;
      break;
    }
    if (extra_bytes > kMaxSnapshotExtraBytes) {
      damage.long_extra_data.push_back({.record = i, .bytes = extra_bytes});
    }
    const iovec extra_part = ToIoVec(std::span(extra));
    CO_RETURN_IF_ERROR(co_await file.Read(at + sizeof(raw), IoVecs(&extra_part, 1)));
    const iovec strings_part = ToIoVec(std::span(strings));
    CO_RETURN_IF_ERROR(
        co_await file.Read(at + sizeof(raw) + extra_bytes, IoVecs(&strings_part, 1)));
    table.snapshots.push_back(Decode(raw, extra, strings, header.size_bytes));
    table.bytes += AlignUp<uint64_t>(length, 8);
  }
  co_return table;
}

absl::StatusOr<std::vector<uint8_t>> SerializeSnapshotTable(
    const std::vector<Snapshot>& snapshots) {
  if (snapshots.size() > kMaxSnapshots) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("an image has at most %d snapshots", kMaxSnapshots));
  }
  std::vector<uint8_t> out;
  const auto append = [&out](const void* data, size_t length) {
    const auto* const bytes = static_cast<const uint8_t*>(data);
    out.insert(out.end(), bytes, bytes + length);
  };
  for (const Snapshot& snapshot : snapshots) {
    if (snapshot.id.size() > UINT16_MAX || snapshot.name.size() > UINT16_MAX) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "a snapshot's name has %d bytes, more than %d", snapshot.name.size(), UINT16_MAX));
    }
    RawSnapshot raw = {};
    raw.l1_table_offset = snapshot.l1_offset;
    raw.l1_size = snapshot.l1_entries;
    raw.id_length = static_cast<uint16_t>(snapshot.id.size());
    raw.name_length = static_cast<uint16_t>(snapshot.name.size());
    raw.date_seconds = snapshot.date_seconds;
    raw.date_nanoseconds = snapshot.date_nanoseconds;
    raw.guest_clock_ns = snapshot.guest_clock_ns;
    raw.vm_state_bytes =
        snapshot.vm_state_bytes > UINT32_MAX ? 0 : static_cast<uint32_t>(snapshot.vm_state_bytes);
    raw.extra_data_bytes =
        static_cast<uint32_t>(kSnapshotExtraBytes + snapshot.unknown_extra.size());
    append(&raw, sizeof(raw));
    const Be64 extra[] = {snapshot.vm_state_bytes, snapshot.disk_bytes, snapshot.instructions};
    static_assert(sizeof(extra) == kSnapshotExtraBytes);
    append(extra, sizeof(extra));
    append(snapshot.unknown_extra.data(), snapshot.unknown_extra.size());
    append(snapshot.id.data(), snapshot.id.size());
    append(snapshot.name.data(), snapshot.name.size());
    out.resize(AlignUp<uint64_t>(out.size(), 8));
    if (out.size() > kMaxSnapshotTableBytes) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "the snapshot table would have more than %d bytes", kMaxSnapshotTableBytes));
    }
  }
  return out;
}

const Snapshot* FindSnapshot(const std::vector<Snapshot>& snapshots, const std::string& text) {
  const Snapshot* by_name = nullptr;
  for (const Snapshot& snapshot : snapshots) {
    if (snapshot.id == text) return &snapshot;
    if (snapshot.name == text && by_name == nullptr) by_name = &snapshot;
  }
  return by_name;
}

}  // namespace vireo::qcow2
