"""The proof of one receipt: its record, and the signed record that names it.

Owns the form of a signed record: a record of a chain (`chain`) of kind `signed`, whose `receipts` lists the hashes of
those receipts that it vouches for, with the signature over the bytes of the same object without `signature` and `hash`.
Since it has the hash of the record before it, the signature is of the whole chain up to there. Standard library only
but for the key itself: ccexecctl verifies a receipt without a daemon. Must not read or write files.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ccexecd.core.evidence import Finding, Verdict
from ccexecd.storage.chain import opened, unsealed
from ccexecd.storage.signing import SIGNATURE, PublicKey

RECEIPT = "receipt"
SIGNED = "signed"
"""Kinds of records."""

FORMAT = "ccexecd-receipt-1"
"""What a receipt that was handed out says it is."""

_MARK = b',"signature":"'
_SIGNATURE = len(_MARK) + SIGNATURE + len(b'"')


class Proof(NamedTuple):
    """One receipt, as its file has it.

    Attributes:
        record: the line of the receipt.
        signed: the line of the record that vouches for it; empty if there is none.
    """

    record: bytes
    signed: bytes

    def document(self, public_key: str) -> dict[str, Any]:
        """What is handed out, as JSON has it: enough to verify it elsewhere, given the public key from elsewhere."""
        return {
            "format": FORMAT,
            "receipt": json.loads(self.record),
            "record": self.record.decode().rstrip("\n"),
            "signed": self.signed.decode().rstrip("\n"),
            "public_key": public_key,
        }


def with_signature(body: bytes, signature: str) -> bytes:
    """A record's object with its signature in it, still without its hash."""
    return b'%b%b%b"}' % (body[:-1], _MARK, signature.encode())


def proof_of(document: Mapping[str, Any]) -> Proof:
    """The proof in a document that was handed out.

    Raises:
        ValueError: it is none; the text says why.
    """
    if document.get("format") != FORMAT:
        raise ValueError(f"it does not say that it is a {FORMAT}")
    record, signed = document.get("record"), document.get("signed")
    if not isinstance(record, str) or not isinstance(signed, str):
        raise ValueError("it has no record, or no signed record")  # noqa: TRY004  # of the document, not of a program
    return Proof(record.encode(errors="replace"), signed.encode(errors="replace"))


def judged(proof: Proof, key: PublicKey, document: Mapping[str, Any] | None = None) -> list[Finding]:
    """Whether a receipt is as it was written, and by whom.

    Args:
        proof: the receipt.
        key: whose signature is expected.
        document: what else was handed out with it, which must say the same.

    Returns:
        What is wrong with it; nothing if nothing is.
    """
    receipt = opened(proof.record)
    if receipt is None or receipt.fields.get("kind") != RECEIPT:
        return [Finding(Verdict.EDITED, "the receipt is no whole record any more: it has been edited")]
    findings = []
    if not receipt.is_sound:
        findings.append(Finding(Verdict.EDITED, "the receipt is not what its hash says: it has been edited"))
    if document is not None and document.get("receipt") != receipt.fields:
        findings.append(
            Finding(Verdict.EDITED, "what the receipt tells is not what its record says: it has been edited")
        )
    return findings + _judged_signature(proof.signed, receipt.head.hash, key)


def _judged_signature(line: bytes, digest: str, key: PublicKey) -> list[Finding]:
    signed = opened(line)
    if signed is None or signed.fields.get("kind") != SIGNED:
        return [Finding(Verdict.FORGED, "nobody has signed the receipt: it is not this daemon's")]
    if not is_signed(line, key):
        whose = signed.fields.get("key")
        by = "" if whose == key.name else f", but as it says by the key {str(whose)[:32]}"
        return [Finding(Verdict.FORGED, f"the signature is not by the key {key.name}{by}: it is not this daemon's")]
    if digest not in signed.fields.get("receipts", ()):
        return [Finding(Verdict.FORGED, "what was signed is not this receipt, but another one")]
    return []


def is_signed(line: bytes, key: PublicKey) -> bool:
    """Whether a signed record is signed by a key."""
    body = unsealed(line)
    mark = body[-1 - _SIGNATURE : -1]
    if not mark.startswith(_MARK):
        return False
    return key.has_signed(body[: -1 - _SIGNATURE] + b"}", mark[len(_MARK) : -1].decode(errors="replace"))


class Signature(NamedTuple):
    """What is to be told of the signatures in a file.

    Attributes:
        kind: `forged`, or `unsigned`.
        line: at which line, from 1.
        text: what has been found.
    """

    kind: str
    line: int
    text: str


def signatures(lines: Iterable[bytes], key: PublicKey) -> Iterator[Signature]:
    """Look at every signature of a file, and at what has none.

    Args:
        lines: all of the file.
        key: whose signatures are expected.
    """
    waiting: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(lines, 1):
        record = opened(line)
        kind = record.fields.get("kind") if record is not None else None
        if record is not None and kind == RECEIPT:
            waiting[record.head.hash] = (number, record.head.n)
        elif record is not None and kind == SIGNED:
            if not is_signed(line, key):
                yield Signature("forged", number, f"record {record.head.n} is not signed by the key {key.name}")
            for digest in record.fields.get("receipts", ()):
                waiting.pop(digest, None)
    for number, which in waiting.values():
        yield Signature(
            "unsigned", number, f"receipt {which} has no signature: a crash has left it so, or somebody put it there"
        )
