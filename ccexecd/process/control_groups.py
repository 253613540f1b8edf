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
    """The group below which all others of one daemon are.

    Attributes:
        path: where it is.
        lock: a descriptor of it that holds a lock: as long as anybody has it, somebody looks after the group.
    """

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self.lock = lock

    def kill_leaves(self) -> None:
        """End all that is in any leaf: there is no keeper, and nobody new is born in one."""
        for name in _groups_in(self.path):
            if name != _OWN:
                leaf = Leaf(os.path.join(self.path, name))
                leaf.kill()
                leaf.remove()

    def dissolve(self) -> None:
        """Go back to where we came from; what is not empty yet is left to the keeper, which lives on in it."""
        move_to(os.path.dirname(self.path))
        remove(self.path)
        os.close(self.lock)


def claim() -> Base | None:
    """Make a base below the group that we are in, and move into it; end what a dead daemon left beside it.

    Returns:
        None where nobody left us a group.
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
    """Let the groups below have limits of their own. The root of the hierarchy is the whole machine's: left alone."""
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
    """Whether a group is called as only daemons call theirs: what is in somebody else's must not be killed."""
    number = name.removeprefix(_PREFIX)
    return name.startswith(_PREFIX) and len(number) == 2 * _NUMBER and set(number) <= _HEX


def _locked(path: str) -> int | None:
    """A descriptor of a group that nobody looks after, and now we do."""
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
    """The group that we are in; None without version 2 of control groups."""
    own = group_of("self")
    for line in _read("/proc/self/mountinfo").splitlines():
        fields = line.split()
        if own is not None and fields[fields.index("-") + 1] == "cgroup2":
            below = os.path.relpath(own, fields[3])  # a part of the hierarchy may be all that is mounted
            return None if below.startswith("..") else os.path.normpath(os.path.join(fields[4], below))
    return None


def _is_left_to_us(group: str) -> bool:
    """Whether we may make groups there: systemd says so of those that it manages."""
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
    """The group of one execution.

    Whatever cannot be done there (any more) is not complained of: the walk over processes does it, too.

    Attributes:
        path: where it is.
        numbers: the executions that were born in it and are not over.
        is_shared: these were more than one.
        is_reserved: nobody else is to be born in it.
        is_reached: the keeper could move there.
        is_vacated: the keeper has left it.
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
        """Whether all that is in it belongs to one execution: it can be used as a group."""
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
        """Have everything in it stand still. Returns whether it will; `is_frozen` tells when it does."""
        return _write(self._file("cgroup.freeze"), "1")

    def thaw(self) -> None:
        """Let it go on."""
        _write(self._file("cgroup.freeze"), "0")

    @property
    def is_frozen(self) -> bool:
        """Whether everything in it stands still."""
        return _fields(self._file("cgroup.events")).get("frozen") == 1

    @property
    def cpu_seconds(self) -> float:
        """The processor time of everything that has ever been in it."""
        return _fields(self._file("cpu.stat")).get("usage_usec", 0) / 1e6

    @property
    def has_run_out_of_memory(self) -> bool:
        """Whether the kernel has killed something in it for want of memory."""
        return _fields(self._file("memory.events")).get("oom_kill", 0) > 0

    @property
    def can_limit_memory(self) -> bool:
        """Whether memory is among what we may divide."""
        return os.access(self._file("memory.max"), os.W_OK)

    def limit_memory(self, size: int) -> bool:
        """Bound the memory of all of it together. When that is not enough, the kernel kills all of it.

        Returns:
            Whether it is bounded.
        """
        _write(self._file("memory.oom.group"), "1")
        _write(self._file("memory.swap.max"), "0")
        return _write(self._file("memory.max"), str(size))

    def limit_processes(self, count: int) -> bool:
        """Bound its processes and threads. Returns whether they are."""
        return _write(self._file("pids.max"), str(count))

    def remove(self) -> bool:
        """Take it away, and what was made below it; returns whether it is gone. Only what lives in it keeps it."""
        return remove(self.path)

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)


# Files of the kernel


def group_of(pid: str) -> str | None:
    """The path of a process's group within the hierarchy of version 2; None where there is neither."""
    groups = (line for line in _read(f"/proc/{pid}/cgroup").splitlines() if line.startswith("0::"))
    return next((line[3:] for line in groups), None)


def _groups_in(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def move_to(group: str) -> bool:
    """Move into a group; returns whether that was possible."""
    return _write(os.path.join(group, "cgroup.procs"), "0")


def remove(path: str) -> bool:
    """Remove a group and those below it, as far as they are empty; returns whether all are gone."""
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
    """A file of lines with a name and a number."""
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _read(path: str) -> str:
    return containment.read(path).decode(errors="surrogateescape")


def _write(path: str, text: str) -> bool:
    """Write to a file of the kernel's, whole. Returns whether it was taken."""
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
