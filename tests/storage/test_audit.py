"""The audit's files: one record a line, whatever happens to the daemon, the disk or the files."""

import errno
import json
import logging
import os
import stat
from pathlib import Path

import pytest
import trio

from ccexecd.storage import audit as module
from ccexecd.storage import chain_files
from ccexecd.storage.audit import MAX_RECORD, Audit
from ccexecd.storage.chain import files_in, records_in, verify


@pytest.fixture(autouse=True)
def _look_each_time(monkeypatch):
    monkeypatch.setattr(chain_files, "LOOK_INTERVAL", 0.0)


@pytest.fixture
def begin(tmp_path: Path):
    """Begins a life of the audit; all are closed at the end."""
    begun = []

    def begin(max_bytes: int = 1 << 20, max_files: int = 100) -> Audit:
        begun.append(Audit(tmp_path / "audit", max_bytes, max_files))
        return begun[-1]

    yield begin
    for audit in begun:
        audit.close({})


def end(audit: Audit) -> None:
    """End a life as a crash does: nothing more is written."""
    os.close(audit._fd)
    audit._fd = -1


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def fields_of(audit: Audit) -> list[dict]:
    return [record.fields for file in files_in(audit.directory) for record in records_in(file)]


def found_in(audit: Audit) -> list[str]:
    return [finding.kind for finding in verify(files_in(audit.directory), audit.head).findings]


def test_a_record_is_in_the_file_when_it_is_made(begin):
    """Numbered, dated, with what it is about, behind the one that says that this life has begun."""
    audit = begin()
    assert audit.record("decision", {"decision": "allowed", "environment": ["A"]})
    began, made = fields_of(audit)
    assert (began["n"], began["kind"], began["pid"]) == (1, "began", os.getpid())
    assert (made["n"], made["kind"], made["decision"], made["environment"]) == (2, "decision", "allowed", ["A"])
    assert made["t"].endswith("+00:00")
    assert made["prev"] == began["hash"]
    assert audit.problem is None


def test_nothing_is_made_before_the_first_record(begin):
    """Making an audit touches no disk."""
    audit = begin()
    assert not audit.directory.exists()
    audit.record("x", {})


def test_the_files_are_private(begin):
    """Nobody else reads what was run here."""
    audit = begin()
    audit.record("x", {})
    (file,) = files_in(audit.directory)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(audit.directory.stat().st_mode) == 0o700


def test_a_chain_goes_on_in_the_next_life(begin):
    """After an orderly end and after a crash."""
    first = begin()
    first.record("x", {})
    first.close({"reason": "stopped"})
    second = begin()
    second.record("y", {})
    end(second)
    third = begin()
    third.record("z", {})
    assert [each["kind"] for each in fields_of(third)] == ["began", "x", "ended", "began", "y", "began", "z"]
    assert found_in(third) == []


def test_rotation_keeps_the_chain_and_no_more_than_so_many_files(begin):
    """The first record of a file carries the last hash of the one before, and says what is kept."""
    audit = begin(max_bytes=2000, max_files=3)
    for number in range(100):
        assert audit.record("x", {"number": number})
    files = files_in(audit.directory)
    assert len(files) == 3
    assert all(file.stat().st_size <= 2000 for file in files)
    first = next(records_in(files[-1])).fields
    *_, before = records_in(files[-2])
    assert (first["kind"], first["prev"]) == ("rotated", before.head.hash)
    assert first["oldest"] == next(records_in(files[0])).head.n
    assert found_in(audit) == []
    assert [each["number"] for each in fields_of(audit) if each["kind"] == "x"][-1] == 99


def test_a_file_that_rotation_has_not_removed_is_missed(begin):
    """Somebody who takes the oldest file away is found out."""
    audit = begin(max_bytes=2000, max_files=3)
    for number in range(100):
        audit.record("x", {"number": number})
    files_in(audit.directory)[0].unlink()
    assert found_in(audit) == ["removed"]
    audit.close({})
    second = begin(max_bytes=2000, max_files=3)
    while len(files_in(second.directory)) < 3:
        second.record("x", {})
    assert found_in(second) == ["removed"]


@pytest.mark.parametrize("cut", [2, 3, 40, 200])
def test_half_a_record_is_mended_at_the_next_start(begin, cut):
    """Nothing is removed: the line is ended, and the next record tells of it."""
    audit = begin()
    audit.record("x", {"text": "y" * 200})
    audit.record("x", {"text": "z" * 200})
    end(audit)
    (file,) = files_in(audit.directory)
    os.truncate(file, file.stat().st_size - cut)
    torn = file.read_bytes().rpartition(b"\n")[2]
    second = begin()
    assert second.record("y", {})
    assert [each["kind"] for each in fields_of(second)][-2:] == ["mended", "y"]
    assert fields_of(second)[-2]["bytes"] == len(torn)
    assert torn in file.read_bytes()
    assert [each["n"] for each in fields_of(second)] == [1, 2, 3, 4]
    assert found_in(second) == ["mended"]


