"""From a message to its answer, with a peer that only listens and methods that do as they are told."""

import gc
import inspect
import json
import logging
from types import SimpleNamespace

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd.core.execution import Event, IllegalTransitionError, State
from ccexecd.core.principals import Principal, Scope, user
from ccexecd.engine import AdmissionError, Refusal
from ccexecd.process.leader import SpawnError
from ccexecd.process.standard_input import StdinClosedError
from ccexecd.protocol.codec import StructureError, dumps
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service import dispatch
from ccexecd.service.dispatch import Answer, Dispatcher, Kind, Method, as_rpc_error
from ccexecd.service.peer import EARLIER, V1


class ListeningPeer:
    """A peer that keeps what it is sent, and in which order things happen."""

    def __init__(self, manner=V1) -> None:
        self.manner = manner
        self.principal = user(0)
        self.session = None
        self.events: list[object] = []
        self.recorded: list[tuple] = []
        self.origin = "127.0.0.1:5"
        record = self.recorded.append
        self.turned_away = lambda *told: record(told)
        gate = SimpleNamespace(asked=lambda *told: record(told))
        self.engine = SimpleNamespace(gate=gate)
        self.has_room = trio.Event()
        self.has_room.set()

    def count(self, method: str) -> None:
        """Everybody may call as often as they like."""

    def queue(self, message: object) -> None:
        self.events.append(json.loads(dumps(message)))

    def flush(self) -> None:
        self.events.append("flush")

    async def room(self) -> None:
        await self.has_room.wait()

    @property
    def replies(self) -> list:
        return [event for event in self.events if isinstance(event, dict | list)]


@attrs.frozen
class Number:
    """One param."""

    n: int = 0


@attrs.frozen
class Nothing:
    """No param."""


class House:
    """A dispatcher, its peer, and methods whose end a test decides."""

    def __init__(self, nursery: trio.Nursery, manner=V1) -> None:
        self.peer = ListeningPeer(manner)
        self.begun: list[int] = []
        self.under_way: list[int] = []
        self.done: list[int] = []
        self.gates: dict[int, trio.Event] = {}
        methods = {
            "double": Method(Number, lambda _, wanted: wanted.n * 2),
            "brief": Method(Number, self._wait),
            "wait": Method(Number, self._wait, Kind.WAITING),
            "write": Method(Number, self._wait, Kind.WRITING),
            "control": Method(Number, self._wait, Kind.STEERING),
            "careful": Method(Number, self._careful),
            "raise": Method(Nothing, self._raise),
            "raise_later": Method(Nothing, self._raise_later),
            "watch": Method(Number, self._watch),
            "odd": Method(Nothing, lambda *_: object()),
        }
        self.dispatcher = Dispatcher(methods, self.peer, nursery)
        self.error: Exception = RuntimeError("hunter2")

    def _wait(self, _, wanted):
        """Decide now, answer when the gate opens."""
        self.begun.append(wanted.n)
        self.gates[wanted.n] = trio.Event()

        async def opened():
            self.under_way.append(wanted.n)
            await self.gates[wanted.n].wait()
            self.done.append(wanted.n)
            return wanted.n

        return opened()

    def _careful(self, _, wanted):
        """What has been decided is done, whoever waits for it."""
        self.begun.append(wanted.n)

        async def act():
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                self.done.append(wanted.n)
            await trio.sleep_forever()

        return act()

    def _raise(self, *_):
        raise self.error

    async def _raise_later(self, *_):
        await trio.lowlevel.checkpoint()
        raise self.error

    def _watch(self, _, wanted):
        return Answer(wanted.n, then=lambda: self.peer.events.append(f"output of {wanted.n}"))

    async def say(self, *calls: object) -> None:
        """Send messages as one peer would, one after another."""
        for call in calls:
            await self.dispatcher.receive(json.dumps(call).encode())


def call(method: str, call_id: object = 1, **params: object) -> dict:
    """A request."""
    return {"jsonrpc": "2.0", "method": method, "params": params, "id": call_id}


def notice(method: str, **params: object) -> dict:
    """A notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


@pytest.fixture
async def nursery():
    """Where calls that wait live."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()


