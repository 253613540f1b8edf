"""Envelopes: every example of the specification, every way to break one, and no bytes that `parse` raises on."""

import json
import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccexecd.protocol.codec import dumps
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import MAX_BATCH, Call, Fault, Message, RPCError, error, notification, parse, result

# https://www.jsonrpc.org/specification, section 7: what is sent, and what is received (None: nothing). Our own words
# stand in for the messages of errors, so those are not compared.

PARSE_ERROR = {"jsonrpc": "2.0", "error": {"code": -32700}, "id": None}
INVALID = {"jsonrpc": "2.0", "error": {"code": -32600}, "id": None}

SPECIFICATION = {
    "positional parameters": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
        {"jsonrpc": "2.0", "result": 19, "id": 1},
    ),
    "positional parameters, reversed": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
        {"jsonrpc": "2.0", "result": -19, "id": 2},
    ),
    "named parameters": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
        {"jsonrpc": "2.0", "result": 19, "id": 3},
    ),
    "named parameters, reversed": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
        {"jsonrpc": "2.0", "result": 19, "id": 4},
    ),
    "a notification": ('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None),
    "a notification without params": ('{"jsonrpc": "2.0", "method": "foobar"}', None),
    "a method that does not exist": (
        '{"jsonrpc": "2.0", "method": "foobar", "id": "1"}',
        {"jsonrpc": "2.0", "error": {"code": -32601}, "id": "1"},
    ),
    "invalid JSON": ('{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', PARSE_ERROR),
    "an invalid request object": ('{"jsonrpc": "2.0", "method": 1, "params": "bar"}', INVALID),
    "a batch, invalid JSON": (
        '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},{"jsonrpc": "2.0", "method"]',
        PARSE_ERROR,
    ),
    "an empty array": ("[]", INVALID),
    "an invalid batch that is not empty": ("[1]", [INVALID]),
    "an invalid batch": ("[1,2,3]", [INVALID, INVALID, INVALID]),
    "a batch": (
        """[
            {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
            {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
            {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
            {"foo": "boo"},
            {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
            {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
        ]""",
        [
            {"jsonrpc": "2.0", "result": 7, "id": "1"},
            {"jsonrpc": "2.0", "result": 19, "id": "2"},
            INVALID,
            {"jsonrpc": "2.0", "error": {"code": -32601}, "id": "5"},
            {"jsonrpc": "2.0", "result": ["hello", 5], "id": "9"},
        ],
    ),
    "a batch of notifications": (
        """[
            {"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
            {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}
        ]""",
        None,
    ),
}


def subtract(minuend: int, subtrahend: int) -> int:
    """The specification's own example of a method."""
    return minuend - subtrahend


METHODS = {
    "subtract": subtract,
    "sum": lambda *numbers: sum(numbers),
    "get_data": lambda: ["hello", 5],
    "update": lambda *_: None,
    "notify_sum": lambda *_: None,
    "notify_hello": lambda *_: None,
}


def answer(call: Call | Fault) -> dict | None:
    """What a server with the specification's methods says to one call."""
    if isinstance(call, Fault):
        return error(call.id, call.error)
    if not call.wants_reply:
        return None
    if call.method not in METHODS:
        return error(call.id, RPCError(ErrorCode.METHOD_NOT_FOUND, "Method not found"))
    params = call.params or []
    return result(
        call.id, METHODS[call.method](**params) if isinstance(params, dict) else METHODS[call.method](*params)
    )


def converse(text: str) -> object:
    """What comes back for a text; messages of errors left out."""
    message = parse(text.encode())
    replies = [reply for reply in map(answer, message.calls) if reply is not None]
    for reply in replies:
        reply.get("error", {}).pop("message", None)
    if message.is_batch:
        return replies or None
    return replies[0] if replies else None


@pytest.mark.parametrize(("sent", "received"), SPECIFICATION.values(), ids=SPECIFICATION.keys())
def test_the_specifications_examples(sent, received):
    """Each example of section 7 is answered as the specification answers it."""
    assert converse(sent) == received


# Requests


@pytest.mark.parametrize("call_id", ["a", "", 0, -1, 1.5, 2**64 - 1, None])
def test_an_id_comes_back_as_it_went(call_id):
    """Strings, numbers and null are ids; a request with id null is a request."""
    text = dumps({"jsonrpc": "2.0", "method": "m", "id": call_id})
    assert parse(text) == Message((Call("m", None, call_id, wants_reply=True),), is_batch=False)