def test_a_line_feed_that_is_missing_is_only_that(begin):
    """The record before it was written whole."""
    audit = begin()
    audit.record("x", {})
    end(audit)
    (file,) = files_in(audit.directory)
    os.truncate(file, file.stat().st_size - 1)
    second = begin()
    second.record("y", {})
    assert [each["kind"] for each in fields_of(second)] == ["began", "x", "began", "y"]
    assert found_in(second) == []


def test_half_of_the_first_record_is_mended(begin):
    """A crash in the very first write leaves no chain behind that could not begin."""
    audit = begin()
    audit.directory.mkdir()
    (audit.directory / "audit-0000000000000001.jsonl").write_bytes(b'{"n":1')
    assert audit.record("x", {})
    assert [each["kind"] for each in fields_of(audit)] == ["mended", "x"]
    assert found_in(audit) == ["mended"]


def test_a_file_that_was_only_just_made_takes_nothing_away(begin):
    """A crash between the making of a file and its first record: the chain goes on from the one before."""
    audit = begin()
    audit.record("x", {})
    end(audit)
    (audit.directory / "audit-0000000000000003.jsonl").touch()
    second = begin()
    second.record("y", {})
    assert [each["n"] for each in fields_of(second)] == [1, 2, 3, 4]
    assert found_in(second) == []


def test_only_the_end_of_the_last_file_is_read_at_a_start(begin, monkeypatch):
    """However much there is, a start reads one piece of it."""
    audit = begin(max_bytes=4 << 20, max_files=3)
    for _ in range(3000):
        audit.record("x", {"text": "y" * 500})
    end(audit)
    read = []
    real = os.pread
    monkeypatch.setattr(module.os, "pread", lambda *words: read.append(words[1]) or real(*words))
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("a whole file was read"))
    assert begin().record("y", {})
    assert sum(read) <= 4 * MAX_RECORD + 1


def test_a_full_disk_is_told_and_survived(begin, monkeypatch, caplog):
    """What could not be written is counted, and told of in the first record that can be."""
    audit = begin()
    audit.record("x", {})
    real = os.write

    def full(fd, text):
        real(fd, text[:10])
        monkeypatch.setattr(module.os, "write", none)
        return 10

    def none(_fd, _text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "write", full)
    with caplog.at_level(logging.INFO):
        assert not audit.record("y", {})
        assert "no space is left" in audit.problem
        assert not audit.record("y", {})
        assert audit.problem.endswith("No space left on device")
        monkeypatch.setattr(module.os, "write", real)
        assert audit.record("z", {})
    assert audit.problem is None
    assert [each["kind"] for each in fields_of(audit)] == ["began", "x", "mended", "lost", "z"]
    assert fields_of(audit)[-2]["records"] == 2
    assert found_in(audit) == ["mended"]
    assert [record.levelname for record in caplog.records if "audit" in record.message][-2:] == ["ERROR", "INFO"]


@pytest.mark.parametrize("room", [0, 1, 5])
def test_half_a_record_is_mended_when_there_is_room_again(begin, monkeypatch, room):
    """Also where a daemon dies on a full disk, and the next one finds it full, or takes up only a part of a record."""
    audit = begin()
    audit.record("x", {})
    audit.close({})
    (file,) = files_in(audit.directory)
    with file.open("ab") as stream:
        stream.write(b'{"n":4,"t"')
    real = os.write

    def little(fd: int, text: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, text[:room])

    monkeypatch.setattr(module.os, "write", little)
    audit = begin()
    assert not audit.record("y", {})
    assert not audit.record("y", {})
    monkeypatch.setattr(module.os, "write", real)
    assert audit.record("z", {})
    assert [each["kind"] for each in fields_of(audit)] == ["began", "x", "ended", "mended", "lost", "z"]
    assert found_in(audit) == ["mended"]


def test_a_directory_that_cannot_be_used_is_a_problem(begin, tmp_path):
    """Nothing is raised: whoever asks decides what that means."""
    (tmp_path / "audit").write_text("not a directory")
    audit = begin()
    assert not audit.record("x", {})
    assert "cannot write the audit" in audit.problem
    (tmp_path / "audit").unlink()
    assert audit.record("x", {})
    assert audit.problem is None


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/null"), os.mkfifo, os.mkdir])
def test_what_is_no_plain_file_is_not_written_to(begin, make):
    """A link that somebody has put there leads nowhere."""
    audit = begin()
    audit.directory.mkdir()
    make(audit.directory / "audit-0000000000000001.jsonl")
    assert not audit.record("x", {})
    assert audit.problem is not None


def test_an_audit_that_was_never_begun_ends_without_a_trace(begin):
    """Nothing is written at an end that had no beginning."""
    audit = begin()
    audit.close({})
    assert not audit.directory.exists()