@pytest.fixture
def house(nursery) -> House:
    """A connection in the manner of `ccexec.v1`."""
    return House(nursery)


def code_of(reply: dict) -> int:
    return reply["error"]["code"]


async def test_a_call_is_answered_in_its_own_step(house):
    """What needs no waiting is answered before the next message is read, and sent."""
    await house.say(call("double", n=21))
    assert house.peer.events == [{"jsonrpc": "2.0", "id": 1, "result": 42}, "flush"]


async def test_params_may_be_left_out(house):
    """Absent params are an object without members."""
    await house.say({"jsonrpc": "2.0", "method": "double", "id": 1})
    assert house.peer.replies[0]["result"] == 0


async def test_a_notification_is_never_answered(house):
    """Neither its result nor its fault: that is what having no id means."""
    await house.say(notice("double", n=1), notice("nosuch"), notice("double", n="x"), notice("raise"))
    assert house.peer.replies == []


async def test_an_unknown_method_is_named(house):
    """The answer names the method, as much of it as is decent."""
    await house.say(call("rm -rf"), call("m" * 1000))
    first, second = house.peer.replies
    assert first["error"] == {"code": -32601, "message": "Method not found: 'rm -rf'"}
    assert len(second["error"]["message"]) < 150


async def test_wrong_params_are_named_with_their_paths(house):
    """The message has the first of them to read, the data all of them to work with."""
    await house.say(call("double", n="x"))
    assert house.peer.replies[0]["error"] == {
        "code": -32602,
        "message": "Invalid params: $.n: expected integer, got string",
        "data": [{"path": "$.n", "error": "expected integer, got string"}],
    }


async def test_positional_params_are_refused(house):
    """A position means nothing here."""
    await house.say({"jsonrpc": "2.0", "method": "double", "params": [1], "id": 1})
    assert (
        house.peer.replies[0]["error"]["message"] == "Invalid params: $: params are named: expected object, got array"
    )


async def test_params_that_cannot_be_represented_are_refused(house):
    """The method is not called with a stand-in."""
    await house.dispatcher.receive(rb'{"jsonrpc": "2.0", "method": "wait", "params": {"n": 1e999}, "id": 1}')
    assert house.peer.replies[0]["error"]["data"] == [
        {"path": "$.n", "error": "number of 5 characters is out of range"}
    ]
    assert house.begun == []


async def test_unknown_params_are_refused_or_passed_over(nursery):
    """It depends on who speaks: refused for clients of this protocol, passed over for earlier ones."""
    for manner, expected in ((V1, -32602), (EARLIER, None)):
        house = House(nursery, manner)
        await house.say(call("double", n=1, more=2))
        assert house.peer.replies[0].get("error", {}).get("code") == expected


async def test_what_cannot_be_read_is_answered_with_id_null(house):
    """There is no id to answer to."""
    await house.dispatcher.receive(b"{")
    await house.dispatcher.receive(b"1")
    assert [(reply["id"], code_of(reply)) for reply in house.peer.replies] == [(None, -32700), (None, -32600)]


async def test_the_reader_does_not_wait_on_work(house):
    """Calls are begun in their order while those before them wait, and answered as they get done."""
    await house.say(*[call("wait", n, n=n) for n in (1, 2, 3)], call("double", 4, n=4))
    assert house.begun == [1, 2, 3]
    assert [reply["id"] for reply in house.peer.replies] == [4]
    for n in (3, 1, 2):
        house.gates[n].set()
        await wait_all_tasks_blocked()
    assert [reply["id"] for reply in house.peer.replies] == [4, 3, 1, 2]


async def test_output_comes_after_the_reply(house):
    """What follows an answer is begun when the answer is in the queue, and both are flushed together."""
    await house.say(call("watch", n=1))
    assert house.peer.events == [{"jsonrpc": "2.0", "id": 1, "result": 1}, "output of 1", "flush"]


async def test_what_follows_a_notification_follows_it(house):
    """Without an answer, the deed is done all the same."""
    await house.say(notice("watch", n=1))
    assert house.peer.events == ["output of 1", "flush"]


