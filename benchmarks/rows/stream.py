"""M2 and M3: much output of one command: a million short lines, and bulk."""

import asyncio
import gc
import time
from dataclasses import dataclass
from statistics import median

from checks import Kept, digest, must_have_worked
from client import Connection
from processes import cpu_seconds
from rows.row import GIVE_UP_SECONDS, Bench, Figure, Goal, Row
from targets import Server, Target

LATER_RUNS = 4


@dataclass(frozen=True)
class Stream:
    """A command with much output: its words, and what the output must be."""

    command: str
    digest: str
    size: int


async def _stream(server: Server, connection: Connection, stream: Stream) -> dict[str, float]:
    """Run its command once, with the collector of the client at rest; the time ends with the last byte."""
    kept = Kept()
    cpu, own = cpu_seconds(server.pids), time.process_time()
    gc.collect()
    gc.disable()
    try:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            execution = await connection.run(stream.command, kept)
    finally:
        gc.enable()
    figures = {
        "seconds": (execution.last_ns - execution.sent_ns) / 1e9,
        "server_cpu_s": cpu_seconds(server.pids) - cpu,
        "client_cpu_s": time.process_time() - own,
        "notifications": len(kept.parts),
    }
    must_have_worked(execution)
    kept.must_be(stream.digest, stream.size)
    return figures


async def _measure_lines(target: Target, bench: Bench) -> dict[str, float]:
    count = bench.sizes.lines
    text = "".join(f"{number}\n" for number in range(1, count + 1)).encode()
    stream = Stream(f"exec seq 1 {count}", digest([text]), len(text))
    async with target.running(bench.work) as server:
        connection = await server.connect()
        first = await _stream(server, connection, stream)
        later = [await _stream(server, connection, stream) for _ in range(LATER_RUNS)]
        await connection.close()
    return {**first, "later_seconds": median(figures["seconds"] for figures in later)}


async def _measure_bulk(target: Target, bench: Bench) -> dict[str, float]:
    bulk = bench.bulk
    async with target.running(bench.work) as server:
        connection = await server.connect()
        figures = await _stream(server, connection, Stream(f"exec cat {bulk.path}", bulk.digest, bulk.size))
        await connection.close()
    return {**figures, "mb_per_s": bulk.size / 1e6 / figures["seconds"]}


LINES = Row(
    "M2",
    "`seq 1 1000000`, every line there and in order",
    (
        Figure("seconds", "a million short lines, s", 3, Goal(0.6, "node")),
        Figure("later_seconds", "the same again, when all code is warm, s", 3),
        Figure("server_cpu_s", "server's CPU for the first, s"),
    ),
    _measure_lines,
)

BULK = Row(
    "M3",
    "`cat` of 256 MiB of lines of 76 characters, compared by SHA-256",
    (
        Figure("mb_per_s", "bulk, MB/s", 0, Goal(2.5, "node", at_least=True)),
        Figure("server_cpu_s", "server's CPU, s"),
    ),
    _measure_bulk,
)
