#include "cmd/ctl_tables.h"

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"

namespace vireo {
namespace {

using google::protobuf::util::TimeUtil;
using Row = std::vector<std::string>;

// Columns as wide as their widest cell; the last one ends where its text does.
std::string Table(const std::vector<Row>& rows, absl::string_view indent) {
  std::vector<size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line(indent);
    for (size_t i = 0; i < row.size(); ++i) {
      absl::StrAppendFormat(&line, "%-*s", static_cast<int>(widths[i]) + 2, row[i]);
    }
    absl::StrAppend(&text, absl::StripTrailingAsciiWhitespace(line), "\n");
  }
  return text;
}

std::string OrDash(const std::string& text) { return text.empty() ? "-" : text; }
std::string YesNo(bool yes) { return yes ? "yes" : "no"; }

// GUEST_POWER_OFF -> "guest power off"
std::string Words(absl::string_view enumerator) {
  return absl::StrReplaceAll(absl::AsciiStrToLower(enumerator), {{"_", " "}});
}

std::string CauseWords(v1::VmCause cause) {
  return cause == v1::VM_CAUSE_UNSPECIFIED ? "" : Words(v1::VmCause_Name(cause));
}

std::string Seconds(uint64_t ns) {
  return absl::StrFormat("%.2f s", static_cast<double>(ns) * 1e-9);
}

std::string LocalTime(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%E3S",
                          absl::FromUnixMillis(TimeUtil::TimestampToMilliseconds(time)),
                          absl::LocalTimeZone());
}

}  // namespace

std::string StateWord(v1::VmState state) { return Words(v1::VmState_Name(state)); }

std::string HumanBytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrFormat("%d B", bytes)
                   : absl::StrFormat("%.4g %s", value, kUnits[unit]);
}

std::string DescriptionTable(const v1::VmDescription& vm) {
  std::vector<Row> rows = {{"state", StateWord(vm.state())}};
  if (vm.last_cause() != v1::VM_CAUSE_UNSPECIFIED) {
    const std::string detail =
        vm.last_cause_detail().empty() ? "" : absl::StrCat(" (", vm.last_cause_detail(), ")");
    rows.push_back({"last cause", CauseWords(vm.last_cause()) + detail});
  }
  const v1::VmConfig& config = vm.config();
  if (vm.has_config()) {
    rows.push_back({"name", OrDash(config.name())});
    rows.push_back({"uuid", config.uuid()});
    rows.push_back({"machine", OrDash(vm.machine())});
    rows.push_back(
        {"cpus",
         absl::StrFormat("%d of at most %d, model %s", config.cpus().boot(), config.cpus().max(),
                         vm.cpu_model().empty() ? config.cpus().model() : vm.cpu_model())});
    rows.push_back(
        {"memory", absl::StrCat(HumanBytes(config.memory().size_bytes()), ", ",
                                Words(v1::Memory::Backing_Name(config.memory().backing())))});
    if (!config.boot().firmware().empty()) {
      rows.push_back({"firmware", config.boot().firmware()});
    } else {
      rows.push_back({"kernel", config.boot().kernel()});
    }
    if (!config.boot().initrd().empty()) rows.push_back({"initrd", config.boot().initrd()});
    if (!config.boot().cmdline().empty()) rows.push_back({"cmdline", config.boot().cmdline()});
    rows.push_back({"on crash", Words(v1::OnCrash_Name(config.on_crash()))});
  }
  rows.push_back({"process", absl::StrCat(vm.pid())});
  rows.push_back({"kvm", OrDash(vm.kvm_kind())});
  if (vm.has_started()) rows.push_back({"started", LocalTime(vm.started())});
  rows.push_back({"resets", absl::StrCat(vm.resets())});
  std::string text = Table(rows, "");

  if (vm.disks_size() > 0) {
    rows = {{"ID", "PCI ADDRESS", "SIZE", "FORMAT", "READ-ONLY", "PATH"}};
    for (const v1::DiskDescription& disk : vm.disks()) {
      rows.push_back({disk.device().id(), disk.device().pci_address(),
                      HumanBytes(disk.size_bytes()), disk.format(), YesNo(disk.read_only()),
                      disk.path()});
    }
    absl::StrAppend(&text, "\ndisks\n", Table(rows, "  "));
  }
  if (vm.cdroms_size() > 0) {
    rows = {{"ID", "MEDIUM"}};
    for (const v1::CdromDescription& cdrom : vm.cdroms()) {
      rows.push_back({cdrom.id(), OrDash(cdrom.path())});
    }
    absl::StrAppend(&text, "\nCD/DVD drives\n", Table(rows, "  "));
  }
  if (vm.nics_size() > 0) {
    rows = {{"ID", "PCI ADDRESS", "MAC", "MTU", "LINK", "TAP", "BRIDGE"}};
    for (const v1::NicDescription& nic : vm.nics()) {
      rows.push_back({nic.device().id(), nic.device().pci_address(), nic.mac(),
                      absl::StrCat(nic.mtu()), nic.link_up() ? "up" : "down", OrDash(nic.tap()),
                      OrDash(nic.bridge())});
    }
    absl::StrAppend(&text, "\nnetwork\n", Table(rows, "  "));
  }
  if (vm.devices_size() > 0) {
    rows = {{"ID", "KIND", "PCI ADDRESS", "DRIVER READY"}};
    for (const v1::Device& device : vm.devices()) {
      rows.push_back(
          {device.id(), device.kind(), device.pci_address(), YesNo(device.driver_ready())});
    }
    absl::StrAppend(&text, "\ndevices\n", Table(rows, "  "));
  }
  return text;
}

