#include "storage/blkdebug.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace vireo {
namespace {

absl::Status Invalid(const std::string& text) { return absl::InvalidArgumentError(text); }

struct KindName {
  const char* name;
  Blkdebug::Kind kind;
};

constexpr std::array<KindName, 6> kKinds = {{{"read", Blkdebug::kRead},
                                             {"write", Blkdebug::kWrite},
                                             {"write-zeroes", Blkdebug::kWriteZeroes},
                                             {"discard", Blkdebug::kDiscard},
                                             {"flush", Blkdebug::kFlush},
                                             {"block-status", Blkdebug::kBlockStatus}}};

absl::Status InvalidValue(const std::string& value) {
  return Invalid(absl::StrCat("invalid parameter value: ", value));
}

// The part of a rule that both kinds of section have.
absl::Status ReadCommon(DriverOptions& options, const char* section, Blkdebug::Rule* rule) {
  const std::optional<std::string> event = options.Take("event");
  if (!event.has_value()) {
    return Invalid(absl::StrFormat("Missing event name for rule in section %s", section));
  }
  const std::optional<DebugEvent> known = DebugEventFromName(*event);
  if (!known.has_value()) return InvalidValue(*event);
  rule->event = *known;
  ASSIGN_OR_RETURN(const std::optional<int64_t> state, options.TakeNumber("state"));
  rule->state = state.value_or(0);
  return absl::OkStatus();
}

absl::StatusOr<Blkdebug::Rule> ReadInjectError(DriverOptions options) {
  Blkdebug::Rule rule = {.action = Blkdebug::Rule::Action::kInjectError};
  // In the order in which QEMU finds fault with them: types first.
  ASSIGN_OR_RETURN(const std::optional<int64_t> error, options.TakeNumber("errno"));
  ASSIGN_OR_RETURN(const std::optional<int64_t> sector, options.TakeNumber("sector"));
  ASSIGN_OR_RETURN(rule.once, options.TakeSwitch("once", false));
  // The error comes when the request has been started anyhow: there is no earlier.
  RETURN_IF_ERROR(options.TakeSwitch("immediately", false).status());
  const std::optional<std::string> kind = options.Take("iotype");
  RETURN_IF_ERROR(ReadCommon(options, "inject-error", &rule));
  if (!options.empty()) {
    return Invalid(absl::StrFormat("[inject-error] section doesn't support the option '%s'",
                                   options.FirstKey()));
  }
  const int64_t number = error.value_or(rule.error);
  if (number < 0 || number > 4095) return Invalid("Parameter 'errno' is no number of an error");
  rule.error = static_cast<int>(number);
  if (sector.has_value() && *sector != -1) {
    if (*sector < 0 || *sector > std::numeric_limits<int64_t>::max() / 512) {
      return Invalid("Parameter 'sector' is out of range");
    }
    rule.offset = static_cast<uint64_t>(*sector) * 512;
  }
  if (kind.has_value()) {
    rule.kinds = 0;
    for (const KindName& known : kKinds) {
      if (*kind == known.name) rule.kinds = known.kind;
    }
    if (rule.kinds == 0) return InvalidValue(*kind);
  }
  return rule;
}

absl::StatusOr<Blkdebug::Rule> ReadSetState(DriverOptions options) {
  Blkdebug::Rule rule = {.action = Blkdebug::Rule::Action::kSetState};
  ASSIGN_OR_RETURN(const std::optional<int64_t> new_state, options.TakeNumber("new_state"));
  rule.new_state = new_state.value_or(0);
  RETURN_IF_ERROR(ReadCommon(options, "set-state", &rule));
  if (!options.empty()) {
    return Invalid(
        absl::StrFormat("[set-state] section doesn't support the option '%s'", options.FirstKey()));
  }
  return rule;
}

// One section, or a list of them.
std::vector<DriverOptions> Sections(DriverOptions options) {
  std::vector<DriverOptions> sections;
  for (int i = 0; options.HasBelow(absl::StrCat(i)); ++i) {
    sections.push_back(options.TakeBelow(absl::StrCat(i)));
  }
  if (!options.empty()) sections.push_back(std::move(options));
  return sections;
}

}  // namespace

absl::StatusOr<DriverOptions> Blkdebug::ReadConfig(absl::string_view text) {
  DriverOptions options;
  int injections = 0;
  int changes = 0;
  std::string section;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    if (line[0] == '[') {
      const std::string group(line.substr(1, line.find(']') - 1));
      if (line.back() != ']') return Invalid("parse error");
      if (group == "inject-error") {
        section = absl::StrCat("inject-error.", injections++);
      } else if (group == "set-state") {
        section = absl::StrCat("set-state.", changes++);
      } else {
        return Invalid(absl::StrFormat("There is no option group '%s'", group));
      }
      continue;
    }
    if (section.empty()) return Invalid("no group defined");
    const size_t equals = line.find('=');
    if (equals == absl::string_view::npos) return Invalid("parse error");
    const absl::string_view key = absl::StripAsciiWhitespace(line.substr(0, equals));
    const absl::string_view value = absl::StripAsciiWhitespace(line.substr(equals + 1));
    if (key.empty() || value.size() < 2 || value.front() != '"' || value.back() != '"') {
      return Invalid("parse error");
    }
    options.Set(absl::StrCat(section, ".", key), std::string(value.substr(1, value.size() - 2)));
  }
  return options;
}

absl::StatusOr<std::vector<Blkdebug::Rule>> Blkdebug::Rules(DriverOptions& options) {
  std::vector<Rule> rules;
  for (DriverOptions& section : Sections(options.TakeBelow("inject-error"))) {
    ASSIGN_OR_RETURN(Rule rule, ReadInjectError(std::move(section)));
    rules.push_back(rule);
  }
  for (DriverOptions& section : Sections(options.TakeBelow("set-state"))) {
    ASSIGN_OR_RETURN(Rule rule, ReadSetState(std::move(section)));
    rules.push_back(rule);
  }
  return rules;
}

