# What every job of the Linux-host test can call. Sourced by the agent; $job is the job's number.

# busybox prefers its own applets to what is in /bin, but these have options that its own do not know.
blkdiscard() { /bin/blkdiscard "$@"; }
dd() { /bin/dd "$@"; }

# Sends one line to the test driver while the job goes on.
tell() {
    printf 'event %s %s\n' "$job" "$*" >&3
}

# fail WORDS...: ends the job with a reason.
fail() {
    echo "$*"
    exit 1
}

# stalled WORDS...: the same for what did not come in time. The kernel's log then says where its tasks wait, and how
# many reads and writes each disk has under way.
stalled() {
    echo w >/proc/sysrq-trigger
    for block in /sys/block/nvme* /sys/block/sd*; do
        [ -e "$block/inflight" ] && echo "${block##*/}: under way: $(cat "$block/inflight")" >/dev/kmsg
    done
    fail "$*"
}

# await SECONDS COMMAND...: runs the command until it succeeds; fails when that takes longer.
await() {
    deadline=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -gt "$deadline" ] && stalled "still not true: $*"
        usleep 20000
    done
}

# find_device NQN NSID: prints the block device of a namespace, if the kernel has one.
find_device() {
    for block in /sys/block/nvme*n*; do
        case ${block##*/} in
        *c*n*) continue ;; # one path of a multipath device
        esac
        [ "$(cat "$block/device/subsysnqn" 2>/dev/null)" = "$1" ] || continue
        [ "$(cat "$block/nsid" 2>/dev/null)" = "$2" ] || continue
        [ -b "/dev/${block##*/}" ] && echo "/dev/${block##*/}" && return 0
    done
    return 1
}

# device NQN NSID: the same, waiting for the scan that follows a connect.
device() {
    deadline=$(($(date +%s) + 60))
    until find_device "$1" "$2"; do
        [ "$(date +%s)" -gt "$deadline" ] && stalled "not there: $*"
        usleep 20000
    done
}

# find_session IQN PORT: prints the number of the iSCSI session with a target over this port, if there is one.
find_session() {
    for session in /sys/class/iscsi_session/session*; do
        [ "$(cat "$session/targetname" 2>/dev/null)" = "$1" ] || continue
        number=${session##*/session}
        [ "$(cat "/sys/class/iscsi_connection/connection$number:0/persistent_port")" = "$2" ] || continue
        echo "$number" && return 0
    done
    return 1
}

# session_value IQN PORT NAME: prints what sysfs says of a session, or of its connection.
session_value() {
    number=$(find_session "$1" "$2") || return
    cat "/sys/class/iscsi_connection/connection$number:0/$3" 2>/dev/null || cat "/sys/class/iscsi_session/session$number/$3"
}

# find_disk IQN PORT LUN: prints the disk of a logical unit, if the kernel has one.
find_disk() {
    number=$(find_session "$1" "$2") || return
    for block in "/sys/class/iscsi_session/session$number"/device/target*/*:"$3"/block/*; do
        [ -b "/dev/${block##*/}" ] && echo "/dev/${block##*/}" && return 0
    done
    return 1
}

# disk IQN PORT LUN: the same, waiting for the scan that follows a login.
disk() {
    deadline=$(($(date +%s) + 60))
    until find_disk "$@"; do
        [ "$(date +%s)" -gt "$deadline" ] && stalled "not there: $*"
        usleep 20000
    done
}

# session_is IQN PORT STATE: whether the session is LOGGED_IN, FAILED, ...
session_is() {
    [ "$(cat "/sys/class/iscsi_session/session$(find_session "$1" "$2")/state")" = "$3" ]
}

# task_management IQN PORT: prints how many task management functions the session has asked for.
task_management() {
    iscsiadm -m session -r "$(find_session "$1" "$2")" --stats | sed -n 's/.*tmfcmd_pdus: //p'
}

# access_state_is DISK STATE: whether the kernel takes the disk's target port group to be in this ALUA state.
access_state_is() {
    [ "$(cat "/sys/block/$1/device/access_state")" = "$2" ]
}

# completions DISK: prints how many reads and writes it has completed.
completions() {
    read -r reads _ _ _ writes _ <"/sys/block/$1/stat"
    echo $((reads + writes))
}

# await_io DISK...: waits until each has completed some more.
await_io() {
    for disk; do
        enough=$(($(completions "$disk") + 50))
        completed() { [ "$(completions "$disk")" -ge "$enough" ]; }
        await 60 completed
    done
}

# path_is MAP DISK A|F: whether the kernel's multipath takes the disk for an active path or a failed one.
path_is() {
    dmsetup status "$1" | grep -q " $(cat "/sys/block/$2/dev") $3 "
}

# start_iscsid: starts the initiator's daemon, once.
start_iscsid() {
    [ -e /run/iscsid.pid ] && return
    mkdir -p /run/lock
    iscsid || fail 'iscsid could not be started'
}

# controller NQN: prints the sysfs directory of the subsystem's (first) controller.
controller() {
    for dir in /sys/class/nvme/nvme*; do
        [ "$(cat "$dir/subsysnqn" 2>/dev/null)" = "$1" ] && echo "$dir" && return 0
    done
    return 1
}

# state_is NQN STATE: whether the controller is live, connecting, resetting, ...
state_is() {
    [ "$(cat "$(controller "$1")/state" 2>/dev/null)" = "$2" ]
}

# size_is DEVICE SECTORS: whether the kernel sees the device at this size (512-byte sectors).
size_is() {
    [ "$(cat "/sys/block/${1#/dev/}/size")" = "$2" ]
}

# What was read must come from the device.
drop_caches() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
}

# check_file_system TYPE DEVICE: the file system's own checker, which must find nothing to mend.
check_file_system() {
    case $1 in
    ext4) e2fsck -fn "$2" ;;
    xfs) xfs_repair -n "$2" ;;
    *) false ;;
    esac || fail "$1 on $2 is not clean"
}

