"""Sending to one connection, over real sockets whose buffers are small, with a clock that moves when it is told to."""

import contextlib
import random
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ccexecd.service import writer as writer_module
from ccexecd.service.writer import URGENT_LIMIT, Writer

PATIENCE = 1000.0

BOUND = 10
"""Seconds after which a test that waits has failed."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Time goes on as ever, and jumps where a test says so."""
    return "trio", {"clock": MockClock(rate=1)}


class Line:
    """A connection: our writer at one end, whoever reads (or does not) at the other."""

    def __init__(self) -> None:
        self.ours, self.peer = socket.socketpair()
        for each in (self.ours, self.peer):
            each.setblocking(False)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.writer = Writer(self.ours.fileno(), PATIENCE)

    def received(self) -> bytes:
        """All that has arrived so far."""
        parts = []
        with contextlib.suppress(BlockingIOError):
            while part := self.peer.recv(65536):
                parts.append(part)
        return b"".join(parts)

    async def receive(self, until: bytes) -> bytes:
        """Read until the end of what has arrived is this."""
        heard = b""
        with trio.fail_after(BOUND):
            while not heard.endswith(until):
                await trio.lowlevel.wait_readable(self.peer)
                heard += self.received()
        return heard

    def fill(self) -> bytes:
        """Send output until the socket takes no more; what has been sent, and begun, is given back."""
        flood = Source(b"x" * 1000, times=1000)
        self.writer.has_output(flood)
        self.writer.forget(flood)
        return flood.given

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The writer's own task."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.writer.run)
            yield
            nursery.cancel_scope.cancel()

    @contextlib.asynccontextmanager
    async def breaking(self, bound: float = BOUND) -> AsyncIterator[None]:
        """The writer's own task, which is to end by itself."""
        with trio.fail_after(bound):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.writer.run)
                await wait_all_tasks_blocked()
                yield
            await self.writer.drained()
            await self.writer.room()


class Source:
    """Output that is fetched, frame by frame."""

    def __init__(self, *frames: bytes, times: int = 1) -> None:
        self.frames = list(frames) * times
        self.given = b""

    def next_frames(self) -> bytes | None:
        if not self.frames:
            return None
        frame = self.frames.pop(0)
        self.given += frame
        return frame


@pytest.fixture
def line() -> Iterator[Line]:
    """One connection."""
    line = Line()
    yield line
    line.ours.close()
    line.peer.close()


async def test_a_frame_is_sent_at_once(line):
    """No task has to be woken: a reply is on its way in the step of whoever gives it."""
    line.writer.send(b"reply")
    assert line.received() == b"reply"


async def test_a_queued_frame_waits_for_the_flush(line):
    """Several replies can be given to one write."""
    line.writer.queue(b"one")
    assert line.received() == b""
    line.writer.send(b"two")
    assert line.received() == b"onetwo"


async def test_output_is_fetched_until_there_is_none(line):
    """A source that has something is asked until it has nothing."""
    line.writer.has_output(Source(b"a", b"b", b"c"))
    assert line.received() == b"abc"


async def test_urgent_frames_go_before_output(line):
    """A reply that is given together with output is read first."""
    line.writer.queue(b"reply ")
    line.writer.has_output(Source(b"output"))
    assert line.received() == b"reply output"


async def test_a_reply_overtakes_output_that_waits(line):
    """Whatever output waits for a slow reader, a reply comes right after the frame that was begun."""
    begun = line.fill()
    source = Source(b"output", times=1000)
    line.writer.has_output(source)
    line.writer.send(b"reply")
    assert source.given == b""
    async with line.running():
        heard = await line.receive(until=b"output" * 1000)
    assert heard == begun + b"reply" + b"output" * 1000


async def test_nothing_is_fetched_for_a_socket_that_takes_nothing(line):
    """Output stays in its log while the reader is slow: it costs no memory here."""
    line.fill()
    source = Source(b"output", times=1000)
    async with line.running():
        for _ in range(10):
            line.writer.has_output(source)
            line.writer.flush()
            await wait_all_tasks_blocked()
    assert source.given == b""


async def test_sources_take_turns(line, monkeypatch):
    """One execution that writes a lot holds no other one up: each gets a write in its turn."""
    monkeypatch.setattr(writer_module, "GATHER", 1)
    begun = line.fill()
    for name in (b"a", b"b", b"c"):
        line.writer.has_output(Source(name, times=3))
    async with line.running():
        assert await line.receive(until=b"abcabcabc") == begun + b"abcabcabc"


