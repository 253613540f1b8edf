"""The agents that are known: which commands are they, how they print, what they report, how they are resumed.

The lines of Codex and Gemini are written after their sources; those of Claude Code are recorded (`test_recorded_runs`),
but for the few here.
"""

import json

import pytest

from ccexecd.agents.adapter import EventReader, Shape
from ccexecd.agents.claude import CLAUDE
from ccexecd.agents.codex import CODEX
from ccexecd.agents.conversation import Conversation
from ccexecd.agents.events import (
    SOMETHING,
    ApiRetry,
    Delta,
    Failure,
    Init,
    Other,
    RateLimit,
    Result,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    Unread,
)
from ccexecd.agents.gemini import GEMINI
from ccexecd.agents.options import Command, first_command
from ccexecd.agents.recognition import agent_of, command_of
from ccexecd.agents.verdict import Cause, judge
from ccexecd.core.spec import Spec


def lines(*events: object) -> bytes:
    """Events, a line each."""
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def words(text: str) -> tuple[str, ...]:
    """The words of a command."""
    return first_command(text).words


# Which commands are they


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("claude -p x", "claude"),
        ("codex exec --json x", "codex"),
        ("/opt/bin/gemini -p x | tee log", "gemini"),
        ("echo codex", None),
        ("claude-code -p x", None),
        ("ls -l", None),
    ],
)
def test_an_agent_is_known_by_its_program(text, name):
    """As words, and as a command string."""
    found = agent_of(Spec(("bash", "-c", text), text, shell=True))
    assert (found.name if found else None) == name
    if "|" not in text:
        found = agent_of(Spec(words(text), text))
        assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("command", "is_it"),
    [
        ("claude -p hello", True),
        ("  claude", True),
        ("/usr/local/bin/claude -p 'a|b' | jq .", True),
        ("'claude' -p x", True),
        ("A=1 B='2 3' claude -p x", True),
        ("exec claude -p x", True),
        ("claude;echo", True),
        ("claude -p \"it's", True),
        ("echo claude", False),
        ("cd /x && claude -p y", False),
        ("claude-code -p x", False),
        ("xclaude", False),
        ("claude/x", False),
        ("'claude", False),
        ("# claude", False),
        ("A=claude", False),
    ],
)
def test_a_command_string_is_told_by_its_first_program(command, is_it):
    """After assignments; what is less plain has to be said by who asks."""
    assert (agent_of(Spec(("bash", "-c", command), command, shell=True)) is CLAUDE) is is_it


@pytest.mark.parametrize(
    ("argv", "is_it"),
    [(("claude", "-p"), True), (("/opt/bin/claude",), True), (("sh", "claude"), False), (("claude2",), False)],
)
def test_words_are_told_by_the_program(argv, is_it):
    """By its base name, as it was asked for."""
    assert (agent_of(Spec(argv, "claude")) is CLAUDE) is is_it


def test_who_asks_may_say_which_it_is():
    """Or that it is none."""
    assert agent_of(Spec(("node", "cli.js"), "node cli.js", agent="claude")) is CLAUDE
    assert agent_of(Spec(("claude", "-p"), "claude -p", agent="none")) is None
    assert command_of(Spec((), "x", shell=True)).words == ("x",)


# How they print


@pytest.mark.parametrize(
    ("adapter", "text", "shape"),
    [
        (CLAUDE, "claude -p x --output-format stream-json --verbose", Shape.EVENTS),
        (CLAUDE, "claude x -p --output-format=stream-json", Shape.EVENTS),
        (CLAUDE, "claude --print x --output-format json", Shape.LIST),
        (CLAUDE, "claude -p 'use --output-format json'", Shape.TEXT),
        (CLAUDE, "claude -p x --output-format text", Shape.TEXT),
        (CLAUDE, "claude -p x --allowedTools Bash --model m", Shape.TEXT),
        (CLAUDE, "claude x", Shape.NONE),
        (CLAUDE, "claude mcp list", Shape.NONE),
        (CLAUDE, "node cli.js -p x --output-format json", Shape.LIST),
        (CODEX, "codex exec --json x", Shape.EVENTS),
        (CODEX, "codex exec x", Shape.TEXT),
        (CODEX, "codex --model m e x", Shape.TEXT),
        (CODEX, "codex login", Shape.NONE),
        (GEMINI, "gemini -p x --output-format stream-json", Shape.EVENTS),
        (GEMINI, "gemini -p x -o json", Shape.DOCUMENT),
        (GEMINI, "gemini -p x", Shape.TEXT),
        (GEMINI, "gemini x", Shape.TEXT),
        (GEMINI, "gemini -y", Shape.NONE),
    ],
)
def test_how_it_prints_is_in_its_words(adapter, text, shape):
    """A prompt that speaks of an option is none."""
    assert adapter.shape_of(words(text)) is shape


