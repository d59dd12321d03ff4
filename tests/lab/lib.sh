# What the lab's cases share. Sourced by bash from the repository's top, after `set -euo pipefail`.
#
# A case that needs KVM calls in_lab first: outside, that runs the whole case again in a lab and
# exits with its status. $work is a folder of the case's own, on the lab's fast disk.

PATH=$PATH:/usr/sbin:/sbin
top=$PWD
bin=${VIREO_BIN:-$top/out/bin}
cache=${VIREO_CACHE:-${HOME:?neither VIREO_CACHE nor HOME is set}/.cache/vireo}
# Emulation is slow, and a busy machine makes it slower: waits are generous, and end early.
boot_limit=300

say() { printf '%7.1f  %s\n' "$((10#${EPOCHREALTIME/./} - started_at))e-6" "$*"; }
started_at=$((10#${EPOCHREALTIME/./}))
skip() { echo "skipped: $*"; exit 77; }
fail() {
  echo "FAILED: $*" >&2
  # What each machine's VMM is at: its state, its processor time, where it waits.
  ((${#vm_pid[@]} == 0)) || ps -L -o pid,lwp,stat,time,wchan:20,comm -p "${vm_pid[@]}" >&2 || true
  for log in "${vm_logs[@]}"; do
    [[ -s $log ]] || continue
    echo "--- the end of $(basename "$log"):" >&2
    tail -n 15 "$log" | cut -c 1-300 >&2
  done
  ((${#vm_pid[@]} == 0)) || show_kvm_activity >&2 || true
  exit 1
}
# What KVM counts in two seconds, over all machines: whether a guest that says nothing lives and has interrupts.
show_kvm_activity() {
  local folder=/sys/kernel/debug/kvm name
  local -A before
  [[ -d $folder ]] || return 0
  for name in "$folder"/*; do [[ -f $name ]] && before[$name]=$(<"$name"); done
  sleep 2
  echo "--- counted by KVM in 2 seconds:"
  for name in "${!before[@]}"; do
    ((before[$name] == $(<"$name"))) || echo "$(basename "$name") $(($(<"$name") - before[$name]))"
  done | sort | paste -s -d ,
}

assert_equal() {  # WANTED FOUND WHAT
  [[ $1 == "$2" ]] || fail "$3: found '$2', wanted '$1'"
}
assert_contains() {  # FILE TEXT
  grep -qF -- "$2" "$1" || { tail -n 40 "$1" >&2; fail "$(basename "$1") does not say '$2'"; }
}
assert_lacks() {  # FILE TEXT
  ! grep -F -- "$2" "$1" >&2 || fail "$(basename "$1") says '$2'"
}

# Waiting costs no process: in the lab a fork takes as long as some steps of the guest that is waited for. Nobody writes
# to this pipe. wait_a_moment SECONDS
wait_a_moment() { read -r -t "$1" -u "$silence" || true; }

# Waits until a command succeeds. wait_until SECONDS WHAT COMMAND...
wait_until() {
  local limit=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < limit)) || fail "waited in vain for $what"
    wait_a_moment 0.2
  done
}

cleanups=()
at_exit() { cleanups+=("$*"); }  # Commands for the end, last one first.
run_cleanups() {
  local status=$? i
  trap - EXIT
  for ((i = ${#cleanups[@]} - 1; i >= 0; i--)); do eval "${cleanups[i]}" || true; done
  exit "$status"
}
trap run_cleanups EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# in_lab [OPTION of lab exec]...
in_lab() {
  [[ -z ${VIREO_LAB-} ]] || return 0
  local status=0
  # In the background, so that a signal to the case is heeded at once and passed on.
  tests/lab/lab exec "$@" -- bash "$0" &
  lab_pid=$!
  at_exit 'kill -TERM "$lab_pid" 2>/dev/null && wait "$lab_pid"'
  wait "$lab_pid" || status=$?
  exit "$status"
}

# Programs of out/bin that a case cannot do without.
need_programs() {
  local program
  for program in "$@"; do
    [[ -x $bin/$program ]] || skip "out/bin/$program is not built: run ./build"
  done
}

# --- Machines ---------------------------------------------------------------------------------------
#
# A machine has a name. Its console is its standard input and output: $work/NAME.console is what it
# said, type_line types. What its VMM says is in $work/NAME.err.

declare -A vm_pid=() vm_input=()
# Where the console is read, by which shell, what was heard since the last mark, and a cursor's move that is not whole yet.
declare -A vm_output=() vm_hearer=() vm_said=() vm_rest=()
vm_logs=()

# launch NAME COMMAND...: runs COMMAND as the machine NAME.
launch() {
  local name=$1 input
  shift
  rm -f "$work/$name.input"
  mkfifo "$work/$name.input"
  exec {input}<>"$work/$name.input"
  : >"$work/$name.console"
  "$@" <&"$input" >"$work/$name.console" 2>"$work/$name.err" &
  vm_pid[$name]=$!
  vm_input[$name]=$input
  if [[ ${vm_hearer[$name]-} == "$BASHPID" ]]; then exec {vm_output[$name]}<&-; fi
  unset "vm_hearer[$name]"
  mark "$name"
  vm_logs=("$work/$name.console" "$work/$name.err")
}

# start_vireo NAME OPTION...: a machine under vireo, with an API socket.
start_vireo() {
  local name=$1
  shift
  launch "$name" "$bin/vireo" run --console stdio --api "unix:$work/$name.sock" "$@"
}

# start_qemu NAME OPTION...: the same under QEMU, the peer.
start_qemu() {
  local name=$1
  shift
  launch "$name" qemu-system-x86_64 -machine q35 -accel kvm -cpu host -nodefaults -display none \
    -serial stdio -no-reboot "$@"
}

running() { kill -0 "${vm_pid[$1]}" 2>/dev/null; }
type_line() { printf '%s\n' "$2" >&"${vm_input[$1]}"; }

sequence='^\[[0-9;?]*[A-Za-z]'
begun_sequence=$'\033(\\[[0-9;?]*)?$'
# Adds to vm_said what the machine has said, without carriage returns and what moves a cursor or gives colour.
hear() {
  local name=$1 chunk new=${vm_rest[$1]}
  [[ ${vm_hearer[$name]} == "$BASHPID" ]] || fail "a subshell has to mark $name before it can listen"
  while IFS= read -r -N 8192 chunk <&"${vm_output[$name]}" || [[ -n $chunk ]]; do new+=$chunk; done
  new=${new//$'\r'/}
  vm_rest[$name]=
  if [[ $new == *$'\033'* ]]; then
    # Split at each ESC: a replacement by pattern takes time with the square of the length.
    local parts part
    mapfile -d $'\033' parts < <(printf %s "$new")
    [[ $new != *$'\033' ]] || parts+=("")
    new=${parts[0]%$'\033'}
    for part in "${parts[@]:1}"; do
      part=${part%$'\033'}
      if [[ $part =~ $sequence ]]; then new+=${part:${#BASH_REMATCH[0]}}; else new+=$'\033'$part; fi
    done
    if [[ $new =~ $begun_sequence ]]; then
      vm_rest[$name]=${BASH_REMATCH[0]}
      new=${new%"${vm_rest[$name]}"}
    fi
  fi
  vm_said[$name]+=$new
}

# mark NAME: forgets what the machine has said. A subshell opens the console anew: else it would take from its parent.
mark() {
  local name=$1 output
  if [[ ${vm_hearer[$name]-} != "$BASHPID" ]]; then
    exec {output}<"$work/$name.console"
    vm_output[$name]=$output
    vm_hearer[$name]=$BASHPID
    vm_rest[$name]=
  fi
  hear "$name"
  vm_said[$name]=
}

# said_times NAME TEXT TIMES: whether the machine has said TEXT so often since the last mark.
said_times() {
  hear "$1"
  local without=${vm_said[$1]//"$2"/}
  (((${#vm_said[$1]} - ${#without}) / ${#2} >= $3))
}

# wait_console NAME TEXT [SECONDS]: until the machine has said TEXT (an extended regular expression, within a line)
# since the last mark.
wait_console() {
  local name=$1 text=$2 limit=$((SECONDS + ${3:-$boot_limit})) from=0 ended=0 said whole_lines
  while true; do
    hear "$name"
    said=${vm_said[$name]:from}
    [[ ! $said =~ $text ]] || return 0
    ((!ended)) || fail "$name ended before it said '$text'"
    ((SECONDS < limit)) || fail "$name did not say '$text' in time"
    whole_lines=${said%$'\n'*}
    [[ $whole_lines == "$said" ]] || from=$((from + ${#whole_lines} + 1))
    if running "$name"; then wait_a_moment 0.2; else ended=1; fi
  done
}

# wait_exit NAME [SECONDS]: sets $exit_status.
wait_exit() {
  local name=$1 limit=$((SECONDS + ${2:-$boot_limit}))
  while running "$name"; do
    ((SECONDS < limit)) || fail "$name did not end in time"
    wait_a_moment 0.2
  done
  exit_status=0
  wait "${vm_pid[$name]}" || exit_status=$?
  exec {vm_input[$name]}>&-
  unset "vm_pid[$name]"
}

kill_machines() {
  local name
  for name in "${!vm_pid[@]}"; do
    kill -KILL "${vm_pid[$name]}" 2>/dev/null || true
    wait "${vm_pid[$name]}" 2>/dev/null || true
  done
}

# ctl NAME VERB...: asks the machine's vireo over gRPC.
ctl() {
  local name=$1
  shift
  "$bin/vireoctl" --api "unix:$work/$name.sock" "$@"
}

# --- Guests -----------------------------------------------------------------------------------------

guest=$cache/guest/debian
small=$cache/guest/small-cloud
media=$cache/guest/media
boot_images=$cache/guest/boot
debian_cmdline="console=ttyS0 root=/dev/vda rw quiet"
small_cmdline="console=ttyS0 quiet panic=-1"

# Guests are made outside, where the network is. prepare_guests [debian] [small] [media] [boot]
prepare_guests() {
  [[ -z ${VIREO_LAB-} ]] || return 0
  local which
  for which in "$@"; do
    case $which in
      debian) tests/guest/make-guest >/dev/null || fail "cannot make the Debian guest" ;;
      small) tests/guest/make-small-guest >/dev/null || fail "cannot make the small guest" ;;
      boot) tests/guest/make-boot-images >/dev/null || fail "cannot make the disk images" ;;
      media) tests/guest/make-media >/dev/null || fail "cannot make the ISO images" ;;
    esac
  done
}

# linked_clone FILE: a QCOW2 whose backing file is the Debian template.
linked_clone() { qemu-img create -q -f qcow2 -b "$guest/template.qcow2" -F qcow2 "$1"; }

# debian_options FLAVOUR DISK: options of vireo for the Debian guest, in the array $options.
debian_options() {
  options=(--kernel "$guest/$1/vmlinuz" --initrd "$guest/$1/initrd" --cmdline "$debian_cmdline"
    --disk "path=$2,format=qcow2")
}

# Hands the console to a shell that neither echoes nor prompts: what it prints is then the commands'
# output alone. A shell that reads its commands as from a file has no line editor in the way.
use_plain_shell() {
  mark "$1"
  type_line "$1" "stty -echo; echo plain-\$((40 + 2)); exec sh /dev/ttyS0"
  wait_console "$1" "plain-42" 60
}

# log_in NAME: waits for Debian's prompt and logs in on the console.
log_in() {
  wait_console "$1" "login: "
  mark "$1"
  type_line "$1" root
  wait_console "$1" "Password: " 60
  type_line "$1" vireo
  wait_console "$1" "root@[a-z-]+:~# " 120
  use_plain_shell "$1"
}

# in_guest NAME COMMAND [SECONDS]: runs COMMAND in the guest's shell, prints what it said.
in_guest() {
  local name=$1 said
  mark "$name"
  type_line "$name" "{ $2"
  type_line "$name" "}; echo \"[status \$?]\""
  wait_console "$name" '\[status [0-9]+\]' "${3:-120}"
  said=${vm_said[$name]}
  printf %s "${said%'[status '*}"
  said=${said##*'[status '}
  return "${said%%]*}"
}

# --- Host -------------------------------------------------------------------------------------------

# make_bridge NAME: with the guests' gateway address.
make_bridge() {
  ip link add name "$1" type bridge forward_delay 0  # Else a new port is deaf for 15 seconds.
  ip address add 10.77.0.1/24 dev "$1"
  ip link set "$1" up
}

# assert_clean_image FILE [leaks]: qemu-img finds no corruption; leaks are allowed if said so.
assert_clean_image() {
  local status=0
  qemu-img check -f qcow2 "$1" >"$work/check" 2>&1 || status=$?
  if [[ $status -ne 0 && ! ( $status -eq 3 && ${2-} == leaks ) ]]; then
    cat "$work/check" >&2
    fail "qemu-img check of $(basename "$1") says $status"
  fi
}

# In the lab, disks want the fast disk; outside, the usual place.
if [[ -n ${VIREO_LAB-} ]]; then work=$(mktemp -d /scratch/case.XXXXXX); else work=$(mktemp -d); fi
mkfifo "$work/.silence"
exec {silence}<>"$work/.silence"
at_exit 'rm -rf "$work"'
at_exit kill_machines
