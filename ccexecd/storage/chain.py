"""A chain of records: what a record is, and whether what lies in a directory is all of it, as it was written.

Owns the form of a record and the proof. A record is a line, a JSON object that carries its number `n`, the hash of the
record before it (`prev`) and last its own `hash`: sha256 over the bytes of the same object without that. The first
record of each file goes on where the file before it ended, and says which number is the oldest that is kept
(`oldest`), so a file that rotation has removed is told from one that somebody else has. Standard library only:
ccexecctl reads the files without a daemon. Must not write.

What a chain cannot show by itself is that records are missing at its end, or that all of it was written anew: for
that, the last number and hash (the head) have to be known from elsewhere. A running daemon tells them in `status`, and
its log has them at each start and end.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ccexecd.storage.plain_file import open_plain

GENESIS = "0" * 64
"""What the very first record has in the place of the hash before it."""

_SEAL = b',"hash":"'
_DIGEST = 64
_SEALED = len(_SEAL) + _DIGEST + len(b'"}')

_NAME = "{}-{:016d}.jsonl"
_PATTERN = "*-" + "[0-9]" * 16 + ".jsonl"


class Head(NamedTuple):
    """The last record of a chain.

    Attributes:
        n: its number; 0 is before the first one.
        hash: its hash, 64 hexadecimal digits.
    """

    n: int
    hash: str

    def __str__(self) -> str:
        return f"{self.n}:{self.hash}"


class Record(NamedTuple):
    """One line that is a record.

    Attributes:
        fields: all of it.
        head: its number and hash, as it says.
        prev: the hash of the one before it, as it says.
        is_sound: its hash is that of its bytes.
    """

    fields: dict[str, Any]
    head: Head
    prev: str
    is_sound: bool


class Finding(NamedTuple):
    """Something about a chain that is to be told.

    Attributes:
        kind: `edited`, `removed`, `reordered`, `repeated` or `truncated`; `mended` is no fault.
        file: where it shows.
        line: at which line of that, from 1; 0 where it is about no line.
        text: what has been found.
    """

    kind: str
    file: Path
    line: int
    text: str

    @property
    def is_fault(self) -> bool:
        """Whether the chain is not as it was written."""
        return self.kind != "mended"


class Verdict(NamedTuple):
    """What a chain has shown.

    Attributes:
        findings: all that is to be told, in the order of the records.
        records: how many were read.
        first: the number of the first one; 0 where there is none.
        head: the last one.
    """

    findings: list[Finding]
    records: int
    first: int
    head: Head


def sealed(body: bytes) -> tuple[bytes, str]:
    """Close a record with its hash.

    Args:
        body: a JSON object that has its number and the hash before it.

    Returns:
        The line, and the hash.
    """
    digest = hashlib.sha256(body).hexdigest()
    return b'%b%b%b"}\n' % (body[:-1], _SEAL, digest.encode()), digest


def unsealed(line: bytes) -> bytes:
    """The bytes of a record without its hash: what that is of."""
    return line.rstrip(b"\n")[:-_SEALED] + b"}"


def opened(line: bytes) -> Record | None:
    """Read a line; None if it is no record."""
    text = line.rstrip(b"\n")
    seal = text[-_SEALED:]
    if not seal.startswith(_SEAL):
        return None
    try:
        fields = json.loads(text)
        number, prev, digest = fields["n"], fields["prev"], fields["hash"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    if type(number) is not int or not isinstance(prev, str) or not isinstance(digest, str):
        return None
    is_sound = hashlib.sha256(unsealed(text)).hexdigest() == digest
    return Record(fields, Head(number, digest), prev, is_sound)


def name_of(first: int, what: str = "audit") -> str:
    """The name of the file whose first record has a number.

    Args:
        first: that number.
        what: what the chain holds.
    """
    return _NAME.format(what, first)


def first_in(file: Path) -> int:
    """The number of a file's first record, by its name."""
    return int(file.stem.rpartition("-")[2])


