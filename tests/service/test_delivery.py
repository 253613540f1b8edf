"""From a log to notifications: real executions whose processes are left out, and a real socket to read from."""

import base64
import itertools
import json
import socket
from collections.abc import Iterator

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from ccexecd.core.display import Display
from ccexecd.core.entries import Chunk, Gap, Note
from ccexecd.core.execution import Event, Outcome, Reason
from ccexecd.core.framing import PIECE, Framer, Piece
from ccexecd.core.output import OutputLog
from ccexecd.core.spec import Spec
from ccexecd.process.execution import Execution
from ccexecd.process.leader import Leader
from ccexecd.process.pump import Pump
from ccexecd.protocol.jsonrpc import notification
from ccexecd.service.delivery import Subscription, growth, notifications, output_params
from ccexecd.service.writer import Writer

FRAME_LIMIT = 1024 * 1024
"""No frame exceeds 1 MiB, the limit of common clients (the contract)."""


def execution_of(framing="lines", window=1 << 20) -> Execution:
    """An execution that has started. Nothing that is tested here asks its keeper for anything."""
    execution = Execution(Spec(("true",), "true", framing=framing), "session", keeper=None, pump=Pump(), window=window)
    execution.apply(Event.ADMIT)
    leader = Leader(1)
    leader.pid = 4711
    execution.has_started(leader)
    return execution


def end(execution: Execution) -> None:
    """Its end, as a supervisor reports it."""
    execution.has_no_more_output()
    execution.has_ended(Outcome(0, Reason.EXITED))


class Client:
    """A connection: what it watches, and what it is told."""

    def __init__(self, buffer: int | None = None) -> None:
        self.ours, self.socket = socket.socketpair()
        for each in (self.ours, self.socket):
            each.setblocking(False)
        if buffer:
            self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.writer = Writer(self.ours.fileno(), 10)
        self.ended: list[str] = []
        self._rest = b""

    def watch(self, execution: Execution, from_seq: int | None = 0) -> Subscription:
        """Begin to watch."""
        subscription = Subscription(execution, from_seq, self.writer, lambda text: text + b"\n", self.ended.append)
        subscription.begin()
        return subscription

    def told(self) -> list[tuple[str, dict]]:
        """Method and params of every notification that has arrived since the last time."""
        try:
            while received := self.socket.recv(1 << 20):
                self._rest += received
        except BlockingIOError:
            pass
        *lines, self._rest = self._rest.split(b"\n")
        messages = [json.loads(line) for line in lines]
        return [(message["method"], message["params"]) for message in messages]

    async def told_until(self, method: str) -> list[tuple[str, dict]]:
        """Read until a notification of this method has come."""
        heard: list[tuple[str, dict]] = []
        with trio.fail_after(10):
            while method not in [each for each, _ in heard]:
                await trio.lowlevel.wait_readable(self.socket)
                heard += self.told()
        return heard


@pytest.fixture
def client() -> Iterator[Client]:
    """One connection with room."""
    client = Client()
    yield client
    client.ours.close()
    client.socket.close()


@pytest.fixture
def slow_client() -> Iterator[Client]:
    """One connection that takes little at a time."""
    client = Client(buffer=4096)
    yield client
    client.ours.close()
    client.socket.close()


# Encoding


def test_a_chunk_of_text_is_one_notification():
    """In `lines` and `raw`, a chunk is told as it is, with its place."""
    chunk = Chunk(7, 1, "stderr", 40, Piece("a\nü\n".encode()))
    assert output_params(chunk, Display(exact=False)) == [
        {"seq": 7, "type": "stderr", "data": "a\nü\n", "offset": 40, "truncated": False}
    ]


def test_a_chunk_of_lines_is_one_notification_each():
    """In `line`, every line has a notification, a number and an offset of its own."""
    chunk = Chunk(7, 3, "stdout", 40, Piece("a\n\nü\n".encode(), lines=3))
    assert output_params(chunk, Display(exact=False)) == [
        {"seq": 7, "type": "stdout", "data": "a\n", "offset": 40, "truncated": False},
        {"seq": 8, "type": "stdout", "data": "\n", "offset": 42, "truncated": False},
        {"seq": 9, "type": "stdout", "data": "ü\n", "offset": 43, "truncated": False},
    ]


def test_a_watcher_gets_the_lines_from_its_own_on():
    """Who begins in the middle of a chunk is not told what came before."""
    chunk = Chunk(7, 3, "stdout", 40, Piece(b"a\nb\nc\n", lines=3))
    assert [params["seq"] for params in output_params(chunk, Display(exact=False), from_seq=8)] == [8, 9]
    assert output_params(chunk, Display(exact=False), from_seq=10) == []


