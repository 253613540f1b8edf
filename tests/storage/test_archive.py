"""What outlives a daemon: kept, found again, completed where the daemon before has died, and given up in the end."""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from ccexecd.core.entries import Chunk, Gap, Note
from ccexecd.core.framing import Framer
from ccexecd.core.output import OutputLog
from ccexecd.storage import archive as archive_module
from ccexecd.storage import journal, notary
from ccexecd.storage.archive import Archive
from ccexecd.storage.audit import Audit
from ccexecd.storage.history import MIGRATIONS, History, Record, SessionRecord, Wanted
from ccexecd.storage.left_behind import LeftBehind
from ccexecd.storage.past import HistoryUnavailableError, PastExecution
from ccexecd.storage.recovery import ONCE
from ccexecd.storage.spool import Retention

from .disk import Disk, assert_counts

pytestmark = pytest.mark.anyio

KEEPING = Retention(execution_bytes=1 << 30, total_bytes=1 << 30, output_seconds=1e6, history_seconds=1e9)

CREATED = "2026-01-02T03:04:05.500000+00:00"
STARTED = "2026-01-02T03:04:06.500000+00:00"


@asynccontextmanager
async def opened(directory: Path, retention: Retention = KEEPING) -> AsyncIterator[Archive]:
    """An archive that is open, as long as the block lasts."""
    await trio.Path(directory).mkdir(exist_ok=True)
    archive = Archive(directory, retention)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(archive.run)
        with trio.fail_after(10):
            await archive.opened.wait()
        yield archive
        nursery.cancel_scope.cancel()


def description(name: str) -> dict[str, object]:
    """What is told of an execution that is being started."""
    return {
        "execution_id": name,
        "session_id": "s",
        "principal": "uid 0",
        "state": "STARTING",
        "command": f"echo {name}",
        "argv": ["echo", name],
        "argv_sha256": "0" * 64,
        "pid": None,
        "pgid": None,
        "created_at": CREATED,
        "started_at": None,
        "finished_at": None,
        "exit_code": None,
        "signal": None,
        "reason": None,
        "limit": None,
        "duration": 0.0,
        "leftovers": [],
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "dropped_bytes": 0,
        "next_seq": 1,
        "oldest_seq": 1,
        "framing": "lines",
        "max_line_bytes": None,
        "labels": {},
    }


class Run:
    """An execution, as far as an archive is concerned."""

    def __init__(self, archive: Archive, name: str) -> None:
        self.archive = archive
        self.name = name
        self.store = archive.begin(name, description(name))
        if self.store is not None:
            self.store.started_at = lambda: STARTED
        self.log = OutputLog(1 << 20, self.store)
        self.framer = Framer("lines", 1 << 20)
        self.finished_at: float | None = None
        archive.note(name, self.record)

    def start(self) -> "Run":
        self.log.note("process.started", {"status": "started", "pid": 77, "pgid": 77})
        return self

    def write(self, text: bytes) -> "Run":
        self.log.extend("stdout", text, self.framer.feed(text))
        return self

    def finish(self, moment: float | None = None) -> "Run":
        self.log.extend("stdout", b"", self.framer.finish())
        self.log.note("process.completed", self.completion())
        self.log.close()
        self.finished_at = time.time() if moment is None else moment
        if self.store is not None:
            self.store.when_closed(self._archived)
        else:
            self._archived()
        return self

    def _archived(self) -> None:
        self.archive.finished(self.name, self.finished_at, self.store.disk_bytes if self.store else 0, self.record)

    def completion(self) -> dict[str, object]:
        return {
            "status": "failed",
            "exit_code": 3,
            "signal": None,
            "reason": "exited",
            "duration": 0.5,
            "stdout_bytes": self.log.sizes["stdout"],
            "stderr_bytes": 0,
            "dropped_bytes": 0,
            "leftovers": [],
            "agent": {"name": "claude", "verdict": {"cause": "failed", "is_success": False}},
        }

    def record(self) -> Record:
        ended = self.finished_at
        known = description(self.name) | {
            "state": "RUNNING" if self.finished_at is None else "FINISHED",
            "pid": 77,
            "pgid": 77,
            "started_at": STARTED,
            "finished_at": None if ended is None else datetime.fromtimestamp(ended, UTC).isoformat(),
            "stdout_bytes": self.log.sizes["stdout"],
            "next_seq": self.log.next_seq,
        }
        if ended is not None:
            known |= {name: self.completion()[name] for name in ("exit_code", "reason", "duration", "agent")}
        return Record(
            id=self.name,
            session_id="s",
            principal="uid 0",
            created_at=1.0,
            finished_at=self.finished_at,
            reason=None if self.finished_at is None else "exited",
            exit_code=None if self.finished_at is None else 3,
            duration=0.5,
            command="echo",
            output_bytes=self.store.disk_bytes if self.store else 0,
            description=known,
            completion=None if self.finished_at is None else self.completion(),
        )


def output_of(past: PastExecution) -> bytes:
    """All that is left of its standard output."""
    cursor = past.log.cursor(0)
    entries = list(iter(cursor.take, None))
    cursor.close()
    return b"".join(each.piece.text for each in entries if isinstance(each, Chunk))


