"""Control groups: where the kernel itself keeps the list of what belongs to an execution.

Owns what we do below /sys/fs/cgroup (version 2), where that was left to us; elsewhere everything goes without. The
daemon makes one group, its `Base`, with a group for itself in it. Each execution has a `Leaf` there, which its leader
is born into and nothing can leave that may not write to a group outside: not by `setsid`, not by `su`, not by forking
faster than anybody looks. A leaf is killed at once, stands still at once, counts processor time and bounds memory and
processes.

A process is born where its parent is. So the keeper always sits in the leaf that the next execution gets (`Leaves`):
moving there costs a tenth of a millisecond, and that is spent when nobody waits for it.

Standard library only: the keeper imports it without site-packages. Must not decide when anything ends.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import secrets

_PREFIX = "ccexecd-"
_OWN = "daemon"  # the group of the daemon: one that divides its resources may have no processes of its own
_CONTROLLERS = ("memory", "pids")
_DELEGATED = ("trusted.delegate", "user.delegate")  # systemd marks what it delegates; only root sees the first
_ATTEMPTS = 3


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
        _move_to(os.path.dirname(self.path))
        _remove(self.path)
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
    path = os.path.join(home, f"{_PREFIX}{secrets.token_hex(4)}")
    try:
        os.mkdir(path)
        lock = _locked(path)
        if lock is None:  # another daemon that came up took it for a dead one's
            return None
        os.mkdir(os.path.join(path, _OWN))
    except OSError:
        return None
    if _move_to(os.path.join(path, _OWN)):
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
        if name.startswith(_PREFIX) and (lock := _locked(path)) is not None:
            _write(os.path.join(path, "cgroup.kill"), "1")
            _remove(path)
            os.close(lock)


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
    own = _group_of("self")
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
    """

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def kill(self) -> None:
        """KILL everything in it, in one step that no fork outruns."""
        _write(self._file("cgroup.kill"), "1")

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

    def remove(self) -> None:
        """Take it away, and what was made below it. Dead processes do not keep it, living ones do."""
        _remove(self.path)

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)


class Leaves:
    """The leaves of one keeper, which calls this from the process that starts leaders.

    Args:
        base: the daemon's group; empty where there are none.
    """

    def __init__(self, base: str) -> None:
        self._base = base
        self._names = map(str, itertools.count(1))
        self._run = secrets.token_hex(4)  # the leaves of a lost keeper may still be there
        self._next: Leaf | None = None
        self._numbers: dict[str, int] = {}
        self.settle()

    def settle(self) -> bool:
        """Sit in a leaf that is nobody's yet, for the next leader to be born there.

        Returns:
            Whether we have left the one where we were.
        """
        if not self._base:
            return True
        self._next = Leaf(os.path.join(self._base, f"{self._run}-{next(self._names)}"))
        try:
            os.mkdir(self._next.path)
        except OSError:  # no more groups are to be had
            self._next = None
        else:
            if _move_to(self._next.path):
                return True
            self._next.remove()
            self._next = None
        return _move_to(os.path.join(self._base, _OWN))

    def take(self, number: int) -> Leaf | None:
        """The leaf where we are becomes that of an execution; `settle` is to follow as soon as its leader runs."""
        leaf, self._next = self._next, None
        if leaf is not None:
            self._numbers[os.path.basename(leaf.path)] = number
        return leaf

    def give_back(self, leaf: Leaf | None) -> None:
        """Nothing was started: the next execution gets it."""
        self._next = leaf
        if leaf is not None:
            del self._numbers[os.path.basename(leaf.path)]

    def forget(self, leaf: Leaf | None) -> None:
        """Its execution is over."""
        if leaf is not None:
            del self._numbers[os.path.basename(leaf.path)]
            leaf.remove()

    def number_of(self, pid: int) -> int | None:
        """The execution in whose leaf a process is; None where it is in none."""
        if not self._numbers:
            return None
        names = iter((_group_of(str(pid)) or "").split("/"))
        base = os.path.basename(self._base)
        return self._numbers.get(next(names, "")) if any(name == base for name in names) else None

    def dissolve(self) -> None:
        """The daemon is lost, and nothing is left of what we started: leave nothing of the groups either."""
        if self._base:
            _move_to(os.path.dirname(self._base))
            _remove(self._base)


# Files of the kernel


def _group_of(pid: str) -> str | None:
    """The path of a process's group within the hierarchy of version 2."""
    groups = (line for line in _read(f"/proc/{pid}/cgroup").splitlines() if line.startswith("0::"))
    return next((line[3:] for line in groups), None)


def _groups_in(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _move_to(group: str) -> bool:
    return _write(os.path.join(group, "cgroup.procs"), "0")


def _remove(path: str) -> None:
    """Remove a group and those below it, as far as they are empty."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            below = _groups_in(path)
            for name in below:
                _remove(os.path.join(path, name))
            if below:
                with contextlib.suppress(OSError):
                    os.rmdir(path)


def _fields(path: str) -> dict[str, int]:
    """A file of lines with a name and a number."""
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


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
