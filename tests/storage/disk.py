"""What the tests of storage share: room without limits, and a disk that can be told to fail."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ccexecd.storage import stored_log
from ccexecd.storage.journal import BLOCK
from ccexecd.storage.log_files import LogFiles
from ccexecd.storage.stored_log import StoredLog


class Room:
    """What a log shares with others, where there are none.

    Attributes:
        most_bytes: what it may keep.
        used_bytes: what is kept.
        problem: why it could not be written to; empty while it could.
        postponed: what is to be done in a moment.
    """

    def __init__(self, most_bytes: int = 1 << 40) -> None:
        self.most_bytes = most_bytes
        self.used_bytes = 0
        self.problem = ""
        self.postponed: list[Callable[[], None]] = []

    def takes(self, size: int) -> None:
        self.used_bytes += size

    def fails(self, _: StoredLog, error: OSError) -> None:
        self.problem = str(error)

    def works(self, _: StoredLog) -> None:
        self.problem = ""

    def reads(self, _: LogFiles) -> None:
        pass

    def postpone(self, step: Callable[[], None]) -> None:
        self.postponed.append(step)

    def proceed(self) -> bool:
        """One step of what was postponed. Returns whether there is another."""
        if self.postponed:
            self.postponed.pop(0)()
        return bool(self.postponed)

    def is_over(self, _: StoredLog) -> None:
        pass


class Disk:
    """Every write to a log on disk goes through it.

    Attributes:
        left: bytes that it still takes, a part of a write among them; None is without limit.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self._pwrite = os.pwrite
        monkeypatch.setattr(stored_log.os, "pwrite", self._write)
        monkeypatch.setattr(stored_log, "RETRY", 0.0)

    def _write(self, fd: int, text: bytes, at: int) -> int:
        if self.left is None:
            return self._pwrite(fd, text, at)
        taken, self.left = min(len(text), self.left), max(0, self.left - len(text))
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._pwrite(fd, text[:taken], at)


def assert_counts(used: int, root: Path) -> None:
    """See that so many bytes are what the logs below a directory take on disk: no less, and a block a file more."""
    files, directories = list(root.glob("*/*")), list(root.iterdir())
    blocks = sum(-(-path.stat().st_size // BLOCK) for path in files) + len(directories)
    assert blocks * BLOCK <= used <= (blocks + len(files)) * BLOCK


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
