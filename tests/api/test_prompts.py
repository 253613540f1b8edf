"""What is said to agents, and what is noticed in a task beforehand."""

import pytest

from ccexecctl.api import prompts
from ccexecctl.errors import UsageError


@pytest.mark.parametrize(
    ("task", "noticed"),
    [
        ("Fix it", "very short"),
        ("please fix it as soon as you can", "'please fix it'"),
        ("Write the second part as we discussed in the meeting", "'as we discussed'"),
        ("Rename the function and ask me before you commit", "'ask me'"),
        ("Translate <insert text> into French", "'<insert text>'"),
        ("Add tests for the parser, the printer, etc.", "'etc.'"),
    ],
)
def test_what_is_ambiguous_is_noticed(task, noticed):
    """The warning quotes it."""
    assert any(noticed in each for each in prompts.ambiguities(task))


@pytest.mark.parametrize(
    "task",
    [
        "What is 2+2?",
        "Fix the off-by-one error in paginate() in src/pages.py, and add a test for it.",
        "Write a haiku about a daemon.",
        "List the files in this directory, one a line.",
    ],
)
def test_what_is_plain_is_not(task):
    """A warning that is always there is none."""
    assert prompts.ambiguities(task) == ()


@pytest.mark.parametrize("task", ["", " \n", "a\0b", "\ud800", "x" * 101])
def test_what_cannot_be_sent_is_refused(task):
    """Empty, with a NUL, no text, too long: each with what to do."""
    with pytest.raises(UsageError) as refused:
        prompts.require_fit(task, 100)
    assert refused.value.hint


def test_outputs_go_where_they_are_wanted():
    """In the place of their name, or behind; what they say is not looked into again."""
    outputs = {"plan": "use {{code}}", "code": "x = 1"}
    filled = prompts.with_outputs("Judge {{code}}.", outputs)
    assert filled.startswith("Judge x = 1.")
    assert '<output task="plan">\nuse {{code}}\n</output>' in filled


def test_a_judge_sees_task_and_response():
    """In the places that the prompt has for them, else behind it; what they hold is not filled in again."""
    assert "Is hi the answer to {response}?" in prompts.judging(
        "Is {response} the answer to {task}?", "{response}", "hi"
    )
    told = prompts.judging("Is it polite?", "Greet", "hi")
    assert "<task>\nGreet\n</task>" in told
    assert "<response>\nhi\n</response>" in told
