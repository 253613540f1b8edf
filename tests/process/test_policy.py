"""What a slow watcher means for a program, and what its silence means, with real programs."""

import hashlib
import sys
from pathlib import Path

import pytest
import trio

from ccexecd.core.entries import Chunk
from ccexecd.core.execution import Event, Reason, State
from ccexecd.core.spec import Spec
from ccexecd.process.execution import Execution
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.pump import Pump
from ccexecd.process.supervisor import Start, supervise

from .stage import launch_of

WINDOW = 1024 * 1024
SIZE = 20_000_000
WRITER = f"import sys; sys.stdout.write('0123456789abcdef' * {SIZE // 16}); sys.stdout.flush()"


@pytest.fixture
async def start():
    """Starts executions; whatever is left of them at the end is ended."""
    async with trio.open_nursery() as nursery:
        keeper, pump = KeeperClient(0o022), Pump()
        await nursery.start(keeper.run)
        nursery.start_soon(pump.run)
        started = []

        def begin(*argv, **spec):
            execution = Execution(Spec(argv, " ".join(argv), **spec), "session", keeper, pump, WINDOW)
            execution.apply(Event.ADMIT)
            started.append(execution)
            start = Start(execution, keeper, launch_of(execution))
            nursery.start_soon(supervise, execution, keeper, pump, start)
            return execution

        yield begin
        for execution in started:
            if execution.is_live:
                execution.cancel(Reason.SHUTDOWN, 0.0)
                await execution.finished.wait()
        nursery.cancel_scope.cancel()


def is_writing(execution):
    """Whether the leader waits in a write: its pipe is full, and nobody reads."""
    wchan = Path(f"/proc/{execution.pid}/wchan").read_text()
    return "pipe_write" in wchan


async def until(condition):
    """Wait for a condition, bounded by the caller's scope."""
    while not condition():
        await trio.sleep(0.005)


async def test_a_blocking_watcher_holds_the_program_and_misses_nothing(start):
    """Under policy block, a watcher that stops stops the program; when it goes on, every byte comes, in order."""
    with trio.fail_after(30):
        execution = start(sys.executable, "-c", WRITER, framing="raw", policy="block")
        cursor = execution.log.cursor(0)
        await until(lambda: execution.log.backlog > WINDOW // 4 and is_writing(execution))
        assert execution.log.dropped_bytes == 0
        received = hashlib.sha256()
        size = 0
        while not cursor.finished:
            entry = cursor.take()
            execution.was_read()
            if isinstance(entry, Chunk):
                received.update(entry.piece.text)
                size += len(entry.piece.text)
            elif entry is None:
                await trio.lowlevel.checkpoint()
        cursor.close()
    assert size == SIZE
    assert received.hexdigest() == hashlib.sha256(b"0123456789abcdef" * (SIZE // 16)).hexdigest()


async def test_without_watchers_nothing_blocks(start):
    """Under policy block too, a program that nobody watches runs to its end."""
    with trio.fail_after(30):
        execution = start(sys.executable, "-c", WRITER, framing="raw", policy="block")
        await execution.finished.wait()
    assert execution.outcome.exit_code == 0
    assert execution.log.sizes["stdout"] == SIZE


async def test_a_watcher_that_goes_lets_the_program_go_on(start):
    """A program that was held for a watcher goes on when that watcher goes away."""
    with trio.fail_after(30):
        execution = start(sys.executable, "-c", WRITER, framing="raw", policy="block")
        cursor = execution.log.cursor(0)
        await until(lambda: execution.log.backlog > WINDOW // 4 and is_writing(execution))
        cursor.close()
        execution.was_read()
        await execution.finished.wait()
    assert execution.outcome.exit_code == 0


async def test_by_default_the_program_never_waits(start):
    """Under drop_oldest, a watcher that stops does not stop the program: it gets a gap."""
    with trio.fail_after(30):
        execution = start(sys.executable, "-c", WRITER, framing="raw")
        cursor = execution.log.cursor(0)
        await execution.finished.wait()
    assert execution.log.dropped_bytes > 0
    gap = cursor.take()
    assert gap.from_seq == 1
    assert gap.dropped_bytes == execution.log.dropped_bytes
    cursor.close()


async def test_a_silent_program_is_warned_of_and_ended(start):
    """After four fifths of the stall time-out comes process.stalled, after all of it the end, for reason stalled."""
    with trio.fail_after(20):
        execution = start("sh", "-c", "echo once; exec sleep 600", stall_timeout=0.3)
        cursor = execution.log.cursor(0)
        await execution.finished.wait()
    methods = []
    while (entry := cursor.take()) is not None:
        methods.append("output" if isinstance(entry, Chunk) else entry.method)
    cursor.close()
    assert methods == ["process.started", "output", "process.stalled", "process.completed"]
    assert execution.outcome.reason is Reason.STALLED


async def test_a_program_that_writes_is_not_stalled(start):
    """Either stream counts: one byte in time, and the clock starts anew."""
    with trio.fail_after(30):
        script = "for i in 1 2 3 4 5 6; do sleep 0.3; echo $i >&2; done"
        execution = start("sh", "-c", script, stall_timeout=1.0)
        await execution.finished.wait()
    assert execution.outcome.reason is Reason.EXITED
    assert execution.log.sizes["stderr"] == 12


async def test_a_pause_is_not_silence(start):
    """While an execution is paused, the stall clock stands still."""
    with trio.fail_after(20):
        execution = start("sleep", "600", stall_timeout=0.4)
        await execution.spawned.wait()
        await execution.pause()
        idle = execution.idle_seconds
        await trio.sleep(0.8)  # twice the time-out goes by: the duration is the subject here
        assert execution.idle_seconds == idle
        assert execution.state is State.PAUSED
        await execution.resume()
        await execution.finished.wait()
    assert execution.outcome.reason is Reason.STALLED
