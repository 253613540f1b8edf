"""Calls that the audit tells of: what was asked for, and what was decided.

Owns when that is told, and in which words. A call that decides in the step in which it begins is told of then, however
long its end takes: a crash in between must not make it unasked. One that has to look for something first, a name in
the history, say, is told of when that has decided it. What was allowed and could not be done in the end gets a second
record, with the reason.
"""

import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from ccexecd.core.execution import IllegalTransitionError
from ccexecd.engine import AdmissionError
from ccexecd.protocol.codec import StructureError
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.peer import Peer

RECORDED = frozenset(
    {"control", "release", "drop", "resume_session", "reload", "stop"}
    | {"token_add", "token_rotate", "token_revoke", "hook_run"}
)
"""Methods that the audit tells of, besides `execute`, which the gate sees to: they do something to what others run."""

TOLD = ("execution_id", "session_id", "type", "signal", "name", "all")
"""Params of these methods that it has, where they are given."""

_REASON = 500  # characters of a refusal's text on record

_REFUSALS = (RPCError, IllegalTransitionError, StructureError, AdmissionError)
"""What a call raises that is refused; everything else is a fault of ours."""


class Undecided(Awaitable[Any]):
    """The outcome of a call that cannot decide at once: awaited, it gives the result.

    Args:
        deciding: gives what a call gives that has decided: its result, or an awaitable of that.

    Attributes:
        about: the whole id of the execution that was named, when it has been found; else empty.
    """

    __slots__ = ("_deciding", "about")

    def __init__(self, deciding: Awaitable[Any]) -> None:
        self._deciding = deciding
        self.about = ""

    def __await__(self) -> Generator[Any, Any, Any]:
        """Wait for the decision, and then for the result."""
        return self._whole().__await__()

    async def decided(self) -> Any:
        """Wait for the decision alone."""
        return await self._deciding

    async def _whole(self) -> Any:
        outcome = await self._deciding
        return await outcome if inspect.isawaitable(outcome) else outcome


def recorded(peer: Peer, method: str, params: object, call: Callable[[], Any]) -> Any:
    """Make a call of somebody, and put it on record.

    Args:
        peer: who calls.
        method: what.
        params: with what.
        call: does it, and gives its outcome.

    Returns:
        The outcome, or an awaitable of it.
    """
    which = {name: getattr(params, name, None) for name in TOLD}
    if method == "control" and which["execution_id"] is None and peer.session and len(peer.session.live) == 1:
        (which["execution_id"],) = peer.session.live  # the one that is meant where none is named
    record = _Record(peer, {"method": method, **{name: value for name, value in which.items() if value}})
    try:
        outcome = call()
    except _REFUSALS as refused:
        record.refused(refused)
        raise
    if isinstance(outcome, Undecided):
        return _once_decided(record, outcome)
    record.allowed()
    return _to_its_end(record, outcome) if inspect.isawaitable(outcome) else outcome


class _Record:
    """What is told of one call.

    Args:
        peer: whose it is.
        facts: what was asked for.
    """

    def __init__(self, peer: Peer, facts: dict[str, object]) -> None:
        self._peer = peer
        self._facts = facts

    def names(self, execution_id: str) -> None:
        """It is about this execution, by whatever beginning of its id it was named."""
        if execution_id:
            self._facts["execution_id"] = execution_id

    def allowed(self, reason: str = "") -> None:
        """It is done."""
        self._tell({"decision": "allowed", "reason": reason} if reason else {"decision": "allowed"})

    def refused(self, error: Exception) -> None:
        """It is not done, or could not be."""
        self._tell({"decision": "refused", "reason": str(error)[:_REASON]})

    def _tell(self, decision: dict[str, str]) -> None:
        self._peer.engine.gate.asked(self._peer.principal.name, self._peer.origin, {**self._facts, **decision})


async def _once_decided(record: _Record, undecided: Undecided) -> Any:
    try:
        outcome = await undecided.decided()
    except _REFUSALS as refused:
        record.names(undecided.about)
        record.refused(refused)
        raise
    except BaseException:  # its caller has gone: nobody must be able to do something unseen by that
        record.names(undecided.about)
        record.allowed("its end is not known: its caller left before, or the daemon's log has more")
        raise
    record.names(undecided.about)
    record.allowed()
    return await _to_its_end(record, outcome) if inspect.isawaitable(outcome) else outcome


async def _to_its_end(record: _Record, outcome: Awaitable[Any]) -> Any:
    try:
        return await outcome
    except _REFUSALS as refused:
        record.refused(refused)
        raise
