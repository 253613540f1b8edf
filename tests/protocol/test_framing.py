"""One message per line, against `bytes.split`."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccexecd.protocol.framing import DEFAULT_LIMIT, LineBuffer, LineTooLongError

CHUNKS = st.lists(st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r", b"\0", b"\xff"]), max_size=8).map(b"".join))


@settings(deadline=None)
@given(chunks=CHUNKS)
def test_lines_are_those_of_the_whole_stream(chunks):
    """However the stream was cut on its way, its lines come out as if it had come at once."""
    buffer = LineBuffer()
    lines = [line for chunk in chunks for line in buffer.feed(chunk)]
    assert lines == b"".join(chunks).split(b"\n")[:-1]


@settings(deadline=None)
@given(chunks=CHUNKS)
def test_a_line_comes_with_its_line_feed(chunks):
    """Each line is given back by the very call that completed it."""
    buffer = LineBuffer()
    for chunk in chunks:
        assert len(buffer.feed(chunk)) == chunk.count(b"\n")


@settings(deadline=None)
@given(chunks=CHUNKS, limit=st.integers(0, 4))
def test_the_limit_holds_for_every_line(chunks, limit):
    """A stream is refused if, and as soon as, one of its lines is over the limit."""
    buffer = LineBuffer(limit)
    received = b""
    for chunk in chunks:
        received += chunk
        if max(map(len, received.split(b"\n"))) > limit:
            with pytest.raises(LineTooLongError):
                buffer.feed(chunk)
            return
        buffer.feed(chunk)


def test_a_line_of_exactly_the_limit_passes():
    """The line feed is not counted."""
    assert LineBuffer(3).feed(b"abc\n") == [b"abc"]


def test_the_error_names_the_limit():
    """A client is told what is allowed."""
    with pytest.raises(LineTooLongError, match="a line is longer than 3 bytes"):
        LineBuffer(3).feed(b"abcd")


def test_the_default_limit_is_that_of_a_websocket_message():
    """Both doors take messages of the same size."""
    assert DEFAULT_LIMIT == 10485760


def test_a_line_that_comes_byte_by_byte_takes_little_more_than_its_bytes():
    """Whoever sends so costs no more memory than the limit says."""
    buffer = LineBuffer()
    tracemalloc.start()
    try:
        for number in range(100_000):
            assert buffer.feed(b"%d" % (number % 10)) == []
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 4 * 100_000
    assert buffer.feed(b"\n") == [b"0123456789" * 10_000]
