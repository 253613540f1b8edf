"""One connected client: its session, what it watches, and what is left when it has gone."""

import json
import socket
from collections.abc import Iterator

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd.core.execution import Event, Outcome, Reason
from ccexecd.core.principals import Principal, Scope
from ccexecd.core.sessions import Parting
from ccexecd.core.spec import Spec
from ccexecd.process.execution import Execution
from ccexecd.process.pump import Pump
from ccexecd.service.peer import EARLIER, OPERATOR, V1, Manner, Peer
from ccexecd.service.writer import URGENT_LIMIT, Writer

ALICE = Principal("alice", {Scope.EXECUTE}, "token")


@attrs.define(eq=False)
class FakeSession:
    """A claim, as far as a peer knows it."""

    name: str
    drop_connection: object = None
    peer: str = ""


class FakeEngine:
    """An engine that opens sessions and remembers what it is told; it is its own register of them."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.lost: list[tuple[str, Parting]] = []
        self.may_open = trio.Event()
        self.may_open.set()
        self.sessions = self

    async def open_session(self, principal: str, peer: str) -> FakeSession:
        self.opened.append(principal + peer)
        await self.may_open.wait()
        return FakeSession(f"session {len(self.opened)}")

    def connection_lost(self, session: FakeSession, parting: Parting) -> None:
        self.lost.append((session.name, parting))

    def take_over(self, session: FakeSession, drop_connection: object) -> None:
        session.drop_connection = drop_connection


class Client:
    """A peer, and the other end of its connection."""

    def __init__(self, engine: FakeEngine) -> None:
        self.ours, self.socket = socket.socketpair()
        for each in (self.ours, self.socket):
            each.setblocking(False)
        self.dropped: list[Parting] = []
        self.writer = Writer(self.ours.fileno(), 10)
        self.peer = Peer(engine, self.writer, lambda text: text + b"\n", V1, ALICE, self.drop)

    def drop(self, parting: Parting) -> None:
        self.dropped.append(parting)

    def told(self) -> list[dict]:
        """Every message that has arrived since the last time."""
        try:
            return [json.loads(line) for line in self.socket.recv(1 << 20).splitlines()]
        except BlockingIOError:
            return []

    def close(self) -> None:
        self.ours.close()
        self.socket.close()


@pytest.fixture
def engine() -> FakeEngine:
    """The engine of both clients."""
    return FakeEngine()


@pytest.fixture
def client(engine) -> Iterator[Client]:
    """One client."""
    client = Client(engine)
    yield client
    client.close()


@pytest.fixture
def other(engine) -> Iterator[Client]:
    """Another client."""
    client = Client(engine)
    yield client
    client.close()


def execution_of(framing="lines") -> Execution:
    """An execution that is being started; its keeper is never asked."""
    execution = Execution(Spec(("true",), "true", framing=framing), "session", keeper=None, pump=Pump(), window=1 << 20)
    execution.apply(Event.ADMIT)
    return execution


def test_manners_are_those_of_the_contract():
    """Who speaks `ccexec.v1`, who speaks nothing, and who operates."""
    assert Manner("lines", lenient=False, one_at_a_time=False, prefixes=False) == V1
    assert Manner("line", lenient=True, one_at_a_time=True, prefixes=False) == EARLIER
    assert Manner("raw", lenient=False, one_at_a_time=False, prefixes=True) == OPERATOR


# Its session


async def test_a_session_is_made_once(engine, client):
    """The first claim makes it, in the client's name; the second gives the same."""
    assert client.peer.session is None
    first = await client.peer.claim_session()
    assert await client.peer.claim_session() is first is client.peer.session
    assert engine.opened == ["alice"]
    assert first.drop_connection == client.drop


async def test_claims_at_the_same_time_get_the_same_session(engine, client):
    """Calls that come while it is being made do not make another, which nobody would ever end."""
    engine.may_open = trio.Event()
    claimed: list[FakeSession] = []

    async def claim() -> None:
        claimed.append(await client.peer.claim_session())

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(claim)
            await wait_all_tasks_blocked()
            engine.may_open.set()
    assert len(engine.opened) == 1
    assert claimed == [client.peer.session] * 3


async def test_taking_a_session_over_ends_ones_own(engine, client):
    """A client has one session: the one that it had ends as if it had closed it."""
    own = await client.peer.claim_session()
    taken = FakeSession("taken", drop_connection=print)
    client.peer.take_over(taken)
    assert client.peer.session is taken
    assert engine.lost == [(own.name, Parting.CLOSED)]
    assert taken.drop_connection == client.drop


async def test_a_client_without_session_takes_one_over(engine, client):
    """There is none to end."""
    taken = FakeSession("taken")
    client.peer.take_over(taken)
    assert (client.peer.session, engine.lost) == (taken, [])


async def test_taking_ones_own_session_over_changes_nothing(engine, client):
    """Nor does it drop oneself."""
    own = await client.peer.claim_session()
    client.peer.take_over(own)
    assert (client.peer.session, engine.lost, client.dropped) == (own, [], [])


