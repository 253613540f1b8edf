"""Output that goes into a file: all of it arrives, however late it is read, and nothing of it is kept."""

import errno
import hashlib
import os
from collections.abc import AsyncIterator

import attrs
import pytest
import trio

from ccexecd.agents.recognition import agent_of
from ccexecd.core.execution import Reason
from ccexecd.core.spec import Spec
from ccexecd.launching import with_stdio
from ccexecd.process import files
from ccexecd.process.files import FileSource, open_file, source_of
from ccexecd.process.pump import Pump
from ccexecd.process.supervisor import supervise

from .programs import python, sh
from .stage import PATIENCE, end_of, lines_of, living, open_descriptors, open_stage, running_pump, text_of, wait_for


@pytest.fixture
async def pump() -> AsyncIterator[Pump]:
    async with running_pump() as pump:
        yield pump


class Sink:
    """What arrives."""

    def __init__(self, pump: Pump) -> None:
        ours, self.theirs = open_file()
        self.fd = ours
        self.text = b""
        self.source: FileSource = source_of(pump, ours, self.take)

    def take(self, received: bytes) -> None:
        self.text += received


async def test_what_is_written_arrives_at_once(pump):
    """Each write wakes the pump; in between, nothing does."""
    sink = Sink(pump)
    for number in range(5):
        os.write(sink.theirs, b"%d\n" % number)
        await wait_for(lambda n=number: sink.text.endswith(b"%d\n" % n), "it has arrived")
    await wait_for(lambda: not pump.files.behind, "nothing is left to look at")
    sink.source.close()
    os.close(sink.theirs)


async def test_what_was_read_is_given_back(pump):
    """A hundred megabytes through a file need no hundred megabytes."""
    sink = Sink(pump)
    piece = bytes(range(256)) * 4096
    size = 0
    for _ in range(100):
        os.write(sink.theirs, piece)
        size += len(piece)
        with trio.fail_after(PATIENCE):
            while sink.source._read < size:
                await trio.lowlevel.checkpoint()
        assert sink.text == piece
        sink.text = b""
        assert os.fstat(sink.fd).st_blocks * 512 <= 3 << 20
    sink.source.close()
    os.close(sink.theirs)


async def test_two_files_do_not_get_mixed_up_and_one_can_wait(pump):
    """One is held: it is not read, though it grows, until it may go on."""
    first, second = Sink(pump), Sink(pump)
    first.source.hold()
    for _ in range(3):
        os.write(first.theirs, b"a")
        os.write(second.theirs, b"b")
    await wait_for(lambda: second.text == b"bbb", "the other has arrived")
    assert first.text == b""
    first.source.go_on()
    await wait_for(lambda: first.text == b"aaa", "it has arrived, too")
    for each in (first, second):
        each.source.read_end()
    for each in (first, second):
        with trio.fail_after(PATIENCE):
            await each.source.ended.wait()
        os.close(each.theirs)


async def test_closing_takes_the_rest(pump):
    """What nobody has had time to read."""
    sink = Sink(pump)
    sink.source.hold()
    os.write(sink.theirs, b"x" * 1_000_000)
    sink.source.close()
    assert len(sink.text) == 1_000_000
    assert sink.source.ended.is_set()
    sink.source.close()
    sink.source.go_on()
    os.close(sink.theirs)


async def test_a_file_cannot_be_cut(pump):
    """A script that opens its own output anew is told so; what it wrote before is there."""
    sink = Sink(pump)
    sink.source.hold()
    script = "echo one; echo two >/dev/stdout; echo three"
    ran = await trio.run_process(["sh", "-c", script], stdout=sink.theirs, capture_stderr=True, check=False)
    assert b"/dev/stdout" in ran.stderr
    sink.source.close()
    assert sink.text == b"one\nthree\n"
    os.close(sink.theirs)


async def test_a_lost_event_loses_nothing(pump, monkeypatch: pytest.MonkeyPatch):
    """When the kernel's queue overflows, all files are looked at."""
    sink = Sink(pump)
    await wait_for(lambda: not pump.files.behind, "nothing is left to look at")
    overflow = (-1).to_bytes(4, "little", signed=True) + bytes(12)
    monkeypatch.setattr(files.os, "read", lambda *_: overflow)
    pump.files.read_once()
    assert pump.files.behind == {sink.source}
    monkeypatch.undo()
    sink.source.close()
    os.close(sink.theirs)


async def test_nothing_stays_open():
    """A thousand files, and the pump itself."""
    before = open_descriptors()
    async with running_pump() as pump:
        for _ in range(1000):
            sink = Sink(pump)
            os.close(sink.theirs)
            sink.source.close()
        assert not pump.files._sources
        assert not pump.files._watches
    assert open_descriptors() == before


async def test_what_is_left_when_nobody_waits_any_more_is_taken_by_closing(pump):
    """The pump has been cancelled; an execution that still winds down loses nothing, and disturbs no descriptor."""
    sink = Sink(pump)
    sink.source.hold()
    os.write(sink.theirs, b"last words")
    pump.files.close()
    monkeys = os.pipe()  # they have the numbers that were closed
    sink.source.read_end()
    sink.source.close()
    assert sink.text == b"last words"
    os.set_blocking(monkeys[0], False)
    with pytest.raises(BlockingIOError):
        os.read(monkeys[0], 8)
    for fd in (*monkeys, sink.theirs):
        os.close(fd)
    pump.files = None


