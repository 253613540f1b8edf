"""What processes use: for people who look, never for a decision.

Owns the one use of psutil. It reads many files below /proc, so it runs in a worker thread, and psutil is imported
when it is first needed: it would add a third to the daemon's start.
"""

from typing import Any

import trio


async def usage(pids: list[int]) -> dict[str, Any]:
    """What some processes use together, now.

    Args:
        pids: those that are there; one that has ended meanwhile counts nothing.

    Returns:
        ``processes``, a list of ``{pid, name, cpu_seconds, memory_bytes}``, and the sums ``cpu_seconds`` (user and
        system time since each began) and ``memory_bytes`` (resident; shared pages count for each).
    """
    return await trio.to_thread.run_sync(_usage, pids)


def _usage(pids: list[int]) -> dict[str, Any]:
    import psutil  # noqa: PLC0415  # see above

    processes: list[dict[str, Any]] = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times, memory, name = process.cpu_times(), process.memory_info(), process.name()
        except psutil.Error:
            continue
        processes.append(
            {"pid": pid, "name": name, "cpu_seconds": times.user + times.system, "memory_bytes": memory.rss}
        )
    return {
        "processes": processes,
        "cpu_seconds": round(sum(each["cpu_seconds"] for each in processes), 3),
        "memory_bytes": sum(each["memory_bytes"] for each in processes),
    }