# make_file_system TYPE DEVICE DIRECTORY: makes and mounts it.
make_file_system() {
    case $1 in
    ext4) mkfs.ext4 -q -F "$2" ;;
    xfs) mkfs.xfs -q -f "$2" ;;
    *) false ;;
    esac || fail "mkfs.$1 $2 failed"
    mkdir -p "$3"
    mount -t "$1" "$2" "$3" || fail "$2 could not be mounted as $1"
}

# paths_are NQN COUNT: whether the kernel has so many live controllers of the subsystem.
paths_are() {
    count=0
    for dir in /sys/class/nvme/nvme*; do
        [ "$(cat "$dir/subsysnqn" 2>/dev/null)" = "$1" ] && [ "$(cat "$dir/state")" = live ] && count=$((count + 1))
    done
    [ "$count" = "$2" ]
}

# path NQN PORT: prints the name of the controller that is connected over this port.
path() {
    for dir in /sys/class/nvme/nvme*; do
        [ "$(cat "$dir/subsysnqn" 2>/dev/null)" = "$1" ] || continue
        case $(cat "$dir/address") in
        *trsvcid="$2" | *trsvcid="$2",*) echo "${dir##*/}" && return 0 ;;
        esac
    done
    return 1
}

# ana_state_is NQN STATE: whether the kernel takes the first namespace to be in this ANA state on the (first) controller.
ana_state_is() {
    for path in "$(controller "$1")"/nvme*c*n*; do
        [ "$(cat "$path/ana_state" 2>/dev/null)" = "$2" ] && return 0
    done
    return 1
}

# start_probe ID read|write|flush DEVICE BLOCK: starts a program with one I/O, a block of 4 KiB or a flush.
start_probe() {
    case $2 in
    read) words="if=$3 of=/dev/null bs=4096 count=1 iflag=direct skip=$4" ;;
    write) words="if=/dev/zero of=$3 bs=4096 count=1 oflag=direct conv=notrunc seek=$4" ;;
    flush) words="if=/dev/null of=$3 conv=notrunc,fsync" ;;
    *) fail "no such I/O: $2" ;;
    esac
    rm -f "/tmp/probe.$1".*
    (
        # shellcheck disable=SC2086 # the operands are words
        /bin/dd $words status=none 2>"/tmp/probe.$1.error" &
        echo $! >"/tmp/probe.$1.pid"
        if wait $!; then
            echo ok
        elif grep -q 'Input/output error' "/tmp/probe.$1.error"; then
            echo EIO
        else
            cat "/tmp/probe.$1.error"
        fi >"/tmp/probe.$1.outcome"
        mv "/tmp/probe.$1.outcome" "/tmp/probe.$1.end"
    ) &
}

# probe_end ID: waits for its end and prints it.
probe_end() {
    await 100 test -e "/tmp/probe.$1.end"
    cat "/tmp/probe.$1.end"
}

