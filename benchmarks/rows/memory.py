"""M5: memory: idle, per connection, per running command, and while a reader stalls."""

import asyncio

from checks import Repeated, must_be_in_order, must_have_worked
from client import Connection, Execution, until
from processes import proportional_mib, resident_mib
from rows.row import Bench, Figure, Goal, Row
from targets import Server, Target

SETTLE_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
SAMPLE_SECONDS = 0.02
STALL_LIMIT_MIB = 6144
"""Growth at which a stall is ended early, for the sake of the machine."""


async def _per_hundred(server: Server, crowd: int, command: str | None) -> float:
    """MiB that a hundred connections take, each running a command or none."""
    before = resident_mib(server.pids)
    connections = [await server.connect() for _ in range(crowd)]
    if command:
        await _start_on_all(connections, command)
    await asyncio.sleep(SETTLE_SECONDS)
    grown = resident_mib(server.pids) - before
    for connection in connections:
        await connection.close()
    return grown * 100 / crowd


async def _start_on_all(connections: list[Connection], command: str) -> None:
    executions = [connection.execute(command) for connection in connections]
    await until(lambda: all(execution.first_ns for execution in executions), PATIENCE_SECONDS, 0.05)


async def _stall(server: Server, seconds: float) -> dict[str, float]:
    connection = await server.connect()
    flood = Repeated("y\n")
    execution = connection.execute("exec yes", flood)
    await until(lambda: flood.characters, PATIENCE_SECONDS)
    before = resident_mib(server.pids)
    connection.stop_reading()
    grown = await _highest(server, seconds, before + STALL_LIMIT_MIB) - before
    if grown < STALL_LIMIT_MIB:  # else it would take minutes to read all that
        await _go_on(connection, execution, flood)
    await connection.close()
    return {"stall_mib": grown}


async def _highest(server: Server, seconds: float, limit: float) -> float:
    highest = 0.0
    for _ in range(int(seconds / SAMPLE_SECONDS)):
        highest = max(highest, resident_mib(server.pids))
        if highest > limit:
            break
        await asyncio.sleep(SAMPLE_SECONDS)
    return highest


async def _go_on(connection: Connection, execution: Execution, flood: Repeated) -> None:
    """The connection must be good for more: output goes on (a gap is allowed), and the command can be cancelled."""
    arrived = flood.characters
    connection.read_again()
    await until(lambda: flood.characters > arrived, PATIENCE_SECONDS)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await connection.control("CANCEL")
        await execution.done
    must_be_in_order(execution)
    flood.must_be_right()


async def _measure(target: Target, bench: Bench) -> dict[str, float]:
    crowd = bench.sizes.crowd
    async with target.running(bench.work) as server:
        figures = {
            "idle_mib": resident_mib(server.pids),
            "idle_pss_mib": proportional_mib(server.pids),
            "connections_mib": await _per_hundred(server, crowd, None),
        }
    async with target.running(bench.work) as server:
        must_have_worked(await (await server.connect()).run("true"))  # what only the first command costs is not counted
        figures["running_mib"] = await _per_hundred(server, crowd, "echo up; exec sleep 300")
    async with target.running(bench.work) as server:
        return {**figures, **await _stall(server, bench.sizes.stall_seconds)}


ROW = Row(
    "M5",
    "resident memory of the server, with ccexecd's keeper; the reader stalls for 10 s under `yes`",
    (
        Figure("idle_mib", "idle, MiB", 1, Goal(45)),
        Figure("idle_pss_mib", "idle, shared pages once, MiB", 1),
        Figure("connections_mib", "per 100 idle connections, MiB", 1, Goal(4)),
        Figure("running_mib", "per 100 running commands, each on its connection, MiB", 1, Goal(5)),
        Figure("stall_mib", "growth with a stalled reader, MiB", 1, Goal(10)),
    ),
    _measure,
)
