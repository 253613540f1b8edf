"""Digests of an output: made in steps, and told apart from what it has become since."""

import hashlib
import os
from pathlib import Path

import pytest

from ccexecd.core.evidence import Verdict
from ccexecd.sparse import punch_hole
from ccexecd.storage.digests import LEAST_BLOCK, MOST_BLOCKS, block_of, compared, digested, uncovered

MIB = 1 << 20


def digests(directory: Path) -> tuple[dict, list[int]]:
    """What it comes to, and its steps."""
    steps, work = [], digested(directory)
    while True:
        try:
            steps.append(next(work))
        except StopIteration as done:
            return done.value, steps


@pytest.fixture
def output(tmp_path):
    """An output of three blocks, the last one short."""
    (tmp_path / "stdout").write_bytes(os.urandom(2 * MIB + 5))
    (tmp_path / "journal").write_bytes(b"{}\n")
    return tmp_path


def test_blocks_are_of_the_bytes_as_they_lie_there(output):
    """Anybody can compute them with dd and sha256sum; what is not there has none."""
    found, steps = digests(output)
    text = (output / "stdout").read_bytes()
    blocks = [text[:MIB], text[MIB : 2 * MIB], text[2 * MIB :]]
    told = {"bytes": len(text), "block": MIB, "sha256": [hashlib.sha256(each).hexdigest() for each in blocks]}
    assert found["stdout"] == told
    assert found.keys() == {"stdout", "journal"}
    assert sum(steps) == len(text) + 3
    assert max(steps) <= MIB
    assert list(compared(output, found)) == []
    assert uncovered(found) == {}


def test_there_are_never_too_many_blocks():
    """Whatever the size: a receipt stays small."""
    assert [block_of(size) for size in (0, 1, 256 * MIB, 256 * MIB + 1)] == [LEAST_BLOCK] * 3 + [2 * LEAST_BLOCK]
    assert all(-(-size // block_of(size)) <= MOST_BLOCKS for size in (1 << 30, 1 << 50, (1 << 50) + 1))


def test_what_has_become_of_it_is_told_apart(output):
    """A bit, and where; an end that was cut off; one that was added; a file, or all of them, that went."""
    found, _ = digests(output)
    path = output / "stdout"
    text = path.read_bytes()

    def findings() -> list[tuple[Verdict, str]]:
        return list(compared(output, found))

    path.write_bytes(text[: MIB + 7] + bytes([text[MIB + 7] ^ 1]) + text[MIB + 8 :])
    [(verdict, told)] = findings()
    assert verdict is Verdict.EDITED
    assert "bytes 1048576 to 2097152 have been edited" in told
    path.write_bytes(text[:-1])
    assert [verdict for verdict, _ in findings()] == [Verdict.TRUNCATED]
    path.write_bytes(text + b"x")
    assert [verdict for verdict, _ in findings()] == [Verdict.EDITED]
    path.write_bytes(text)
    (output / "stderr").touch()
    assert [verdict for verdict, _ in findings()] == [Verdict.EDITED]
    (output / "stderr").unlink()
    path.unlink()
    assert [verdict for verdict, _ in findings()] == [Verdict.MISSING]
    assert [each.verdict for each in compared(output / "gone", found)] == [Verdict.MISSING]
    assert list(compared(output / "gone", {})) == []


def test_what_was_given_up_before_is_not_vouched_for(output):
    """A hole has no digest: neither zeros nor anything else in its place is a fault."""
    with (output / "stdout").open("r+b") as file:
        punch_hole(file.fileno(), 0, MIB)
        found, _ = digests(output)
        assert found["stdout"]["sha256"][0] is None
        assert uncovered(found) == {"stdout": MIB}
        assert list(compared(output, found)) == []
        file.write(b"x" * MIB)
        file.flush()
        assert list(compared(output, found)) == []
        file.write(b"x")
    assert [each.verdict for each in compared(output, found)] == [Verdict.EDITED]


def test_nothing_in_the_place_of_a_file_hangs(output):
    """A FIFO is an error, not a wait."""
    (output / "stdout").unlink()
    os.mkfifo(output / "stdout")
    with pytest.raises(OSError, match="no plain file"):
        digests(output)


@pytest.mark.parametrize("told", [{}, {"bytes": 5, "block": 1, "sha256": []}, {"bytes": 2, "block": MIB, "sha256": []}])
def test_digests_that_are_none_are_an_error(output, told):
    """Whoever edits a receipt is not believed for want of digests."""
    with pytest.raises((KeyError, ValueError)):
        list(compared(output, {"stdout": told}))
