"""M8: many commands at once, each printing 100 lines a second."""

import asyncio
import time

from checks import Ticks, must_have_worked
from client import Connection, Execution, now
from processes import cpu_seconds
from rows.row import Bench, Figure, Goal, Row, milliseconds
from targets import Target

INTERVAL_US = 10_000
GRACE_SECONDS = 60.0
"""How long after its last line a server may take to deliver."""

LATE_NS = 1_000_000_000
"""A command whose first line comes so long after the common start was started too late: the lead was too short."""

GOALS = {100: Goal(0.25, "node"), 500: Goal(0.7, "node")}


async def _start_seconds(connection: Connection, count: int) -> float:
    """How long to wait until all have certainly begun: twice what the starts should take."""
    execution = await connection.run("true")
    return 1.0 + 2 * count * (execution.done_ns - execution.sent_ns) / 1e9


def _start(connections: list[Connection], bench: Bench, begin: int) -> tuple[list[Ticks], list[Execution]]:
    """One ticker on each, spread evenly over the interval."""
    count = len(connections)
    ticks = [Ticks() for _ in connections]
    executions = []
    for number, (connection, sink) in enumerate(zip(connections, ticks, strict=True)):
        first = begin + number * INTERVAL_US * 1000 // count
        command = f"exec {bench.ticker} {INTERVAL_US} {bench.sizes.ticks_of_each} {first}"
        executions.append(connection.execute(command, sink))
    return ticks, executions


async def _measure(target: Target, bench: Bench, count: int) -> dict[str, float]:
    lines = bench.sizes.ticks_of_each
    async with target.running(bench.work) as server:
        connections = [await server.connect() for _ in range(count)]
        lead = await _start_seconds(connections[0], count)
        cpu, own = cpu_seconds(server.pids), time.process_time()
        begin = now() + int(lead * 1e9)
        ticks, executions = _start(connections, bench, begin)
        async with asyncio.timeout(lead + lines * INTERVAL_US / 1e6 + GRACE_SECONDS):
            await asyncio.gather(*(execution.done for execution in executions))
        figures = {
            "lasted_s": (now() - begin) / 1e9,
            "late_starts": sum(execution.first_ns > begin + LATE_NS for execution in executions),
            "server_cpu_s": cpu_seconds(server.pids) - cpu,
            "client_cpu_s": time.process_time() - own,
        }
        for connection in connections:
            await connection.close()
    for sink, execution in zip(ticks, executions, strict=True):
        must_have_worked(execution)
        sink.must_be(lines)
    delays = [delay for sink in ticks for delay in sink.delays]
    return {**milliseconds(delays, "line"), **figures}


def row(count: int) -> Row:
    """M8 with so many commands.

    Args:
        count: commands, each on a connection of its own.
    """
    return Row(
        f"M8x{count}",
        f"{count} commands print 100 lines/s each for 10 s; nothing lost",
        (
            Figure("line_p50_ms", "delay of a line p50, ms", 2),
            Figure("line_p99_ms", "delay of a line p99, ms", 2, GOALS.get(count)),
            Figure("server_cpu_s", "server's CPU, s", 1),
        ),
        lambda target, bench: _measure(target, bench, count),
    )
