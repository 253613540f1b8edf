"""Which processes belong to which execution, and signals that never hit a stranger.

Owns membership without cgroups. The process that calls is a subreaper and the parent of every leader, so everything
that an execution started is below it: by descent from a living leader, or, once orphaned, as a direct child. An
orphan is told apart by its tag: its soft RLIMIT_RTTIME, which a leader is started with, which fork, exec, setsid,
`env -i` and a double fork inherit, which any user may read in /proc/PID/limits, and which does nothing to a process
that is not scheduled in real time. What has lost it (`su` resets every limit) is still known if it was met below its
leader before. Identity is a pid together with its start time, checked again after a pidfd has
pinned the pid.

Standard library only: the keeper imports it without site-packages. Must not decide when anything ends.
"""

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

_TAG_BASE = 1 << 60
"""Above every limit that anybody sets (2^60 microseconds are 36,000 years) and below RLIM_INFINITY."""

_EPOCH_BITS = 28
_NUMBER_BITS = 32

STOPPED = frozenset("Tt")
DEAD = frozenset("ZX")

_WALKS = 50
"""Walks after which a tree that changes faster than it can be walked is taken as it was met."""


class Process(NamedTuple):
    """One process as /proc shows it.

    Attributes:
        pid: its number.
        state: one letter (proc(5)) for all of its threads: one of `DEAD` only if every one is dead, one of `STOPPED`
            only if none runs.
        started: clock ticks after boot; with the pid it tells a process from a later one of the same number.
        parent: the number of its parent.
        group: its process group.
    """

    pid: int
    state: str
    started: int
    parent: int = 0
    group: int = 0

    @property
    def identity(self) -> tuple[int, int]:
        """Pid and start time, which no other process shares until the machine is restarted."""
        return self.pid, self.started


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
    return int.from_bytes(os.urandom(4)) >> 32 - _EPOCH_BITS  # the secrets module would bring OpenSSL along: 4 MiB


