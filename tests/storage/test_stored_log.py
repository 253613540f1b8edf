"""A log on disk behind its window: against a model that keeps everything, with a disk that fails, and read again."""

import errno
import itertools
import os
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from ccexecd.core import output
from ccexecd.core.cursor import Cursor
from ccexecd.core.entries import ENTRY_OVERHEAD, Chunk, Gap, Note
from ccexecd.core.framing import PIECE, Framer, Piece
from ccexecd.core.output import STEP, OutputLog
from ccexecd.storage import journal, log_files, stored_log
from ccexecd.storage.deferred_writes import STEP_BYTES
from ccexecd.storage.journal import BLOCK, Account, JournalError
from ccexecd.storage.stored_log import StoredLog

from .disk import Disk, Room, descriptors

HUGE = 1 << 30

EXECUTION = {"execution_id": "one"}


@pytest.fixture
def disk(monkeypatch):
    """A disk that can be told to fail."""
    return Disk(monkeypatch)


@pytest.fixture
def room():
    """What it shares with others."""
    return Room()


@pytest.fixture
def store(tmp_path, room):
    """A log on disk."""
    return StoredLog(tmp_path / "output" / "one", EXECUTION, room)


def append(log: OutputLog, *texts: bytes, stream: str = "stdout") -> None:
    """Add what as many reads brought."""
    for text in texts:
        log.extend(stream, text, [Piece(text)])


END = "the end of the test"
"""The last entry of a log that is read again."""


def everything(log: OutputLog, from_seq: int = 0) -> list[Chunk | Note | Gap]:
    """All entries that a new watcher sees."""
    cursor = log.cursor(from_seq)
    try:
        return [entry for entry in iter(cursor.take, None) if not isinstance(entry, Note) or entry.method != END]
    finally:
        cursor.close()


def again(store: StoredLog) -> OutputLog:
    """The log as another daemon finds it."""
    reopened = StoredLog.reopened(store.directory, Room())
    last = list(reopened.lines(reopened.journal_bounds[0]))[-1][2]
    end = Note(last.seq + last.count, END, {})
    return OutputLog.restored(reopened, [end], {"stdout": 0, "stderr": 0}, reopened.dropped)


def test_what_has_left_the_window_is_read_from_disk(store):
    """A watcher behind the window misses nothing, and comes back into the window without a seam."""
    log = OutputLog(2 * ENTRY_OVERHEAD, store)
    slow = log.cursor(0)
    append(log, *(b"%d\n" % number for number in range(50)))
    log.note("process.paused", {"status": "paused"})
    assert log.window_seq > 40
    assert log.oldest_seq == 1
    texts = [entry.piece.text for entry in everything(log) if isinstance(entry, Chunk)]
    assert texts == [b"%d\n" % number for number in range(50)]
    assert list(iter(slow.take, None)) == everything(log)
    assert (log.dropped_bytes, log.dropped_lines) == (0, 0)
    append(log, b"more\n")
    assert slow.take() == Chunk(52, 1, "stdout", 140, Piece(b"more\n"))


def test_the_files_hold_the_bytes_as_they_came(store):
    """Whatever they are: half lines that no entry stands for yet, bytes that are no text, both streams."""
    log = OutputLog(HUGE, store)
    log.extend("stdout", b"no end of line \xff\0", [])
    assert (store.directory / "stdout").read_bytes() == b"no end of line \xff\0"
    append(log, b"x", stream="stderr")
    log.extend("stdout", b"\n", [Piece(b"no end of line \xff\0\n")])
    assert (store.directory / "stdout").read_bytes() == b"no end of line \xff\0\n"
    assert (store.directory / "stderr").read_bytes() == b"x"
    assert [entry.seq for entry in everything(again(store))] == [1, 2]


def test_nobody_else_may_read_it(store):
    """The directories are 0700, the files 0600, whatever the umask is."""
    before = os.umask(0)
    try:
        append(OutputLog(HUGE, store), b"secret")
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (store.directory, *store.directory.iterdir())}
    assert modes == {"one": "0o700", "journal": "0o600", "stdout": "0o600"}


def test_an_execution_without_output_has_no_files(store):
    """One that ends at once, that is; and who looks sees what there was."""
    log = OutputLog(HUGE, store)
    log.note("process.started", {})
    log.note("process.completed", {})
    log.close()
    assert not store.directory.exists()
    assert [entry.method for entry in everything(log)] == ["process.started", "process.completed"]


