"""A small program that the daemon itself wants something of: told one thing, heard, and ended with all that it started.

Owns its descriptors, its time and the end of its tree. What it is told lies in memory as a file (memfd_create(2)), so
that nobody waits for it to read; what it writes is kept as far as that is bounded, and read on, so that it never waits
for us. It has no window, no log and no watchers: it is no execution. Must not know what it is about.
"""

import os

import attrs
import trio

from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.keeper_link import close_all
from ccexecd.process.leader import Launch, Leader, SpawnError
from ccexecd.process.pump import Pump, Sink, Source

MOST_WRITTEN = 64 * 1024
"""Bytes of its standard output that are kept: what a pipe holds, and far more than anybody has to say."""

MOST_COMPLAINED = 4 * 1024
"""Bytes of its standard error that are kept, the first ones."""

END_PATIENCE = 3.0
"""Seconds after KILL until it is left to the keeper, which goes on ending what it can."""


@attrs.frozen
class Errand:
    """What came of one.

    Attributes:
        exit_code: its exit status, -N when signal N ended it; None where nobody could learn it.
        timed_out: its time was over, and it was ended.
        written: its standard output.
        is_too_much: there was more of that than is kept.
        complaint: its standard error.
        seconds: how long it took.
    """

    exit_code: int | None
    timed_out: bool
    written: bytes
    is_too_much: bool
    complaint: bytes
    seconds: float


class _Kept:
    """What it writes, as far as that is kept."""

    def __init__(self, most: int) -> None:
        self.text = bytearray()
        self.is_too_much = False
        self._most = most

    def add(self, received: bytes) -> None:
        """More has been read."""
        room = self._most - len(self.text)
        self.text += received[:room]
        self.is_too_much = self.is_too_much or len(received) > room


async def run_errand(keeper: KeeperClient, pump: Pump, launch: Launch, told: bytes, patience: float) -> Errand:
    """Run a program to its end, or until its time is over. Cancelled, it is ended first.

    Nothing of it is left when this returns, as far as the kernel can end it: no process and no descriptor.

    Args:
        keeper: starts and ends it.
        pump: reads what it writes.
        launch: what to start.
        told: its standard input.
        patience: seconds that it may take.

    Raises:
        SpawnError: it could not be started.
    """
    began = trio.current_time()
    written, complaint = _Kept(MOST_WRITTEN), _Kept(MOST_COMPLAINED)
    leader, sources = await _start(keeper, pump, launch, told, (written.add, complaint.add))
    try:
        with trio.move_on_after(patience) as time:
            await leader.exited.wait()
    finally:
        await _end(keeper, leader)
        for source in sources:
            source.close()
    return Errand(
        leader.exit.code if leader.exit is not None else None,
        time.cancelled_caught,
        bytes(written.text),
        written.is_too_much,
        bytes(complaint.text),
        trio.current_time() - began,
    )


async def _start(
    keeper: KeeperClient, pump: Pump, launch: Launch, told: bytes, sinks: tuple[Sink, Sink]
) -> tuple[Leader, list[Source]]:
    """Start it; it cannot be interrupted: the keeper answers, or is lost and then told so."""
    ours: list[int] = []
    theirs: list[int] = []
    try:
        theirs.append(_file_with(told))
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
    """End all of it, and wait until that is so; bounded."""
    with trio.CancelScope(shield=True):
        if not leader.gone.is_set():
            await keeper.kill(leader)
            with trio.move_on_after(END_PATIENCE):
                await leader.gone.wait()


def _file_with(text: bytes) -> int:
    """A file that holds a text, to be read from its beginning, and nobody else's."""
    fd = os.memfd_create("ccexecd-errand", os.MFD_CLOEXEC)
    try:
        rest = memoryview(text)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd
