"""What is said to whoever names an execution that cannot be told."""

from types import SimpleNamespace

import pytest

from ccexecd.engine import HistoryUnavailableError
from ccexecd.service.naming import known, unnamed
from ccexecd.service.peer import OPERATOR, V1

ENGINE = SimpleNamespace(executions={"abcd-1": "", "abcd-2": "", "ffff-1": "", "eeee-1": "", "eeee-2": "hidden"})


def asker(*, prefix: bool) -> SimpleNamespace:
    """Whoever asks: one of the executions is not there for that one."""
    manner = OPERATOR if prefix else V1
    return SimpleNamespace(engine=ENGINE, manner=manner, sees=lambda execution: execution != "hidden")


@pytest.mark.parametrize(
    ("name", "prefix", "code", "text"),
    [
        ("abcd", True, -32014, "ambiguous: 2 executions begin with 'abcd'"),
        ("abc", True, -32003, "no execution 'abc': the beginning of an id has at least 4 characters"),
        ("nope", True, -32003, "no execution 'nope'"),
        ("eeee-2", False, -32003, "no execution 'eeee-2'; `list` tells the ones that are known"),
        ("abcd", False, -32003, "no execution 'abcd'; `list` tells the ones that are known"),
        ("x" * 99, True, -32003, f"no execution '{'x' * 64}'"),
    ],
)
def test_the_reason_is_told(name, prefix, code, text):
    """Too short, several, or none; a program, which has whole ids, is told the method that knows them."""
    error = unnamed(asker(prefix=prefix), name)
    assert (error.code, error.message) == (code, text)


def test_what_is_ambiguous_is_named():
    """The ids that begin so are in the data, for a program to choose from."""
    assert unnamed(asker(prefix=True), "abcd").data == {"executions": ["abcd-1", "abcd-2"]}
    past = [SimpleNamespace(id="cccc-1"), SimpleNamespace(id="cccc-2")]
    assert unnamed(asker(prefix=True), "cccc", past).data == {"executions": ["cccc-1", "cccc-2"]}


async def test_a_history_that_cannot_be_read_hides_nothing_that_is_known():
    """What is in memory may be named as ever; of anything else, it is not said that it is not there."""

    async def recall(_: str) -> list[object]:
        raise HistoryUnavailableError

    one, two = SimpleNamespace(id="abcd-1"), SimpleNamespace(id="ffff-1")
    engine = SimpleNamespace(executions={"abcd-1": one, "ffff-1": two})
    operator = SimpleNamespace(
        engine=engine, manner=OPERATOR, sees=lambda _: True, find=engine.executions.get, recall=recall
    )
    assert await known(operator, "abcd-1") is one
    assert await known(operator, "ffff") is two
    with pytest.raises(HistoryUnavailableError):
        await known(operator, "0123")


def test_what_is_not_there_for_somebody_is_not_named():
    """Neither does another principal's execution make an id ambiguous, nor is its id told."""
    everybody = SimpleNamespace(engine=ENGINE, manner=OPERATOR, sees=lambda _: True)
    assert "eeee-2" in unnamed(everybody, "eeee").data["executions"]
    assert unnamed(asker(prefix=True), "eeee").data == {"executions": ["eeee-1"]}
