"""A chain of records: the form of a record, and the proof that the files of a chain are complete and unchanged.

Owns that form and that proof. A record is a line, a JSON object that carries its number `n`, the hash of the record
before it (`prev`) and, last, its own `hash`: sha256 over the bytes of the same object without `hash`. Numbers and
hashes go on from file to file. The first record of each file also says which number is the oldest that is kept
(`oldest`), so a file that rotation removed is told from one that somebody else removed. Standard library only:
ccexecctl reads the files without a daemon. Must not write.

A chain cannot show by itself that records are missing at its end, or that all of it was written anew. For that, the
last number and hash (the head) have to be known from elsewhere: a running daemon tells them in `status`, and its log
has them at each start and end.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ccexecd.storage.plain_file import open_plain

GENESIS = "0" * 64
"""`prev` of the very first record."""

_SEAL = b',"hash":"'
_DIGEST = 64
_SEALED = len(_SEAL) + _DIGEST + len(b'"}')

_NAME = "{}-{:016d}.jsonl"
_PATTERN = "*-" + "[0-9]" * 16 + ".jsonl"


class Head(NamedTuple):
    """The last record of a chain.

    Attributes:
        n: its number; 0 for an empty chain.
        hash: its hash, 64 hexadecimal digits.
    """

    n: int
    hash: str

    def __str__(self) -> str:
        return f"{self.n}:{self.hash}"


class Record(NamedTuple):
    """One record, as its line has it.

    Attributes:
        fields: all its fields.
        head: the number and the hash that it claims.
        prev: the hash that it claims for the record before it.
        is_sound: whether the claimed hash is that of its bytes.
    """

    fields: dict[str, Any]
    head: Head
    prev: str
    is_sound: bool


class Finding(NamedTuple):
    """Something that the proof of a chain has found.

    Attributes:
        kind: `edited`, `removed`, `reordered`, `repeated` or `truncated`; `mended` is no fault.
        file: the file in which it was found.
        line: the line in that file, from 1; 0 if it is not about a single line.
        text: what was found, for people.
    """

    kind: str
    file: Path
    line: int
    text: str

    @property
    def is_fault(self) -> bool:
        """Whether it means that the chain is not as it was written."""
        return self.kind != "mended"


class Verdict(NamedTuple):
    """The result of the proof of a chain.

    Attributes:
        findings: what was found, in the order of the records.
        records: how many records were read.
        first: the number of the first record; 0 if there are none.
        head: the last record.
    """

    findings: list[Finding]
    records: int
    first: int
    head: Head


def sealed(body: bytes) -> tuple[bytes, str]:
    """Complete a record with its hash.

    Args:
        body: the record's JSON object with all fields but `hash`.

    Returns:
        The record's line, with its line feed, and the hash.
    """
    digest = hashlib.sha256(body).hexdigest()
    return b'%b%b%b"}\n' % (body[:-1], _SEAL, digest.encode()), digest


def unsealed(line: bytes) -> bytes:
    """The bytes of a record without its hash: those that the hash was made of."""
    return line.rstrip(b"\n")[:-_SEALED] + b"}"


def opened(line: bytes) -> Record | None:
    """Parse a line of a chain's file; None if it is no record."""
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
    """The name of a file of a chain.

    Args:
        first: the number of the file's first record.
        what: what the chain holds, as its files' names begin.
    """
    return _NAME.format(what, first)


def first_in(file: Path) -> int:
    """The number of a file's first record, taken from the file's name."""
    return int(file.stem.rpartition("-")[2])


def files_in(directory: Path) -> list[Path]:
    """The files of the chain in a directory, oldest first; none if there is no such directory.

    Raises:
        OSError: the directory cannot be read.
    """
    try:
        return sorted(path for path in directory.iterdir() if path.match(_PATTERN))
    except FileNotFoundError:
        return []


def records_in(file: Path) -> Iterator[Record]:
    """The records of one file; lines that are no records are left out.

    Raises:
        OSError: the file cannot be read.
    """
    with open_records(file) as lines:
        yield from filter(None, map(opened, lines))


def open_records(file: Path) -> BinaryIO:
    """Open a file of a chain for reading. It never blocks: a FIFO in the file's place is refused.

    Raises:
        OSError: it cannot be opened, or is no plain file.
    """
    return open(open_plain(file), "rb")  # noqa: PTH123  # a descriptor


def verify(files: Iterable[Path], anchor: Head | None = None) -> Verdict:
    """Follow a chain from its first record to its last.

    Args:
        files: all files of the chain, oldest first.
        anchor: number and hash of a record that is known, from elsewhere, to have been written.

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
    """One pass over all lines of a chain, and what was found so far."""

    def __init__(self, anchor: Head | None) -> None:
        self.findings: list[Finding] = []
        self.records = 0
        self.first = 0
        self.head = Head(0, GENESIS)
        self._last = self.head  # the record before this one in the files; `head` is the one with the highest number
        self._anchor = anchor
        self._oldest = 1
        self._file = Path()
        self._line = 0
        self._strange: list[bytes] = []  # lines that are no records, until it is known whether they were mended
        self._missing: dict[int, tuple[Path, int]] = {}  # numbers that were skipped -> file and line where that shows

    def enter(self, file: Path) -> None:
        """Go on in the next file."""
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
        """Add the findings that only the end of the chain can show."""
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
        """Judge the lines before this record that are no records: half a record left by a crash, or an edit."""
        if not self._strange:
            return
        torn, self._strange = b"".join(self._strange), []
        told = record.fields if record.fields.get("kind") == "mended" else {}
        torn = torn.removesuffix(b"\n")
        if told.get("sha256") == hashlib.sha256(torn).hexdigest():  # several lines, if a mending write was torn, too
            self._find("mended", f"half a record ({len(torn)} bytes) was left by a crash and mended at a start")
        else:
            self._find("edited", "what stands before this line is no record: it has been edited")

    def _judge_place(self, record: Record) -> None:
        """Judge whether a record stands where its number belongs, and names the record before it."""
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
    """Runs of consecutive missing numbers: first, last, and the file and line before which they are missing."""
    start = last = 0
    for number in sorted(missing):
        if start and (number != last + 1 or missing[number] != missing[start]):
            yield start, last, *missing[start]
            start = 0
        start, last = start or number, number
    if start:
        yield start, last, *missing[start]
