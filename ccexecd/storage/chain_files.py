"""Files that hold a chain of records, one after another, and are only ever added to.

Owns the files in one directory: their rotation, their locks, and going on with the chain that an earlier daemon wrote
(`chain` says what a record is). Nothing is ever removed from a file or written over, so that `chattr +a` may be set:
half a record that a crash or a full disk left behind stays, and the next record tells of it. At a start, only the end
of the last file is read. Used by one thread at a time.

Must not decide what is recorded, and must not sync on its own: the subclass decides when `sync` is called.
"""

import errno
import fcntl
import hashlib
import logging
import os
import stat
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import orjson

from ccexecd.storage.chain import GENESIS, Head, files_in, first_in, name_of, open_records, opened, sealed

log = logging.getLogger(__name__)

LOOK_INTERVAL = 0.1
"""Seconds after which the next write checks whether somebody else has changed or removed the file: one fstat."""

MAX_RECORD = 64 * 1024
"""Bytes of a record. A longer one is shortened: texts are cut, lists and objects are left out."""

_TAIL = 4 * MAX_RECORD  # bytes read from a file's end: enough for the last record and half a one behind it
_SHORT = 512  # characters that stay of a text in a record that is too long
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class ChainFiles:
    """A chain of records in files.

    Args:
        directory: directory of the files; made with mode 0700 when it is not there.
        max_bytes: size at which a file is full and the next one is begun.
        max_files: how many files are kept; the oldest goes first.

    Attributes:
        head: the last record.
    """

    what = "chain"
    """What the chain holds: a word for the names of its files and for the daemon's log."""

    def __init__(self, directory: Path, max_bytes: int, max_files: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.max_files = max_files
        self.head = Head(0, GENESIS)
        self._fd = -1
        self._size = 0
        self._oldest = 1
        self._looked_at = 0.0
        self._is_torn = False  # our own last write stopped in the middle
        self._retired: list[int] = []  # descriptors of files that are full, to be synced and closed

    @property
    def _look_interval(self) -> float:
        """Seconds between two checks whether somebody else has changed or removed the file."""
        return LOOK_INTERVAL

    def _written(self) -> None:
        """Called after each write: something is there to be synced. For subclasses."""

    # Files

    def _make_ready(self) -> None:
        """Make sure that there is an open file to write into, and deal with what others have done to it.

        A file that was removed is replaced by the next one, half a record of our own is mended, and any other change is
        put on record.

        Raises:
            OSError: it cannot be opened, or what was found cannot be put on record.
        """
        if self._fd < 0:
            try:
                self._begin()
            except OSError:  # the next record tries again from the start
                if self._fd >= 0:
                    os.close(self._fd)
                    self._fd = -1
                raise
            return
        now = time.monotonic()
        if now - self._looked_at < self._look_interval and not self._is_torn:
            return
        self._looked_at = now
        found = os.fstat(self._fd)
        if found.st_size == self._size and found.st_nlink and not self._is_torn:
            return
        self._size = found.st_size
        if not found.st_nlink:
            self._retire()
            self._open(self.directory / name_of(self.head.n + 1, self.what))
            self._write_first("disturbed", {"found": "the file that was written into had been removed"})
        elif self._is_torn:
            torn, head = self._tail()
            self.head = max(self.head, head or self.head)  # a torn write of several records may hold some whole ones
            self._mend(torn)
        else:
            self._end_line()
            self._write("disturbed", {"found": "somebody else has changed the file"}, rotates=False)

    def _begin(self) -> None:
        """Go on with the chain that an earlier daemon left, or begin a new one."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        files = files_in(self.directory)
        self._open(files[-1] if files else self.directory / name_of(1, self.what))
        torn, head = self._tail()
        earlier = files[:-1]
        while head is None and earlier:  # the last file has no record yet
            head = last_record(end_of(earlier.pop()))[1]
        self.head = max(self.head, head or self.head)  # ours is later if somebody removed records that we had written
        self._oldest = _oldest_told(files)
        if torn:
            self._mend(torn)
        elif self._size:
            self._end_line()
            self._write("began", {"pid": os.getpid()})
        else:
            self._write_first("began", {"pid": os.getpid()})
        log.info("%s begins", self.what, extra={"head": str(self.head), "directory": str(self.directory)})

    def _open(self, path: Path) -> None:
        """Open a file for appending, and lock it.

        Raises:
            OSError: it cannot be opened, is no plain file, or is locked by another daemon.
        """
        fd = os.open(path, _FLAGS, 0o600)
        try:
            size = _claimed(fd, path)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._size, self._is_torn = fd, size, False

    def _retire(self) -> None:
        """Write into this file no longer; `sync` closes it."""
        self._retired.append(self._fd)
        self._fd = -1

    def _rotate(self) -> None:
        """Begin the next file. Its first record goes on from the last one of this file."""
        self._retire()
        self._open(self.directory / name_of(self.head.n + 1, self.what))
        self._write_first("rotated", {})

    def _write_first(self, kind: str, facts: Mapping[str, object]) -> None:
        """Write a file's first record, which tells the oldest number kept, then remove the files before that."""
        files = files_in(self.directory)
        surplus = files[: -self.max_files]
        if surplus:  # else the number stays as it was, even if somebody has removed that file
            self._oldest = first_in(files[len(surplus)])
        self._write(kind, {**facts, "oldest": self._oldest}, rotates=False)
        for file in surplus:
            file.unlink(missing_ok=True)

    # Records

    def _mend(self, torn: bytes) -> None:
        """End half a record that a crash or a full disk left, and tell of it in the same write.

        In a write of its own, the line feed could be all that reaches the file, and the line would look edited.

        Args:
            torn: the bytes of that half record.
        """
        self._is_torn = True
        torn = torn.removesuffix(b"\n")
        facts = {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}
        if self.head.n:
            self._write("mended", facts)
        else:
            self._write_first("mended", facts)

    @property
    def _ends_line(self) -> bool:
        return not self._size or os.pread(self._fd, 1, self._size - 1) == b"\n"

    def _end_line(self) -> None:
        if not self._ends_line:
            self._append(b"\n")

    def _made(self, kind: str, facts: Mapping[str, object], before: Head) -> tuple[bytes, Head]:
        """Make a record: its line, and its own number and hash, from which the next one goes on."""
        fields = {"n": before.n + 1, "t": datetime.now(UTC), "kind": kind, **facts, "prev": before.hash}
        line, digest = sealed(_body(fields))
        return line, Head(before.n + 1, digest)

    def _write(self, kind: str, facts: Mapping[str, object], *, rotates: bool = True) -> None:
        line, head = self._made(kind, facts, self.head)
        if rotates and self._size and self._size + len(line) > self.max_bytes:
            self._rotate()
            self._write(kind, facts, rotates=False)
            return
        self._append(line)
        self.head = head

    def _append(self, line: bytes) -> None:
        if self._is_torn and not self._ends_line:
            line = b"\n" + line
        written = os.write(self._fd, line)
        self._size += written
        self._is_torn = written != len(line)
        if self._is_torn:
            raise OSError(errno.ENOSPC, "no space is left for a whole record")
        self._written()

    def _tail(self) -> tuple[bytes, Head | None]:
        """The bytes behind the file's last record, and that record; None instead of it if the file has none."""
        return last_record(os.pread(self._fd, _TAIL, max(0, self._size - _TAIL)))


def _claimed(fd: int, path: Path) -> int:
    """Lock a file against other daemons.

    Returns:
        The file's size in bytes.

    Raises:
        OSError: another daemon holds the lock, or it is no plain file.
    """
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"{path.name} is no plain file")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, f"another daemon writes into {path.name}") from None
    return found.st_size


