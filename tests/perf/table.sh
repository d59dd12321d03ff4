# What scripts that time machines in the lab share. Sourced by bash, after tests/lab/lib.sh.

# --- A machine whose output is waited for, as soon as it is there -------------------------------------

# start COMMAND...: runs it; what it says is then read from descriptor $said.
start() {
  [[ -p $work/said ]] || { mkfifo "$work/said" "$work/typed"; exec {typed}<>"$work/typed"; }
  begun=$((10#${EPOCHREALTIME/./}))
  "$@" <&"$typed" >"$work/said" 2>"$work/errors" &
  vm_pid[machine]=$!
  exec {said}<"$work/said"
}
end() {
  exec {said}<&-
  kill -KILL "${vm_pid[machine]}" 2>/dev/null || true
  wait "${vm_pid[machine]}" 2>/dev/null || true
  unset 'vm_pid[machine]'
}
since_begun() { elapsed=$((10#${EPOCHREALTIME/./} - begun)); }  # In microseconds.
until_line() {  # PATTERN: of a whole line
  local line
  while IFS= read -r -t "$boot_limit" -u "$said" line; do
    # shellcheck disable=SC2053
    [[ $line == $1 ]] && return
  done
  cat "$work/errors" >&2
  fail "the machine did not say '$1'"
}

# --- Tables -------------------------------------------------------------------------------------------

sorted() { tr ' ' '\n' <<<"$1" | sed '/^$/d' | sort -n; }
median() { sorted "$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
rounded() { awk -v n="$1" -v unit="$2" 'BEGIN { printf "%.0f", n / unit }'; }  # NUMBER UNIT
ratio() { awk -v mine="$1" -v peer="$2" 'BEGIN { if (mine > 0) printf "%.2f", peer / mine; else printf "-" }'; }

# row NAME ARRAY UNIT: medians of ARRAY (values by VMM, those of $vmms) with the spread, then how many times vireo's each
# of the others is. So much as UNIT is 1 in the table.
row() {
  local -n values=$2
  local vmm row="| $1 |" all
  for vmm in "${vmms[@]}"; do
    all=$(sorted "${values[$vmm]}")
    row+=" $(rounded "$(median "$all")" "$3") ($(rounded "${all%%$'\n'*}" "$3") to $(rounded "${all##*$'\n'}" "$3")) |"
  done
  for vmm in "${vmms[@]:1}"; do
    row+=" $(ratio "$(median "${values[vireo]}")" "$(median "${values[$vmm]}")") |"
  done
  echo "$row"
}

# The machine outside, for the head of a table. described_host RESULTS: RESULTS/host is what the lab said of itself.
described_host() {
  cat <<END
$(date -u +%F), in the lab: $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors,
$(qemu-system-x86_64 --version | head -n 1), emulating the host (TCG). Inside: $(<"$1/host").
In the lab exits weigh more than on hardware, so only the ratios between the columns mean something.
END
}
