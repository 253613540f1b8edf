"""The output log against a naive model: every cursor and every gap, with a window alone."""

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from ccexecd.core.cursor import Cursor
from ccexecd.core.entries import ENTRY_OVERHEAD, Chunk, Gap, Note, Stream
from ccexecd.core.framing import Piece
from ccexecd.core.output import OutputLog

HUGE = 1 << 30


def append(log: OutputLog, stream: Stream, piece: Piece) -> None:
    """Add what one read brought, which is one piece."""
    log.extend(stream, piece.text, [piece])


def test_entries_have_numbers_and_places():
    """Numbers grow from 1 over output and state changes alike; offsets count each stream's own bytes."""
    log = OutputLog(HUGE)
    log.note("process.started", {"pid": 1})
    append(log, "stdout", Piece(b"a\nb\n", lines=2))
    append(log, "stderr", Piece(b"e"))
    append(log, "stdout", Piece(b"c\n"))
    log.note("process.completed", {})
    cursor = log.cursor(0)
    assert [cursor.take() for _ in range(6)] == [
        Note(1, "process.started", {"pid": 1}),
        Chunk(2, 2, "stdout", 0, Piece(b"a\nb\n", lines=2)),
        Chunk(4, 1, "stderr", 0, Piece(b"e")),
        Chunk(5, 1, "stdout", 4, Piece(b"c\n")),
        Note(6, "process.completed", {}),
        None,
    ]
    assert (log.next_seq, log.oldest_seq, log.sizes) == (7, 1, {"stdout": 6, "stderr": 1})


def test_an_empty_log_has_no_oldest_entry():
    """The oldest entry of an empty log is the one that comes next."""
    log = OutputLog(100)
    assert (log.oldest_seq, log.next_seq) == (1, 1)
    assert log.cursor(0).take() is None


def test_a_watcher_is_finished_when_the_log_is_closed_and_read():
    """`at_end` is about now, `finished` for good."""
    log = OutputLog(HUGE)
    cursor = log.cursor(0)
    assert (cursor.at_end, cursor.finished) == (True, False)
    append(log, "stdout", Piece(b"a"))
    log.close()
    assert (cursor.at_end, cursor.finished) == (False, False)
    cursor.take()
    assert (cursor.at_end, cursor.finished) == (True, True)


def test_the_newest_entry_stays_whatever_its_size():
    """A window smaller than one entry holds that one, or a watcher could never see anything."""
    log = OutputLog(1)
    for text in (b"aaa", b"bbb"):
        append(log, "stdout", Piece(text))
    cursor = log.cursor(2)
    assert cursor.take() == Chunk(2, 1, "stdout", 3, Piece(b"bbb"))
    assert (log.dropped_bytes, log.oldest_seq) == (3, 2)


def test_a_window_without_a_store_does_not_shrink():
    """What is nowhere else stays, though its execution has finished."""
    log = OutputLog(HUGE)
    append(log, "stdout", Piece(b"x"))
    append(log, "stdout", Piece(b"y"))
    log.shrink(1)
    assert (log.oldest_seq, log.held_bytes) == (1, 2 * (ENTRY_OVERHEAD + 1))


def test_a_window_is_bounded_in_lines_too():
    """Whichever bound is reached first; the lines of what has gone are counted."""
    log = OutputLog(HUGE, most_lines=3)
    for text in (b"a\nb\n", b"no end", b"c\nd\n"):
        append(log, "stdout", Piece(text))
    assert (log.oldest_seq, log.dropped_bytes, log.dropped_lines) == (2, 4, 2)
    append(log, "stdout", Piece(b"1\n2\n3\n4\n5\n"))
    assert (log.oldest_seq, log.dropped_lines) == (4, 4)  # the newest always stays