def last_record(end: bytes) -> tuple[bytes, Head | None]:
    """Find the last record in the end of a file.

    Args:
        end: the last bytes of a file.

    Returns:
        The bytes behind that record, and its number and hash; all of `end` and None if there is no record.
    """
    behind = len(end)
    while behind:
        start = end.rfind(b"\n", 0, behind - 1) + 1
        record = opened(end[start:behind])
        if record is not None:
            return end[behind:], record.head
        behind = start
    return end, None


def end_of(file: Path) -> bytes:
    """The last bytes of a file: enough to hold its last record."""
    with open_records(file) as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL))
        return stream.read()


def _oldest_told(files: list[Path]) -> int:
    """The number of the oldest record that is kept, as told by the newest file whose first record tells it."""
    for file in reversed(files):
        with open_records(file) as stream:
            first = opened(stream.readline(MAX_RECORD))
        told = first.fields.get("oldest") if first is not None else None
        if isinstance(told, int):
            return told
    return first_in(files[0]) if files else 1


def _body(fields: Mapping[str, object]) -> bytes:
    """Encode a record, however odd its fields, in `MAX_RECORD` bytes at most."""
    try:
        body = orjson.dumps(fields)
    except orjson.JSONEncodeError:  # a lone surrogate: text that came from bytes
        fields = {name: _encodable(value) for name, value in fields.items()}
        body = orjson.dumps(fields)
    if len(body) <= MAX_RECORD:
        return body
    cut = {name: value[:_SHORT] if isinstance(value, str) else value for name, value in fields.items()}
    cut = {name: value for name, value in cut.items() if not isinstance(value, list | tuple | dict)}
    return orjson.dumps({**cut, "shortened_from": len(body), "prev": fields["prev"]})


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return [_encodable(each) for each in value] if isinstance(value, list | tuple) else value


def sync(fd: int, retired: list[int]) -> str | None:
    """Sync files to disk, and close the retired ones. It blocks.

    Args:
        fd: the file that is written into; -1 for none.
        retired: files that are full, or were removed by somebody; they are closed.

    Returns:
        What went wrong, or None.
    """
    fault = None
    for each in (*retired, fd):
        try:
            if each >= 0:
                os.fdatasync(each)
        except OSError as error:
            fault = error.strerror or str(error)
    for each in retired:
        os.close(each)
    return fault
