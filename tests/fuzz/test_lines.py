"""The control socket: a message a line, however the bytes come; each that wants an answer has exactly one, its own."""

import itertools
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import attrs
import orjson
import trio
from hypothesis import given
from hypothesis import strategies as st

from ccexecd.control.connection import _read
from ccexecd.control.connection import line as as_line
from ccexecd.control.methods import operator_methods
from ccexecd.protocol.framing import DEFAULT_LIMIT, LineBuffer, LineTooLongError
from ccexecd.protocol.jsonrpc import Fault, parse
from ccexecd.service.dispatch import Answer, Dispatcher, Method
from tests.fuzz.cases import Sender, cases, cut, kept
from tests.service.test_dispatch import ListeningPeer


def echo(name: str, method: Method) -> Method:
    """A method of the real one's name and params that does nothing: half of them say so later."""

    def now(_peer: object, params: Any) -> Answer:
        return Answer({"called": name, "with": type(params).__name__})

    async def later(peer: object, params: Any) -> Answer:
        await trio.lowlevel.checkpoint()
        return now(peer, params)

    return attrs.evolve(method, call=later if len(name) % 2 else now)


METHODS = {
    name: echo(name, method)
    for name, method in operator_methods(SimpleNamespace(status=dict)).items()  # never called
}

GIVEN = (
    "",
    '{"execution_id":"x"}',
    '{"argv":["true"]}',
    '{"command":5}',
    "[1]",
    "null",
    '{"x":"\\ud800"}',
    '{"limit":1e400}',
    "5",
)
ODD_LINES = (
    *(b"", b" ", b"\r", b"\0", b"{", b"[]", b"[1,2]", b"null", b"\xff\xfe", b"GET / HTTP/1.1\r", b'{"jsonrpc":"2.0"}'),
    *(
        b'{"jsonrpc":"2.0","method":"list"}',
        b'[{"jsonrpc":"2.0","method":"list"}]',
        b"[" * 300,
        b"\x16\x03\x01",
        b"stop",
    ),
    *(b'{"jsonrpc":"2.0","result":{},"id":1}', b'"\xc3"', b'{"jsonrpc":"2.0","id":[],"method":"list"}'),
)


def call(method: str, number: int, params: str) -> bytes:
    """A request as a line has it."""
    given_ = f',"params":{params}' if params else ""
    return f'{{"jsonrpc":"2.0","id":{number},"method":{json.dumps(method)}{given_}}}'.encode()


CALLS = [
    call(method, number, params)
    for number, (method, params) in enumerate(itertools.product([*METHODS, "", "no such method"], GIVEN))
]
BATCHES = [b"[" + b",".join(CALLS[start::97]) + b"]" for start in range(97)]
LINES = st.sampled_from((*CALLS, *BATCHES, *ODD_LINES * 3)) | st.binary(max_size=30).map(
    lambda data: data.replace(b"\n", b"}")
)
CUTS = st.lists(st.integers(0, 2000), max_size=5)


async def _converse(sender: Sender) -> list[Any]:
    peer = ListeningPeer()
    async with trio.open_nursery() as nursery:
        await _read(sender, Dispatcher(METHODS, peer, nursery), peer)
    return peer.replies


def told(data: bytes, cuts: list[int]) -> Counter[str]:
    """The answers to these bytes in pieces, in whatever order calls were done."""
    replies = trio.run(_converse, Sender(cut(data, cuts)))
    for reply in replies:
        assert b"\n" not in as_line(orjson.dumps(reply))[:-1], "an answer is a line"
        for each in reply if isinstance(reply, list) else [reply]:
            check_answer(each)
    return Counter(json.dumps(reply, sort_keys=True) if isinstance(reply, dict) else by_id(reply) for reply in replies)


def by_id(batch: list[dict[str, Any]]) -> str:
    """The answers to a batch may be in any order (the specification, section 6)."""
    return json.dumps(sorted(json.dumps(each, sort_keys=True) for each in batch))


