"""Reading the output pipes of every execution, and the terminals of those that have one.

Owns the read ends. One epoll set holds them all and one task waits for it: a line that a program writes costs one
wake-up of that task and no scheduling of a task of its own, which is what makes 500 programs at 100 lines a second
bearable. A sink is called in the same step as the read, with no await between, so nothing that was read can be lost.
`pacing` decides when a pipe is not read (`Source.hold`). Must not know what the bytes mean.
"""

import contextlib
import errno
import fcntl
import heapq
import itertools
import os
import select
from collections.abc import Callable
from typing import Any, Protocol

import trio

from ccexecd.fairness import yield_to_requests

Sink = Callable[[bytes], None]
"""Called with the bytes of one read. Must neither block nor raise."""

READ_SIZE = 64 * 1024
"""Bytes of one read. To encode and send them takes up to 0.3 ms, and a request waits through several such steps."""

PIPE_SIZES = (1024 * 1024, 256 * 1024)
"""Sizes to ask for, largest first. Agents written in Node lose what does not fit when they exit: 64 KiB is too small.
A user other than root may own 64 MiB of pipe buffers at a time (pipe(7)); past that, the pipe stays as it is."""

_BATCH = 64
"""Ready pipes taken in one step; others in the loop get their turn after it."""


def open_pipe() -> tuple[int, int]:
    """Make a pipe for output, as large as the kernel allows; returns a non-blocking read end and a write end.

    Raises:
        OSError: no descriptors are left.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_end, False)
    for size in PIPE_SIZES:
        with contextlib.suppress(OSError):  # more than the user may have, or than there is memory for
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, size)
            break
    return read_end, write_end


def nobody(_: bytes) -> None:
    """The sink of a source that has ended; drops the bytes."""


class _Readable(Protocol):
    """Something that the pump reads when its descriptor is ready."""

    def read_once(self) -> bool: ...


class OutputSource(_Readable, Protocol):
    """A source of an execution's output: a pipe, a terminal or a file."""

    ended: trio.Event

    def hold(self) -> None:
        """Suspend reading."""

    def go_on(self) -> None:
        """Resume reading."""

    def read_end(self) -> None:
        """Read the end, if it has come: called when, as a rule, no writer is left."""

    def close(self) -> None:
        """Read what is there, and close the source, even if a writer is left."""


class _Backlog(_Readable, Protocol):
    """The output files: always ready for epoll, so that they note by themselves which of them have unread output."""

    fds: tuple[int, ...]
    behind: "set[Any]"

    def read_behind(self) -> None: ...

    def close(self) -> None: ...


class Source:
    """One pipe being read.

    Attributes:
        ended: set when the last writer has closed it, or `close` was called.
    """

    def __init__(self, pump: "Pump", fd: int, sink: Sink) -> None:
        self._pump = pump
        self._fd = fd
        self._sink = sink
        self._is_waiting = True
        self.ended = trio.Event()

    def read_once(self) -> bool:
        """Read up to `READ_SIZE` bytes and pass them to the sink. Returns whether there were any."""
        try:
            size = os.readv(self._fd, (self._pump.buffer,))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            size = 0  # end of a terminal (EIO): no process has it open, and all that was written has been read
        if not size:
            self._end()
            return False
        if size == READ_SIZE:
            self._pump.is_flooded = True
        self._sink(bytes(self._pump.view[:size]))
        return True

    def hold(self) -> None:
        """Suspend reading: when its pipe is full, the program waits."""
        if self._is_waiting and not self.ended.is_set():
            self._pump.ignore(self._fd)
            self._is_waiting = False

    def go_on(self) -> None:
        """Read again."""
        if not self._is_waiting and not self.ended.is_set():
            self._pump.heed(self._fd)
            self._is_waiting = True

    def read_end(self) -> None:
        """Read once now instead of when epoll reports it: without writers, the end is all that is left as a rule."""
        if not self.ended.is_set():
            self.read_once()

    def close(self) -> None:
        """Read what is in the pipe and close it, even if another process still has its write end."""
        if not self.ended.is_set():
            for _ in range(PIPE_SIZES[0] // READ_SIZE + 1):  # what a pipe can hold, and no more of what is still coming
                if not self.read_once():
                    break
        if not self.ended.is_set():
            self._end()

    def _end(self) -> None:
        self.hold()
        self._sink = nobody  # the sink's execution refers to this source: without the cycle, it is freed at once
        self._pump.forget(self._fd)
        os.close(self._fd)
        self.ended.set()


class Pump:
    """Reads all pipes, terminals and output files of a daemon.

    Attributes:
        buffer: the memory that reads go to; shared, because every read is over before the next begins.
        view: the same memory, for slicing without a copy.
        files: the output files; None while there are none.
        is_flooded: a read of this turn was full, so that more is waiting to be read.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sources: dict[int, _Readable] = {}
        self.files: _Backlog | None = None
        self.is_flooded = False
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._alarm_numbers = itertools.count()
        self.buffer = bytearray(READ_SIZE)
        self.view = memoryview(self.buffer)

    def add(self, fd: int, sink: Sink) -> Source:
        """Read a pipe from now on; the source that is returned closes the descriptor.

        Raises:
            OSError: the user waits for as many as the system allows (fs.epoll.max_user_watches).
        """
        self.heed(fd)
        source = self._sources[fd] = Source(self, fd, sink)
        return source

    def also(self, files: "_Backlog") -> None:
        """Read output files as well from now on."""
        self.files = files
        for fd in files.fds:
            self._sources[fd] = files
            self.heed(fd)

    # For sources. A hung-up pipe is always ready, so one that is not to be read must leave the set. When everything is
    # cancelled there is no set any more, while executions still wind down.

    def heed(self, fd: int) -> None:
        """Wait for output of a descriptor."""
        if not self._epoll.closed:
            self._epoll.register(fd, select.EPOLLIN)

    def ignore(self, fd: int) -> None:
        """Do not wait for output of a descriptor."""
        if not self._epoll.closed:
            self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """Forget the descriptor of a source that has ended."""
        del self._sources[fd]

    def alarm(self, seconds: float, ring: Callable[[], None]) -> None:
        """Call `ring` after so many seconds, in a step of the pump. For sinks only: the pump is not waiting then."""
        heapq.heappush(self._alarms, (trio.current_time() + seconds, next(self._alarm_numbers), ring))

    async def run(self) -> None:
        """Read until cancelled."""
        try:
            while True:
                await self._wait()
                for fd, _ in self._epoll.poll(0, _BATCH):
                    source = self._sources.get(fd)  # an earlier one of this batch may have closed it
                    if source is not None:
                        source.read_once()
                if self.files is not None:
                    self.files.read_behind()
                if self.is_flooded:
                    self.is_flooded = False
                    await yield_to_requests()
        finally:
            self._epoll.close()
            if self.files is not None:
                self.files.close()

    async def _wait(self) -> None:
        """Wait for output or an alarm."""
        if self.files is not None and self.files.behind:
            await trio.lowlevel.checkpoint()
            return
        if not self._alarms:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            return
        with trio.move_on_at(self._alarms[0][0]):
            await trio.lowlevel.wait_readable(self._epoll.fileno())
        while self._alarms and self._alarms[0][0] <= trio.current_time():
            heapq.heappop(self._alarms)[2]()
