"""What is shown of output, against a naive model."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ccexecd.core import framing
from ccexecd.core.display import Display
from ccexecd.core.framing import Framer, Piece

SMALL = 8


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
    """Long lines are as short as that here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "PIECE", SMALL)
        yield


@settings(deadline=None, max_examples=300)
@given(
    lines=st.lists(st.text(alphabet="a€😀é", max_size=20), max_size=6),
    is_finished=st.booleans(),
    most=st.integers(4, 60),
    by_line=st.booleans(),
    longest=st.sampled_from([4, 12, 1 << 20]),
    read=st.integers(1, 40),
)
@example(lines=["aaaaééé€😀€a"], is_finished=False, most=21, by_line=False, longest=4, read=20)
def test_each_line_is_cut_where_it_is_too_long(lines, is_finished, most, by_line, longest, read):
    """What is shown is the beginning of every line, no longer than asked for, with its line feed, and still text."""
    text = "\n".join(lines) + ("\n" if is_finished else "")
    framer = Framer("line" if by_line else "lines", longest)
    reads = [text.encode()[start : start + read] for start in range(0, len(text.encode()), read)]
    pieces = [*itertools.chain.from_iterable(map(framer.feed, reads)), *framer.finish()]
    shown = b"".join(Display(max_line_bytes=most).cut(piece) for piece in pieces).decode()
    assert shown.count("\n") == text.count("\n")
    for whole, part in zip(text.split("\n"), shown.split("\n"), strict=True):
        assert whole.startswith(part)
        assert len(part.encode()) <= most
        assert len(part.encode()) > min(most, len(whole.encode())) - 4
        if len(whole.encode()) <= most:
            assert part == whole


def test_nothing_is_cut_where_nobody_asked():
    """The very same bytes."""
    piece = Piece(b"x" * 100)
    assert Display().cut(piece) is piece.text


@pytest.mark.parametrize(
    ("piece", "shown"),
    [
        (Piece(b"abcd\n"), b"abcd\n"),
        (Piece(b"abcde\n"), b"abcd\n"),
        (Piece(b"abcde"), b"abcd"),
        (Piece(b"\n\n"), b"\n\n"),
        (Piece(b"abcde\nef\nghijk"), b"abcd\nef\nghij"),
        (Piece(b"\xff\xff\xff\xff\xff\n"), b"\xff\xff\xff\xff\n"),
        (Piece(b"12345678", part=0, parts=3), b"1234"),
        (Piece(b"12345678", part=1, parts=3, before=8), b""),
        (Piece(b"1234\n", part=2, parts=3, before=16), b"\n"),
    ],
)
def test_four_bytes_of_a_line(piece, shown):
    """Also of what is no text; the later pieces of a long line are empty, and its line feed comes."""
    assert Display(max_line_bytes=4).cut(piece) == shown
