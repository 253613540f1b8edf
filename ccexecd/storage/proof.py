"""The proof of one receipt: its record, and the signed record that names it.

Owns the form of a signed record: a record of a chain (`chain`) of kind `signed`, whose `receipts` lists the hashes of
the receipts that it vouches for, and whose `signature` is over the bytes of the same object without `signature` and
`hash`. Since it holds the hash of the record before it, the signature covers the whole chain up to there. Standard
library only but for the key itself: ccexecctl verifies a receipt without a daemon. Must not read or write files.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ccexecd.core.evidence import Finding, Verdict
from ccexecd.storage.chain import opened, unsealed
from ccexecd.storage.signing import SIGNATURE, PublicKey

RECEIPT = "receipt"
SIGNED = "signed"
"""The values of a record's `kind`."""

FORMAT = "ccexecd-receipt-1"
"""The value of `format` in a receipt that is handed out."""

_MARK = b',"signature":"'
_SIGNATURE = len(_MARK) + SIGNATURE + len(b'"')


class Proof(NamedTuple):
    """One receipt and its signature, as their file has them.

    Attributes:
        record: the line of the receipt.
        signed: the line of the signed record that vouches for it; empty if there is none.
    """

    record: bytes
    signed: bytes

    def document(self, public_key: str) -> dict[str, Any]:
        """The receipt as JSON to be handed out: all that is needed to verify it elsewhere.

        Args:
            public_key: the daemon's public key (PEM). Whoever verifies should have it from elsewhere, too.
        """
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
    """The proof in a document that `Proof.document` made.

    Raises:
        ValueError: it is no such document; the text says why.
    """
    if document.get("format") != FORMAT:
        raise ValueError(f"it does not say that it is a {FORMAT}")
    record, signed = document.get("record"), document.get("signed")
    if not isinstance(record, str) or not isinstance(signed, str):
        raise ValueError("it has no record, or no signed record")  # noqa: TRY004  # of the document, not of a program
    return Proof(record.encode(errors="replace"), signed.encode(errors="replace"))


def judged(proof: Proof, key: PublicKey, document: Mapping[str, Any] | None = None) -> list[Finding]:
    """Check that a receipt is as it was written, and signed by a key.

    Args:
        proof: the receipt.
        key: the key whose signature is expected.
        document: the document in which it was handed out, whose readable part must say the same; None for none.

    Returns:
        What is wrong with it; empty if nothing is.
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
    """A finding about the signatures in a file.

    Attributes:
        kind: `forged`, or `unsigned`.
        line: the line that it is about, from 1.
        text: what was found, for people.
    """

    kind: str
    line: int
    text: str


def signatures(lines: Iterable[bytes], key: PublicKey) -> Iterator[Signature]:
    """Check every signature in a file, and that every receipt has one.

    Args:
        lines: all lines of the file.
        key: the key whose signatures are expected.
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
