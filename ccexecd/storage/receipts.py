"""The receipts of executions, in a chain of records that is signed batch by batch.

Theory of operation. A receipt is a record of kind `receipt`. Those that are written together are followed, in the same
write, by one record of kind `signed` that lists their hashes: so one signature (35 microseconds) serves all that have
ended within a moment, and each can still be handed out and verified by itself, with no more than that one record. What
a crash has left without a signature is nobody's receipt: it is never signed later, since anybody could have put it
there while no daemon ran, but written anew.

Owns the files, their search, and the key. Must not decide what a receipt says. Everything blocks.
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
"""Bytes of a file, after which the next one is begun: some ten thousand receipts."""

MOST_FILES = 64
"""Files that are kept: a gibibyte; the oldest go first."""

AT_ONCE = 256
"""Receipts that one signature vouches for: its record has 17 KiB then."""

_WINDOW = 64 * 1024  # bytes of a file that are read line by line; larger parts are bisected
_NEAR = 2 * AT_ONCE  # records behind a receipt among which its signature is looked for
_LOOKED_THROUGH = 2  # files at the end in which the receipts of a daemon that died are looked for

_NUMBER = re.compile(rb'\{"n":(\d{1,18}),')


class Receipts(ChainFiles):
    """The receipts of one daemon.

    Args:
        directory: where they and the key are; made with mode 0700 with the first of them.
    """

    what = "receipts"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, FILE_BYTES, MOST_FILES)
        self._signer: Signer | None = None
        self._making = threading.Lock()  # of the key: whoever verifies needs it, too, in a thread of its own

    @property
    def _look_interval(self) -> float:
        """Each time: many are written at once."""
        return 0.0

    @property
    def key(self) -> Path:
        """Where the private key is."""
        return self.directory / "key.pem"

    def public_key(self) -> PublicKey:
        """Whose signatures are the daemon's own; the key is made if there is none yet.

        Raises:
            SigningError: it cannot be used.
            OSError: it can be neither read nor made.
        """
        return self._signing().public

    def write(self, receipts: Sequence[Mapping[str, object]]) -> list[int]:
        """Write receipts and sign them.

        Args:
            receipts: what each says.

        Returns:
            Their numbers.

        Raises:
            SigningError: the key cannot be used; nothing is written.
            OSError: they could not all be written; what has been is without a signature, and none.
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
        """Write the last record of this life, if it has written any, and close the file."""
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
        """The receipt of a number, with its signature; None if it is not there.

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
        """Which of these executions have a receipt: it, by the execution's id.

        Args:
            execution_ids: of which it is not known.
            everywhere: whether all files are read, and not only the last ones.

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
    """The lines of files from the record of a number on, or from the first one after it."""
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
    """The number of a record, as its line begins; None if it is none."""
    found = _NUMBER.match(line)
    return int(found[1]) if found is not None else None
