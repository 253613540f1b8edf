"""The methods about evidence: `verify` and `receipt`.

Owns their results and refusals. A caller may ask for the evidence of those executions that it may see (`naming`).
"""

import logging
from collections.abc import Awaitable
from typing import Any, TypeVar

from ccexecd.engine import Execution
from ccexecd.protocol import messages
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.dispatch import Kind, Method
from ccexecd.service.naming import known
from ccexecd.service.peer import Peer

log = logging.getLogger(__name__)

R = TypeVar("R")

_NOT_THERE = {"verified": False, "output": "unknown", "receipt": None}


async def verify(peer: Peer, wanted: messages.Verify) -> dict[str, Any]:
    """`verify`: whether an execution's receipt, its record in the history and its output agree."""
    execution = await known(peer, wanted.execution_id)
    if isinstance(execution, Execution) and execution.is_live:
        finding = {"verdict": "unfinished", "text": f"it is {execution.state.value}: a receipt is written when it ends"}
        return {"execution_id": execution.id, "verdict": "unfinished", "findings": [finding], **_NOT_THERE}
    result = await _told(peer.engine.records.verify(execution.id, wanted.expect_uuid))
    if result is None:
        finding = {"verdict": "missing", "text": "the history does not know it: nothing can be verified"}
        return {"execution_id": execution.id, "verdict": "missing", "findings": [finding], **_NOT_THERE}
    return result


async def receipt(peer: Peer, wanted: messages.Receipt) -> dict[str, Any]:
    """`receipt`: an execution's receipt with its proof; without one, the public key and the receipts' status."""
    if wanted.execution_id is None:
        return await _told(peer.engine.records.receipts_status())
    execution = await known(peer, wanted.execution_id)
    if isinstance(execution, Execution) and execution.is_live:
        text = f"execution {execution.id} has not finished; its receipt is written when it ends"
        raise RPCError(ErrorCode.INVALID_STATE, text, {"state": execution.state.value})
    found = await _told(peer.engine.records.receipt(execution.id))
    if found is None:
        raise RPCError(ErrorCode.PROCESS_NOT_FOUND, f"execution {execution.id} has no receipt; `verify` tells why")
    return found


async def _told(question: Awaitable[R]) -> R:
    """Await an answer; if the files cannot be read, the client gets an error, and the log the reason."""
    try:
        return await question
    except OSError as error:
        log.error("receipts cannot be read: %s", error)  # noqa: TRY400  # no fault of the program
        raise RPCError(
            ErrorCode.INTERNAL_ERROR, "the receipts or their key cannot be read; the daemon's log has the details"
        ) from None


EVIDENCE_METHODS = {
    "verify": Method(messages.Verify, verify, Kind.WAITING),
    "receipt": Method(messages.Receipt, receipt),
}
"""Name -> method, served at both doors."""
