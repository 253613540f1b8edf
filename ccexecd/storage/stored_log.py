"""The log of one execution on disk.

Theory of operation. What a read brought is written to the file of its stream in the same step, before anything is made
of it; the entries that come of it follow in the journal, also in that step. A write lands in the page cache, which
outlives the daemon, however that ends. Everything is written at a place that is known in memory, so what fails half
way is written over by the next attempt. When the disk takes no more, the attempt is repeated once a second, as long as
there is output; the log then hands in what it still has, in steps.

Nothing is made on disk before the first output, or before the execution has lived for a moment: one that ends at once
and writes nothing leaves no files. What the log has by then is handed in with the first entry.

The oldest entries go when there are more bytes than may be: the file system takes their blocks back, and offsets stay
what they were.

Owns what is in the files of one execution. Must not know of other executions: what they take together is the spool's.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from ccexecd.core.entries import Chunk, Entry, Gap, Stream, weight
from ccexecd.core.output import STEP
from ccexecd.storage import journal
from ccexecd.storage.arrears import Arrears
from ccexecd.storage.journal import Account, Line, Place
from ccexecd.storage.log_files import LogFiles, put
from ccexecd.storage.room import Room
from ccexecd.storage.stored_reader import StoredReader

JOURNAL = "journal"
"""File name of the journal; the streams' files have their streams' names."""

STREAMS: tuple[Stream, ...] = ("stdout", "stderr")

RETRY = 1.0
"""Seconds after a failure until the next attempt."""

SHED_ENTRIES = STEP
"""Entries that one step gives up at most: as many as it may bring, and less than a millisecond's work."""

SHED_BYTES = 1024 * 1024
"""Bytes given up at a time where there is room for many times as much: a system call then frees 256 blocks."""


