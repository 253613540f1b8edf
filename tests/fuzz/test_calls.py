"""JSON-RPC: what is a call, what its params are, and that nothing else than an answer comes of anything else."""

import functools
import json
import re
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import orjson
from hypothesis import given
from hypothesis import strategies as st

from ccexecd.protocol import messages
from ccexecd.protocol.codec import UNSAID, Cells, Count, Seconds, StructureError, Text, dumps, loads
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import Call, Fault, Message, error, parse, result
from ccexecd.protocol.messages import params
from tests.fuzz.cases import cases, kept

CLASSES = [each for each in vars(messages).values() if isinstance(each, type) and attrs.has(each)]
FIELDS = sorted({field.name for cls in CLASSES for field in attrs.fields(cls)})
METHODS = ('"execute"', '"control"', '"list"', '""', r'"\u0000"', '"rpc.discover"', '"\ufffd"', "5", "null")

ODD = (
    *(
        '"\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\u0000"',
        "1e400",
        "-1E+400",
        "1e-400",
        "-0",
        "9" * 400,
        "18446744073709551616",
    ),
    *("NaN", "Infinity", "1.", ".5", "0x1", "01", "'a'", "nul", "[1,]", '{"a":1,}', "[" * 70 + "]" * 70, '{"a":' * 70),
    *(
        '{"a":1,"a":2}',
        '"\t"',
        '"\\x"',
        "\ufeff1",
        "// x",
        '"\\ud800\\ud800"',
        '{"\\udfff":1}',
        '"\\\\ud800"',
        "[[[[",
        '"',
    ),
)
"""JSON at its edges, and what only looks like it."""

SCALARS = ("null", "true", "0", "-1", "1.5", '"a"', '""', '"2.0"', '"\u00e9"', "[]", "{}", "1e3", str(2**63), *ODD)
NAMES = tuple(json.dumps(name) for name in (*FIELDS, "jsonrpc", "id", "method", "params", "", "a"))


class Choices:
    """Decisions that were made beforehand: a byte each, and the first of all options when they have run out.

    One draw makes a whole text that way, in a twentieth of the time of one draw for each of its parts.
    """

    def __init__(self, made: bytes) -> None:
        self._made = iter(made)

    def number(self, most: int) -> int:
        """One of 0 to `most`."""
        return next(self._made, 0) % (most + 1)

    def one(self, options: tuple[str, ...]) -> str:
        """One of these."""
        return options[self.number(len(options) - 1)]

    def value(self, depth: int = 3) -> str:
        """JSON of any shape, or what looks like it."""
        kind = self.number(7) if depth else 0
        if kind < 4:
            return self.one(SCALARS)
        if kind < 6:
            return listed([self.value(depth - 1) for _ in range(self.number(3))])
        return keyed([(self.one(NAMES), self.value(depth - 1)) for _ in range(self.number(3))])

    def call(self) -> str:
        """Something like a request: mostly all right but for its params."""
        version = self.one(('"2.0"',) * 6 + ("2.0", '"1.0"'))
        members = [('"jsonrpc"', version), ('"id"', self.value(1)), ('"method"', self.one(METHODS))]
        members += [('"params"', self.value())] * self.number(2)
        if self.number(4) == 4:
            members[self.number(2)] = (self.one(NAMES), self.value())
        return keyed(members)

    def text(self) -> str:
        """A message."""
        kind = self.number(3)
        if kind < 2:
            return self.call()
        return self.value() if kind == 2 else listed(self.calls())

    def calls(self) -> list[str]:
        """What may be in a batch."""
        return [self.call() if self.number(2) else self.value() for _ in range(self.number(4))]


def listed(items: list[str]) -> str:
    return "[" + ",".join(items) + "]"


def keyed(items: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{name}:{value}" for name, value in items) + "}"


CHOICES = st.binary(max_size=60).map(Choices)