def test_a_request_without_id_wants_no_reply():
    """It is a notification, whatever else it holds."""
    [call] = parse(b'{"jsonrpc": "2.0", "method": "m", "params": {"a": 1}, "more": 2}').calls
    assert call == Call("m", {"a": 1}, None, wants_reply=False)


@pytest.mark.parametrize(
    ("request_", "call_id", "why"),
    [
        ("1", None, "a call is an object"),
        ('"m"', None, "a call is an object"),
        ("null", None, "a call is an object"),
        ("{}", None, '"jsonrpc" must be "2.0"'),
        ('{"method": "m", "id": 1}', 1, '"jsonrpc" must be "2.0"'),
        ('{"jsonrpc": "1.0", "method": "m", "id": 1}', 1, '"jsonrpc" must be "2.0"'),
        ('{"jsonrpc": 2.0, "method": "m", "id": 1}', 1, '"jsonrpc" must be "2.0"'),
        ('{"jsonrpc": "2.0", "id": 1}', 1, '"method" must be a string'),
        ('{"jsonrpc": "2.0", "id": "x", "method": null}', "x", '"method" must be a string'),
        ('{"jsonrpc": "2.0", "id": 1, "method": "m", "params": "p"}', 1, '"params" must be an object or an array'),
        ('{"jsonrpc": "2.0", "id": 1, "method": "m", "params": 0}', 1, '"params" must be an object or an array'),
        ('{"jsonrpc": "2.0", "id": true, "method": "m"}', None, '"id" is a string, a number or null'),
        ('{"jsonrpc": "2.0", "id": [1], "method": "m"}', None, '"id" is a string, a number or null'),
        ('{"jsonrpc": "2.0", "id": {}, "method": "m"}', None, '"id" is a string, a number or null'),
        (r'{"jsonrpc": "2.0", "id": "\ud800", "method": "m"}', None, '"id" is a string, a number or null'),
        ('{"jsonrpc": "2.0", "id": 1e999, "method": "m"}', None, '"id" is a string, a number or null'),
        (r'{"jsonrpc": "2.0", "id": 1, "method": "\ud800"}', 1, '"method" must be a string'),
        (r'{"jsonrpc": "\ud800", "id": 1, "method": "m"}', 1, '"jsonrpc" must be "2.0"'),
    ],
)
def test_a_broken_envelope_is_answered_with_what_is_wrong(request_, call_id, why):
    """The answer has the id where there is a legal one, else null, by itself as well as in a batch."""
    for text, is_batch in ((request_, False), (f"[{request_}]", True)):
        message = parse(text.encode())
        assert message.is_batch is is_batch
        [fault] = message.calls
        assert (fault.id, fault.error.code) == (call_id, ErrorCode.INVALID_REQUEST)
        assert str(fault.error) == f"Invalid request: {why}"


def test_params_that_cannot_be_represented_are_named():
    """The call is known, so its id and method are; what is wrong has its path in the params."""
    [call] = parse(
        rb'{"jsonrpc": "2.0", "id": 7, "method": "m", "params": {"argv": ["ls", "\ud800"], "timeout": 1e999}}'
    ).calls
    assert (call.id, call.method) == (7, "m")
    assert call.problems == (
        {"path": "$.argv[1]", "error": "string holds a lone surrogate, which is not a character"},
        {"path": "$.timeout", "error": "number of 5 characters is out of range"},
    )


def test_params_that_are_nothing_but_wrong_are_named():
    """The params themselves are the root of a path."""
    [call] = parse(rb'{"jsonrpc": "2.0", "id": 7, "method": "m", "params": "\ud800"}').calls
    assert call.problems == ({"path": "$", "error": "string holds a lone surrogate, which is not a character"},)


def test_what_is_wrong_elsewhere_is_not_the_params_fault():
    """A member that means nothing here may hold anything; so may one whose name only begins like params."""
    [call] = parse(rb'{"jsonrpc": "2.0", "id": 7, "method": "m", "x": "\ud800", "paramsx": 1e999}').calls
    assert call == Call("m", None, 7, wants_reply=True)


def test_each_call_of_a_batch_has_its_own_problems():
    """Call 1 is not blamed for what is in call 0 or 10."""
    bad = '{"jsonrpc": "2.0", "id": 1, "method": "m", "params": [1e999]}'
    good = '{"jsonrpc": "2.0", "id": 1, "method": "m", "params": [1]}'
    message = parse(f"[{bad}, {', '.join([good] * 9)}, {bad}, 1e999]".encode())
    problem = ({"path": "$[0]", "error": "number of 5 characters is out of range"},)
    assert [getattr(call, "problems", None) for call in message.calls] == [problem, *[()] * 9, problem, None]


