"""What is wrong with a JSON text that the parser refuses, against a model that knows what was put where."""

import contextlib
import json
import time

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ccexecd.protocol.diagnosis import MAX_DEPTH, MAX_DIAGNOSED, mask

LONE = "string holds a lone surrogate, which is not a character"

BAD = {
    r'"\ud800"': ('""', LONE),
    r'"a\udc00b"': ('""', LONE),
    r'"\ud83d\\\ude00"': ('""', LONE),
    "1e999": ("0", "number of 5 characters is out of range"),
    "-1E+400": ("0", "number of 7 characters is out of range"),
    "9" * 400: ("0", "number of 400 characters is out of range"),
}
"""JSON that no value here can represent -> what stands in for it, and what is said."""

GOOD = ["null", "true", "0", "-1.5e3", '"text"', r'"\"{[,:]}\\"', r'"\ud83d\ude00"', r'"\\ud800"', "{}", "[ ]"]

KEYS = st.sampled_from(["a", "bc", r"q\"", "params"])


class Node:
    """A JSON text, what it should be masked to, and the problems in it with the steps that lead to them."""

    def __init__(self, text: str, masked: str, problems: list[tuple[tuple[str | int, ...], str]]) -> None:
        self.text, self.masked, self.problems = text, masked, problems

    def __repr__(self) -> str:
        return f"Node({self.text!r})"

    @classmethod
    def good(cls, text: str) -> "Node":
        return cls(text, text, [])

    @classmethod
    def bad(cls, text: str) -> "Node":
        masked, error = BAD[text]
        return cls(text, masked, [((), error)])

    @classmethod
    def array(cls, children: "list[Node]") -> "Node":
        return cls(
            "[" + ", ".join(child.text for child in children) + "]",
            "[" + ", ".join(child.masked for child in children) + "]",
            [((index, *steps), error) for index, child in enumerate(children) for steps, error in child.problems],
        )

    @classmethod
    def object(cls, children: "list[tuple[str, Node]]") -> "Node":
        return cls(
            "{" + ",".join(f'"{key}" :{child.text}' for key, child in children) + "}",
            "{" + ",".join(f'"{key}" :{child.masked}' for key, child in children) + "}",
            [((key, *steps), error) for key, child in children for steps, error in child.problems],
        )


TEXTS = st.recursive(
    st.one_of(st.sampled_from(GOOD).map(Node.good), st.sampled_from(list(BAD)).map(Node.bad)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(Node.array), st.lists(st.tuples(KEYS, inner), max_size=4).map(Node.object)
    ),
    max_leaves=12,
)


def path_of(steps: tuple[str | int, ...]) -> str:
    """As an error shows it: six steps of it."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps[:6])


@settings(deadline=None)
@given(TEXTS)
def test_every_fault_is_found_where_it_stands(node):
    """Of any JSON text, exactly what cannot be represented is masked and named with its path; the rest stays."""
    masked, problems = mask(node.text.encode())
    assert masked == node.masked
    assert problems == [{"path": path_of(steps), "error": error} for steps, error in node.problems]
    orjson.loads(masked)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.sampled_from([r"\ud800", r"\uDBFF", r"\udc00", r"\uDFFF", r"\\", r"\n", "a", r"\u0041", "u", "d800"]),
        max_size=6,
    ).map("".join)
)
@example(r"\ud83d\\\ude00")
@example(r"\\ud800\\\ud800\udc00")
def test_a_string_is_masked_if_and_only_if_the_parser_refuses_it(body):
    """Escaped backslashes, pairs and halves of pairs in any order: the judgement is the parser's."""
    text = f'"{body}"'
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        assert mask(text.encode()) == ('""', [{"path": "$", "error": LONE}])
    else:
        assert mask(text.encode()) == (text, [])


@settings(deadline=None)
@given(st.text(alphabet='{}[]",:\\ue1-0. a\n', max_size=20))
def test_what_is_no_json_does_not_become_json(text):
    """Masking makes a text readable only if it is JSON by its grammar (which the standard library's parser knows)."""
    try:
        masked, _ = mask(text.encode())
        orjson.loads(masked)
    except ValueError:
        return
    json.loads(text)


