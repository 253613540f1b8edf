"""Finding the JSON in a reply: never a string in the place of an object, and never something that does not conform."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccexecctl.api.json_reply import ReplyError, read_reply, require_schema
from ccexecctl.errors import UsageError

PERSON = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.mark.parametrize(
    "reply",
    [
        '{"age": 4}',
        '  {"age": 4}\n',
        'Here you are:\n```json\n{"age": 4}\n```\nAnything else?',
        '```\n{"age": 4}\n```',
        '~~~json\n{"age": 4}\n~~~',
        'The set {1, 2} is no JSON, but {"age": 4} is.',
        'First a draft:\n```json\n{"name": "x"}\n```\nand now:\n```json\n{"age": 4}\n```',
        '```json\n{"age": 4,}\n```',
        "{'age': 4}",
        '{"age": 4',
        '{"age": 4} // a comment',
        'See [1] and {"note": {"age": 9}}: the answer is {"age": 4}.',
    ],
)
def test_an_object_is_found(reply):
    """Alone, fenced, between other text, with a comma too many, cut off: it is the one that conforms."""
    assert read_reply(reply, PERSON) == {"age": 4}


@pytest.mark.parametrize("reply", ["", "four", '"four"', "4", "null", "I cannot do that.", "{", "[" * 100_000])
def test_anything_else_is_an_error(reply):
    """Without a schema, only an object or a list will do; what nests without end is no reason to fail either."""
    with pytest.raises(ReplyError):
        read_reply(reply)


def test_what_does_not_conform_is_told():
    """The error names the place and the reason, in words that an agent understands, too."""
    with pytest.raises(ReplyError, match=r"\$\.age: 'four' is not of type 'integer'"):
        read_reply('{"age": "four"}', PERSON)


def test_a_schema_may_ask_for_a_scalar():
    """A number is no object; where one is asked for, it is right."""
    assert read_reply("4", {"type": "integer"}) == 4


def test_nan_is_not_json():
    """Python reads NaN; nobody else does."""
    with pytest.raises(ReplyError):
        read_reply('{"age": NaN}')


@pytest.mark.parametrize("schema", [{"type": "person"}, {"properties": 3}, {"const": {1, 2}}])
def test_a_schema_that_is_none_is_refused(schema):
    """Before anything is started."""
    with pytest.raises(UsageError, match="json_schema"):
        require_schema(schema)


objects = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=50, deadline=None)
@given(value=objects, before=st.text("abc .:\n", max_size=30), after=st.text("xyz .!\n", max_size=30))
def test_what_is_valid_is_never_changed(value, before, after):
    """Whatever text is around an object, it is read as it is, not as a repair would have it."""
    assert read_reply(f"{before}{json.dumps(value)}{after}") == value
    assert read_reply(f"{before}\n```json\n{json.dumps(value, indent=1)}\n```\n{after}") == value