def test_a_batch_of_the_greatest_length_is_read():
    """The limit is inclusive."""
    text = dumps([{"jsonrpc": "2.0", "method": "m", "id": number} for number in range(MAX_BATCH)])
    assert [call.id for call in parse(text).calls] == list(range(MAX_BATCH))


def test_a_longer_batch_is_refused_whole():
    """Nothing of it is begun, and the one answer names the limit."""
    text = dumps([{"jsonrpc": "2.0", "method": "m", "id": number} for number in range(MAX_BATCH + 1)])
    message = parse(text)
    [fault] = message.calls
    assert (fault.id, message.is_batch) == (None, False)
    assert str(fault.error) == "Invalid request: a batch may hold 1000 calls at most"


def test_a_batch_full_of_faults_takes_no_longer_than_another():
    """Faults are looked up for their call: not every fault for every call."""
    call, faulty = b'{"jsonrpc":"2.0","method":""}', b'"\\ud800",' * 80_000
    text = b"[" + (call + b",") * 900 + b'{"jsonrpc":"2.0","method":"","params":[' + faulty + b"1]}]"
    before = time.process_time()
    assert len(parse(text).calls[-1].problems) == 80_000
    assert time.process_time() - before < 8


# Whatever comes

ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.sampled_from(["2.0", "1.0", 2]),
        "id": st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just([]),
        "method": st.text(max_size=3) | st.none(),
        "params": st.none()
        | st.lists(st.integers())
        | st.dictionaries(st.text(max_size=3), st.text(max_size=3))
        | st.text(),
    },
)
SHAPES = st.recursive(
    ENVELOPES | st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def check(message: Message) -> None:
    """Every message has something to answer or to do, and every answer can be written."""
    assert message.calls
    for call in message.calls:
        if isinstance(call, Fault):
            reply = orjson.loads(dumps(error(call.id, call.error)))
            assert reply["error"]["code"] in {-32700, -32600}
            assert reply["id"] == call.id
        else:
            assert isinstance(call.method, str)
            dumps(result(call.id, None))


@settings(deadline=None)
@given(st.binary())
def test_no_bytes_are_raised_on(text):
    """Whatever comes from the wire is answered."""
    check(parse(text))


@settings(deadline=None, max_examples=200)
@given(SHAPES)
def test_no_json_is_raised_on(value):
    """JSON of any shape is read: strings in any escape, numbers of any size, NaN where a client writes it."""
    check(parse(json.dumps(value).encode()))


@settings(deadline=None)
@given(SHAPES, st.data())
def test_no_damage_is_raised_on(value, data):
    """A message that was cut or changed anywhere is answered, too."""
    text = bytearray(json.dumps(value).encode())
    place = data.draw(st.integers(0, len(text)))
    text[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check(parse(bytes(text)))


@settings(deadline=None)
@given(call=ENVELOPES)
def test_an_envelope_is_a_call_exactly_when_it_is_legal(call):
    """The judgement, made again in the words of the specification."""
    call_id = call.get("id")
    legal = (
        call.get("jsonrpc") == "2.0"
        and isinstance(call.get("method"), str)
        and not isinstance(call_id, bool | list)
        and isinstance(call.get("params"), dict | list | None)
    )
    text = json.dumps(call).encode()
    fits = not isinstance(call_id, int) or -(2**63) <= call_id < 2**64
    [parsed] = parse(text).calls
    if not legal:
        assert isinstance(parsed, Fault)
    elif fits:
        assert parsed == Call(call["method"], call.get("params"), call_id, wants_reply="id" in call)


# Answers


def test_an_error_has_data_only_where_there_is_some():
    """`data` is left out, not null."""
    fault = RPCError(ErrorCode.OUTPUT_GONE, "gone")
    assert error(1, fault) == {"jsonrpc": "2.0", "id": 1, "error": {"code": -32007, "message": "gone"}}
    fault = RPCError(ErrorCode.OUTPUT_GONE, "gone", {"oldest_seq": 5})
    assert error(1, fault)["error"]["data"] == {"oldest_seq": 5}


def test_a_notification_has_no_id():
    """Nothing of it can be taken for a request."""
    assert orjson.loads(notification("m", {"a": 1})) == {"jsonrpc": "2.0", "method": "m", "params": {"a": 1}}
