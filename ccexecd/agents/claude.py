"""Claude Code: reading its output, and the command that resumes a conversation with it.

Owns the names in its `stream-json` (the messages of its Agent SDK; what is read here was recorded from versions 1.0.60
to 2.1.329) and the table of its options. `type` may be anywhere in an object, so that the beginning of a line does not
tell its kind; only a `stream_event`, which has a part of an answer, always begins with its type.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccexecd.agents.adapter import Adapter, Shape
from ccexecd.agents.events import (
    NAME,
    ApiRetry,
    Delta,
    Event,
    Failure,
    Init,
    Interrupted,
    Other,
    RateLimit,
    Result,
    Task,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    counts,
    number,
    record,
    records,
    summary_of,
    whole,
    words,
)
from ccexecd.agents.options import Takes, take_apart

_CLOSING = (
    {"type": "system", "subtype": "hook_started", "hook_event": "SessionEnd"},
    {"type": "system", "subtype": "hook_progress", "hook_event": "SessionEnd"},
    {"type": "system", "subtype": "hook_response", "hook_event": "SessionEnd"},
    {"type": "system", "subtype": "session_state_changed", "state": "idle"},
    {"type": "system", "subtype": "files_persisted"},
    {"type": "prompt_suggestion"},
)
"""Events that may follow a result without another turn having begun; such an event has all fields of one of these."""

_NOT_ALLOWED = "Claude requested permissions to use "
"""Beginning of a tool's result in version 1.0 if the tool was not allowed; later versions tell it in the result."""

_INTERRUPTED = "[Request interrupted by user"
"""Beginning of the text that an interrupt adds to the conversation."""

_OPTIONS = {
    **dict.fromkeys(
        [
            *("-p", "--print", "--verbose", "-c", "--continue", "--fork-session", "--no-session-persistence", "-v"),
            *(
                "--version",
                "-h",
                "--help",
                "--include-partial-messages",
                "--include-hook-events",
                "--strict-mcp-config",
            ),
            *("--dangerously-skip-permissions", "--allow-dangerously-skip-permissions", "--replay-user-messages"),
            *("--bare", "--disable-slash-commands", "--forward-subagent-text", "--safe-mode", "--restricted"),
        ],
        Takes.NOTHING,
    ),
    **dict.fromkeys(
        [
            *("--output-format", "--input-format", "--model", "--fallback-model", "--permission-mode", "--settings"),
            *("--append-system-prompt", "--system-prompt", "--session-id", "--max-turns", "--agent", "--agents"),
            *("--json-schema", "--max-budget-usd", "--effort", "--setting-sources", "--plugin-dir", "-n", "--name"),
            *("--permission-prompt-tool", "-r", "--resume"),
        ],
        Takes.ONE,
    ),
    **dict.fromkeys(
        [
            *("--allowedTools", "--allowed-tools", "--disallowedTools", "--disallowed-tools", "--tools", "--add-dir"),
            *("--mcp-config", "--betas"),
        ],
        Takes.SOME,
    ),
}
"""Options of `claude --help` and of its documentation, each with what it takes."""

_NOT_AGAIN = ("-r", "--resume", "-c", "--continue", "--session-id", "--fork-session", "-n", "--name")
"""Options that are left out when a conversation is resumed: they are for one run, or `--resume` replaces them."""


def _behind_program(command: Sequence[str]) -> int:
    """Return the index of Claude Code's first word: after `claude`, or before the first option of another program.

    Another program, such as `node`, has words of its own before that, such as the path of a script.
    """
    if not command or command[0].rpartition("/")[2] == "claude":
        return 1
    return next((at for at, word in enumerate(command) if word.startswith("-")), len(command))


def shape_of(command: Sequence[str]) -> Shape:
    """Return the form of a command's output."""
    options = take_apart(command[_behind_program(command) :], _OPTIONS)
    if options.value("-p", "--print") is None:
        return Shape.NONE
    form = options.value("--output-format")
    return {"stream-json": Shape.EVENTS, "json": Shape.LIST, "text": Shape.TEXT, None: Shape.TEXT}.get(form, Shape.NONE)


def resumed(command: Sequence[str], session_id: str) -> tuple[str, ...] | None:
    """Return the words that resume a conversation, to be followed by the prompt; None if it was not kept.

    Args:
        command: the words of the command that began the conversation.
        session_id: the conversation's id.
    """
    start = _behind_program(command)
    options = take_apart(command[start:], _OPTIONS)
    if options.value("--no-session-persistence") is not None:
        return None
    return (*command[:start], f"--resume={session_id}", *options.without(*_NOT_AGAIN))


def events_of(found: Mapping[str, Any]) -> list[Event]:
    """Return the events in one JSON object of the output."""
    kind = words(found.get("type"), NAME)
    read = _READERS.get(kind)
    return read(found) if read is not None else [_other(found, kind)]