def check_answer(reply: dict[str, Any]) -> None:
    """The form that section 5 asks for, and nothing about our inside."""
    assert reply["jsonrpc"] == "2.0"
    assert reply.keys() in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})
    if "error" in reply:
        assert reply["error"].keys() <= {"code", "message", "data"}
        assert reply["error"]["code"] in {-32700, -32600, -32601, -32602}
        assert len(reply["error"]["message"]) > 10


def wanted(data: bytes) -> Counter[str]:
    """The ids that must be answered, told without the daemon's own order of things: line by line, call by call."""
    ids: Counter[str] = Counter()
    for line in data.split(b"\n")[:-1]:
        for each in parse(line).calls if line.strip() else ():
            if isinstance(each, Fault) or each.wants_reply:
                ids[repr(each.id)] += 1
    return ids


def check(data: bytes, cuts: list[int]) -> None:
    """One answer for each that wants one, the same ones however the bytes come."""
    answers = told(data, [])
    ids: Counter[str] = Counter()
    for text, count in answers.items():
        replies = json.loads(text)
        for reply in [json.loads(each) for each in replies] if isinstance(replies, list) else [replies]:
            ids[repr(reply["id"])] += count
    assert ids == wanted(data)
    assert told(data, cuts) == answers


@kept("lines")
def test_what_has_ever_been_found(data):
    """The corpus, whole, halved, and byte by byte."""
    check(data, [len(data) // 2])
    check(data, list(range(min(len(data), 1000))))


@cases("lines", share=70)
@given(lines=st.lists(LINES, min_size=1, max_size=4), unfinished=st.binary(max_size=10), cuts=CUTS)
def test_every_line_is_answered_for_itself(lines, unfinished, cuts):
    """What is wrong in one changes nothing for the next; what has no line feed yet is no line."""
    check(b"".join(line + b"\n" for line in lines) + unfinished.replace(b"\n", b""), cuts)


@cases("lines", share=15)
@given(
    values=st.lists(
        st.recursive(
            st.none() | st.text(max_size=9) | st.floats(allow_nan=False, allow_infinity=False), st.lists, max_leaves=4
        ),
        max_size=5,
    ),
    cuts=CUTS,
)
def test_what_is_written_is_read(values, cuts):
    """Our own lines come out of our own buffer as they went in, whatever is in them."""
    buffer = LineBuffer()
    sent = b"".join(as_line(orjson.dumps(value)) for value in values)
    assert [orjson.loads(line) for piece in cut(sent, cuts) for line in buffer.feed(piece)] == values


@cases("lines", share=15)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8), limit=st.integers(0, 30), ended=st.booleans(), cuts=CUTS
)
def test_a_line_is_as_long_as_its_limit(sizes, limit, ended, cuts):
    """A longer one is refused, whether or not it ends; before it, lines are given as they are."""
    data = b"\n".join(b"x" * size for size in sizes) + b"\n" * ended
    buffer, given_, refused = LineBuffer(limit), [], False
    try:
        for piece in cut(data, cuts):
            given_ += buffer.feed(piece)
    except LineTooLongError:
        refused = True
    assert refused == any(size > limit for size in sizes)
    whole = sizes if ended else sizes[:-1]
    expected = next((number for number, size in enumerate(whole) if size > limit), len(whole))
    assert [len(line) for line in given_] == whole[: len(given_)]
    assert len(given_) <= expected
    if not refused:
        assert len(given_) == expected


def test_a_line_beyond_the_limit_is_told_so_and_nothing_after_it():
    """An endless line costs its limit, one answer, and the conversation."""
    data = call("list", 1, "") + b"\n" + b"x" * (DEFAULT_LIMIT + 1) + b"\n" + call("list", 2, "") + b"\n"
    first, last = trio.run(_converse, Sender(iter((data[:100], data[100:5_000_000], data[5_000_000:]))))
    assert (first["id"], last["id"], last["error"]["code"]) == (1, None, -32600)
