"""The receipts of executions, in a chain of records that is signed batch by batch.

Theory of operation. A receipt is a record of kind `receipt`. Receipts that are written together are followed, in the
same write, by one record of kind `signed` that lists their hashes. So one signature (35 microseconds) serves them all,
and each can still be handed out and verified by itself, together with that one record. A receipt that a crash left
without a signature does not count: it is never signed later, since anybody could have put it there while no daemon ran,
but written anew.

Owns the files, the search in them, and the key. Must not decide what a receipt says. Everything blocks.
"""

import logging
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from ccexecd.storage.chain import Head, Record, files_in, first_in, open_records, opened, records_in, sealed, unsealed
from ccexecd.storage.chain_files import ChainFiles, end_of, last_record, sync
from ccexecd.storage.proof import RECEIPT, SIGNED, Proof, with_signature
from ccexecd.storage.signing import PublicKey, Signer, SigningError

log = logging.getLogger(__name__)

FILE_BYTES = 16 * 1024 * 1024
"""Bytes after which the next file is begun: some ten thousand receipts."""

MOST_FILES = 64
"""Files that are kept, a gibibyte in all; the oldest go first."""

AT_ONCE = 256
"""Receipts that one signature vouches for at most: the signed record takes 17 KiB then."""

_WINDOW = 64 * 1024  # bytes of a file that are read line by line; larger parts are bisected
_NEAR = 2 * AT_ONCE  # how many records behind a receipt are searched for its signature
_LOOKED_THROUGH = 2  # how many of the newest files are searched for the receipts of a daemon that died

_NUMBER = re.compile(rb'\{"n":(\d{1,18}),')


class Receipts(ChainFiles):
    """The receipts of one daemon.

    Args:
        directory: directory of the files and the key; made with mode 0700 when the first of them is.
    """

    what = "receipts"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, FILE_BYTES, MOST_FILES)
        self._signer: Signer | None = None
        self._making = threading.Lock()  # guards `_signer`, which is also made by the thread that verifies

    @property
    def _look_interval(self) -> float:
        """0: the check is made before each write, since one write holds many receipts."""
        return 0.0

    @property
    def key(self) -> Path:
        """Path of the private key."""
        return self.directory / "key.pem"

    def public_key(self) -> PublicKey:
        """The daemon's public key; the key is made if there is none yet.

        Raises:
            SigningError: the key cannot be used.
            OSError: the key can be neither read nor made.
        """
        return self._signing().public

    def write(self, receipts: Sequence[Mapping[str, object]]) -> list[int]:
        """Write receipts and sign them.

        Args:
            receipts: the fields of each.

        Returns:
            Their numbers, in the same order.

        Raises:
            SigningError: the key cannot be used; nothing is written.
            OSError: not all of them could be written; all are to be written anew.
        """
        signer = self._signing()
        self._make_ready()
        numbers: list[int] = []
        for start in range(0, len(receipts), AT_ONCE):
            numbers += self._write_batch(receipts[start : start + AT_ONCE], signer)
        fault = sync(self._fd, self._retired)
        self._retired = []
        if fault is not None:
            log.warning("cannot make the receipts in %s last: %s", self.directory, fault)
        return numbers

    def _write_batch(self, receipts: Sequence[Mapping[str, object]], signer: Signer) -> list[int]:
        if self._size > self.max_bytes:
            self._rotate()
        head, lines, hashes, numbers = self.head, list[bytes](), list[str](), list[int]()
        for facts in receipts:
            line, head = self._made(RECEIPT, facts, head)
            lines.append(line)
            hashes.append(head.hash)
            numbers.append(head.n)
        line, _ = self._made(SIGNED, {"key": signer.public.name, "receipts": hashes}, head)
        body = unsealed(line)
        line, digest = sealed(with_signature(body, signer.sign(body)))
        self._append(b"".join([*lines, line]))
        self.head = Head(head.n + 1, digest)
        return numbers

    def close(self) -> None:
        """Write a last record, `ended`, and close the file, if this daemon has written to it."""
        if self._fd < 0:
            return
        try:
            self._make_ready()
            self._write("ended", {}, rotates=False)
            log.info("receipts end", extra={"head": str(self.head)})
        except OSError as error:
            log.warning("cannot end the receipts in %s: %s", self.directory, error.strerror or error)
        sync(self._fd, self._retired)
        os.close(self._fd)
        self._retired, self._fd = [], -1

    def find(self, number: int) -> Proof | None:
        """The receipt with a number, and its signature; None if there is no such record.

        Raises:
            OSError: a file cannot be read.
        """
        files = files_in(self.directory)
        at = max((at for at, file in enumerate(files) if first_in(file) <= number), default=None)
        if at is None:
            return None
        lines = _lines_from(files[at : at + 2], number)
        record = next(lines, b"")
        found = opened(record)
        if found is None or found.head.n != number:
            return None
        for line in islice(lines, _NEAR):
            signed = opened(line)
            if signed is not None and signed.fields.get("kind") == SIGNED:
                return Proof(record, line)
        return Proof(record, b"")

    def having(self, execution_ids: Collection[str], *, everywhere: bool) -> dict[str, Record]:
        """Find the signed receipts of executions: execution id -> receipt, for those that have one.

        Args:
            execution_ids: the executions.
            everywhere: whether to search all files, and not only the `_LOOKED_THROUGH` newest.

        Raises:
            OSError: a file cannot be read.
        """
        found: dict[str, Record] = {}
        files = files_in(self.directory) if execution_ids else []
        for file in files if everywhere else files[-_LOOKED_THROUGH:]:
            unsigned: dict[str, Record] = {}
            for record in records_in(file):
                kind = record.fields.get("kind")
                if kind == RECEIPT and record.fields.get("execution_id") in execution_ids:
                    unsigned[record.head.hash] = record
                elif kind == SIGNED and unsigned:
                    signed = [unsigned[each] for each in record.fields.get("receipts", ()) if each in unsigned]
                    found |= {str(each.fields["execution_id"]): each for each in signed}
                    unsigned.clear()
        return found

    def oldest(self) -> int:
        """The number of the oldest record that rotation has kept."""
        files = files_in(self.directory)
        return first_in(files[0]) if files else 1

    def last(self) -> int:
        """The number of the last record that is there; 0 if there is none."""
        for file in reversed(files_in(self.directory)):
            head = last_record(end_of(file))[1]
            if head is not None:
                return head.n
        return 0

    def _signing(self) -> Signer:
        with self._making:
            if self._signer is None:
                self.directory.mkdir(mode=0o700, exist_ok=True)
                try:
                    self._signer = Signer(self.key)
                except ImportError as error:  # no descriptors are left, say
                    raise SigningError(f"what signs cannot be loaded, perhaps before a restart: {error}") from error
            return self._signer


def _lines_from(files: Sequence[Path], number: int) -> Iterator[bytes]:
    """The lines of files from the record with a number on, or from the first one after it."""
    for file in files:
        with open_records(file) as stream:
            low, high = 0, file.stat().st_size
            while high - low > _WINDOW:
                middle = (low + high) // 2
                stream.seek(middle)
                stream.readline()
                at = stream.tell()
                found = next((n for line in stream if (n := _number_of(line)) is not None), number + 1)
                low, high = (at, high) if found <= number and at < high else (low, middle)
            stream.seek(low)
            yield from (line for line in stream if (_number_of(line) or 0) >= number)


def _number_of(line: bytes) -> int | None:
    """The number at the beginning of a record's line; None if the line does not begin like a record."""
    found = _NUMBER.match(line)
    return int(found[1]) if found is not None else None
