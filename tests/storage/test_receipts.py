"""Receipts: found by their number, signed batch by batch, and told from what somebody else has written."""

import json
import sys

import pytest

from ccexecd.core.evidence import Verdict
from ccexecd.storage import receipts as module
from ccexecd.storage.chain import files_in, opened, sealed, unsealed, verify
from ccexecd.storage.proof import FORMAT, Proof, judged, proof_of, signatures
from ccexecd.storage.receipts import Receipts
from ccexecd.storage.signing import PublicKey, Signer, SigningError


@pytest.fixture
def receipts(tmp_path):
    receipts = Receipts(tmp_path / "receipts")
    yield receipts
    receipts.close()


def facts(number: int, **more: object) -> dict[str, object]:
    return {"execution_id": f"e{number}", "command": f"echo {number}", **more}


def verdicts(proof: Proof, key: PublicKey, document: dict | None = None) -> list[Verdict]:
    return [each.verdict for each in judged(proof, key, document)]


def test_every_receipt_is_found_and_signed(receipts, monkeypatch):
    """In whichever file it lies, and at whichever place of it; the chain is whole, and so are the signatures."""
    monkeypatch.setattr(receipts, "max_bytes", 100_000)
    monkeypatch.setattr(module, "_WINDOW", 2000)
    numbers = [n for start in range(0, 600, 40) for n in receipts.write([facts(start + at) for at in range(40)])]
    files = files_in(receipts.directory)
    assert len(files) > 1
    key = receipts.public_key()
    for at, number in enumerate(numbers):
        proof = receipts.find(number)
        assert opened(proof.record).fields["execution_id"] == f"e{at}"
        assert judged(proof, key) == []
    assert receipts.find(numbers[-1] + 2) is None
    assert receipts.find(0) is None
    assert receipts.last() == receipts.head.n
    assert verify(files, receipts.head).findings == []
    assert [each for file in files for each in signatures(file.read_bytes().splitlines(), key)] == []


def test_one_signature_serves_many_and_each_can_be_handed_out(receipts, monkeypatch):
    """A document is enough to verify one; a public key from elsewhere says by whom."""
    monkeypatch.setattr(module, "AT_ONCE", 3)
    numbers = receipts.write([facts(number) for number in range(7)])
    assert receipts.head.n == numbers[-1] + 1
    key = receipts.public_key()
    for number in numbers:
        document = json.loads(json.dumps(receipts.find(number).document(key.pem)))
        assert document["format"] == FORMAT
        assert verdicts(proof_of(document), PublicKey(document["public_key"]), document) == []
        document["receipt"]["command"] = "another"
        assert verdicts(proof_of(document), key, document) == [Verdict.EDITED]


def test_what_somebody_else_wrote_is_told_apart(receipts, tmp_path):
    """Edited; edited with all hashes made anew; signed by another key; signed for another receipt; not signed."""
    one, two = receipts.write([facts(1)]), receipts.write([facts(2)])
    key, other = receipts.public_key(), Signer(tmp_path / "other.pem")
    proof, second = receipts.find(one[0]), receipts.find(two[0])
    assert verdicts(Proof(proof.record.replace(b"echo 1", b"echo 9"), proof.signed), key) == [Verdict.EDITED]
    resealed, _ = sealed(unsealed(proof.record).replace(b"echo 1", b"echo 9"))
    assert verdicts(Proof(resealed, proof.signed), key) == [Verdict.FORGED]
    assert verdicts(proof, other.public) == [Verdict.FORGED]
    assert verdicts(Proof(proof.record, second.signed), key) == [Verdict.FORGED]
    assert verdicts(Proof(proof.record, b""), key) == [Verdict.FORGED]
    named = unsealed(proof.signed).replace(opened(proof.record).head.hash.encode(), opened(resealed).head.hash.encode())
    assert verdicts(Proof(resealed, sealed(named)[0]), key) == [Verdict.FORGED]
    assert verdicts(Proof(proof.signed, proof.signed), key) == [Verdict.EDITED]
    assert verdicts(Proof(b"garbage", proof.signed), key) == [Verdict.EDITED]
    for document in ({}, {"format": FORMAT}, {"format": FORMAT, "record": 1, "signed": ""}):
        with pytest.raises(ValueError, match="it "):
            proof_of(document)


def test_what_a_crash_left_without_a_signature_is_never_signed(receipts, monkeypatch):
    """Anybody could have put it there: it counts for nothing, and the chain goes on behind it."""
    receipts.write([facts(1)])
    whole = module.os.write

    def half(fd: int, text: bytes) -> int:
        end = text.index(b'"e3"') if b'"e3"' in text else len(text)
        return whole(fd, text[:end])

    with monkeypatch.context() as crash:
        crash.setattr(module.os, "write", half)
        with pytest.raises(OSError, match="no space"):
            receipts.write([facts(2), facts(3)])
    assert receipts.having({"e1", "e2", "e3"}, everywhere=False).keys() == {"e1"}
    numbers = receipts.write([facts(2), facts(3)])
    found = receipts.having({"e1", "e2", "e3"}, everywhere=True)
    assert {name: each.head.n for name, each in found.items()} == {"e1": 2, "e2": numbers[0], "e3": numbers[1]}
    files = files_in(receipts.directory)
    assert [each.kind for each in verify(files, receipts.head).findings] == ["mended"]
    [unsigned] = signatures(files[0].read_bytes().splitlines(), receipts.public_key())
    assert unsigned.kind == "unsigned"


def test_a_forged_signature_in_the_chain_is_told(receipts, tmp_path):
    """By whoever walks through all of it."""
    receipts.write([facts(1)])
    lines = files_in(receipts.directory)[0].read_bytes().splitlines()
    other = Signer(tmp_path / "other.pem").public
    assert [each.kind for each in signatures(lines, other)] == ["forged"]


def test_a_key_that_cannot_be_used_stops_nothing_but_receipts(receipts):
    """Nothing is written without a signature."""
    receipts.directory.mkdir()
    receipts.key.write_text("garbage")
    receipts.key.chmod(0o600)
    with pytest.raises(SigningError, match="private key"):
        receipts.write([facts(1)])
    assert files_in(receipts.directory) == []


def test_a_library_that_cannot_be_loaded_is_a_key_that_cannot_be_used(tmp_path, monkeypatch):
    """No descriptors are left for it, say: that is told as anything else that keeps receipts from being written."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
    receipts = Receipts(tmp_path / "receipts")
    with pytest.raises(SigningError, match="what signs cannot be loaded"):
        receipts.write([{"execution_id": "e"}])
    monkeypatch.undo()
    assert receipts.write([{"execution_id": "e"}]) == [2]
    receipts.close()