async def only(archive: Archive, name: str) -> PastExecution:
    """The execution of that name."""
    [found] = await archive.find(name)
    return found


@pytest.fixture
def until():
    """Wait, on the real clock, until something is so."""

    async def wait(condition) -> None:
        with trio.fail_after(10):
            while not condition():
                await trio.sleep(0.005)

    return wait


async def test_another_daemon_knows_what_was(tmp_path):
    """How it ended, and every byte of it."""
    async with opened(tmp_path) as archive:
        Run(archive, "one").start().write(b"hello\nwor").write(b"ld").finish()
    async with opened(tmp_path) as archive:
        one = await only(archive, "one")
        assert (one.id, one.session_id, one.principal, one.state.value) == ("one", "s", "uid 0", "FINISHED")
        assert one.completion["exit_code"] == 3
        assert one.description["stdout_bytes"] == 11
        assert output_of(one) == b"hello\nworld"
        assert [each.id for each in await archive.newest(Wanted())] == ["one"]
        assert archive.problems == {}
        assert_counts(archive.spool.used_bytes, tmp_path / "output")


async def test_the_same_daemon_knows_it_too(tmp_path, until):
    """Once it has been written, which takes a moment; what has not finished is not of the past."""
    async with opened(tmp_path) as archive:
        Run(archive, "one").start().write(b"hello\n").finish()
        Run(archive, "two").start()
        await until(lambda: archive.is_settled)
        assert output_of(await only(archive, "one")) == b"hello\n"
        assert await archive.find("two") == []


async def killed(directory: Path, *runs: str, tail: bytes = b"half a line") -> None:
    """A daemon that is killed while these run: its history and its logs stay as they are at that moment."""
    living = directory.with_name("living")
    async with opened(living) as archive:
        for name in runs:
            Run(archive, name).start().write(b"hello\n").write(tail)
        with trio.fail_after(10):
            while not archive.is_settled:
                await trio.sleep(0.005)
        shutil.copytree(living, directory)


async def test_what_ran_when_it_died_is_lost_with_all_its_output(tmp_path):
    """Half a line among it; its log says how it ended, as its record does."""
    directory = tmp_path / "state"
    await killed(directory, "one")
    before = time.time()
    async with opened(directory) as archive:
        one = await only(archive, "one")
        assert output_of(one) == b"hello\nhalf a line"
        assert one.completion["reason"] == one.description["reason"] == "lost"
        assert (one.completion["exit_code"], one.completion["pid"], one.description["pid"]) == (None, 77, 77)
        assert one.completion["stdout_bytes"] == 17
        assert one.description["finished_at"] <= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before + 1))
        cursor = one.log.cursor(0)
        entries = list(iter(cursor.take, None))
        assert [each.seq for each in entries] == [1, 2, 3, 4]
        assert entries[3] == Note(4, "process.completed", one.completion)
        assert (one.log.next_seq, one.description["next_seq"]) == (5, 5)


async def test_nothing_that_is_lost_ended_before_it_began(tmp_path):
    """Its files are all that tells when it was seen last, and their times may be earlier than its start."""
    directory = tmp_path / "state"
    await killed(directory, "one")
    for name in ("journal", "stdout"):
        os.utime(directory / "output" / "one" / name, (1.0, 1.0))
    async with opened(directory) as archive:
        one = (await only(archive, "one")).description
        assert one["finished_at"] == (one["started_at"] or one["created_at"])
        assert one["duration"] == 0.0


def recorded(directory: Path, *names: str) -> Audit:
    """An audit in which these have been decided about, in a life of the daemon that goes on."""
    audit = Audit(directory / "audit", 1 << 20, 3)
    for name in names:
        decide(audit, name, "refused" if name == "refused" else "allowed")
        if name == "held":
            audit.record("began", {"pid": 1})
    return audit


def decide(audit: Audit, name: str, decision: str = "allowed") -> None:
    """Put on record that one may begin, or not."""
    whose = {"session_id": "s", "principal": "uid:0", "command": f"run {name}", "cwd": "/tmp", "idempotency_key": name}
    audit.record("decision", {"execution_id": name, "decision": decision, **whose})


def conclude(audit: Audit, name: str, outcome: str, pid: int | None = None) -> None:
    """Put on record how it ended."""
    how = {"outcome": outcome, "exit_code": None if pid is None else 3, "duration": 0.25, "pid": pid}
    audit.record("outcome", {"execution_id": name, "session_id": "s", "principal": "uid:0", **how})


async def test_what_left_nothing_but_the_decision_is_lost(tmp_path):
    """Killed before its first output, in the moment before it is noted: the audit has it as begun, and not as ended."""
    audit = recorded(tmp_path, "held", "refused", "begun")
    async with opened(tmp_path) as archive:
        [begun] = await archive.newest(Wanted())
        assert (begun.id, begun.principal, begun.completion["reason"]) == ("begun", "uid:0", "lost")
        assert (begun.description["command"], begun.description["state"]) == ("run begun", "FINISHED")
        cursor = begun.log.cursor(0)
        assert list(iter(cursor.take, None)) == [Gap(1, 1, None, None), Note(2, "process.completed", begun.completion)]
        assert (await archive.find_once("uid:0", "begun")).id == "begun"
    async with opened(tmp_path) as archive:
        assert len(await archive.newest(Wanted())) == 1
    audit.close({})


