"""The queue on disk: a line for each execution that waits, from when it begins to wait until it begins to run.

Theory of operation. All lines are in one file, which only this process writes: making a file takes a hundred times as
long as adding a line. A line is added at the end. It is taken away by writing blanks over it, always before its
execution begins: so an execution that a daemon that died left here has not run, and secrets of one that has begun are
gone. A file without lines is cut to nothing; one that is mostly blanks is copied without them.

Owns that file, its mode, and that a line is there whole or not at all. The lines hold the values of environment
variables, so nobody but the daemon's user may read them. Must not know what is in them.
"""

import contextlib
import errno
import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)

MOST_BLANK = 4 * 1024 * 1024
"""The file is copied when its blanks exceed its lines by so many bytes: some milliseconds of the event loop."""

_TO_WRITE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO in its place hangs nobody


class QueueFile:
    """The file that holds a line for each execution that waits.

    Args:
        path: the file; made with the first line.

    Attributes:
        problem: why the last line could not be written; empty if it could.
    """

    def __init__(self, path: Path) -> None:
        self.problem = ""
        self._path = path
        self._made = path.with_name(f".{path.name}.new")
        self._fd: int | None = None
        self._end = 0
        self._live_bytes = 0
        self._places: dict[str, tuple[int, int]] = {}  # where a line begins, and its length

    def put(self, name: str, text: bytes) -> None:
        """Add or replace the line of an execution.

        The line is written to the page cache at once, as output is, and is not synced. A failure is reported as
        `problem`.

        Args:
            name: the execution's id; it must not hold a space.
            text: what is to be kept; it must not hold a line feed.
        """
        line = b"%s %s\n" % (name.encode(), text)
        try:
            fd = self._opened()
            self._write(fd, line, self._end)
        except OSError as error:
            if not self.problem:
                log.warning("what waits is not kept in %s: %s", self._path, error.strerror)
            self.problem = f"cannot keep what waits in {self._path}: {error.strerror}"
            return
        self.problem = ""
        self._know(name, len(line))
        if self._end - 2 * self._live_bytes > MOST_BLANK:
            self._copy(fd)

    def remove(self, name: str) -> None:
        """Remove the line of an execution that begins or has ended, if there is one."""
        place = self._places.pop(name, None)
        if place is None:
            return
        self._blank(*place)
        if not self._places:
            self._cut(0)

    def load(self) -> dict[str, bytes]:
        """Read what an earlier daemon left: execution id -> text. Blocks; call it once, before the first `put`."""
        with contextlib.suppress(OSError):  # an earlier daemon may have died while copying
            self._made.unlink()
        if not self._path.exists():
            return {}
        try:
            fd = self._opened()
            *lines, half = _all_of(fd).split(b"\n")
        except OSError as error:
            log.warning("%s cannot be read: %s", self._path, error.strerror)
            return {}
        found: dict[str, bytes] = {}
        for line in lines:
            name, _, told = line.partition(b" ")
            if name and name.isascii():
                self._know(name.decode(), len(line) + 1)
                found[name.decode()] = told
            else:  # it is blank
                self._end += len(line) + 1
        if half:  # left by a crash in the middle of `put`: no client has been told that this execution waits
            self._cut(self._end)
        return found

    def _know(self, name: str, size: int) -> None:
        """Note a line that was added at the end, and blank an earlier one of the same name."""
        earlier = self._places.pop(name, None)
        self._places[name] = (self._end, size)
        self._live_bytes += size
        self._end += size
        if earlier is not None:
            self._blank(*earlier)

    def _blank(self, offset: int, size: int) -> None:
        self._live_bytes -= size
        try:
            self._write(self._opened(), b" " * (size - 1) + b"\n", offset)
        except OSError as error:
            log.warning("%s cannot be changed: %s", self._path, error.strerror)

    def _cut(self, end: int) -> None:
        try:
            os.ftruncate(self._opened(), end)
            self._end = end
        except OSError as error:
            log.warning("%s cannot be cut: %s", self._path, error.strerror)

    def _opened(self) -> int:
        """The file's descriptor; it is opened if it is not open.

        Raises:
            OSError: it cannot be opened, or is no plain file.
        """
        if self._fd is None:
            fd = os.open(self._path, _TO_WRITE, 0o600)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise OSError(errno.EINVAL, "it is no file; move it away")
            self._fd = fd
        return self._fd

    def _write(self, fd: int, text: bytes, offset: int) -> None:
        """Write all of a text; at the end of the file, all or nothing.

        Raises:
            OSError: it could not be written.
        """
        done = 0
        try:
            while done < len(text):
                done += os.pwrite(fd, memoryview(text)[done:], offset + done)
        except OSError:
            if offset == self._end:
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, offset)
            raise

    def _copy(self, fd: int) -> None:
        """Replace the file by a copy without blanks; if that fails, the old file stays in use."""
        places, end = dict[str, tuple[int, int]](), 0
        fresh = None
        try:
            fresh = os.open(self._made, _TO_WRITE | os.O_TRUNC, 0o600)
            for name, (offset, size) in self._places.items():
                self._write(fresh, os.pread(fd, size, offset), end)
                places[name] = (end, size)
                end += size
            self._made.rename(self._path)
        except OSError as error:
            log.warning("%s cannot be copied: %s", self._path, error.strerror)
            if fresh is not None:
                os.close(fresh)
                self._made.unlink(missing_ok=True)
            return
        os.close(fd)
        self._fd, self._places, self._end = fresh, places, end


def _all_of(fd: int) -> bytes:
    pieces: list[bytes] = []
    offset = 0
    while piece := os.pread(fd, 1 << 20, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)
