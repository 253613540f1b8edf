"""The standard input of one execution.

Owns the daemon's end of the pipe and the order of the writes. Must not know who writes.
"""

import contextlib
import functools
import os
from collections.abc import Awaitable, Callable

import trio

REMEMBERED_WRITES = 1000
"""Latest named writes that are remembered: a client repeats a write soon after its connection was cut, or never."""


class StdinClosedError(Exception):
    """The standard input of an execution takes nothing; the text says why."""


class StandardInput:
    """Writes to the standard input of one execution, one request after another.

    Args:
        execution_id: its id, for error messages.
        spawned: set when the execution has started, or could not be started.
    """

    def __init__(self, execution_id: str, spawned: trio.Event) -> None:
        self._id = execution_id
        self._spawned = spawned
        self._pipe: trio.lowlevel.FdStream | None = None
        self._in_use = trio.Lock()
        self._last: trio.Event | None = None
        self._written: dict[str | None, int] = {}  # how many bytes of each named write, oldest name first

    def open(self, fd: int) -> None:
        """Take the write end of the pipe, which is closed here; writes can proceed from now on."""
        self._pipe = trio.lowlevel.FdStream(fd)

    def write(self, text: bytes, write_id: str | None = None) -> Awaitable[None]:
        """Request a write; it is carried out after earlier requests, and once the execution has started.

        Args:
            text: the bytes.
            write_id: the client's name for this write. If the name was used before, only the bytes that the earlier
                write did not get to the program are written.

        Returns:
            To be awaited until the pipe has taken all bytes. Raises `StdinClosedError` if the standard input was never
            open, was closed, or has no reader any more.
        """
        return self._after_earlier_ones(functools.partial(self._write, text, write_id))

    def close(self) -> Awaitable[None]:
        """Request end of file, after earlier requests.

        Returns:
            To be awaited until it is done.
        """
        return self._after_earlier_ones(self._close)

    def drop(self) -> None:
        """Close it now; a write that is under way fails."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()

    def _after_earlier_ones(self, deed: Callable[[], Awaitable[None]]) -> Awaitable[None]:
        """Give a request its place now, to be awaited later: tasks that wait for one event wake up in any order."""
        previous, done = self._last, trio.Event()
        self._last = done

        async def act() -> None:
            try:
                if previous is not None:
                    await previous.wait()
                await self._spawned.wait()
                async with self._in_use:  # the request before may have been cancelled
                    await deed()
            finally:
                done.set()

        return act()

    async def _write(self, text: bytes, write_id: str | None = None) -> None:
        await trio.lowlevel.checkpoint()
        if self._pipe is None:
            raise StdinClosedError(f"the standard input of execution {self._id} is closed; execute with stdin: open")
        rest = memoryview(text)[self._written.get(write_id, 0) :]
        while rest:
            count = await self._write_some(rest)
            rest = rest[count:]
            if write_id is not None:
                self._remember(write_id, len(text) - len(rest))

    async def _write_some(self, rest: memoryview) -> int:
        """Wait until the pipe takes some bytes; returns how many. If cancelled while waiting, nothing was written."""
        while self._pipe is not None:
            try:
                return os.write(self._pipe.fileno(), rest)
            except BlockingIOError:
                with contextlib.suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_writable(self._pipe.fileno())
            except OSError:  # EPIPE; on a terminal EIO
                break
        raise StdinClosedError(f"the program of execution {self._id} takes no more input")

    def _remember(self, write_id: str, count: int) -> None:
        self._written[write_id] = count
        if len(self._written) > REMEMBERED_WRITES:
            del self._written[next(iter(self._written))]

    async def _close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.drop()
