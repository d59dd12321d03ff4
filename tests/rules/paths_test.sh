#!/bin/bash
# usage: paths_test.sh NO_PATH_FILE... -- PATH_FILE...
# The first files, answers of genquery, must be empty; those after "--" must not: they ask the same
# kind of question where a path exists, so that an empty answer means that there is no path.
set -euo pipefail
wanted=empty
failures=0
for file in "$@"; do
  if [[ $file == -- ]]; then
    wanted=path
  elif [[ $wanted == empty && -s $file ]]; then
    echo "$(basename "$file"): a forbidden path:"
    sed 's/^/    /' "$file"
    failures=$((failures + 1))
  elif [[ $wanted == path && ! -s $file ]]; then
    echo "$(basename "$file"): no path found, but there is one"
    failures=$((failures + 1))
  fi
done
exit $((failures > 0))
