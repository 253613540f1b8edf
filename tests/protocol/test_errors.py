"""The numbers of the wire contract, copied from it by hand: they never change."""

from ccexecd.protocol.errors import CloseCode, ErrorCode

CONTRACT = {
    "PARSE_ERROR": -32700,
    "INVALID_REQUEST": -32600,
    "METHOD_NOT_FOUND": -32601,
    "INVALID_PARAMS": -32602,
    "INTERNAL_ERROR": -32603,
    "SESSION_LIMIT": -32001,
    "COMMAND_NOT_ALLOWED": -32002,
    "PROCESS_NOT_FOUND": -32003,
    "STREAM_TIMEOUT": -32004,
    "INVALID_STATE": -32005,
    "SPAWN_FAILED": -32006,
    "OUTPUT_GONE": -32007,
    "QUEUE_FULL": -32008,
    "LIMIT_EXCEEDED": -32009,
    "DRAINING": -32010,
    "IDEMPOTENCY_CONFLICT": -32011,
    "STDIN_CLOSED": -32012,
    "AUDIT_UNAVAILABLE": -32013,
    "AMBIGUOUS_EXECUTION": -32014,
    "HISTORY_UNAVAILABLE": -32015,
    "NOT_PERMITTED": -32110,
    "CONFIG_INVALID": -32111,
}


def test_error_codes_are_those_of_the_contract():
    """Every code, no other, under its name."""
    assert {code.name: code.value for code in ErrorCode} == CONTRACT


def test_no_error_code_belongs_to_mcp():
    """-32020 to -32099 are the Model Context Protocol's."""
    assert not [code for code in ErrorCode if -32099 <= code <= -32020]


def test_close_codes_are_those_of_the_contract():
    """Every code, no other, under its name."""
    assert {code.name: code.value for code in CloseCode} == {
        "NORMAL": 1000,
        "GOING_AWAY": 1001,
        "POLICY": 1008,
        "TOO_BIG": 1009,
        "NOT_AUTHORISED": 4401,
        "TAKEN_OVER": 4409,
        "TOO_SLOW": 4429,
    }
