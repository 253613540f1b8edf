"""Whole lines out of pieces, and the JSON in them."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccexecd.agents.events import Unread
from ccexecd.agents.stream import Document, EventLines, parse


def lines_in(output: bytes, *sizes: int, longest: int = 1000) -> list[bytes | Unread]:
    """The events' lines of an output that is cut into pieces of these sizes, again and again."""
    reader, found, start, turn = EventLines(longest=longest), [], 0, 0
    while start < len(output):
        size = sizes[turn % len(sizes)]
        found += reader.feed(output[start : start + size])
        start, turn = start + size, turn + 1
    found += reader.finish()
    whole = b"".join(each if each.endswith(b"\n") else each + b"\n" for each in found if isinstance(each, bytes))
    lines = [line for line in whole.split(b"\n") if line.startswith(b"{")]
    return [*lines, *(each for each in found if isinstance(each, Unread))]


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from([b'{"a":1}', b"{", b"words", b"", b"\x00{", b"\xff\xfe", b' {"b":2}', b'{"c":"\xff"}'])),
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
    st.booleans(),
)
def test_cuts_make_no_difference(lines, sizes, ends):
    """Every line that begins with a brace arrives whole, in order, wherever reads have cut it; the last one, too."""
    output = b"\n".join(lines) + (b"\n" if ends else b"")
    assert lines_in(output, *sizes) == [line for line in lines if line.startswith(b"{")]


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_what_is_too_long_is_told_and_not_kept(size):
    """What follows it is read."""
    output = b'{"a":1}\n{"x":"' + b"x" * 2000 + b'"}\n{"b":2}\n'
    found = lines_in(output, size)
    if size < 5000:  # a read that brings the whole of a line has kept nothing
        unread = found.pop()
        assert isinstance(unread, Unread)
        assert unread.is_too_long
        assert found == [b'{"a":1}', b'{"b":2}']
    reader = EventLines(longest=1000)
    for start in range(0, len(output), size):
        reader.feed(output[start : start + size])
        assert reader.held_bytes <= 1000


def test_long_lines_take_no_longer_than_they_are_long():
    """A line of 8 MiB in pieces of 4 KiB costs about as much a byte as one of 1 MiB: each piece is looked at once."""

    def seconds_for(megabytes: int) -> float:
        reader, piece = EventLines(), b"x" * 4096
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            reader.feed(b"{")
            for _ in range(megabytes * 256):
                reader.feed(piece)
            assert len(reader.feed(b"}\n")) == 1
            best = min(best, time.process_time() - began)
        return best

    assert seconds_for(8) < 8 * 6 * max(seconds_for(1), 0.0002), "quadratic would be 64 times"


def test_what_is_no_event_is_not_kept():
    """Neither a line of words nor one of anything."""
    reader = EventLines()
    for piece in (b"words " * 1000, b" and more", b"\x00" * 1000):
        assert reader.feed(piece) == []
        assert reader.held_bytes == 0


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"a":1}', [{"a": 1}]),
        (b'{"a":1}\r', [{"a": 1}]),
        (b'[{"a":1},2,{"b":3}]', [{"a": 1}, {"b": 3}]),
        (b'{"a":"\\ud83d"}', [{"a": "?"}]),
        (b'{"a":"\\ud83d\\ude00"}', [{"a": "\U0001f600"}]),
        (b'{"a":"\\\\ud83d"}', [{"a": "\\ud83d"}]),
        (b'{"a":1', [Unread(6)]),
        (b'{"a":1}}', [Unread(8)]),
        (b'{"a":"\xff"}', [Unread(9)]),
        (b'{"a":"\x00"}', [Unread(9)]),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, [Unread(18001)]),
        (b'{"\\ud83d":' * 3000 + b"1" + b"}" * 3000, [Unread(33001)]),
    ],
    ids=[
        *(
            "object",
            "CR",
            "list",
            "half a pair",
            "a pair",
            "an escaped backslash",
            "cut",
            "too much",
            "bad byte",
            "NUL",
        ),
        *("deep", "deep with half a pair"),
    ],
)
def test_a_line_is_parsed_or_told_as_unread(line, found):
    """Half of a surrogate pair, which a program makes that cuts a text, takes no result away."""
    assert parse(line) == found


def test_a_document_over_many_lines():
    """From the first line that begins with a brace to the end."""
    document = Document()
    for piece in (b"Loaded.\n", b'{\n  "a": {\n', b'    "b": 1\n  }\n}\n'):
        assert document.feed(piece) == []
    (text,) = document.finish()
    assert isinstance(text, bytes)
    assert parse(text) == [{"a": {"b": 1}}]
    assert Document().finish() == []


def test_a_document_is_bounded():
    """What is too long is told of, and not kept."""
    document = Document(longest=10)
    document.feed(b'{"a":"')
    document.feed(b"x" * 10)
    assert document.finish() == [Unread(16, is_too_long=True)]


@pytest.mark.parametrize("reader", [EventLines(), Document()])
def test_what_is_held_takes_little_more_than_its_bytes(reader):
    """An event, or a document, that comes byte by byte is not held byte by byte."""
    count = 1 << 14
    for byte in (b"{", *[b"x"] * (count - 1)):
        assert reader.feed(byte) == []
    assert len(reader._held) <= count / 2048
    assert reader.finish() == [b"{" + b"x" * (count - 1)]
