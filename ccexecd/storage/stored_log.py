"""The log of one execution on disk.

Theory of operation. The bytes of a read are written to the file of their stream at once, before they are framed; the
entries made of them follow in the journal, in the same step of the event loop. A write lands in the page cache, which
outlives the daemon, however that ends. Everything is written at an offset that is known in memory, so a write that
failed half way is overwritten by the next attempt. When the disk is full or fails, writing is tried again once a second
as long as there is output; then the `OutputLog` hands in, in steps, the entries that it still holds in memory.

Nothing is made on disk before the first output, or before the execution has lived for a moment: one that ends at once
and writes nothing leaves no files. The journal then begins with its first line and the entries from before that, in one
write: clients have been told of those, so a log that is found after a crash must not give their numbers away again.

When there are more bytes than allowed, the oldest entries go: their blocks are given back to the file system, and
offsets stay as they were.

Owns the content of one execution's files. Must not know of other executions: the spool counts what they take together.
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
from ccexecd.storage.deferred_writes import DeferredWrites
from ccexecd.storage.journal import Account, Line, Place
from ccexecd.storage.log_files import LogFiles, put, put_all
from ccexecd.storage.room import Room
from ccexecd.storage.stored_reader import StoredReader

JOURNAL = "journal"
"""File name of the journal. The files of the streams are named after them."""

STREAMS: tuple[Stream, ...] = ("stdout", "stderr")

RETRY = 1.0
"""Seconds from a failed write to the next attempt."""

SHED_ENTRIES = STEP
"""Entries given up in one step at most: as many as one step may add, and less than a millisecond's work."""

SHED_BYTES = 1024 * 1024
"""Bytes given up at a time if the log may hold at least 16 times as much: one system call then frees 256 blocks."""


