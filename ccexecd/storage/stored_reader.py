"""Reading the entries of a log on disk one by one.

Owns one reader's place in the journal. Must not write.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ccexecd.core.entries import Entry, Gap
from ccexecd.storage.journal import Line, Place

if TYPE_CHECKING:
    from ccexecd.storage.stored_log import StoredLog


class StoredReader:
    """A reader of a log on disk.

    Args:
        log: the log.
        seq: the reader begins at the entry that holds this number.

    Attributes:
        position: offset in the journal, behind the line of the last entry taken.
    """

    def __init__(self, log: "StoredLog", seq: int) -> None:
        self._log = log
        self.position = log.begin_reading(seq)
        self._lines: Iterator[tuple[int, int, Line]] = iter(())
        self._closings = log.files.closings

    def take(self) -> Entry | Gap | None:
        """Return the next entry and move on; None if there is none yet, or it cannot be read."""
        try:
            found = next(self._lines, None) if self._closings == self._log.files.closings else None
            if found is None:
                self._closings = self._log.files.closings
                self._lines = self._log.lines(self.position)
                found = next(self._lines, None)
            if found is None:
                return None
            _, self.position, said = found
            return said.chunk(self._log.text(said)) if isinstance(said, Place) else said
        except OSError:
            return None

    def close(self) -> None:
        """End reading; the log may close its files."""
        self._log.end_reading()
