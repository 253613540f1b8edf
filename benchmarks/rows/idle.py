"""M7: how fast it starts, and what it costs when nothing happens."""

import asyncio
import subprocess
import time
import urllib.request
from pathlib import Path
from statistics import median

from processes import scheduled
from rows.row import Bench, Figure, Goal, Row
from targets import Target, environment, free_port, new_directory

STARTS = 3
SETTLE_SECONDS = 1.0


def _import_ms(python: Path) -> float:
    """Start of an interpreter that imports what a Trio server cannot do without."""
    began = time.monotonic()
    subprocess.run([python, "-c", "import trio, trio_websocket"], env=environment({}), check=True)
    return (time.monotonic() - began) * 1000


def _healthy_ms(program: Path, work: Path) -> float:
    """`ccexecctl start` until GET /health says healthy, in a state directory of its own."""
    port = free_port()
    control = [program.with_name("ccexecctl"), "--state-dir", new_directory(work, "start")]
    began = time.monotonic()
    subprocess.run([*control, "start", "--port", str(port)], env=environment({}), check=True, stdout=subprocess.DEVNULL)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            answer.read()
        return (time.monotonic() - began) * 1000
    finally:
        subprocess.run([*control, "stop"], env=environment({}), check=True, stdout=subprocess.DEVNULL)


def _relative_start(bench: Bench) -> dict[str, float]:
    """The two in turn, so that a busy moment meets both."""
    python = bench.ccexecd.with_name("python")
    pairs = [(_import_ms(python), _healthy_ms(bench.ccexecd, bench.work)) for _ in range(STARTS)]
    imports, starts = (median(times) for times in zip(*pairs, strict=True))
    return {"import_ms": imports, "healthy_ms": starts, "healthy_to_import": starts / imports}


async def _start_ms(target: Target, bench: Bench) -> float:
    async with target.running(bench.work) as server:
        return server.start_ms


async def _idle(target: Target, bench: Bench) -> dict[str, float]:
    async with target.running(bench.work) as server:
        await asyncio.sleep(SETTLE_SECONDS)
        before = scheduled(server.pids)
        await asyncio.sleep(bench.sizes.idle_seconds)
        after = scheduled(server.pids)
    return {"idle_cpu_ms": after[0] - before[0], "idle_turns": after[1] - before[1]}


async def _measure(target: Target, bench: Bench) -> dict[str, float]:
    figures = {"start_ms": median([await _start_ms(target, bench) for _ in range(STARTS)])}
    figures |= await _idle(target, bench)
    if target.name == "ccexecd":
        figures |= await asyncio.to_thread(_relative_start, bench)
    return figures


ROW = Row(
    "M7",
    "start until the first greeting; `ccexecctl start` until healthy beside `python -c 'import trio, trio_websocket'`; "
    "processor time in 10 s without a client",
    (
        Figure("start_ms", "start to first greeting, ms", 0),
        Figure("healthy_ms", "`ccexecctl start` to healthy, ms", 0),
        Figure("healthy_to_import", "the same, times the imports alone", 2, Goal(2)),
        Figure("idle_cpu_ms", "CPU in 10 s idle, ms", 2, Goal(0.5)),
        Figure("idle_turns", "wake-ups in 10 s idle", 0, Goal(0)),
    ),
    _measure,
)
