"""Runs every phase of ./test and counts single test cases. What only --all runs comes last.

Each gtest case counts once for each configuration it ran in; a lab case, the format check and the
dependency check count as one each. Logs of everything are left in out/test/.
"""

import argparse
import concurrent.futures
import datetime
import fnmatch
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import xml.etree.ElementTree

TOP = pathlib.Path(__file__).resolve().parent.parent
LOGS = TOP / "out" / "test"
PHASES = ["format", "rules", "build", "unit", "lab", "asan", "tsan", "long"]

# What ./test leaves for --all. Each C++ test runs at least once without it: under ASan, where it says most, or, if that
# takes minutes, as released. The rest of the model says something each way; a pool of frames is none under sanitizers.
NOT_UNDER_ASAN = ("//tests/golden/... + //storage/img:convert_test + //tests/model:fault_test"
                  " + //tests/model:power_cut_test")
AS_RELEASED = f"{NOT_UNDER_ASAN} + //tests/model/... + //base/async:frame_pool_test"
# Whatever could meet a second thread has one of these; gRPC and protobuf are not instrumented.
THREADS = ("//base:mutex + //base:log + //base/async:event_loop + //base/async:frame_pool"
           " + //base/async:stop_token + //base/memory:dirty_log + //devices:fair_shared_mutex")
UNINSTRUMENTED = "'//third_party/grpc:grpc++' + //third_party/protobuf"

SMOKE_SECONDS = 600
FULL_SECONDS = 7200
SKIPPED = 77
LAB_DIED = 125  # tests/lab/lab: the emulated host itself, not the command in it.


class Report:
    """Prints what happens; --all keeps a copy in docs/."""

    def __init__(self, keep):
        self._keep = open(keep, "w") if keep else None
        self.passed = self.failed = self.skipped = 0

    def say(self, line):
        print(line, flush=True)
        if self._keep:
            self._keep.write(line + "\n")
            self._keep.flush()

    def add(self, passed, failed, skipped):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped

    def phase(self, name, passed, failed, skipped, started):
        self.add(passed, failed, skipped)
        counts = f"{passed} passed, {failed} failed, {skipped} skipped"
        self.say(f"{name:<8} {counts:<40} {time.monotonic() - started:6.0f} s")

    def problem(self, name, log, lines=40, pattern=""):
        """Shows the end of `log`; with a pattern, the lines from the first that matches it."""
        self.say(f"FAILED   {name} ({log.relative_to(TOP)})")
        text = log.read_text(errors="replace").splitlines()
        first = next((n for n, line in enumerate(text) if re.search(pattern, line)), 0)
        for line in text[first:first + lines] if pattern else text[-lines:]:
            self.say("    | " + line)


running = set()  # Children, each with a process group of its own.