def test_two_daemons_do_not_share_a_file(begin):
    """Their chains would be one broken one."""
    first, second = begin(), begin()
    assert first.record("x", {})
    assert not second.record("x", {})
    assert "another daemon writes into" in second.problem
    first.close({})
    assert second.record("x", {})
    assert found_in(second) == []


def test_a_file_that_was_removed_is_begun_anew(begin):
    """The next record goes into a file that can be found, and the chain shows what is missing."""
    audit = begin()
    audit.record("x", {})
    files_in(audit.directory)[0].unlink()
    assert audit.record("y", {})
    assert [each["kind"] for each in fields_of(audit)] == ["disturbed", "y"]
    assert found_in(audit) == ["removed"]


@pytest.mark.parametrize("cut", [2, 30, 5000])
def test_a_file_that_was_cut_while_it_was_written_shows_it(begin, cut):
    """The records that are missing are missed, and the next ones are whole."""
    audit = begin()
    for _ in range(3):
        audit.record("x", {})
    (file,) = files_in(audit.directory)
    os.truncate(file, max(0, file.stat().st_size - cut))
    assert audit.record("y", {})
    assert [each["kind"] for each in fields_of(audit)][-2:] == ["disturbed", "y"]
    assert set(found_in(audit)) & {"removed", "edited"}


def test_what_somebody_else_appends_is_found(begin):
    """It is no record of ours, and does not spoil the next one."""
    audit = begin()
    audit.record("x", {})
    with files_in(audit.directory)[0].open("ab") as file:
        file.write(b"half a line")
    assert audit.record("y", {})
    assert fields_of(audit)[-1]["kind"] == "y"
    assert found_in(audit) == ["edited"]


def test_whatever_a_record_holds_it_is_one_line(begin):
    """Line feeds, half surrogate pairs, and more than fits."""
    audit = begin()
    assert audit.record("x", {"command": "a\nb\u2028\ud800", "environment": ["\ud800"]})
    assert audit.record("x", {"command": "y" * (MAX_RECORD * 2), "environment": ["A"] * 3, "decision": "refused"})
    *_, odd, large = fields_of(audit)
    assert odd["command"] == "a\nb\u2028\\ud800"
    assert large["shortened_from"] > MAX_RECORD
    assert (len(large["command"]), large["decision"]) == (512, "refused")
    assert found_in(audit) == []
    for line in files_in(audit.directory)[0].read_bytes().splitlines():
        json.loads(line)


async def test_what_is_written_is_synced_in_a_thread(begin, monkeypatch):
    """Records of one moment together, and nothing runs while nothing is written."""
    audit = begin()
    synced, real = [], os.fdatasync
    monkeypatch.setattr(module, "SYNC_INTERVAL", 0.01)

    def sync(fd):
        real(fd)
        trio.from_thread.run_sync(synced.append, fd)  # raises in the thread of the event loop

    monkeypatch.setattr(module.os, "fdatasync", sync)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(audit.run)
            for number in range(50):
                audit.record("x", {"number": number})
            while not synced:
                await trio.sleep(0.005)
            assert synced == [audit._fd]
            assert not audit._unsynced.is_set()
            nursery.cancel_scope.cancel()
    monkeypatch.setattr(module.os, "fdatasync", real)


async def test_a_file_that_is_full_is_synced_and_closed(begin, monkeypatch):
    """Its descriptor does not stay open."""
    monkeypatch.setattr(module, "SYNC_INTERVAL", 0.0)
    audit = begin(max_bytes=2000)
    for number in range(30):
        audit.record("x", {"number": number})
    retired = list(audit._retired)
    assert retired
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(audit.run)
            while any(is_open(fd) for fd in retired):
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    assert audit._retired == []


async def test_a_machine_without_another_thread_is_a_problem(begin, monkeypatch):
    """Until there is one; the record is in the file meanwhile, and nothing ends."""
    monkeypatch.setattr(module, "SYNC_INTERVAL", 0.0)
    audit = begin()

    async def refuse(*_, **__):
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(audit.run)
            with monkeypatch.context() as exhausted:
                exhausted.setattr(trio.to_thread, "run_sync", refuse)
                audit.record("x", {})
                while audit.problem is None:
                    await trio.sleep(0.005)
                assert "new thread" in audit.problem
            while audit.problem is not None:
                audit.record("x", {})
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()


async def test_a_disk_that_takes_nothing_is_a_problem(begin, monkeypatch):
    """Until a later sync succeeds."""
    monkeypatch.setattr(module, "SYNC_INTERVAL", 0.0)
    audit = begin()
    real = os.fdatasync

    def fails(_fd):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.os, "fdatasync", fails)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(audit.run)
            audit.record("x", {})
            while audit.problem is None:
                await trio.sleep(0.005)
            assert "cannot make the audit" in audit.problem
            assert audit.record("x", {})
            assert audit.problem is not None
            monkeypatch.setattr(module.os, "fdatasync", real)
            audit.record("x", {})
            while audit.problem is not None:
                audit.record("x", {})
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
