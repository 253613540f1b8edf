"""Sending to one connection: the only code that writes to its socket.

Theory of operation. Two kinds of data wait for a socket: urgent ones (replies, pongs, the handshake), in a queue, and
output, which stays in the logs and is fetched from them only when the socket takes it. So a slow reader costs no
memory beyond its urgent queue, which is bounded by making those who fill it wait (`room`), and a reply overtakes any
amount of output.

`flush` writes at once, in the caller's step: no task has to be woken for a reply or a line. Only when the socket takes
no more, the writer's own task waits until there is room, and goes on. A frame that was written in part is always
finished first; that is why nothing else may write to the socket.

Owns the queue, the order of writes, and giving up a peer that takes nothing. Must not know what the bytes mean.
"""

import os
from collections import OrderedDict, deque
from typing import Protocol

import trio

FLUSH_BUDGET = 512 * 1024
"""Bytes written in one step of the event loop; the writer's task then writes the rest, with other tasks in between."""

GATHER = 64 * 1024
"""Bytes gathered into one write: small frames share a system call."""

URGENT_LIMIT = 1024 * 1024
"""Bytes of urgent data beyond which `room` makes the sender wait."""


class OutputSource(Protocol):
    """Something that gives frames for a connection when it is asked, such as a subscription."""

    def next_frames(self) -> bytes | None:
        """The next frame or frames, whole and ready to be sent; None when there is nothing for now."""


class Writer:
    """The sending side of one connection.

    Args:
        fd: the connected socket, non-blocking. The caller closes it.
        patience: seconds for which the peer may take nothing before the connection is given up.

    Attributes:
        broken: why nothing can be sent any more; empty while it can.
    """

    def __init__(self, fd: int, patience: float) -> None:
        self._fd = fd
        self._patience = patience
        self._urgent: deque[bytes] = deque()
        self._urgent_bytes = 0
        self._ready: OrderedDict[OutputSource, None] = OrderedDict()  # a set; the next one to be asked first
        self._begun: memoryview | None = None
        self._blocked = False
        self._waiting = trio.CancelScope()  # around the wait for the peer
        self._wanted = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self.broken = ""

    def send(self, frame: bytes) -> None:
        """Send a frame before any output; at once if the socket takes it."""
        self.queue(frame)
        self.flush()

    def queue(self, frame: bytes) -> None:
        """Send a frame before any output, with the next `flush`."""
        if not self.broken:
            self._urgent.append(frame)
            self._urgent_bytes += len(frame)

    def has_output(self, source: OutputSource) -> None:
        """Note that a source has something to send, and write."""
        self._ready[source] = None
        self.flush()

    def forget(self, source: OutputSource) -> None:
        """Ask a source for nothing any more."""
        self._ready.pop(source, None)

    def flush(self) -> None:
        """Write what waits, as far as the socket and the budget of one step allow."""
        if self._blocked or self.broken:
            return
        budget = FLUSH_BUDGET
        while data := self._next():
            if not self._write(data) or (budget := budget - len(data)) <= 0:
                break
        else:
            return
        if not self.broken:  # a connection that was given up stays idle
            self._blocked = True  # `run` goes on
            self._idle = trio.Event()
            self._wanted.set()

    async def room(self) -> None:
        """Wait until the urgent queue is short enough to take more. Callers wait here before they read on."""
        while self._urgent_bytes > URGENT_LIMIT and not self.broken:
            await self._idle.wait()

    async def drained(self) -> None:
        """Wait until everything that waited has been written."""
        while self._blocked and not self.broken:
            await self._idle.wait()

    async def run(self) -> None:
        """Go on where `flush` had to stop, until cancelled or broken."""
        while not self.broken:
            await self._wanted.wait()
            self._wanted = trio.Event()
            await self._unblock()

    def give_up(self, why: str) -> None:
        """Send nothing any more, and drop what waits.

        Args:
            why: what `broken` says from now on, unless it says something already.
        """
        self.broken = self.broken or why
        self._urgent.clear()
        self._urgent_bytes = 0
        self._ready.clear()
        self._begun = None
        self._idle.set()
        self._wanted.set()
        self._waiting.cancel(reason=why)

    async def _unblock(self) -> None:
        while self._begun is not None:
            with trio.move_on_after(self._patience) as self._waiting:
                await trio.lowlevel.wait_writable(self._fd)
            if self._waiting.cancelled_caught:
                self.give_up(f"the peer took nothing for {self._patience:g} s")
            elif self._begun is not None:
                rest, self._begun = self._begun, None
                self._write(rest)
        await trio.lowlevel.checkpoint()
        self._blocked = False
        self._idle.set()
        self.flush()

    def _next(self) -> bytes | None:
        """The next bytes to write, `GATHER` or a little more: urgent frames first, then output, each source in turn."""
        gathered: list[bytes] = []
        size = 0
        while self._urgent and size < GATHER:
            gathered.append(self._urgent.popleft())
            size += len(gathered[-1])
        self._urgent_bytes -= size
        while self._ready and size < GATHER:
            source = next(iter(self._ready))
            frames = source.next_frames()
            if frames is None:
                self._ready.pop(source, None)
            else:
                if source in self._ready:  # asking it may have made it forget itself
                    self._ready.move_to_end(source)
                gathered.append(frames)
                size += len(frames)
        if not gathered:
            return None
        return b"".join(gathered) if len(gathered) > 1 else gathered[0]

    def _write(self, data: bytes | memoryview) -> bool:
        """Write; what the socket does not take is kept as begun. Returns whether it took all."""
        try:
            sent = os.write(self._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.give_up(f"the connection is gone: {error.strerror}")
            return False
        if sent == len(data):
            return True
        self._begun = memoryview(data)[sent:]
        return False
