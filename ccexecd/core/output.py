"""The output of one execution as a log with positions.

Theory of operation. What a read brought is cut by a `Framer` into pieces, each of which becomes a `Chunk` with a
`seq` and a byte `offset` in its stream. State changes are `Note`s in the same sequence. `OutputLog` keeps the recent
entries in its window, bounded in bytes and in lines, and hands every entry on to a `Store` in the same step, where
there is one. Every watcher is a `Cursor`: a position in the sequence, nothing more. A cursor that the window has
overtaken reads from the store. One that has lost its place in the store as well gets one `Gap`, which says what it
missed, and goes on with the oldest entry that is left. So no watcher slows down the execution, or another watcher.

A store may fail for a while (a full disk): the window goes on alone. When the store takes entries again, it gets those
that the window still holds, and a `Gap` for those that it does not: in steps, so that nobody waits for all of it.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

from ccexecd.core.cursor import Cursor
from ccexecd.core.entries import Chunk, Entry, Gap, Note, Stream, cost, weight
from ccexecd.core.framing import Piece
from ccexecd.core.store import Store

STEP = 256
"""Entries that a store is given in one step: more than one read brings, and no more than a store sheds in one step."""

_SEQ = attrgetter("seq")


class OutputLog:
    """The log of one execution: its recent entries, a way to the older ones, and the account of what was dropped.

    Args:
        capacity: bytes that the window may hold, with `ENTRY_OVERHEAD` for each entry.
        store: where every entry is kept besides the window; None for a log in memory only.
        most_lines: lines of output that the window may hold; None for no limit, in which case lines are not counted.

    Attributes:
        next_seq: the number that the next entry gets; numbers start at 1.
        sizes: bytes of each stream so far.
        held_bytes: bytes that the window holds, with `ENTRY_OVERHEAD` for each entry.
        dropped_bytes: bytes of output that are lost: neither in the window nor in the store.
        dropped_lines: how many line feeds those bytes held.
        passed_bytes: bytes that have ever gone into the window, counted like `held_bytes`.
        closed: no further entry will come.
    """

    def __init__(self, capacity: int, store: Store | None = None, *, most_lines: int | None = None) -> None:
        self._capacity = capacity
        self._most_lines = most_lines
        self._store: Store | None = None
        self._unstored = 1  # the first entry that the store has not been given
        self._is_postponed = False  # the store will call `_proceed` for the rest
        self._hole: Gap | None = None  # entries that have left the window before the store could take them
        self._entries: deque[Entry] = deque()
        self._base = 0  # how many entries have left the deque: an entry's index counts from there
        self.held_bytes = self._held_lines = 0
        self._cursors: set[Cursor] = set()
        self.next_seq = self._first = 1
        self.sizes: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self.dropped_bytes = self.dropped_lines = self.passed_bytes = 0
        self.closed = False
        if store is not None:
            self.keep_in(store)

    @classmethod
    def restored(
        cls, store: Store | None, last: Sequence[Note], sizes: dict[Stream, int], dropped: tuple[int, int]
    ) -> "OutputLog":
        """The log of an execution that has left the memory: its entries are in the store.

        Args:
            store: what holds them; None if its output has been removed.
            last: the last state changes, which the history keeps even then; at least one.
            sizes: bytes of each stream.
            dropped: bytes and lines of output that are lost.
        """
        log = cls(0, None)
        log._store = store
        log._entries.extend(last)
        log.next_seq = log._unstored = last[-1].seq + 1
        log.sizes = sizes
        log.dropped_bytes, log.dropped_lines = dropped
        log.closed = True
        return log

    def keep_in(self, store: Store) -> None:
        """Keep every entry in a store, too, with those that the window holds already."""
        self._store = store
        store.when_wanted(self._settle)

    def number_from(self, seq: int) -> None:
        """Give the first entry this number. Call it before the first entry.

        An execution that waited under an earlier daemon has used up the numbers before it for state changes.
        """
        self.next_seq = self._unstored = self._first = seq

    @property
    def window_seq(self) -> int:
        """The first entry that the window holds; `next_seq` when there is none."""
        return self._entries[0].seq if self._entries else self.next_seq

    @property
    def oldest_seq(self) -> int:
        """The first entry that the window or the store still holds; `next_seq` when there is none."""
        stored = self._store.oldest_seq if self._store is not None else None
        return self.window_seq if stored is None else min(stored, self.window_seq)

    def extend(self, stream: Stream, received: bytes, pieces: Iterable[Piece]) -> None:
        """Add output.

        Args:
            stream: which one.
            received: the bytes of one read; the store gets them as they are.
            pieces: what those bytes completed, which may begin with bytes of earlier reads.
        """
        if self._store is not None and received:
            self._store.write(stream, received)
        for piece in pieces:
            self._push(Chunk(self.next_seq, piece.lines, stream, self.sizes[stream], piece))
            self.sizes[stream] += len(piece.text)
        self._settle()

    def note(self, method: str, params: dict[str, Any]) -> None:
        """Add a state change."""
        self._push(Note(self.next_seq, method, params))
        self._settle()

    def close(self) -> None:
        """Say that no further entry will come, and let the store take what it has not taken yet."""
        self.closed = True
        if self._store is not None:
            self._store.finish()
            self._settle()
            self._conclude()

    def shrink(self, capacity: int) -> None:
        """Reduce the window of a finished execution, if the store holds every entry; else do nothing.

        Args:
            capacity: bytes that the window may hold from now on.
        """
        if self._store is not None and self._unstored == self.next_seq:
            self._capacity = min(self._capacity, capacity)
            self._drop()

    @property
    def backlog(self) -> int:
        """Bytes of the window that the slowest watcher has not seen yet; 0 when nobody watches."""
        seen = min((cursor.seen_bytes for cursor in self._cursors), default=self.passed_bytes)
        return min(self.passed_bytes - seen, self.held_bytes)

    def _push(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.next_seq += entry.count
        self.held_bytes += cost(entry)
        self.passed_bytes += cost(entry)
        if self._most_lines is not None:
            self._held_lines += weight(entry)[1]

    def _settle(self) -> None:
        """Hand new entries to the store, then drop what the window has no room for."""
        store = self._store
        if store is not None and store.is_ready:
            self._hand_in(store)
        if self.held_bytes > self._capacity or self._most_lines is not None:
            self._drop()

    def _hand_in(self, store: Store) -> None:
        """Hand the store what it lacks: usually the newest entry; after a failure the oldest ones, one step's worth."""
        fresh: Sequence[Entry | Gap] = self._unstored_entries()
        if not fresh:
            return
        if self._hole is not None:
            fresh = [self._hole, *fresh]
        taken = store.record(fresh)
        if not taken:
            return
        self._unstored, self._hole = fresh[taken - 1].seq + fresh[taken - 1].count, None
        for gone in store.shed():
            if gone.seq < self.window_seq:
                self._lose(gone)
        if self._unstored < self.next_seq and not self._is_postponed:
            self._is_postponed = True
            store.postpone(self._proceed)

    def _unstored_entries(self) -> Sequence[Entry]:
        """The oldest entries that the store has not been given, `STEP` of them at most."""
        entries, first = self._entries, self._unstored
        end = oldest = len(entries)
        if not entries or entries[-1].seq <= first:  # the usual case: one read has brought one entry
            return (entries[-1],) if entries and entries[-1].seq == first else ()
        while oldest and entries[oldest - 1].seq >= first and end - oldest < STEP:
            oldest -= 1
        if oldest and entries[oldest - 1].seq >= first:
            oldest = bisect_left(entries, first, key=_SEQ)
        return [entries[index] for index in range(oldest, min(oldest + STEP, end))]

    def _proceed(self) -> None:
        """Do the next step of what was postponed; the store calls this."""
        self._is_postponed = False
        self._settle()
        if self.closed:
            self._conclude()

    def _conclude(self) -> None:
        """Close the store, unless it has yet to take what was postponed."""
        if self._store is not None and not self._is_postponed:
            self._store.close()

    def _drop(self) -> None:
        """Drop the oldest entries until the window is within its bounds. The newest entry always stays."""
        while len(self._entries) > 1 and (
            self.held_bytes > self._capacity or (self._most_lines is not None and self._held_lines > self._most_lines)
        ):
            gone = self._entries[0]
            if gone.seq >= self._unstored and self._store is not None and self._store.is_ready:
                self._hand_in(self._store)
            self._entries.popleft()
            self._base += 1
            self.held_bytes -= cost(gone)
            if self._most_lines is not None:
                self._held_lines -= weight(gone)[1]
            if self._store is None:
                self._lose(gone)
            elif gone.seq >= self._unstored:
                self._widen_hole(gone)
            elif gone.seq < (self._store.oldest_seq or self.next_seq):
                self._lose(gone)

    def _widen_hole(self, gone: Entry) -> None:
        """Account for an entry that leaves the window before the store could take it."""
        size, lines = weight(gone)
        before = self._hole or Gap(self._unstored, self._unstored - 1, 0, 0)
        self._hole = Gap(
            before.from_seq,
            gone.seq + gone.count - 1,
            (before.dropped_bytes or 0) + size,
            (before.dropped_lines or 0) + lines,
        )
        self._unstored = self._hole.to_seq + 1
        self.dropped_bytes += size
        self.dropped_lines += lines

    def _lose(self, gone: Entry | Gap) -> None:
        """Account for an entry that is now in neither the window nor the store; those before it went earlier."""
        size, lines = weight(gone)
        end = gone.seq + gone.count
        self._unstored = max(self._unstored, end)
        if not isinstance(gone, Gap):  # a gap was counted when it came about
            self.dropped_bytes += size
            self.dropped_lines += lines
        for cursor in self._cursors:
            if cursor.seq < end:
                cursor.miss(gone, size, lines)

    def cursor(self, from_seq: int | None) -> Cursor:
        """Make a cursor for a new watcher, who has to `close` it.

        Args:
            from_seq: the first entry wanted; 0 or 1 for all of them, None for those that come from now on.
        """
        seq = self.next_seq if from_seq is None else max(1, min(from_seq, self.next_seq))
        cursor = Cursor(self, seq, is_late=seq < self.oldest_seq)
        self._place(cursor)
        self._cursors.add(cursor)
        return cursor

    def _place(self, cursor: Cursor) -> None:
        """Set a cursor's index in the window; -1 where the window has overtaken it."""
        cursor.index, cursor.seen_bytes = self._base + len(self._entries), self.passed_bytes
        for entry in reversed(self._entries):
            if entry.seq + entry.count <= cursor.seq:
                break
            cursor.index -= 1
            cursor.seen_bytes -= cost(entry)
        if cursor.seq < self.window_seq:
            cursor.index = -1
        else:
            cursor.leave_store()

    def forget(self, cursor: Cursor) -> None:
        """Count a cursor no longer among the watchers: see `Cursor.close`."""
        self._cursors.discard(cursor)

    def advance(self, cursor: Cursor) -> Entry | Gap | None:
        """Give a cursor the next entry, or the gap before it, and move it on; None when there is nothing new."""
        entry = self._look_back(cursor) if cursor.index < self._base else None
        if entry is None and cursor.index - self._base < len(self._entries):
            entry = self._entries[cursor.index - self._base]
            cursor.index += 1
            cursor.seen_bytes += cost(entry)
        if entry is not None:
            cursor.seq = entry.seq + entry.count
        return entry

    def _look_back(self, cursor: Cursor) -> Entry | Gap | None:
        """Give the next entry of a cursor that the window has overtaken; None when it is in the window again.

        A cursor that reads from the store returns to the window at its middle: at its edge, it would be overtaken again
        at once.
        """
        entry = None
        if cursor.seq < (self.window_seq if cursor.reader is None else self._middle_seq):
            entry = self._from_store(cursor)
        if entry is None and cursor.seq < self.window_seq:
            entry = self._missing(cursor)
        if entry is None:
            self._place(cursor)
        return entry

    def _from_store(self, cursor: Cursor) -> Entry | Gap | None:
        """The store's entry at a cursor's position; None if the store does not hold one."""
        if self._store is None or cursor.seq < (self._store.oldest_seq or self.next_seq):
            return None
        cursor.reader = cursor.reader or self._store.reader(cursor.seq)
        entry = cursor.reader.take()
        if entry is None or entry.seq + entry.count <= cursor.seq:
            return None
        if entry.seq > cursor.seq:  # somebody has changed the store's files, so the size of the gap is unknown
            cursor.leave_store()
            return Gap(cursor.seq, entry.seq - 1, None, None)
        if isinstance(entry, Gap) and entry.seq < cursor.seq:  # the cursor began in the middle of this gap
            return Gap(cursor.seq, entry.to_seq, None, None)
        return entry

    def _missing(self, cursor: Cursor) -> Gap:
        """The gap from a cursor's position to the next entry that there is; its size, as far as that is known."""
        cursor.leave_store()
        stored = self._store.oldest_seq if self._store is not None else None
        if self._store is None or (stored is not None and cursor.seq < stored):
            missed = cursor.missed()
            return Gap(cursor.seq, self.oldest_seq - 1, *(missed if self.oldest_seq > self._first else (0, 0)))
        if self._hole is not None and self._hole.from_seq == cursor.seq:
            return self._hole
        return Gap(cursor.seq, self.window_seq - 1, None, None)  # somebody has cut or changed the store's files

    @property
    def _middle_seq(self) -> int:
        """The entry in the middle of the window."""
        return self._entries[len(self._entries) // 2].seq if self._entries else self.next_seq
