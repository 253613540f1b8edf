"""What a chain of records shows of whoever had a hand in it."""

import hashlib
import json
from pathlib import Path

import pytest

from ccexecd.storage.chain import GENESIS, Head, files_in, name_of, opened, records_in, sealed, verify


def line_of(number: int, prev: str, **facts: object) -> tuple[bytes, str]:
    return sealed(json.dumps({"n": number, "kind": "x", **facts, "prev": prev}).encode())


def chain(count: int, first: int = 1, prev: str = GENESIS, **facts: object) -> list[bytes]:
    lines = []
    for number in range(first, first + count):
        line, prev = line_of(number, prev, **facts)
        lines.append(line)
    return lines


def head_of(lines: list[bytes]) -> Head:
    record = opened(lines[-1])
    assert record is not None
    return record.head


@pytest.fixture
def write(tmp_path: Path):
    """Puts lines into one file after another."""

    def write(*files: list[bytes]) -> list[Path]:
        for number, lines in enumerate(files, 1):
            (tmp_path / name_of(number)).write_bytes(b"".join(lines))
        return files_in(tmp_path)

    return write


def kinds(files: list[Path], anchor: Head | None = None) -> list[str]:
    return [finding.kind for finding in verify(files, anchor).findings]


def test_a_record_is_one_line_with_its_hash_last():
    """The hash is sha256 over the same object without it: anybody can check it with the tools of a shell."""
    line, digest = sealed(b'{"n":1,"prev":"x"}')
    assert line == b'{"n":1,"prev":"x","hash":"%b"}\n' % digest.encode()
    assert digest == hashlib.sha256(b'{"n":1,"prev":"x"}').hexdigest()
    record = opened(line)
    assert record is not None
    assert (record.head, record.prev, record.is_sound) == (Head(1, digest), "x", True)


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"{}", b'{"n":1}\n', b"[" * 100_000, b"\xff\n", sealed(b'{"n":"1","prev":"x"}')[0], b'x,"hash":"'],
)
def test_what_is_no_record_is_none(line):
    """Whatever stands in a line, reading it ends well."""
    assert opened(line) is None


def test_a_whole_chain_has_nothing_to_tell(write):
    """Over several files, from the first record to the last."""
    lines = chain(9)
    verdict = verify(write(lines[:4], lines[4:]), head_of(lines))
    assert verdict == ([], 9, 1, head_of(lines))
    assert [record.head.n for file in write(lines, []) for record in records_in(file)] == list(range(1, 10))


def test_no_files_are_a_chain_without_records(tmp_path):
    """Nothing was written, and nothing is wrong; unless it is known that something was."""
    assert files_in(tmp_path / "none") == []
    assert verify([]) == ([], 0, 0, Head(0, GENESIS))
    assert kinds([], Head(3, "x")) == ["truncated"]


def test_an_edited_record_is_found(write):
    """Without a new hash, by its own; with one, by the record behind it."""
    lines = chain(5, who="mallory")
    edited = [*lines[:2], lines[2].replace(b"mallory", b"alice"), *lines[3:]]
    (finding,) = verify(write(edited)).findings
    assert (finding.kind, finding.line) == ("edited", 3)
    assert "record 3" in finding.text
    record = opened(lines[2])
    resealed, _ = line_of(3, record.prev, who="alice")
    (finding,) = verify(write([*lines[:2], resealed, *lines[3:]])).findings
    assert (finding.kind, finding.line) == ("edited", 4)
    assert finding.text == "record 4 does not follow from record 3: one of the two was written anew"


def test_a_record_that_is_garbage_now_is_edited_and_missing(write):
    """A line that is no record is told apart from half a line that a crash has left."""
    lines = chain(5)
    found = verify(write([*lines[:2], b"garbage\n", *lines[3:]])).findings
    assert [(finding.kind, finding.line) for finding in found] == [("edited", 4), ("removed", 4)]


@pytest.mark.parametrize(("gone", "text"), [((2,), "record 2 is"), ((2, 3, 4), "records 2 to 4 are")])
def test_removed_records_are_named(write, gone, text):
    """With their numbers, where they are missing."""
    lines = [line for number, line in enumerate(chain(6), 1) if number not in gone]
    (finding,) = verify(write(lines)).findings
    assert (finding.kind, finding.line) == ("removed", 2)
    assert finding.text.startswith(text)


def test_a_removed_file_is_told_from_one_that_rotation_took(write):
    """The first record of each file says which number is the oldest that is kept."""
    lines = chain(3, first=1)
    later = chain(3, first=4, prev=head_of(lines).hash, oldest=4)
    assert kinds(write([], later)) == []
    unmarked = chain(3, first=4, prev=head_of(lines).hash, oldest=1)
    (finding,) = verify(write([], unmarked)).findings
    assert finding.kind == "removed"
    assert finding.text.startswith("records 1 to 3 are missing")


def test_reordered_records_are_told_from_removed_ones(write):
    """Each is there, but not where it belongs."""
    one, two, three, four = chain(4)
    assert kinds(write([one, three, two, four])) == ["reordered"]
    assert kinds(write([one, four, three, two])) == ["reordered", "reordered"]


def test_a_repeated_record_is_found(write):
    """A copy changes nothing of the chain, and still is no part of it."""
    one, two, three = chain(3)
    assert kinds(write([one, two, two, three])) == ["repeated"]


@pytest.mark.parametrize("left", range(1, 5))
def test_a_truncated_end_shows_by_an_anchor(write, left):
    """The chain itself is whole: only who knows its last record sees that there was one."""
    lines = chain(5)
    assert kinds(write(lines[:left])) == []
    (finding,) = verify(write(lines[:left]), head_of(lines)).findings
    assert finding.kind == "truncated"
    assert finding.text.startswith(f"records {left + 1} to 5 are missing at the end")


def test_a_chain_that_was_written_anew_shows_by_an_anchor(write):
    """All hashes fit each other, and not the one that is known."""
    assert kinds(write(chain(5, who="alice")), head_of(chain(5, who="mallory"))) == ["edited"]


def test_half_a_line_at_the_end_is_truncated(write):
    """As long as no start has mended it."""
    lines = chain(3)
    assert kinds(write([*lines[:2], lines[2][:-20]])) == ["truncated"]


def test_half_a_line_that_was_mended_is_no_fault(write):
    """The record behind it tells its hash, so that nobody can pass off another line as that."""
    one, two = chain(2)
    torn = b'{"n":3,"t":"20'
    told, _ = line_of(3, head_of([one, two]).hash, kind="mended", sha256=hashlib.sha256(torn).hexdigest())
    (finding,) = verify(write([one, two, torn + b"\n", told])).findings
    assert (finding.kind, finding.is_fault) == ("mended", False)
    assert kinds(write([one, two, torn + b"x\n", told])) == ["edited"]
    assert kinds(write([one, two, b"x\n", torn + b"\n", told])) == ["edited"]


def test_every_change_of_a_byte_is_found(write):
    """Wherever one byte is changed, the chain is not whole any more."""
    lines = chain(3)
    whole = b"".join(lines)
    for place in range(len(whole)):
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        found = verify(write([changed]), head_of(lines)).findings
        assert any(finding.is_fault for finding in found), place