async def test_what_had_ended_in_the_moment_of_a_crash_is_known(tmp_path):
    """What left no files, and what was dropped without having run, ended as the audit says; nothing of it is lost."""
    audit = recorded(tmp_path, "held", "brief")
    conclude(audit, "held", "cancelled")
    conclude(audit, "brief", "exited", pid=77)
    conclude(audit, "foreign", "no such reason")
    async with opened(tmp_path) as archive:
        held, brief = await only(archive, "held"), await only(archive, "brief")
        assert (held.completion["reason"], held.description["command"]) == ("cancelled", "run held")
        assert (held.description["pid"], held.description["started_at"]) == (None, None)
        assert (brief.completion["reason"], brief.completion["exit_code"], brief.description["pid"]) == (
            "exited",
            3,
            77,
        )
        assert brief.description["started_at"] < brief.description["finished_at"]
        assert [(await archive.evidence.verify(name, None))["verdict"] for name in ("held", "brief")] == [
            "verified"
        ] * 2
        assert await archive.find("foreign") == []
    audit.close({})


async def test_what_is_no_file_keeps_nobody_from_starting(tmp_path, until):
    """Something else in the place of an audit or of receipts: nobody waits for what will never be read."""
    directory = tmp_path / "state"
    await killed(directory, "one")
    for what, name in (("audit", "audit-0000000000000001.jsonl"), ("receipts", "receipts-0000000000000009.jsonl")):
        (directory / what).mkdir()
        os.mkfifo(directory / what / name)
    async with opened(directory) as archive:
        assert (await only(archive, "one")).completion["reason"] == "lost"
        await until(lambda: "is no plain file" in archive.notary.problem)


async def test_a_history_that_was_removed_is_not_made_again_from_an_audit_that_has_ended(tmp_path):
    """Nothing is missing from it then that anybody has not taken away."""
    audit = recorded(tmp_path, "brief")
    conclude(audit, "brief", "exited", pid=77)
    audit.close({})
    async with opened(tmp_path) as archive:
        assert await archive.newest(Wanted()) == []


async def test_the_end_is_told_whatever_is_left(tmp_path, until):
    """Also of what wrote nothing and has no files, and of what has lost them."""
    async with opened(tmp_path) as archive:
        Run(archive, "silent").start().finish()
        Run(archive, "loud").start().write(b"hello\n").finish()
        await until(lambda: archive.is_settled)
        shutil.rmtree(tmp_path / "output" / "loud")
    assert not (tmp_path / "output" / "silent").exists()
    async with opened(tmp_path) as archive:
        silent, loud = [(await only(archive, name)).log.cursor(0) for name in ("silent", "loud")]
        assert [each.method for each in iter(silent.take, None)] == ["process.started", "process.completed"]
        gap, end = iter(loud.take, None)
        assert (gap.from_seq, gap.to_seq, end.method) == (1, 2, "process.completed")


async def test_recovering_twice_changes_nothing(tmp_path):
    """A daemon that dies while it starts leaves the next one the same."""
    directory = tmp_path / "state"
    await killed(directory, "one")
    history = (directory / "history.db").read_bytes(), (directory / "history.db-wal").read_bytes()
    async with opened(directory):
        pass
    journal = (directory / "output" / "one" / "journal").read_bytes()
    (directory / "history.db").write_bytes(history[0])
    (directory / "history.db-wal").write_bytes(history[1])
    (directory / "history.db-shm").unlink(missing_ok=True)
    async with opened(directory) as archive:
        assert (await only(archive, "one")).completion["reason"] == "lost"
    assert (directory / "output" / "one" / "journal").read_bytes() == journal


async def test_an_end_that_only_the_log_knows(tmp_path, monkeypatch):
    """Killed between the last entry and the transaction: it ended as its log says."""
    monkeypatch.setattr(archive_module, "GATHER", 3600.0)
    living, directory = tmp_path / "living", tmp_path / "state"
    async with opened(living) as archive:
        Run(archive, "one").start().write(b"hello\n").finish()
        Run(archive, "two").start().write(b"hel")
        shutil.copytree(living, directory)
    async with opened(directory) as archive:
        one, two = await only(archive, "one"), await only(archive, "two")
        assert (one.completion["reason"], one.completion["exit_code"]) == ("exited", 3)
        assert one.description["agent"] == one.completion["agent"]
        assert (two.completion["reason"], two.completion["exit_code"]) == ("lost", None)
        assert (output_of(one), output_of(two)) == (b"hello\n", b"hel")
        assert one.description["command"] == "echo one"
        assert one.description["started_at"] == two.description["started_at"] == STARTED
        assert two.completion["duration"] > 1.0