async def test_messages_are_read_as_fast_as_their_answers_are_taken(house):
    """Whoever asks and does not read is not read either."""
    house.peer.has_room = trio.Event()
    with trio.move_on_after(0) as impatient:
        await house.say(call("double"))
    assert impatient.cancelled_caught
    assert len(house.peer.replies) == 1


# Batches


async def test_a_batch_is_answered_as_one(house):
    """Its answers come together, notifications have none, and broken calls have theirs."""
    await house.say([call("double", 1, n=1), notice("double"), 5, call("nosuch", 2), call("double", 3, n="x")])
    [replies] = house.peer.replies
    assert [(reply["id"], reply.get("result", reply.get("error", {}).get("code"))) for reply in replies] == [
        (1, 2),
        (None, -32600),
        (2, -32601),
        (3, -32602),
    ]


async def test_a_batch_is_answered_when_its_last_call_is_done(house):
    """One that waits holds back the answers, not the calls after it."""
    await house.say([call("wait", 1, n=1), call("watch", 2, n=2), call("wait", 3, n=3)])
    house.gates[3].set()
    await wait_all_tasks_blocked()
    assert house.begun == [1, 3]
    assert house.peer.replies == []
    house.gates[1].set()
    await wait_all_tasks_blocked()
    assert [reply["id"] for reply in house.peer.replies[0]] == [2, 3, 1]
    assert house.peer.events[1:] == ["output of 2", "flush"]


async def test_a_batch_of_notifications_is_not_answered(house):
    """Not even with an empty array."""
    await house.say([notice("double"), notice("wait", n=1)])
    house.gates[1].set()
    await wait_all_tasks_blocked()
    assert house.done == [1]
    assert house.peer.replies == []


async def test_an_empty_batch_is_an_invalid_request(house):
    """It is answered as one call, as the specification says."""
    await house.say([])
    [reply] = house.peer.replies
    assert (reply["id"], code_of(reply)) == (None, -32600)


# What goes wrong


@pytest.mark.parametrize("method", ["raise", "raise_later"])
async def test_a_client_never_sees_the_text_of_an_exception(house, caplog, method):
    """What nobody expected is an internal error to the client, and a traceback to the log; the connection goes on."""
    await house.say(call(method))
    await wait_all_tasks_blocked()
    await house.say(call("double", 2, n=1))
    first, second = house.peer.replies
    assert first["error"] == {"code": -32603, "message": "Internal error; the daemon's log has the details"}
    assert second["result"] == 2
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, f"{method} failed")
    assert record.exc_info[1] is house.error


async def test_a_result_that_cannot_be_written_is_an_internal_error(house, caplog):
    """A method's fault is its own call's fault."""
    await house.say(call("odd"))
    assert code_of(house.peer.replies[0]) == -32603
    assert "odd failed" in caplog.text


@pytest.mark.parametrize("method", ["raise", "raise_later"])
async def test_an_expected_error_is_the_answer(house, method):
    """A method says what its client hears, now or later."""
    house.error = RPCError(ErrorCode.OUTPUT_GONE, "gone", {"oldest_seq": 5})
    await house.say(call(method))
    await wait_all_tasks_blocked()
    assert house.peer.replies[0]["error"] == {"code": -32007, "message": "gone", "data": {"oldest_seq": 5}}


