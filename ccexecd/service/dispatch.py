"""From a message to its answer.

Owns the order of things. Calls of one connection are begun in the order in which they came: what a call decides, it
decides in the step in which it is begun (a method is a plain function up to there), so a `control` sent right behind
its `execute` finds the execution. What then has to be waited for (a start, an end) is awaited in a task of its own:
the reader never waits on work. `MAX_CALLS` bounds how many wait at a time.
"""

import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import attrs
import trio

from ccexecd.core.execution import IllegalTransitionError
from ccexecd.engine import AdmissionError, Refusal
from ccexecd.process.leader import SpawnError
from ccexecd.process.standard_input import StdinClosedError
from ccexecd.protocol import jsonrpc, messages
from ccexecd.protocol.codec import StructureError, dumps
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import Call, Fault, RPCError
from ccexecd.service.peer import Peer

log = logging.getLogger(__name__)

MAX_CALLS = 128
"""Calls of one connection that may be under way; the next one is read when one of them is done."""

_BATCH_BYTES = 1001 * 1024
"""Bytes of the answer to a batch, as long as a single reply may be. A result that does not fit in is refused."""

_SMALL = 4096
"""Bytes of a reply that is never refused for its size: who started something is to learn its id."""


@attrs.frozen
class Answer:
    """A result, and what happens right after it has been sent: output never comes before the reply."""

    result: Any
    then: Callable[[], None] | None = None


@attrs.frozen
class Method:
    """One method.

    Attributes:
        params: the class of its params.
        call: takes the peer and the params; gives the result, an `Answer`, or an awaitable of either.
    """

    params: type
    call: Callable[[Peer, Any], Any]


class Dispatcher:
    """The calls of one connection.

    Args:
        methods: what it may call, by name.
        peer: who calls.
        nursery: where calls that wait live.
    """

    def __init__(self, methods: Mapping[str, Method], peer: Peer, nursery: trio.Nursery) -> None:
        self._methods = methods
        self._peer = peer
        self._nursery = nursery
        self._under_way = trio.Semaphore(MAX_CALLS)

    async def receive(self, text: bytes) -> None:
        """Take one message. Returns when its calls have been begun and there is room for another."""
        message = jsonrpc.parse(text)
        batch = _Batch(len(message.calls)) if message.is_batch else None
        for call in message.calls:
            await self._begin(call, batch)
        await self._peer.room()

    async def _begin(self, call: Call | Fault, batch: "_Batch | None") -> None:
        outcome: Any = None
        with self._barrier(call, batch):
            outcome = call.error if isinstance(call, Fault) else self._call(call)
            if not inspect.isawaitable(outcome):
                self._answer(call, batch, outcome)
        if inspect.isawaitable(outcome):
            try:
                await self._under_way.acquire()
            finally:  # cancelled, too: what has been decided is begun
                self._nursery.start_soon(self._finish, call, batch, outcome)

    def _call(self, call: Call) -> Any:
        method = self._methods.get(call.method)
        if method is None:
            raise RPCError(ErrorCode.METHOD_NOT_FOUND, f"Method not found: {call.method[:100]!r}")
        if call.problems:
            raise StructureError(list(call.problems))
        return method.call(self._peer, messages.params(call.params, method.params, lenient=self._peer.manner.lenient))

    async def _finish(self, call: Call | Fault, batch: "_Batch | None", outcome: Awaitable[Any]) -> None:
        try:
            with self._barrier(call, batch):
                self._answer(call, batch, await outcome)
        finally:
            self._under_way.release()

    @contextlib.contextmanager
    def _barrier(self, call: Call | Fault, batch: "_Batch | None") -> Iterator[None]:
        """Whatever goes wrong in a call becomes its answer, and ends nothing else."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # the barrier of a request; what is unexpected is logged
            self._answer(call, batch, as_rpc_error(error, call.method if isinstance(call, Call) else "a message"))

    def _answer(self, call: Call | Fault, batch: "_Batch | None", outcome: Any) -> None:
        """Send what came of a call; in a batch, when it is the last."""
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


class _Batch:
    """The answers of one batch, collected until the last has come."""

    def __init__(self, expected: int) -> None:
        self._missing = expected
        self._bytes = 0
        self.replies: list[object] = []
        self.thens: list[Callable[[], None] | None] = []

    def add(self, reply: dict[str, Any] | None, then: Callable[[], None] | None) -> bool:
        """Take one. Returns whether it was the last."""
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
    Refusal.NOT_ALLOWED: ErrorCode.COMMAND_NOT_ALLOWED,
    Refusal.DRAINING: ErrorCode.DRAINING,
}


def as_rpc_error(error: Exception, asked: str) -> RPCError:
    """What the client hears of an exception. Of one that nobody expected, it hears nothing; the log has it.

    Args:
        error: what a call raised.
        asked: the method, for the log.
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
        case SpawnError():
            facts = {"errno": error.errno, "strerror": error.strerror, "subject": error.subject}
            expected = RPCError(ErrorCode.SPAWN_FAILED, f"could not start: {error}", facts)
        case StdinClosedError():
            expected = RPCError(ErrorCode.STDIN_CLOSED, str(error))
        case _:
            log.error("%s failed", asked, exc_info=error)
            expected = RPCError(ErrorCode.INTERNAL_ERROR, "Internal error; the daemon's log has the details")
    return expected
