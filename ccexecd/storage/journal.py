"""The journal of one execution: where in its files each entry of its log lies, one JSON line for each entry.

Theory of operation. The bytes of the two streams lie in files of their own, as the program wrote them. The journal
lies beside them and says, in the order of the entries' numbers, which entry stands for which bytes. State changes are
in it whole, and so are gaps. Its first line describes the execution. Lines are only ever added, except that three
numbers in the first line, which are padded for that, are written over. When the oldest lines are given up, their
blocks are given back to the file system and read as zeros, which no line holds. Because the numbers grow, a line is
found by bisection.

Owns the format. Must not know when anything is kept or given up.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import attrs
import orjson

from ccexecd.core.entries import Chunk, Entry, Gap, Note, Stream
from ccexecd.core.framing import PIECE, Piece

FORMAT = 1
"""The version of the format. Later versions of this program must be able to read it."""

BLOCK = 4096
"""Bytes: the block of common file systems, the least that can be given back to them."""

_READ = 16 * 1024
"""Bytes of journal read at a time: some 150 lines."""

_LONGEST = 1024 * 1024
"""Bytes beyond which text without a line feed is no line of a journal. The longest, the first one, has some ten
thousand."""

_ACCOUNT = b'{"format":%d,"oldest_seq":%-20d,"dropped_bytes":%-20d,"dropped_lines":%-20d'
_CHUNK = b'{"seq":%d,"count":%d,"stream":"%s","offset":%d,"size":%d,"part":%d,"parts":%d}\n'
_REST = _CHUNK.replace(b"}", b',"before":%d}')
_STREAMS: dict[Stream, bytes] = {"stdout": b"stdout", "stderr": b"stderr"}


class JournalError(Exception):
    """A journal cannot be read; the text says why."""


@attrs.frozen
class Account:
    """The three numbers in a journal's first line: what was given up.

    Attributes:
        oldest_seq: the number of the first entry that has not been given up.
        dropped_bytes: bytes of output that were given up, or could not be kept.
        dropped_lines: lines in those bytes.
    """

    oldest_seq: int = 1
    dropped_bytes: int = 0
    dropped_lines: int = 0

    def encoded(self) -> bytes:
        """The beginning of a journal's first line; it always has the same length."""
        return _ACCOUNT % (FORMAT, self.oldest_seq, self.dropped_bytes, self.dropped_lines)


@attrs.frozen
class Place:
    """A chunk without its text: that is the `size` bytes at `offset` in its stream's file."""

    seq: int
    count: int
    stream: Stream
    offset: int
    size: int
    part: int
    parts: int
    before: int = 0

    def chunk(self, text: bytes) -> Chunk:
        """The chunk, with its text."""
        piece = Piece(text, self.count, self.part, self.parts, self.before)
        return Chunk(self.seq, self.count, self.stream, self.offset, piece)


Line = Place | Note | Gap


def head(account: Account, execution: dict[str, Any]) -> bytes:
    """The first line of a journal.

    Args:
        account: its three numbers.
        execution: the description of the execution.
    """
    return account.encoded() + b',"execution":' + orjson.dumps(execution) + b"}\n"


def line(entry: Entry | Gap) -> bytes:
    """The journal's line for an entry."""
    if isinstance(entry, Chunk):
        piece, stream = entry.piece, _STREAMS[entry.stream]
        place = (entry.seq, entry.count, stream, entry.offset, len(piece.text), piece.part, piece.parts)
        return _REST % (*place, piece.before) if piece.before else _CHUNK % place
    if isinstance(entry, Note):
        return orjson.dumps({"seq": entry.seq, "method": entry.method, "params": entry.params}) + b"\n"
    return orjson.dumps(attrs.asdict(entry)) + b"\n"


def parsed(text: bytes) -> Line | None:
    """Parse a line; None if it is not a whole line: its beginning was given up, or it was never finished."""
    try:
        fields = orjson.loads(text)
        if "method" in fields:
            return Note(**fields) if type(fields["seq"]) is int and isinstance(fields["params"], dict) else None
        stream = fields.pop("stream", None)
        if not all(type(number) is int and number >= 0 for number in fields.values()):
            return None
        if fields.get("size", 0) > PIECE:
            return None
        return Gap(**fields) if stream is None else Place(stream=stream, **fields) if stream in _STREAMS else None
    except (orjson.JSONDecodeError, TypeError, AttributeError, KeyError):
        return None


def read_head(fd: int) -> tuple[Account, dict[str, Any], int]:
    """Read the first line of a journal.

    Returns:
        Its numbers, the description of the execution, and the offset of the next line.

    Raises:
        JournalError: the line is not whole, or its format is unknown to this version.
        OSError: it cannot be read.
    """
    text = b""
    while b"\n" not in text and (more := os.pread(fd, _READ, len(text))):
        text += more
    first, end, _ = text.partition(b"\n")
    try:
        fields = orjson.loads(first) if end else {}
    except orjson.JSONDecodeError:
        fields = {}
    if not isinstance(fields, dict) or not isinstance(fields.get("execution"), dict):
        raise JournalError("its first line is not whole")
    if fields.get("format") != FORMAT:
        raise JournalError(f"its format is {fields.get('format')!r}; this version reads {FORMAT}")
    try:
        account = Account(*(int(fields[name]) for name in ("oldest_seq", "dropped_bytes", "dropped_lines")))
    except (KeyError, TypeError, ValueError):
        raise JournalError("its first line has no account") from None
    return account, fields["execution"], len(first) + 1


def lines(fd: int, start: int, end: int) -> Iterator[tuple[int, int, Line]]:
    """Parse the lines in a part of a journal.

    Args:
        fd: the journal.
        start: any offset; what stands there before the next whole line is skipped.
        end: the offset to stop at.

    Yields:
        The offsets where a line begins and ends, and the line.
    """
    with contextlib.suppress(OSError):  # nothing but zeros follows, or the file system cannot tell
        start = max(start, os.lseek(fd, start, os.SEEK_DATA))
    position, held = start, b""
    while True:
        more = os.pread(fd, min(_READ, end - position - len(held)), position + len(held))
        *whole, held = (held + more).split(b"\n")
        if len(held) > _LONGEST:  # this is no line of ours, and neither is what follows of it
            position, held = position + len(held), b""
        for text in whole:
            after = position + len(text) + 1
            left = text.rpartition(b"\0")[2]  # zeros that were given up may reach up to the beginning of a line
            said = parsed(left)
            if said is not None:
                yield after - len(left) - 1, after, said
            position = after
        if not more:
            return


def find(fd: int, start: int, end: int, seq: int) -> int:
    """Find the line of the entry that holds a number or, if there is none, the next line.

    Args:
        fd: the journal.
        start: the offset where its lines begin.
        end: the offset where they end.
        seq: the number.

    Returns:
        The offset where that line begins; `end` if there is none.
    """
    low, high = start, end
    while high - low > BLOCK:
        middle = (low + high) // 2
        found = next(lines(fd, middle, end), None)
        if found is None or found[2].seq > seq:
            high = middle
        else:
            low = found[0]
    return next((at for at, _, said in lines(fd, low, end) if said.seq + said.count > seq), end)
