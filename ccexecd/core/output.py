"""The output of one execution as a log with positions.

Theory of operation. What a read brought is cut by a `Framer` into pieces, each of which becomes a `Chunk` with a
`seq` and a byte `offset` in its stream. `OutputLog` keeps the recent ones, bounded in bytes; state changes are
`Note`s in the same sequence. Every watcher is a `Cursor`: a position in the sequence, nothing more. A cursor that the
window has overtaken is told so with one `Gap` that says exactly what it missed, and goes on with the oldest entry
that is left. So nobody can slow the execution down, and nobody is slowed down by another.

Cutting rules. A chunk is at most `PIECE` bytes and never ends inside a UTF-8 code point, so each can be decoded by
itself. In `lines`, it holds whole lines, as many as one read brought; in `line`, it stands for several entries, one a
line; an unfinished line waits for its end. In `raw`, it is what arrived, at once.
"""

from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import attrs

Stream = Literal["stdout", "stderr"]
Framing = Literal["lines", "line", "raw"]

PIECE = 64 * 1024
"""Bytes of output in one notification at most (the contract)."""

ENTRY_OVERHEAD = 256
"""Bytes that the window charges for an entry besides its text: the objects that hold it (tracemalloc says 230)."""


@attrs.frozen
class Piece:
    """Bytes cut by a `Framer`.

    Attributes:
        text: the bytes.
        lines: how many log entries it stands for: the number of its lines in `line` framing, else 1.
        part: 0-based index among the pieces of one long line.
        parts: how many pieces that line has; 1 for everything else.
    """

    text: bytes
    lines: int = 1
    part: int = 0
    parts: int = 1


@attrs.frozen
class Chunk:
    """A piece with its place: entries `seq` to `seq + count - 1`, starting at byte `offset` of its stream."""

    seq: int
    count: int
    stream: Stream
    offset: int
    piece: Piece


@attrs.frozen
class Note:
    """A state change in the sequence: a notification's method and params."""

    seq: int
    method: str
    params: dict[str, Any]
    count: int = 1


@attrs.frozen
class Gap:
    """What a cursor missed: entries `from_seq` to `to_seq`.

    Attributes:
        dropped_bytes, dropped_lines: what they held; None where the cursor came only after they had gone.
    """

    from_seq: int
    to_seq: int
    dropped_bytes: int | None
    dropped_lines: int | None


Entry = Chunk | Note


def cost(entry: Entry) -> int:
    """The bytes that the window charges for an entry."""
    return ENTRY_OVERHEAD + (len(entry.piece.text) if isinstance(entry, Chunk) else 0)


def code_point_cut(text: bytes, end: int) -> int:
    """The last position at or before `end` that does not lie inside a UTF-8 code point.

    Bytes that are no UTF-8 at all are cut at `end`: no position in them is better than another.
    """
    for back in range(min(3, end) + 1):
        byte = text[end - back] if end - back < len(text) else 0
        if byte & 0xC0 != 0x80:  # not a continuation byte: a code point, or garbage, starts here
            return end - back if end - back > 0 else end
    return end