def _said(found: Mapping[str, Any]) -> list[Event]:
    """Read an `assistant` message: what the model says, thinks and asks tools for."""
    parent = words(found.get("parent_tool_use_id"), NAME)
    events: list[Event] = []
    for block in records(record(found.get("message")).get("content")):
        match block.get("type"):
            case "text":
                events.append(Text(words(block.get("text")), parent))
            case "thinking":
                events.append(Thinking(words(block.get("thinking")), parent))
            case "tool_use":
                name, summary = words(block.get("name"), NAME), summary_of(block.get("input"))
                events.append(ToolUse(words(block.get("id"), NAME), name, summary, parent))
            case _:
                pass
    kind = words(found.get("error"), NAME)
    if kind:
        events.append(Failure(kind, "".join(each.text for each in events if isinstance(each, Text))))
    return events or [Other("assistant")]


def _put_in(found: Mapping[str, Any]) -> list[Event]:
    """Read a `user` message, which the program adds to the conversation: results of tools, or an interrupt."""
    content = record(found.get("message")).get("content")
    events: list[Event] = []
    for block in records(content):
        if block.get("type") == "tool_result":
            is_error = block.get("is_error") is True
            is_denied = is_error and words(block.get("content")).startswith(_NOT_ALLOWED)
            events.append(ToolResult(words(block.get("tool_use_id"), NAME), is_error, is_denied))
        elif words(block.get("text")).startswith(_INTERRUPTED):
            events.append(Interrupted())
    return events or [Other("user")]


def _of_system(found: Mapping[str, Any]) -> Event:
    match found.get("subtype"):
        case "init":
            return Init(
                session_id=words(found.get("session_id"), NAME),
                model=words(found.get("model"), NAME),
                cwd=words(found.get("cwd"), 4096),
                version=words(found.get("claude_code_version"), NAME),
                permission_mode=words(found.get("permissionMode"), NAME),
                tools=_names(found.get("tools")),
            )
        case "api_retry":
            delay = number(found.get("retry_delay_ms"))
            return ApiRetry(
                attempt=whole(found.get("attempt")) or 0,
                most=whole(found.get("max_retries")),
                delay=None if delay is None else delay / 1000,
                status=whole(found.get("error_status")),
                error=words(found.get("error"), NAME),
            )
        case "task_started":
            return Task(
                words(found.get("task_id"), NAME),
                words(found.get("description"), NAME),
                tool=words(found.get("tool_use_id"), NAME),
            )
        case "task_notification":
            return Task(words(found.get("task_id"), NAME), is_running=False)
        case _:
            return _other(found, "system")


def _result(found: Mapping[str, Any]) -> Result:
    """Read the end of a turn. Some errors show in `subtype` only, some in `is_error` only; no `subtype` is success."""
    milliseconds = number(found.get("duration_ms"))
    told = words(found.get("result")) or "\n".join(_names(found.get("errors")))
    subtype = found.get("subtype", "success")
    return Result(
        subtype=words(subtype, NAME) or str(subtype)[:NAME],
        is_error=bool(found.get("is_error")),
        text=told,
        status=whole(found.get("api_error_status")),
        why=words(found.get("terminal_reason"), NAME),
        session_id=words(found.get("session_id"), NAME),
        usage=counts(found.get("usage")),
        cost=number(found.get("total_cost_usd")),
        duration=None if milliseconds is None else milliseconds / 1000,
        turns=whole(found.get("num_turns")),
        denied=tuple(words(each.get("tool_name"), NAME) for each in records(found.get("permission_denials"))),
    )


def _delta(delta: Mapping[str, Any]) -> Event:
    match delta.get("type"):
        case "text_delta":
            return Delta(words(delta.get("text")))
        case "thinking_delta":
            return Delta(words(delta.get("thinking")), is_thinking=True)
        case _:
            return Other("stream_event")


def _limit(found: Mapping[str, Any]) -> RateLimit:
    window = words(found.get("rateLimitType"), NAME)
    return RateLimit(found.get("status") == "rejected", number(found.get("resetsAt")), window)


def _other(found: Mapping[str, Any], kind: str) -> Other:
    is_closing = any(known.items() <= found.items() for known in _CLOSING)
    return Other(kind, words(found.get("subtype"), NAME), is_closing)


def _names(value: Any) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


_READERS: Mapping[str, Callable[[Mapping[str, Any]], list[Event]]] = {
    "assistant": _said,
    "user": _put_in,
    "system": lambda found: [_of_system(found)],
    "result": lambda found: [_result(found)],
    "stream_event": lambda found: [_delta(record(record(found.get("event")).get("delta")))],
    "rate_limit_event": lambda found: [_limit(record(found.get("rate_limit_info")))],
}

CLAUDE = Adapter(
    name="claude",
    shape_of=shape_of,
    events_of=events_of,
    resumed=resumed,
    telling=(*(b'"system', b'"user', b'"result', b'"tool_use', b'"rate_limit', b'"prompt_sugg', b'"error'),),
    dull=b'{"type":"stream_event",',
    loses_its_end=True,
)