def damaged(text: str, place: int, lost: int, put: bytes) -> bytes:
    """A text in which a few bytes have been replaced, lost or inserted."""
    changed = bytearray(text.encode())
    place %= len(changed) + 1
    changed[place : place + lost] = put
    return bytes(changed)


def check(text: bytes) -> Message:
    """What must hold of any bytes: each call is one, or has an answer that says what is wrong with it."""
    message = parse(text)
    assert message.calls
    for call in message.calls:
        if isinstance(call, Fault):
            reply = orjson.loads(dumps(error(call.id, call.error)))
            assert set(reply) == {"jsonrpc", "id", "error"}
            assert reply["error"]["code"] in {ErrorCode.PARSE_ERROR, ErrorCode.INVALID_REQUEST}
            assert reply["id"] is None or type(reply["id"]) in {str, int, float}
        else:
            assert isinstance(call.method, str)
            assert orjson.loads(dumps(result(call.id, {"a": 1})))["id"] == call.id
            take(call, CLASSES[len(text) % 5 :: 5])
    _agree_with_another_parser(text, message)
    return message


def take(call: Call, classes: list[type]) -> None:
    """Its params are those of a class, or it is said what is wrong with each; never anything else."""
    for cls in classes:
        for lenient in (False, True):
            taken, problems = taken_as(cls, call.params, lenient=lenient)
            assert problems or type(taken) is cls
            for problem in problems:
                assert problem["path"].startswith("$")
                assert problem["error"] not in {"", "not valid"}
            dumps(problems)


def taken_as(cls: type, given_: object, *, lenient: bool = False) -> tuple[Any, list[dict[str, str]]]:
    """The params of a class, or what is wrong with them."""
    try:
        return params(given_, cls, lenient=lenient), []
    except StructureError as refused:
        return None, refused.problems


def _agree_with_another_parser(text: bytes, message: Message) -> None:
    """The standard library's: what it refuses is refused here, and what it reads is read, or said to be too much."""
    if any(_is_at_the_edge(call) for call in message.calls):  # nobody looks into what is nested too deep
        return
    is_refused = [call.error.code for call in message.calls if isinstance(call, Fault)] == [ErrorCode.PARSE_ERROR]
    try:
        json.loads(text.decode(), parse_constant=_refuse, parse_int=float)
    except RecursionError:
        return
    except ValueError:
        assert is_refused
    else:
        assert not is_refused


def _refuse(word: str) -> None:
    raise ValueError(word)


@kept("calls")
def test_what_has_ever_been_found(data):
    """The corpus."""
    check(data)


@cases("calls", share=40)
@given(CHOICES)
def test_any_json_is_a_call_or_is_told_why_not(choices):
    """Every shape, every type in every place, JSON at its edges: read as another parser reads it."""
    check(choices.text().encode())


@cases("calls", share=25)
@given(choices=CHOICES, place=st.integers(0, 400), lost=st.integers(0, 3), put=st.binary(max_size=3))
def test_damage_is_told_as_such(choices, place, lost, put):
    """A text that was cut or changed anywhere is answered, too."""
    check(damaged(choices.text(), place, lost, put))


@cases("calls", share=10)
@given(CHOICES)
def test_a_batch_means_what_its_calls_mean(choices):
    """Each by itself, wherever it stands, as long as all of it is JSON."""
    texts = [choices.call(), *choices.calls()]
    each = [parse(text.encode()) for text in texts]
    batch = parse(listed(texts).encode())
    if not batch.is_batch:
        assert [call.error.code for call in batch.calls] == [ErrorCode.PARSE_ERROR]
        return
    for text, one, alone in zip(texts, batch.calls, each, strict=True):
        if text[0] != "[" and not _is_refused(alone.calls[0]) and not _is_at_the_edge(one, alone.calls[0]):
            assert _plain(one) == _plain(alone.calls[0])


def _is_refused(call: Call | Fault) -> bool:
    return isinstance(call, Fault) and call.error.code == ErrorCode.PARSE_ERROR


