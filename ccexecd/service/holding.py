"""The methods `release` and `drop`, for executions that are held.

Owns their results, and which held executions a call is about. Must not decide whether anything may run: the engine
does.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from ccexecd.core.execution import Reason, State
from ccexecd.engine import Execution, PastExecution
from ccexecd.protocol import messages
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.naming import call_with_execution
from ccexecd.service.peer import Peer


def release(peer: Peer, wanted: messages.Held) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """`release`: let held executions begin, or wait for their turn."""
    return _upon_held(peer, wanted, "released", peer.engine.held.release)


def drop(peer: Peer, wanted: messages.Held) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """`drop`: end held executions, which then never run."""
    return _upon_held(peer, wanted, "dropped", lambda execution: execution.cancel(Reason.CANCELLED))


def _upon_held(
    peer: Peer, wanted: messages.Held, done: str, deed: Callable[[Execution], None]
) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """Do something with one held execution, or with all that the caller controls.

    Args:
        peer: the caller.
        wanted: names one execution, or none for all.
        done: key of the result for how many it was done with.
        deed: what to do with each.

    Raises:
        RPCError: the execution that was named is not held.
    """

    def do(execution: Execution | PastExecution) -> dict[str, Any]:
        if not isinstance(execution, Execution) or execution.state is not State.HELD:
            text = f"execution {execution.id} is {execution.state.value}, not held"
            raise RPCError(ErrorCode.INVALID_STATE, text, {"state": execution.state.value})
        deed(execution)
        return {done: 1, "still_held": 0}

    async def do_all() -> dict[str, Any]:
        number, refused = await peer.engine.held.each(lambda each: peer.principal.controls(each.principal), deed)
        return {done: number, "still_held": refused}

    return call_with_execution(peer, wanted.execution_id, do) if wanted.execution_id is not None else do_all()
