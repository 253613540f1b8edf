"""M6: PAUSE and RESUME while output floods the connection."""

import asyncio
import random

from checks import Repeated, must_be_in_order
from client import now, until
from rows.row import Bench, Figure, Goal, Row, milliseconds
from targets import Target

QUIET_NS = 30_000_000
"""Without output for so long, the paused command counts as silent."""

SILENCE_SECONDS = 60.0


async def _silence(flood: Repeated, since: int) -> int:
    """Wait until nothing more arrives; return the nanoseconds from a time until the last of it."""
    await until(lambda: now() - max(flood.last_ns, since) >= QUIET_NS, SILENCE_SECONDS)
    return max(flood.last_ns - since, 0)


async def _flow(flood: Repeated) -> None:
    """Wait until more arrives."""
    before = flood.characters
    await until(lambda: flood.characters > before, SILENCE_SECONDS)


async def _measure(target: Target, bench: Bench) -> dict[str, float]:
    pauses, resumes, silences = [], [], []
    flowing = 0  # nanoseconds
    moments = random.Random(6)
    async with target.running(bench.work) as server:
        connection = await server.connect()
        flood = Repeated("y\n")
        execution = connection.execute("exec yes", flood)
        for _ in range(bench.sizes.pauses):
            await _flow(flood)
            resumed = now()
            await asyncio.sleep(moments.uniform(0.02, 0.05))
            asked = now()
            pauses.append(await connection.control("PAUSE"))
            silences.append(await _silence(flood, asked))
            flowing += max(flood.last_ns, asked) - resumed
            resumes.append(await connection.control("RESUME"))
        await connection.control("CANCEL")
        async with asyncio.timeout(SILENCE_SECONDS):
            await execution.done
        await connection.close()
    must_be_in_order(execution)
    flood.must_be_right()
    return {
        **milliseconds(pauses, "pause"),
        **milliseconds(resumes, "resume"),
        **milliseconds(silences, "silence"),
        "flood_mb_per_s": flood.characters * 1000 / flowing,
        "dropped_bytes": execution.dropped_bytes,
    }


ROW = Row(
    "M6",
    "PAUSE and RESUME of `yes`, from the request to the reply; and to the last output before the pause",
    (
        Figure("pause_p50_ms", "PAUSE p50, ms"),
        Figure("pause_p99_ms", "PAUSE p99, ms", goal=Goal(0.15, "node")),
        Figure("silence_p50_ms", "PAUSE to silence p50, ms"),
        Figure("resume_p50_ms", "RESUME p50, ms"),
        Figure("flood_mb_per_s", "the flood meanwhile, MB/s", 0),
    ),
    _measure,
)
