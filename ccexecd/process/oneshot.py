"""Runs short programs that the daemon needs for itself, such as an operator's hook, each once and to its end.

Such a program gets its input, its output is collected, and it is ended with everything that it started. Owns its
descriptors, its time-out and the end of its tree. The input is a file in memory (memfd_create(2)), so that the daemon
never waits for the program to read it; its output is always read, but only a bounded part of it is kept, so that the
program never waits for the daemon. It is no execution: it has no window, no log and no watchers. Must not know what the
program is for.
"""

import os

import attrs
import trio

from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.keeper_link import close_all
from ccexecd.process.leader import Launch, Leader, SpawnError
from ccexecd.process.pump import Pump, Sink, Source

MOST_STDOUT = 64 * 1024
"""Bytes of standard output that are kept, the first ones: the default size of a pipe, and ample for an answer."""

MOST_STDERR = 4 * 1024
"""Bytes of standard error that are kept, the first ones."""

END_PATIENCE = 3.0
"""Seconds after KILL for which the end is waited for; after that, the keeper goes on by itself."""


@attrs.frozen
class CompletedProgram:
    """How a program ended, and what it wrote.

    Attributes:
        exit_code: exit status, -N if signal N ended it; None if it is not known, as when the keeper was lost.
        timed_out: whether it was ended because its time was over.
        stdout: its standard output, up to `MOST_STDOUT` bytes.
        is_truncated: whether it wrote more than that to its standard output.
        stderr: its standard error, up to `MOST_STDERR` bytes.
        seconds: how long it took.
    """

    exit_code: int | None
    timed_out: bool
    stdout: bytes
    is_truncated: bool
    stderr: bytes
    seconds: float


class _Kept:
    """A sink that keeps the first bytes of a stream."""

    def __init__(self, most: int) -> None:
        self.text = bytearray()
        self.is_truncated = False
        self._most = most

    def add(self, received: bytes) -> None:
        """Take what a read has brought."""
        room = self._most - len(self.text)
        self.text += received[:room]
        self.is_truncated = self.is_truncated or len(received) > room


async def run_program(
    keeper: KeeperClient, pump: Pump, launch: Launch, stdin: bytes, time_limit: float
) -> CompletedProgram:
    """Run a program to its end, or until its time is over. If cancelled, end the program first.

    When this returns, no process of the program (as far as the kernel can end it) and no descriptor is left.

    Args:
        keeper: starts the program and ends it.
        pump: reads its output.
        launch: what to start.
        stdin: its standard input.
        time_limit: seconds that it may take.

    Returns:
        How it ended and what it wrote.

    Raises:
        SpawnError: it could not be started.
    """
    began = trio.current_time()
    stdout, stderr = _Kept(MOST_STDOUT), _Kept(MOST_STDERR)
    leader, sources = await _start(keeper, pump, launch, stdin, (stdout.add, stderr.add))
    try:
        with trio.move_on_after(time_limit) as time:
            await leader.exited.wait()
    finally:
        await _end(keeper, leader)
        for source in sources:
            source.close()
    return CompletedProgram(
        leader.exit.code if leader.exit is not None else None,
        time.cancelled_caught,
        bytes(stdout.text),
        stdout.is_truncated,
        bytes(stderr.text),
        trio.current_time() - began,
    )


async def _start(
    keeper: KeeperClient, pump: Pump, launch: Launch, stdin: bytes, sinks: tuple[Sink, Sink]
) -> tuple[Leader, list[Source]]:
    """Start the program. Cannot be cancelled, and ends always: the keeper answers, or is lost and the start fails."""
    ours: list[int] = []
    theirs: list[int] = []
    try:
        theirs.append(_file_with(stdin))
        for _ in sinks:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(read_end, False)
            ours.append(read_end)
            theirs.append(write_end)
    except OSError as error:  # no descriptors left
        close_all([*ours, *theirs])
        raise SpawnError(error.errno or 0, error.strerror or str(error), "pipe") from None
    settled = trio.Event()
    outcome: list[Leader | SpawnError] = []

    def settle(result: Leader | SpawnError) -> None:
        outcome.append(result)
        settled.set()

    keeper.spawn(launch, theirs, settle)
    with trio.CancelScope(shield=True):
        await settled.wait()
    result = outcome[0]
    if isinstance(result, SpawnError):
        close_all(ours)
        raise result
    sources: list[Source] = []
    try:
        for fd, sink in zip(ours, sinks, strict=True):
            sources.append(pump.add(fd, sink))
    except OSError as error:  # no more can be waited for (epoll(7), max_user_watches)
        for source in sources:
            source.close()
        close_all(ours[len(sources) :])
        await _end(keeper, result)
        raise SpawnError(error.errno or 0, error.strerror or str(error), "pipe") from None
    return result, sources


async def _end(keeper: KeeperClient, leader: Leader) -> None:
    """Kill the whole tree and wait until it is gone, `END_PATIENCE` seconds at most."""
    with trio.CancelScope(shield=True):
        if not leader.gone.is_set():
            await keeper.kill(leader)
            with trio.move_on_after(END_PATIENCE):
                await leader.gone.wait()


def _file_with(text: bytes) -> int:
    """Return the descriptor of a nameless file in memory that holds a text, placed at its beginning."""
    fd = os.memfd_create("ccexecd-stdin", os.MFD_CLOEXEC)
    try:
        rest = memoryview(text)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd
