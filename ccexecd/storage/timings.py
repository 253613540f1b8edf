"""How long past executions took: queries on the history about durations.

Owns the SQL and the form of the answers. Everything in here blocks, and is called in a thread. Must not know what is
concluded from the answers.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

import attrs

from ccexecd.core.estimate import percentile
from ccexecd.core.experience import came_to_its_end
from ccexecd.core.kinds import Category, Kind
from ccexecd.storage.history import LAST_MOMENT

MOST_LEARNT = 5000
"""Executions that a daemon learns from at its start, the newest ones: 20 ms in a thread."""

MOST_COUNTED = 100_000
"""Executions that percentiles are made of, the newest ones: half a second in a thread."""

MOST_GROUPS = 200
"""Groups that `spread` returns: those with the most executions."""

PERCENTILES = (0.5, 0.9, 0.95, 0.99)


def _described(path: str) -> str:
    """SQL for a value in the description; NULL if the description is not JSON.

    Args:
        path: a JSON path, such as `$.timeout`.
    """
    return f"CASE WHEN json_valid(description) THEN json_extract(description, '{path}') END"


_JUDGED = _described("$.agent.verdict.is_success")
"""SQL for whether an agent's run was judged a success; NULL if the execution was no agent."""


@attrs.frozen
class Timing:
    """How long one execution ran.

    Attributes:
        principal: the name of its principal.
        kind: the kind of its command.
        seconds: how long it ran, pauses not counted.
        is_complete: whether it came to its own end, successfully.
        load: how busy the machine was, in per cent.
    """

    principal: str
    kind: Kind
    seconds: float
    is_complete: bool
    load: float = 0.0


@attrs.frozen
class Asked:
    """Which finished executions a query is for; None means any.

    Attributes:
        principal: name of their principal.
        category: category of their command (`core.kinds`).
        program: their program.
        reason: the reason of their end.
        since: they finished at this moment or later, in seconds since the epoch.
        before: their number in the history is smaller than this.
        limit: how many at most, the newest first.
    """

    principal: str | None = None
    category: str | None = None
    program: str | None = None
    reason: str | None = None
    since: float | None = None
    before: int | None = None
    limit: int = 100


def learnt(db: sqlite3.Connection, before: float) -> list[Timing]:
    """The newest `MOST_LEARNT` executions that ran, the oldest of them first.

    Args:
        db: the history.
        before: seconds since the epoch; executions created at this moment or later are left out.

    Raises:
        sqlite3.Error: the history could not be read.
    """
    query = (
        f"SELECT principal, category, program, form, same, place, active_seconds, reason, exit_code, {_JUDGED}, load"  # noqa: S608  # our own words
        " FROM executions WHERE active_seconds IS NOT NULL AND created_at < ? ORDER BY number DESC LIMIT ?"
    )
    found = []
    for principal, category, program, form, same, place, seconds, reason, code, judged, load in db.execute(
        query, (before, MOST_LEARNT)
    ):
        try:
            kind = Kind(Category(category), str(program), str(form), str(same), str(place))
            is_complete = came_to_its_end(reason, code, judged)
            found.append(Timing(principal, kind, float(seconds), is_complete, float(load or 0.0)))
        except (TypeError, ValueError):  # not as this program writes it
            continue
    return found[::-1]


_COLUMNS = {
    "number": "number",
    "execution_id": "id",
    "session_id": "session_id",
    "principal": "principal",
    "command": "command",
    "category": "category",
    "program": "program",
    "form": "form",
    "created_at": "created_at",
    "finished_at": "finished_at",
    "duration": "duration",
    "active_seconds": "active_seconds",
    "reason": "reason",
    "exit_code": "exit_code",
    "load": "load",
    "timeout": _described("$.timeout"),
    "timeout_source": _described("$.timeout_source"),
}
_TEXTS = {
    "execution_id",
    "session_id",
    "principal",
    "command",
    "category",
    "program",
    "form",
    "reason",
    "timeout_source",
}
"""Those of `_COLUMNS` that hold text; the others hold numbers."""


def told(db: sqlite3.Connection, asked: Asked) -> list[dict[str, Any]]:
    """Finished executions as the method `history` returns them, the newest first.

    Raises:
        sqlite3.Error: the history could not be read.
    """
    condition, values = _condition(asked)
    columns = ", ".join(_COLUMNS.values())
    rows = db.execute(
        f"SELECT {columns} FROM executions WHERE {condition} ORDER BY number DESC LIMIT ?",  # noqa: S608  # our own words
        (*values, asked.limit),
    )
    return [known for row in rows if _is_ours(known := dict(zip(_COLUMNS, row, strict=True)))]


def _is_ours(known: dict[str, Any]) -> bool:
    """Whether a row holds the types that this program writes; SQLite takes anything in any column."""
    return all(
        value is None or isinstance(value, str if name in _TEXTS else int | float) for name, value in known.items()
    )


def spread(db: sqlite3.Connection, asked: Asked, by: str) -> list[dict[str, Any]]:
    """Percentiles of durations in seconds, by group; the group with the most runs first.

    Only runs that came to their own end count for the percentiles.

    Args:
        db: the history.
        asked: which executions; its `limit` is ignored.
        by: the column to group by. It goes into the SQL as it is, so it must not come from a client unchecked.

    Raises:
        sqlite3.Error: the history could not be read.
    """
    condition, values = _condition(asked)
    rows = db.execute(
        f"SELECT {by}, active_seconds, reason, exit_code, {_JUDGED} FROM executions"  # noqa: S608  # our own words
        f" WHERE {condition} AND active_seconds BETWEEN 0 AND ? ORDER BY number DESC LIMIT ?",
        (*values, LAST_MOMENT, MOST_COUNTED),
    )
    groups: dict[str, list[tuple[float, bool, str]]] = {}
    for name, seconds, reason, code, judged in rows:
        groups.setdefault(str(name), []).append((seconds, came_to_its_end(reason, code, judged), reason))
    summed = [_summary(name, runs) for name, runs in groups.items()]
    return sorted(summed, key=lambda each: (-each["runs"], each["name"]))[:MOST_GROUPS]


def _condition(asked: Asked) -> tuple[str, list[Any]]:
    conditions, values = ["finished_at BETWEEN 0 AND ?"], list[Any]([LAST_MOMENT])
    for text, value in (
        ("principal = ?", asked.principal),
        ("category = ?", asked.category),
        ("program = ?", asked.program),
        ("reason = ?", asked.reason),
        ("finished_at >= ?", asked.since),
        ("number < ?", asked.before),
    ):
        if value is not None:
            conditions.append(text)
            values.append(value)
    return " AND ".join(conditions), values


def _summary(name: str, runs: Sequence[tuple[float, bool, str]]) -> dict[str, Any]:
    complete = sorted(seconds for seconds, is_complete, _ in runs if is_complete)
    ended = sum(reason in {"timeout", "stalled"} for _, _, reason in runs)
    return {
        "name": name,
        "runs": len(runs),
        "complete": len(complete),
        "timed_out": ended,
        **{
            f"p{round(share * 100)}": round(percentile(complete, share), 6) if complete else None
            for share in PERCENTILES
        },
        "longest": round(complete[-1], 6) if complete else None,
        "total_seconds": round(sum(seconds for seconds, _, _ in runs), 6),
    }