@contextlib.contextmanager
def tagged(epoch: int, number: int) -> Iterator[None]:
    """Give the processes that are started inside the tag of an execution.

    The calling process has it for the moment, too, and then its own again: a keeper may itself be in an execution.
    """
    own = resource.getrlimit(resource.RLIMIT_RTTIME)
    tag = _TAG_BASE | epoch << _NUMBER_BITS | number
    if own[1] == resource.RLIM_INFINITY or own[1] >= tag:
        resource.setrlimit(resource.RLIMIT_RTTIME, (tag, own[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_RTTIME, own)


def read(path: str) -> bytes:
    """Return all of a file in /proc, whose lists come a page per read; empty if the file or its process is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    text = b""
    try:
        while part := os.read(fd, 65536):
            text += part
    except OSError:  # ESRCH: it ended between open and read
        return b""
    else:
        return text
    finally:
        os.close(fd)


def stat_of(pid: int | str) -> list[bytes]:
    """Return the fields of /proc/PID/stat (proc(5)) from the state on, which has index 0; empty if it has ended."""
    return read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()


def look_up(pid: int) -> Process | None:
    """Return what /proc says of a process; None if no process has this pid."""
    fields = stat_of(pid)
    if not fields:
        return None
    state = fields[0].decode()
    if int(fields[17]) > 1 and (state in STOPPED or state in DEAD):
        state = _state_of_threads(pid, state)
    return Process(pid, state, int(fields[19]), int(fields[1]), int(fields[2]))


def _state_of_threads(pid: int, state: str) -> str:
    """Return the state of a process whose first thread has stopped or ended, while other threads may still run."""
    for thread in _threads(pid):
        of_thread = next(iter(stat_of(f"{pid}/task/{thread}")), b"X").decode()
        if of_thread in STOPPED:
            state = of_thread
        elif of_thread not in DEAD:
            return of_thread
    return state


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def children_of(pid: int) -> list[int]:
    """Return the pids of a process's children, whichever of its threads forked them."""
    return [int(child) for thread in _threads(pid) for child in read(f"/proc/{pid}/task/{thread}/children").split()]


def not_yet(running: Iterable[Process]) -> set[int]:
    """Return the pids of those processes that must not be stopped until others of them have stopped."""
    running = list(running)
    return let_exec(running) | jobs(running)


def jobs(running: Iterable[Process]) -> set[int]:
    """Return the pids of processes whose running parent has put them into a group of their own, as a shell does.

    A running shell that sees its job stop reports that and takes the terminal back; a stopped shell notices nothing.
    So the parent has to be stopped first.
    """
    groups = {process.pid: process.group for process in running}
    return {process.pid for process in running if groups.get(process.parent, process.group) != process.group}


def let_exec(running: Iterable[Process]) -> set[int]:
    """Continue stopped vfork children, since a parent that waits in vfork cannot stop until its child has exec'ed.

    Returns:
        The pids of all such children: each is to be stopped only after its exec.
    """
    children = [child for process in running if process.state == "D" for child in borrowers(process.pid)]
    for child in children:
        if child.state in STOPPED:
            send(child, signal.SIGCONT)
    return {child.pid for child in children}


def borrowers(pid: int) -> list[Process]:
    """Return the living children that share the memory of a process until they exec (vfork(2))."""
    memory = _memory_of(pid)
    children = (look_up(child) for child in children_of(pid) if _memory_of(child) == memory)
    return [child for child in children if child is not None and child.state not in DEAD]


def _memory_of(pid: int) -> list[bytes]:
    """Return virtual and resident size: equal for processes that share their memory, for others only by chance."""
    return stat_of(pid)[20:22]


def _tag_of(pid: int) -> int | None:
    limits = read(f"/proc/{pid}/limits")
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
    """All processes below the calling one, each assigned to its execution.

    Args:
        epoch: the number (`new_epoch`) that this keeper's tags contain.
        number_of: called with a pid; returns the number of the execution whose control group it is in, or None if its
            control group does not tell.

    Attributes:
        leaders: number of the execution by the pid of its leader, for every leader that has not been reaped.
    """

    def __init__(self, epoch: int, number_of: Callable[[int], int | None] = lambda _: None) -> None:
        self._root = os.getpid()
        self._number_of = number_of
        self._epoch = epoch
        self.leaders: dict[int, int] = {}
        self._owners: dict[int, int | None] = {}  # execution by pid of orphan, until that is reaped
        self._met: dict[int, dict[int, int]] = {}  # by execution: start time by pid of what was found

    def reaped(self, pid: int) -> None:
        """Forget a child that has been reaped: the kernel may give its pid to another process now."""
        self._owners.pop(pid, None)

    def forget(self, number: int) -> None:
        """Forget an execution that is over."""
        self._met.pop(number, None)

    def members(self, number: int) -> list[Process]:
        """Walk the tree of one execution and return its living processes."""
        found = self._below(lambda pid: self.owner(pid) == number)
        if found:
            self._met.setdefault(number, {}).update((process.pid, process.started) for process in found)
        return found

    def orphans(self, number: int) -> list[Process]:
        """Return the living processes of one execution whose leader is dead, whether or not it has been reaped.

        The kernel reparents the leader's children to this process before anybody can see that the leader is dead.
        """
        return self._below(lambda pid: pid not in self.leaders and self.owner(pid) == number)

    def strays(self) -> list[Process]:
        """Return the living processes below this one that cannot be assigned to an execution."""
        return self._below(lambda pid: self.owner(pid) is None)

    def _children(self) -> list[int]:
        """Return our children, all of the main thread: it forks the leaders, and the kernel gives orphans to it."""
        return [int(pid) for pid in read(f"/proc/{self._root}/task/{self._root}/children").split()]

    def owner(self, child: int) -> int | None:
        """Return the execution's number of a direct child, or None; looked up once, since there may be thousands."""
        if child in self.leaders:
            return self.leaders[child]
        if child not in self._owners:
            self._owners[child] = self._owner_of_orphan(child)
        return self._owners[child]

    def _owner_of_orphan(self, child: int) -> int | None:
        """Return the execution's number of an orphan, or None.

        Tried in order: its tag; its control group, if the tag was reset (`su`) or is another keeper's; whether an
        earlier walk met it below a leader.
        """
        tag = _tag_of(child)
        if tag is not None and tag >> _NUMBER_BITS == (_TAG_BASE >> _NUMBER_BITS | self._epoch):
            return tag & ((1 << _NUMBER_BITS) - 1)
        number = self._number_of(child)
        if number is not None:
            return number
        process = look_up(child)
        started = process.started if process is not None else None
        return next((number for number, met in self._met.items() if met.get(child) == started is not None), None)

    def _below(self, belongs: Callable[[int], bool]) -> list[Process]:
        """Return the living processes among, and below, those of our children for which `belongs` is true.

        A process that dies during a walk hands its children up to us, perhaps past where the walk has been. So the
        walk is repeated until it meets no newly dead process.
        """
        dead: set[int] = set()
        for _ in range(_WALKS):
            found, met_dead = _walk(pid for pid in self._children() if belongs(pid))
            just_died = met_dead - dead
            if not just_died:
                return found
            dead |= just_died
        return found or [Process(pid, "?", 0) for pid in just_died]  # not to be taken for empty


def _walk(roots: Iterable[int]) -> tuple[list[Process], set[int]]:
    """Return the living processes among the roots and below them, and the pids of the dead ones that were met."""
    found = []
    dead = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        process = look_up(pid)
        if process is None or process.state in DEAD:
            dead.add(pid)
        else:
            found.append(process)
            todo += children_of(pid)
    return found, dead
