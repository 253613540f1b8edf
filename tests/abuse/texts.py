"""Messages that no careful client sends, for both doors that speak JSON-RPC: what comes of each, as codes and ids."""

import json
from typing import Any

import attrs

from ccexecd.control.methods import operator_methods
from ccexecd.protocol import messages

METHODS = operator_methods(type("Daemon", (), {"status": dict})())  # never called

PARSE, INVALID, NO_METHOD, PARAMS = -32700, -32600, -32601, -32602


def call(method: str = "hook_status", call_id: str = "1", params: str = "{}") -> bytes:
    """A request, as text, so that its parts can be anything."""
    return f'{{"jsonrpc":"2.0","id":{call_id},"method":{json.dumps(method)},"params":{params}}}'.encode()


def batch(*calls: bytes) -> bytes:
    """Several at once."""
    return b"[" + b",".join(calls) + b"]"


NOTIFICATION = b'{"jsonrpc":"2.0","method":"pong"}'

TEXTS: dict[str, tuple[bytes, list[Any]]] = {
    # no JSON
    "empty": (b"", [(None, PARSE)]),
    "words": (b"hello", [(None, PARSE)]),
    "half": (call()[:-1], [(None, PARSE)]),
    "two": (call() + call(), [(None, PARSE)]),
    "byte order mark": (b"\xef\xbb\xbf" + call(), [(None, PARSE)]),
    "NaN": (call("list", params='{"limit":NaN}'), [(None, PARSE)]),
    "Infinity": (call("list", params='{"limit":-Infinity}'), [(None, PARSE)]),
    "single quotes": (call().replace(b'"', b"'"), [(None, PARSE)]),
    "comment": (b"/* */" + call(), [(None, PARSE)]),
    "trailing comma": (call("list", params='{"limit":1,}'), [(None, PARSE)]),
    "hexadecimal": (call("list", params='{"limit":0x1}'), [(None, PARSE)]),
    "raw control character": (call("list", params='{"label":"\x01"}'), [(None, PARSE)]),
    "raw NUL": (call("list", params='{"label":"\0"}'), [(None, PARSE)]),
    "brackets that never close": (b"[" * 100_000, [(None, PARSE)]),
    "braces that never close": (b'{"a":' * 50_000, [(None, PARSE)]),
    "string that never ends": (b'"' + b'\\"' * 100_000, [(None, PARSE)]),
    # JSON that is no call
    "null": (b"null", [(None, INVALID)]),
    "number": (b"1e5", [(None, INVALID)]),
    "deep": (b"[" * 500 + b"]" * 500, [[(None, INVALID)]]),
    "deeper than the parser goes": (b"[" * 5000 + b"]" * 5000, [[(None, INVALID)]]),
    "empty batch": (b"[]", [(None, INVALID)]),
    "batch of nothing": (b"[1,null,[],{}]", [[(None, INVALID)] * 4]),
    "an answer": (b'{"jsonrpc":"2.0","id":1,"result":{}}', [(1, INVALID)]),
    "version 1": (call().replace(b"2.0", b"1.0"), [(1, INVALID)]),
    "no method": (b'{"jsonrpc":"2.0","id":1}', [(1, INVALID)]),
    "method that is a number": (b'{"jsonrpc":"2.0","id":1,"method":5}', [(1, INVALID)]),
    "params that are a text": (call(params='"x"'), [(1, INVALID)]),
    # ids
    "id that is true": (call(call_id="true"), [(None, INVALID)]),
    "id that is an object": (call(call_id="{}"), [(None, INVALID)]),
    "id that is a lone surrogate": (call(call_id=r'"\ud800"'), [(None, INVALID)]),
    "id beyond a double": (call(call_id="1e999"), [(None, INVALID)]),
    "id with a NUL": (call(call_id=r'"\u0000"'), [("\0", None)]),
    "id of 100 KB": (call(call_id='"' + "x" * 100_000 + '"'), [("x" * 100_000, None)]),
    "id that is null": (call(call_id="null"), [(None, None)]),
    "id that is a fraction": (call(call_id="0.1"), [(0.1, None)]),
    "id twice": (call().replace(b'"id":1', b'"id":7,"id":8'), [(8, None)]),
    "the same id a hundred times": (batch(*[call()] * 100), [[(1, None)] * 100]),
    # methods
    "method of no characters": (call(""), [(1, NO_METHOD)]),
    "method with a NUL": (call("list\0"), [(1, NO_METHOD)]),
    "method with a line feed": (call("list\n"), [(1, NO_METHOD)]),
    "method of another alphabet": (call("l\u0456st"), [(1, NO_METHOD)]),
    "method of 100 KB": (call("x" * 100_000), [(1, NO_METHOD)]),
    "method of terminal escapes": (call("\x1b]0;gone\x07"), [(1, NO_METHOD)]),
    "method of the inside": (call("__class__"), [(1, NO_METHOD)]),
    "method in upper case": (call("LIST"), [(1, NO_METHOD)]),
    "method that is an attribute": (call("list.__globals__"), [(1, NO_METHOD)]),
    # params
    "positional": (call(params="[1,2]"), [(1, PARAMS)]),
    "duplicate": (call("execute", params='{"argv":["true"],"argv":5}'), [(1, PARAMS)]),
    "unknown": (call(params='{"__proto__":{},"constructor":1}'), [(1, PARAMS)]),
    "a million unknown": (call(params="{" + ",".join(f'"k{n}":0' for n in range(60_000)) + "}"), [(1, PARAMS)]),
    "faults without number": (call("execute", params='{"argv":[' + "1," * 200_000 + "1]}"), [(1, PARAMS)]),
    "lone surrogate": (call("execute", params=r'{"argv":["\udfff"]}'), [(1, PARAMS)]),
    "key that is a lone surrogate": (call("execute", params=r'{"\ud800":1,"argv":["true"]}'), [(1, PARAMS)]),
    "NUL in a word": (call("execute", params=r'{"argv":["true","\u0000"]}'), [(1, PARAMS)]),
    "number beyond a double": (call("list", params='{"limit":1e400}'), [(1, PARAMS)]),
    "integer of 5000 digits": (call("list", params='{"limit":' + "9" * 5000 + "}"), [(1, PARAMS)]),
    "negative": (call("list", params='{"limit":-1}'), [(1, PARAMS)]),
    "fraction": (call("list", params='{"limit":0.5}'), [(1, PARAMS)]),
    "deep param": (call("execute", params='{"env":' + "[" * 900 + "]" * 900 + "}"), [(1, PARAMS)]),
    "regular expression": (call("list", params='{"label":"(a+)+$=' + "a" * 50_000 + '"}'), [(1, None)]),
    "path": (call("wait", params='{"execution_id":"../../../etc/passwd"}'), [(1, -32003)]),
    "id of 100 KB that is nobody's": (call("wait", params='{"execution_id":"' + "a" * 100_000 + '"}'), [(1, -32003)]),
    "an SQL injection": (call("wait", params='{"execution_id":"\' OR 1=1 --"}'), [(1, -32003)]),
    # batches
    "batch of everything": (
        batch(b"1", NOTIFICATION, call(call_id='"a"'), call("nope", "2"), call(params="[]"), b"[]", b'"x"'),
        [[(None, INVALID), ("a", None), (2, NO_METHOD), (1, PARAMS), (None, INVALID), (None, INVALID)]],
    ),
    "batch of notifications": (batch(*[NOTIFICATION] * 1000), []),
    "batch of a thousand": (batch(*[call()] * 1000), [[(1, None)] * 1000]),
    "batch of a thousand and one": (batch(*[call()] * 1001), [(None, INVALID)]),
    "batch of a hundred thousand": (batch(*[b"1"] * 100_000), [(None, INVALID)]),
    "batch in a batch": (batch(batch(call())), [[(None, INVALID)]]),
    "notification that fails": (b'{"jsonrpc":"2.0","method":"wait"}', []),
}
"""What is sent, and what is answered: (id, code) of each, in a list where it is a batch; no code is a result."""

WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 1e300, 2**63, 2**64 - 1, "", "x", "\0", "\u202e", "a" * 5000),
    *([], [None], [1], [[]], ["x", None], {}, {"x": None}, {"": ""}, {"\0": "\0"}, [{}] * 50),
)
"""Values of every type, for every param of every method."""

TAKES_HOLD = {"stop", "reload", "token_add", "token_rotate", "token_revoke", "resume_session"}
"""Methods that change the daemon, or end what the sender is: called with faulty params only."""


def calls_with_wrong_types(method: str) -> list[dict[str, Any]]:
    """Params for a method: each of them of every type, next to what the others need."""
    cls = METHODS[method].params
    needed: dict[str, Any] = {
        "execution_id": "nobody's", "argv": ["true"], "type": "PAUSE", "data": "x", "cols": 1, "rows": 1,
        "session_id": "x", "resume_token": "x", "name": "nobody", "scopes": ["observe"],
    }  # fmt: skip
    base = {field.name: needed[field.name] for field in attrs.fields(cls) if field.name in needed}
    if cls is messages.WriteStdin:
        base.pop("data_base64", None)
    tried = [{**base, field.name: value} for field in attrs.fields(cls) for value in WRONG]
    extra = {"no_such_param": 1} if method in TAKES_HOLD else {}
    return [{**params, **extra} for params in (*tried, dict.fromkeys(base, WRONG[-1]), {**base, "x": 1})]


def answers_of(reply: Any) -> Any:
    """A reply in the form of `TEXTS`."""
    if isinstance(reply, list):
        return [answers_of(each) for each in reply]
    return reply["id"], reply["error"]["code"] if "error" in reply else None
