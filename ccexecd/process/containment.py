"""Which processes belong to which execution, and signals that never hit a stranger.

Owns membership without cgroups. The process that calls is a subreaper and the parent of every leader, so everything
that an execution started is below it: by descent from a living leader, or, once orphaned, as a direct child. An
orphan is told apart by its tag: its soft RLIMIT_RTTIME, which a leader is started with, which fork, exec, setsid,
`env -i` and a double fork inherit, which any user may read in /proc/PID/limits, and which does nothing to a process
that is not scheduled in real time. Identity is a pid together with its start time, checked again after a pidfd has
pinned the pid.

Standard library only: the keeper imports it without site-packages. Must not decide when anything ends.
"""

import ctypes
import os
import resource
import secrets
import signal
from collections.abc import Iterable
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

_TAG_BASE = 1 << 60
"""Above every limit that anybody sets (2^60 microseconds are 36,000 years) and below RLIM_INFINITY."""

_EPOCH_BITS = 28
_NUMBER_BITS = 32

STOPPED = frozenset("Tt")
DEAD = frozenset("ZX")


class Process(NamedTuple):
    """One process as /proc/PID/stat shows it.

    Attributes:
        pid: its number.
        state: one letter (proc(5)); `DEAD` and `STOPPED` name the groups that matter.
        started: clock ticks after boot; with the pid it tells a process from a later one of the same number.
    """

    pid: int
    state: str
    started: int


def become_subreaper() -> None:
    """Make orphaned descendants of this process its children.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def new_epoch() -> int:
    """A number for one keeper's life, so that its tags differ from those of a daemon inside or outside of it."""
    return secrets.randbits(_EPOCH_BITS)


def tag_children(epoch: int, number: int) -> None:
    """Give the processes that this one starts from now on the tag of an execution."""
    _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    tag = _TAG_BASE | epoch << _NUMBER_BITS | number
    if hard == resource.RLIM_INFINITY or hard >= tag:
        resource.setrlimit(resource.RLIMIT_RTTIME, (tag, hard))


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 65536)
    except OSError:  # ESRCH: it ended between open and read
        return b""
    finally:
        os.close(fd)


def look_up(pid: int) -> Process | None:
    """What /proc says of a process; None when there is none of that number."""
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return Process(pid, fields[0].decode(), int(fields[19]))


def children_of(pid: int) -> list[int]:
    """The children of a process, whichever of its threads forked them."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    return [int(child) for thread in threads for child in _read(f"/proc/{pid}/task/{thread}/children").split()]


def _tag_of(pid: int) -> int | None:
    limits = _read(f"/proc/{pid}/limits")
    at = limits.find(b"Max realtime timeout")
    soft = limits[at + 20 : at + 60].split(None, 1)[:1] if at >= 0 else []
    return int(soft[0]) if soft and soft[0].isdigit() and int(soft[0]) >= _TAG_BASE else None


def send(process: Process, signum: int) -> bool:
    """Signal exactly this process, never a later one with its number.

    Returns:
        Whether it was signalled; False when it has ended, or may not be signalled (a set-uid program).
    """
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        now = look_up(process.pid)
        if now is None or now.started != process.started:
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(pidfd)


class Forest:
    """Every process below this one, told apart by execution.

    Attributes:
        leaders: pid of each leader that has not been reaped yet, and the number of its execution.
    """

    def __init__(self, epoch: int) -> None:
        self._root = os.getpid()
        self._epoch = epoch
        self.leaders: dict[int, int] = {}

    def members(self, number: int) -> list[Process]:
        """The living processes of one execution, found anew."""
        return self._below(pid for pid in self._children() if self._owner(pid) == number)

    def orphans(self, number: int) -> list[Process]:
        """The living processes of one execution whose leader is dead, reaped or not.

        The kernel made the leader's children ours before it let anybody see that the leader is dead.
        """
        return self._below(pid for pid in self._children() if pid not in self.leaders and self._owner(pid) == number)

    def strays(self) -> list[Process]:
        """The living processes below this one that belong to no execution that can be told."""
        return self._below(pid for pid in self._children() if self._owner(pid) is None)

    def _children(self) -> list[int]:
        """Our children. Only the main thread has any: it forks the leaders, and the kernel gives orphans to it."""
        return [int(pid) for pid in _read(f"/proc/{self._root}/task/{self._root}/children").split()]

    def _owner(self, child: int) -> int | None:
        """Whose a direct child is. A leader is known by its pid; an orphan by its tag."""
        if child in self.leaders:
            return self.leaders[child]
        tag = _tag_of(child)
        if tag is None or tag >> _NUMBER_BITS != (_TAG_BASE >> _NUMBER_BITS | self._epoch):
            return None
        return tag & ((1 << _NUMBER_BITS) - 1)

    @staticmethod
    def _below(roots: Iterable[int]) -> list[Process]:
        found = []
        todo = list(roots)
        while todo:
            pid = todo.pop()
            process = look_up(pid)
            if process is None:
                continue
            if process.state not in DEAD:
                found.append(process)
            todo += children_of(pid)  # of a dead one too: its other threads may live on
        return found