async def test_a_source_that_ends_takes_no_turn_of_another(line, monkeypatch):
    """A source that forgets itself with its last frame leaves the order of the others as it was."""
    monkeypatch.setattr(writer_module, "GATHER", 1)
    begun = line.fill()

    class Last(Source):
        def next_frames(self) -> bytes | None:
            line.writer.forget(self)
            return super().next_frames()

    for source in (Last(b"a"), Source(b"b", times=2), Source(b"c", times=2)):
        line.writer.has_output(source)
    async with line.running():
        assert await line.receive(until=b"abcbc") == begun + b"abcbc"


async def test_a_source_may_forget_itself_with_nothing_to_give(line):
    """A watcher that finds itself at the end of its log closes itself while it is asked."""

    class Ended(Source):
        def next_frames(self) -> bytes | None:
            line.writer.forget(self)
            return super().next_frames()

    begun = line.fill()
    for source in (Ended(), Ended(), Source(b"a")):
        line.writer.has_output(source)
    async with line.running():
        assert await line.receive(until=b"a") == begun + b"a"


async def test_a_source_that_is_forgotten_is_not_asked(line):
    """Who watches no longer gets nothing more; forgetting twice is no fault."""
    line.fill()
    source = Source(b"output")
    line.writer.has_output(source)
    line.writer.forget(source)
    line.writer.forget(source)
    async with line.running():
        line.writer.send(b"end")
        await line.receive(until=b"end")
    assert source.given == b""


async def test_frames_are_whole_and_in_order(line):
    """However the socket cuts them: each frame arrives whole, each source's in order, none lost or doubled."""
    sizes = random.Random(4)
    sources, expected = [], {}
    for name in b"abc":
        frames = [bytes([name]) * sizes.randint(1, 3000) + b"\n" for _ in range(50)]
        expected[name] = frames.copy()
        sources.append(Source(*frames))
    urgent = [b"u" * sizes.randint(1, 9000) + b"\n" for _ in range(50)]
    async with line.running():
        for source in sources:
            line.writer.has_output(source)
        heard = b""
        for frame in urgent:
            line.writer.send(frame)
            heard += line.received()
        line.writer.send(b"end\n")
        with trio.fail_after(BOUND):
            while heard.count(b"\n") < 201:
                await trio.lowlevel.wait_readable(line.peer)
                heard += line.received()
    frames = heard.splitlines(keepends=True)
    for name, own in (*expected.items(), (ord("u"), urgent)):
        assert [frame for frame in frames if frame[0] == name] == own


async def test_one_step_writes_no_more_than_its_budget(line, monkeypatch):
    """A flood to a fast reader leaves the event loop to others in between, and goes on after them."""
    monkeypatch.setattr(writer_module, "FLUSH_BUDGET", 500)
    monkeypatch.setattr(writer_module, "GATHER", 1)
    line.writer.has_output(Source(*[b"x" * 100] * 12, b"last"))
    assert len(line.received()) == 500
    async with line.running():
        line.writer.send(b"reply")
        assert await line.receive(until=b"last") == b"reply" + b"x" * 700 + b"last"


async def test_room_is_there_at_once_for_who_sends_little(line):
    """Nobody waits while the queue is short."""
    line.fill()
    line.writer.send(b"x" * URGENT_LIMIT)
    with trio.CancelScope() as scope:
        scope.cancel()
        await line.writer.room()
        scope.shield = True
    assert not scope.cancelled_caught


async def test_who_asks_too_fast_waits_for_room(line):
    """The urgent queue is bounded by making whoever fills it wait until the reader has taken some."""
    line.fill()
    line.writer.send(b"x" * (URGENT_LIMIT + 1))
    waited = trio.Event()

    async def wait_for_room() -> None:
        await line.writer.room()
        waited.set()

    async with line.running(), trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_room)
        await wait_all_tasks_blocked()
        assert not waited.is_set()
        heard = b""
        with trio.fail_after(BOUND):
            while not waited.is_set():
                heard += line.received()
                await trio.lowlevel.checkpoint()
    assert heard


