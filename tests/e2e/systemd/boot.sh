#!/usr/bin/env bash
# Boots systemd as PID 1 of a throw-away machine: new namespaces over an overlay of this machine's own root.
#
# usage: boot.sh NAME [PREPARE-COMMAND...]   (root; util-linux and systemd are all it needs)
#
# Everything that is written inside lands in a tmpfs of the mount namespace, so nothing of it reaches this machine.
# PREPARE-COMMAND runs chrooted in the new root, with this machine's network, before systemd starts; its working
# directory is /usr/src/ccexecd, a copy of the checkout, and its python3 the one of $PYTHON_PREFIX. The machine itself has
# a network namespace of its own.
#
# On descriptor 3 it writes one line, "PID" of the machine's PID 1 as seen from here, when that is systemd. It ends, and
# the machine with it, when its standard input ends: a caller that is killed takes the machine along.
set -euo pipefail

readonly checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)

cgroup2_mount() { awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts; }

systemd_program() {
    local program
    for program in /usr/lib/systemd/systemd /lib/systemd/systemd; do
        [ -x "$program" ] && { echo "$program"; return; }
    done
    echo "boot.sh: systemd is not installed" >&2
    return 1
}

# --- inside: the mount, PID, UTS, IPC and cgroup namespaces are new, this shell is PID 1 -------------------------------

overlay_root() { # ROOT
    # The layers must not lie in the file system of the lower one (the kernel calls that a loop): hence a tmpfs.
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs /mnt
    mkdir /mnt/upper /mnt/work "$1"
    mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work "$1"
}

kernel_files() { # ROOT
    local node
    mount -t proc proc "$1/proc"
    mount -t sysfs -o ro sysfs "$1/sys"
    mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 tmpfs "$1/run"
    mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
    mount -t tmpfs -o mode=755 tmpfs "$1/dev"
    for node in null zero full random urandom tty; do
        : > "$1/dev/$node"
        mount --bind "/dev/$node" "$1/dev/$node"
    done
    mkdir "$1/dev/pts" "$1/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$1/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
    ln -s pts/ptmx "$1/dev/ptmx"
    ln -s /proc/self/fd "$1/dev/fd"
}

# The interpreter stays where it is, for its libraries are found by their full paths; but the new root holds only what is
# on the file system of /, and below a private home such as /root the daemon's account could not reach it.
bring_interpreter() { # ROOT PREFIX
    local parent=$2
    if [ "$(stat -c %d "$2")" != "$(stat -c %d /)" ]; then
        mkdir -p "$1$2"
        mount --rbind "$2" "$1$2"
    fi
    while [ "$parent" != / ]; do
        parent=$(dirname "$parent")
        [ -x "$1$parent" ] && chmod a+x "$1$parent"
    done
}

# Only the journal and what the tests start may run: neither this machine's enabled units nor the distribution's boot.
quiet_units() { # ROOT
    local etc=$1/etc/systemd/system wish
    rm -rf "${etc:?}" && mkdir -p "$etc"
    for wish in "$1"/{usr/,}lib/systemd/system/{sysinit,local-fs,sockets,timers,basic}.target.wants/*; do
        case ${wish##*/} in
            systemd-journal* | dbus.socket | '*') ;;
            *) ln -sf /dev/null "$etc/${wish##*/}" ;;
        esac
    done
    mount -t tmpfs tmpfs "$1/usr/lib/systemd/system-generators"
    printf '[Unit]\nRequires=basic.target dbus.socket\nAfter=basic.target dbus.socket\nAllowIsolate=yes\n' > "$etc/test.target"
    ln -s test.target "$etc/default.target"
    : > "$1/etc/fstab"
    tr -d - < /proc/sys/kernel/random/uuid > "$1/etc/machine-id"
}

prepare() { # ROOT PATH COMMAND...
    local root=$1 path=$2
    shift 2
    mkdir -p "$root/usr/src/ccexecd"
    tar -C "$checkout" --exclude=.git --exclude='.*_cache' --exclude='*.egg-info' --exclude=./build -cf - . |
        tar -C "$root/usr/src/ccexecd" --no-same-owner -xf -
    cp --remove-destination --dereference /etc/resolv.conf /etc/hosts "$root/etc/" # bound files in containers
    chroot "$root" env --chdir=/usr/src/ccexecd PATH="$path" "$@"
}

inside() { # [PREPARE-COMMAND...]
    local root=/mnt/new path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin prefix=${PYTHON_PREFIX:-/usr}
    overlay_root "$root"
    kernel_files "$root"
    quiet_units "$root"
    bring_interpreter "$root" "$prefix"
    [ $# -eq 0 ] || prepare "$root" "$prefix/bin:$path" "$@"
    cd "$root"
    mkdir -p mnt
    pivot_root . mnt
    umount -l /mnt
    exec unshare --net --uts env -i container=unshare PATH="$path" \
        "$(systemd_program)" --log-target=journal --show-status=false
}

# --- outside ----------------------------------------------------------------------------------------------------------

# The machine's PID 1: the only child of unshare.
machine_init() { # UNSHARE-PID
    local children
    children=$(cat "/proc/$1/task/$1/children" 2> /dev/null) && [ -n "$children" ] && echo "${children%% *}"
}

# Prints the PID of the machine's PID 1 once it is systemd; nothing when it or the caller ended first.
first_process() { # UNSHARE-PID
    local pid
    while [ -d "/proc/$1" ]; do
        pid=$(machine_init "$1" || true)
        [ "$(cat "/proc/${pid:-none}/comm" 2> /dev/null)" = systemd ] && { echo "$pid"; return; }
        read -rt 0.02 || [ $? -gt 128 ] || return 0 # a pause that notices the caller's end
    done
}

sweep() { # UNSHARE-PID CGROUP
    # PID 1 first: unshare ends when that one has, and that one when the kernel has ended everybody else in its namespace.
    kill -KILL "$(machine_init "$1" || echo "$1")" 2> /dev/null || true
    wait "$1" 2> /dev/null || true
    for _ in $(seq 250); do
        find "$2" -depth -type d -exec rmdir {} + 2> /dev/null || true
        [ -d "$2" ] || return 0
        sleep 0.02
    done
    echo "boot.sh: $2 is still in use" >&2
    return 1
}

outside() { # NAME [PREPARE-COMMAND...]
    local cgroup
    cgroup=$(cgroup2_mount)/$1
    shift
    mkdir "$cgroup"
    # KILL of unshare is KILL of the machine's PID 1 (--kill-child), and that one's end is everybody's in its namespace.
    (
        echo "$BASHPID" > "$cgroup/cgroup.procs"
        exec setpriv --pdeathsig KILL unshare --mount --pid --uts --ipc --cgroup --fork --kill-child \
            "${BASH_SOURCE[0]}" --inside "$@" < /dev/null 3>&-
    ) &
    # shellcheck disable=SC2064 # the values of now: the trap runs outside this function
    trap "sweep $! '$cgroup'" EXIT
    first_process "$!" >&3
    exec 3>&-
    cat > /dev/null
}

case ${1:?boot.sh NAME [PREPARE-COMMAND...]} in
    --inside) shift && inside "$@" ;;
    *) outside "$@" ;;
esac
