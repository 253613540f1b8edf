"""All output on disk: what it takes together, and what goes first."""

import errno
import os

import attrs
import pytest

from ccexecd.core.framing import Piece
from ccexecd.core.output import OutputLog
from ccexecd.storage import spool as spool_module
from ccexecd.storage import stored_log
from ccexecd.storage.spool import LARGEST_TOTAL, LEAST_SHARE, READ_AT_A_TIME, SHARE, Retention, Spool

from .disk import Disk, assert_counts, descriptors

KEEPING = Retention(execution_bytes=1 << 30, total_bytes=100_000, output_seconds=1000.0, history_seconds=1e9)


class Stage:
    """A spool, and how often it said that it holds too much."""

    def __init__(self, root, retention: Retention = KEEPING) -> None:
        self.excesses = 0
        self.spool = Spool(root / "output", retention, self._count)

    def _count(self) -> None:
        self.excesses += 1

    def fill(self, name: str, size: int) -> OutputLog:
        """A log that holds that much output."""
        store = self.spool.begin(name, {"execution_id": name})
        log = OutputLog(1, store)
        log.extend("stdout", b"x" * size, [Piece(b"x" * size)])
        return log

    def finish(self, name: str, size: int, moment: float = 0.0) -> None:
        """One that has finished, with that much output."""
        log = self.fill(name, size)
        held = log._store.disk_bytes
        log.close()
        self.spool.finished(name, moment, held)


@pytest.fixture
def stage(tmp_path):
    """An empty spool of 100 kB."""
    return Stage(tmp_path)


def test_what_is_kept_is_counted(stage):
    """Output and journals, of those that run and of those that have finished."""
    stage.fill("a", 10_000)
    stage.finish("b", 20_000)
    assert_counts(stage.spool.used_bytes, stage.spool.root)
    assert stage.spool.ids() == {"a", "b"}


def test_little_output_takes_blocks(stage):
    """A file takes a block, and a directory too, however little is in it: a thousand small ones are no small matter."""
    for number in range(10):
        stage.finish(f"e{number}", 5, moment=float(number))
    assert_counts(stage.spool.used_bytes, stage.spool.root)
    stage.spool.remove(stage.spool.due(10.0))
    assert 0 < len(stage.spool.ids()) < 10
    assert_counts(stage.spool.used_bytes, stage.spool.root)
    assert stage.spool.used_bytes <= stage.spool.total_bytes


def test_the_one_that_finished_first_goes_first(stage):
    """As many as it takes, and no more; it is told as soon as there is too much."""
    stage.spool.retain(attrs.evolve(KEEPING, total_bytes=200_000))
    for number in range(4):
        stage.finish(f"e{number}", 20_000, moment=float(number))
    assert (stage.excesses, stage.spool.due(10.0)) == (0, [])
    stage.fill("running", 120_000)
    assert stage.excesses > 0
    gone = stage.spool.due(10.0)
    assert gone == ["e0", "e1"]
    assert stage.spool.used_bytes <= 200_000
    assert stage.spool.gone_bytes > 40_000
    stage.spool.remove(gone)
    assert stage.spool.ids() == {"e2", "e3", "running"}
    assert_counts(stage.spool.used_bytes, stage.spool.root)


def test_what_is_old_goes(stage):
    """Counted from the end of the execution."""
    stage.finish("old", 10, moment=100.0)
    stage.finish("new", 10, moment=200.0)
    assert stage.spool.due(1100.0) == []
    assert stage.spool.due(1100.1) == ["old"]


def test_what_an_earlier_daemon_kept_goes_first(stage):
    """It counts, and it is older than everything of this daemon."""
    stage.finish("mine", 10_000, moment=50.0)
    stage.spool.inherit([("x", 10.0, 60_000), ("y", 20.0, 60_000)])
    assert stage.spool.used_bytes > 130_000
    assert stage.spool.due(60.0) == ["x"]


def test_those_that_run_share_what_there_is(tmp_path):
    """With nothing finished to give up, each keeps its share of the total, the newest of its output."""
    stage = Stage(tmp_path, Retention(1 << 30, 4 * LEAST_SHARE, 1e9, 1e9))
    logs = [stage.fill(f"e{number}", 1000) for number in range(2)]
    for _ in range(80):
        logs[0].extend("stdout", b"x" * 65536, [Piece(b"x" * 65536)])
    assert stage.spool.used_bytes <= 4 * LEAST_SHARE + 65536 + 200
    assert logs[0]._store.held_bytes > 2 * LEAST_SHARE
    logs[1].extend("stdout", b"y", [Piece(b"y")])
    assert logs[1].oldest_seq == 1  # it takes less than its share


