"""Processor time and memory that processes use.

Owns the one use of psutil. It reads many files below /proc, so it runs in a worker thread, and psutil is imported
when it is first needed: it would add a third to the daemon's start. Must not signal anything.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ccexecd.threads import NoThreadError, in_thread

MEASURED = 2000
"""Processes that are looked at in one pass; each takes about 0.1 ms of the interpreter's time."""

_LONGEST_NAME = 100
"""Characters of a name: the kernel keeps 15 bytes, and psutil completes them from the command line."""


async def usage(pids: Sequence[int]) -> dict[str, Any]:
    """Measure what some processes use together, now.

    Args:
        pids: the processes; `MEASURED` of them are measured, and one that has ended meanwhile is left out.

    Returns:
        ``processes``, a list of ``{pid, ppid, name, state, cpu_seconds, memory_bytes}``; their number,
        ``process_count``; and the sums ``cpu_seconds`` (user and system time since each began) and ``memory_bytes``
        (resident; shared pages count for each).
    """
    return (await usage_of_each({0: pids}))[0]


async def usage_of_each(trees: Mapping[Any, Sequence[int]]) -> dict[Any, dict[str, Any]]:
    """Measure several trees in one pass.

    Args:
        trees: the pids of each tree, under any key. Once `MEASURED` processes were measured, the rest is left out.

    Returns:
        For each key what `usage` returns.
    """
    try:
        return await in_thread(partial(_usage_of_each, trees))
    except NoThreadError:  # whoever asks why, or whether a silent agent is at work, has to be answered all the same
        return _usage_of_each(trees)


def _usage_of_each(trees: Mapping[Any, Sequence[int]]) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    room = MEASURED
    for name, pids in trees.items():
        found[name] = _usage(pids[:room])
        room -= len(pids[:room])
    return found


def _usage(pids: Sequence[int]) -> dict[str, Any]:
    processes = [each for each in map(_look_at, pids) if each is not None]
    return {
        "processes": processes,
        "process_count": len(processes),
        "cpu_seconds": round(sum(each["cpu_seconds"] for each in processes), 3),
        "memory_bytes": sum(each["memory_bytes"] for each in processes),
    }


def _look_at(pid: int) -> dict[str, Any] | None:
    import psutil  # noqa: PLC0415  # see above

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return {
                "pid": pid,
                "ppid": process.ppid(),
                "name": _as_text(process.name()),
                "state": process.status(),
                "cpu_seconds": round(times.user + times.system, 3),
                "memory_bytes": process.memory_info().rss,
            }
    except psutil.Error:
        return None


def _as_text(name: str) -> str:
    """Make a name fit for JSON: it may be any bytes, which Python reads as lone surrogates (PEP 383)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")[:_LONGEST_NAME]
