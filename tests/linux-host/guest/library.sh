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

# await SECONDS COMMAND...: runs the command until it succeeds; fails when that takes longer.
await() {
    deadline=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -gt "$deadline" ] && fail "still not true: $*"
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
    deadline=$(($(date +%s) + 10))
    until find_device "$1" "$2"; do
        [ "$(date +%s)" -gt "$deadline" ] && return 1
        usleep 20000
    done
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
