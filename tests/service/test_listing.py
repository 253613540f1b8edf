"""What is told of executions stays small enough for every client, and says what it leaves out."""

import json
from types import SimpleNamespace

import attrs
import pytest

from ccexecd.core.spec import Spec
from ccexecd.process.execution import Execution
from ccexecd.process.pump import Pump
from ccexecd.protocol.messages import List
from ccexecd.service.listing import describe, list_executions

FRAME_LIMIT = 1024 * 1024
"""No frame exceeds 1 MiB, the limit of common clients (the contract)."""


def execution_of(**spec) -> Execution:
    """An accepted execution that nobody starts."""
    made = attrs.evolve(Spec(("true",), "true"), **spec)
    return Execution(made, "session", keeper=None, pump=Pump(), window=1 << 20)


def peer_of(*executions: Execution) -> SimpleNamespace:
    """Somebody who asks a daemon that remembers these."""
    return SimpleNamespace(engine=SimpleNamespace(executions={each.id: each for each in executions}))


@pytest.mark.parametrize(
    "spec",
    [
        {"display": "x" * 5_000_000},
        {"argv": ("x" * 5_000_000,)},
        {"argv": ("x",) * 1_000_000},
        {"cwd": "/" * 5_000_000},
    ],
    ids=lambda spec: next(iter(spec)),
)
def test_a_description_is_short_however_long_the_command(spec):
    """What is cut ends with an ellipsis; the beginning tells the command."""
    described = describe(execution_of(**spec))
    assert len(json.dumps(described)) < 16 * 1024
    name = "command" if "display" in spec else next(iter(spec))
    shown = "".join(described[name])
    assert shown.startswith(next(iter(spec.values()))[0][:900])
    assert shown.endswith("…")


def test_an_ordinary_command_is_told_in_full():
    """Nothing is cut of what people type."""
    described = describe(execution_of(argv=("git", "log", "-n", "3"), display="git log -n 3", cwd="/srv"))
    assert (described["argv"], described["command"]) == (["git", "log", "-n", "3"], "git log -n 3")
    assert described["cwd"] == "/srv"


def test_a_list_is_one_frame_and_says_that_there_is_more():
    """The newest that a frame can hold are told, and `truncated` says that there are older ones."""
    many = [execution_of(display="x" * 2000, argv=("x" * 2000,)) for _ in range(1000)]
    reply = list_executions(peer_of(*many), List())
    assert reply["truncated"]
    assert len(json.dumps(reply, ensure_ascii=False).encode()) < FRAME_LIMIT
    ids = [each["execution_id"] for each in reply["executions"]]
    assert 300 < len(ids) < 1000
    assert ids == [each.id for each in reversed(many)][: len(ids)]


def test_a_list_that_fits_is_not_truncated():
    """Asked for fewer, or where there are no more, it is whole."""
    few = [execution_of() for _ in range(3)]
    assert list_executions(peer_of(*few), List())["truncated"] is False
    newest = list_executions(peer_of(*few), List(limit=1))
    assert [each["execution_id"] for each in newest["executions"]] == [few[-1].id]