def test_a_silent_execution_that_lives_has_a_journal_only(store):
    """And no descriptor stays open when it is over."""
    before = descriptors()
    log = OutputLog(HUGE, store)
    store.prepare()
    log.note("process.started", {})
    log.close()
    assert [path.name for path in store.directory.iterdir()] == ["journal"]
    assert descriptors() == before
    assert everything(log) == [Note(1, "process.started", {})]
    assert everything(again(store)) == [Note(1, "process.started", {})]
    assert descriptors() == before


def test_the_journal_says_when_it_started(store):
    """So its files are not made before that, unless there is output."""
    started: list[str] = []
    store.started_at = lambda: started[0] if started else None
    assert not store.prepare()
    assert not store.directory.exists()
    started.append("2026-01-02T03:04:05+00:00")
    assert store.prepare()
    assert StoredLog.reopened(store.directory, Room()).execution == EXECUTION | {"started_at": started[0]}


def test_a_journal_is_never_without_what_came_before_it(store):
    """Clients know the numbers of those entries: a log found after a crash must not give them away again."""
    log = OutputLog(HUGE, store)
    log.note("process.queued", {})
    log.note("process.started", {})
    assert store.prepare()
    assert everything(again(store)) == [Note(1, "process.queued", {}), Note(2, "process.started", {})]


def test_a_full_disk_takes_all_of_a_journals_beginning_or_nothing(store, disk):
    """Nor is what stands there a journal without them, wherever the disk was full."""
    log = OutputLog(HUGE, store)
    log.note("process.started", {})
    beginning = len(journal.head(Account(), EXECUTION | {"started_at": None})) + len(
        journal.line(Note(1, "x" * 15, {}))
    )
    for room in range(beginning):
        disk.left = room
        store.prepare()
        with pytest.raises(JournalError):
            again(store)
    disk.left = beginning
    store.prepare()
    assert everything(again(store)) == [Note(1, "process.started", {})]


def test_files_stay_open_for_readers_and_no_longer(store):
    """A watcher behind the window when the execution ends reads on; the last one closes the files."""
    before = descriptors()
    log = OutputLog(ENTRY_OVERHEAD, store)
    append(log, *(b"%d" % number for number in range(10)))
    one, two = log.cursor(0), log.cursor(0)
    assert one.take() == two.take() == Chunk(1, 1, "stdout", 0, Piece(b"0"))
    log.close()
    assert descriptors() > before
    assert len(list(iter(one.take, None))) == 9
    assert descriptors() > before
    two.close()
    assert descriptors() == before


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, 3 * BLOCK])
def test_the_oldest_goes_when_it_is_too_much(tmp_path, size):
    """No more is held than may be, the file system has it back, and the account is exact; a watcher hears of it."""
    most = 40 * BLOCK
    room = Room(most)
    store = StoredLog(tmp_path / "one", EXECUTION, room)
    log = OutputLog(ENTRY_OVERHEAD, store)
    watcher = log.cursor(0)
    text = b"x" * (size - 1) + b"\n"
    for number in range(200):
        append(log, text)
        assert store.held_bytes <= most
        assert store.disk_bytes == room.used_bytes
        assert log.dropped_bytes == (log.oldest_seq - 1) * size
        assert log.dropped_lines == log.oldest_seq - 1, number
    allocated = sum(path.stat().st_blocks * 512 for path in store.directory.iterdir())
    assert allocated <= most + 4 * BLOCK
    assert (store.directory / "stdout").stat().st_size == 200 * size
    gap, *rest = iter(watcher.take, None)
    assert gap == Gap(1, log.oldest_seq - 1, log.dropped_bytes, log.dropped_lines)
    assert [entry.seq for entry in rest] == list(range(log.oldest_seq, 201))
    assert {entry.piece.text for entry in rest} == {text}
    assert everything(log)[0] == Gap(1, log.oldest_seq - 1, None, None)  # who comes late cannot know
    log.close()
    later = again(store)
    assert (later.oldest_seq, later.dropped_bytes, later.dropped_lines) == (
        log.oldest_seq,
        log.dropped_bytes,
        log.dropped_lines,
    )
    assert everything(later, log.oldest_seq) == rest


