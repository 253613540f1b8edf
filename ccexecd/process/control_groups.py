"""Control groups: where the kernel itself keeps the list of what belongs to an execution.

Owns what we do below /sys/fs/cgroup (version 2), where that was left to us; elsewhere everything goes without. The
daemon makes one group, its `Base`, with a group for itself in it. Each execution has a `Leaf` there, which its leader
is born into and nothing can leave that may not write to a group outside: not by `setsid`, not by `su`, not by forking
faster than anybody looks. A leaf is killed at once, stands still at once, counts processor time and bounds memory and
processes.

Standard library only: the keeper imports it without site-packages. Must not decide when anything ends.
"""

import fcntl
import os
import time

from ccexecd.process import containment

_PREFIX = "ccexecd-"
_NUMBER = 4  # bytes of what follows that
_HEX = set("0123456789abcdef")
_OWN = "daemon"  # the group of the daemon: one that divides its resources may have no processes of its own
_CONTROLLERS = ("memory", "pids")
_DELEGATED = ("trusted.delegate", "user.delegate")  # systemd marks what it delegates; only root sees the first
_ATTEMPTS = 3
_DYING = 1.0  # seconds that killed processes may take to leave their group
_LOOK = 0.002  # seconds between looks whether they have


class Base:
    """The control group that holds all other groups of one daemon.

    Attributes:
        path: its directory below /sys/fs/cgroup.
        lock: a descriptor of that directory with a lock (flock(2)); daemon and keeper hold it, so that another daemon
            can tell a group in use from one that was left behind.
    """

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self.lock = lock

    def kill_leaves(self) -> None:
        """Kill everything in every leaf. Call it only without a keeper, when nothing can be started in them."""
        for name in _groups_in(self.path):
            if name != _OWN:
                leaf = Leaf(os.path.join(self.path, name))
                leaf.kill()
                leaf.remove()

    def dissolve(self) -> None:
        """Leave the group and remove what is empty of it; the keeper, still in it, removes the rest."""
        move_to(os.path.dirname(self.path))
        remove(self.path)
        os.close(self.lock)


def claim() -> Base | None:
    """Make a base below our own group and move into it; kill and remove the bases that dead daemons left there.

    Returns:
        The base; None if our group was not delegated to us, or no group can be made.
    """
    home = _home()
    if home is None or not _is_left_to_us(home):
        return None
    _sweep(home)
    for _ in range(_ATTEMPTS):
        base = _make_base(home)
        if base is not None:
            return base
    return None


def _make_base(home: str) -> Base | None:
    path = os.path.join(home, f"{_PREFIX}{os.urandom(_NUMBER).hex()}")
    try:
        os.mkdir(path)
        lock = _locked(path)
        if lock is None:  # another daemon that came up took it for a dead one's
            return None
        os.mkdir(os.path.join(path, _OWN))
    except OSError:
        return None
    if move_to(os.path.join(path, _OWN)):
        _share_resources(home)
        _share_resources(path)
    return Base(path, lock)


def _share_resources(group: str) -> None:
    """Enable the resource controllers for the groups below this one, unless it is the root, which is the machine's."""
    if os.path.exists(os.path.join(group, "cgroup.type")):
        for controller in _CONTROLLERS:
            _write(os.path.join(group, "cgroup.subtree_control"), f"+{controller}")


def _sweep(home: str) -> None:
    for name in _groups_in(home):
        path = os.path.join(home, name)
        if _is_base(name) and (lock := _locked(path)) is not None:
            _write(os.path.join(path, "cgroup.kill"), "1")
            deadline = time.monotonic() + _DYING
            while not remove(path) and time.monotonic() < deadline:
                time.sleep(_LOOK)
            os.close(lock)


def _is_base(name: str) -> bool:
    """Whether a group's name is one that only `claim` gives: the processes of any other group must not be killed."""
    number = name.removeprefix(_PREFIX)
    return name.startswith(_PREFIX) and len(number) == 2 * _NUMBER and set(number) <= _HEX


