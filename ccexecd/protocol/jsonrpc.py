"""JSON-RPC 2.0 envelopes: what is a request, what is the answer to a broken one.

Owns the envelope exactly as the specification has it (https://www.jsonrpc.org/specification): batches, notifications,
ids, error objects. Must not know any method or structure any params.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from ccexecd.protocol.codec import JSONSyntaxError, dumps, loads
from ccexecd.protocol.diagnosis import Problem
from ccexecd.protocol.errors import ErrorCode

Id = str | int | float | None

MAX_BATCH = 1000
"""Calls in one batch; a longer one is refused whole rather than answered in part."""


class RPCError(Exception):
    """A request that is answered with an error.

    Args:
        code: which one.
        message: what, which object, why, what to do; it is shown to the client.
        data: further facts as plain JSON values.
    """

    def __init__(self, code: ErrorCode, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


@attrs.frozen
class Call:
    """A request or, when `wants_reply` is false, a notification. `id` may be null in either."""

    method: str
    params: dict[str, Any] | list[Any] | None
    id: Id
    wants_reply: bool
    problems: tuple[Problem, ...] = ()
    """Places in the params that could not be represented: the answer is INVALID_PARAMS with these."""


@attrs.frozen
class Fault:
    """An envelope so broken that only an error can answer it."""

    id: Id
    error: RPCError


@attrs.frozen
class Message:
    """One text as received: its calls in order, and whether they came as a batch (and are answered as one)."""

    calls: tuple[Call | Fault, ...]
    is_batch: bool


_ABSENT: Final = object()


def parse(text: bytes) -> Message:
    """Read one message. Never raises: what is wrong is a `Fault` among the calls."""
    try:
        value, problems = loads(text)
    except JSONSyntaxError as error:
        return Message((Fault(None, RPCError(ErrorCode.PARSE_ERROR, str(error))),), is_batch=False)
    if not isinstance(value, list):
        return Message((_call(value, problems),), is_batch=False)
    if not value:
        return Message((_invalid(None, "an empty batch asks for nothing"),), is_batch=False)
    if len(value) > MAX_BATCH:
        return Message((_invalid(None, f"a batch may hold {MAX_BATCH} calls at most"),), is_batch=False)
    own = _by_call(problems)
    return Message(tuple(_call(each, own.get(index, ())) for index, each in enumerate(value)), is_batch=True)


def _by_call(problems: Iterable[Problem]) -> dict[int, list[Problem]]:
    """The problems of each call of a batch, with paths that start at the call."""
    found: dict[int, list[Problem]] = {}
    for problem in problems:
        index, _, below = problem["path"].removeprefix("$[").partition("]")
        found.setdefault(int(index), []).append({**problem, "path": "$" + below})
    return found


def _invalid(call_id: Id, why: str) -> Fault:
    return Fault(call_id, RPCError(ErrorCode.INVALID_REQUEST, f"Invalid request: {why}"))


def _is_id(value: object) -> bool:
    return value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))


def _call(value: object, problems: Sequence[Problem]) -> Call | Fault:
    if not isinstance(value, dict):
        return _invalid(None, "a call is an object")
    masked = {problem["path"] for problem in problems}
    call_id = value.get("id", _ABSENT)
    if call_id is not _ABSENT and (not _is_id(call_id) or "$.id" in masked):
        return _invalid(None, '"id" is a string, a number or null')
    known_id = None if call_id is _ABSENT else call_id
    if value.get("jsonrpc") != "2.0":
        return _invalid(known_id, '"jsonrpc" must be "2.0"')
    method = value.get("method")
    if not isinstance(method, str) or "$.method" in masked:
        return _invalid(known_id, '"method" must be a string')
    params = value.get("params")
    mine = _in_params(problems)
    if not isinstance(params, dict | list) and params is not None and not mine:
        return _invalid(known_id, '"params" must be an object or an array')
    return Call(method, params, known_id, wants_reply=call_id is not _ABSENT, problems=mine)


def _in_params(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The problems in a call's params, with paths that start there as those of `structure` do."""
    mine = []
    for problem in problems:
        below = problem["path"].removeprefix("$.params")
        if below != problem["path"] and below[:1] in {"", ".", "["}:
            mine.append({**problem, "path": "$" + below})
    return tuple(mine)


def result(call_id: Id, value: object) -> dict[str, Any]:
    """The answer to a request that succeeded."""
    return {"jsonrpc": "2.0", "id": call_id, "result": value}


def error(call_id: Id, fault: RPCError) -> dict[str, Any]:
    """The answer to a request that failed."""
    body: dict[str, Any] = {"code": int(fault.code), "message": fault.message}
    if fault.data is not None:
        body["data"] = fault.data
    return {"jsonrpc": "2.0", "id": call_id, "error": body}


def notification(method: str, params: dict[str, Any]) -> bytes:
    """A message that is not answered, encoded."""
    return dumps({"jsonrpc": "2.0", "method": method, "params": params})