def test_a_gap_says_what_was_missed():
    """A watcher that was there hears the bytes and lines that went, once, and goes on with the oldest that is left."""
    log = OutputLog(2 * (ENTRY_OVERHEAD + 4))
    cursor = log.cursor(0)
    for text in (b"a\nb\n", b"c\n", b"d", b"e\n"):
        append(log, "stdout", Piece(text))
    assert cursor.take() == Gap(1, 2, 6, 3)
    assert cursor.take() == Chunk(3, 1, "stdout", 6, Piece(b"d"))


def test_a_gap_of_state_changes_only_has_no_bytes():
    """Nothing of the output was missed, and that is known: 0, not unknown."""
    log = OutputLog(ENTRY_OVERHEAD)
    cursor = log.cursor(0)
    log.note("process.paused", {})
    log.note("process.resumed", {})
    assert cursor.take() == Gap(1, 1, 0, 0)


def test_a_gap_from_before_the_watcher_came_is_of_unknown_size():
    """Nobody counted for it, and what went since does not pretend to be all."""
    log = OutputLog(ENTRY_OVERHEAD + 1)
    for _ in range(3):
        append(log, "stdout", Piece(b"x"))
    early, late = log.cursor(1), log.cursor(1)
    assert early.take() == Gap(1, 2, None, None)
    append(log, "stdout", Piece(b"x"))
    assert late.take() == Gap(1, 3, None, None)
    assert early.take() == Gap(3, 3, 1, 0)


def test_a_gap_begins_where_the_watcher_wanted_to():
    """A watcher that began in the middle of a chunk does not miss the lines before it."""
    log = OutputLog(ENTRY_OVERHEAD + 6)
    append(log, "stdout", Piece(b"a\nbb\nccc\n", lines=3))
    cursor = log.cursor(3)
    append(log, "stdout", Piece(b"d\n"))
    assert cursor.take() == Gap(3, 3, 4, 1)


