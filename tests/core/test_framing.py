"""Cutting a stream into pieces, against naive models: every rule, with any bytes in any chunks."""

import re
from itertools import accumulate, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ccexecd.core import framing as framing_module
from ccexecd.core.framing import MOST_LINES, PIECE, Framer, Piece, code_point_cut

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
        patch.setattr(framing_module, "PIECE", SMALL)
        yield


@pytest.fixture
def full_size(monkeypatch):
    """Pieces as they are in a daemon."""
    monkeypatch.setattr(framing_module, "PIECE", PIECE)


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
    assert list(framer.feed(b"abc")) == [
        Piece(b"01234567", part=0, parts=2),
        Piece(b"89abc", part=1, parts=2, before=8),
    ]
    assert list(framer.feed(b"def\n")) == [Piece(b"def\n", before=13)]


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


@pytest.mark.usefixtures("full_size")
@pytest.mark.parametrize(
    "lines",
    [b"\n" * 65536, b"x" * 60000 + b"\n" * 5536, b"\n" * 5000 + b"y" * 60000 + b"\n", b"ab\n" * 9000],
    ids=["empty", "after a long one", "before a long one", "short"],
)
def test_a_piece_has_so_many_lines_at_most(lines):
    """Where each is told by itself: nothing is lost or cut, and no step has to make more of a piece than that."""
    pieces = list(Framer("line", 1 << 20).feed(lines))
    assert b"".join(piece.text for piece in pieces) == lines
    assert all(piece.lines == piece.text.count(b"\n") <= MOST_LINES for piece in pieces)
    assert len(pieces) < 4 * len(lines) / MOST_LINES + 4
    [whole] = Framer("lines", 1 << 20).feed(b"\n" * 5000)
    assert whole.lines == 1


@pytest.mark.parametrize("part", [b"x", b"x" * 3000, b"x" * 5000])
def test_what_is_held_takes_little_more_than_its_bytes(part):
    """A line that comes byte by byte is not held byte by byte; and it comes out as it went in."""
    framer, count = Framer("lines", HUGE), 1 << 9
    for _ in range(count):
        assert list(framer.feed(part)) == []
    assert len(framer._held) <= len(part) * count / 2048 + 1
    assert b"".join(piece.text for piece in framer.finish()) == part * count
