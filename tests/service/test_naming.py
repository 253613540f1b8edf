"""What is said to whoever names an execution that cannot be told."""

from types import SimpleNamespace

import pytest

from ccexecd.service.naming import unnamed

ENGINE = SimpleNamespace(executions={"abcd-1": None, "abcd-2": None, "ffff-1": None})


def peer(*, prefixes: bool) -> SimpleNamespace:
    """Somebody who may give the beginning of an id, or may not."""
    return SimpleNamespace(engine=ENGINE, manner=SimpleNamespace(prefixes=prefixes))


@pytest.mark.parametrize(
    ("name", "prefix", "code", "text"),
    [
        ("abcd", True, -32014, "ambiguous: 2 executions begin with 'abcd'"),
        ("abc", True, -32003, "no execution 'abc': the beginning of an id has at least 4 characters"),
        ("nope", True, -32003, "no execution 'nope'"),
        ("abcd", False, -32003, "no execution 'abcd'; `list` tells the ones that are known"),
        ("x" * 99, True, -32003, f"no execution '{'x' * 64}'"),
    ],
)
def test_the_reason_is_told(name, prefix, code, text):
    """Too short, several, or none; a program, which has whole ids, is told the method that knows them."""
    error = unnamed(peer(prefixes=prefix), name)
    assert (error.code, error.message) == (code, text)


def test_what_is_ambiguous_is_named():
    """The ids that begin so are in the data, for a program to choose from."""
    assert unnamed(peer(prefixes=True), "abcd").data == {"executions": ["abcd-1", "abcd-2"]}
    past = [SimpleNamespace(id="eeee-1"), SimpleNamespace(id="eeee-2")]
    assert unnamed(peer(prefixes=True), "eeee", past).data == {"executions": ["eeee-1", "eeee-2"]}