# probe_outcome ID: prints its end, or `waits`. Nothing tells that an I/O waits in the kernel's device mapper; so it is
# taken to wait when its program has been found asleep for the device many times in a row, and nothing else runs that could wake it.
probe_outcome() {
    await 100 test -s "/tmp/probe.$1.pid"
    read -r pid <"/tmp/probe.$1.pid"
    asleep=0
    until [ -e "/tmp/probe.$1.end" ] || [ "$asleep" = 25 ]; do
        # Its third word is the state; of a program that has ended there is none.
        read -r _ _ state _ 2>/dev/null <"/proc/$pid/stat" || state=ended
        case $state in
        D) asleep=$((asleep + 1)) ;;
        *) asleep=0 ;;
        esac
        usleep 10000
    done
    if [ -e "/tmp/probe.$1.end" ]; then cat "/tmp/probe.$1.end"; else echo waits; fi
}

# polldm WORDS...: the polldm that the driver has brought into the guest, and its control socket.
polldm() {
    LD_LIBRARY_PATH=/run/polldm /run/polldm/polldm --socket /run/polldm/control.sock "$@"
}

# serve: polldm with the configuration that the driver has written. SPDK wants OpenSSL, which wants a file of settings; an empty one will do.
serve() {
    OPENSSL_CONF=/dev/null LD_LIBRARY_PATH=/run/polldm /run/polldm/polldm serve /run/polldm/node.yaml
}

# block_of GENERIC: prints the name of the block device of the same namespace. The first of its numbers is the subsystem's, not the controller's.
block_of() {
    name=${1#ng}
    for block in "/sys/class/nvme/nvme${name%n*}"/nvme*n"${name#*n}"; do
        echo "${block##*/}" && return 0
    done
}

# find_generic SERIAL: prints the name of the generic device of the NVMe disk with this serial number, as in ng0n1.
find_generic() {
    for dir in /sys/class/nvme/nvme*; do
        # The field is padded with blanks, which read leaves out.
        read -r serial 2>/dev/null <"$dir/serial"
        [ "$serial" = "$1" ] && [ "$(cat "$dir/transport")" = pcie ] || continue
        for generic in "$dir"/ng*; do
            generic=${generic##*/}
            [ -c "/dev/$generic" ] && [ -b "/dev/$(block_of "$generic")" ] && echo "$generic" && return 0
        done
    done
    return 1
}

# generic SERIAL: the same, waiting for the scan.
generic() {
    deadline=$(($(date +%s) + 60))
    until find_generic "$1"; do
        [ "$(date +%s)" -gt "$deadline" ] && stalled "not there: $*"
        usleep 20000
    done
}

# pci_of SERIAL: prints the address on the PCI bus of the disk with this serial number, which the kernel drives.
pci_of() {
    name=$(generic "$1") || fail "there is no disk $1"
    name=${name#ng}
    address=$(readlink -f "/sys/class/nvme/nvme${name%n*}/device")
    echo "${address##*/}"
}

# give_to DRIVER ADDRESS: has this driver, and no other, drive what is at an address on the PCI bus.
give_to() {
    device=/sys/bus/pci/devices/$2
    echo "$1" >"$device/driver_override" || fail "there is nothing at $2"
    [ -e "$device/driver" ] && echo "$2" >"$device/driver/unbind"
    echo "$2" >/sys/bus/pci/drivers_probe
    driver=$(readlink -f "$device/driver")
    [ "${driver##*/}" = "$1" ] || fail "$2 is driven by ${driver##*/} and not by $1"
}

# hugepages COUNT: sets so many aside, of 2 MiB; none with 0.
hugepages() {
    mkdir -p /dev/hugepages
    grep -q hugetlbfs /proc/mounts || mount -t hugetlbfs none /dev/hugepages
    # Memory in pieces is put together first.
    echo 1 >/proc/sys/vm/compact_memory
    echo "$1" >/proc/sys/vm/nr_hugepages
    [ "$(cat /proc/sys/vm/nr_hugepages)" = "$1" ] || fail "there are $(cat /proc/sys/vm/nr_hugepages) hugepages"
}

# pull_disk SERIAL: takes the disk's controller off the PCI bus.
pull_disk() {
    name=$(generic "$1") || fail "there is no disk $1"
    name=${name#ng}
    echo 1 >"/sys/class/nvme/nvme${name%n*}/device/remove"
}

# put_disks_back: lets the kernel find what is on the PCI bus.
put_disks_back() {
    echo 1 >/sys/bus/pci/rescan
}