# How they are resumed


@pytest.mark.parametrize(
    ("adapter", "text", "resumed"),
    [
        (
            CLAUDE,
            "claude -p 'the prompt' --output-format stream-json --allowedTools Bash Edit --model m -c",
            "claude --resume=ID -p --output-format=stream-json --allowedTools=Bash --allowedTools=Edit --model=m",
        ),
        (
            CLAUDE,
            "claude 'the prompt' -p --resume old --mcp-config a.json",
            "claude --resume=ID -p --mcp-config=a.json",
        ),
        (CLAUDE, "node cli.js -p x", "node cli.js --resume=ID -p"),
        (CLAUDE, "claude -p x --no-session-persistence", None),
        (CLAUDE, "cd /x && claude -p x", None),
        (CLAUDE, "wrapper --fast", None),
        (CLAUDE, "claude -p x --model $MODEL", None),
        (
            CODEX,
            "codex exec -m m --json --sandbox read-only -i a.png b.png --skip-git-repo-check 'the prompt'",
            "codex exec --model=m --json --sandbox=read-only --skip-git-repo-check resume ID",
        ),
        (CODEX, "codex exec --json resume old 'and on'", "codex exec --json resume ID"),
        (CODEX, "codex exec --ephemeral x", None),
        (CODEX, "codex login", None),
        (
            GEMINI,
            "gemini -p 'the prompt' -o stream-json -y -m m",
            "gemini --resume=ID --output-format=stream-json -y --model=m -p",
        ),
    ],
)
def test_the_words_that_go_on(adapter, text, resumed):
    """The same program and options, without the prompt, which comes behind; none where the conversation is not kept."""
    command = first_command(text)
    found = adapter.resume(command, "ID")
    assert found == (tuple(resumed.split()) if resumed else None)


@pytest.mark.parametrize("session_id", ["", "-x", "--dangerously-skip-permissions", "a\nb"])
def test_only_a_name_is_resumed(session_id):
    """What an output says may become an option of a command otherwise."""
    assert CLAUDE.resume(Command(("claude", "-p")), session_id) is None


# What they report


def test_what_claude_says_while_it_answers():
    """Thoughts, pieces, a sub-agent's words, a failure, the state of the account."""
    reader = EventReader(CLAUDE)
    assistant = {"message": {"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Yes."}, 3]}}
    found = reader.feed(
        lines(
            {"type": "stream_event", "event": {"delta": {"type": "text_delta", "text": "Ye"}}},
            {"type": "stream_event", "event": {"delta": {"type": "thinking_delta", "thinking": "H"}}},
            {"type": "stream_event", "event": {"type": "message_stop"}},
            {"type": "assistant", "parent_tool_use_id": "t", **assistant},
            {"error": "rate_limit", "message": {"content": [{"type": "text", "text": "No."}]}, "type": "assistant"},
            {
                "type": "rate_limit_event",
                "rate_limit_info": {"status": "rejected", "resetsAt": 17, "rateLimitType": "w"},
            },
            {"type": "assistant", "message": "nonsense"},
            {"type": ["nonsense"]},
            {"no": "type"},
        )
        + b'{"type":"cut\n'
    )
    assert found == [
        Delta("Ye"),
        Delta("H", is_thinking=True),
        Other("stream_event"),
        Thinking("Hm.", "t"),
        Text("Yes.", "t"),
        Text("No."),
        Failure("rate_limit", "No."),
        RateLimit(is_rejected=True, resets_at=17, window="w"),
        Other("assistant"),
        Other(""),
        Unread(12),
    ]


