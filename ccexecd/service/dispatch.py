"""From a client's message to its answer.

Owns the order of calls. Calls of one connection are begun in the order in which they came, and what a call decides, it
decides when it is begun (a method is a plain function up to there), so a `control` sent right behind its `execute`
finds the execution. What then has to be waited for (a start, an end) is awaited in a task of its own: the reader never
waits on work. `MAX_CALLS` bounds how many calls are under way at a time, for each kind separately, so that a `control`
gets through whatever else waits. Must not know what the methods do.
"""

import contextlib
import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from enum import Enum
from typing import Any

import attrs
import trio

from ccexecd.core.execution import IllegalTransitionError
from ccexecd.engine import AdmissionError, HistoryUnavailableError, Refusal
from ccexecd.process.leader import SpawnError
from ccexecd.process.standard_input import StdinClosedError
from ccexecd.protocol import jsonrpc, messages
from ccexecd.protocol.codec import StructureError, dumps
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import Call, Fault, RPCError
from ccexecd.service.peer import Peer
from ccexecd.service.recording import RECORDED, recorded
from ccexecd.service.scopes import needed, not_permitted

log = logging.getLogger(__name__)


class Kind(Enum):
    """What a call may have to wait for. Each kind has a limit of its own; the value names it in the refusal."""

    BRIEF = "calls"  # wait for the daemon itself, so never for long
    STEERING = "calls of control"
    WAITING = "calls that wait for a program"
    WRITING = "writes to programs"  # each holds its data in memory


MAX_CALLS = {Kind.BRIEF: 128, Kind.STEERING: 1024, Kind.WAITING: 1024, Kind.WRITING: 128}
"""Calls of one connection that may be under way, by kind. When that many brief calls are, the reader waits for one of
them to end. A call of another kind may never end, so one more is refused."""

_PATIENCE = 0.1
"""Seconds that the reader waits for a free place before it refuses a call: many short calls sent at once then get
theirs one after the other. It waits again only after a place has become free."""

RETRY_AFTER = 1.0
"""Seconds after which a client is told to try a refused call again; a guess, since programs end when they like."""

_BATCH_BYTES = 1001 * 1024
"""Bytes of the answer to a batch, which is as long as a single reply may be. A result beyond that becomes an error."""

_SMALL = 4096
"""Bytes of a reply that is sent in a batch in any case, so that whoever started an execution learns its id."""


@attrs.frozen
class Answer:
    """A result, with something to do right after the reply: output is never sent before it.

    Attributes:
        result: what the client gets, as a JSON value.
        then: called when the reply has been handed to the writer; None for nothing.
    """

    result: Any
    then: Callable[[], None] | None = None


@attrs.frozen
class Method:
    """One method of the wire.

    Attributes:
        params: the class of its params.
        call: takes the peer and the params; returns the result, an `Answer`, or an awaitable of either.
        kind: what such an awaitable may wait for.
    """

    params: type
    call: Callable[[Peer, Any], Any]
    kind: Kind = Kind.BRIEF


class Dispatcher:
    """The calls of one connection.

    Args:
        methods: name -> method, for those that this connection may call.
        peer: the client.
        nursery: runs the calls that have to wait.
    """

    def __init__(self, methods: Mapping[str, Method], peer: Peer, nursery: trio.Nursery) -> None:
        self._methods = methods
        self._peer = peer
        self._nursery = nursery
        self._places = {
            kind: _Places(most, math.inf if kind is Kind.BRIEF else _PATIENCE) for kind, most in MAX_CALLS.items()
        }

    async def receive(self, text: bytes) -> None:
        """Take one message, a call or a batch. Returns when all its calls have begun, and another may be read."""
        message = jsonrpc.parse(text)
        batch = _Batch(len(message.calls)) if message.is_batch else None
        for call in message.calls:
            is_under_way = await self._begin(call, batch)
            if is_under_way or batch is not None:
                # Let it answer, so that `room` counts its reply before more is read; and a batch may be long.
                await trio.lowlevel.checkpoint()
        await self._peer.room()

    async def _begin(self, call: Call | Fault, batch: "_Batch | None") -> bool:
        """Begin a call. Returns whether it goes on in a task of its own."""
        method = self._methods.get(call.method) if isinstance(call, Call) else None
        places = self._places[method.kind if method is not None else Kind.BRIEF]
        if places.are_taken:
            await places.room()
        outcome: Any = None
        with self._barrier(call, batch):
            outcome = call.error if isinstance(call, Fault) else self._call(call, method, places)
            if not inspect.isawaitable(outcome):
                self._answer(call, batch, outcome)
        if inspect.isawaitable(outcome):  # outside of the barrier: a call that has decided is always begun
            places.take()
            self._nursery.start_soon(self._finish, call, batch, outcome, places)
            return True
        return False

    def _call(self, call: Call, method: Method | None, places: "_Places") -> Any:
        if method is None:
            raise RPCError(ErrorCode.METHOD_NOT_FOUND, f"Method not found: {call.method[:100]!r}")
        if not self._peer.principal.may(needed(call.method)):
            refused = not_permitted(call.method, self._peer.principal)
            self._peer.turned_away(refused.message)
            raise refused
        self._peer.count(call.method)
        if call.problems:
            raise StructureError(list(call.problems))
        params: Any = messages.params(call.params, method.params, lenient=self._peer.manner.lenient)
        if places.are_taken:
            raise _too_many(method.kind)
        if call.method in RECORDED:
            return recorded(self._peer, call.method, params, lambda: method.call(self._peer, params))
        return method.call(self._peer, params)

    async def _finish(
        self, call: Call | Fault, batch: "_Batch | None", outcome: Awaitable[Any], places: "_Places"
    ) -> None:
        try:
            with self._barrier(call, batch):
                self._answer(call, batch, await outcome)
        finally:
            places.leave()

    @contextlib.contextmanager
    def _barrier(self, call: Call | Fault, batch: "_Batch | None") -> Iterator[None]:
        """Turn whatever a call raises into its answer, so that it ends nothing else."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # the barrier of a request; what is unexpected is logged
            self._answer(call, batch, as_rpc_error(error, call.method if isinstance(call, Call) else "a message"))

    def _answer(self, call: Call | Fault, batch: "_Batch | None", outcome: Any) -> None:
        """Send the reply to a call; those of a batch go together when the last one is there."""
        answer = outcome if isinstance(outcome, Answer) else Answer(outcome)
        if isinstance(call, Fault) or call.wants_reply:
            reply = (
                jsonrpc.error(call.id, answer.result)
                if isinstance(answer.result, RPCError)
                else jsonrpc.result(call.id, answer.result)
            )
        else:
            reply = None
        if batch is None:
            self._send(reply, [answer.then])
        elif batch.add(reply, answer.then):
            self._send(batch.replies or None, batch.thens)

    def _send(self, reply: object, thens: list[Callable[[], None] | None]) -> None:
        if reply is not None:
            self._peer.queue(reply)
        for then in thens:
            if then is not None:
                then()
        self._peer.flush()


class _Places:
    """The places for calls of one kind.

    Args:
        most: how many there are.
        patience: seconds that the reader waits for a free one; infinity for as long as it takes.
    """

    __slots__ = ("_free", "_is_patient", "_left", "_patience")

    def __init__(self, most: int, patience: float) -> None:
        self._free = most
        self._patience = patience
        self._is_patient = True
        self._left = trio.Event()

    @property
    def are_taken(self) -> bool:
        """Whether no place is free."""
        return self._free <= 0

    async def room(self) -> None:
        """Wait for a free place, for `patience` at most; return at once if that was in vain since one became free."""
        if self._is_patient:
            self._is_patient = False
            self._left = trio.Event()
            with trio.move_on_after(self._patience):
                await self._left.wait()

    def take(self) -> None:
        """Take a place for a call that is under way."""
        self._free -= 1

    def leave(self) -> None:
        """Give a place back."""
        self._free += 1
        self._is_patient = True
        self._left.set()


def _too_many(kind: Kind) -> RPCError:
    return RPCError(
        ErrorCode.QUEUE_FULL,
        f"{MAX_CALLS[kind]} {kind.value} are under way on this connection, as many as may be; nothing of this one has "
        "been done: send it again when one of them is answered",
        {"limit": MAX_CALLS[kind], "retry_after": RETRY_AFTER},
    )


class _Batch:
    """The replies to one batch, collected until the last one is there.

    Args:
        expected: how many calls the batch has.

    Attributes:
        replies: the replies so far; notifications have none.
        thens: what to do after they were sent.
    """

    def __init__(self, expected: int) -> None:
        self._missing = expected
        self._bytes = 0
        self.replies: list[object] = []
        self.thens: list[Callable[[], None] | None] = []

    def add(self, reply: dict[str, Any] | None, then: Callable[[], None] | None) -> bool:
        """Add the reply to a call, None for a notification's. Returns whether it was the last one."""
        self._missing -= 1
        if reply is not None:
            size = len(dumps(reply))
            if size > _SMALL and self._bytes + size > _BATCH_BYTES:
                reply = jsonrpc.error(reply["id"], _DOES_NOT_FIT)
            else:
                self._bytes += size
            self.replies.append(reply)
        self.thens.append(then)
        return not self._missing


