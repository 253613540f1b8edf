"""The description of an execution: the fields by which `list`, `status` and the history show it.

Owns these fields and how long commands are shortened. Must not change anything.
"""

from collections.abc import Iterable
from typing import Any

import attrs

from ccexecd.process.execution import Execution

_SHOWN = 1000
"""Characters of `command`, and of all words of `argv` together, that are shown; the rest is cut."""


def describe(execution: Execution) -> dict[str, Any]:
    """Return the description of an execution, as JSON values; its listeners add fields of their own."""
    spec, outcome = execution.spec, execution.outcome
    told: dict[str, Any] = {
        "execution_id": execution.id,
        "session_id": execution.session_id,
        "principal": execution.principal,
        "state": execution.state.value,
        "queue_position": execution.turn.position if execution.turn else None,
        "lane": spec.lane or None,
        "priority": spec.priority,
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
        "framing": spec.framing,
        "max_line_bytes": spec.max_line_bytes,
        "stdin": "open" if spec.stdin_open else "closed",
        "pty": attrs.asdict(execution.terminal.size) if execution.terminal else None,
        "labels": dict(spec.labels),
    }
    for listener in execution.listeners:
        told.update(listener.facts())
    return told


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
