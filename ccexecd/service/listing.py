"""`list`: what is told of executions.

Owns the description of one, and keeping replies so small that every client can take them. Must not change anything.
"""

from collections.abc import Iterable
from typing import Any

import attrs

from ccexecd.core.execution import State
from ccexecd.process.execution import Execution
from ccexecd.protocol import messages
from ccexecd.protocol.codec import dumps
from ccexecd.service.peer import Peer

REPLY_BYTES = 1000 * 1024
"""Bytes of JSON of the entries of one reply: with what is around them, less than the 1 MiB that a frame may have."""

_SHOWN = 1000
"""Characters of a command, and of its words together, that are shown; people and programs tell it by less."""


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


def list_executions(peer: Peer, wanted: messages.List) -> dict[str, Any]:
    """What is known of executions, newest first: as many as were asked for and as a reply can hold."""
    found: list[dict[str, Any]] = []
    room = REPLY_BYTES
    for execution in reversed(peer.engine.executions.values()):
        if len(found) >= wanted.limit:
            break
        if _matches(execution, wanted):
            described = describe(execution)
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
        "exit_code": outcome.exit_code if outcome else None,
        "signal": outcome.signal if outcome else None,
        "reason": outcome.reason.value if outcome else None,
        "error": outcome.error if outcome else "",
        "leftovers": list(outcome.leftovers) if outcome else [],
        "stdout_bytes": execution.log.sizes["stdout"],
        "stderr_bytes": execution.log.sizes["stderr"],
        "dropped_bytes": execution.log.dropped_bytes,
        "next_seq": execution.log.next_seq,
        "oldest_seq": execution.log.oldest_seq,
        "stdin": "open" if spec.stdin_open else "closed",
        "pty": attrs.asdict(execution.terminal.size) if execution.terminal else None,
        "labels": dict(spec.labels),
    }
