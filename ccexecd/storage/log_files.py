"""The files of one log on disk.

Owns their descriptors, and what of them has been given back. Files are opened when they are needed and, once nothing
more is written, closed when nobody reads them, or when others need descriptors. Must not know what is in them.
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
        directory: where they lie; made when they are.
        room: what logs share.

    Attributes:
        directory: where they lie.
        are_written: whether something may still be written to them. They stay open then.
        opened: descriptors, by the names of the files.
        slack_bytes: what they and their directory take besides what is in them, at most: disks are given in blocks.
        closings: how often they have been closed: a descriptor from before that is none of theirs any more.
    """

    def __init__(self, directory: Path, room: Room) -> None:
        self.directory = directory
        self.are_written = True
        self.opened: dict[str, int] = {}
        self.slack_bytes = 0
        self.closings = 0
        self._room = room
        self._given_back: dict[str, int] = {}  # the whole blocks before that

    def make_directory(self) -> None:
        """Make the place where they lie.

        Raises:
            OSError: it cannot be made.
        """
        try:
            self.directory.mkdir(mode=0o700)
        except FileExistsError:
            pass
        except FileNotFoundError:  # the first of all, or somebody has removed what is above it
            self.directory.parent.mkdir(mode=0o700)
            self.directory.mkdir(mode=0o700)

    def of(self, name: str) -> int:
        """The descriptor of a file.

        Raises:
            OSError: it cannot be opened.
        """
        fd = self.opened.get(name)
        return fd if fd is not None else self._open(name)

    def takes_block(self) -> None:
        """A file or the directory has been made: its last block is never full, as a rule."""
        self.slack_bytes += BLOCK
        self._room.takes(BLOCK)

    def are_read(self) -> None:
        """Nothing more is written to them, and somebody reads them on."""
        self.are_written = False
        self._room.reads(self)

    def keep(self, name: str, size: int) -> None:
        """The first so many bytes of a file are never given back."""
        self._given_back[name] = size

    def give_back(self, name: str, end: int) -> None:
        """What is before a place in a file is not needed any more: the file system may have its blocks.

        Raises:
            OSError: EOPNOTSUPP where it cannot take them.
        """
        start, whole = -(-self._given_back.get(name, 0) // BLOCK) * BLOCK, end // BLOCK * BLOCK
        if whole > start:
            punch_hole(self.of(name), start, whole - start)
            self._given_back[name] = whole

    def close(self) -> None:
        """Close them; they are opened again when they are needed."""
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
    """Write all of it.

    Raises:
        OSError: it could not be written, or only a part of it.
    """
    if os.pwrite(fd, text, at) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
