"""The files of one log on disk.

Owns their descriptors, and which of their blocks have been given back to the file system. Files are opened when they
are needed. Once nothing more is written to them, they are closed when nobody reads them, or when other logs need the
descriptors. Must not know what is in them.
"""

import errno
import os
from pathlib import Path

from ccexecd.sparse import punch_hole
from ccexecd.storage.journal import BLOCK
from ccexecd.storage.plain_file import open_plain
from ccexecd.storage.room import Room

_TO_WRITE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class LogFiles:
    """The files of one log.

    Args:
        directory: their directory, made with the first of them.
        room: what all logs share.

    Attributes:
        directory: their directory.
        are_written: whether something may still be written to them; as long as it is true, they stay open.
        opened: file name -> descriptor, for the files that are open.
        slack_bytes: an upper bound of what the files and their directory take beyond their content, since disk space
            is given out in blocks.
        closings: how often the files have been closed. A descriptor got under a smaller number is not valid any more.
    """

    def __init__(self, directory: Path, room: Room) -> None:
        self.directory = directory
        self.are_written = True
        self.opened: dict[str, int] = {}
        self.slack_bytes = 0
        self.closings = 0
        self._room = room
        self._given_back: dict[str, int] = {}  # file name -> offset up to which whole blocks are given back, or kept

    def make_directory(self) -> None:
        """Make their directory, if it is not there.

        Raises:
            OSError: it cannot be made.
        """
        try:
            self.directory.mkdir(mode=0o700)
        except FileExistsError:
            pass
        except FileNotFoundError:  # this is the first log, or somebody has removed the parent directory
            self.directory.parent.mkdir(mode=0o700)
            self.directory.mkdir(mode=0o700)

    def of(self, name: str) -> int:
        """The descriptor of a file, which is opened if it is not open.

        Raises:
            OSError: it cannot be opened.
        """
        fd = self.opened.get(name)
        return fd if fd is not None else self._open(name)

    def takes_block(self) -> None:
        """Count a block for a file or directory that was made: its last block is usually not full."""
        self.slack_bytes += BLOCK
        self._room.takes(BLOCK)

    def are_read(self) -> None:
        """Note that nothing more is written to the files, while somebody still reads them."""
        self.are_written = False
        self._room.reads(self)

    def keep(self, name: str, size: int) -> None:
        """Never give back the first `size` bytes of a file."""
        self._given_back[name] = size

    def give_back(self, name: str, end: int) -> None:
        """Give the whole blocks of a file before the offset `end` back to the file system.

        Raises:
            OSError: that failed; with EOPNOTSUPP, the file system cannot do it at all.
        """
        start, whole = -(-self._given_back.get(name, 0) // BLOCK) * BLOCK, end // BLOCK * BLOCK
        if whole > start:
            punch_hole(self.of(name), start, whole - start)
            self._given_back[name] = whole

    def close(self) -> None:
        """Close the files; `of` opens them again when they are needed."""
        self.closings += 1
        for fd in self.opened.values():
            os.close(fd)
        self.opened.clear()

    def _open(self, name: str) -> int:
        path = self.directory / name
        if self.are_written:
            fd = self.opened[name] = os.open(path, _TO_WRITE, 0o600)
            self.takes_block()
        else:
            self._room.reads(self)
            fd = self.opened[name] = open_plain(path)
        return fd


def put(fd: int, text: bytes, at: int) -> None:
    """Write all of `text` at the offset `at`.

    Raises:
        OSError: nothing, or only a part of it, could be written.
    """
    if os.pwrite(fd, text, at) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def put_all(fd: int, text: bytes) -> None:
    """Write all of a file, or nothing.

    Raises:
        OSError: it could not be written; the file is empty.
    """
    try:
        put(fd, text, 0)
    except OSError:
        os.ftruncate(fd, 0)
        raise