DAMAGES = (
    "no journal",
    "empty journal",
    "half a line",
    "no output",
    "no directory",
    "a file",
    "a pipe",
    "a pipe for output",
    "a loop",
    "foreign",
)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_is_left_in_pieces(tmp_path, damage):
    """Whatever a crash or somebody has left: it is lost, the others are there, and the daemon comes up."""
    directory = tmp_path / "state"
    await killed(directory, "one", "two")
    one = directory / "output" / "one"
    match damage:
        case "no journal":
            (one / "journal").unlink()
        case "empty journal":
            (one / "journal").write_bytes(b"")
        case "half a line":
            with (one / "journal").open("ab") as file:
                file.write(b'{"seq":3,"count":1,"stream":"stdout","off' + b"x" * 1000)
        case "no output":
            (one / "stdout").unlink()
        case "no directory":
            shutil.rmtree(one)
        case "a file":
            shutil.rmtree(one)
            one.touch()
        case "a pipe":
            (one / "journal").unlink()
            os.mkfifo(one / "journal")
        case "a pipe for output":
            (one / "stdout").unlink()
            os.mkfifo(one / "stdout")
        case "a loop":
            (one / "journal").unlink()
            (one / "journal").symlink_to("journal")
        case "foreign":
            (directory / "output" / "lost+found").mkdir()
            (directory / "output" / "note").write_text("mine")
            (directory / "output" / os.fsdecode(b"\xff")).mkdir()
    async with opened(directory) as archive:
        assert (await only(archive, "one")).completion["reason"] == "lost"
        assert output_of(await only(archive, "two")) == b"hello\nhalf a line"
        is_whole = damage in ("half a line", "foreign")
        assert (output_of(await only(archive, "one")) == b"hello\nhalf a line") is is_whole
        assert len(await archive.newest(Wanted())) == 2


async def test_a_damaged_history_is_made_again_from_the_logs(tmp_path):
    """What has finished as it was, by what its log says."""
    async with opened(tmp_path) as archive:
        Run(archive, "one").start().write(b"hello\n").finish()
    (tmp_path / "history.db").write_bytes(b"garbage" * 1000)
    async with opened(tmp_path) as archive:
        one = await only(archive, "one")
        assert (one.completion["exit_code"], output_of(one)) == (3, b"hello\n")
    assert list(tmp_path.glob("history.db.damaged-*"))


async def test_a_history_that_fails_is_told_and_tried_again(tmp_path, monkeypatch, until):
    """What could not be written is written later; who asks meanwhile is told that it cannot be told."""
    monkeypatch.setattr(archive_module, "RETRY", 0.01)
    (tmp_path / "history.db").mkdir()
    async with opened(tmp_path) as archive:
        assert "history.db" in archive.problems["the history is not kept"]
        Run(archive, "one").start().write(b"hello\n").finish()
        for question in (archive.find("one"), archive.find_once("uid 0", "k"), archive.newest(Wanted())):
            with pytest.raises(HistoryUnavailableError):
                await question
        (tmp_path / "history.db").rmdir()
        await until(lambda: not archive.problems)
        assert output_of(await only(archive, "one")) == b"hello\n"


async def test_what_a_failure_has_left_is_handed_in_at_the_end(tmp_path, monkeypatch, until):
    """In steps, and before the end is noted: while the daemon lives, and when it stops in the middle of it."""
    disk = Disk(monkeypatch)
    async with opened(tmp_path) as archive:
        for name in ("one", "two"):
            disk.left = 0
            run = Run(archive, name).start()
            for _ in range(1000):
                run.write(b"hello\n")
            disk.left = None
            run.finish()
            assert not archive.is_settled
            if name == "one":
                await until(lambda: archive.is_settled)
                assert output_of(await only(archive, "one")) == b"hello\n" * 1000
    async with opened(tmp_path) as archive:
        assert output_of(await only(archive, "two")) == b"hello\n" * 1000
        assert_counts(archive.spool.used_bytes, tmp_path / "output")


async def test_a_machine_without_another_thread_is_told_and_tried_again(tmp_path, monkeypatch, until):
    """The daemon lives on; what could not be written is written when there is one."""
    monkeypatch.setattr(archive_module, "RETRY", 0.01)

    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async with opened(tmp_path) as archive:
        with monkeypatch.context() as exhausted:
            exhausted.setattr(trio.to_thread, "run_sync", refuse)
            Run(archive, "one").start().write(b"hello\n").finish()
            await until(lambda: "new thread" in archive.problems.get("the history is not kept", ""))
            with pytest.raises(HistoryUnavailableError):
                await archive.find("one")
        await until(lambda: not archive.problems and archive.is_settled)
        assert output_of(await only(archive, "one")) == b"hello\n"