def test_nothing_of_claudes_can_be_of_another_kind():
    """Numbers that are none, names that are lists: they count as not said."""
    (result,) = EventReader(CLAUDE).feed(
        lines(
            {"type": "result", "subtype": None, "usage": [1], "total_cost_usd": "1", "num_turns": True, "errors": [1]}
        )
    )
    assert result == Result("None", is_error=False)


def test_a_brief_reader_parses_no_answer(monkeypatch):
    """Of what is no more than an answer is told that there was something, once for many lines."""
    reader = EventReader(CLAUDE, is_brief=True)
    text = lines({"type": "assistant", "message": {"content": [{"type": "text", "text": "tool"}]}})
    delta = b'{"type":"stream_event","event":{"content_block":{"type":"tool_use"}}}\n'
    monkeypatch.setattr("ccexecd.agents.adapter.parse", None)
    assert reader.feed(text * 3) == [SOMETHING]
    assert reader.feed(delta * 3 + text) == [SOMETHING]
    assert reader.feed(b'plain words of "type": result\n') == []


def test_a_list_of_events():
    """`--output-format json --verbose`, and without the latter: the result alone."""
    init, result = {"type": "system", "subtype": "init", "model": "m"}, {"type": "result", "subtype": "success"}
    for output in (lines([init, result]), lines([init, result])[:-1]):
        reader = EventReader(CLAUDE, Shape.LIST)
        assert reader.feed(output) + reader.finish() == [Init(model="m"), Result("success", is_error=False)]
    assert EventReader(CLAUDE, Shape.LIST).feed(lines(result)) == [Result("success", is_error=False)]
    assert EventReader(CLAUDE).feed(lines([init, result])) == []


CODEX_RUN = lines(
    {"type": "thread.started", "thread_id": "0199a213-81c0-7800-8aa1-bbab2a035a53"},
    {"type": "turn.started"},
    {"type": "item.completed", "item": {"id": "item_0", "type": "reasoning", "text": "**Looking**"}},
    {"type": "item.started", "item": {"id": "item_1", "type": "command_execution", "command": "bash -lc ls"}},
    {"type": "error", "message": "Reconnecting... 2/5 (stream disconnected before completion)"},
)
CODEX_TOOL_ENDS = {"id": "item_1", "type": "command_execution", "command": "bash -lc ls", "exit_code": 0}


def test_codex_reports():
    """A thread, a thought, a tool, another attempt, the answer, the tokens."""
    reader = EventReader(CODEX, is_brief=True)
    assert reader.feed(CODEX_RUN) == [
        Init(session_id="0199a213-81c0-7800-8aa1-bbab2a035a53"),
        Init(),
        Thinking("**Looking**"),
        ToolUse("item_1", "command_execution", "bash -lc ls"),
        ApiRetry(2, 5, error="Reconnecting... 2/5 (stream disconnected before completion)"),
    ]
    usage = {"input_tokens": 24763, "cached_input_tokens": 24448, "output_tokens": 122}
    assert reader.feed(
        lines(
            {"type": "item.completed", "item": {**CODEX_TOOL_ENDS, "status": "completed"}},
            {"type": "item.completed", "item": {**CODEX_TOOL_ENDS, "status": "declined"}},
            {"type": "item.started", "item": {"id": "item_2", "type": "mcp_tool_call", "server": "s", "tool": "t"}},
            {"type": "item.completed", "item": {"id": "item_3", "type": "agent_message", "text": "Done."}},
            {"type": "item.updated", "item": {"id": "item_4", "type": "todo_list", "items": []}},
            {"type": "turn.completed", "usage": usage},
        )
    ) == [
        ToolResult("item_1"),
        ToolResult("item_1", is_error=True, is_denied=True),
        ToolUse("item_2", "t"),
        Text("Done."),
        Other("todo_list"),
        Result("success", is_error=False, usage=usage, turns=1),
    ]


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("You've hit your usage limit. Upgrade to Pro (https://x) or try again at 3:28 PM.", Cause.RATE_LIMITED),
        ("Codex ran out of room in the model's context window. Start a new thread.", Cause.TOKEN_LIMIT),
        ("unexpected status 401 Unauthorized: Missing bearer", Cause.NOT_LOGGED_IN),
        ("Selected model is at capacity. Please try a different model.", Cause.OVERLOADED),
        ("exceeded retry limit, last status: 429 Too Many Requests", Cause.RATE_LIMITED),
        ("sandbox error: command timed out", Cause.FAILED),
    ],
)
def test_codex_fails(message, cause):
    """What it says of a turn that failed, in the words of its source."""
    events = EventReader(CODEX).feed(
        lines({"type": "error", "message": message}, {"type": "turn.failed", "error": {"message": message}})
    )
    verdict = judge(CODEX, Shape.EVENTS, 1, Conversation.of(events))
    assert (verdict.cause, verdict.text) == (cause, message)


