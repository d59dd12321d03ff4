#include "storage/img/snapshot_list.h"

#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "storage/img/size.h"

namespace vireo::img {
namespace {

constexpr char kColumns[] = "%-10s%-17s%8s%20s%13s%11s\n";

std::string Line(const qcow2::Snapshot& snapshot) {
  const std::time_t seconds = snapshot.date_seconds;
  std::tm local = {};
  ::localtime_r(&seconds, &local);
  char date[32] = "";
  std::strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &local);
  const uint64_t clock_seconds = snapshot.guest_clock_ns / 1000000000;
  const std::string clock =
      absl::StrFormat("%02d:%02d:%02d.%03d", clock_seconds / 3600, clock_seconds / 60 % 60,
                      clock_seconds % 60, snapshot.guest_clock_ns / 1000000 % 1000);
  const std::string instructions =
      snapshot.instructions == ~uint64_t{0} ? "" : absl::StrCat(snapshot.instructions);
  return absl::StrFormat(kColumns, Printable(snapshot.id), Printable(snapshot.name),
                         FormatSize(snapshot.vm_state_bytes), date, clock, instructions);
}

}  // namespace

std::string Printable(const std::string& text) {
  std::string shown;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&shown, "\\x%02x", byte);
    } else {
      shown += c;
    }
  }
  return shown;
}

std::string SnapshotList(const std::vector<qcow2::Snapshot>& snapshots) {
  if (snapshots.empty()) return "";
  std::string list = "Snapshot list:\n";
  absl::StrAppendFormat(&list, kColumns, "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
  for (const qcow2::Snapshot& snapshot : snapshots) list += Line(snapshot);
  return list;
}

}  // namespace vireo::img
