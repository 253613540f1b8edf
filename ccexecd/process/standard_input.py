"""The standard input of one execution, from the client's side.

Owns our end of the pipe and the order in which it is used. Must not know who writes.
"""

import functools
from collections.abc import Awaitable, Callable

import trio


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

    def open(self, fd: int) -> None:
        """It can be written to; the descriptor is this object's from here."""
        self._pipe = trio.lowlevel.FdStream(fd)

    def write(self, text: bytes) -> Awaitable[None]:
        """Write, once it runs, after the writes that were asked for before.

        Returns:
            What to await until the pipe has taken all of it. Raises `StdinClosedError` where it was never open, has
            been closed, or the program has closed it.
        """
        return self._after_earlier_ones(functools.partial(self._write, text))

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

    async def _write(self, text: bytes) -> None:
        if self._pipe is None:
            raise StdinClosedError(f"the standard input of execution {self._id} is closed; execute with stdin: open")
        try:
            await self._pipe.send_all(text)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise StdinClosedError(f"the program of execution {self._id} takes no more input") from None

    async def _close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.drop()
