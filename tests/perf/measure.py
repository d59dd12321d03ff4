"""What tests/perf/storage measures with: children and what they cost, ratios of pairs, rows of a table."""
import json
import os
import re
import statistics
import subprocess
import tempfile
import time

FAILED = subprocess.SubprocessError


class Sample:
    """One run of one program: `ops` operations in `seconds`."""

    def __init__(self, ops, seconds, cpu_seconds=0.0, user_seconds=0.0, rss_mb=0.0, p99_us=None):
        self.rate = ops / max(seconds, 1e-6)
        self.seconds = seconds
        self.cpu_us = cpu_seconds * 1e6 / max(ops, 1)
        self.user_us = user_seconds * 1e6 / max(ops, 1)
        self.rss_mb = rss_mb
        self.p99_us = p99_us


def run(command, stdin=None, cwd=None):
    """Output, wall seconds, rusage and peak memory in MB of a child; FAILED if it fails or takes a minute."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as source:
        if stdin is not None:
            source.write(stdin.encode())
            source.seek(0)
        begin = time.monotonic()
        child = subprocess.Popen(command, stdin=source, stdout=out, stderr=subprocess.STDOUT, cwd=cwd)
        peak_kb = 0
        pause = 0.0005
        while True:
            # ru_maxrss would be that of this interpreter, which the child was before it became the program.
            peak_kb = max(peak_kb, peak_memory_kb(child.pid))
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid != 0:
                break
            if time.monotonic() - begin > 60:
                child.kill()
            time.sleep(pause)
            pause = min(pause * 1.5, 0.01)
        seconds = time.monotonic() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode(errors="replace")
    if child.returncode != 0:
        raise FAILED(f"{' '.join(command[:3])}: exit status {child.returncode}: {text.strip()[-300:]}")
    return text, seconds, usage, peak_kb / 1024


def peak_memory_kb(pid):
    try:
        with open(f"/proc/{pid}/status") as status, open(f"/proc/{pid}/comm") as name:
            found = re.search(r"VmHWM:\s*([0-9]+)", status.read())
            return int(found.group(1)) if found and not name.read().startswith("python") else 0
    except OSError:
        return 0


def tool(command, ops=1, stdin=None, cwd=None):
    """A whole command, timed from outside."""
    _, seconds, usage, peak_mb = run(command, stdin, cwd)
    return Sample(ops, seconds, usage.ru_utime + usage.ru_stime, usage.ru_utime, peak_mb)


def bench(program, count, options, path):
    """`PROGRAM bench`, timed by itself."""
    text, _, usage, peak_mb = run([program, "bench", "-c", str(count)] + options + [path])
    seconds = float(re.search(r"Run completed in ([0-9.]+) seconds", text).group(1))
    p99 = re.search(r"99% ([0-9.]+)", text)
    return Sample(count, max(seconds, 0.0005), usage.ru_utime + usage.ru_stime, usage.ru_utime,
                  peak_mb, float(p99.group(1)) if p99 else None)


def fio(count, options, path):
    """fio on the bytes of a file, io_uring and O_DIRECT. CPU time is that of the job alone."""
    text, _, _, _ = run(["fio", "--name=job", f"--filename={path}", "--ioengine=io_uring", "--direct=1", "--thread",
                      f"--number_ios={count}", "--output-format=json", "--allow_file_create=0"] + options)
    job = json.loads(text[text.index("{"):])["jobs"][0]
    side = job["write"] if job["write"]["total_ios"] else job["read"]
    seconds = side["runtime"] / 1000
    cpu = seconds * (job["usr_cpu"] + job["sys_cpu"]) / 100
    p99 = side["clat_ns"].get("percentile", {}).get("99.000000")
    return Sample(side["total_ios"], seconds, cpu, seconds * job["usr_cpu"] / 100, 0,
                  p99 / 1000 if p99 else None)


def counts(command, ops, stdin=None):
    """System calls and flushes of a command per operation, as the kernel's tracepoints count them."""
    with tempfile.NamedTemporaryFile("r") as out:
        try:
            run(["perf", "stat", "-x,", "-o", out.name, "-e", "raw_syscalls:sys_enter", "-e",
                 "ext4:ext4_sync_file_enter"] + command, stdin)
        except (FAILED, OSError):
            return None
        values = {}
        for line in out:
            fields = line.split(",")
            if len(fields) > 2 and fields[0].isdigit():
                values[fields[2]] = int(fields[0]) / ops
    if len(values) != 2:
        return None
    return values["raw_syscalls:sys_enter"], values["ext4:ext4_sync_file_enter"]


