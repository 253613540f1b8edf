"""`list`: what is told of executions.

Owns the description of one, and keeping replies so small that every client can take them. Must not change anything.
"""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from ccexecd.core.execution import State
from ccexecd.process.execution import Execution
from ccexecd.process.measure import MEASURED, usage_of_each
from ccexecd.protocol import messages
from ccexecd.protocol.codec import dumps
from ccexecd.service.peer import Peer

REPLY_BYTES = 1000 * 1024
"""Bytes of JSON of the entries of one reply: with what is around them, less than the 1 MiB that a frame may have."""

_SHOWN = 1000
"""Characters of a command, and of its words together, that are shown; people and programs tell it by less."""

_LISTED = 200
"""Processes of one execution that are told; `process_count` tells how many there are."""


def size_of(entry: dict[str, Any]) -> int:
    """Bytes of an entry and its comma in a reply."""
    return len(dumps(entry)) + 1


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _shown_words(words: Iterable[str]) -> list[str]:
    shown: list[str] = []
    room = _SHOWN
    for word in words:
        if room <= 0:
            return [*shown, "…"]
        shown.append(word if len(word) <= room else word[:room] + "…")
        room -= len(word) + 1
    return shown


def list_executions(peer: Peer, wanted: messages.List) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """What is known of executions, newest first: as many as were asked for and as a reply can hold."""
    visible = (each for each in reversed(peer.engine.executions.values()) if peer.sees(each))
    matching = [each for each in visible if _matches(each, wanted)][: wanted.limit]
    if wanted.resources or wanted.tree:
        return _with_resources(matching, tree=wanted.tree)
    return _reply(matching, {})


async def _with_resources(executions: Sequence[Execution], *, tree: bool) -> dict[str, Any]:
    """The same, with what each of them that has processes uses: looked at in one pass, the newest first."""
    trees: dict[str, list[int]] = {}
    seen = 0
    for execution in executions:
        if seen < MEASURED and has_processes(execution):
            trees[execution.id] = await execution.processes()
            seen += len(trees[execution.id])
    usage = await usage_of_each(trees)
    resources: dict[str, dict[str, Any]] = {}
    for name, used in usage.items():
        processes = used.pop("processes")
        resources[name] = {
            **used,
            "process_count": len(trees[name]),
            **({"processes": processes[:_LISTED]} if tree else {}),
        }
    return _reply(executions, resources)


def has_processes(execution: Execution) -> bool:
    """Whether it lives, or something that it left running does."""
    return execution.is_live or execution.leaves_running


def _reply(executions: Iterable[Execution], resources: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    room = REPLY_BYTES
    for execution in executions:
        described = describe(execution) | resources.get(execution.id, {})
        room -= size_of(described)
        if room < 0:
            return {"executions": found, "truncated": True}
        found.append(described)
    return {"executions": found, "truncated": False}


def _matches(execution: Execution, wanted: messages.List) -> bool:
    if wanted.session is not None and execution.session_id != wanted.session:
        return False
    if wanted.label is not None:
        name, equals, value = wanted.label.partition("=")
        if name not in execution.spec.labels or (equals and execution.spec.labels[name] != value):
            return False
    if wanted.state == "live":
        return execution.is_live
    return wanted.state is None or execution.state is State[wanted.state]


def describe(execution: Execution) -> dict[str, Any]:
    """What `list` and `status` tell of an execution."""
    spec, outcome = execution.spec, execution.outcome
    return {
        "execution_id": execution.id,
        "session_id": execution.session_id,
        "principal": execution.principal,
        "state": execution.state.value,
        "command": _shown(spec.display),
        "argv": _shown_words(spec.argv),
        "cwd": _shown(spec.cwd or "/"),
        "pid": execution.pid,
        "pgid": execution.pid,
        "created_at": execution.created_at.isoformat(),
        "started_at": execution.started_at.isoformat() if execution.started_at else None,
        "finished_at": execution.finished_at.isoformat() if execution.finished_at else None,
        "duration": execution.duration,
        "timeout": spec.timeout,
        "timeout_source": spec.timeout_source,
        "limits": spec.limits.as_set(),
        "exit_code": outcome.exit_code if outcome else None,
        "signal": outcome.signal if outcome else None,
        "reason": outcome.reason.value if outcome else None,
        "limit": outcome.limit if outcome else None,
        "error": outcome.error if outcome else "",
        "leftovers": list(outcome.leftovers) if outcome else [],
        "left_running": execution.leaves_running,
        "stdout_bytes": execution.log.sizes["stdout"],
        "stderr_bytes": execution.log.sizes["stderr"],
        "dropped_bytes": execution.log.dropped_bytes,
        "next_seq": execution.log.next_seq,
        "oldest_seq": execution.log.oldest_seq,
        "stdin": "open" if spec.stdin_open else "closed",
        "pty": attrs.asdict(execution.terminal.size) if execution.terminal else None,
        "labels": dict(spec.labels),
    }
