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

# Waits until a command succeeds. wait_until SECONDS WHAT COMMAND...
wait_until() {
  local limit=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < limit)) || fail "waited in vain for $what"
    sleep 0.2
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

declare -A vm_pid=() vm_input=() vm_mark=()
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
  vm_mark[$name]=0
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

# What the machine said since the last mark, without carriage returns and what moves a cursor or gives colour.
console_since_mark() { tail -c "+$((vm_mark[$1] + 1))" "$work/$1.console" | tr -d '\r' | sed $'s/\033\[[0-9;?]*[A-Za-z]//g'; }
mark() { vm_mark[$1]=$(stat -c %s "$work/$1.console"); }

# wait_console NAME TEXT [SECONDS]: until the machine has said TEXT (an extended regular expression)
# since the last mark.
wait_console() {
  local name=$1 text=$2 limit=$((SECONDS + ${3:-$boot_limit}))
  until console_since_mark "$name" | grep -E -- "$text" >/dev/null; do
    if ! running "$name"; then
      console_since_mark "$name" | grep -E -- "$text" >/dev/null && return
      fail "$name ended before it said '$text'"
    fi
    ((SECONDS < limit)) || fail "$name did not say '$text' in time"
    sleep 0.3
  done
}

# wait_exit NAME [SECONDS]: sets $exit_status.
wait_exit() {
  local name=$1 limit=$((SECONDS + ${2:-$boot_limit}))
  while running "$name"; do
    ((SECONDS < limit)) || fail "$name did not end in time"
    sleep 0.2
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
  said=$(console_since_mark "$name")
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
at_exit 'rm -rf "$work"'
at_exit kill_machines
