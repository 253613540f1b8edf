"""How agents are called."""

import pytest

from ccexecctl.api.command_line import ARGUMENT_LIMIT, call_of
from ccexecctl.api.options import AgentOptions, Given, options_of
from ccexecctl.errors import UsageError
from ccexecd.agents.adapter import Shape
from ccexecd.agents.recognition import agent_named

HOSTILE = "; rm -rf / $(id) `id` 'quoted' \"twice\" --dangerously-skip-permissions"


@pytest.mark.parametrize("agent", ["claude", "codex", "gemini"])
def test_what_is_called_prints_events(agent):
    """Each agent is asked for the form that is read here, and the prompt is a word of its own."""
    call = call_of(HOSTILE, AgentOptions(agent=agent))
    assert agent_named([agent]).shape_of(call.argv) is Shape.EVENTS
    assert sum(HOSTILE in word for word in call.argv) == 1
    assert call.stdin is None


def test_values_stand_with_their_options():
    """No value can be taken for an option, whatever it is."""
    options = AgentOptions(
        model="--version", allowed_tools=["Bash", "Edit"], resume="-c", max_turns=3, program=["npx", "claude"]
    )
    argv = call_of("Hello there", options).argv
    assert argv[:4] == ("npx", "claude", "-p", "Hello there")
    assert {"--model=--version", "--allowedTools=Bash,Edit", "--resume=-c", "--max-turns=3"} <= set(argv)


@pytest.mark.parametrize("prompt", ["x" * (ARGUMENT_LIMIT + 1), "--help"])
@pytest.mark.parametrize("agent", ["claude", "codex", "gemini"])
def test_what_does_not_fit_into_a_word_goes_to_standard_input(agent, prompt):
    """Too long for the kernel, or such that it would be taken for an option."""
    call = call_of(prompt, AgentOptions(agent=agent))
    assert call.stdin == prompt
    assert prompt not in call.argv


def test_what_an_agent_cannot_do_is_told():
    """Rather than left out without a word."""
    with pytest.raises(UsageError, match="codex has no option for max_turns"):
        call_of("Hello there", AgentOptions(agent="codex", max_turns=3))
    with pytest.raises(UsageError, match="no agent 'cluade'"):
        call_of("Hello there", AgentOptions(agent="cluade"))


def test_the_keyword_arguments_are_the_options():
    """Both lists are the same, and a slip is told with what was meant."""
    assert list(Given.__annotations__) == [field.name for field in AgentOptions.__attrs_attrs__]
    with pytest.raises(UsageError, match="'modle'") as refused:
        options_of(None, {"modle": "opus"})
    assert "'model'" in refused.value.hint


@pytest.mark.parametrize(
    "given",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"stall_timeout": -1},
        {"validation_prompt": " "},
        {"expect_uuid": True, "json_mode": True},
    ],
)
def test_options_that_make_no_sense(given):
    """They are refused before anything is started."""
    with pytest.raises(UsageError):
        AgentOptions(**given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"timeout": "10"}, "timeout takes a number, not str"),
        ({"timeout": True}, "timeout takes a number, not bool"),
        ({"program": 5}, "program takes a text or a list of texts, not int"),
        ({"allowed_tools": [1]}, "allowed_tools takes a list of texts"),
        ({"env": {"SECRET": 1}}, "env takes a table of texts, not dict"),
        ({"cwd": b"/tmp"}, "cwd takes a text or a path, not bytes"),
        ({"retries": 3}, "retries takes Retries, not int"),
    ],
)
def test_an_option_of_a_wrong_type_is_refused_before_anything_begins(given, told):
    """With its name and what it takes, and without its value, which may be a secret."""
    with pytest.raises(UsageError, match=told):
        options_of(None, given)
