"""`release` and `drop`: what becomes of executions that are held.

Owns the params and results, and whose held executions a call is about. Must not decide whether anything may run: the
engine does.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from ccexecd.core.execution import Reason, State
from ccexecd.engine import Execution, PastExecution
from ccexecd.protocol import messages
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.naming import upon
from ccexecd.service.peer import Peer


def release(peer: Peer, wanted: messages.Held) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """Let what is held begin, or wait for its turn."""
    return _upon_held(peer, wanted, "released", peer.engine.held.release)


def drop(peer: Peer, wanted: messages.Held) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """End what is held: it never runs."""
    return _upon_held(peer, wanted, "dropped", lambda execution: execution.cancel(Reason.CANCELLED))


def _upon_held(
    peer: Peer, wanted: messages.Held, done: str, deed: Callable[[Execution], None]
) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """Do something with one, or with all that are the caller's."""

    def do(execution: Execution | PastExecution) -> dict[str, Any]:
        if not isinstance(execution, Execution) or execution.state is not State.HELD:
            text = f"execution {execution.id} is {execution.state.value}, not held"
            raise RPCError(ErrorCode.INVALID_STATE, text, {"state": execution.state.value})
        deed(execution)
        return {done: 1, "still_held": 0}

    async def do_all() -> dict[str, Any]:
        number, refused = await peer.engine.held.each(lambda each: peer.principal.controls(each.principal), deed)
        return {done: number, "still_held": refused}

    return upon(peer, wanted.execution_id, do) if wanted.execution_id is not None else do_all()
