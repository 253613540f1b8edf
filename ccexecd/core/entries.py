"""What an execution's log consists of: numbered chunks of output and state changes, and gaps where some are lost."""

from typing import Any, Literal

import attrs

from ccexecd.core.framing import Piece

Stream = Literal["stdout", "stderr"]

ENTRY_OVERHEAD = 256
"""Bytes that the window charges for an entry besides its text: the objects that hold it (tracemalloc says 230)."""


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
    """A lost span of the log: entries `from_seq` to `to_seq`.

    Attributes:
        dropped_bytes: bytes of output in it; None where that is unknown.
        dropped_lines: line feeds in it; None where that is unknown.
    """

    from_seq: int
    to_seq: int
    dropped_bytes: int | None
    dropped_lines: int | None

    @property
    def seq(self) -> int:
        """Its place in the sequence: that of the first entry that is lost."""
        return self.from_seq

    @property
    def count(self) -> int:
        """How many entries are lost."""
        return self.to_seq - self.from_seq + 1


Entry = Chunk | Note


def cost(entry: Entry) -> int:
    """The bytes that the window charges for an entry."""
    return ENTRY_OVERHEAD + (len(entry.piece.text) if isinstance(entry, Chunk) else 0)


def weight(entry: Entry | Gap) -> tuple[int, int]:
    """The bytes and lines of output that an entry holds or, for a gap, that are missing there."""
    match entry:
        case Chunk():
            return len(entry.piece.text), entry.piece.text.count(b"\n")
        case Note():
            return 0, 0
        case Gap():
            return entry.dropped_bytes or 0, entry.dropped_lines or 0
