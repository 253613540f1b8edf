"""M1: from `execute` of a command that does nothing to its `process.completed`."""

import asyncio

from checks import must_have_worked
from client import Connection, now
from processes import cpu_seconds
from rows.row import Bench, Figure, Goal, Row, milliseconds
from targets import Server, Target

WARM_UP = 20
CONNECTIONS = 16


async def _once(connection: Connection) -> int:
    execution = await connection.run("true")
    must_have_worked(execution)
    return execution.done_ns - execution.sent_ns


async def _alone(server: Server, count: int) -> dict[str, float]:
    connection = await server.connect()
    for _ in range(WARM_UP):
        await _once(connection)
    cpu = cpu_seconds(server.pids)
    times = [await _once(connection) for _ in range(count)]
    cpu = cpu_seconds(server.pids) - cpu
    await connection.close()
    return {**milliseconds(times, "run"), "server_cpu_ms": cpu * 1000 / count}


async def _together(server: Server, seconds: float) -> dict[str, float]:
    connections = [await server.connect() for _ in range(CONNECTIONS)]
    times: list[int] = []
    began = now()

    async def repeat(connection: Connection) -> None:
        while now() < began + seconds * 1e9:
            times.append(await _once(connection))

    await asyncio.gather(*map(repeat, connections))
    taken = (now() - began) / 1e9
    for connection in connections:
        await connection.close()
    return {"runs_per_s": len(times) / taken, **milliseconds(times, "together")}


async def _measure(target: Target, bench: Bench) -> dict[str, float]:
    async with target.running(bench.work) as server:
        alone = await _alone(server, bench.sizes.round_trips)
        return {**alone, **await _together(server, bench.sizes.busy_seconds)}


ROW = Row(
    "M1",
    "`true`, from the request to `process.completed`, on one connection, then on 16 at once",
    (
        Figure("run_p50_ms", "round trip p50, ms", goal=Goal(0.7, "node")),
        Figure("run_p99_ms", "round trip p99, ms"),
        Figure("runs_per_s", "runs/s over 16 connections", 0, Goal(2, "node", at_least=True)),
        Figure("server_cpu_ms", "server's CPU per run, ms"),
    ),
    _measure,
)