@pytest.mark.parametrize("parting", Parting)
async def test_the_engine_hears_how_a_client_went(engine, client, parting):
    """The session is told how its connection ended, once."""
    session = await client.peer.claim_session()
    client.peer.gone(parting)
    client.peer.gone(parting)
    assert engine.lost == [(session.name, parting)]
    assert client.peer.session is None


async def test_a_client_that_was_taken_over_ends_nothing(engine, client, other):
    """The session is another connection's by then: the old one's end is none of its business."""
    session = await client.peer.claim_session()
    other.peer.take_over(session)
    client.peer.gone(Parting.CUT)
    assert engine.lost == []
    other.peer.gone(Parting.CLOSED)
    assert engine.lost == [(session.name, Parting.CLOSED)]


async def test_a_client_without_session_goes_quietly(engine, client):
    """There is nothing to tell."""
    client.peer.gone(Parting.CLOSED)
    assert engine.lost == []


# What it is told


async def test_replies_wait_for_the_flush(client):
    """They are queued in the transport's frames, and sent together."""
    client.peer.queue({"id": 1})
    client.peer.queue({"id": 2})
    assert client.told() == []
    client.peer.flush()
    assert client.told() == [{"id": 1}, {"id": 2}]


async def test_a_notification_is_sent_at_once(client):
    """What belongs to no execution's sequence has no number."""
    client.peer.notify("server.draining", {"deadline": None})
    assert client.told() == [{"jsonrpc": "2.0", "method": "server.draining", "params": {"deadline": None}}]


async def test_room_is_the_writers(client):
    """A client that does not read is not answered without end."""
    for _ in range(3):
        client.peer.queue("x" * URGENT_LIMIT)
    client.peer.flush()
    with trio.move_on_after(0) as waited:
        await client.peer.room()
    assert waited.cancelled_caught


# What it watches


async def test_watched_output_is_sent(client):
    """From the position on, in the order of the log."""
    execution = execution_of()
    execution.has_output("stdout", b"one\n")
    client.peer.watch(execution, 0)
    execution.has_output("stdout", b"two\n")
    assert [message["params"]["data"] for message in client.told()] == ["one\n", "two\n"]


async def test_watching_again_moves_the_position(client):
    """One client has one place in a log: nothing is sent twice at a time."""
    execution = execution_of()
    execution.has_output("stdout", b"one\n")
    client.peer.watch(execution, 0)
    client.peer.watch(execution, 0)
    execution.has_output("stdout", b"two\n")
    assert [message["params"]["data"] for message in client.told()] == ["one\n", "one\n", "two\n"]
    assert len(execution.watchers) == 1


async def test_what_is_not_watched_any_more_is_not_sent(client):
    """`unwatch` tells whether there was something to end."""
    execution = execution_of()
    client.peer.watch(execution, 0)
    assert client.peer.unwatch(execution.id) is True
    assert client.peer.unwatch(execution.id) is False
    execution.has_output("stdout", b"one\n")
    assert client.told() == []


async def test_an_execution_that_has_been_told_to_its_end_is_let_go(client):
    """Nothing of it is held afterwards, and it can be watched again from its start."""
    execution = execution_of()
    client.peer.watch(execution, 0)
    execution.has_ended(Outcome(0, Reason.EXITED))
    assert not execution.watchers
    assert client.peer.unwatch(execution.id) is False
    client.peer.watch(execution, 0)
    assert [message["method"] for message in client.told()] == ["process.completed"] * 2


async def test_a_client_that_has_gone_watches_nothing(client):
    """Its places in all logs are given up, or they would be counted for ever."""
    executions = [execution_of() for _ in range(3)]
    for execution in executions:
        client.peer.watch(execution, 0)
    client.peer.gone(Parting.CUT)
    assert not [execution for execution in executions if execution.watchers or execution.log._cursors]


async def test_delivered_waits_for_the_last_byte_of_the_end(client):
    """Before a farewell, the end of everything watched has been sent, however slowly it is read."""
    execution = execution_of("raw")
    client.peer.watch(execution, 0)
    execution.has_output("stdout", b"x" * 900_000)
    execution.has_ended(Outcome(0, Reason.EXITED))
    heard = b""
    delivered = trio.Event()

    async def deliver() -> None:
        await client.peer.delivered()
        delivered.set()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.writer.run)
            nursery.start_soon(deliver)
            await wait_all_tasks_blocked()
            assert not delivered.is_set()
            while not delivered.is_set():
                await trio.lowlevel.wait_readable(client.socket)
                heard += client.socket.recv(65536)
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    try:
        while received := client.socket.recv(1 << 20):
            heard += received
    except BlockingIOError:
        pass
    assert json.loads(heard.splitlines()[-1])["method"] == "process.completed"


async def test_delivered_does_not_wait_for_a_client_that_has_gone(client):
    """What cannot be delivered holds nobody up."""
    execution = execution_of()
    client.peer.watch(execution, 0)
    client.writer.give_up("no pong")
    with trio.fail_after(5):
        await client.peer.delivered()
