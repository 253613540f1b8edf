"""How a run is judged where no recorded one shows it: reset times, several turns, text, what mentions an error."""

import pytest

from ccexecd.agents.adapter import Shape
from ccexecd.agents.claude import CLAUDE
from ccexecd.agents.conversation import MOST_IN_FLIGHT, Conversation
from ccexecd.agents.events import (
    ApiRetry,
    Event,
    Failure,
    Init,
    RateLimit,
    Result,
    Task,
    Text,
    ToolResult,
    ToolUse,
    Unread,
)
from ccexecd.agents.verdict import ADVICE, Cause, Verdict, judge

GOOD = Result("success", is_error=False, text="Done.")


def verdict_of(*events: Event, exit_code: int | None = 0, shape: Shape = Shape.EVENTS, **text: str) -> Verdict:
    """How a run is judged."""
    return judge(CLAUDE, shape, exit_code, Conversation.of(events), **text)


def error(text: str, **fields: object) -> Result:
    """A result that is an error, as an API's is: its subtype says otherwise."""
    return Result("success", is_error=True, text=text, **fields)  # type: ignore[arg-type]


def test_every_cause_has_advice():
    """A sentence each."""
    assert set(ADVICE) == set(Cause)
    assert all(text.endswith(".") for text in ADVICE.values())


def test_success_takes_exit_code_and_result():
    """Both, and that no further turn has begun."""
    assert verdict_of(Init(), GOOD).is_success
    assert verdict_of(Init(), error("x"), Init(), GOOD).is_success
    assert verdict_of(Init(), GOOD, exit_code=1).cause is Cause.FAILED
    assert verdict_of(Init(), GOOD, exit_code=143).cause is Cause.INTERRUPTED
    assert verdict_of(Init(), GOOD, exit_code=-11).cause is Cause.CRASHED
    assert verdict_of(Init(), GOOD, Init()).cause is Cause.TRUNCATED
    assert verdict_of(Init()).cause is Cause.TRUNCATED
    assert verdict_of().cause is Cause.TRUNCATED
    assert verdict_of(Init(), exit_code=None).cause is Cause.TRUNCATED


def test_what_could_not_be_read_is_not_taken_for_missing():
    """A line that was too long may have been the result; one of an earlier turn was not."""
    too_long = Unread(9, is_too_long=True)
    assert verdict_of(Init(), too_long).cause is Cause.UNVERIFIED
    assert verdict_of(Init(), Unread(9)).cause is Cause.TRUNCATED, "it was cut off"
    assert verdict_of(Init(), too_long, GOOD, Init()).cause is Cause.TRUNCATED
    assert verdict_of(Init(), too_long, GOOD).is_success


@pytest.mark.parametrize(
    ("events", "resets_at"),
    [
        ((error("Claude AI usage limit reached|1753675200"),), 1753675200),
        ((RateLimit(is_rejected=True, resets_at=1800000000), error("API Error: 429 {}")), 1800000000),
        ((Failure("rate_limit", "x"), error("You've hit your session limit · resets 3am (UTC)")), None),
        ((error("x", status=429),), None),
    ],
)
def test_a_rate_limit_and_when_it_ends(events, resets_at):
    """Told by a field, or by the text where older versions have none."""
    found = verdict_of(*events, exit_code=1)
    assert (found.cause, found.resets_at, found.is_retryable) == (Cause.RATE_LIMITED, resets_at, True)


def test_what_an_error_is_called_decides():
    """Before what its text looks like; and before its status, which 400 says little by."""
    assert (
        verdict_of(Failure("billing_error", ""), error("rate limit", status=400), exit_code=1).cause is Cause.NO_CREDIT
    )
    assert verdict_of(Failure("max_output_tokens", ""), error("x"), exit_code=1).cause is Cause.TOKEN_LIMIT
    assert verdict_of(error("x", why="prompt_too_long"), exit_code=1).cause is Cause.TOKEN_LIMIT
    assert verdict_of(Result("error_max_budget_usd", is_error=True), exit_code=1).cause is Cause.BUDGET


