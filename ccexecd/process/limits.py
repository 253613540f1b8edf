"""The limits of an execution, and its preference as the first to be killed when the machine runs out of memory.

Owns the limits of a tree, inside the keeper. A limit that a control group supports is set on the tree's leaf, where the
kernel applies it to all processes together. The others are set for the leader before its first instruction, and its
descendants inherit them; since the kernel applies these to each process alone, processor time and memory are added up
for the tree by a `Watch`, at intervals and once more when the leader has ended. The kernel's own limit of processor
time is a little higher, for the case that the keeper cannot act. Standard library only. Must not end anything: it says
which limit has been exceeded.
"""

import contextlib
import math
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ccexecd.process.containment import Process, read, stat_of
from ccexecd.process.control_groups import Leaf

Limits = Mapping[str, float]
"""Limits by their names on the wire: `memory_bytes`, `cpu_seconds`, `processes`, `open_files`, `file_bytes`, `nice`."""

OOM_SCORE = 200
"""Added to the keeper's own `oom_score_adj` (proc(5)) for the leaders that it starts. The kernel then ranks them as if
they used a fifth of the machine's memory more than they do, and kills them before the daemon, which uses little."""

_BACKSTOP = 2  # seconds of processor time beyond the limit after which the kernel acts on a process by itself
_LAST_WARNING = 5  # seconds of processor time from SIGXCPU to SIGKILL
_INTERVAL = 0.25  # seconds between looks at what no control group counts
_SHORTEST_INTERVAL, _LONGEST_INTERVAL = 0.05, 5.0  # seconds between looks at processor time that one counts

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGESIZE")

_SIGNS: dict[int, str] = {signal.SIGXCPU: "cpu_seconds", signal.SIGXFSZ: "file_bytes"}
"""Signals that the kernel sends only when a limit is exceeded (setrlimit(2)), with the name of that limit."""


class OomScore:
    """The keeper's own `oom_score_adj`, which the programs that it starts inherit."""

    def __init__(self) -> None:
        self._fd: int | None = None
        with contextlib.suppress(OSError):  # a sandbox without a writable /proc
            self._fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        self._own = os.pread(self._fd, 16, 0) if self._fd is not None else b"0"

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """While this context is open, programs that are started get a score higher by `OOM_SCORE`."""
        self._set(str(min(int(self._own) + OOM_SCORE, 1000)).encode())
        try:
            yield
        finally:
            self._set(self._own)

    def _set(self, score: bytes) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, score, 0)


def on_processes(limits: Limits, *, memory: bool) -> Callable[[], None] | None:
    """Prepare the limits that the kernel applies to each process alone.

    Args:
        limits: the limits of the execution.
        memory: whether memory is to be limited here, because no control group does it.

    Returns:
        A function that sets the limits of the process that calls it; to be called in the leader's process before it
        executes the program, and may raise OSError. None if there is nothing to set.
    """
    wanted = {}
    if "cpu_seconds" in limits:
        seconds = math.ceil(limits["cpu_seconds"]) + _BACKSTOP
        wanted[resource.RLIMIT_CPU] = (seconds, seconds + _LAST_WARNING)
    if "memory_bytes" in limits and memory:
        wanted[resource.RLIMIT_AS] = (int(limits["memory_bytes"]),) * 2
    for name, kind in (("open_files", resource.RLIMIT_NOFILE), ("file_bytes", resource.RLIMIT_FSIZE)):
        if name in limits:
            wanted[kind] = (int(limits[name]),) * 2

    def take_on() -> None:
        for kind, both in wanted.items():
            _, most = resource.getrlimit(kind)  # the administrator's: only root may go beyond it
            soft, hard = both if most == resource.RLIM_INFINITY else (min(each, most) for each in both)
            resource.setrlimit(kind, (soft, hard))
        if "nice" in limits:
            os.setpriority(os.PRIO_PROCESS, 0, max(int(limits["nice"]), os.getpriority(os.PRIO_PROCESS, 0)))

    return take_on if wanted or "nice" in limits else None


def on_tree(limits: Limits, leaf: Leaf | None) -> "Watch | None":
    """Apply the limits that count for all processes of a tree together.

    Args:
        limits: the limits of the execution.
        leaf: the control group of the tree, which the keeper has left; None if it has none to itself.

    Returns:
        The watch that checks the limits that the kernel does not; None if there is no such limit.
    """
    watched = {name: limits[name] for name in ("cpu_seconds", "memory_bytes", "processes") if name in limits}
    if "memory_bytes" in limits and leaf is not None and leaf.limit_memory(int(limits["memory_bytes"])):
        del watched["memory_bytes"]
    if "processes" in limits and leaf is not None and leaf.limit_processes(int(limits["processes"])):
        del watched["processes"]
    return Watch(watched, leaf) if watched else None


