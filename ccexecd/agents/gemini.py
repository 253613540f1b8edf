"""Gemini CLI: reading its output, and the command that resumes a session.

Owns the names in its `stream-json` and `json` (`packages/core/src/output/types.ts` of its source), what its exit codes
mean (`packages/core/src/utils/errors.ts`) and the table of its options (`packages/cli/src/config/config.ts`). Under
`json`, an error is on standard error.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccexecd.agents.adapter import Adapter, Shape
from ccexecd.agents.events import (
    NAME,
    Delta,
    Event,
    Failure,
    Init,
    Other,
    Result,
    Text,
    ToolResult,
    ToolUse,
    counts,
    number,
    record,
    summary_of,
    words,
)
from ccexecd.agents.options import Takes, take_apart

_OPTIONS = {
    **dict.fromkeys(
        ["-d", "--debug", "-s", "--sandbox", "-y", "--yolo", "--skip-trust", "--raw-output"], Takes.NOTHING
    ),
    **dict.fromkeys(
        [
            *("-p", "--prompt", "-m", "--model", "-o", "--output-format", "--approval-mode", "-r", "--resume"),
            *("--session-id", "--session-file", "-i", "--prompt-interactive", "--allowed-tools", "-e", "--extensions"),
            *("--allowed-mcp-server-names", "--include-directories", "--policy"),
        ],
        Takes.ONE,
    ),
}

_LONG = {"-m": "--model", "-o": "--output-format", "-e": "--extensions"}
"""Long names of short options: only a long name can have its value in the same word (`--model=NAME`)."""

_NOT_AGAIN = ("-p", "--prompt", "-r", "--resume", "--session-id", "--session-file", "-i", "--prompt-interactive")
"""Options that are left out when a session is resumed: they are for one run, or `--resume` replaces them."""


def shape_of(command: Sequence[str]) -> Shape:
    """Return the form of a command's output."""
    options = take_apart(command[1:], _OPTIONS)
    if options.value("-p", "--prompt") is None and (not options.others or options.value("-i") is not None):
        return Shape.NONE
    form = options.value("-o", "--output-format")
    return {"stream-json": Shape.EVENTS, "json": Shape.DOCUMENT}.get(form or "text", Shape.TEXT)


def resumed(command: Sequence[str], session_id: str) -> tuple[str, ...] | None:
    """Return the words that resume a session, to be followed by the prompt.

    Args:
        command: the words of the command that began the session.
        session_id: the session's id.
    """
    options = take_apart(command[1:], _OPTIONS)
    kept = [(_LONG.get(name, name), value) for name, value in options.given if name not in _NOT_AGAIN]
    rest = [name if value is None else f"{name}={value}" for name, value in kept]
    return (command[0], f"--resume={session_id}", *rest, "-p")


def events_of(found: Mapping[str, Any]) -> list[Event]:
    """Return the events in one JSON object of the output: a line's, or the whole output's under `json`."""
    kind = words(found.get("type"), NAME)
    read = _READERS.get(kind)
    if read is not None:
        return [read(found)]
    return [Other(kind) if kind or not found.keys() & {"response", "error"} else _document(found)]


def _use(found: Mapping[str, Any]) -> ToolUse:
    name = words(found.get("tool_name"), NAME)
    return ToolUse(words(found.get("tool_id"), NAME), name, summary_of(found.get("parameters")))


def _message(found: Mapping[str, Any]) -> Event:
    if found.get("role") != "assistant":
        return Other("message")
    text = words(found.get("content"))
    return Delta(text) if found.get("delta") is True else Text(text)


def _result(found: Mapping[str, Any]) -> Result:
    error, stats = record(found.get("error")), record(found.get("stats"))
    milliseconds = number(stats.get("duration_ms"))
    return Result(
        subtype=words(found.get("status"), NAME),
        is_error=found.get("status") != "success",
        text=words(error.get("message")),
        why=words(error.get("type"), NAME),
        usage=_tokens(stats),
        duration=None if milliseconds is None else milliseconds / 1000,
    )


def _document(found: Mapping[str, Any]) -> Result:
    error = record(found.get("error"))
    return Result(
        subtype="error" if error else "success",
        is_error=bool(error),
        text=words(error.get("message")) or words(found.get("response")),
        why=words(error.get("type"), NAME),
        session_id=words(found.get("session_id"), NAME),
    )


def _tokens(stats: Mapping[str, Any]) -> dict[str, int]:
    return {name: count for name, count in counts(stats).items() if name not in ("duration_ms", "tool_calls")}


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Event]] = {
    "init": lambda found: Init(words(found.get("session_id"), NAME), words(found.get("model"), NAME)),
    "message": _message,
    "tool_use": _use,
    "tool_result": lambda found: ToolResult(words(found.get("tool_id"), NAME), found.get("status") == "error"),
    "error": lambda found: Failure(words(found.get("severity"), NAME), words(found.get("message"))),
    "result": _result,
}

GEMINI = Adapter(
    name="gemini",
    shape_of=shape_of,
    events_of=events_of,
    resumed=resumed,
    telling=(b'"init', b'"tool_', b'"error', b'"result'),
    causes={
        41: "NOT_LOGGED_IN",
        42: "NOT_ACCEPTED",
        52: "NOT_ACCEPTED",
        53: "MAX_TURNS",
        54: "FAILED",
        55: "PERMISSION_DENIED",
        130: "INTERRUPTED",
    },
)
