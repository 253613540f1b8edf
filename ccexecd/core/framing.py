"""Cutting a stream of output into pieces.

Cutting rules. A piece is at most `PIECE` bytes and never ends inside a UTF-8 code point, so each can be decoded by
itself. In `lines`, it holds whole lines, as many as one read brought; in `line`, it stands for several entries, one a
line; an unfinished line waits for its end. In `raw`, it is what arrived, at once.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import attrs

Framing = Literal["lines", "line", "raw"]

PIECE = 64 * 1024
"""Bytes of output in one notification at most (the contract)."""

MOST_LINES = 1024
"""Lines of one piece, where each line is told by itself: what is made of a piece is some milliseconds' work."""


JOINED = 4096
"""Bytes up to which held parts are joined: to copy so many takes a tenth of a microsecond."""


@attrs.frozen
class Piece:
    """Bytes cut by a `Framer`.

    Attributes:
        text: the bytes.
        lines: how many log entries it stands for: the number of its lines in `line` framing, else 1.
        part: 0-based index among the pieces of one long line.
        parts: how many pieces that line has; 1 for everything else.
        before: bytes of the same line in the pieces before it; 0 for everything else, and in `raw`.
    """

    text: bytes
    lines: int = 1
    part: int = 0
    parts: int = 1
    before: int = 0


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


def hold(held: list[bytes], part: bytes) -> None:
    """Add a part to those that are held, joined with the last one if both are small.

    Some programs write byte by byte, and each part by itself takes 40 bytes more than it holds.
    """
    if held and len(held[-1]) + len(part) <= JOINED:
        held[-1] += part
    else:
        held.append(part)


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
        self._passed = 0  # bytes of the line that has not ended yet

    def feed(self, received: bytes) -> Iterator[Piece]:
        """Take what one read brought and give what is ready to go."""
        if self._framing == "raw":
            yield from self._feed_raw(received)
            return
        end = received.rfind(b"\n") + 1
        if not end:
            self._hold(received)
            if self._held_size > self._longest:
                yield from self._unfinished_line()
            return
        start = 0
        if self._held_size or self._passed:
            start = received.index(b"\n") + 1
            self._hold(received[:start])
            yield from self._long_line(self._take())
            self._passed = 0
        if start < end:
            yield from self._whole_lines(received[start:end] if start or end < len(received) else received)
        if end < len(received):
            self._hold(received[end:])

    def finish(self) -> Iterator[Piece]:
        """The stream has ended: what was held is all there will be."""
        if self._held_size:
            yield from self._long_line(self._take())

    def _hold(self, part: bytes) -> None:
        hold(self._held, part)
        self._held_size += len(part)

    def _take(self) -> bytes:
        text = b"".join(self._held) if len(self._held) > 1 else self._held[0]
        self._held = []
        self._held_size = 0
        return text

    def _unfinished_line(self) -> Iterator[Piece]:
        """Pass on what is held of a line that is too long to be held."""
        text = self._take_code_points()
        yield from self._long_line(text)
        self._passed += len(text)

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
                lines = text.count(b"\n", start, end) if self._framing == "line" else 1
                while lines > MOST_LINES:
                    end = text.rfind(b"\n", start, (start + end) // 2) + 1 or text.index(b"\n", start) + 1
                    lines = text.count(b"\n", start, end)
                yield Piece(text[start:end] if start or end < len(text) else text, lines=lines)
            start = end

    def _long_line(self, line: bytes) -> Iterator[Piece]:
        """Cut a line, or what is left of it."""
        if len(line) <= PIECE:
            yield Piece(line, before=self._passed)
            return
        cuts = [0]
        while len(line) - cuts[-1] > PIECE:
            cuts.append(code_point_cut(line, cuts[-1] + PIECE))
        cuts.append(len(line))
        for part, (start, end) in enumerate(pairwise(cuts)):
            yield Piece(line[start:end], part=part, parts=len(cuts) - 1, before=self._passed + start)