@pytest.mark.parametrize(
    ("raised", "code", "message", "data"),
    [
        (RPCError(ErrorCode.QUEUE_FULL, "full", 1), ErrorCode.QUEUE_FULL, "full", 1),
        (
            StructureError([{"path": f"$.{n}", "error": "e"} for n in "abcd"]),
            ErrorCode.INVALID_PARAMS,
            "Invalid params: $.a: e; $.b: e; $.c: e",
            [{"path": f"$.{n}", "error": "e"} for n in "abcd"],
        ),
        (
            IllegalTransitionError(State.RUNNING, Event.RESUME),
            ErrorCode.INVALID_STATE,
            "cannot resume an execution that is RUNNING",
            {"state": "RUNNING"},
        ),
        (
            AdmissionError(Refusal.SESSION_LIMIT, "too many", max_sessions=3),
            ErrorCode.SESSION_LIMIT,
            "too many",
            {"max_sessions": 3},
        ),
        (AdmissionError(Refusal.NOT_ALLOWED, "no"), ErrorCode.COMMAND_NOT_ALLOWED, "no", None),
        (AdmissionError(Refusal.DRAINING, "no"), ErrorCode.DRAINING, "no", None),
        (
            SpawnError(2, "No such file or directory", "program", "nosuch"),
            ErrorCode.SPAWN_FAILED,
            "could not start: program 'nosuch': No such file or directory",
            {"errno": 2, "strerror": "No such file or directory", "subject": "program"},
        ),
        (StdinClosedError("closed"), ErrorCode.STDIN_CLOSED, "closed", None),
        (
            ExceptionGroup("hunter2", [ValueError("hunter2")]),
            ErrorCode.INTERNAL_ERROR,
            "Internal error; the daemon's log has the details",
            None,
        ),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else None,
)
def test_each_exception_has_its_error(raised, code, message, data):
    """What the rooms below raise is told in the contract's codes and facts."""
    error = as_rpc_error(raised, "m")
    assert (error.code, error.message, error.data) == (code, message, data)


def test_every_refusal_has_a_code():
    """A refusal that is added is an internal error until it has one here."""
    assert {as_rpc_error(AdmissionError(refusal, ""), "m").code for refusal in Refusal} == {
        ErrorCode.SESSION_LIMIT,
        ErrorCode.COMMAND_NOT_ALLOWED,
        ErrorCode.DRAINING,
        ErrorCode.AUDIT_UNAVAILABLE,
        ErrorCode.QUEUE_FULL,
        ErrorCode.IDEMPOTENCY_CONFLICT,
    }


async def test_what_is_done_to_executions_is_recorded():
    """Who has steered what, and why they were refused; what only looks is not worth a record."""
    async with trio.open_nursery() as nursery:
        house = House(nursery)
        await house.say(call("double", n=1), call("control", n=1))
        assert house.peer.recorded == [("uid:0", "127.0.0.1:5", {"method": "control", "decision": "allowed"})]
        nursery.cancel_scope.cancel()


async def test_cancellation_passes_the_barrier():
    """A connection that ends ends its calls: they are not answered."""
    async with trio.open_nursery() as nursery:
        house = House(nursery)
        await house.say(call("wait", n=1), [call("wait", n=2)])
        nursery.cancel_scope.cancel()
    assert house.peer.replies == []


# How many


@pytest.fixture
def _two_places(monkeypatch):
    monkeypatch.setattr(dispatch, "MAX_CALLS", dict.fromkeys(Kind, 2))


@pytest.mark.usefixtures("_two_places")
async def test_brief_calls_are_bounded(nursery):
    """With as many under way as allowed, the next one waits for one of them; no more is read."""
    house = House(nursery)
    nursery.start_soon(house.say, *[call("brief", n, n=n) for n in (1, 2, 3, 4)])
    await wait_all_tasks_blocked()
    assert house.begun == house.under_way == [1, 2]
    house.gates[1].set()
    await wait_all_tasks_blocked()
    assert house.begun == house.under_way == [1, 2, 3]


@pytest.mark.usefixtures("_two_places")
@pytest.mark.parametrize(
    ("method", "kind"), [("wait", Kind.WAITING), ("write", Kind.WRITING), ("control", Kind.STEERING)]
)
async def test_calls_that_may_wait_for_ever_are_refused_when_they_are_too_many(nursery, method, kind):
    """Nothing has been done of one that is refused; when another is done, there is a place again."""
    house = House(nursery)
    await house.say(*[call(method, n, n=n) for n in (1, 2, 3)], call("double", 4))
    assert house.begun == [1, 2]
    refusal, after_it = house.peer.replies
    assert (refusal["id"], code_of(refusal), after_it["id"]) == (3, ErrorCode.QUEUE_FULL, 4)
    assert refusal["error"]["data"] == {"limit": 2, "retry_after": dispatch.RETRY_AFTER}
    assert kind.value in refusal["error"]["message"]
    house.gates[1].set()
    await wait_all_tasks_blocked()
    await house.say(call(method, 5, n=5))
    assert house.begun == [1, 2, 5]


@pytest.mark.usefixtures("_two_places")
async def test_a_control_gets_through_whatever_waits(nursery):
    """Each kind has places of its own, and what is too much of one does not hold up the reader."""
    house = House(nursery)
    await house.say(*[call("wait", n, n=n) for n in range(50)], *[call("write", n, n=n) for n in range(50, 99)])
    await house.say(call("control", n=100), [call("brief", n=101), call("control", n=102)])
    assert house.begun == [0, 1, 50, 51, 100, 101, 102]


@pytest.mark.usefixtures("_two_places")
async def test_what_is_sent_all_at_once_gets_its_turn(nursery, monkeypatch):
    """The reader stops for a moment for a place that gets free soon."""
    monkeypatch.setattr(dispatch, "_PATIENCE", 1000.0)
    house = House(nursery)
    nursery.start_soon(house.say, *[call("write", n, n=n) for n in range(5)])
    for n in range(5):
        await wait_all_tasks_blocked()
        house.gates[n].set()
    await wait_all_tasks_blocked()
    assert house.done == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("_two_places")
async def test_what_really_waits_costs_those_behind_it_one_moment(nursery, monkeypatch):
    """However many are refused: until a place has been free, there is no use in waiting for one again."""
    monkeypatch.setattr(dispatch, "_PATIENCE", 0.5)
    house = House(nursery)
    began = trio.current_time()
    await house.say(*[call("wait", n, n=n) for n in range(50)])
    assert 0.5 <= trio.current_time() - began < 5


async def test_calls_that_do_not_wait_are_not_bounded(house, monkeypatch):
    """An answer that is there leaves its place to the next."""
    monkeypatch.setattr(dispatch, "MAX_CALLS", dict.fromkeys(Kind, 1))
    await house.say(*[call("double") for _ in range(10)], *[call("raise") for _ in range(10)])
    assert len(house.peer.replies) == 20


async def test_what_was_decided_is_done_though_the_connection_ends(monkeypatch):
    """A call that has been begun is carried on, and one that waited for a place has not been begun."""
    monkeypatch.setattr(dispatch, "MAX_CALLS", dict.fromkeys(Kind, 2))
    async with trio.open_nursery() as nursery:
        house = House(nursery)
        nursery.start_soon(house.say, *[call("careful", n, n=n) for n in (1, 2, 3)])
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert house.done == house.begun == [1, 2]
    gc.collect()  # a coroutine that was never awaited warns here, and fails the test


def test_a_method_knows_its_params():
    """A row of a table of methods is a class, a callable and what it waits for, nothing else."""
    assert list(inspect.signature(Method).parameters) == ["params", "call", "kind"]


async def test_a_method_asks_for_its_scope():
    """A caller without it is told which one, before its params are looked at; nothing has been done."""
    async with trio.open_nursery() as nursery:
        house = House(nursery)
        house.peer.principal = Principal("ci", {Scope.OBSERVE}, "token")
        await house.dispatcher.receive(b'{"jsonrpc":"2.0","id":1,"method":"control","params":{"n":"x"}}')
        await house.dispatcher.receive(b'{"jsonrpc":"2.0","id":2,"method":"wait","params":{"n":"x"}}')
        await house.dispatcher.receive(b'{"jsonrpc":"2.0","id":3,"method":"double","params":{"n":1}}')
        codes = [reply["error"]["code"] for reply in house.peer.replies]
        assert codes == [-32110, -32602, -32110], "what is in no table is for those who may do everything"
        assert house.peer.replies[0]["error"]["data"] == {"scope": "execute", "scopes": ["observe"]}
        assert not house.begun


async def test_a_call_beyond_its_scope_is_recorded():
    """Its peer is told so, which has it counted and put on record (`Refusals`)."""
    async with trio.open_nursery() as nursery:
        house = House(nursery)
        house.peer.principal = user(7, [Scope.OBSERVE])
        await house.say(call("control", n=1))
        ((reason,),) = house.peer.recorded
        assert reason == "uid:7 may not call control: it needs the scope 'execute'"
        nursery.cancel_scope.cancel()
