"""Checks what Bazel cannot see: who includes which system header, and how header guards are named.

usage: includes.py ROOT      prints one line for each violation; exit status 1 if there is one
"""

import os
import re
import sys

# A header, by how its name begins, and the folders that alone may include it.
SYSTEM_HEADERS = {
    "linux/kvm.h": ["vmm/kvm/"],
    "asm/kvm.h": ["vmm/kvm/"],
    "liburing": ["base/async/"],
    "grpc/": ["api/", "cmd/"],
    "grpcpp/": ["api/", "cmd/"],
    "grpc++/": ["api/", "cmd/"],
    "gcrypt.h": ["storage/crypto/"],
    "google/protobuf/": ["api/", "cmd/"],
    "nlohmann/": ["storage/driver_options.cc"],
    "google/rpc/": ["api/", "cmd/"],
    "api/v1/": ["api/", "cmd/"],  # The headers that protoc makes.
}
# Tests may look at what they test, from outside.
TESTS_MAY = ("linux/kvm.h", "grpc", "google/", "api/v1/")

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
GUARD = re.compile(r"^#ifndef (\S+)\n#define (\S+)\n", re.MULTILINE)


def sources(root):
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            f for f in folders
            if not f.startswith((".", "bazel-"))
            and not (folder == root and f in ("out", "third_party")))
        for file in sorted(files):
            if file.endswith((".cc", ".h")):
                yield os.path.relpath(os.path.join(folder, file), root)


def include_violations(path, text):
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        header = match.group(1)
        for prefix, owners in SYSTEM_HEADERS.items():
            if not header.startswith(prefix) or path.startswith(tuple(owners)):
                continue
            if path.startswith("tests/") and header.startswith(TESTS_MAY):
                continue
            yield f"{path}:{number}: {header} is for {' and '.join(owners)} only"


def guard_violations(path, text):
    if not path.endswith(".h"):
        return
    want = "VIREO_" + re.sub(r"[^A-Z0-9]", "_", path.upper()) + "_"
    match = GUARD.search(text)
    if not match or match.groups() != (want, want):
        yield f"{path}: the header guard is not {want}"
    elif not text.rstrip().endswith(f"#endif  // {want}"):
        yield f"{path}: does not end with '#endif  // {want}'"


def main():
    root = sys.argv[1]
    paths = list(sources(root))
    violations = []
    for path in paths:
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        violations += include_violations(path, text)
        violations += guard_violations(path, text)
    for violation in violations:
        print(violation)
    print(f"{len(paths)} files read, {len(violations)} violations")
    return 1 if violations or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