def test_output_that_is_gone_is_a_gap(stage):
    """For a watcher that is in the middle of it, and for one that comes."""
    log = stage.fill("a", 1000)
    log.extend("stdout", b"last", [Piece(b"last")])
    log.close()
    stage.spool.finished("a", 0.0, 1000)
    early = log.cursor(0)
    stage.spool.remove(stage.spool.due(1e9))
    assert log.oldest_seq == 2
    gap, last = early.take(), early.take()
    assert (gap.from_seq, gap.to_seq) == (1, 1)
    assert last.piece.text == b"last"


def test_the_past_takes_few_descriptors(stage):
    """However many watch it at a time, each at its own place; every one of them sees all of it."""
    count = 5 * READ_AT_A_TIME
    logs = []
    for number in range(count):
        log = stage.fill(f"e{number}", 10)
        log.extend("stderr", b"%d" % number, [Piece(b"%d" % number)])
        log.note("process.completed", {})
        logs.append(log)
    cursors = [log.cursor(0) for log in logs]
    living = [cursor.take() for cursor in cursors]
    for log in logs:
        log.close()
    before = descriptors()
    for cursor in cursors:
        cursor.close()
    idle = descriptors()
    assert before - idle <= 3 * READ_AT_A_TIME
    seen = [[log.cursor(0)] for log in logs]
    for _ in range(2):
        for each in seen:
            each.append(each[0].take())
            assert descriptors() - idle <= 3 * READ_AT_A_TIME
    assert [each[1] for each in seen] == living
    assert [each[2].piece.text for each in seen] == [b"%d" % number for number in range(count)]
    for cursor, *_ in seen:
        cursor.close()
    assert descriptors() == idle


def test_nothing_is_kept_where_nothing_may_be(tmp_path):
    """No directory is made."""
    stage = Stage(tmp_path, Retention(0, None, 1e9, 1e9))
    assert stage.spool.begin("a", {}) is None
    assert stage.spool.ids() == set()
    assert not list(tmp_path.iterdir())


def test_a_total_that_nobody_named_is_a_share_of_the_file_system(tmp_path, monkeypatch):
    """A tenth of it, and no more than 10 GiB."""

    def total() -> int:
        return Stage(tmp_path, Retention(1, None, 1.0, 1.0)).spool.total_bytes

    system = os.statvfs(tmp_path)
    assert total() == min(LARGEST_TOTAL, int(system.f_blocks * system.f_frsize * SHARE))
    monkeypatch.setattr(spool_module, "SHARE", 1e-6)
    assert total() == int(system.f_blocks * system.f_frsize * 1e-6)


def test_what_fails_is_told_until_something_works(stage, monkeypatch):
    """Of any of them; also when the one that failed has ended since."""
    disk = Disk(monkeypatch)
    one, two = stage.fill("a", 10), stage.fill("b", 10)
    disk.left = 0
    one.extend("stdout", b"x", [Piece(b"x")])
    assert "No space left on device" in stage.spool.problem
    disk.left = None
    two.extend("stdout", b"x", [Piece(b"x")])
    assert stage.spool.problem  # what fails may fail by itself
    one.extend("stdout", b"x", [Piece(b"x")])
    assert not stage.spool.problem
    disk.left = 0
    one.extend("stdout", b"x", [Piece(b"x")])
    one.close()
    two.close()
    assert stage.spool.problem
    disk.left = None
    stage.fill("c", 10)
    assert not stage.spool.problem


def test_a_directory_that_cannot_be_listed_raises(stage, tmp_path):
    """Whoever asks decides what that means."""
    (tmp_path / "output").symlink_to("output")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        stage.spool.ids()


def test_a_file_in_the_place_of_the_directory_is_a_problem_of_the_output(stage, tmp_path):
    """Nothing is in it, and nothing can be: it is told before the first execution finds that out."""
    (tmp_path / "output").touch()
    assert stage.spool.ids() == set()
    assert stage.spool.problem == f"cannot keep output in {tmp_path / 'output'}: Not a directory"
    (tmp_path / "output").unlink()
    stage.fill("a", 10)
    assert not stage.spool.problem


def test_a_file_that_cannot_be_made_is_no_failure_of_the_execution(tmp_path):
    """It runs with its window alone."""
    (tmp_path / "output").touch()
    stage = Stage(tmp_path)
    log = stage.fill("a", 10)
    assert stage.spool.problem
    assert log.oldest_seq == 1
    assert stored_log.RETRY > 0
