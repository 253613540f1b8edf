"""The output log against naive models: every cutting rule, every cursor, every gap, with any bytes in any chunks."""

import re
from itertools import accumulate, pairwise

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from ccexecd.core import output
from ccexecd.core.output import ENTRY_OVERHEAD, PIECE, Chunk, Framer, Gap, Note, OutputLog, Piece, code_point_cut

SMALL = 8
"""Bytes of a piece where a property looks at every way to cut."""

HUGE = 1 << 30

CODE_POINT = re.compile(
    rb"[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
"""Table 3-7 of the Unicode standard: the byte sequences that are UTF-8."""

FRAGMENTS = st.one_of(
    st.sampled_from(
        [
            b"a",
            b"\n",
            b"\r\n",
            b"\0",
            *(each.encode() for each in "é\x80€\u0800\u1000😀\U00040000\U00100000"),  # a lead byte of every kind
            b"\x80",
            b"\xff",
            b"\xe2\x82",
            b"\xf0\x9f\x98",
        ]
    ),
    st.binary(max_size=3),
    st.integers(1, 20).map(lambda size: b"x" * size),
)
CHUNKS = st.lists(st.lists(FRAGMENTS, max_size=8).map(b"".join), max_size=8)
TEXT_CHUNKS = st.tuples(st.text(alphabet="a\né€😀\U00040000", max_size=30), st.integers(1, 9)).map(
    lambda both: [both[0].encode()[at : at + both[1]] for at in range(0, len(both[0].encode()), both[1])]
)
FRAMINGS = st.sampled_from(["lines", "line", "raw"])


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
    """Everything in here is about where the cuts are, which is the same for small pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "PIECE", SMALL)
        yield


@pytest.fixture
def full_size(monkeypatch):
    """Pieces as they are in a daemon."""
    monkeypatch.setattr(output, "PIECE", PIECE)


def inside_code_points(text: bytes) -> set[int]:
    """The positions at which a cut would part a valid code point."""
    inside: set[int] = set()
    position = 0
    while position < len(text):
        match = CODE_POINT.match(text, position)
        end = match.end() if match else position + 1
        inside.update(range(position + 1, end))
        position = end
    return inside


def framed(framing, longest, chunks) -> list[Piece]:
    """All pieces of a stream that came in these chunks."""
    framer = Framer(framing, longest)
    return [*(piece for chunk in chunks for piece in framer.feed(chunk)), *framer.finish()]


def cuts(pieces: list[Piece]) -> list[int]:
    """Where each piece ends in the stream."""
    return list(accumulate(len(piece.text) for piece in pieces))


# Framing


@settings(deadline=None)
@given(framing=FRAMINGS, longest=st.integers(0, 40), chunks=CHUNKS)
def test_no_byte_is_lost_doubled_or_moved(framing, longest, chunks):
    """The pieces put together are the stream, none is empty, and none is longer than the contract allows."""
    pieces = framed(framing, longest, chunks)
    assert b"".join(piece.text for piece in pieces) == b"".join(chunks)
    assert all(0 < len(piece.text) <= SMALL for piece in pieces)


@settings(deadline=None, max_examples=300)
@given(framing=FRAMINGS, longest=st.integers(0, 40), chunks=CHUNKS)
@example(framing="lines", longest=4, chunks=[b"abcd\xe2", b"\x82\xac\n"])
@example(framing="raw", longest=4, chunks=[b"abcdefg\xf0", b"\x9f", b"\x98", b"\x80"])
def test_no_code_point_is_cut(framing, longest, chunks):
    """Wherever reads and pieces end, each piece can be decoded by itself: it parts no valid code point."""
    assert not inside_code_points(b"".join(chunks)).intersection(cuts(framed(framing, longest, chunks)))


@settings(deadline=None)
@given(framing=FRAMINGS, longest=st.integers(0, 40), chunks=TEXT_CHUNKS)
def test_text_stays_text(framing, longest, chunks):
    """Of a program that writes UTF-8, every piece is UTF-8."""
    decoded = [piece.text.decode() for piece in framed(framing, longest, chunks)]
    assert "".join(decoded) == b"".join(chunks).decode()


@settings(deadline=None)
@given(framing=st.sampled_from(["lines", "line"]), longest=st.integers(0, 40), chunks=CHUNKS)
def test_lines_are_whole(framing, longest, chunks):
    """A line that is neither longer than a piece nor than what is waited for is in one piece."""
    text = b"".join(chunks)
    ends = set(cuts(framed(framing, longest, chunks)))
    position = 0
    for line in re.findall(rb"[^\n]*\n|[^\n]+", text):
        if len(line) <= min(SMALL, longest):
            assert not ends.intersection(range(position + 1, position + len(line)))
        position += len(line)


@settings(deadline=None)
@given(chunks=CHUNKS)
def test_a_long_line_comes_in_numbered_pieces_of_its_own(chunks):
    """The pieces of a line that is longer than one are counted, and hold nothing of another line."""
    pieces = framed("lines", HUGE, chunks)
    lines = []
    for piece in pieces:
        if piece.part == 0:
            lines.append([piece])
        else:
            assert piece.part == len(lines[-1])
            lines[-1].append(piece)
    for parts in lines:
        assert all(part.parts == len(parts) for part in parts)
        line = b"".join(part.text for part in parts)
        if len(parts) > 1:
            assert b"\n" not in line[:-1]
            assert len(line) > SMALL
            assert line.endswith(b"\n") or parts[-1] is pieces[-1]


@settings(deadline=None)
@given(chunks=CHUNKS)
def test_line_framing_counts_an_entry_for_each_line(chunks):
    """In `line`, a piece stands for as many entries as it has lines; elsewhere for one."""
    for piece in framed("line", HUGE, chunks):
        assert piece.lines == (max(1, piece.text.count(b"\n")) if piece.parts == 1 else 1)
    for framing in ("lines", "raw"):
        assert all(piece.lines == 1 for piece in framed(framing, HUGE, chunks))


@settings(deadline=None)
@given(chunks=CHUNKS)
def test_lines_come_together_as_they_were_read(chunks):
    """All whole lines of one read come in as few pieces as they fit in: no two neighbours would fit into one."""
    framer = Framer("lines", HUGE)
    for chunk in chunks:
        held = framer._held_size
        pieces = list(framer.feed(chunk))
        own = pieces[1:] if held else pieces  # what was held and its end come first, by themselves
        for one, two in pairwise(own):
            if one.parts > 1 or two.parts > 1:
                continue  # a line too long for one piece shares none
            first_line = two.text[: two.text.index(b"\n") + 1]
            assert len(one.text) + len(first_line) > SMALL


@settings(deadline=None)
@given(chunks=CHUNKS)
def test_raw_waits_for_nothing_but_the_rest_of_a_code_point(chunks):
    """In `raw`, all that was read is passed on at once, but for the at most 3 bytes of a code point in progress."""
    framer = Framer("raw", HUGE)
    read, passed_on = b"", b""
    for chunk in chunks:
        read += chunk
        passed_on += b"".join(piece.text for piece in framer.feed(chunk))
        waits = read[len(passed_on) :]
        assert len(waits) <= 3
        assert not waits or waits[0] >= 0xC0


@settings(deadline=None)
@given(framing=st.sampled_from(["lines", "line"]), longest=st.integers(0, 40), chunks=CHUNKS)
def test_what_is_held_is_bounded(framing, longest, chunks):
    """Without a line feed, no more is waited for than the longest line, or than the last read brought."""
    framer = Framer(framing, longest)
    read = passed_on = 0
    for chunk in chunks:
        read += len(chunk)
        passed_on += sum(len(piece.text) for piece in framer.feed(chunk))
        assert read - passed_on <= max(longest, len(chunk), 3)


def test_an_unfinished_line_waits_for_its_end():
    """Half a line is nothing yet; its end makes it one piece; the stream's end does, too."""
    framer = Framer("lines", HUGE)
    assert list(framer.feed(b"a")) == []
    assert list(framer.feed(b"b\nc\nd")) == [Piece(b"ab\n"), Piece(b"c\n")]
    assert list(framer.finish()) == [Piece(b"d")]
    assert list(framer.finish()) == []


def test_a_line_without_end_is_passed_on_when_it_is_too_long():
    """Past the longest line, what there is goes out in pieces, and the line goes on after it."""
    framer = Framer("line", 10)
    assert list(framer.feed(b"0123456789")) == []
    assert list(framer.feed(b"abc")) == [Piece(b"01234567", part=0, parts=2), Piece(b"89abc", part=1, parts=2)]
    assert list(framer.feed(b"def\n")) == [Piece(b"def\n")]


def test_a_read_of_whole_lines_is_not_copied():
    """What a read brought is what the log keeps, where it ends with a line feed: the common case costs no copy."""
    received = b"one\ntwo\n"
    [piece] = Framer("lines", HUGE).feed(received)
    assert piece.text is received


@pytest.mark.usefixtures("full_size")
@pytest.mark.parametrize("framing", ["lines", "line", "raw"])
def test_five_megabytes_without_a_line_feed(framing):
    """The size that the contract names holds in life: 5 MB on one line come whole, in pieces of 64 KiB at most."""
    text = "0123456789€".encode() * 400_000
    reads = [text[start : start + 256 * 1024] for start in range(0, len(text), 256 * 1024)]
    pieces = framed(framing, 8 << 20, [*reads, b"\n"])
    assert b"".join(piece.text for piece in pieces) == text + b"\n"
    assert max(len(piece.text) for piece in pieces) <= 64 * 1024
    assert all(piece.text.decode() for piece in pieces)


@pytest.mark.parametrize(
    ("text", "end", "cut"),
    [
        (b"abcdef", 3, 3),
        (b"abcdef", 6, 6),
        ("ab€".encode(), 2, 2),
        ("ab€".encode(), 3, 2),
        ("ab€".encode(), 4, 2),
        ("ab€".encode(), 5, 5),
        ("a😀".encode(), 4, 1),
        (b"\x80" * 9, 8, 8),
        (b"ab" + b"\x80" * 9, 8, 8),
        ("€".encode(), 2, 2),  # nothing before it: a piece must not be empty
    ],
)
def test_a_cut_goes_before_a_code_point_or_stays(text, end, cut):
    """The cut moves back by 3 bytes at most, never to the start, and not at all in what is no UTF-8."""
    assert code_point_cut(text, end) == cut


# The log


def test_entries_have_numbers_and_places():
    """Numbers grow from 1 over output and state changes alike; offsets count each stream's own bytes."""
    log = OutputLog(HUGE)
    log.note("process.started", {"pid": 1})
    log.append("stdout", Piece(b"a\nb\n", lines=2))
    log.append("stderr", Piece(b"e"))
    log.append("stdout", Piece(b"c\n"))
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
    log.append("stdout", Piece(b"a"))
    log.close()
    assert (cursor.at_end, cursor.finished) == (False, False)
    cursor.take()
    assert (cursor.at_end, cursor.finished) == (True, True)


def test_the_window_holds_a_streams_text():
    """What is left of one stream, in order, without the other one and the state changes."""
    log = OutputLog(HUGE)
    log.append("stdout", Piece(b"a"))
    log.note("process.paused", {})
    log.append("stderr", Piece(b"b"))
    log.append("stdout", Piece(b"c"))
    assert (log.text("stdout"), log.text("stderr")) == (b"ac", b"b")


def test_the_newest_entry_stays_whatever_its_size():
    """A window smaller than one entry holds that one, or a watcher could never see anything."""
    log = OutputLog(1)
    for text in (b"aaa", b"bbb"):
        log.append("stdout", Piece(text))
    cursor = log.cursor(2)
    assert cursor.take() == Chunk(2, 1, "stdout", 3, Piece(b"bbb"))
    assert (log.dropped_bytes, log.oldest_seq) == (3, 2)


def test_a_window_shrinks_and_does_not_grow():
    """A finished execution keeps less; asking for more again changes nothing."""
    log = OutputLog(10 * (ENTRY_OVERHEAD + 1))
    for _ in range(10):
        log.append("stdout", Piece(b"x"))
    log.shrink(2 * (ENTRY_OVERHEAD + 1))
    assert (log.oldest_seq, log.held_bytes, log.dropped_bytes) == (9, 2 * (ENTRY_OVERHEAD + 1), 8)
    log.shrink(HUGE)
    log.append("stdout", Piece(b"x"))
    assert log.oldest_seq == 10


def test_a_gap_says_what_was_missed():
    """A watcher that was there hears the bytes and lines that went, once, and goes on with the oldest that is left."""
    log = OutputLog(2 * (ENTRY_OVERHEAD + 4))
    cursor = log.cursor(0)
    for text in (b"a\nb\n", b"c\n", b"d", b"e\n"):
        log.append("stdout", Piece(text))
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
        log.append("stdout", Piece(b"x"))
    early, late = log.cursor(1), log.cursor(1)
    assert early.take() == Gap(1, 2, None, None)
    log.append("stdout", Piece(b"x"))
    assert late.take() == Gap(1, 3, None, None)
    assert early.take() == Gap(3, 3, 1, 0)


def test_a_gap_begins_where_the_watcher_wanted_to():
    """A watcher that began in the middle of a chunk does not miss the lines before it."""
    log = OutputLog(ENTRY_OVERHEAD + 6)
    log.append("stdout", Piece(b"a\nbb\nccc\n", lines=3))
    cursor = log.cursor(3)
    log.append("stdout", Piece(b"d\n"))
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
        self.log.append(stream, piece)
        self._added(entry)

    @rule(stream=st.sampled_from(["stdout", "stderr"]), text=st.binary(min_size=1, max_size=ENTRY_OVERHEAD * 2))
    def append_raw(self, stream, text):
        entry = Chunk(self._next_seq(), 1, stream, self._size(stream), Piece(text))
        self.log.append(stream, Piece(text))
        self._added(entry)

    @rule()
    def note(self):
        entry = Note(self._next_seq(), "process.paused", {"status": "paused"})
        self.log.note(entry.method, entry.params)
        self._added(entry)

    @rule(capacity=st.integers(1, 3 * ENTRY_OVERHEAD))
    def shrink(self, capacity):
        self.log.shrink(capacity)
        self.capacity = min(self.capacity, capacity)
        self._drop()

    @rule(target=cursors, from_seq=st.one_of(st.none(), st.integers(0, 60)))
    def open(self, from_seq):
        seq = self._next_seq() if from_seq is None else min(max(from_seq, 1), self._next_seq())
        oldest = self.entries[self.gone].seq if self.entries else 1
        watcher = Watcher(self.log.cursor(from_seq), seq, was_there=seq >= oldest, gone_before=self.gone)
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
        assert self.log.sizes == {stream: self._size(stream) for stream in ("stdout", "stderr")}
        assert self.log.held_bytes <= self.capacity or self.gone == len(self.entries) - 1
        assert self.log.backlog == max(map(self._unseen_cost, self.watchers), default=0)

    def _unseen_cost(self, watcher: "Watcher") -> int:
        unseen = [entry for entry in self.entries[watcher.gone_before :] if entry.seq + entry.count > watcher.seq]
        return sum(ENTRY_OVERHEAD + len(text_of(entry)) for entry in unseen)


@attrs.define(eq=False)
class Watcher:
    """A cursor, and what a model knows of it."""

    cursor: output.Cursor
    seq: int
    was_there: bool
    """Whether everything that it has not seen was in the window when it came, or when it heard of the last gap."""
    gone_before: int
    """How many entries had left the window when it came: they are nobody's backlog."""


def text_of(entry: Chunk | Note) -> bytes:
    """The output in an entry."""
    return entry.piece.text if isinstance(entry, Chunk) else b""


def unseen_text(entry: Chunk | Note, seq: int) -> bytes:
    """The output in an entry that a watcher at `seq` has not seen."""
    text = text_of(entry)
    return b"".join(text.splitlines(keepends=True)[seq - entry.seq :]) if seq > entry.seq else text


TestLog = LogMachine.TestCase
TestLog.settings = settings(deadline=None, max_examples=150, stateful_step_count=30)
