"""What a hook may answer."""

import json

import pytest

from ccexecd.core.hooks import Change
from ccexecd.hooks.answer import LONGEST_TEXT, Answer, AnswerError, answer_of


@pytest.mark.parametrize("written", [b"", b"\n", b"{}", b'{"decision": "allow"}'])
def test_nothing_is_an_answer(written):
    """A hook that has nothing to say lets the command run."""
    assert answer_of("pre_execute", written) == Answer()


def test_a_decision_is_read():
    """All of it; texts are cut."""
    found = answer_of(
        "pre_execute",
        json.dumps(
            {
                "decision": "refuse",
                "reason": "x" * 5000,
                "environment": {"A": "1"},
                "unset": ["B"],
                "wrap": ["nice"],
                "warning": "w",
            }
        ).encode(),
    )
    assert found == Answer(True, "x" * LONGEST_TEXT, Change({"A": "1"}, ("B",), ("nice",)), "w")


@pytest.mark.parametrize(
    ("event", "written", "message"),
    [
        ("pre_execute", b"ok", "not JSON"),
        ("pre_execute", b"[]", "expected object"),
        ("pre_execute", b'{"decision": "deny"}', "$.decision"),
        ("pre_execute", b'{"decison": "refuse"}', "unknown field: decison"),
        ("pre_execute", b'{"environment": {"A": 1}}', "expected string"),
        ("pre_execute", b'{"environment": {"A=B": "x"}}', "must not be empty nor hold"),
        ("pre_execute", b'{"unset": [""]}', "must not be empty nor hold"),
        ("pre_execute", b'{"wrap": "nice"}', "expected array"),
        ("pre_execute", b'{"wrap": [""]}', "$.wrap"),
        ("pre_execute", b'{"wrap": ["a\\u0000"]}', "NUL"),
        ("post_execute", b'{"decision": "refuse"}', "unknown field: decision"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(event, written, message):
    """A slip never passes for a consent; and no value is repeated."""
    with pytest.raises(AnswerError, match=message.replace("$", r"\$")):
        answer_of(event, written)


def test_other_events_may_warn():
    """That is all that they may."""
    assert answer_of("on_output", b'{"warning": "careful"}') == Answer(warning="careful")