def test_pieces_of_a_long_line_are_numbered():
    """Each says which it is, from 0, and of how many."""
    [params] = output_params(Chunk(1, 1, "stdout", 0, Piece(b"x", part=2, parts=5)), Display(exact=False))
    assert (params["chunk_index"], params["total_chunks"]) == (2, 5)


def test_bytes_that_are_no_text_are_replaced_or_encoded():
    """U+FFFD stands for them, or base64 for the whole piece where the client asked for bytes."""
    chunk = Chunk(1, 1, "stdout", 0, Piece(b"a\xffb"))
    [readable], [exact] = output_params(chunk, Display(exact=False)), output_params(chunk, Display(exact=True))
    assert (readable["data"], "encoding" in readable) == ("a\ufffdb", False)
    assert (exact["data"], exact["encoding"]) == (base64.b64encode(b"a\xffb").decode(), "base64")


def test_text_is_text_even_where_bytes_were_asked_for():
    """Only what is not UTF-8 costs the detour."""
    [params] = output_params(Chunk(1, 1, "stdout", 0, Piece("ü\0".encode())), Display(exact=True))
    assert (params["data"], "encoding" in params) == ("ü\0", False)


@settings(deadline=None)
@given(
    reads=st.lists(
        st.lists(st.sampled_from([b"a", b"\n", "€".encode(), b"\xff", b"\xe2\x82"]), max_size=8).map(b"".join)
    ),
    framing=st.sampled_from(["lines", "line", "raw"]),
    from_seq=st.integers(0, 12),
)
def test_what_is_told_is_what_was_written(reads, framing, from_seq):
    """Decoded, the notifications are the stream; numbers follow each other; offsets are places in the stream."""
    log, framer = OutputLog(1 << 20), Framer(framing, 1 << 20)
    log.extend("stdout", b"".join(reads), itertools.chain(*map(framer.feed, reads), framer.finish()))
    cursor = log.cursor(from_seq)
    entries = list(iter(cursor.take, None))
    told = [each for entry in entries for _, each in notifications(entry, Display(exact=True), from_seq=from_seq)]
    stream = b"".join(reads)
    place = told[0]["offset"] if told else len(stream)
    assert [each["seq"] for each in told] == list(range(max(1, min(from_seq, log.next_seq)), log.next_seq))
    for each in told:
        data = base64.b64decode(each["data"]) if "encoding" in each else each["data"].encode()
        assert each["offset"] == place
        assert stream[place : place + len(data)] == data
        place += len(data)
    assert place == len(stream)