async def test_a_file_that_cannot_be_watched_is_refused(pump, monkeypatch: pytest.MonkeyPatch):
    """A limit of the user's: said with the kernel's number, and nothing is kept of it."""
    sink = Sink(pump)
    monkeypatch.setattr(files._libc, "inotify_add_watch", lambda *_: -1)
    with pytest.raises(OSError, match=r"\[Errno"):
        pump.files.add(sink.theirs, sink.take)
    assert len(pump.files._watches) == 1
    sink.source.close()
    os.close(sink.theirs)


# As an execution's output

HASTY = python(
    "import os, sys\n"
    "os.set_blocking(1, False)\n"
    "text = b''.join(b'%07d ' % n for n in range(500_000))\n"
    "print('ready', file=sys.stderr, flush=True)\n"
    "sys.stdin.read()\n"
    "os._exit(0 if os.write(1, text) == len(text) else 3)\n"
)
"""Writes 4 MB in one go, without waiting, and exits: so does Claude Code in JavaScript."""


@pytest.mark.parametrize(("stdio", "code"), [("file", 0), ("pipe", 3)])
async def test_a_program_that_does_not_wait_for_a_reader_loses_nothing(stdio, code):
    """Into a pipe, a part of it goes, and it cannot know; into a file, all of it."""
    async with open_stage() as stage:
        execution = stage.begin(HASTY, stdio=stdio, stdin_open=True, window=16 << 20)
        await wait_for(lambda: text_of(execution, "stderr") == b"ready\n", "it is ready")
        await execution.stdin.close()
        await end_of(execution)
        assert execution.outcome is not None
        assert execution.outcome.exit_code == code
        if stdio == "file":
            whole = b"".join(b"%07d " % number for number in range(500_000))
            assert hashlib.md5(text_of(execution, "stdout")).digest() == hashlib.md5(whole).digest()


async def test_what_cannot_be_watched_is_ended_and_says_why(no_more_descriptors):
    """No descriptor is left for inotify: the leader goes, its reason is told, and nothing stays open."""
    async with open_stage() as stage:
        before = open_descriptors()
        execution, start = stage.start(sh("sleep 1000"), stdio="file", stdin_open=True)
        await start.leader()
        with no_more_descriptors():
            await supervise(execution, stage.keeper, stage.pump, start)
        assert execution.outcome is not None
        assert execution.outcome.reason is Reason.SPAWN_FAILED
        assert execution.outcome.error == f"output pipe: {os.strerror(errno.EMFILE)}"
        assert open_descriptors() == before
        assert living(stage.keeper.pid) == set()
        again = await stage.run(sh("echo x"), stdio="file")
        assert text_of(again, "stdout") == b"x\n"


async def test_an_agent_writes_into_a_pipe_where_no_file_can_be_watched(pump, no_more_descriptors):
    """Rather than not at all; into a file again when one can."""
    agent = Spec(("claude", "-p", "x"), "claude -p x")
    assert agent_of(agent)  # what knows of Claude Code is imported with the first one
    with no_more_descriptors():
        assert with_stdio(agent, pump).stdio == "auto"
        assert with_stdio(attrs.evolve(agent, stdio="file"), pump).stdio == "file"
    assert with_stdio(agent, pump).stdio == "file"


async def test_both_streams_arrive_and_the_end_comes_after_them():
    """In the moment in which they are written, and the last of them before the end."""
    async with open_stage() as stage:
        execution = stage.begin(sh("echo out; echo err >&2; read x; echo last"), stdio="file", stdin_open=True)
        await lines_of(execution, 1)
        await wait_for(lambda: text_of(execution, "stderr") == b"err\n", "the other stream is there, too")
        await execution.stdin.write(b"\n")
        await end_of(execution)
        assert text_of(execution, "stdout") == b"out\nlast\n"
        assert [note.method for note in execution.log._entries if hasattr(note, "method")][-1] == "process.completed"


async def test_an_end_by_us_is_one_with_files_as_with_pipes():
    """Time-out, cancel, pause: what it wrote until then is there."""
    async with open_stage() as stage:
        late = await stage.run(sh("echo x; exec sleep 1000"), stdio="file", timeout=0.1)
        assert late.outcome is not None
        assert (late.outcome.reason, text_of(late, "stdout")) == (Reason.TIMEOUT, b"x\n")
        execution = stage.begin(sh("while :; do echo x; sleep 0.001; done"), stdio="file")
        await lines_of(execution, 3)
        await execution.pause()
        await execution.resume()
        execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        assert text_of(execution, "stdout").count(b"x\n") >= 3


async def test_a_straggler_that_holds_a_file_holds_up_nobody():
    """A file has no end that could be waited for."""
    async with open_stage() as stage:
        execution = await stage.run(sh("echo before; sleep 1000 & exit 0"), stdio="file", grace=0.2)
        assert execution.outcome is not None
        assert execution.outcome.exit_code == 0
        assert text_of(execution, "stdout") == b"before\n"
        assert all(source.ended.is_set() for source in execution.pacing.sources)