class StoredLog:
    """One execution's log, as its `OutputLog` fills it. It is the `Store` of that.

    Args:
        directory: where its files lie; made when they are.
        execution: its description, for the journal's first line.
        room: what it shares with others.

    Attributes:
        directory: where its files lie.
        files: they themselves.
        execution: its description.
        postpone: has a step of what is left to give it done in a moment, when nobody waits.
        oldest_seq: the first entry that it holds; None while it holds none.
        held_bytes: what it keeps on disk, journal and output.
        started_at: tells when its execution started, for its first line; forgotten when that is written.
    """

    def __init__(self, directory: Path, execution: dict[str, Any], room: Room) -> None:
        self.directory = directory
        self.oldest_seq: int | None = None
        self.held_bytes = 0
        self.execution = execution
        self._room = room
        self.postpone = room.postpone
        self.files = LogFiles(directory, room)
        self._file, self._opened = self.files.of, self.files.opened
        self._ends: dict[Stream, int] = {"stdout": 0, "stderr": 0}  # bytes that were read
        self._arrears = Arrears(self.files)
        self._sound_from, self._last_reads = self._arrears.sound_from, self._arrears.last_reads
        self._start = self._end = self._last = 0  # of the journal: its lines begin and end, and the last one begins
        self._recorded: dict[Stream, int] = {"stdout": 0, "stderr": 0}  # up to there, entries stand for them
        self._account = Account()
        self._oldest: StoredReader | None = None
        self._is_told = True  # in the journal
        self._gone_to = {"stdout": 0, "stderr": 0, JOURNAL: 0}  # what is before that has been given up
        self._retry_at: float | None = None
        self._readers = 0
        self._is_wanted = False
        self._on_close: Callable[[], None] | None = None
        self.started_at: Callable[[], str | None] = _unknown

    @classmethod
    def reopened(cls, directory: Path, room: Room) -> "StoredLog":
        """A log that was written earlier, for reading.

        Args:
            directory: where its files lie.
            room: what it shares with others; what it holds is not charged again.

        Raises:
            JournalError: it is no log, or a later version's.
            OSError: it cannot be read.
        """
        log = cls(directory, {}, room)
        log.files.are_written = False
        try:
            fd = log._file(JOURNAL)
            log._account, log.execution, log._start = journal.read_head(fd)
            log._end = os.fstat(fd).st_size
        finally:
            log._close_unread()
        log.oldest_seq = log._account.oldest_seq if log._end > log._start else None
        return log

    @property
    def journal_bounds(self) -> tuple[int, int]:
        """Where the lines of its journal begin and end."""
        return self._start, self._end

    @property
    def disk_bytes(self) -> int:
        """What it takes on disk, at most."""
        return self.held_bytes + self.files.slack_bytes

    @property
    def dropped(self) -> tuple[int, int]:
        """Bytes and lines of output that it has given up, or could not keep."""
        return self._account.dropped_bytes, self._account.dropped_lines

    def append(self, end: int, entries: Sequence[Entry | Gap]) -> bool:
        """Add entries to a log that was written earlier; the output that they stand for is there already.

        Args:
            end: where the last whole line of its journal ends.
            entries: those that follow.

        Raises:
            OSError: the journal cannot be written.
        """
        self.files.are_written, self._end = True, end
        try:
            os.ftruncate(self._file(JOURNAL), end)
            return self.record(entries) == len(entries)
        finally:
            self.files.are_written = False
            self._room.is_over(self)
            self._close_unread()

    @property
    def is_ready(self) -> bool:
        """Whether it is worth trying to write."""
        return self._is_wanted and (self._retry_at is None or time.monotonic() >= self._retry_at)

    def prepare(self) -> bool:
        """Make its files ahead of the first output, in a moment in which nobody waits for that.

        Returns:
            Whether that has been seen to; not before its execution has started.
        """
        if self._end or not self.files.are_written:
            return True
        if self.started_at is not _unknown and self.started_at() is None:
            return False
        self._is_wanted = True
        try:
            self._make_journal()
        except OSError as error:
            self._fail(error)
        return True

    def write(self, stream: Stream, received: bytes) -> None:
        """Keep what a read brought."""
        start = self._ends[stream]
        self._ends[stream] = start + len(received)
        self._is_wanted = True
        if self.is_ready and self._sound_from[stream] <= self._recorded[stream]:  # else a hole would look like output
            try:
                self._make_journal()
                put(self._file(stream), received, start)
            except OSError as error:
                self._fail(error)
            else:
                return
        self._arrears.miss(stream, received, self._ends[stream])

    def record(self, entries: Sequence[Entry | Gap]) -> int:
        """Keep entries: those that follow what it holds. Returns how many it has now: the first ones, or none."""
        try:
            self._make_journal()
            for entry in entries:
                if isinstance(entry, Chunk) and entry.offset < self._sound_from[entry.stream]:
                    entries = self._arrears.make_up(entries)
                    break
            lines = [journal.line(entry) for entry in entries]
            text = b"".join(lines) if len(lines) > 1 else lines[0]
            put(self._opened[JOURNAL], text, self._end)
        except OSError as error:
            self._fail(error)
            return 0
        self._last = self._end + len(text) - len(lines[-1])
        self._end += len(text)
        self._holds(len(text) + sum(len(entry.piece.text) for entry in entries if isinstance(entry, Chunk)))
        if self.oldest_seq is None:
            self.oldest_seq = entries[0].seq
        if self._retry_at is not None:
            self._retry_at = None
            self._room.works(self)
        for entry in entries:
            if isinstance(entry, Gap):
                self._charge(*weight(entry))
            elif isinstance(entry, Chunk):
                self._recorded[entry.stream] = entry.offset + len(entry.piece.text)
        if self._last_reads:
            self._make_up_halves()
        self._tell_account()
        return len(entries)

    def _make_up_halves(self) -> None:
        try:
            self._arrears.make_up_halves(self._recorded, self._ends)
        except OSError as error:
            self._fail(error)

    def shed(self) -> Sequence[Entry | Gap]:
        """Give up the oldest entries that are beyond what it may hold. They are gone, and returned for the account."""
        most = self._room.most_bytes
        if self.held_bytes <= most:
            return ()
        wanted = most - min(most // 16, SHED_BYTES)
        gone: list[Entry | Gap] = []
        if self._oldest is None:
            self._oldest = self.reader(self.oldest_seq or 1)
        while self.held_bytes > wanted and len(gone) < SHED_ENTRIES and self._oldest.position < self._last:
            before = self._oldest.position
            entry = self._oldest.take()
            if entry is None:
                break
            gone.append(entry)
            size, lines = weight(entry)
            if isinstance(entry, Chunk):
                self._charge(size, lines)
                self._holds(-size)
            self._holds(before - self._oldest.position)
        if gone:
            self._give_up(gone, self._oldest.position)
        return gone

    def reader(self, seq: int) -> StoredReader:
        """A place in it, at the entry that holds `seq`."""
        return StoredReader(self, seq)

    def finish(self) -> None:
        """Nothing follows but what it has not taken yet: worth trying once more."""
        if self._retry_at is not None and self._retry_at != float("inf"):
            self._retry_at = 0.0

    def close(self) -> None:
        """Nothing follows."""
        self._tell_account()
        self.files.are_written = False
        if self._oldest is not None:
            self._oldest.close()
            self._oldest = None
        self.started_at = _unknown
        self._room.is_over(self)
        self._close_unread()
        if self._readers:
            self.files.are_read()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def when_closed(self, deed: Callable[[], None]) -> None:
        """Do something when nothing follows any more; now, if that is so."""
        if self.files.are_written:
            self._on_close = deed
        else:
            deed()

    def forget(self) -> None:
        """Its files are being removed."""
        self.oldest_seq = None

    # For readers

    def begin_reading(self, seq: int) -> int:
        """Keep the files open for a reader. Returns where in the journal it begins."""
        self._readers += 1
        try:
            return journal.find(self._file(JOURNAL), self._start, self._end, seq)
        except OSError:  # somebody has removed it
            return self._end

    def end_reading(self) -> None:
        """A reader has gone."""
        self._readers -= 1
        self._close_unread()

    def lines(self, position: int) -> Iterator[tuple[int, int, Line]]:
        """The lines of its journal from a place on, to its end now."""
        return journal.lines(self._file(JOURNAL), position, self._end)

    def text(self, place: Place) -> bytes:
        """The bytes of a chunk.

        Raises:
            OSError: they cannot be read, or somebody has cut the file.
        """
        text = os.pread(self._file(place.stream), place.size, place.offset)
        if len(text) < place.size:
            raise OSError(errno.EIO, "the file ends before its output does", str(self.directory / place.stream))
        return text

    # Files

    def _make_journal(self) -> None:
        if self._end:
            return
        self.files.make_directory()
        self.execution |= {"started_at": self.started_at()}
        first = journal.head(self._account, self.execution)
        put(self._file(JOURNAL), first, 0)
        self._start = self._end = len(first)
        self.files.keep(JOURNAL, self._start)
        self._holds(len(first))
        self.files.takes_block()  # that of the directory
        self.started_at = _unknown
        self._room.works(self)

    def _close_unread(self) -> None:
        if not (self.files.are_written or self._readers):
            self.files.close()

    def _fail(self, error: OSError) -> None:
        self._retry_at = time.monotonic() + RETRY
        self._room.fails(self, error)

    # What is kept

    def _holds(self, size: int) -> None:
        self.held_bytes += size
        self._room.takes(size)

    def _charge(self, size: int, lines: int) -> None:
        account = self._account
        self._account = Account(account.oldest_seq, account.dropped_bytes + size, account.dropped_lines + lines)
        self._is_told = False

    def _give_up(self, gone: Sequence[Entry | Gap], position: int) -> None:
        """These are gone, and their lines, up to a position of the journal."""
        self.oldest_seq = gone[-1].seq + gone[-1].count
        self._account = attrs.evolve(self._account, oldest_seq=self.oldest_seq)
        self._is_told = False
        self._gone_to[JOURNAL] = position
        for entry in gone:
            if isinstance(entry, Chunk):
                self._gone_to[entry.stream] = entry.offset + len(entry.piece.text)
        self._tell_account()

    def _tell_account(self) -> None:
        """Say in the journal what is gone, if that is not said yet; only then may the blocks of that be given back."""
        if self._is_told:
            return
        try:
            put(self._opened[JOURNAL], self._account.encoded(), 0)
        except OSError as error:
            self._fail(error)
            return
        self._is_told = True
        try:
            for name, end in self._gone_to.items():
                self.files.give_back(name, end)
        except OSError as error:
            self._fail(error)
            if error.errno == errno.EOPNOTSUPP:  # a file system that cannot: what has gone would go on to take room
                self._retry_at = float("inf")


def _unknown() -> None:
    """When something started that nobody has told us of."""
