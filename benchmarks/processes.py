"""What the kernel knows about a server's processes: their memory, processor time, descriptors and descendants."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PPID, _UTIME, _STIME, _STARTED = 1, 11, 12, 19
"""Fields of /proc/PID/stat, counted from the one after the name (proc_pid_stat(5))."""


class Process(NamedTuple):
    """A process, told from a later one of the same number by the time of its start."""

    pid: int
    started: int


def descendants(root: int) -> dict[Process, str]:
    """All processes below one, and the state of each ("Z" is a zombie)."""
    children: dict[int, list[tuple[Process, str]]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            process = Process(int(entry.name), int(fields[_STARTED]))
            children.setdefault(int(fields[_PPID]), []).append((process, fields[0]))
    found: dict[Process, str] = {}
    todo = [root]
    while todo:
        for process, state in children.get(todo.pop(), ()):
            found[process] = state
            todo.append(process.pid)
    return found


def kill_what_is_left(processes: Iterable[Process]) -> int:
    """Kill those that still live; return how many that were."""
    left = [process for process in processes if is_alive(process)]
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    return len(left)


def is_alive(process: Process) -> bool:
    """Whether it runs still; a zombie does not."""
    fields = _stat(process.pid)
    return fields is not None and int(fields[_STARTED]) == process.started and fields[0] != "Z"


def resident_mib(pids: Iterable[int]) -> float:
    """MiB of memory in use (RSS), pages that several share counted for each."""
    return sum(_line("status", pid, "VmRSS:") for pid in pids) / 1024


def proportional_mib(pids: Iterable[int]) -> float:
    """MiB of memory in use (PSS), shared pages counted once."""
    return sum(_line("smaps_rollup", pid, "Pss:") for pid in pids) / 1024


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time so far, ended threads included; to 10 ms."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        ticks += int(fields[_UTIME]) + int(fields[_STIME]) if fields else 0
    return ticks / _TICKS


def scheduled(pids: Iterable[int]) -> tuple[float, int]:
    """Milliseconds on a processor and number of times put on one, of the threads that live: exact, for idle servers."""
    nanoseconds = turns = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            ran, _, times = thread.joinpath("schedstat").read_text().split()
            nanoseconds += int(ran)
            turns += int(times)
    return nanoseconds / 1e6, turns


def descriptors(pid: int) -> int:
    """How many descriptors it has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def machine_jiffies() -> tuple[int, int]:
    """Processor time of the whole machine so far, and how much of it nobody wanted; in ticks."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return sum(fields[:8]), fields[3] + fields[4]


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _line(file: str, pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0