def told_by(status: int, limits: Limits, leaf: Leaf | None) -> str | None:
    """Return the name of the limit by which the kernel ended a leader; None if that was not the reason.

    Args:
        status: the leader's exit code, or -N after signal N.
        limits: the limits of the execution.
        leaf: the control group of the tree; None if it has none to itself.
    """
    if status >= 0:
        return None
    if leaf is not None and status == -signal.SIGKILL and leaf.has_run_out_of_memory:
        return "memory_bytes"
    name = _SIGNS.get(-status)
    return name if name in limits else None


class Watch:
    """Checks, at intervals, the limits of one tree that the kernel does not apply to all of it.

    Args:
        limits: the limits to check.
        leaf: the control group of the tree, which counts its processor time; None if it has none to itself.

    Attributes:
        reaped_seconds: processor time of those of its orphans, and of its leader, that the keeper has reaped.
        interval: seconds until the next check: less than the tree needs to use up its processor time. Shorter without a
            control group, since the time of a process that nobody waits for is known only as far as it was seen.
    """

    def __init__(self, limits: Limits, leaf: Leaf | None) -> None:
        self._limits = limits
        self._leaf = leaf
        self._cores = os.cpu_count() or 1
        self._time = ProcessorTime()
        self.interval = 0.0
        self.reaped_seconds = 0.0

    @property
    def knows_reaped(self) -> bool:
        """Whether a control group counts the processor time of reaped processes."""
        return self._leaf is not None

    def exceeded(self, processes: Sequence[Process]) -> str | None:
        """Return the name of a limit that the tree has exceeded; None if it has exceeded none.

        Args:
            processes: all living processes of the tree.
        """
        left = self._seconds_left(processes)
        is_counted = self._leaf is not None and not self._limits.keys() - {"cpu_seconds"}
        self.interval = min(max(left / self._cores, _SHORTEST_INTERVAL), _LONGEST_INTERVAL if is_counted else _INTERVAL)
        if len(processes) > self._limits.get("processes", math.inf):
            return "processes"
        if "memory_bytes" in self._limits:
            memory = self._memory_of([process.pid for process in processes])
            if memory > self._limits["memory_bytes"]:
                return "memory_bytes"
        return "cpu_seconds" if left <= 0 else None

    def _seconds_left(self, processes: Iterable[Process]) -> float:
        most = self._limits.get("cpu_seconds")
        if most is None:
            return math.inf
        return most - (self._leaf.cpu_seconds if self._leaf else self._time.used(processes, self.reaped_seconds))

    def _memory_of(self, pids: list[int]) -> int:
        """Bytes of memory in use. Shared pages are counted exactly only if the result depends on it: that is slower."""
        resident = sum(map(_resident, pids))
        if resident <= self._limits["memory_bytes"]:
            return resident
        return sum(map(_proportional, pids))


class ProcessorTime:
    """The processor time of a tree without a control group: a lower bound.

    The time of dead processes is known from two sources: what the kernel reports to the process that waits for them,
    and what was last seen of each while it lived. Both may cover the same processes, so the larger sum counts. Missed
    is the time of a process that nobody waits for (its parent ignores SIGCHLD): after the last look at it, or all of it
    and of its own dead children if it began and ended between two looks.
    """

    def __init__(self) -> None:
        self._own: dict[tuple[int, int], int] = {}  # ticks of each process by pid and start, as last seen
        self._vanished = 0
        self._most = 0.0

    def used(self, processes: Iterable[Process], reaped: float) -> float:
        """Return the processor time so far, in seconds.

        Args:
            processes: all living processes, parents before children, so that a child that is reaped meanwhile is not
                counted twice.
            reaped: seconds of the processes that the keeper has reaped.
        """
        before, self._own = self._own, {}
        known = {process.pid: process.started for process in processes}
        for pid, started in before:  # processes that are dead but not reaped
            known.setdefault(pid, started)
        waited_for = 0
        for pid, started in known.items():
            stat = stat_of(pid)
            if stat and started in (0, int(stat[19])):
                user, system, of_dead_user, of_dead_system = map(int, stat[11:15])
                self._own[pid, int(stat[19])] = user + system
                waited_for += of_dead_user + of_dead_system
        self._vanished += sum(ticks for who, ticks in before.items() if who not in self._own)
        of_dead = max(self._vanished / _TICKS, waited_for / _TICKS + reaped)
        self._most = max(self._most, sum(self._own.values()) / _TICKS + of_dead)
        return self._most


def _resident(pid: int) -> int:
    return sum(map(int, stat_of(pid)[21:22])) * _PAGE


def _proportional(pid: int) -> int:
    """Bytes of memory, shared pages divided by the number of sharers (Pss); resident size if that may not be read."""
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)
