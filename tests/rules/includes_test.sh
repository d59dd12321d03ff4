#!/bin/bash
# The tree keeps the rules of includes.py, and includes.py finds each kind of violation.
set -euo pipefail

here=$(cd "$(dirname "$(realpath "$0")")" && pwd)
check() { python3 -B "$here/includes.py" "$1"; }
failures=0

expect_violation() {  # FILE TEXT WANTED
  local tree="$TEST_TMPDIR/tree"
  rm -rf "$tree" && mkdir -p "$tree/$(dirname "$1")"
  printf '%b' "$2" >"$tree/$1"
  if output=$(check "$tree") || [[ $output != *"$3"* ]]; then
    echo "wanted '$3' for $1, found: $output"
    failures=$((failures + 1))
  fi
}

expect_none() {  # FILE TEXT
  local tree="$TEST_TMPDIR/tree"
  rm -rf "$tree" && mkdir -p "$tree/$(dirname "$1")"
  printf '%b' "$2" >"$tree/$1"
  if ! output=$(check "$tree"); then
    echo "wanted no violation for $1, found: $output"
    failures=$((failures + 1))
  fi
}

expect_violation devices/a.cc '#include <linux/kvm.h>\n' 'linux/kvm.h is for vmm/kvm/'
expect_violation vmm/machine.cc '#  include <linux/kvm.h>\n' 'machine.cc:1: linux/kvm.h'
expect_violation storage/a.cc '\n#include <liburing.h>\n' 'a.cc:2: liburing.h is for base/async/'
expect_violation tests/support/a.cc '#include <liburing.h>\n' 'liburing.h is for base/async/'
expect_violation vmm/a.cc '#include <grpcpp/grpcpp.h>\n' 'grpcpp/grpcpp.h is for api/ and cmd/'
expect_violation vmm/a.cc '#include "google/protobuf/message.h"\n' 'is for api/ and cmd/'
expect_violation vmm/a.cc '#include "api/v1/vireo.pb.h"\n' 'is for api/ and cmd/'
expect_violation base/a.h '#ifndef BASE_A_H\n#define BASE_A_H\n#endif\n' 'not VIREO_BASE_A_H_'
expect_violation base/a.h '#pragma once\n' 'not VIREO_BASE_A_H_'
expect_none vmm/kvm/a.cc '#include <linux/kvm.h>\n'
expect_none base/async/a.cc '#include <liburing.h>\n'
expect_none api/a.cc '#include <grpcpp/grpcpp.h>\n'
expect_none base/a.h '#ifndef VIREO_BASE_A_H_\n#define VIREO_BASE_A_H_\n#endif  // VIREO_BASE_A_H_\n'

# The script in the sandbox is a link to the one in the tree.
check "$here/../.." || failures=$((failures + 1))
exit $((failures > 0))