def quartiles(values):
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


class Goal:
    """`what` is a key of the row's ratios; at least, or with `most` at most, `limit`."""

    def __init__(self, what, limit, most=False):
        self.what = what
        self.limit = limit
        self.most = most

    def __str__(self):
        return f"{self.what} {'≤' if self.most else '≥'} {self.limit:g}"

    def met(self, values):
        """Met when the quartile on the wrong side meets it."""
        low, _, high = quartiles(values)
        return high <= self.limit if self.most else low >= self.limit


def number(value, digits=3):
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value / 1000:.{0 if value >= 99500 else 1}f}k"
    return f"{value:.{digits}g}"


def spread(values):
    if not values:
        return "–"
    low, middle, high = quartiles(values)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


COLUMNS = ["#", "case", "where", "goals", "Vireo /s", "QEMU /s", "raw /s", "Vireo / QEMU", "Vireo / raw", "other",
           "CPU µs/op V, Q", "p99 µs V, fio", "syscalls/op V, Q", "flushes/op V, Q", "peak MB V, Q", "result"]


class Row:
    """One line: samples by program, ratios by goal."""

    def __init__(self, number_, title, where, goals):
        self.number = number_
        self.title = title
        self.where = where
        self.goals = goals
        self.samples = {"vireo": [], "qemu": [], "raw": [], "other": []}
        self.ratios = {}
        self.aio = ""
        self.p99 = None
        self.counted = {}
        self.skipped = None

    def add_pair(self, pair):
        for name, sample in pair.items():
            self.samples[name].append(sample)
        vireo = pair["vireo"]

        def note(key, value):
            self.ratios.setdefault(key, []).append(value)
        if "qemu" in pair:
            note("QEMU", vireo.rate / pair["qemu"].rate)
            note("CPU", vireo.cpu_us / max(pair["qemu"].cpu_us, 1e-3))
            note("user CPU", vireo.user_us / max(pair["qemu"].user_us, 1e-3))
            note("memory", vireo.rss_mb / max(pair["qemu"].rss_mb, 1e-3))
        if "raw" in pair:
            note("raw", vireo.rate / pair["raw"].rate)
        if "other" in pair:
            note("other", vireo.rate / pair["other"].rate)
        note("RSS MB", vireo.rss_mb)

    def median(self, program, field):
        values = [getattr(sample, field) for sample in self.samples[program]]
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else None

    def result(self):
        if self.skipped is not None or not self.samples["vireo"]:
            return "not run" + (f": {self.skipped}" if self.skipped else "")
        short = []
        for goal in self.goals:
            if goal.what == "flushes/op":
                counted = self.counted.get("vireo")
                if counted is None:
                    short.append(f"{goal}: not counted")
                elif counted[1] > goal.limit:
                    short.append(str(goal))
            elif not goal.met(self.ratios[goal.what]):
                short.append(str(goal))
        return "met" if not short else "**short**: " + ", ".join(short)

    def cells(self):
        def two(field, digits=3):
            return f"{number(self.median('vireo', field), digits)}, {number(self.median('qemu', field), digits)}"

        def count(index):
            pair = [self.counted.get(name) for name in ("vireo", "qemu")]
            return ", ".join("–" if value is None else f"{value[index]:.3g}" for value in pair)
        qemu = number(self.median("qemu", "rate"))
        return [str(self.number), self.title, self.where, "; ".join(map(str, self.goals)),
                number(self.median("vireo", "rate")), f"{qemu} {self.aio}".strip(),
                number(self.median("raw", "rate")), spread(self.ratios.get("QEMU", [])),
                spread(self.ratios.get("raw", [])), spread(self.ratios.get("other", [])), two("cpu_us"),
                f"{number(self.p99)}, {number(self.median('raw', 'p99_us'))}", count(0), count(1),
                two("rss_mb"), self.result()]


def table(rows):
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join(lines) + "\n"