async def test_nobody_waits_for_room_on_a_broken_connection(line):
    """What cannot be sent any more does not hold up its sender."""
    line.fill()
    line.writer.send(b"x" * (URGENT_LIMIT + 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.writer.room)
        await wait_all_tasks_blocked()
        line.writer.give_up("no pong")
    await line.writer.room()


async def test_drained_waits_for_the_last_byte(line):
    """All that waited has been written, however often the socket took a part of it only."""
    begun = line.fill()
    frames = [b"x" * 100_000, b"y" * 100_000, b"z" * 100_000]
    for frame in frames:
        line.writer.send(frame)
    drained = trio.Event()

    async def wait_until_drained() -> None:
        await line.writer.drained()
        drained.set()

    heard = b""
    async with line.running(), trio.open_nursery() as nursery:
        nursery.start_soon(wait_until_drained)
        with trio.fail_after(BOUND):
            while not drained.is_set():
                heard += line.received()
                await trio.lowlevel.checkpoint()
    assert heard + line.received() == begun + b"".join(frames)


async def test_drained_is_immediate_where_nothing_waits(line):
    """A connection that has sent everything is drained."""
    line.writer.send(b"reply")
    await line.writer.drained()


async def test_a_peer_that_takes_nothing_is_given_up(line):
    """After the patience, and not before; every byte that it takes renews it."""
    clock = trio.lowlevel.current_clock()
    line.fill()
    line.writer.send(b"x" * 1_000_000)
    async with line.breaking(bound=10 * PATIENCE):
        for _ in range(5):
            clock.jump(PATIENCE - 2 * BOUND)
            await wait_all_tasks_blocked()
            assert not line.writer.broken
            line.received()
            await wait_all_tasks_blocked()
        clock.jump(PATIENCE)
    assert line.writer.broken == "the peer took nothing for 1000 s"


async def test_a_peer_that_has_gone_is_given_up(line):
    """The first write that fails says why; nothing raises, and nobody waits any more."""
    line.peer.close()
    async with line.breaking():
        line.writer.send(b"reply")
    assert line.writer.broken == "the connection is gone: Broken pipe"


async def test_a_peer_that_goes_while_it_is_waited_for_is_given_up(line):
    """The same where the writer's own task finds out."""
    line.fill()
    line.writer.send(b"reply")
    async with line.breaking():
        line.peer.close()
    assert line.writer.broken.startswith("the connection is gone: ")


async def test_a_peer_that_goes_between_two_flushes_is_given_up(line, monkeypatch):
    """The same where the task's own flush finds out: nobody is left waiting for a task that has ended."""
    monkeypatch.setattr(writer_module, "FLUSH_BUDGET", 1)
    line.writer.send(b"one")
    line.writer.send(b"two")
    line.peer.close()
    async with line.breaking():
        pass
    assert line.writer.broken


async def test_a_connection_that_is_given_up_ends_its_task(line):
    """Whoever decides that the peer is gone is heard at once, even where the task waits for that peer."""
    line.fill()
    line.writer.send(b"reply")
    async with line.breaking():
        line.writer.give_up("no pong for 30 s")
    assert line.writer.broken == "no pong for 30 s"


async def test_nothing_is_kept_for_a_broken_connection(line):
    """What waited goes, what is given afterwards is not kept, and the first reason stands."""
    line.fill()
    source = Source(b"output")
    line.writer.has_output(source)
    line.writer.send(b"reply")
    line.writer.give_up("no pong")
    line.writer.give_up("no luck")
    for _ in range(3):
        line.writer.send(b"x" * URGENT_LIMIT)
    assert line.writer.broken == "no pong"
    assert source.given == b""
    assert not line.writer._urgent
    assert not line.writer._ready
    assert line.writer._begun is None
    await line.writer.run()


async def test_a_source_is_asked_once_a_turn_however_often_it_speaks_up(line, monkeypatch):
    """Whoever wakes the writer for every line has no more turns than the others, and is forgotten at once."""
    monkeypatch.setattr(writer_module, "GATHER", 1)
    begun = line.fill()
    eager, other, forgotten = Source(b"a", times=2), Source(b"b", times=2), Source(b"c")
    for source in (eager, eager, other, forgotten, forgotten):
        line.writer.has_output(source)
    line.writer.forget(forgotten)
    async with line.running():
        assert await line.receive(until=b"abab") == begun + b"abab"
    assert forgotten.given == b""