def test_a_journal_of_short_lines_is_bounded_too(tmp_path):
    """A program that writes a byte at a time fills the journal faster than the file of its output."""
    most = 40 * BLOCK
    store = StoredLog(tmp_path / "one", EXECUTION, Room(most))
    log = OutputLog(ENTRY_OVERHEAD, store)
    for _ in range(10_000):
        append(log, b"\n")
    assert store.held_bytes <= most
    assert sum(path.stat().st_blocks * 512 for path in store.directory.iterdir()) <= most + 4 * BLOCK
    assert [entry.seq for entry in everything(log, log.oldest_seq)] == list(range(log.oldest_seq, 10_001))
    middle = (log.oldest_seq + 10_000) // 2
    assert everything(again(store), middle)[0] == Chunk(middle, 1, "stdout", middle - 1, Piece(b"\n"))


def test_a_full_disk_leaves_the_window(store, disk):
    """The execution goes on; what the window has to let go meanwhile is the only loss, and is accounted for."""
    log = OutputLog(4 * (ENTRY_OVERHEAD + 4), store)
    append(log, b"one\n", b"two\n")
    disk.left = 7
    append(log, *(b"%03d\n" % number for number in range(10)))
    disk.left = None
    append(log, b"end\n")
    hole = Gap(3, 8, 24, 6)
    assert (log.dropped_bytes, log.dropped_lines) == (24, 6)
    assert [entry.seq for entry in everything(log) if isinstance(entry, Chunk)] == [1, 2, 9, 10, 11, 12, 13]
    assert everything(log)[2] == hole
    log.close()
    assert everything(again(store)) == everything(log)
    assert again(store).dropped_bytes == 24


def test_a_short_failure_loses_nothing(store, disk):
    """What the window still has is written when the disk takes it again, half lines among it."""
    log = OutputLog(HUGE, store)
    append(log, b"one\n")
    disk.left = 0
    append(log, b"two\n")
    log.extend("stdout", b"half ", [])
    disk.left = None
    log.extend("stdout", b"line\n", [Piece(b"half line\n")])
    assert (store.directory / "stdout").read_bytes() == b"one\ntwo\nhalf line\n"
    assert [entry.piece.text for entry in everything(again(store))] == [b"one\n", b"two\n", b"half line\n"]


def test_a_half_line_has_no_hole(store, disk):
    """What could not be written of it is not made up: the file ends before that, until the line is whole."""
    log = OutputLog(HUGE, store)
    append(log, b"one\n")
    disk.left = 3
    log.extend("stdout", b"AAAAAA", [])
    disk.left = None
    log.extend("stdout", b"BBBBBB", [])
    assert b"\0" not in (store.directory / "stdout").read_bytes()
    log.extend("stdout", b"\n", [Piece(b"AAAAAABBBBBB\n")])
    assert (store.directory / "stdout").read_bytes() == b"one\nAAAAAABBBBBB\n"


def test_under_bulk_output_half_lines_are_written_again(store, disk):
    """Every read ends in the middle of a line: after a failure, these are on disk at once as they were before it."""
    log, framer = OutputLog(HUGE, store), Framer("lines", HUGE)
    text = b"".join(b"line %d\n" % number for number in range(1000))
    for start in range(0, len(text), 100):
        disk.left = 0 if 2000 <= start < 3000 else None
        read = text[start : start + 100]
        log.extend("stdout", read, framer.feed(read))
        if disk.left is None:
            assert (store.directory / "stdout").read_bytes() == text[: start + 100]


def test_a_failure_is_told_and_taken_back(tmp_path, disk):
    """Why, as long as it lasts."""
    room = Room()
    log = OutputLog(HUGE, StoredLog(tmp_path / "one", EXECUTION, room))
    disk.left = 0
    append(log, b"one\n")
    assert "No space left on device" in room.problem
    disk.left = None
    append(log, b"two\n")
    assert not room.problem


def test_a_failing_disk_is_tried_once_a_second(store, room, monkeypatch):
    """And once more at the end, whenever that is."""
    tried = []

    def refuse(fd, text, at):
        tried.append(text)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = OutputLog(HUGE, store)
    append(log, b"one\n")
    monkeypatch.setattr(stored_log.os, "pwrite", refuse)
    append(log, *[b"two\n"] * 1000)
    assert len(tried) == 1
    monkeypatch.undo()
    log.close()
    while room.proceed():
        pass
    assert (store.directory / "stdout").read_bytes() == b"one\n" + b"two\n" * 1000
    assert len(everything(again(store))) == 1001


