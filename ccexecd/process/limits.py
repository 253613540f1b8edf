"""What one execution may use, and that it is the first to go when the machine runs out of memory.

Owns the limits of a tree, inside the keeper. Those that a control group can bear are put on its leaf, where the kernel
keeps them for all of its processes together. The rest is the leader's from its first instruction, and its descendants
inherit it; what counts for each process alone there (processor time, memory) is added up for the tree, at intervals, by
a `Watch`, and once more when the leader has ended. The kernel's own limit of processor time lies above: it acts if we
could not.
Standard library only. Must not end anything: it says what has been exceeded.
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
"""By the names of the contract: `memory_bytes`, `cpu_seconds`, `processes`, `open_files`, `file_bytes`, `nice`."""

OOM_SCORE = 200
"""What is added to the keeper's own `oom_score_adj` (proc(5)) for what it starts: as if it used a fifth of the memory
of the machine more than it does, so that the daemon, which uses little, is never the one to go."""

_BACKSTOP = 2  # seconds of processor time beyond the limit after which the kernel acts on a process by itself
_LAST_WARNING = 5  # seconds of processor time from SIGXCPU to SIGKILL
_INTERVAL = 0.25  # seconds between looks at what no control group counts
_SHORTEST_INTERVAL, _LONGEST_INTERVAL = 0.05, 5.0  # seconds between looks at processor time that one counts

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGESIZE")

_SIGNS: dict[int, str] = {signal.SIGXCPU: "cpu_seconds", signal.SIGXFSZ: "file_bytes"}
"""Signals that the kernel sends for no other reason than a limit (setrlimit(2))."""


class OomScore:
    """Our own `oom_score_adj`, which what we start inherits."""

    def __init__(self) -> None:
        self._fd: int | None = None
        with contextlib.suppress(OSError):  # a sandbox without a writable /proc
            self._fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        self._own = os.pread(self._fd, 16, 0) if self._fd is not None else b"0"

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Have what is started inside ended before us when memory runs out."""
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
    """What each process bears by itself.

    Args:
        limits: those that were asked for.
        memory: it is not a control group that bears it.

    Returns:
        To be called in the leader's place, before it becomes the program: what that starts inherits it. None where
        there is nothing to do. Raises OSError.
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
    """What all processes bear together.

    Args:
        limits: those that were asked for.
        leaf: the control group that they are in, and we are not.

    Returns:
        What has to be looked at from now on; None where the kernel sees to all of it.
    """
    watched = {name: limits[name] for name in ("cpu_seconds", "memory_bytes", "processes") if name in limits}
    if "memory_bytes" in limits and leaf is not None and leaf.limit_memory(int(limits["memory_bytes"])):
        del watched["memory_bytes"]
    if "processes" in limits and leaf is not None and leaf.limit_processes(int(limits["processes"])):
        del watched["processes"]
    return Watch(watched, leaf) if watched else None


def told_by(status: int, limits: Limits, leaf: Leaf | None) -> str | None:
    """Which limit ended a leader, as far as the kernel says so.

    Args:
        status: its exit code, or -N after signal N.
        limits: what it was given.
        leaf: its control group.
    """
    if status >= 0:
        return None
    if leaf is not None and status == -signal.SIGKILL and leaf.has_run_out_of_memory:
        return "memory_bytes"
    name = _SIGNS.get(-status)
    return name if name in limits else None


class Watch:
    """What is looked at, at intervals, of one tree.

    Args:
        limits: those that the kernel does not keep for the whole tree.
        leaf: its control group.

    Attributes:
        reaped_seconds: processor time of its orphans, and of its leader, that have been waited for.
        interval: seconds from one look to the next. No tree can use up its processor time within it. Without a control
            group it is shorter: of what dies and is waited for by nobody, only what has been seen is known.
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
        """Whether the time of what has been reaped is counted in a control group."""
        return self._leaf is not None

    def exceeded(self, processes: Sequence[Process]) -> str | None:
        """The name of a limit that the tree is beyond.

        Args:
            processes: all that is alive of it.
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
        """Bytes in memory. What processes share is counted exactly only where it decides: that takes longer."""
        resident = sum(map(_resident, pids))
        if resident <= self._limits["memory_bytes"]:
            return resident
        return sum(map(_proportional, pids))


class ProcessorTime:
    """The processor time of a tree that no control group counts: at least what is given, never less than that.

    Two things are known of its dead: what those who waited for them have been told, and what was seen of each while it
    lived. Both may be of the same dead, so the larger counts. What is missed: the time after the last look of a process
    that nobody waits for (its parent ignores SIGCHLD), one that comes and goes between two looks, and what such a one
    was told of its own dead.
    """

    def __init__(self) -> None:
        self._own: dict[tuple[int, int], int] = {}  # ticks of each process by pid and start, as last seen
        self._vanished = 0
        self._most = 0.0

    def used(self, processes: Iterable[Process], reaped: float) -> float:
        """Seconds so far.

        Args:
            processes: all that is alive, each behind its parent: what is waited for meanwhile is not counted twice.
            reaped: seconds of what we have waited for.
        """
        before, self._own = self._own, {}
        known = {process.pid: process.started for process in processes}
        for pid, started in before:  # dead ones that nobody has waited for yet are no longer among the living
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
    """Bytes in memory, those that it shares with others divided by their number; all of them where we may not look."""
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)
