"""Puts calls on record in the audit: what was asked for, and what was decided.

Owns when a call is recorded, and with which fields. A call that decides when it begins is recorded then, however long
the rest takes, so that a crash cannot hide that it was made. A call that has to look something up first, such as a name
in the history, is recorded when it has decided. A call that was allowed and then failed gets a second record, with the
reason.
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
"""Methods that are recorded here: those that change something others depend on. The gate records `execute`."""

TOLD = ("execution_id", "session_id", "type", "signal", "name", "all")
"""Params that a record repeats if the call has them."""

_REASON = 500  # characters of a refusal's text that a record holds

_REFUSALS = (RPCError, IllegalTransitionError, StructureError, AdmissionError)
"""What a call raises to refuse. Any other exception is a fault of the daemon."""


class Undecided(Awaitable[Any]):
    """The outcome of a call that has to look something up before it decides. Awaiting it gives the result.

    Args:
        deciding: awaited for the decision; gives the call's result, or an awaitable of that.

    Attributes:
        about: the id of the execution that the call is about, once it has been found; empty before.
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
    """Make a call, and put it on record.

    Args:
        peer: the caller.
        method: the method's name.
        params: its params.
        call: makes the call; returns its result, or an awaitable of that.

    Returns:
        The result, or an awaitable of it.

    Raises:
        Whatever `call` raises.
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
    """The records of one call.

    Args:
        peer: the caller.
        facts: the fields that say what was asked for.
    """

    def __init__(self, peer: Peer, facts: dict[str, object]) -> None:
        self._peer = peer
        self._facts = facts

    def names(self, execution_id: str) -> None:
        """Use an execution's whole id in the record, in place of the beginning that the caller may have given."""
        if execution_id:
            self._facts["execution_id"] = execution_id

    def allowed(self, reason: str = "") -> None:
        """Record that the call is allowed; `reason` says what else is to be known."""
        self._tell({"decision": "allowed", "reason": reason} if reason else {"decision": "allowed"})

    def refused(self, error: Exception) -> None:
        """Record that the call is refused, or failed after it was allowed."""
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
    except BaseException:  # say, its caller has gone: leaving early must not keep a call off the record
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
