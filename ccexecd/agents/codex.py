"""OpenAI Codex: reading the output of `codex exec --json`, and the command that resumes a thread.

Owns the names in its JSONL (`codex-rs/exec/src/exec_events.rs` of its source) and the table of its options
(`codex-rs/exec/src/cli.rs`, `codex-rs/utils/cli/src/shared_options.rs`). An `error` event may be followed by another
attempt; `turn.failed` is final.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccexecd.agents.adapter import Adapter, Shape
from ccexecd.agents.events import (
    NAME,
    ApiRetry,
    Event,
    Failure,
    Init,
    Other,
    Result,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    counts,
    record,
    summary_of,
    words,
)
from ccexecd.agents.options import Options, Takes, take_apart

_TOOLS = ("command_execution", "file_change", "mcp_tool_call", "collab_tool_call", "web_search")
"""Types of items that are uses of tools."""

_RETRY = re.compile(r"Reconnecting\.\.\. (\d{1,4})/(\d{1,4})")
"""Message of an `error` that announces another request to the model: which one, and how many there will be."""

_OPTIONS = {
    **dict.fromkeys(
        [
            *("--json", "--experimental-json", "--skip-git-repo-check", "--ephemeral", "--ignore-user-config", "--oss"),
            *(
                "--ignore-rules",
                "--full-auto",
                "--dangerously-bypass-approvals-and-sandbox",
                "--yolo",
                "--last",
                "--all",
            ),
        ],
        Takes.NOTHING,
    ),
    **dict.fromkeys(
        [
            *(
                "-m",
                "--model",
                "-p",
                "--profile",
                "-s",
                "--sandbox",
                "-C",
                "--cd",
                "--add-dir",
                "--local-provider",
                "-c",
            ),
            *("--config", "--output-schema", "--color", "-o", "--output-last-message"),
        ],
        Takes.ONE,
    ),
    **dict.fromkeys(["-i", "--image"], Takes.SOME),
}

_LONG = {"-m": "--model", "-p": "--profile", "-s": "--sandbox", "-C": "--cd", "-c": "--config"}
"""Long names of short options: only a long name can have its value in the same word (`--model=NAME`)."""

_NOT_AGAIN = ("--last", "--all", "-i", "--image", "-o", "--output-last-message", "--output-schema")
"""Options that are left out when a thread is resumed, since they are for one run."""


def _options(command: Sequence[str]) -> Options:
    options = take_apart(command[1:], _OPTIONS)
    return Options(tuple((_LONG.get(name, name), value) for name, value in options.given), options.others)


def shape_of(command: Sequence[str]) -> Shape:
    """Return the form of a command's output."""
    options = _options(command)
    if options.others[:1] not in (("exec",), ("e",)):
        return Shape.NONE
    return Shape.TEXT if options.value("--json", "--experimental-json") is None else Shape.EVENTS


def resumed(command: Sequence[str], session_id: str) -> tuple[str, ...] | None:
    """Return the words that resume a thread, to be followed by the prompt; None if it was not kept, or is no `exec`.

    Args:
        command: the words of the command that began the thread.
        session_id: the thread's id.
    """
    options = _options(command)
    if options.value("--ephemeral") is not None or options.others[:1] not in (("exec",), ("e",)):
        return None
    return (command[0], "exec", *options.without(*_NOT_AGAIN), "resume", session_id)


def events_of(found: Mapping[str, Any]) -> list[Event]:
    """Return the events in one JSON object of the output."""
    kind = words(found.get("type"), NAME)
    if kind.startswith("item."):
        return [_item(record(found.get("item")), is_over=kind == "item.completed")]
    read = _READERS.get(kind)
    return [read(found) if read is not None else Other(kind)]


def _item(item: Mapping[str, Any], *, is_over: bool) -> Event:
    kind, name = words(item.get("type"), NAME), words(item.get("id"), NAME)
    if kind in _TOOLS:
        if is_over:
            status = item.get("status")
            return ToolResult(name, status in ("failed", "declined"), is_denied=status == "declined")
        return ToolUse(name, words(item.get("tool"), NAME) or kind, summary_of(item))
    if is_over and kind == "agent_message":
        return Text(words(item.get("text")))
    if is_over and kind == "reasoning":
        return Thinking(words(item.get("text")))
    return Other(kind)


def _error(message: str) -> Event:
    retry = _RETRY.match(message)
    if retry is None:
        return Failure("", message)
    return ApiRetry(int(retry[1]), int(retry[2]), error=message[:NAME])


def _failed(found: Mapping[str, Any]) -> Result:
    return Result("error", is_error=True, text=words(record(found.get("error")).get("message")), turns=1)


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Event]] = {
    "thread.started": lambda found: Init(session_id=words(found.get("thread_id"), NAME)),
    "turn.started": lambda _: Init(),
    "turn.completed": lambda found: Result("success", is_error=False, usage=counts(found.get("usage")), turns=1),
    "turn.failed": _failed,
    "error": lambda found: _error(words(found.get("message"))),
}

CODEX = Adapter(name="codex", shape_of=shape_of, events_of=events_of, resumed=resumed)