class StoredLog:
    """One execution's log on disk: the `Store` of its `OutputLog`.

    Args:
        directory: directory of its files, made with the first of them.
        execution: description of the execution, for the journal's first line.
        room: what all logs share.

    Attributes:
        directory: directory of its files.
        files: the files.
        execution: description of the execution.
        postpone: has a function called soon, when nobody waits for the event loop.
        oldest_seq: number of the first entry that it holds; None while it holds none.
        held_bytes: bytes that it keeps on disk, journal and output.
        started_at: tells when the execution started (ISO 8601), for the journal's first line; dropped once that is
            written.
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
        self._ends: dict[Stream, int] = {"stdout": 0, "stderr": 0}  # bytes read from the program so far
        self._deferred = DeferredWrites(self.files)
        self._sound_from, self._last_reads = self._deferred.sound_from, self._deferred.last_reads
        self._start = self._end = self._last = 0  # offsets in the journal: first line, end of lines, last line
        self._recorded: dict[Stream, int] = {"stdout": 0, "stderr": 0}  # bytes that recorded entries stand for
        self._account = Account()
        self._oldest: StoredReader | None = None
        self._is_told = True  # whether the journal's first line has the account as it is
        self._gone_to = {"stdout": 0, "stderr": 0, JOURNAL: 0}  # offsets before which everything was given up
        self._retry_at: float | None = None
        self._readers = 0
        self._is_wanted = False
        self._on_close: Callable[[], None] | None = None
        self._hand_in: Callable[[], None] = _unknown
        self.started_at: Callable[[], str | None] = _unknown

    @classmethod
    def reopened(cls, directory: Path, room: Room) -> "StoredLog":
        """Open a log that was written earlier, for reading.

        Args:
            directory: directory of its files.
            room: what all logs share; its bytes are not counted again.

        Raises:
            JournalError: it is no log, or one of a later version.
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
        """The offsets where the journal's lines, after the first one, begin and end."""
        return self._start, self._end

    @property
    def disk_bytes(self) -> int:
        """Upper bound of the bytes that it takes on disk."""
        return self.held_bytes + self.files.slack_bytes

    @property
    def dropped(self) -> tuple[int, int]:
        """Bytes and lines of output that were given up, or could not be kept."""
        return self._account.dropped_bytes, self._account.dropped_lines

    def append(self, end: int, entries: Sequence[Entry | Gap]) -> bool:
        """Add entries to a log that was written earlier; the output that they stand for is in its files already.

        Args:
            end: offset where the last whole line of its journal ends; what stands behind is cut off.
            entries: the entries to add.

        Returns:
            Whether all of them were written.

        Raises:
            OSError: the journal cannot be opened or cut.
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
        """Make the journal ahead of the first output, which then does not have to wait for that.

        Returns:
            Whether this was tried or is not needed; False as long as the execution has not started.
        """
        if self._end or not self.files.are_written:
            return True
        if self.started_at is not _unknown and self.started_at() is None:
            return False
        self._is_wanted = True
        self._begin()
        return True

    def when_wanted(self, hand_in: Callable[[], None]) -> None:
        """Call a function when the journal is made: the entries that it hands in are in it from the beginning."""
        self._hand_in = hand_in

    def write(self, stream: Stream, received: bytes) -> None:
        """Write the bytes of a read to the stream's file; if that is not possible now, the write is deferred."""
        start = self._ends[stream]
        self._ends[stream] = start + len(received)
        self._is_wanted = True
        if not self._end:
            self._begin()
        if self.is_ready and self._sound_from[stream] <= self._recorded[stream]:  # else a hole would look like output
            try:
                put(self._file(stream), received, start)
            except OSError as error:
                self._fail(error)
            else:
                return
        self._deferred.defer(stream, received, self._ends[stream])

    def record(self, entries: Sequence[Entry | Gap]) -> int:
        """Write the entries that follow those it holds. Returns how many were written: the leading ones, or none."""
        try:
            for entry in entries:
                if isinstance(entry, Chunk) and entry.offset < self._sound_from[entry.stream]:
                    self.files.make_directory()
                    entries = self._deferred.write_entries(entries)
                    break
            lines = [journal.line(entry) for entry in entries]
            text = b"".join(lines) if len(lines) > 1 else lines[0]
            if self._end:
                put(self._opened[JOURNAL], text, self._end)
            else:
                self._make_journal(text)
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
            self._write_incomplete_lines()
        self._tell_account()
        return len(entries)

    def _write_incomplete_lines(self) -> None:
        try:
            self._deferred.write_incomplete_lines(self._recorded, self._ends)
        except OSError as error:
            self._fail(error)

    def shed(self) -> Sequence[Entry | Gap]:
        """Give up the oldest entries if the log holds more than it may. Returns those that were given up."""
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
        """A reader that begins at the entry that holds the number `seq`."""
        return StoredReader(self, seq)

    def finish(self) -> None:
        """Note that no more output comes: what could not be written is tried once more at once."""
        if self._retry_at is not None and self._retry_at != float("inf"):
            self._retry_at = 0.0

    def close(self) -> None:
        """Note that nothing more is written; the files close unless somebody reads them."""
        self._tell_account()
        self.files.are_written = False
        if self._oldest is not None:
            self._oldest.close()
            self._oldest = None
        self.started_at = self._hand_in = _unknown
        self._room.is_over(self)
        self._close_unread()
        if self._readers:
            self.files.are_read()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def when_closed(self, deed: Callable[[], None]) -> None:
        """Call a function once the log is closed; at once if it is."""
        if self.files.are_written:
            self._on_close = deed
        else:
            deed()

    def forget(self) -> None:
        """Note that its files are being removed: it holds no entries any more."""
        self.oldest_seq = None

    # For readers

    def begin_reading(self, seq: int) -> int:
        """Keep the files open for a reader. Returns the offset in the journal of the entry that holds `seq`."""
        self._readers += 1
        try:
            return journal.find(self._file(JOURNAL), self._start, self._end, seq)
        except OSError:  # somebody has removed it
            return self._end

    def end_reading(self) -> None:
        """Count a reader less; the files close after the last one."""
        self._readers -= 1
        self._close_unread()

    def lines(self, position: int) -> Iterator[tuple[int, int, Line]]:
        """The journal's lines from an offset to its present end; see `journal.lines`."""
        return journal.lines(self._file(JOURNAL), position, self._end)

    def text(self, place: Place) -> bytes:
        """The bytes of a chunk.

        Raises:
            OSError: they cannot be read, or somebody else has cut the file.
        """
        text = os.pread(self._file(place.stream), place.size, place.offset)
        if len(text) < place.size:
            raise OSError(errno.EIO, "the file ends before its output does", str(self.directory / place.stream))
        return text

    # Files

    def _begin(self) -> None:
        """Make the journal, with all entries that there are."""
        self._hand_in()
        try:
            if not self._end and self.is_ready:  # there were none
                self._make_journal()
        except OSError as error:
            self._fail(error)

    def _make_journal(self, lines: bytes = b"") -> None:
        """Write the journal's first line and those of the first entries, which the caller counts: all or nothing."""
        self.files.make_directory()
        self.execution |= {"started_at": self.started_at()}
        first = journal.head(self._account, self.execution)
        put_all(self._file(JOURNAL), first + lines)
        self._start = self._end = len(first)
        self.files.keep(JOURNAL, self._start)
        self._holds(len(first))
        self.files.takes_block()  # for the directory
        self.started_at = self._hand_in = _unknown
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
        """Take note that entries were given up, and their lines up to an offset of the journal."""
        self.oldest_seq = gone[-1].seq + gone[-1].count
        self._account = attrs.evolve(self._account, oldest_seq=self.oldest_seq)
        self._is_told = False
        self._gone_to[JOURNAL] = position
        for entry in gone:
            if isinstance(entry, Chunk):
                self._gone_to[entry.stream] = entry.offset + len(entry.piece.text)
        self._tell_account()

    def _tell_account(self) -> None:
        """Write the account to the journal's first line if it has changed, and only then give blocks back."""
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
            if error.errno == errno.EOPNOTSUPP:  # no blocks can be given back: stop writing, or the log grows for ever
                self._retry_at = float("inf")


def _unknown() -> None:
    """Stands for what nobody has set."""