def test_what_mentions_an_error_is_none():
    """An answer, a tool's result and a failure that it has recovered from."""
    text = "API Error: 429 rate limit, token limit, prompt is too long, usage limit reached|1753675200"
    events = (
        Init(),
        Failure("rate_limit", text),
        Text(text),
        ToolUse("1", "Bash", text),
        ToolResult("1", is_error=True),
    )
    found = verdict_of(*events, Result("success", is_error=False, text=text))
    assert found.is_success
    assert (found.resets_at, found.limit, found.text) == (None, None, "")


def test_denied_tools():
    """One that was denied beside others is told; when all were, nothing was done."""
    use, answer = ToolUse("1", "Bash"), ToolResult("1", is_error=True)
    result = Result("success", is_error=False, text="Sorry.", denied=("Bash",))
    found = verdict_of(use, answer, result)
    assert (found.cause, found.denied) == (Cause.PERMISSION_DENIED, ("Bash",))
    found = verdict_of(use, answer, ToolUse("2", "Read"), ToolResult("2"), result)
    assert (found.cause, found.denied) == (Cause.SUCCESS, ("Bash",))


@pytest.mark.parametrize(
    ("said", "exit_code", "cause"),
    [
        ("4", 0, Cause.UNVERIFIED),
        ("API Error: 429 means that the rate limit is reached.", 0, Cause.UNVERIFIED),
        ("API Error: Request rejected (429) · You have reached your usage limit.", 1, Cause.RATE_LIMITED),
        ("Claude AI usage limit reached|1753675200", 1, Cause.RATE_LIMITED),
        ("API Error: Claude's response exceeded the 32000 output token maximum.", 1, Cause.TOKEN_LIMIT),
        ("Prompt is too long", 1, Cause.TOKEN_LIMIT),
        ("Not logged in · Please run /login", 1, Cause.NOT_LOGGED_IN),
        ("A rate limit of 429 requests, and a token limit.", 1, Cause.FAILED),
        ("First a word.\nAPI Error: 429", 1, Cause.FAILED),
        ("", 143, Cause.INTERRUPTED),
    ],
)
def test_text_is_an_error_when_all_of_it_is(said, exit_code, cause):
    """It begins as one, and the exit code agrees; an answer that speaks of one is an answer."""
    assert verdict_of(exit_code=exit_code, shape=Shape.TEXT, said=said).cause is cause


@pytest.mark.parametrize(
    ("complaint", "cause"),
    [
        ("--dangerously-skip-permissions cannot be used with root/sudo privileges", Cause.PERMISSION_DENIED),
        ("error: unknown option '--no-such-flag'", Cause.NOT_ACCEPTED),
        ("warning: something", Cause.FAILED),
    ],
)
def test_an_error_output_says_why_nothing_was_printed(complaint, cause):
    """With what to do about it."""
    found = verdict_of(exit_code=1, complaint=complaint)
    assert (found.cause, found.text) == (cause, complaint)
    assert ("IS_SANDBOX" in found.advice) is ("root" in complaint)


def test_what_it_was_waiting_for_is_told():
    """When it is ended while the API fails again and again."""
    found = verdict_of(Init(), ApiRetry(7, 10, 38.0, 401, "authentication_failed"), exit_code=-9)
    assert found.cause is Cause.INTERRUPTED
    assert "authentication_failed (401)" in found.text


def test_what_is_remembered_is_bounded():
    """An agent whose tools never answer."""
    known = Conversation.of(ToolUse(str(number), "Bash") for number in range(2 * MOST_IN_FLIGHT))
    known.take(Task("t", "x"))
    assert (len(known.tools), known.tool_uses, len(known.tasks)) == (MOST_IN_FLIGHT, 2 * MOST_IN_FLIGHT, 1)
    known.take(Task("t", is_running=False))
    known.take(GOOD)
    assert not known.is_busy