def end_all(number, _):
    """Whoever ends us ends them, too: a lab that stays would keep the next one waiting."""
    for child in list(running):
        try:
            os.killpg(child.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    os._exit(128 + number)


def run(command, log, seconds=None, environment=None):
    """Runs a command in a process group of its own, its output in `log`; -1 is: too long."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as out:
        child = subprocess.Popen(command, cwd=TOP, stdin=subprocess.DEVNULL, stdout=out,
                                 stderr=subprocess.STDOUT, start_new_session=True,
                                 env=environment)
        running.add(child)
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            out.write(f"\nstopped: not done after {seconds} s\n".encode())
            return -1
        except BaseException:
            os.killpg(child.pid, signal.SIGTERM)
            raise
        finally:
            running.discard(child)


def sources():
    for folder, folders, files in os.walk(TOP):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "bazel-")) and f != "out")
        for file in sorted(files):
            if file.endswith((".cc", ".h")):
                yield os.path.join(folder, file)


def run_format(report):
    started = time.monotonic()
    log = LOGS / "format.log"
    files = list(sources())
    command = ["clang-format", "--dry-run", "-Werror", "--style=file", *files]
    code = run(command, log) if files else 0
    if code != 0:
        report.problem("clang-format: run `clang-format -i` on these", log)
    report.phase("format", int(code == 0), int(code != 0), 0, started)


def run_rules(report):
    started = time.monotonic()
    log = LOGS / "rules.log"
    code = run(["python3", "-B", "tests/rules/visibility_test.py"], log)
    if code != 0:
        report.problem("tests/rules/visibility_test.py", log)
    report.phase("rules", int(code == 0), int(code != 0), 0, started)


def count_cases(test_xml):
    """How many passed in one test.xml, and the names of those that failed and were skipped."""
    passed = 0
    failed, skipped = [], []
    for case in xml.etree.ElementTree.parse(test_xml).getroot().iter("testcase"):
        name = f"{case.get('classname', '')}.{case.get('name')}".lstrip(".")
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif skip is not None:
            reason = (skip.text or skip.get("message") or "no reason given").strip()
            skipped.append(f"{name}: {reason.splitlines()[-1]}")
        elif case.get("status") == "notrun":
            skipped.append(f"{name}: disabled")
        else:
            passed += 1
    return passed, failed, skipped


def query(expression):
    result = subprocess.run(["scripts/bazel", "query", "--noshow_progress", expression], cwd=TOP,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"bazel query {expression}:\n{result.stderr}")
    return result.stdout.split()


def tagged(tag):
    return r'attr(tags, "[\[ ]%s[,\]]", //...)' % tag


def test_targets(kind="", long=False, without="", within=""):
    expression = f"tests(//...) except {tagged('manual')}"
    if kind:
        expression = f'kind("{kind} rule", {expression})'
    expression += f" {'intersect' if long else 'except'} {tagged('long')}"
    if without:
        expression += f" except ({without})"
    if within:
        expression += f" intersect {within}"
    return query(expression)


def run_bazel(report, name, arguments, targets):
    started = time.monotonic()
    if not targets:
        report.phase(name, 0, 0, 0, started)
        return
    log = LOGS / f"{name}.log"
    events = LOGS / f"{name}.events.json"
    patterns = LOGS / f"{name}.targets"
    LOGS.mkdir(parents=True, exist_ok=True)
    patterns.write_text("\n".join(targets) + "\n")
    events.unlink(missing_ok=True)
    code = run(["scripts/bazel", "test", "--keep_going", "--color=no", "--curses=no",
                "--noshow_progress", "--output_filter=^nothing$", "--test_output=summary",
                f"--build_event_json_file={events}", f"--target_pattern_file={patterns}",
                *arguments], log)

    # Which shards ran, where each left its test.xml and test.log, and how each target ended.
    shards, statuses = {}, {}
    if events.exists():
        for line in events.read_text().splitlines():
            event = json.loads(line)
            if "testResult" in event:
                identity = event["id"]["testResult"]
                files = {f["name"]: pathlib.Path(urllib.parse.unquote(
                    urllib.parse.urlparse(f.get("uri", "")).path))
                         for f in event["testResult"].get("testActionOutput", [])}
                shards.setdefault(identity["label"], {})[
                    (identity.get("run"), identity.get("shard"))] = files
            elif "testSummary" in event:
                statuses[event["id"]["testSummary"]["label"]] = (
                    event["testSummary"].get("overallStatus"))

    passed = failed = skipped = 0
    not_built = []
    for target in targets:
        failures = []
        logs = []
        for files in shards.get(target, {}).values():
            logs += [files["test.log"]] if "test.log" in files else []
            try:
                shard_passed, shard_failures, shard_skips = count_cases(files["test.xml"])
            except (KeyError, OSError, xml.etree.ElementTree.ParseError) as error:
                shard_passed, shard_failures, shard_skips = 0, [f"test.xml: {error!r}"], []
            passed += shard_passed
            failures += shard_failures
            skipped += len(shard_skips)
            for skip in shard_skips:
                report.say(f"skipped  {name}: {target} {skip}")
        status = statuses.get(target)
        if status is None or not logs:
            not_built.append(target)
            failures.append("did not build")
        elif status != "PASSED" and not failures:
            failures.append(status)  # All its cases passed, and then it crashed or leaked.
        for failure in failures:
            report.say(f"FAILED   {name}: {target} {failure}")
        failed += len(failures)
        for number, source in enumerate(logs if failures else []):
            copy = LOGS / name / f"{re.sub('[^A-Za-z0-9]', '_', target[2:])}.{number}.log"
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, copy)
            report.problem(target, copy, 60, r": Failure|ERROR: |WARNING: |runtime error:")
    if not_built or (code != 0 and not failed):
        failed += int(not failed)
        report.problem(f"{name}: bazel ended with {code}", log, 60, "^ERROR|error:")
    report.phase(name, passed, failed, skipped, started)


def run_build(report):
    """The release programs, which the lab's cases run."""
    started = time.monotonic()
    log = LOGS / "build.log"
    code = run(["./build"], log)
    if code != 0:
        report.problem("./build", log)
    report.phase("build", 0, int(code != 0), 0, started)
    return code == 0


def run_case(report, case, seconds):
    log = LOGS / "lab" / f"{case.name}.log"
    started = time.monotonic()
    code = run([str(case)], log, seconds)
    if code == LAB_DIED:  # That says nothing of us. Anything else, a machine that hangs too, may be ours.
        first = log.rename(log.with_suffix(".first.log"))
        report.say(f"again    {case.name}: the emulated host died ({first.relative_to(TOP)})")
        code = run([str(case)], log, seconds)
    return case, code, log, time.monotonic() - started


def run_lab(report, name, ending, pattern):
    started = time.monotonic()
    folder = TOP / "tests" / "lab" / "cases"
    cases = sorted(c for c in folder.glob(f"*{ending}") if os.access(c, os.X_OK)
                   and fnmatch.fnmatch(c.name, pattern)) if folder.is_dir() else []
    passed = failed = skipped = 0
    # One at a time: a lab is an emulated machine that keeps two cores busy.
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        limit = FULL_SECONDS if ending == ".full" else SMOKE_SECONDS
        for case, code, log, seconds in pool.map(lambda c: run_case(report, c, limit), cases):
            if code == 0:
                passed += 1
                report.say(f"passed   {case.name:<40} {seconds:6.0f} s")
            elif code == SKIPPED:
                skipped += 1
                lines = log.read_text(errors="replace").strip().splitlines()
                report.say(f"skipped  {case.name:<40} {lines[-1] if lines else 'no reason given'}")
            else:
                failed += 1
                report.problem(f"{case.name}: exit status {code}", log)
    report.phase(name, passed, failed, skipped, started)


def describe_machine():
    processor = "unknown processor"
    flags = ""
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
        if line.startswith("flags"):
            flags = line
    memory = int(open("/proc/meminfo").readline().split()[1]) // 1048576
    kvm = "no /dev/kvm"
    if os.path.exists("/dev/kvm"):
        hardware = {"svm", "vmx"} & set(flags.split())
        kvm = f"hardware KVM ({hardware.pop()})" if hardware else "/dev/kvm without svm or vmx"
    return (f"{processor}, {os.cpu_count()} processors, {memory} GiB, "
            f"Linux {platform.release()}, {kvm}")


def describe_commit():
    git = ["git", "-c", f"safe.directory={TOP}"]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], cwd=TOP, check=True, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], cwd=TOP, check=True, text=True,
                                 stdout=subprocess.PIPE).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a git tree"
    return commit + (" with local changes" if changed else "")