def _locked(path: str) -> int | None:
    """Lock a group and return the descriptor that holds the lock; None if another process holds it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _home() -> str | None:
    """Return the directory of our own group; None without version 2 of control groups."""
    own = group_of("self")
    for line in _read("/proc/self/mountinfo").splitlines():
        fields = line.split()
        if own is not None and fields[fields.index("-") + 1] == "cgroup2":
            below = os.path.relpath(own, fields[3])  # a part of the hierarchy may be all that is mounted
            return None if below.startswith("..") else os.path.normpath(os.path.join(fields[4], below))
    return None


def _is_left_to_us(group: str) -> bool:
    """Whether a group is delegated to us, so that we may make groups in it: systemd marks those it delegates."""
    if not all(os.access(path, os.W_OK) for path in (group, os.path.join(group, "cgroup.procs"))):
        return False
    if not os.path.exists("/run/systemd/system"):
        return True
    return any(_attribute(group, name) == b"1" for name in _DELEGATED)


def _attribute(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name)
    except OSError:
        return b""


class Leaf:
    """A control group that leaders are born in, as a rule one.

    Its methods raise nothing if the group is gone or the kernel refuses: the walk over processes does the same work.

    Attributes:
        path: its directory below /sys/fs/cgroup.
        numbers: the numbers of the executions that were born in it and are not over.
        is_shared: more than one execution has been in it at a time.
        is_reserved: no other leader may be born in it.
        is_reached: the keeper has succeeded in moving into it.
        is_vacated: the keeper has moved out of it.
    """

    __slots__ = ("is_reached", "is_reserved", "is_shared", "is_vacated", "numbers", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.numbers: set[int] = set()
        self.is_shared = False
        self.is_reserved = False
        self.is_reached = False
        self.is_vacated = False

    @property
    def is_its_own(self) -> bool:
        """Whether everything in it belongs to one execution, so that it can be killed, frozen and limited as one."""
        return self.is_vacated and not self.is_shared

    def kill(self) -> None:
        """KILL everything in it, in one step that no fork outruns."""
        _write(self._file("cgroup.kill"), "1")

    @property
    def has_others(self) -> bool:
        """Whether anything but this process is in it, or a group below it."""
        inside = _read(self._file("cgroup.procs")).split()
        return inside != [str(os.getpid())] or bool(_groups_in(self.path))

    def freeze(self) -> bool:
        """Ask the kernel to freeze everything in it. Returns whether it will; `is_frozen` tells when it is done."""
        return _write(self._file("cgroup.freeze"), "1")

    def thaw(self) -> None:
        """Undo `freeze`."""
        _write(self._file("cgroup.freeze"), "0")

    @property
    def is_frozen(self) -> bool:
        """Whether everything in it is frozen."""
        return _fields(self._file("cgroup.events")).get("frozen") == 1

    @property
    def cpu_seconds(self) -> float:
        """Processor time in seconds of everything that has ever run in it."""
        return _fields(self._file("cpu.stat")).get("usage_usec", 0) / 1e6

    @property
    def has_run_out_of_memory(self) -> bool:
        """Whether the kernel has killed something in it for want of memory."""
        return _fields(self._file("memory.events")).get("oom_kill", 0) > 0

    @property
    def can_limit_memory(self) -> bool:
        """Whether the memory controller is enabled for it."""
        return os.access(self._file("memory.max"), os.W_OK)

    def limit_memory(self, size: int) -> bool:
        """Limit the memory of all its processes together. Where they need more, the kernel kills all of them.

        Args:
            size: the limit in bytes.

        Returns:
            Whether the limit is in force.
        """
        _write(self._file("memory.oom.group"), "1")
        _write(self._file("memory.swap.max"), "0")
        return _write(self._file("memory.max"), str(size))

    def limit_processes(self, count: int) -> bool:
        """Limit the number of its processes and threads. Returns whether the limit is in force."""
        return _write(self._file("pids.max"), str(count))

    def remove(self) -> bool:
        """Remove it and the groups below it. Returns whether it is gone; a living process in it prevents that."""
        return remove(self.path)

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)


# Files of the kernel


def group_of(pid: str) -> str | None:
    """Return the path of a process's group in the hierarchy of version 2; None if there is no such process or group."""
    groups = (line for line in _read(f"/proc/{pid}/cgroup").splitlines() if line.startswith("0::"))
    return next((line[3:] for line in groups), None)


def _groups_in(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def move_to(group: str) -> bool:
    """Move the calling process into a group. Returns whether that was possible."""
    return _write(os.path.join(group, "cgroup.procs"), "0")


def remove(path: str) -> bool:
    """Remove a group and the groups below it, where they are empty. Returns whether all are gone."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:  # EBUSY: there are groups below it, or processes in it
        below = _groups_in(path)
        for name in below:
            remove(os.path.join(path, name))
        return bool(below) and not _groups_in(path) and remove(path)
    return True


def _fields(path: str) -> dict[str, int]:
    """Read a file whose lines are a name and a number."""
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _read(path: str) -> str:
    return containment.read(path).decode(errors="surrogateescape")


def _write(path: str, text: str) -> bool:
    """Write a text to a file below /sys/fs/cgroup in one write. Returns whether the kernel took it."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)
