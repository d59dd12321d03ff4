"""Adds every dependency that the ranks forbid, and fails unless Bazel refuses each of them.

Run by ./test from outside Bazel. A probe package beneath each part of the tree (found through
--package_path, so nothing is written into the tree) has one target for each library it may not use.
A few probes that must be accepted show that the others are refused for the right reason.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]

# Part of the tree -> parts whose libraries it may not name (docs/architecture.md draws the ranks).
FORBIDDEN = {
    "base": ["base/async", "base/memory", "storage", "net", "devices", "vmm", "api", "cmd"],
    "base/async": ["base/memory", "storage", "net", "devices", "vmm", "api", "cmd"],
    "base/memory": ["base/async", "storage", "net", "devices", "vmm", "api", "cmd"],
    "storage": ["base/memory", "net", "devices", "vmm", "api", "cmd"],
    "net": ["base/memory", "storage", "devices", "vmm", "api", "cmd"],
    "vmm/kvm": ["storage", "net", "devices", "vmm/x86", "vmm:", "api", "cmd"],
    "vmm/x86": ["storage", "net", "devices", "vmm/kvm", "vmm:", "api", "cmd"],
    "devices": ["storage", "net", "vmm", "api", "cmd"],
    "vmm": ["api", "cmd"],
    "api": ["storage", "net", "devices", "vmm/kvm", "vmm/x86", "cmd"],
}
# The interfaces that cross ranks by design.
ALLOWED = {
    "devices": ["//storage:block_backend", "//net:packet_port"],
    "api": [],
}
PROBE = "rank_probe"


def bazel(*arguments):
    return subprocess.run(["scripts/bazel", *arguments], cwd=TOP, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def libraries():
    """Every library of ours that is not for tests only, with the part of the tree it is in."""
    result = bazel("query", "--noshow_progress",
                   'attr(testonly, 0, kind("cc_library rule", //...)) '
                   "except //third_party/... except //tests/...")
    if result.returncode != 0:
        sys.exit(f"bazel query failed:\n{result.stderr}")
    return sorted(result.stdout.split())


def is_within(label, part):
    package = label[2:].split(":")[0]
    if part.endswith(":"):
        return package == part[:-1]
    # base/async and base/memory are ranks of their own, above base.
    return package == part or package.startswith(part + "/")


def probe_name(label):
    return re.sub(r"[^A-Za-z0-9]", "_", label[2:])


def probes(every_library):
    """(part, label, refused?) of each probe."""
    for part, forbidden in FORBIDDEN.items():
        allowed = ALLOWED.get(part, [])
        for label in every_library:
            if label in allowed:
                yield part, label, False
            elif any(is_within(label, other) for other in forbidden):
                yield part, label, True


def main():
    every_probe = list(probes(libraries()))
    wanted = {(part, label) for part, label, refused in every_probe if refused}
    with tempfile.TemporaryDirectory() as overlay:
        for part in FORBIDDEN:
            package = pathlib.Path(overlay, part, PROBE)
            package.mkdir(parents=True)
            package.joinpath("BUILD.bazel").write_text("".join(
                f'cc_library(name = "{probe_name(label)}", deps = ["{label}"])\n'
                for at, label, _ in every_probe if at == part))
        result = bazel("build", "--nobuild", "--keep_going", "--color=no", "--curses=no",
                       "--noshow_progress", f"--package_path={overlay}:%workspace%",
                       *[f"//{part}/{PROBE}:all" for part in FORBIDDEN])
        bazel("query", "--noshow_progress", "//:all")  # Forgets the overlay.

    refused = set()
    for target, probe in re.findall(r"target '(\S+)' is not visible from target '(\S+)'",
                                    result.stderr):
        part = probe[2:].split(f"/{PROBE}:")[0]
        label = target if ":" in target else f"{target}:{target.rsplit('/', 1)[-1]}"
        refused.add((part, label))

    wrong = [f"//{part} may name {label}, which the ranks forbid"
             for part, label in sorted(wanted - refused)]
    wrong += [f"//{part} may not name {label}, which it needs"
              for part, label in sorted(refused - wanted)]
    if wanted and result.returncode == 0:
        wrong.append("bazel accepted all the probes")
    if not wanted:
        wrong.append("there was nothing to probe")
    for line in wrong:
        print(line)
    if wrong:
        print(f"{len(wrong)} wrong, {len(refused & wanted)} refused as they should be")
        # A library that cannot even be loaded is not refused either; this says so.
        for line in result.stderr.splitlines():
            if line.startswith("ERROR") and "is not visible from" not in line:
                print(line)
        return 1
    print(f"{len(wanted)} forbidden dependencies refused, "
          f"{len(every_probe) - len(wanted)} allowed ones accepted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