@pytest.mark.parametrize("unit", [b"x", b"\0", b'"', b"\xff", "é".encode(), "😀".encode(), b"\x7f"])
@pytest.mark.parametrize("exact", [False, True])
def test_no_frame_is_too_large(unit, exact):
    """The largest piece, of whatever costs most to write as JSON, fits into a frame of the contract."""
    [piece, *_] = Framer("raw", 0).feed(unit * (PIECE // len(unit)))
    assert len(piece.text) == PIECE
    [(method, params)] = notifications(Chunk(2**53, 1, "stdout", 2**53, piece), Display(exact=exact))
    assert len(notification(method, {"execution_id": "e" * 36, **params})) < FRAME_LIMIT


def test_a_state_change_is_told_with_its_number():
    """Its params are the contract's, and its number one of the sequence."""
    assert list(notifications(Note(3, "process.paused", {"status": "paused", "pid": 1}), Display(exact=False))) == [
        ("process.paused", {"seq": 3, "status": "paused", "pid": 1})
    ]


def test_a_gap_is_told_in_full():
    """What went is counted, or said not to be known."""
    assert list(notifications(Gap(2, 5, 100, None), Display(exact=False))) == [
        ("process.gap", {"from_seq": 2, "to_seq": 5, "dropped_bytes": 100, "dropped_lines": None})
    ]


# Subscriptions


async def test_an_execution_is_told_from_its_start_to_its_end(client):
    """Everything, in order, each with the execution's id; then the watcher is let go."""
    execution = execution_of()
    client.watch(execution)
    execution.has_output("stdout", b"one\ntw")
    execution.has_output("stderr", b"warning\n")
    execution.has_output("stdout", b"o\nend")
    end(execution)
    told = client.told()
    assert {params["execution_id"] for _, params in told} == {execution.id}
    assert [params["seq"] for _, params in told] == [1, 2, 3, 4, 5, 6]
    assert [(method, params.get("data", params.get("status"))) for method, params in told] == [
        ("process.started", "started"),
        ("process.output", "one\n"),
        ("process.output", "warning\n"),
        ("process.output", "two\n"),
        ("process.output", "end"),
        ("process.completed", "completed"),
    ]
    assert client.ended == [execution.id]
    assert not execution.watchers
    assert not execution.log._cursors


async def test_output_is_sent_in_the_step_in_which_it_was_read(client):
    """No task has to be woken on the way from the pipe to the socket."""
    execution = execution_of()
    client.watch(execution)
    client.told()
    execution.has_output("stdout", b"one\n")
    assert [params["data"] for _, params in client.told()] == ["one\n"]


async def test_a_finished_execution_can_be_watched(client):
    """Who comes after the end is told all of it that is kept, and is let go at once."""
    execution = execution_of()
    execution.has_output("stdout", b"one\n")
    end(execution)
    client.watch(execution)
    assert [method for method, _ in client.told()] == ["process.started", "process.output", "process.completed"]
    assert client.ended == [execution.id]


async def test_who_wants_only_what_comes_of_a_finished_execution_is_let_go(client):
    """Nothing will come: there is nothing to tell, and nothing to wait for."""
    execution = execution_of()
    end(execution)
    client.watch(execution, from_seq=None)
    assert (client.told(), client.ended) == ([], [execution.id])


async def test_who_wants_only_what_comes_is_told_only_that(client):
    """`from_seq` null is live."""
    execution = execution_of()
    execution.has_output("stdout", b"before\n")
    client.watch(execution, from_seq=None)
    execution.has_output("stdout", b"after\n")
    assert [params["data"] for _, params in client.told()] == ["after\n"]


async def test_a_watcher_begins_in_the_middle_of_a_read(client):
    """A position inside of what one read brought is as good as any other."""
    execution = execution_of("line")
    execution.has_output("stdout", b"a\nb\nc\n")
    client.watch(execution, from_seq=3)
    assert [(params["seq"], params["data"]) for _, params in client.told()] == [(3, "b\n"), (4, "c\n")]


async def test_raw_output_is_exact(client):
    """An execution that was asked for as bytes is told as bytes."""
    execution = execution_of("raw")
    client.watch(execution)
    execution.has_output("stdout", b"\xff\xfe")
    _, (_, params) = client.told()
    assert (params["encoding"], base64.b64decode(params["data"])) == ("base64", b"\xff\xfe")


async def test_who_watches_no_longer_is_told_nothing(client):
    """After `close`, no output is sent, and the log keeps no place for it."""
    execution = execution_of()
    subscription = client.watch(execution)
    client.told()
    subscription.close()
    execution.has_output("stdout", b"one\n")
    assert (client.told(), client.ended) == ([], [execution.id])
    assert not execution.log._cursors


async def test_a_slow_watcher_costs_only_itself(client, slow_client):
    """It misses the oldest output and is told exactly what, while another one gets every byte."""
    execution = execution_of(window=50_000)
    client.watch(execution)
    slow_client.watch(execution)
    told = []
    for number in range(1000):
        execution.has_output("stdout", b"%04d %s\n" % (number, b"x" * 100))
        told += client.told()
    end(execution)
    told += client.told()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow_client.writer.run)
        slowly_told = await slow_client.told_until("process.completed")
        nursery.cancel_scope.cancel()

    assert [params["seq"] for _, params in told] == list(range(1, 1003))
    position = 1
    for method, params in slowly_told:
        if method == "process.gap":
            assert (params["from_seq"], params["dropped_lines"]) == (position, params["to_seq"] + 1 - position)
            assert params["dropped_bytes"] == 106 * params["dropped_lines"]
            position = params["to_seq"] + 1
        else:
            assert params["seq"] == position
            position += 1
    assert position == 1003
    assert "process.gap" in [method for method, _ in slowly_told]


async def test_many_entries_share_a_write(client):
    """What has gathered while the socket was full is fetched together, not an entry a time."""
    execution = execution_of("line")
    subscription = client.watch(execution, from_seq=None)
    client.writer.flush = lambda: None
    execution.has_output("stdout", b"x\n" * 100)
    frames = subscription.next_frames()
    assert frames.count(b"\n") == 100
    assert subscription.next_frames() is None


async def test_growth_is_waited_for(client):
    """Whoever pulls is woken by output and by the end, and leaves no trace."""
    execution = execution_of()
    for grow in (lambda: execution.has_output("stdout", b"x\n"), lambda: end(execution)):
        grown = trio.Event()

        async def wait(grown: trio.Event = grown) -> None:
            await growth(execution)
            grown.set()

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await wait_all_tasks_blocked()
                assert not grown.is_set()
                grow()
        assert not execution.watchers