def kept(store: StoredLog) -> int:
    """How many entries another daemon would find."""
    return sum(said.count for _, _, said in StoredLog.reopened(store.directory, Room()).lines(0))


def test_what_a_failure_has_left_is_handed_in_step_by_step(store, room, disk):
    """Each of them bounded, in entries and in bytes, also where the execution has ended; nothing of it is lost."""
    log = OutputLog(HUGE, store)
    append(log, b"one\n")
    disk.left = 0
    append(log, *[b"x"] * 1000, *[b"y" * PIECE] * 40)
    disk.left = None
    append(log, b"end\n")
    ended = []
    store.when_closed(lambda: ended.append(kept(store)))
    steps, sizes = [kept(store)], [0]
    log.close()
    more = True
    while more:
        steps.append(kept(store))
        sizes.append((store.directory / "stdout").stat().st_size)
        more = room.proceed()
    assert max(after - before for before, after in pairwise(steps)) == STEP
    assert max(after - before for before, after in pairwise(sizes)) <= STEP_BYTES + PIECE
    assert ended == [1042]
    assert everything(again(store)) == everything(log)
    assert log.dropped_bytes == 0


def test_nothing_leaves_the_window_that_the_disk_would_take(store, room, disk):
    """The window is full of what a failure has left, and output goes on: that is handed in first."""
    log = OutputLog(1000 * (ENTRY_OVERHEAD + 1), store)
    disk.left = 0
    append(log, *[b"x"] * 1000)
    disk.left = None
    append(log, *[b"y" * 1000] * 900)
    assert (log.dropped_bytes, log.dropped_lines) == (0, 0)
    assert kept(store) > 1000


def test_a_failure_in_the_middle_of_it_is_no_end(store, room, disk):
    """The disk is full again before all has been handed in: what is left waits for the next output."""
    log = OutputLog(HUGE, store)
    disk.left = 0
    append(log, *[b"x"] * 1000)
    disk.left = None
    append(log, b"x")
    disk.left = 0
    assert not room.proceed()
    disk.left = None
    append(log, b"x")
    while room.proceed():
        pass
    assert kept(store) == 1002


def test_a_directory_that_cannot_be_made_is_a_failure(tmp_path, monkeypatch):
    """Nothing is raised: the window keeps it, and the account is as without a store."""
    (tmp_path / "file").touch()
    room = Room()
    log = OutputLog(2 * (ENTRY_OVERHEAD + 1), StoredLog(tmp_path / "file" / "one", EXECUTION, room))
    watcher = log.cursor(0)
    append(log, b"1", b"2", b"3")
    log.close()
    assert "Not a directory" in room.problem
    assert watcher.take() == Gap(1, 1, 1, 0)
    assert [entry.piece.text for entry in iter(watcher.take, None)] == [b"2", b"3"]
    assert log.dropped_bytes == 1


def test_a_file_system_that_gives_nothing_back_keeps_the_beginning(tmp_path, monkeypatch):
    """At the limit nothing more is written: a file that only grows would take more than it may."""

    def refuse(fd, start, size):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(log_files, "punch_hole", refuse)
    room = Room(40 * BLOCK)
    store = StoredLog(tmp_path / "one", EXECUTION, room)
    log = OutputLog(ENTRY_OVERHEAD, store)
    append(log, *[b"x" * BLOCK] * 100)
    assert "not supported" in room.problem
    assert (store.directory / "stdout").stat().st_size <= 42 * BLOCK
    assert log.dropped_bytes == 99 * BLOCK - sum(
        len(entry.piece.text) for entry in everything(log)[:-1] if isinstance(entry, Chunk)
    )


