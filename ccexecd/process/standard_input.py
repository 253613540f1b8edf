"""The standard input of one execution, from the client's side.

Owns our end of the pipe and the order in which it is used. Must not know who writes.
"""

import contextlib
import functools
import os
from collections.abc import Awaitable, Callable

import trio

REMEMBERED_WRITES = 1000
"""Names of writes that are known: a client repeats one soon after its connection was cut, or never."""


class StdinClosedError(Exception):
    """The standard input of an execution takes nothing; the text says why."""


class StandardInput:
    """What a program reads.

    Args:
        execution_id: for what is complained of.
        spawned: set when it runs, or never will.
    """

    def __init__(self, execution_id: str, spawned: trio.Event) -> None:
        self._id = execution_id
        self._spawned = spawned
        self._pipe: trio.lowlevel.FdStream | None = None
        self._in_use = trio.Lock()
        self._last: trio.Event | None = None
        self._written: dict[str | None, int] = {}  # how many bytes of each named write, oldest name first

    def open(self, fd: int) -> None:
        """It can be written to; the descriptor is this object's from here."""
        self._pipe = trio.lowlevel.FdStream(fd)

    def write(self, text: bytes, write_id: str | None = None) -> Awaitable[None]:
        """Write, once it runs, after the writes that were asked for before.

        Args:
            text: the bytes.
            write_id: the client's name for this write. Under a name that was used before, it goes on where that write
                was given up: what the program has been given once, it is not given again.

        Returns:
            What to await until the pipe has taken all of it. Raises `StdinClosedError` where it was never open, has
            been closed, or the program has closed it.
        """
        return self._after_earlier_ones(functools.partial(self._write, text, write_id))

    def close(self) -> Awaitable[None]:
        """End it, after the writes that were asked for before.

        Returns:
            What to await for it.
        """
        return self._after_earlier_ones(self._close)

    def drop(self) -> None:
        """End it now; a write that is under way fails."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()

    def _after_earlier_ones(self, deed: Callable[[], Awaitable[None]]) -> Awaitable[None]:
        """Queue now for what is awaited later: tasks that wait for the same event wake up in any order."""
        previous, done = self._last, trio.Event()
        self._last = done

        async def act() -> None:
            try:
                if previous is not None:
                    await previous.wait()
                await self._spawned.wait()
                async with self._in_use:  # the one before may have been given up by who asked for it
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
        """Wait until some of it is taken; returns how many bytes. Given up while it waits, it has written nothing."""
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
