"""The error codes of the wire contract, shared by the daemon and its clients.

Owns the numbers and nothing else. Standard library only: ccexecctl imports it on every start.

Codes from -32020 to -32099 belong to the Model Context Protocol and are never used here; the operator's own codes
therefore start at -32110, outside JSON-RPC's reserved server range.
"""

from enum import IntEnum


class ErrorCode(IntEnum):
    """A JSON-RPC error code. The name is the word that documents and logs use."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603

    SESSION_LIMIT = -32001
    COMMAND_NOT_ALLOWED = -32002
    PROCESS_NOT_FOUND = -32003
    STREAM_TIMEOUT = -32004
    INVALID_STATE = -32005
    SPAWN_FAILED = -32006
    OUTPUT_GONE = -32007
    QUEUE_FULL = -32008
    LIMIT_EXCEEDED = -32009
    DRAINING = -32010
    IDEMPOTENCY_CONFLICT = -32011
    STDIN_CLOSED = -32012
    AUDIT_UNAVAILABLE = -32013
    AMBIGUOUS_EXECUTION = -32014
    HISTORY_UNAVAILABLE = -32015

    NOT_PERMITTED = -32110
    CONFIG_INVALID = -32111


class CloseCode(IntEnum):
    """A WebSocket close code that the daemon sends. None of them tells how a process ended."""

    NORMAL = 1000
    GOING_AWAY = 1001
    POLICY = 1008
    TOO_BIG = 1009
    NOT_AUTHORISED = 4401
    TAKEN_OVER = 4409
    TOO_SLOW = 4429