async def test_a_key_is_found_with_its_execution(tmp_path, until):
    """The principal's own, finished, the newest; what its journal alone knows of, after a crash, too."""
    async with opened(tmp_path) as archive:
        run = Run(archive, "one")
        archive.note("one", lambda: attrs.evolve(run.record(), idempotency_key="k", fingerprint="f"))
        await until(lambda: archive.is_settled)
        assert await archive.find_once("uid 0", "k") is None
        run.start().finish()
        archive.note("one", lambda: attrs.evolve(run.record(), idempotency_key="k", fingerprint="f"))
        await until(lambda: archive.is_settled)
        found = await archive.find_once("uid 0", "k")
        assert found is not None
        assert (found.id, found.fingerprint) == ("one", "f")
        assert await archive.find_once("uid 1", "k") is None
        told = description("two") | {ONCE: ["l", "g"]}
        OutputLog(1 << 20, archive.begin("two", told)).note("process.started", {"pid": 77, "pgid": 77})
    async with opened(tmp_path) as archive:
        lost = await archive.find_once("uid 0", "l")
        assert lost is not None
        assert (lost.id, lost.fingerprint, lost.completion["reason"]) == ("two", "g", "lost")
        assert ONCE not in lost.description


async def test_a_locked_history_delays_nobody(tmp_path, monkeypatch, until):
    """Somebody holds it in a database shell: output goes on, and the record follows."""
    monkeypatch.setattr("ccexecd.storage.history.BUSY", 0.05)
    monkeypatch.setattr(archive_module, "RETRY", 0.01)
    async with opened(tmp_path) as archive:
        other = sqlite3.connect(tmp_path / "history.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        run = Run(archive, "one").start()
        await until(lambda: "locked" in archive.problems.get("the history is not kept", ""))
        run.write(b"hello\n").finish()
        other.execute("ROLLBACK")
        other.close()
        await until(lambda: not archive.problems and archive.is_settled)
        assert output_of(await only(archive, "one")) == b"hello\n"


async def test_who_asks_does_not_wait_for_who_writes(tmp_path, monkeypatch, until):
    """Somebody holds the history, and what is to be written waits for that; what is in it can be told."""
    monkeypatch.setattr("ccexecd.storage.history.BUSY", 3600.0)
    async with opened(tmp_path) as archive:
        Run(archive, "one").start().finish()
        await until(lambda: archive.is_settled)
        other = sqlite3.connect(tmp_path / "history.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        Run(archive, "two").start().finish()
        await until(lambda: archive._is_writing)
        with trio.fail_after(10):
            assert (await only(archive, "one")).completion["exit_code"] == 3
            assert [each.id for each in await archive.newest(Wanted())] == ["one"]
        assert archive._is_writing
        other.execute("ROLLBACK")
        other.close()


async def test_a_question_that_fails_is_told_and_taken_back(tmp_path, monkeypatch, until):
    """Nothing is to be written, and yet it is found out when the history is well again."""
    monkeypatch.setattr(archive_module, "RETRY", 0.01)
    async with opened(tmp_path) as archive:
        Run(archive, "one").start().finish()
        await until(lambda: archive.is_settled)
        (tmp_path / "history.db").rename(tmp_path / "elsewhere")
        with pytest.raises(HistoryUnavailableError):
            await archive.find("one")
        assert archive.problems
        (tmp_path / "elsewhere").rename(tmp_path / "history.db")
        await until(lambda: not archive.problems)
        assert (await only(archive, "one")).completion["exit_code"] == 3


async def test_a_history_that_is_locked_at_the_start_is_completed_later(tmp_path, until, monkeypatch):
    """What ran is known as lost, and what is kept is counted, once whoever had it has let go."""
    monkeypatch.setattr("ccexecd.storage.history.BUSY", 0.05)
    monkeypatch.setattr(archive_module, "RETRY", 0.01)
    directory = tmp_path / "state"
    await killed(directory, "one")
    other = sqlite3.connect(directory / "history.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with opened(directory) as archive:
        assert "locked" in archive.problems["the history is not kept"]
        mine = Run(archive, "mine").start().write(b"mine\n")
        other.execute("ROLLBACK")
        other.close()
        await until(lambda: not archive.problems and archive.is_settled)
        assert (await only(archive, "one")).completion["reason"] == "lost"
        assert await archive.find("mine") == []  # it runs
        mine.finish()
        await until(lambda: archive.is_settled)
        assert (await only(archive, "mine")).completion["reason"] == "exited"
        assert archive.spool.used_bytes > mine.store.held_bytes


async def test_a_history_that_is_damaged_inside_is_made_again(tmp_path, until, monkeypatch):
    """Its first page is well, so it opens; what is asked of it tells."""
    monkeypatch.setattr(archive_module, "RETRY", 0.01)
    async with opened(tmp_path) as archive:
        for number in range(60):
            Run(archive, f"e{number}").start().write(b"hello\n").finish()
        await until(lambda: archive.is_settled)
    with (tmp_path / "history.db").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(8192)
        file.write(b"\xa5" * (size - 8192))
    async with opened(tmp_path) as archive:
        await until(lambda: not archive.problems)
        assert len(await archive.newest(Wanted())) == 60
        assert output_of(await only(archive, "e7")) == b"hello\n"
    assert list(tmp_path.glob("history.db.damaged-*"))


@pytest.mark.parametrize("found_by", ["a question", "a change"])
async def test_damage_that_is_found_while_it_runs_is_put_aside(tmp_path, until, monkeypatch, found_by):
    """By whoever comes across it; what has finished is there again, what runs goes on and is noted when it ends."""
    monkeypatch.setattr(archive_module, "RETRY", 0.01)
    async with opened(tmp_path) as archive:
        running = Run(archive, "running").start().write(b"hel")
        for number in range(60):
            Run(archive, f"e{number}").start().write(b"hello\n").finish()
        await until(lambda: archive.is_settled)
        used = archive.spool.used_bytes
        sqlite3.connect(tmp_path / "history.db").execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with (tmp_path / "history.db").open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(8192)
            file.write(b"\xa5" * (size - 8192))
        if found_by == "a question":
            with pytest.raises(HistoryUnavailableError):
                await archive.newest(Wanted())
        else:
            Run(archive, "last").start().write(b"hello\n").finish()
        await until(lambda: list(tmp_path.glob("history.db.damaged-*")))
        await until(lambda: not archive.problems and archive.is_settled)
        assert output_of(await only(archive, "e7")) == b"hello\n"
        assert len(await archive.newest(Wanted())) == 60 + (found_by == "a change")
        assert archive.spool.used_bytes - used < 20_000  # nothing is counted twice
        running.write(b"lo\n").finish()
        await until(lambda: archive.is_settled)
        assert output_of(await only(archive, "running")) == b"hello\n"
        assert (await only(archive, "running")).completion["reason"] == "exited"


@pytest.mark.parametrize("head", [b"{}", b'{"execution_id": "one"}', b"[]", b"5"])
async def test_a_log_that_is_none_keeps_nobody_from_starting(tmp_path, head):
    """A first line that is whole and says nothing: the others are there."""
    directory = tmp_path / "state"
    await killed(directory, "one", "two")
    first = b'{"format":1,"oldest_seq":1,"dropped_bytes":0,"dropped_lines":0,"execution":' + head + b"}\n"
    (directory / "output" / "one" / "journal").write_bytes(first)
    for path in directory.glob("history.db*"):
        path.unlink()
    async with opened(directory) as archive:
        assert [each.id for each in await archive.newest(Wanted())] == ["two"]


@pytest.mark.parametrize(
    "edited",
    [{"labels": []}, {"labels": {"a": 1}}, {"session_id": {}}, {"command": None}, {"created_at": 5}, {"once": 5}],
)
async def test_a_log_that_was_edited_keeps_nobody_from_starting(tmp_path, edited):
    """What its first line says is of no type that is ours: the others are there, and the history is kept."""
    directory = tmp_path / "state"
    await killed(directory, "one", "two")
    edit(directory / "output" / "one" / "journal", edited)
    for path in directory.glob("history.db*"):
        path.unlink()
    async with opened(directory) as archive:
        assert [each.id for each in await archive.newest(Wanted())] == ["two"]
        assert not archive.problems


async def test_a_log_that_was_edited_is_passed_over_when_the_history_is_made_again(tmp_path):
    """While a daemon runs, too: it goes on."""
    async with opened(tmp_path) as archive:
        for name in ("one", "two"):
            Run(archive, name).start().write(b"hello\n").finish()
    edit(tmp_path / "output" / "one" / "journal", {"created_at": 5})
    history = History(tmp_path / "another.db")
    history.open()
    left = LeftBehind(history, archive.spool, tmp_path / "audit")
    assert [record.id for record in left.finished_before(set())] == ["two"]
    history.close()


def edit(file: Path, changes: dict[str, object]) -> None:
    """Change the description in the first line of a journal."""
    first, _, rest = file.read_bytes().partition(b"\n")
    known = json.loads(first)["execution"] | changes
    file.write_bytes(journal.head(journal.Account(), known) + rest)


async def test_output_goes_when_it_is_due_and_its_execution_stays_known(tmp_path, until):
    """By the total: the files and the record agree, here and for the next daemon."""
    keeping = attrs.evolve(KEEPING, total_bytes=250_000)
    async with opened(tmp_path, keeping) as archive:
        for number in range(5):
            Run(archive, f"e{number}").start().write(b"x" * 99_999 + b"\n").finish()
            await until(lambda: archive.is_settled)
        await until(lambda: archive.spool.ids() == {"e3", "e4"})
        old = await only(archive, "e0")
        assert (old.completion["exit_code"], output_of(old)) == (3, b"")
        assert old.description["oldest_seq"] == old.log.oldest_seq == old.log.next_seq - 1 == 4
        assert old.description["dropped_bytes"] == old.log.dropped_bytes == 100_000
        assert len(output_of(await only(archive, "e4"))) == 100_000
        assert archive.spool.used_bytes <= 250_000
    async with opened(tmp_path, keeping) as archive:
        assert output_of(await only(archive, "e0")) == b""
        assert archive.spool.ids() == {"e3", "e4"}
        removed = await only(archive, "e3")
        assert removed.looked_up == removed.description
        assert_counts(archive.spool.used_bytes, tmp_path / "output")
        shutil.rmtree(tmp_path / "output" / "e3")
        removed = await only(archive, "e3")
        assert (removed.description["oldest_seq"], removed.description["dropped_bytes"]) == (1, 0)
        assert (removed.looked_up["oldest_seq"], removed.looked_up["dropped_bytes"]) == (4, 100_000)


async def test_what_is_old_is_forgotten(tmp_path, until):
    """First its output, by its age, then that there was one."""
    keeping = attrs.evolve(KEEPING, output_seconds=100.0, history_seconds=1000.0)
    now = time.time()
    async with opened(tmp_path, keeping) as archive:
        for name, age in (("ancient", 5000.0), ("old", 500.0), ("new", 10.0)):
            Run(archive, name).start().write(b"x\n").finish(now - age)
        await until(lambda: archive.is_settled)
    shutil.copytree(tmp_path, tmp_path / "later")
    async with opened(tmp_path / "later", keeping) as archive:
        await until(lambda: archive.spool.ids() == {"new"})
        assert await archive.find("ancient") == []
        assert output_of(await only(archive, "old")) == b""
        assert output_of(await only(archive, "new")) == b"x\n"


async def test_what_becomes_old_goes_while_nothing_happens(tmp_path, until, monkeypatch):
    """Nothing but time passes: its output is removed, then it is forgotten; and a daemon's limits may change."""
    keeping = attrs.evolve(KEEPING, output_seconds=0.2, history_seconds=0.4)
    async with opened(tmp_path, keeping) as archive:
        Run(archive, "one").start().write(b"x\n").finish()
        await until(lambda: archive.is_settled)
        await until(lambda: archive.spool.ids() == set() and archive.is_settled)
        with trio.fail_after(10):
            while await archive.find("one"):
                await trio.sleep(0.01)
        archive.retain(KEEPING)
        Run(archive, "two").start().write(b"x\n").finish(time.time() - 1000.0)
        await until(lambda: archive.is_settled)
        assert archive.spool.ids() == {"two"}
        archive.retain(keeping)
        await until(lambda: archive.spool.ids() == set())


async def test_what_has_no_output_is_forgotten_too(tmp_path, until):
    """No output is kept at all, so none is ever removed: what is old goes by itself."""
    keeping = attrs.evolve(KEEPING, execution_bytes=0, history_seconds=100.0)
    async with opened(tmp_path, keeping) as archive:
        for name, age in (("old", 1000.0), ("new", 0.0)):
            Run(archive, name).start().write(b"x\n").finish(time.time() - age)
            await until(lambda: archive.is_settled)
        assert [each.id for each in await archive.newest(Wanted())] == ["new"]


async def test_sessions_are_kept(tmp_path):
    """With whose they were, and how they ended."""
    ended_at = time.time()
    async with opened(tmp_path) as archive:
        archive.note_session(SessionRecord("s", "uid 0", 1.0))
        archive.note_session(SessionRecord("s", "uid 0", 1.0, ended_at, "closed"))
    rows = sqlite3.connect(tmp_path / "history.db").execute("SELECT * FROM sessions").fetchall()
    assert rows == [("s", "uid 0", 1.0, ended_at, "closed")]


async def test_nothing_runs_while_nothing_happens(tmp_path):
    """No thread is waiting for work, and no task wakes up."""
    async with opened(tmp_path) as archive:
        Run(archive, "one").start().finish()
        with trio.fail_after(10):
            while not archive.is_settled:
                await trio.sleep(0.005)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline > 1000.0


async def test_the_files_are_private(tmp_path):
    """Command lines and output are nobody else's business, whatever the umask."""
    before = os.umask(0)
    try:
        async with opened(tmp_path / "state") as archive:
            Run(archive, "one").start().write(b"secret\n").finish()
    finally:
        os.umask(before)
    assert (tmp_path / "state" / "history.db").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / "output").stat().st_mode & 0o077 == 0


def receipt_of(archive: Archive, number: int) -> dict[str, object]:
    """What the receipt of a number tells."""
    return json.loads(archive.notary.receipts.find(number).record)


async def attested(archive: Archive, name: str) -> dict[str, object]:
    """What the receipt of an execution tells, once there is one."""
    document = await archive.evidence.receipt(name)
    assert document is not None
    return document["receipt"]


async def test_what_has_ended_has_a_receipt_in_the_same_moment(tmp_path, until):
    """One signature for all that have ended; the history knows their numbers."""
    async with opened(tmp_path) as archive:
        for number in range(5):
            Run(archive, f"e{number}").start().write(b"hello\n").finish()
        await until(lambda: archive.is_settled)
        numbers = [(await attested(archive, f"e{number}"))["n"] for number in range(5)]
        assert numbers == [2, 3, 4, 5, 6]
        assert archive.notary.receipts.head.n == 7
    assert {path.name for path in (tmp_path / "receipts").iterdir()} == {
        "key.pem",
        "key.pub",
        "receipts-0000000000000001.jsonl",
    }


async def test_what_ran_when_it_died_gets_a_receipt_that_says_so(tmp_path):
    """From its successor; so does what had ended and had none yet."""
    directory = tmp_path / "state"
    await killed(directory, "one")
    with sqlite3.connect(directory / "history.db") as db:
        kept = "session_id, principal, created_at, duration, command"
        made = "replace(description, 'one', 'two') AS description, '{}' AS completion"
        ended = "? AS finished_at, 'exited' AS reason, 0 AS exit_code, 0 AS output_bytes"
        names = f"number, id, {kept}, description, completion, finished_at, reason, exit_code, output_bytes"
        row = f"SELECT 9, 'two', {kept}, {made}, {ended} FROM executions"
        db.execute(f"INSERT INTO executions ({names}) {row}", [time.time()])
    db.close()
    async with opened(directory) as archive:
        one, two = await attested(archive, "one"), await attested(archive, "two")
        assert (one["made"], one["reason"], two["made"]) == ("at recovery", "lost", "at recovery")
        assert one["output"]["stdout"]["bytes"] == 17
        assert (await archive.evidence.verify("one", None))["verified"]
    async with opened(directory) as archive:
        assert (await attested(archive, "one"))["n"] == one["n"]


async def test_no_execution_has_two_receipts(tmp_path, until):
    """Neither where the daemon was killed before the history had its number, nor where the history is made anew.

    And the history that is completed says what the receipt does.
    """
    async with opened(tmp_path) as archive:
        Run(archive, "one").start().write(b"hello\n").finish()
        before = await attested(archive, "one")
        os.utime(tmp_path / "output" / "one" / "journal", (1.0, 1.0))  # which is all that a log has of its end
        os.utime(tmp_path / "output" / "one" / "stdout", (1.0, 1.0))
    with sqlite3.connect(tmp_path / "history.db") as db:
        db.execute("UPDATE executions SET receipt = NULL, finished_at = NULL")
    db.close()
    async with opened(tmp_path) as archive:
        await until(lambda: archive.is_settled)
        assert await attested(archive, "one") == before
        assert (await archive.evidence.verify("one", None))["verified"]
    (tmp_path / "history.db").unlink()
    async with opened(tmp_path) as archive:
        await until(lambda: archive.is_settled)
        assert await attested(archive, "one") == before
        assert (await archive.evidence.verify("one", None))["verified"]


async def test_what_left_no_log_is_known_by_its_receipt(tmp_path, until):
    """The daemon was killed between the receipt and the history: the audit knows less of it."""
    async with opened(tmp_path) as archive:
        Run(archive, "one").start().finish()
        before = await attested(archive, "one")
    audit = recorded(tmp_path, "one")
    conclude(audit, "one", "exited", pid=77)
    for file in tmp_path.glob("history.db*"):
        file.unlink()
    async with opened(tmp_path) as archive:
        await until(lambda: archive.is_settled)
        assert await attested(archive, "one") == before
        assert (await only(archive, "one")).description["command"] == before["command"] == "echo one"
        shown = await archive.evidence.verify("one", None)
        assert shown["verified"], shown["findings"]
    audit.close({})


def parts_of(db: sqlite3.Connection, kind: str) -> set[str]:
    """The columns of the executions in a history, or its indexes."""
    query = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    return {
        name for (name,) in db.execute(query if kind == "index" else "SELECT name FROM pragma_table_info('executions')")
    }


async def test_what_is_older_than_receipts_gets_none(tmp_path):
    """A history of an earlier version is not attested after the fact."""
    History(tmp_path / "history.db", MIGRATIONS[:2]).open()
    async with opened(tmp_path) as archive:
        Run(archive, "one").start().finish()
        await attested(archive, "one")
    path = tmp_path / "history.db"
    with sqlite3.connect(path) as db, sqlite3.connect(":memory:") as earlier:
        earlier.executescript("".join(MIGRATIONS[:2]))
        for kind, drop in (("index", "DROP INDEX"), ("column", "ALTER TABLE executions DROP COLUMN")):
            for name in parts_of(db, kind) - parts_of(earlier, kind):
                db.execute(f"{drop} {name}")
        db.execute("PRAGMA user_version = 2")
    earlier.close()
    db.close()
    async with opened(tmp_path) as archive:
        assert await archive.evidence.receipt("one") is None
        assert (await archive.evidence.verify("one", None))["verdict"] == "missing"


async def test_receipts_wait_for_a_history_that_cannot_be_written(tmp_path, monkeypatch, until):
    """And are not written twice when it can."""
    monkeypatch.setattr(archive_module, "RETRY", 0.01)
    async with opened(tmp_path) as archive:
        await until(lambda: archive.is_settled)
        write, failures = archive._history.write, []

        def fails(*words: object) -> None:
            failures.append(words)
            if len(failures) < 3:
                raise sqlite3.OperationalError("disk I/O error")
            write(*words)

        archive._history.write = fails
        monkeypatch.setattr(notary, "BUDGET", 4096)  # so that it is still being digested meanwhile
        Run(archive, "one").start().write(b"x" * 20_000).finish()
        await until(lambda: len(failures) >= 3 and archive.is_settled)
        number = (await attested(archive, "one"))["n"]
        assert receipt_of(archive, number)["execution_id"] == "one"
        assert (number, archive.notary.receipts.head.n) == (2, 3)  # after `began` and before `signed`