def files_in(directory: Path) -> list[Path]:
    """The files of a chain, oldest first; none where there is no such directory.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return sorted(path for path in directory.iterdir() if path.match(_PATTERN))
    except FileNotFoundError:
        return []


def records_in(file: Path) -> Iterator[Record]:
    """The records of one file, without those lines that are none.

    Raises:
        OSError: it cannot be read.
    """
    with open_records(file) as lines:
        yield from filter(None, map(opened, lines))


def open_records(file: Path) -> BinaryIO:
    """Open a file of a chain for reading; what is no file there, a FIFO say, keeps nobody waiting.

    Raises:
        OSError: it cannot be opened, or is none.
    """
    return open(open_plain(file), "rb")  # noqa: PTH123  # a descriptor


def verify(files: Iterable[Path], anchor: Head | None = None) -> Verdict:
    """Follow a chain from its first record to its last.

    Args:
        files: all of an audit, oldest first.
        anchor: a record that is known from elsewhere to have been written.

    Raises:
        OSError: a file cannot be read.
    """
    walk = _Walk(anchor)
    for file in files:
        walk.enter(file)
        with open_records(file) as lines:
            for number, line in enumerate(lines, 1):
                walk.take(number, line)
    walk.finish()
    return Verdict(walk.findings, walk.records, walk.first, walk.head)


class _Walk:
    """A look at one line after another, and what has been understood so far."""

    def __init__(self, anchor: Head | None) -> None:
        self.findings: list[Finding] = []
        self.records = 0
        self.first = 0
        self.head = Head(0, GENESIS)
        self._last = self.head  # the record on the line before, whatever its number
        self._anchor = anchor
        self._oldest = 1
        self._file = Path()
        self._line = 0
        self._strange: list[bytes] = []  # lines that are no records, until it is known whether they were mended
        self._missing: dict[int, tuple[Path, int]] = {}  # a number that was passed over, and where

    def enter(self, file: Path) -> None:
        """Go on in the next file: what was torn at the end of the one before is mended there, or never."""
        self._file = file

    def take(self, number: int, line: bytes) -> None:
        """Look at one line."""
        self._line = number
        record = opened(line)
        if record is None:
            self._strange.append(line)
            return
        self._judge_strange(record)
        self._judge_place(record)
        if not record.is_sound:
            self._find("edited", f"record {record.head.n} is not what its hash says: it has been edited")
        if self._anchor is not None and record.head.n == self._anchor.n and record.head.hash != self._anchor.hash:
            self._find("edited", f"record {record.head.n} is another one than the anchor names: written anew")
        self._oldest = record.fields.get("oldest", self._oldest)
        self.records += 1
        self.first = self.first or record.head.n
        self._last = record.head
        if record.head.n > self.head.n:
            self.head = record.head

    def finish(self) -> None:
        """Say what only the end shows."""
        if self._strange:
            self._find("truncated", "the last line is no whole record: a crash, or a cut, that no start has mended")
        for first, last, file, line in _spans(self._missing):
            what = f"record {first} is" if first == last else f"records {first} to {last} are"
            self.findings.append(Finding("removed", file, line, f"{what} missing before this line"))
        if self.first > self._oldest:
            what = f"records {self._oldest} to {self.first - 1} are missing: they are older than what is there,"
            self.findings.append(Finding("removed", self._file, 0, f"{what} and rotation has not removed them"))
        if self._anchor is not None and self._anchor.n > self.head.n:
            what = f"records {self.head.n + 1} to {self._anchor.n} are missing at the end: it has been truncated"
            self._find("truncated", what)

    def _judge_strange(self, record: Record) -> None:
        """What stood between two records: half a line that a crash has left and a start has mended, or anything."""
        if not self._strange:
            return
        torn, self._strange = b"".join(self._strange), []
        told = record.fields if record.fields.get("kind") == "mended" else {}
        torn = torn.removesuffix(b"\n")
        if told.get("sha256") == hashlib.sha256(torn).hexdigest():  # of several lines, where mending was torn, too
            self._find("mended", f"half a record ({len(torn)} bytes) was left by a crash and mended at a start")
        else:
            self._find("edited", "what stands before this line is no record: it has been edited")

    def _judge_place(self, record: Record) -> None:
        """Whether a record stands where it belongs, behind the one that it names."""
        number, last = record.head.n, self._last.n
        expected = self.head.n + 1
        if number < expected and number in self._missing:
            del self._missing[number]
            self._find("reordered", f"record {number} stands behind record {last}: they have been reordered")
        elif self.first and number < expected:
            self._find("repeated", f"record {number} stands here once more")
        elif self.first:
            self._missing |= dict.fromkeys(range(expected, number), (self._file, self._line))
        is_next = number == last + 1 and (self.first or number == 1)
        if is_next and record.prev != self._last.hash:
            self._find("edited", f"record {number} does not follow from record {last}: one of the two was written anew")

    def _find(self, kind: str, text: str) -> None:
        self.findings.append(Finding(kind, self._file, self._line, text))


def _spans(missing: dict[int, tuple[Path, int]]) -> Iterator[tuple[int, int, Path, int]]:
    """Runs of numbers: first, last, and where they were passed over."""
    start = last = 0
    for number in sorted(missing):
        if start and (number != last + 1 or missing[number] != missing[start]):
            yield start, last, *missing[start]
            start = 0
        start, last = start or number, number
    if start:
        yield start, last, *missing[start]
