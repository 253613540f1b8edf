"""What is written down of an execution that waits: all of it comes back, and nothing else is taken for it."""

import json

import attrs
import pytest

from ccexecd.core.spec import Limits, Once, Spec, TerminalSize
from ccexecd.process.execution import Execution
from ccexecd.waiting import UnreadableError, Waiting, as_text, from_text

SPEC = Spec(
    ("sh", "-c", "echo $TOKEN"),
    "echo $TOKEN",
    shell=True,
    cwd="/tmp",
    env={"TOKEN": "hush", "": "é"},
    unset=("LANG",),
    timeout=3,
    limits=Limits(cpu_seconds=1.5, nice=3),
    pty=TerminalSize(80, 24),
    labels={"task": "t"},
    lane="builds",
    priority=-5,
    once=Once("key", "print"),
)


def execution(spec: Spec = SPEC) -> Execution:
    """One that waits."""
    made = Execution(spec, "session", keeper=None, pump=None, window=1)  # type: ignore[arg-type]
    made.principal = "ci"
    return made


def test_all_of_it_comes_back():
    """The whole request, whose it is, and a number that its log has not reached."""
    one = execution()
    one.is_waiting(3)
    back = from_text(one.id, as_text(one, 3))
    assert back == Waiting(1, one.id, "session", "ci", one.created_at.timestamp(), back.next_seq, SPEC)
    assert (back.spec.once.key, back.spec.env) == ("key", SPEC.env)
    assert back.accepted_at == one.created_at
    for position in (2, 1):  # it is told of these on its way to the front
        one.is_waiting(position)
    assert back.next_seq >= one.log.next_seq


def test_every_field_of_a_spec_is_kept():
    """A field that is added to the spec is in there, too."""
    one = execution()
    told = json.loads(as_text(one, 1))
    assert told["spec"].keys() == {field.name for field in attrs.fields(Spec)}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        pytest.param(lambda told: told | {"version": 2}, id="another version"),
        pytest.param(lambda told: told | {"execution_id": "another"}, id="another execution"),
        pytest.param(lambda told: told | {"more": 1}, id="an unknown field"),
        pytest.param(lambda told: told | {"spec": told["spec"] | {"argv": "ls -l"}}, id="a word for words"),
        pytest.param(lambda told: told | {"spec": told["spec"] | {"policy": "hush"}}, id="another policy"),
    ],
)
def test_what_is_none_is_not_run(text):
    """Whatever a file holds: it is refused, and nothing of it is repeated."""
    one = execution()
    if not isinstance(text, bytes):
        text = json.dumps(text(json.loads(as_text(one, 1)))).encode()
    with pytest.raises(UnreadableError) as caught:
        from_text(one.id, text)
    assert "hush" not in str(caught.value)


def test_values_of_the_environment_are_in_no_repr():
    """What is logged of it by mistake tells no secret."""
    one = execution()
    assert "hush" not in repr(from_text(one.id, as_text(one, 1)))
