"""How output is shown to a watcher. Owns cutting long lines for display; what is kept stays whole."""

import attrs

from ccexecd.core.framing import Piece, code_point_cut

LEAST = 4
"""Least value of `max_line_bytes`: the bytes of the longest code point (UTF-8)."""


@attrs.frozen
class Display:
    """How output is shown.

    Attributes:
        exact: whether bytes that are not UTF-8 are sent as base64; else U+FFFD stands for them.
        max_line_bytes: bytes of a line that are shown, `LEAST` or more, its line feed not counted; None is all of it.
    """

    exact: bool = False
    max_line_bytes: int | None = None

    def cut(self, piece: Piece) -> bytes:
        """Return a piece as it is shown: of each line that is too long only its beginning and its line feed."""
        most, text = self.max_line_bytes, piece.text
        if most is None or (len(text) <= most and not piece.before):
            return text
        if piece.parts > 1 or piece.before:  # of one line
            line = text.removesuffix(b"\n")
            return _cut(line, max(0, most - piece.before)) + text[len(line) :]
        *lines, rest = text.split(b"\n")
        return b"".join(_cut(line, most) + b"\n" for line in lines) + _cut(rest, most)


def _cut(line: bytes, most: int) -> bytes:
    if len(line) <= most:
        return line
    return line[: code_point_cut(line, most)] if most >= LEAST else b""
