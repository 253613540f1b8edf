"""M4: how soon a little output is there: the first byte, and a line every 10 ms."""

from checks import Ticks, must_have_worked
from client import Connection
from rows.row import Bench, Figure, Goal, Row, milliseconds
from targets import Target

WARM_UP = 2
INTERVAL_US = 10_000


async def _first_byte(connection: Connection) -> int:
    """The command goes on after its output, so that its end does not push the output out."""
    execution = await connection.run("echo x; exec sleep 0.05")
    must_have_worked(execution)
    return execution.first_ns - execution.sent_ns


async def _measure(target: Target, bench: Bench) -> dict[str, float]:
    async with target.running(bench.work) as server:
        connection = await server.connect()
        first = [await _first_byte(connection) for _ in range(WARM_UP + bench.sizes.first_bytes)][WARM_UP:]
        ticks = Ticks()
        execution = await connection.run(f"exec {bench.ticker} {INTERVAL_US} {bench.sizes.ticks}", ticks)
        await connection.close()
    must_have_worked(execution)
    ticks.must_be(bench.sizes.ticks)
    return {**milliseconds(first, "first"), **milliseconds(ticks.delays, "line")}


ROW = Row(
    "M4",
    "`echo x` until it is there; delay of a line printed every 10 ms",
    (
        Figure("first_p50_ms", "first byte p50, ms", goal=Goal(0.5, "node")),
        Figure("line_p50_ms", "delay of a line p50, ms", 3),
        Figure("line_p99_ms", "delay of a line p99, ms", 3, Goal(0.8, "node")),
    ),
    _measure,
)