std::string StatsTable(const v1::VmStats& stats) {
  std::string text = Table(
      {{"uptime",
        absl::FormatDuration(absl::Milliseconds(TimeUtil::DurationToMilliseconds(stats.uptime())))},
       {"cpu time", Seconds(stats.process_cpu_time_ns())},
       {"resident", HumanBytes(stats.resident_bytes())},
       {"guest memory", HumanBytes(stats.guest_memory_bytes())}},
      "");
  std::vector<Row> rows;
  if (stats.vcpus_size() > 0) {
    rows = {{"VCPU", "CPU TIME", "EXITS"}};
    for (const v1::VcpuStats& vcpu : stats.vcpus()) {
      rows.push_back(
          {absl::StrCat(vcpu.index()), Seconds(vcpu.cpu_time_ns()), absl::StrCat(vcpu.exits())});
    }
    absl::StrAppend(&text, "\n", Table(rows, ""));
  }
  if (stats.disks_size() > 0) {
    rows = {{"DISK", "READS", "READ", "WRITES", "WRITTEN", "FLUSHES", "DISCARDS", "ERRORS",
             "THROTTLED"}};
    for (const v1::DiskStats& disk : stats.disks()) {
      rows.push_back({disk.id(), absl::StrCat(disk.read_ops()), HumanBytes(disk.read_bytes()),
                      absl::StrCat(disk.write_ops()), HumanBytes(disk.write_bytes()),
                      absl::StrCat(disk.flush_ops()), absl::StrCat(disk.discard_ops()),
                      absl::StrCat(disk.errors()), absl::StrCat(disk.throttled_ops())});
    }
    absl::StrAppend(&text, "\n", Table(rows, ""));
  }
  if (stats.nics_size() > 0) {
    rows = {{"NIC", "RX PACKETS", "RX", "RX DROPPED", "TX PACKETS", "TX", "TX DROPPED"}};
    for (const v1::NicStats& nic : stats.nics()) {
      rows.push_back({nic.id(), absl::StrCat(nic.rx_packets()), HumanBytes(nic.rx_bytes()),
                      absl::StrCat(nic.rx_dropped()), absl::StrCat(nic.tx_packets()),
                      HumanBytes(nic.tx_bytes()), absl::StrCat(nic.tx_dropped())});
    }
    absl::StrAppend(&text, "\n", Table(rows, ""));
  }
  return text;
}

std::string EventLine(const v1::Event& event) {
  std::string line =
      absl::StrFormat("%s  #%d  %s: %s", LocalTime(event.time()), event.sequence(),
                      Words(v1::Event::Kind_Name(event.kind())), StateWord(event.state()));
  if (event.cause() != v1::VM_CAUSE_UNSPECIFIED) {
    absl::StrAppend(&line, ", ", CauseWords(event.cause()));
  }
  if (!event.detail().empty()) absl::StrAppend(&line, " (", event.detail(), ")");
  return line + "\n";
}

std::string ToJson(const google::protobuf::Message& message, JsonForm form) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = form == JsonForm::kIndented;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (!status.ok()) return "{}\n";  // A time out of range, which no server of ours sends.
  if (json.empty() || json.back() != '\n') json += '\n';
  return json;
}

}  // namespace vireo
