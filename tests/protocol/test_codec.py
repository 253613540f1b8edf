"""The trust boundary: every JSON type offered to every field type, faults with paths and without values."""

import time
from typing import Any, Literal

import attrs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccexecd.protocol.codec import (
    MAX_PROBLEMS,
    Count,
    JSONSyntaxError,
    Seconds,
    StructureError,
    Text,
    dumps,
    loads,
    structure,
    type_name,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@attrs.frozen
class Inner:
    """A class within a class."""

    n: int


OFFERED = {
    "null": None,
    "true": True,
    "1": 1,
    "-1": -1,
    "1.5": 1.5,
    "-0.5": -0.5,
    "text": "text",
    "NUL": "a\0b",
    "[]": [],
    "[1]": [1],
    '["a"]': ["a"],
    "{}": {},
    '{"n": 1}': {"n": 1},
    '{"n": "a"}': {"n": "a"},
}
"""A value of every JSON type, and some that only some fields can take."""

ACCEPTED: dict[Any, dict[str, Any]] = {
    str: {"text": "text", "NUL": "a\0b"},
    int: {"1": 1, "-1": -1},
    float: {"1": 1.0, "-1": -1.0, "1.5": 1.5, "-0.5": -0.5},
    bool: {"true": True},
    None: {"null": None},
    Text: {"text": "text"},
    Seconds: {"1": 1.0, "1.5": 1.5},
    Count: {"1": 1},
    Literal["text", "other"]: {"text": "text"},
    tuple[str, ...]: {"[]": (), '["a"]': ("a",)},
    tuple[Text, ...]: {"[]": (), '["a"]': ("a",)},
    tuple[Any, ...]: {"[]": (), "[1]": (1,), '["a"]': ("a",)},
    list[int]: {"[]": [], "[1]": [1]},
    dict[str, str]: {"{}": {}, '{"n": "a"}': {"n": "a"}},
    dict[Text, Text]: {"{}": {}, '{"n": "a"}': {"n": "a"}},
    dict[str, int]: {"{}": {}, '{"n": 1}': {"n": 1}},
    Inner: {'{"n": 1}': Inner(1)},
    Any: OFFERED,
}
"""Field type -> what it takes, and what it makes of it. Everything else is a fault."""


def field_of(kind: Any) -> type:
    """A class with one field of a type."""
    return attrs.frozen(type("Field", (), {"__annotations__": {"f": kind}, "f": attrs.field()}))


def fault_of(value: object, cls: Any) -> list[dict[str, str]]:
    """The problems of a value that a class refuses."""
    with pytest.raises(StructureError) as caught:
        structure(value, cls)
    return caught.value.problems


@pytest.mark.parametrize("offered", OFFERED)
@pytest.mark.parametrize("kind", ACCEPTED, ids=str)
def test_a_field_takes_its_own_json_type_and_no_other(kind, offered):
    """Nothing is coerced: not "1" to 1, not 1 to true, not text to letters, not null to anything."""
    cls = field_of(kind)
    if offered in ACCEPTED[kind]:
        taken, expected = structure({"f": OFFERED[offered]}, cls).f, ACCEPTED[kind][offered]
        assert (taken, type(taken)) == (expected, type(expected))
    else:
        [problem] = fault_of({"f": OFFERED[offered]}, cls)
        assert problem["path"].startswith("$.f")


@pytest.mark.parametrize("offered", OFFERED)
@pytest.mark.parametrize("kind", [kind for kind in ACCEPTED if kind not in {None, Any}], ids=str)
def test_an_optional_field_takes_null_besides(kind, offered):
    """`X | None` is X or null, as strictly as each."""
    cls = field_of(kind | None)
    accepted = ACCEPTED[kind] | {"null": None}
    if offered in accepted:
        assert structure({"f": OFFERED[offered]}, cls).f == accepted[offered]
    else:
        assert fault_of({"f": OFFERED[offered]}, cls)


@pytest.mark.parametrize("kind", ACCEPTED, ids=str)
def test_a_type_is_as_strict_by_itself(kind):
    """The configuration structures single values: the same judgement, and the root as their path."""
    cls = type(None) if kind is None else kind
    for name, value in OFFERED.items():
        if name in ACCEPTED[kind]:
            assert structure(value, cls) == ACCEPTED[kind][name]
        else:
            assert all(problem["path"].startswith("$") for problem in fault_of(value, cls))


@pytest.mark.parametrize(
    ("kind", "value", "error"),
    [
        (str, 1, "expected string, got integer"),
        (int, True, "expected integer, got boolean"),
        (int, 1.0, "expected integer, got number"),
        (float, "1", "expected number, got string"),
        (bool, 1, "expected boolean, got integer"),
        (bool, "false", "expected boolean, got string"),
        (None, 0, "expected null, got integer"),
        (Text, [], "expected string, got array"),
        (Text, "ab\0", "string holds a NUL at character 3, which no program can be given"),
        (Count, -1, "must not be negative"),
        (Count, None, "expected integer, got null"),
        (Count, 1 << 63, "must be at most 9223372036854775807"),
        (Seconds, -0.1, "must not be negative"),
        (Seconds, 1e9 + 1, "must be at most 1e+09 seconds"),
        (Seconds, 10**400, "number must be finite"),
        (Seconds, float("inf"), "number must be finite"),
        (float, float("nan"), "number must be finite"),
        (Literal["a", "b"], "c", 'expected one of "a", "b"'),
        (Literal["a", "b"], ["a"], 'expected one of "a", "b"'),
        (tuple[str, ...], "ls -l", "expected array, got string"),
        (list[str], {"0": "ls"}, "expected array, got object"),
        (dict[str, str], [["a", "b"]], "expected object, got array"),
        (Inner, [1], "expected object, got array"),
    ],
    ids=str,
)
def test_a_fault_names_what_is_expected(kind, value, error):
    """The text says what the field takes and which type came, or which rule was broken."""
    assert fault_of({"f": value}, field_of(kind)) == [{"path": "$.f", "error": error}]


@attrs.frozen
class Outer:
    """A class with everything that can be below it."""

    word: str
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()
    named: dict[str, tuple[int, ...]] = attrs.field(factory=dict)


def test_every_fault_is_named_with_its_path():
    """One answer names all of them, in the order of the fields."""
    wrong = {"inner": {"n": None}, "inners": [{"n": 1}, {}, 5], "named": {"a b": [1, "2"], "c @ d": [[]]}}
    assert fault_of(wrong, Outer) == [
        {"path": "$.word", "error": "required"},
        {"path": "$.inner.n", "error": "expected integer, got null"},
        {"path": "$.inners[1].n", "error": "required"},
        {"path": "$.inners[2]", "error": "expected object, got integer"},
        {"path": "$.named['a b'][1]", "error": "expected integer, got string"},
        {"path": "$.named['c @ d'][0]", "error": "expected integer, got array"},
    ]


def test_the_error_reads_as_a_sentence():
    """As text, a fault is its paths and what is wrong there."""
    with pytest.raises(StructureError, match=r"^\$\.n: expected integer, got string$"):
        structure({"n": "1"}, Inner)


def test_a_key_is_structured_as_well():
    """A name in an object has a type, too."""
    assert fault_of({"f": {"a\0": "x"}}, field_of(dict[Text, str])) == [
        {"path": "$.f['a\\x00']", "error": "string holds a NUL at character 2, which no program can be given"}
    ]


def test_an_unknown_field_is_refused_and_the_known_ones_are_named():
    """A misspelled param is not silently ignored."""
    assert fault_of({"n": 1, "nn": 2, "m @ $": 3}, Inner) == [
        {"path": "$", "error": "unknown field: m @ $, nn; known: n"}
    ]


def test_an_unknown_field_passes_where_it_is_to_be_ignored():
    """Clients from before `ccexec.v1` send more; what we know is as strict as ever."""
    assert structure({"n": 1, "nn": 2}, Inner, ignore_unknown=True) == Inner(1)
    with pytest.raises(StructureError):
        structure({"n": "1", "nn": 2}, Inner, ignore_unknown=True)


@attrs.frozen
class Checked:
    """A class with a rule of its own."""

    low: int
    high: int
    rest: tuple["Checked", ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise StructureError([{"path": "$.low", "error": "must not be above high"}])


def test_a_classs_own_rule_is_a_fault_like_any_other():
    """What a class checks itself comes with the path that it gave."""
    assert fault_of({"low": 2, "high": 1}, Checked) == [{"path": "$.low", "error": "must not be above high"}]


def test_rules_and_types_are_told_together():
    """A broken rule does not hide a wrong type elsewhere."""
    wrong = {"low": 1, "high": None, "rest": [{"low": 2, "high": 1}]}
    assert sorted(problem["error"] for problem in fault_of(wrong, Checked)) == [
        "expected integer, got null",
        "must not be above high",
    ]


@attrs.frozen
class Odd:
    """A class whose converter fails in a way that nobody foresaw."""

    f: int = attrs.field(converter=lambda value: value.nothing)


def test_a_fault_that_nobody_foresaw_says_nothing_of_the_inside():
    """An exception's own text stays inside."""
    assert fault_of({"f": 1}, Odd) == [{"path": "$", "error": "not valid"}]


@pytest.mark.parametrize(
    "wrong",
    [
        {"f": [1] * 500_000},
        {"f": [["x"] * 500_000]},
        {"g": {str(number): 1 for number in range(500_000)}},
    ],
    ids=["array", "nested array", "object"],
)
def test_faults_are_counted_to_a_limit(wrong):
    """A message full of faults costs neither the time nor the memory of naming all of them."""
    cls = attrs.make_class(
        "Many", {"f": attrs.field(type=tuple[Text, ...], default=()), "g": attrs.field(type=dict[str, str], default={})}
    )
    before = time.process_time()
    assert len(fault_of(wrong, cls)) in {1, MAX_PROBLEMS}
    assert time.process_time() - before < 2


def test_names_in_an_error_are_bounded():
    """What a client sent as a key is repeated in part, at most."""
    long = "k" * 10_000
    assert fault_of({"f": {long: 1}}, field_of(dict[str, str]))[0]["path"] == f"$.f['{long[:64]}']"
    [problem] = fault_of({"n": 1, **{f"{number:05}{long}": 1 for number in range(1000)}}, Inner)
    assert len(problem["error"]) < MAX_PROBLEMS * 70


MARKS = "§¶ß¤"
CLASSES = [Outer, Inner, Checked, *map(field_of, ACCEPTED)]
FIELDS = st.sampled_from(["word", "inner", "inners", "named", "low", "high", "rest", "n", "f", "other"])


@settings(deadline=None, max_examples=200)
@given(
    value=st.recursive(
        st.text(alphabet=MARKS + "\0", min_size=1) | st.integers(-1, 2) | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    ),
    cls=st.sampled_from(CLASSES),
    ignore_unknown=st.booleans(),
)
def test_a_fault_never_repeats_a_value(value, cls, ignore_unknown):
    """Whatever is wrong, and wherever: a value may be a secret, and no answer gives any of it back."""
    try:
        structure(value, cls, ignore_unknown=ignore_unknown)
    except StructureError as caught:
        error = caught
    else:
        return
    assert not set(MARKS) & set(repr((error, error.problems)))
    assert error.__suppress_context__


# Text


@settings(deadline=None)
@given(JSON)
def test_values_come_back_as_they_went(value):
    """What `dumps` writes, `loads` reads, and finds nothing wrong with it."""
    assert loads(dumps(value)) == (value, [])


@settings(deadline=None)
@given(st.binary(max_size=30) | st.text(alphabet='{}[]",:\\ue1-0.a', max_size=20).map(str.encode))
def test_reading_gives_a_value_or_one_kind_of_error(text):
    """No bytes at all lead to another exception, and a value can be written again."""
    try:
        value, _ = loads(text)
    except JSONSyntaxError:
        return
    dumps(value)


def test_json_that_cannot_be_represented_is_read_around():
    """It is JSON: the value is there with a stand-in, and so is the place."""
    assert loads(b'{"a": 1e999, "b": "c"}') == (
        {"a": 0, "b": "c"},
        [{"path": "$.a", "error": "number of 5 characters is out of range"}],
    )


@pytest.mark.parametrize("text", [b"", b"{", b"nope", b'"\xff"', b"[" * 2000, b"NaN", b'["a', b"\xef\xbb\xbf1", b"1 2"])
def test_what_is_no_json_is_a_syntax_error(text):
    """The parser's own words say where; nothing of ours leads to them."""
    with pytest.raises(JSONSyntaxError, match="not valid JSON: ") as caught:
        loads(text)
    assert caught.value.__cause__ is None


def test_a_syntax_error_does_not_repeat_the_text():
    """What was sent may hold secrets, however malformed."""
    with pytest.raises(JSONSyntaxError) as caught:
        loads(b'{"PASSWORD": "hunter2"')
    assert "hunter2" not in str(caught.value)


def test_what_is_written_is_compact():
    """No byte is spent on spaces; text is UTF-8."""
    assert dumps({"a": [1, "é"]}) == '{"a":[1,"é"]}'.encode()


def test_types_are_named_as_json_names_them():
    """The words of an error text are those of the format, not Python's."""
    named = [type_name(orjson.loads(text)) for text in (b'""', b"1", b"1.5", b"true", b"null", b"[]", b"{}")]
    assert named == ["string", "integer", "number", "boolean", "null", "array", "object"]
    assert type_name(b"") == "bytes"