@pytest.mark.parametrize("damage", ["remove", "cut output", "cut journal", "garbage"])
def test_files_that_somebody_has_changed_are_a_gap(store, damage):
    """Nobody's business, and no reason to fail: what is missing is told as missing."""
    log = OutputLog(ENTRY_OVERHEAD, store)
    append(log, *(b"%04d\n" % number for number in range(1000)))
    log.close()
    journal = store.directory / "journal"
    match damage:
        case "remove":
            shutil.rmtree(store.directory)
        case "cut output":
            os.truncate(store.directory / "stdout", 2500)
        case "cut journal":
            os.truncate(journal, journal.stat().st_size // 2)
        case "garbage":
            with journal.open("r+b") as file:
                file.seek(journal.stat().st_size // 2)
                file.write(b"\n{}\n[1]\nnull\n" + b"\xff" * 1000)
    seen = everything(log)
    assert any(isinstance(entry, Gap) for entry in seen)
    assert seen[-1] == Chunk(1000, 1, "stdout", 4995, Piece(b"0999\n"))
    expected = 1
    for entry in seen:
        assert entry.seq == expected
        expected += entry.count
        if isinstance(entry, Chunk):
            assert entry.piece.text == b"%04d\n" % (entry.seq - 1)
    if damage == "garbage":
        assert sum(isinstance(entry, Chunk) for entry in seen) > 900  # the rest is there


def test_another_version_is_not_read(store):
    """Nor is what never was a log; each says what it is."""
    append(OutputLog(HUGE, store), b"x")
    journal = store.directory / "journal"
    journal.write_bytes(journal.read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(JournalError, match="format is 2"):
        StoredLog.reopened(store.directory, Room())
    journal.write_bytes(b"hello")
    with pytest.raises(JournalError, match="first line is not whole"):
        StoredLog.reopened(store.directory, Room())


@attrs.define(eq=False)
class Watcher:
    """A cursor, where it is, and whether it has been there since before anything that it wants went."""

    cursor: Cursor
    seq: int
    was_there: bool


class StoredLogMachine(RuleBasedStateMachine):
    """A window, a log on disk and their watchers beside a model that keeps everything.

    The disk fails and comes back; what may be kept is little, so that the oldest goes all the time.
    """

    cursors = Bundle("cursors")

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.disk = Disk(self.patch)
        self.patch.setattr(log_files, "BLOCK", 16)
        self.patch.setattr(output, "STEP", 6)
        self.patch.setattr(log_files, "punch_hole", lambda fd, start, size: os.pwrite(fd, bytes(size), start))
        self.directory = Path(tempfile.mkdtemp())
        self.room = Room(4000)
        self.store = StoredLog(self.directory / "one", EXECUTION, self.room)
        self.store.prepare()
        self.log = OutputLog(4 * ENTRY_OVERHEAD, self.store)
        self.entries: list[Chunk | Note] = []
        self.sizes = {"stdout": 0, "stderr": 0}
        self.held = {"stdout": b"", "stderr": b""}
        self.watchers: list[Watcher] = []
        self.has_failed = False

    def teardown(self):
        self._end()
        self.patch.undo()
        shutil.rmtree(self.directory)

    def _next_seq(self) -> int:
        return self.entries[-1].seq + self.entries[-1].count if self.entries else 1

    @rule(
        stream=st.sampled_from(["stdout", "stderr"]),
        texts=st.lists(st.sampled_from([b"\n", b"ab\n", b"c\nd\n", b"x" * 200, b"\0"]), min_size=1, max_size=4),
        half=st.sampled_from([b"", b"half"]),
        by_line=st.booleans(),
    )
    def read(self, stream, texts, half, by_line):
        """A read brings the end of what was held, whole pieces, and a part that is held."""
        before, self.held[stream] = self.held[stream], half
        pieces = []
        for text in [before + texts[0], *texts[1:]]:
            lines = max(1, text.count(b"\n")) if by_line and text.endswith(b"\n") else 1
            pieces.append(Piece(text, lines))
            self.entries.append(Chunk(self._next_seq(), lines, stream, self.sizes[stream], pieces[-1]))
            self.sizes[stream] += len(text)
        self.log.extend(stream, b"".join(texts) + half, iter(pieces))
        self._check_room()

    @rule()
    def note(self):
        self.entries.append(Note(self._next_seq(), "process.paused", {"status": "paused"}))
        self.log.note("process.paused", {"status": "paused"})
        self._check_room()

    def _check_room(self) -> None:
        """No more is kept than may be; the newest entry always is."""
        if not self.has_failed:
            assert self.store.held_bytes <= self.room.most_bytes or self.store.oldest_seq == self.entries[-1].seq

    @rule(left=st.one_of(st.none(), st.integers(0, 300)))
    def fail(self, left):
        self.disk.left = left
        self.has_failed = self.has_failed or left is not None

    @rule()
    def proceed(self):
        self.room.proceed()

    @rule(most=st.integers(2000, 6000))
    def retain(self, most):
        self.room.most_bytes = most

    @rule(target=cursors, from_seq=st.one_of(st.none(), st.integers(0, 100)))
    def open(self, from_seq):
        seq = self._next_seq() if from_seq is None else min(max(from_seq, 1), self._next_seq())
        watcher = Watcher(self.log.cursor(from_seq), seq, was_there=seq >= self.log.oldest_seq)
        self.watchers.append(watcher)
        return watcher

    @rule(watcher=cursors, times=st.integers(1, 20))
    def take(self, watcher, times):
        for _ in range(times):
            self._check(watcher, watcher.cursor.take())

    def _check(self, watcher: Watcher, seen: Chunk | Note | Gap | None) -> None:
        """What is seen is the next entry as it was, or a gap that is nobody's invention and says what it held."""
        unseen = [entry for entry in self.entries if entry.seq + entry.count > watcher.seq]
        if seen is None:
            assert not unseen
            return
        assert watcher.cursor.seq == seen.seq + seen.count
        if isinstance(seen, Gap):
            assert seen.seq == watcher.seq
            missed = list(itertools.takewhile(lambda entry: entry.seq <= seen.to_seq, unseen))
            assert missed[-1].seq + missed[-1].count == seen.to_seq + 1
            texts = [unseen_text(entry, watcher.seq) for entry in missed]
            account = sum(map(len, texts)), sum(text.count(b"\n") for text in texts)
            told = seen.dropped_bytes, seen.dropped_lines
            assert told == account or (told == (None, None) and (not watcher.was_there or self.has_failed))
            assert watcher.seq < self.log.oldest_seq or self.has_failed
            watcher.was_there = True
        else:
            assert seen == unseen[0]
        watcher.seq = seen.seq + seen.count

    @rule(watcher=consumes(cursors))
    def close(self, watcher):
        watcher.cursor.close()
        self.watchers.remove(watcher)

    @invariant()
    def the_account_is_exact(self):
        """What can be had and what was dropped are everything, whoever looks now."""
        got = [entry for entry in everything(self.log) if not isinstance(entry, Gap)]
        have = {entry.seq for entry in got}
        assert got == [entry for entry in self.entries if entry.seq in have]
        missing = [entry for entry in self.entries if entry.seq not in have and isinstance(entry, Chunk)]
        assert self.log.dropped_bytes == sum(len(entry.piece.text) for entry in missing)
        assert self.log.dropped_lines == sum(entry.piece.text.count(b"\n") for entry in missing)
        assert self.log.next_seq == self._next_seq()
        assert self.log.sizes == self.sizes

    @invariant()
    def what_is_kept_is_counted(self):
        assert self.store.disk_bytes == self.room.used_bytes

    def _end(self) -> None:
        """Another daemon finds what this one could still tell."""
        self.disk.left = None
        self.note()
        self.log.close()
        while self.room.proceed():
            pass
        for watcher in self.watchers:
            watcher.cursor.close()
        later = again(self.store)
        have = [entry for entry in everything(later) if not isinstance(entry, Gap)]
        seqs = {entry.seq for entry in have}
        assert have == [entry for entry in self.entries if entry.seq in seqs]
        stored = [entry for entry in everything(self.log, self.store.oldest_seq) if not isinstance(entry, Gap)]
        assert have == stored  # the window may still have what was given up on disk
        missing = [entry.piece.text for entry in self.entries if entry.seq not in seqs and isinstance(entry, Chunk)]
        assert later.dropped_bytes == sum(map(len, missing))
        assert later.dropped_lines == sum(text.count(b"\n") for text in missing)


def unseen_text(entry: Chunk | Note, seq: int) -> bytes:
    """The output in an entry that a watcher at `seq` has not seen."""
    if isinstance(entry, Note):
        return b""
    text = entry.piece.text
    return b"".join(text.splitlines(keepends=True)[seq - entry.seq :]) if seq > entry.seq else text


TestStoredLog = StoredLogMachine.TestCase
TestStoredLog.settings = settings(deadline=None, max_examples=150, stateful_step_count=50)
