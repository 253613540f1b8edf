"""Whatever an output holds: reading, adding up, judging and telling never fail, and what is told is bounded JSON."""

import random

import pytest

from ccexecd.agents.adapter import Adapter, Shape
from ccexecd.agents.claude import CLAUDE
from ccexecd.agents.codex import CODEX
from ccexecd.agents.conversation import MOST_IN_FLIGHT, Conversation
from ccexecd.agents.events import MOST_COUNTS, Result, ToolResult
from ccexecd.agents.gemini import GEMINI
from ccexecd.agents.report import facts_of, limit_reached
from ccexecd.agents.verdict import Cause, Verdict, judge
from ccexecd.protocol.codec import dumps

TYPES = [
    *("system", "assistant", "user", "result", "stream_event", "rate_limit_event", "thread.started", "turn.started"),
    *("turn.completed", "turn.failed", "item.started", "item.completed", "error", "init", "message", "tool_use"),
    *("tool_result", "text", "thinking", "text_delta", "command_execution", "agent_message", "prompt_suggestion"),
]
SUBTYPES = ["init", "api_retry", "task_started", "task_notification", "success", "error_max_turns"]
KEYS = [
    *("message", "content", "event", "delta", "item", "error", "usage", "stats", "rate_limit_info", "input", "tools"),
    *(
        "permission_denials",
        "tool_name",
        "tool_use_id",
        "id",
        "name",
        "text",
        "result",
        "response",
        "is_error",
        "status",
    ),
    *("session_id", "model", "total_cost_usd", "num_turns", "duration_ms", "attempt", "retry_delay_ms", "resetsAt"),
    *("parameters", "tool_id", "parent_tool_use_id", "task_id", "thread_id", "errors", "severity", "type", "subtype"),
]

WORDS = [
    *TYPES,
    *SUBTYPES,
    "",
    "x" * 3000,
    "API Error: 429 rate limit",
    "Prompt is too long",
    "[Request interrupted by user]",
]
PLAIN = [None, True, False, 0, -1, 10**30, 0.5, float("inf"), -1e300, *WORDS]


def anything(chance: random.Random, depth: int) -> object:
    """A value of any kind."""
    kind = chance.random() if depth else 0.0
    if kind < 0.4:
        return chance.choice(PLAIN)
    if kind < 0.7:
        return [anything(chance, depth - 1) for _ in range(chance.randrange(4))]
    return an_object(chance, depth - 1)


def an_object(chance: random.Random, depth: int) -> dict[str, object]:
    """An object with some of the keys that are read, and a type that is known, mostly."""
    found = {key: anything(chance, depth) for key in chance.sample(KEYS, chance.randrange(9))}
    if chance.random() < 0.9:
        found |= {"type": chance.choice(TYPES), "subtype": chance.choice(SUBTYPES)}
    return found


@pytest.mark.parametrize("adapter", [CLAUDE, CODEX, GEMINI], ids=lambda adapter: adapter.name)
def test_nothing_that_is_printed_can_fail(adapter: Adapter):
    """Values of any kind where others are expected: nobody who listens may raise, and clients take what is told."""
    causes = set()
    for seed in range(1500):
        chance = random.Random(seed)
        conversation = Conversation()
        for _ in range(chance.randrange(1, 6)):
            for event in adapter.events_of(an_object(chance, 3)):
                conversation.take(event)
        verdict = judge(adapter, Shape.EVENTS, chance.choice([None, 0, 1, 41, 143, -9]), conversation)
        causes.add(verdict.cause)
        facts = facts_of(adapter.name, conversation, verdict, ("a",))
        assert len(dumps(facts)) < 20_000
        reached = limit_reached(adapter.name, verdict, "s", 0.0)
        assert (reached is not None) is (verdict.cause in (Cause.RATE_LIMITED, Cause.TOKEN_LIMIT))
        if reached is not None:
            dumps(reached[1])
    assert len(causes) >= 4, "much of it is looked at"


@pytest.mark.parametrize(
    ("verdict", "kind", "retry_after"),
    [
        (Verdict(Cause.RATE_LIMITED, "", "API Error: 429"), "rate_limit_429", 60),
        (Verdict(Cause.RATE_LIMITED, "", "You've hit your session limit"), "usage_limit", None),
        (Verdict(Cause.RATE_LIMITED, "", "x", resets_at=1030.5), "usage_limit", 31),
        (Verdict(Cause.RATE_LIMITED, "", "x", resets_at=900.0), "usage_limit", 0),
    ],
)
def test_when_to_try_again(verdict, kind, retry_after):
    """As far as it is known; of a mere 429, what the earlier system said."""
    method, told = limit_reached("claude", verdict, "s", 1000.0) or ("", {})
    assert method == "error.rate_limit_exceeded"
    assert (told["error_type"], told["retry_after"]) == (kind, retry_after)


def test_sums_stay_within_what_can_be_told():
    """However often an agent reports the largest numbers, ever new kinds of tokens, or tools that were denied."""
    known = Conversation()
    for number in range(3 * MOST_IN_FLIGHT):
        known.take(ToolResult(str(number), is_denied=True))
    assert len(known._denied_in_turn) == MOST_IN_FLIGHT
    for number in range(100):
        usage = {"input_tokens": 10**18 - 1, **{f"{number}.{kind}": 1 for kind in range(MOST_COUNTS - 1)}}
        known.take(Result("success", is_error=False, usage=usage, turns=10**18 - 1))
        known.take(Result("success", is_error=False, turns=1 - 10**18))
    told = facts_of("claude", known, None, None)
    assert (told["turns"], told["usage"]["input_tokens"], len(told["usage"])) == (10**18, 10**18, MOST_COUNTS)
    dumps(told)
