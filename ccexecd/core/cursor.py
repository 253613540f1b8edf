"""A watcher's place in the log of an execution.

Owns the position and the account of what was lost before the watcher saw it. Which entry comes next, from the window or
from the store, is for the log to say (`output`).
"""

from typing import Protocol

from ccexecd.core.entries import Chunk, Entry, Gap
from ccexecd.core.store import Reader


class Log(Protocol):
    """What a cursor is a place in; `output.OutputLog` is the one that there is."""

    next_seq: int
    closed: bool

    def advance(self, cursor: "Cursor") -> Entry | Gap | None:
        """Give a cursor the next entry, and move it on; None when there is nothing new."""

    def forget(self, cursor: "Cursor") -> None:
        """Count a cursor no longer among the watchers."""


class Cursor:
    """A watcher's place in a log.

    Args:
        log: what it is a place in.
        seq: the first entry that it is to see.
        is_late: some of the entries that its watcher wanted are lost already.

    Attributes:
        seq: the next entry that it has not seen.
        index: that entry's index in the log; less than that of the window's first where the window has overtaken it.
        seen_bytes: bytes that went into the window before that entry.
        reader: its place in the store, while it reads from there.
    """

    __slots__ = ("_is_late", "_log", "_missed_bytes", "_missed_lines", "index", "reader", "seen_bytes", "seq")

    def __init__(self, log: Log, seq: int, *, is_late: bool) -> None:
        self._log = log
        self.seq = seq
        self.index = self.seen_bytes = 0
        self.reader: Reader | None = None
        self._is_late = is_late  # some of the entries it wanted were lost before it was made: how much is unknown
        self._missed_bytes = 0
        self._missed_lines = 0

    @property
    def at_end(self) -> bool:
        """Whether it has seen everything that there is."""
        return self.seq >= self._log.next_seq

    @property
    def finished(self) -> bool:
        """Whether it has seen everything that there will ever be."""
        return self._log.closed and self.at_end

    def take(self) -> Entry | Gap | None:
        """Give the next entry, or the gap before it, and move on; None when there is nothing new.

        A chunk that stands for several entries may begin before `seq`: the caller skips what came before it.
        """
        return self._log.advance(self)

    def leave_store(self) -> None:
        """Stop reading from the store: the cursor has a place in the window again, or has lost its place."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def close(self) -> None:
        """Stop watching."""
        self.leave_store()
        self._log.forget(self)

    def miss(self, entry: Entry | Gap, size: int, lines: int) -> None:
        """Account for a lost entry that this cursor has not seen, or of which it has seen only the beginning.

        Args:
            entry: what is lost.
            size: bytes of output in it.
            lines: line feeds in it.
        """
        if isinstance(entry, Chunk) and self.seq > entry.seq:  # it began in the middle of this chunk
            before = self.seq - entry.seq
            size = len(entry.piece.text.split(b"\n", before)[-1])
            lines -= before
        if isinstance(entry, Gap) and self.seq > entry.seq:  # how much of that gap lies behind `seq` is unknown
            self._is_late = True
        self._missed_bytes += size
        self._missed_lines += lines

    def missed(self) -> tuple[int | None, int | None]:
        """Bytes and lines lost since the last gap, and begin a new account; None for both where they are unknown."""
        missed = (None, None) if self._is_late else (self._missed_bytes, self._missed_lines)
        self._missed_bytes = self._missed_lines = 0
        self._is_late = False
        return missed