def run_phases(report, phases, arguments):
    if "format" in phases:
        run_format(report)
    if "rules" in phases:
        run_rules(report)
    built = run_build(report) if {"build", "lab", "long"} & set(phases) else False
    if "unit" in phases:  # As released: most of it has just been compiled for the programs.
        tests = test_targets()
        if not arguments.all:
            under_asan = test_targets("cc_test", without=AS_RELEASED)
            tests = sorted(set(tests) - set(under_asan))
        run_bazel(report, "unit", ["--config=opt"], tests)
    if "lab" in phases and built:
        run_lab(report, "lab", ".smoke", arguments.case)
    if "asan" in phases:
        without = "" if arguments.all else NOT_UNDER_ASAN
        run_bazel(report, "asan", ["--config=asan"], test_targets("cc_test", without=without))
    if "tsan" in phases:
        # With one thread there is no race: ./test takes the tests that are said to start another.
        within = f"rdeps(//..., {THREADS})" if arguments.all else tagged("threads")
        without = f"rdeps(//..., {UNINSTRUMENTED})"
        run_bazel(report, "tsan", ["--config=tsan"],
                  test_targets("cc_test", without=without, within=within))
    if "long" in phases and arguments.all:
        # For the released code alone: under sanitizers the short forms of these tests run.
        if arguments.case == "*":
            run_bazel(report, "long", ["--config=opt"], test_targets(long=True))
        if built:
            run_lab(report, "long lab", ".full", arguments.case)


def main():
    parser = argparse.ArgumentParser(prog="./test")
    parser.add_argument("--all", action="store_true", help="also long tests and every lab case")
    parser.add_argument("--only", metavar="PHASES", help=f"of {','.join(PHASES)}; default: each")
    parser.add_argument("--case", metavar="PATTERN", default="*", help="lab cases by file name")
    arguments = parser.parse_args()
    phases = arguments.only.split(",") if arguments.only else PHASES
    for phase in phases:
        if phase not in PHASES:
            parser.error(f"no phase '{phase}'; there are {', '.join(PHASES)}")
    whole = arguments.all and not arguments.only and arguments.case == "*"

    signal.signal(signal.SIGTERM, end_all)
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    commit = describe_commit()
    report = Report(TOP / "docs" / "test-log.txt" if whole else None)
    started = time.monotonic()
    report.say(f"./test{' --all' if arguments.all else ''} of {commit}")
    report.say(f"on {describe_machine()}, "
               f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC")

    try:
        run_phases(report, phases, arguments)
    except RuntimeError as error:
        report.say(f"FAILED   {error}")
        report.add(0, 1, 0)

    report.say(f"{(time.monotonic() - started) / 60:.1f} minutes; logs in out/test/")
    report.say(f"{report.passed} passed, {report.failed} failed, {report.skipped} skipped")
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