def test_gemini_reports():
    """A session, pieces of an answer, a tool, the tokens."""
    stats = {
        "total_tokens": 30,
        "input_tokens": 20,
        "output_tokens": 10,
        "duration_ms": 1500,
        "tool_calls": 1,
        "models": {},
    }
    output = lines(
        {"type": "init", "timestamp": "t", "session_id": "s", "model": "gemini-pro"},
        {"type": "message", "timestamp": "t", "role": "user", "content": "hi"},
        {"type": "message", "timestamp": "t", "role": "assistant", "content": "He", "delta": True},
        {"type": "tool_use", "tool_name": "run_shell_command", "tool_id": "1", "parameters": {"command": "ls"}},
        {"type": "tool_result", "tool_id": "1", "status": "error", "output": "x"},
        {"type": "error", "severity": "warning", "message": "Loop detected, stopping execution"},
        {"type": "result", "status": "success", "stats": stats},
    )
    usage = {"total_tokens": 30, "input_tokens": 20, "output_tokens": 10}
    assert EventReader(GEMINI).feed(output) == [
        Init("s", "gemini-pro"),
        Other("message"),
        Delta("He"),
        ToolUse("1", "run_shell_command", "ls"),
        ToolResult("1", is_error=True),
        Failure("warning", "Loop detected, stopping execution"),
        Result("success", is_error=False, usage=usage, duration=1.5),
    ]
    brief = Conversation.of(EventReader(GEMINI, is_brief=True).feed(output))
    assert (brief.session_id, brief.tool_uses, brief.usage["total_tokens"]) == ("s", 1, 30)


@pytest.mark.parametrize(
    ("code", "error", "cause"),
    [
        (1, {"type": "TerminalQuotaError", "message": "You have exhausted your daily quota"}, Cause.RATE_LIMITED),
        (53, {"type": "FatalTurnLimitedError", "message": "Reached max session turns"}, Cause.MAX_TURNS),
        (41, {"type": "FatalAuthenticationError", "message": "no key"}, Cause.NOT_LOGGED_IN),
        (130, {"type": "FatalCancellationError", "message": "Operation cancelled."}, Cause.INTERRUPTED),
    ],
)
def test_gemini_fails(code, error, cause):
    """The type of its error says it; without any output, its exit code does."""
    events = EventReader(GEMINI).feed(lines({"type": "result", "status": "error", "error": error}))
    assert judge(GEMINI, Shape.EVENTS, code, Conversation.of(events)).cause is cause
    if code > 1:
        assert judge(GEMINI, Shape.TEXT, code, Conversation(), complaint="x").cause is cause


def test_gemini_prints_a_document():
    """`--output-format json`: one object over many lines."""
    document = json.dumps({"session_id": "s", "response": "Hi", "stats": {"models": {}}}, indent=2).encode()
    reader = EventReader(GEMINI, Shape.DOCUMENT)
    assert reader.feed(document[:20]) == reader.feed(document[20:]) == []
    (result,) = reader.finish()
    assert result == Result("success", is_error=False, text="Hi", session_id="s")