Blkdebug::Blkdebug(std::unique_ptr<File> file, std::vector<Rule> rules, Say say)
    : FileDecorator(std::move(file)), rules_(rules.begin(), rules.end()), say_(std::move(say)) {
  Activate(DebugEvent::kNone);
}

void Blkdebug::Activate(DebugEvent event) {
  int64_t new_state = state_;
  bool injects = false;
  bool changes = false;
  for (const Rule& rule : rules_) {
    if (rule.event != event || (rule.state != 0 && rule.state != state_)) continue;
    if (rule.action == Rule::Action::kSetState) {
      // The first of several rules has the last word, as in QEMU.
      if (!changes) new_state = rule.new_state;
      changes = true;
      continue;
    }
    // What this event injects takes the place of what an earlier one did.
    if (!injects) active_.clear();
    injects = true;
    active_.push_back(&rule);
  }
  state_ = new_state;
}

Task<void> Blkdebug::Reach(DebugEvent event) {
  Activate(event);
  while (true) {
    const auto has_event = [event](const Breakpoint& each) { return each.event == event; };
    const auto at = std::find_if(breakpoints_.begin(), breakpoints_.end(), has_event);
    if (at == breakpoints_.end()) break;
    suspended_.emplace_front();
    const auto self = suspended_.begin();
    self->tag = std::move(at->tag);
    breakpoints_.erase(at);
    if (say_) say_(absl::StrFormat("blkdebug: Suspended request '%s'", self->tag));
    co_await self->resume.Wait();
    suspended_.erase(self);
  }
}

absl::Status Blkdebug::Injected(Kind kind, uint64_t offset, uint64_t length) {
  for (const Rule* const rule : active_) {
    if ((rule->kinds & kind) == 0) continue;
    if (rule->offset.has_value() && (*rule->offset < offset || *rule->offset - offset >= length)) {
      continue;
    }
    const int error = rule->error;
    if (error != 0 && rule->once) {
      std::erase(active_, rule);
      rules_.remove_if([rule](const Rule& each) { return &each == rule; });
    }
    if (error == 0) return absl::OkStatus();
    return ErrnoStatus(error, absl::StrFormat("%s: injected by blkdebug", name()));
  }
  return absl::OkStatus();
}

Task<absl::Status> Blkdebug::Read(uint64_t offset, IoVecs dst) {
  CO_RETURN_IF_ERROR(Injected(kRead, offset, TotalSize(dst)));
  const absl::Status status = co_await file().Read(offset, dst);
  co_return status;
}

Task<absl::Status> Blkdebug::Write(uint64_t offset, IoVecs src) {
  co_await Reach(DebugEvent::kPwritev);
  absl::Status status = Injected(kWrite, offset, TotalSize(src));
  if (status.ok()) status = co_await file().Write(offset, src);
  co_await Reach(DebugEvent::kPwritevDone);
  co_return status;
}

Task<absl::Status> Blkdebug::Sync() {
  CO_RETURN_IF_ERROR(Injected(kFlush, 0, 0));
  const absl::Status status = co_await file().Sync();
  co_return status;
}

Task<absl::Status> Blkdebug::WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) {
  co_await Reach(DebugEvent::kPwritevZero);
  absl::Status status = Injected(kWriteZeroes, offset, length);
  if (status.ok()) status = co_await file().WriteZeroes(offset, length, may_unmap);
  co_await Reach(DebugEvent::kPwritevDone);
  co_return status;
}

Task<absl::Status> Blkdebug::Discard(uint64_t offset, uint64_t length) {
  CO_RETURN_IF_ERROR(Injected(kDiscard, offset, length));
  const absl::Status status = co_await file().Discard(offset, length);
  co_return status;
}

Task<absl::StatusOr<FileExtent>> Blkdebug::Extent(uint64_t offset) {
  CO_RETURN_IF_ERROR(Injected(kBlockStatus, offset, 1));
  const absl::StatusOr<FileExtent> extent = co_await file().Extent(offset);
  co_return extent;
}

Task<absl::Status> Blkdebug::Close() {
  ResumeAll();
  const absl::Status status = co_await file().Close();
  co_return status;
}

void Blkdebug::Break(DebugEvent event, std::string tag) {
  breakpoints_.push_back({.event = event, .tag = std::move(tag)});
}

bool Blkdebug::ResumeTagged(const std::string& tag, bool all) {
  bool any = false;
  for (Suspended& each : suspended_) {
    if (each.resumed || each.tag != tag) continue;
    each.resumed = true;
    if (say_) say_(absl::StrFormat("blkdebug: Resuming request '%s'", tag));
    each.resume.Set();
    any = true;
    if (!all) break;
  }
  return any;
}

bool Blkdebug::Resume(const std::string& tag) { return ResumeTagged(tag, false); }

bool Blkdebug::RemoveBreak(const std::string& tag) {
  const size_t removed =
      std::erase_if(breakpoints_, [&tag](const Breakpoint& each) { return each.tag == tag; });
  const bool resumed = ResumeTagged(tag, true);
  return removed != 0 || resumed;
}

void Blkdebug::ResumeAll() {
  breakpoints_.clear();
  for (Suspended& each : suspended_) each.resume.Set();
}

bool Blkdebug::IsSuspended(const std::string& tag) const {
  for (const Suspended& each : suspended_) {
    if (!each.resumed && each.tag == tag) return true;
  }
  return false;
}

}  // namespace vireo