def _unfinished_tail(text: bytes) -> int:
    """How many bytes at the end are the start of a code point whose rest has not come yet (0 to 3)."""
    for back in range(1, min(3, len(text)) + 1):
        byte = text[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return back if length > back else 0
    return 0


class Framer:
    """Cuts one stream into pieces.

    Args:
        framing: which cutting rule.
        longest_line: bytes after which an unfinished line is passed on in pieces without its end.
    """

    def __init__(self, framing: Framing, longest_line: int) -> None:
        self._framing = framing
        self._longest = max(longest_line, 3)  # a code point in progress is always waited for
        self._held: list[bytes] = []
        self._held_size = 0

    def feed(self, received: bytes) -> Iterator[Piece]:
        """Take what one read brought and give what is ready to go."""
        if self._framing == "raw":
            yield from self._feed_raw(received)
            return
        end = received.rfind(b"\n") + 1
        if not end:
            self._hold(received)
            if self._held_size > self._longest:
                yield from self._long_line(self._take_code_points())
            return
        start = 0
        if self._held_size:
            start = received.index(b"\n") + 1
            self._hold(received[:start])
            yield from self._whole_lines(self._take())
        if start < end:
            yield from self._whole_lines(received[start:end] if start or end < len(received) else received)
        if end < len(received):
            self._hold(received[end:])

    def finish(self) -> Iterator[Piece]:
        """The stream has ended: what was held is all there will be."""
        if self._held_size:
            yield from self._long_line(self._take())

    def _hold(self, part: bytes) -> None:
        self._held.append(part)
        self._held_size += len(part)

    def _take(self) -> bytes:
        text = b"".join(self._held) if len(self._held) > 1 else self._held[0]
        self._held = []
        self._held_size = 0
        return text

    def _take_code_points(self) -> bytes:
        """What is held, but for the start of a code point whose rest has not come yet."""
        text = self._take()
        tail = _unfinished_tail(text)
        if tail:
            self._hold(text[-tail:])
            text = text[:-tail]
        return text

    def _feed_raw(self, received: bytes) -> Iterator[Piece]:
        self._hold(received)
        text = self._take_code_points()
        start = 0
        while start < len(text):
            end = len(text) if len(text) - start <= PIECE else code_point_cut(text, start + PIECE)
            yield Piece(text[start:end] if start or end < len(text) else text)
            start = end

    def _whole_lines(self, text: bytes) -> Iterator[Piece]:
        """Cut bytes that end with a line feed."""
        start = 0
        while start < len(text):
            end = len(text) if len(text) - start <= PIECE else text.rfind(b"\n", start, start + PIECE) + 1
            if end <= start:  # one line longer than a piece
                end = text.index(b"\n", start) + 1
                yield from self._long_line(text[start:end])
            else:
                piece = text[start:end] if start or end < len(text) else text
                yield Piece(piece, lines=piece.count(b"\n") if self._framing == "line" else 1)
            start = end

    def _long_line(self, line: bytes) -> Iterator[Piece]:
        if len(line) <= PIECE:
            yield Piece(line)
            return
        cuts = [0]
        while len(line) - cuts[-1] > PIECE:
            cuts.append(code_point_cut(line, cuts[-1] + PIECE))
        cuts.append(len(line))
        for part, (start, end) in enumerate(pairwise(cuts)):
            yield Piece(line[start:end], part=part, parts=len(cuts) - 1)


class OutputLog:
    """The sequence of one execution: its recent entries, and the account of what went.

    Args:
        capacity: bytes that the window may hold, the overhead of its entries counted in.

    Attributes:
        next_seq: the number that the next entry gets; numbers start at 1.
        sizes: bytes of each stream so far.
        held_bytes: bytes that the window holds, the overhead of its entries counted in.
        dropped_bytes: bytes of output that have left the window.
        passed_bytes: bytes that have ever gone into the window, counted as `held_bytes` is.
        closed: no further entry will come.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: deque[Entry] = deque()
        self._base = 0  # how many entries have left the deque: an entry's index counts from there
        self.held_bytes = 0
        self._cursors: set[Cursor] = set()
        self.next_seq = 1
        self.sizes: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self.dropped_bytes = 0
        self.passed_bytes = 0
        self.closed = False

    @property
    def oldest_seq(self) -> int:
        """The first entry that is still here; `next_seq` when there is none."""
        return self._entries[0].seq if self._entries else self.next_seq

    def append(self, stream: Stream, piece: Piece) -> None:
        """Add output."""
        self._push(Chunk(self.next_seq, piece.lines, stream, self.sizes[stream], piece))
        self.sizes[stream] += len(piece.text)

    def note(self, method: str, params: dict[str, Any]) -> None:
        """Add a state change."""
        self._push(Note(self.next_seq, method, params))

    def close(self) -> None:
        """Say that nothing follows."""
        self.closed = True

    def shrink(self, capacity: int) -> None:
        """Keep less from now on: for executions that have finished."""
        self._capacity = min(self._capacity, capacity)
        self._drop()

    @property
    def backlog(self) -> int:
        """Bytes of the window that the slowest watcher has not seen yet; 0 when nobody watches."""
        return self.passed_bytes - min((cursor.seen_bytes for cursor in self._cursors), default=self.passed_bytes)

    def _push(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.next_seq += entry.count
        self.held_bytes += cost(entry)
        self.passed_bytes += cost(entry)
        if self.held_bytes > self._capacity:
            self._drop()

    def _drop(self) -> None:
        while self.held_bytes > self._capacity and len(self._entries) > 1:  # the newest always stays
            gone = self._entries.popleft()
            size = len(gone.piece.text) if isinstance(gone, Chunk) else 0
            overtaken = [cursor for cursor in self._cursors if cursor.index <= self._base]
            if overtaken:  # lines are counted only here: counting all output would cost a third of its throughput
                lines = gone.piece.text.count(b"\n") if isinstance(gone, Chunk) else 0
                for cursor in overtaken:
                    cursor.miss(gone, size, lines)
            self._base += 1
            self.held_bytes -= cost(gone)
            self.dropped_bytes += size

    def cursor(self, from_seq: int | None) -> "Cursor":
        """A new watcher's position. It is the caller's to `close`.

        Args:
            from_seq: the first entry wanted; 0 or 1 is the start, None only what comes from now on.
        """
        seq = self.next_seq if from_seq is None else max(1, min(from_seq, self.next_seq))
        index, seen_bytes = self._base + len(self._entries), self.passed_bytes
        for entry in reversed(self._entries):
            if entry.seq + entry.count <= seq:
                break
            index -= 1
            seen_bytes -= cost(entry)
        cursor = Cursor(self, seq, index, seen_bytes, is_late=seq < self.oldest_seq)
        self._cursors.add(cursor)
        return cursor

    def text(self, stream: Stream) -> bytes:
        """What the window holds of one stream."""
        return b"".join(
            entry.piece.text for entry in self._entries if isinstance(entry, Chunk) and entry.stream == stream
        )

    def forget(self, cursor: "Cursor") -> None:
        """The watcher has gone."""
        self._cursors.discard(cursor)

    def look(self, cursor: "Cursor") -> Entry | Gap | None:
        """What a cursor sees next; None when nothing new has come."""
        position = cursor.index - self._base
        if position < 0 or (position == 0 and self._entries and cursor.seq < self._entries[0].seq):
            cursor.index, cursor.seen_bytes = self._base, self.passed_bytes - self.held_bytes
            return Gap(cursor.seq, self.oldest_seq - 1, *cursor.missed())
        return self._entries[position] if position < len(self._entries) else None


class Cursor:
    """A watcher's place in a log.

    Attributes:
        seq: the next entry that it has not seen.
        index: that entry's index in the log.
        seen_bytes: bytes that went into the window before that entry.
    """

    __slots__ = ("_is_late", "_log", "_missed_bytes", "_missed_lines", "index", "seen_bytes", "seq")

    def __init__(self, log: OutputLog, seq: int, index: int, seen_bytes: int, *, is_late: bool) -> None:
        self._log = log
        self.seq = seq
        self.index = index
        self.seen_bytes = seen_bytes
        self._is_late = is_late  # entries that it wanted had gone before it came, uncounted
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
        entry = self._log.look(self)
        if isinstance(entry, Gap):
            self.seq = entry.to_seq + 1
        elif entry is not None:
            self.index += 1
            self.seen_bytes += cost(entry)
            self.seq = entry.seq + entry.count
        return entry

    def close(self) -> None:
        """Stop watching."""
        self._log.forget(self)

    def miss(self, entry: Entry, size: int, lines: int) -> None:
        """The log drops an entry that this cursor has not seen, or has not seen all of."""
        if isinstance(entry, Chunk) and self.seq > entry.seq:  # it began in the middle of this chunk
            before = self.seq - entry.seq
            size = len(entry.piece.text.split(b"\n", before)[-1])
            lines -= before
        self._missed_bytes += size
        self._missed_lines += lines

    def missed(self) -> tuple[int | None, int | None]:
        """Bytes and lines missed since the last gap; None for a cursor that came after they had gone."""
        missed = (None, None) if self._is_late else (self._missed_bytes, self._missed_lines)
        self._missed_bytes = self._missed_lines = 0
        self._is_late = False
        return missed