@pytest.mark.parametrize("body", [r"\d800\udc00", r"\ud800\x", r"\ud800\u12", "\\ud800\t", "\\ud800\x00"])
def test_a_string_that_is_none_is_not_masked(body):
    """A lone surrogate next to an escape that does not exist, or a raw control character, makes no JSON of it."""
    assert mask(f'"{body}"'.encode()) == (f'"{body}"', [])


@pytest.mark.parametrize("text", ["01e999", "-01e999", "1.e999", "00" * 300])
def test_a_number_that_is_none_does_not_become_one(text):
    """What the parser refuses for its form is refused, however large it would be."""
    masked, _ = mask(text.encode())
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(masked)


def test_a_key_that_cannot_be_represented_is_its_objects_fault():
    """The neighbour before it is not to blame, and what stands under it can still be named."""
    text = rb'{"a": {"command": "ls", "\ud800": [1e999]}}'
    assert mask(text) == (
        '{"a": {"command": "ls", "?": [0]}}',
        [
            {"path": "$.a", "error": LONE},
            {"path": r"$.a.\ud800[0]", "error": "number of 5 characters is out of range"},
        ],
    )


@pytest.mark.parametrize("more", [1, 2, 2000])
def test_nesting_is_cut_at_its_deepest_level(more):
    """What is nested deeper than any legal message is left out, brackets in strings or not, and the rest is read."""
    deep = "[" * (MAX_DEPTH - 1 + more) + '"]"' + "]" * (MAX_DEPTH - 1 + more)
    masked, [problem] = mask(f'{{"a": {deep}, "b": 1}}'.encode())
    assert orjson.loads(masked)["b"] == 1
    assert problem == {"path": "$.a[0][0][0][0][0]", "error": "nested deeper than 64 levels"}


def test_the_deepest_level_is_kept():
    """The limit is inclusive."""
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert mask(text.encode()) == (text, [])


def test_a_long_key_is_shown_in_part():
    """A path names a key by its first 64 characters."""
    [problem] = mask(b'{"' + b"k" * 1000 + b'": 1e999}')[1]
    assert problem["path"] == "$." + "k" * 64


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'["\xff"]', "utf-8"),
        (b'["abc', "a string without end"),
        (b'"\\ud800', "a string without end"),
        (b'"abc\\"', "a string without end"),
        (b"[" + b"1," * (MAX_DIAGNOSED // 2) + b"1]", "longer than 1048576 bytes"),
    ],
    ids=["not UTF-8", "string", "masked string", "escaped end", "too long"],
)
def test_what_cannot_be_looked_into_is_refused(text, why):
    """Nothing is guessed about it."""
    with pytest.raises(ValueError, match=why):
        mask(text)


LONG = MAX_DIAGNOSED // 4

HOSTILE = {
    "escaped quotes in a string without end": b'"' + b'\\"' * (LONG // 2),
    "backslashes": b'"' + b"\\" * LONG,
    "quotes": b'"' * LONG,
    "half pairs": b'"' + b"\\ud800" * (LONG // 6) + b'"',
    "digits": b"9" * LONG,
    "minus signs": b"-" * LONG,
    "fractions": b"1." * (LONG // 2),
    "exponents": b"1e" * (LONG // 2),
    "spaces": b" " * LONG,
    "brackets": b"[]" * (LONG // 2),
    "depth": b"[" * LONG,
    "deep keys": b'{"":' * (LONG // 4),
    "faults": b"[" + b"1e999," * (LONG // 7) + b"0]",
    "faulty keys": b"{" + b'"\\ud800":0,' * (LONG // 12) + b"}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_text_takes_long(text):
    """A long text costs a fraction of a second, whatever is in it; a quadratic cost would be minutes."""
    before = time.process_time()
    with contextlib.suppress(ValueError):
        mask(text[:LONG])
    assert time.process_time() - before < 10
