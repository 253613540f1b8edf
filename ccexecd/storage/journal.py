"""The journal of one execution: what is where in its output, one JSON line for each entry of its log.

Theory of operation. The bytes of the two streams lie in files of their own, as the program wrote them. The journal
lies beside them and says, in the order of their numbers, which entry stands for which bytes; state changes are in it
whole, and so is the account of what could not be kept. Its first line describes the execution. Lines are only ever
added, but for three numbers in the first one, which are written with room to grow. When the oldest lines are given up,
the file system takes their blocks back, so that they read as zeros, which no line holds. Because the
numbers grow, a line is found by bisection.

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
"""The version of the format. A later one is to read this one, too."""

BLOCK = 4096
"""Bytes of a file that are given up at a time, at least: the block of common file systems."""

_READ = 16 * 1024
"""Bytes of journal read at a time: some 150 lines."""

_LONGEST = 1024 * 1024
"""Bytes of the longest line: the first one, with all that `list` tells of an execution, has some ten thousand."""

_ACCOUNT = b'{"format":%d,"oldest_seq":%-20d,"dropped_bytes":%-20d,"dropped_lines":%-20d'
_CHUNK = b'{"seq":%d,"count":%d,"stream":"%s","offset":%d,"size":%d,"part":%d,"parts":%d}\n'
_REST = _CHUNK.replace(b"}", b',"before":%d}')
_STREAMS: dict[Stream, bytes] = {"stdout": b"stdout", "stderr": b"stderr"}


class JournalError(Exception):
    """A journal cannot be read; the text says why."""


@attrs.frozen
class Account:
    """What a journal still has, and what it had.

    Attributes:
        oldest_seq: the first entry that it has not given up.
        dropped_bytes: bytes of output that were given up, or could not be kept.
        dropped_lines: lines of them.
    """

    oldest_seq: int = 1
    dropped_bytes: int = 0
    dropped_lines: int = 0

    def encoded(self) -> bytes:
        """The beginning of a journal's first line; it always has the same length."""
        return _ACCOUNT % (FORMAT, self.oldest_seq, self.dropped_bytes, self.dropped_lines)


@attrs.frozen
class Place:
    """A chunk without its text, which lies at `offset` of its stream, `size` bytes long."""

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
    """The first line.

    Args:
        account: of a new journal, as a rule.
        execution: the description of the execution.
    """
    return account.encoded() + b',"execution":' + orjson.dumps(execution) + b"}\n"


def line(entry: Entry | Gap) -> bytes:
    """The line of an entry."""
    if isinstance(entry, Chunk):
        piece, stream = entry.piece, _STREAMS[entry.stream]
        place = (entry.seq, entry.count, stream, entry.offset, len(piece.text), piece.part, piece.parts)
        return _REST % (*place, piece.before) if piece.before else _CHUNK % place
    if isinstance(entry, Note):
        return orjson.dumps({"seq": entry.seq, "method": entry.method, "params": entry.params}) + b"\n"
    return orjson.dumps(attrs.asdict(entry)) + b"\n"


def parsed(text: bytes) -> Line | None:
    """What a line says; None if it is none: its beginning has been given up, or it was never finished."""
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
    """What the first line says, and where the lines after it begin.

    Raises:
        JournalError: it is not whole, or of a format that this version does not know.
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
    account = Account(*(int(fields[name]) for name in ("oldest_seq", "dropped_bytes", "dropped_lines")))
    return account, fields["execution"], len(first) + 1


def lines(fd: int, start: int, end: int) -> Iterator[tuple[int, int, Line]]:
    """The lines of a part of a journal: where each begins and ends, and what it says.

    Args:
        fd: the journal.
        start: any place; what is not the beginning of a line there is passed over.
        end: where to stop.
    """
    with contextlib.suppress(OSError):  # nothing but zeros follows, or the file system cannot tell
        start = max(start, os.lseek(fd, start, os.SEEK_DATA))
    position, held = start, b""
    while True:
        more = os.pread(fd, min(_READ, end - position - len(held)), position + len(held))
        *whole, held = (held + more).split(b"\n")
        if len(held) > _LONGEST:  # no line of ours: what follows of it is none either
            position, held = position + len(held), b""
        for text in whole:
            after = position + len(text) + 1
            left = text.rpartition(b"\0")[2]  # what was given up may end where a line does
            said = parsed(left)
            if said is not None:
                yield after - len(left) - 1, after, said
            position = after
        if not more:
            return


def find(fd: int, start: int, end: int, seq: int) -> int:
    """Where the line of the entry that holds `seq` begins or, if it is not there, the next one; `end` if none is.

    Args:
        fd: the journal.
        start: where its lines begin.
        end: where they end.
        seq: the number of an entry.
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