def _is_at_the_edge(*calls: Call | Fault) -> bool:
    """Whether something in it is too deep: in a batch, it is one level deeper."""
    return any("nested" in problem["error"] for call in calls if isinstance(call, Call) for problem in call.problems)


def _plain(call: Call | Fault) -> object:
    return (call.id, call.error.message) if isinstance(call, Fault) else call


VALUES_OF: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=8),
    int: st.integers(-1000, 1000),
    float: st.floats(0, 1e9),
    bool: st.booleans(),
    type(None): st.none(),
    Text: st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=8),
    Seconds: st.floats(0, 1e9) | st.integers(0, 10**9),
    Count: st.integers(0, 2**64 - 1),
    Cells: st.integers(1, 65535),
}


@functools.cache
def valid(kind: Any) -> st.SearchStrategy[Any]:
    """JSON values of a type of the contract, from its annotations alone."""
    if kind in VALUES_OF:
        return VALUES_OF[kind]
    if attrs.has(kind):
        return fields_of(kind)
    shape, args = get_origin(kind), get_args(kind)
    if shape is Literal:
        return st.sampled_from(args)
    if shape in {types.UnionType, Union}:
        return st.one_of(*map(valid, args))
    if shape is tuple:
        return st.lists(valid(args[0]), max_size=3)
    assert shape is dict, kind
    return st.dictionaries(valid(args[0]), valid(args[1]), max_size=3)


@functools.cache
def fields_of(cls: type) -> st.SearchStrategy[dict[str, Any]]:
    hints = get_type_hints(cls)
    mandatory = {field.name: valid(hints[field.name]) for field in attrs.fields(cls) if field.default is attrs.NOTHING}
    optional = {field.name: valid(hints[field.name]) for field in attrs.fields(cls) if field.name not in mandatory}
    return st.fixed_dictionaries(mandatory, optional=optional)


REQUESTS = st.sampled_from(CLASSES).flatmap(lambda cls: st.tuples(st.just(cls), fields_of(cls)))


@cases("calls", share=10)
@given(
    request_=REQUESTS, spoil=st.none() | st.tuples(st.integers(0, 20), st.sampled_from((None, [], {}, "x", 1.5, -1)))
)
def test_params_come_back_as_they_went(request_, spoil):
    """Of the right types: taken, or refused by a rule of their own; what was taken comes back the same."""
    cls, sent = request_
    if spoil is not None and sent:
        sent[sorted(sent)[spoil[0] % len(sent)]] = spoil[1]
    names = {field.name for field in attrs.fields(cls)}
    taken, problems = taken_as(cls, loads(dumps(sent))[0])
    assert {re.split(r"[.\[]", problem["path"] + ".")[1] for problem in problems} <= {"", *names}
    if problems:
        return
    back = json.loads(dumps(attrs.asdict(taken, filter=lambda _, value: value is not UNSAID)))
    assert params(back, cls) == taken
    assert {name: back[name] for name in sent if name not in {"limits", "pty"}} == {
        name: value for name, value in sent.items() if name not in {"limits", "pty"}
    }


@cases("calls", share=15)
@given(
    call_id=st.none() | st.text() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
def test_an_id_comes_back_as_it_went(call_id):
    """Whatever a client counts with, in a request as in what is wrong with one."""
    text = dumps({"jsonrpc": "2.0", "method": "m", "id": call_id})
    [call] = parse(text).calls
    assert orjson.loads(dumps(result(call.id, None)))["id"] == call_id
    [fault] = parse(text.replace(b'"2.0"', b'"2"')).calls
    assert isinstance(fault, Fault)
    assert orjson.loads(dumps(error(fault.id, fault.error)))["id"] == call_id


def test_every_type_of_the_contract_has_values():
    """A new annotation needs a row in `VALUES_OF`, or nothing of its class is tried."""
    for cls in CLASSES:
        fields_of(cls)