class LogMachine(RuleBasedStateMachine):
    """A log and its watchers beside a model that keeps everything and counts afresh each time."""

    cursors = Bundle("cursors")

    def __init__(self) -> None:
        super().__init__()
        self.capacity = 3 * ENTRY_OVERHEAD
        self.log = OutputLog(self.capacity)
        self.entries: list[Chunk | Note] = []
        self.gone = 0  # how many of them have left the window
        self.watchers: list[Watcher] = []

    def _added(self, entry: Chunk | Note) -> None:
        self.entries.append(entry)
        self._drop()

    def _drop(self) -> None:
        while self._held() > self.capacity and self.gone < len(self.entries) - 1:
            self.gone += 1

    def _held(self) -> int:
        return sum(ENTRY_OVERHEAD + len(text_of(entry)) for entry in self.entries[self.gone :])

    def _next_seq(self) -> int:
        return self.entries[-1].seq + self.entries[-1].count if self.entries else 1

    def _size(self, stream: str) -> int:
        return sum(len(text_of(entry)) for entry in self.entries if getattr(entry, "stream", "") == stream)

    @rule(
        stream=st.sampled_from(["stdout", "stderr"]),
        lines=st.lists(st.sampled_from([b"\n", b"a\n", b"bcdefg\n"]), min_size=1, max_size=4),
    )
    def append_lines(self, stream, lines):
        piece = Piece(b"".join(lines), lines=len(lines))
        entry = Chunk(self._next_seq(), piece.lines, stream, self._size(stream), piece)
        append(self.log, stream, piece)
        self._added(entry)

    @rule(stream=st.sampled_from(["stdout", "stderr"]), text=st.binary(min_size=1, max_size=ENTRY_OVERHEAD * 2))
    def append_raw(self, stream, text):
        entry = Chunk(self._next_seq(), 1, stream, self._size(stream), Piece(text))
        append(self.log, stream, Piece(text))
        self._added(entry)

    @rule()
    def note(self):
        entry = Note(self._next_seq(), "process.paused", {"status": "paused"})
        self.log.note(entry.method, entry.params)
        self._added(entry)

    @rule(target=cursors, from_seq=st.one_of(st.none(), st.integers(0, 60)))
    def open(self, from_seq):
        seq = self._next_seq() if from_seq is None else min(max(from_seq, 1), self._next_seq())
        oldest = self.entries[self.gone].seq if self.entries else 1
        watcher = Watcher(self.log.cursor(from_seq), seq, was_there=seq >= oldest)
        self.watchers.append(watcher)
        return watcher

    @rule(watcher=cursors, times=st.integers(1, 3))
    def take(self, watcher, times):
        for _ in range(times):
            assert watcher.cursor.take() == self._expected(watcher)
            assert watcher.cursor.seq == watcher.seq
            assert watcher.cursor.at_end is (watcher.seq == self._next_seq())

    def _expected(self, watcher: "Watcher") -> Chunk | Note | Gap | None:
        unseen = [entry for entry in self.entries if entry.seq + entry.count > watcher.seq]
        missed = unseen[: max(0, self.gone - (len(self.entries) - len(unseen)))]
        if missed:
            texts = [unseen_text(entry, watcher.seq) for entry in missed]
            account = (
                (sum(map(len, texts)), sum(text.count(b"\n") for text in texts)) if watcher.was_there else (None, None)
            )
            gap = Gap(watcher.seq, unseen[len(missed)].seq - 1, *account)
            watcher.seq, watcher.was_there = gap.to_seq + 1, True
            return gap
        if not unseen:
            return None
        watcher.seq = unseen[0].seq + unseen[0].count
        return unseen[0]

    @rule(watcher=consumes(cursors))
    def close(self, watcher):
        watcher.cursor.close()
        self.watchers.remove(watcher)

    @invariant()
    def the_books_are_right(self):
        assert self.log.next_seq == self._next_seq()
        assert self.log.oldest_seq == (self.entries[self.gone].seq if self.entries else 1)
        assert self.log.held_bytes == self._held()
        assert self.log.dropped_bytes == sum(len(text_of(entry)) for entry in self.entries[: self.gone])
        assert self.log.dropped_lines == sum(text_of(entry).count(b"\n") for entry in self.entries[: self.gone])
        assert self.log.sizes == {stream: self._size(stream) for stream in ("stdout", "stderr")}
        assert self.log.held_bytes <= self.capacity or self.gone == len(self.entries) - 1
        assert self.log.backlog == max(map(self._unseen_cost, self.watchers), default=0)

    def _unseen_cost(self, watcher: "Watcher") -> int:
        unseen = [entry for entry in self.entries[self.gone :] if entry.seq + entry.count > watcher.seq]
        return sum(ENTRY_OVERHEAD + len(text_of(entry)) for entry in unseen)


@attrs.define(eq=False)
class Watcher:
    """A cursor, and what a model knows of it."""

    cursor: Cursor
    seq: int
    was_there: bool
    """Whether everything that it has not seen was in the window when it came, or when it heard of the last gap."""


def text_of(entry: Chunk | Note) -> bytes:
    """The output in an entry."""
    return entry.piece.text if isinstance(entry, Chunk) else b""


def unseen_text(entry: Chunk | Note, seq: int) -> bytes:
    """The output in an entry that a watcher at `seq` has not seen."""
    text = text_of(entry)
    return b"".join(text.splitlines(keepends=True)[seq - entry.seq :]) if seq > entry.seq else text


TestLog = LogMachine.TestCase
TestLog.settings = settings(deadline=None, max_examples=150, stateful_step_count=30)


def test_numbers_of_an_earlier_life_are_a_gap_without_output():
    """Whoever begins at the start is told that nothing of the output is missing there; who comes later, nothing."""
    log = OutputLog(1000)
    log.number_from(5)
    log.note("process.held", {})
    first, later = log.cursor(0), log.cursor(5)
    assert [first.take(), first.take(), first.take()] == [Gap(1, 4, 0, 0), Note(5, "process.held", {}), None]
    assert later.take() == Note(5, "process.held", {})
    assert log.oldest_seq == 5