_DOES_NOT_FIT = RPCError(
    ErrorCode.LIMIT_EXCEEDED,
    f"the results of this batch exceed {_BATCH_BYTES} bytes together; ask for less of them, or one at a time",
)

_REFUSALS = {
    Refusal.SESSION_LIMIT: ErrorCode.SESSION_LIMIT,
    Refusal.QUEUE_FULL: ErrorCode.QUEUE_FULL,
    Refusal.CONFLICT: ErrorCode.IDEMPOTENCY_CONFLICT,
    Refusal.NOT_ALLOWED: ErrorCode.COMMAND_NOT_ALLOWED,
    Refusal.DRAINING: ErrorCode.DRAINING,
    Refusal.UNRECORDED: ErrorCode.AUDIT_UNAVAILABLE,
}


def as_rpc_error(error: Exception, asked: str) -> RPCError:
    """The JSON-RPC error for an exception. An unexpected one is logged, and the client is told only that there was one.

    Args:
        error: what a call raised.
        asked: the method's name, for the log.
    """
    match error:
        case RPCError():
            expected = error
        case StructureError():
            faults = "; ".join(f"{problem['path']}: {problem['error']}" for problem in error.problems[:3])
            expected = RPCError(ErrorCode.INVALID_PARAMS, f"Invalid params: {faults}", error.problems)
        case IllegalTransitionError():
            expected = RPCError(ErrorCode.INVALID_STATE, str(error), {"state": error.state.value})
        case AdmissionError():
            expected = RPCError(_REFUSALS[error.refusal], str(error), error.facts or None)
        case SpawnError(subject="hook"):
            expected = RPCError(ErrorCode.COMMAND_NOT_ALLOWED, str(error))
        case SpawnError():
            facts = {"errno": error.errno, "strerror": error.strerror, "subject": error.subject}
            expected = RPCError(ErrorCode.SPAWN_FAILED, f"could not start: {error}", facts)
        case HistoryUnavailableError():
            expected = RPCError(ErrorCode.HISTORY_UNAVAILABLE, str(error), {"retry_after": RETRY_AFTER})
        case StdinClosedError():
            expected = RPCError(ErrorCode.STDIN_CLOSED, str(error))
        case _:
            log.error("%s failed", asked, exc_info=error)
            expected = RPCError(ErrorCode.INTERNAL_ERROR, "Internal error; the daemon's log has the details")
    return expected
