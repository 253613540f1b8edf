"""The methods `estimate`, `history` and `stats`: how long commands may take, and took.

Owns their results. `history` and `stats` cover the executions that the caller may see: its own, or everybody's.
`estimate` goes by the caller's own runs only.
"""

import time
from typing import Any

from ccexecd.estimates import Asked, question
from ccexecd.protocol import timings
from ccexecd.service.dispatch import Method
from ccexecd.service.listing import REPLY_BYTES, size_of
from ccexecd.service.peer import Peer

_WORDS = ("command", "program", "form")
"""Fields made from a command line, which may hold a secret: they are redacted. A form has words of it, too."""


async def estimate(peer: Peer, wanted: timings.Estimate) -> dict[str, Any]:
    """`estimate`: how long a command may take, going by the caller's past runs."""
    spec = question(wanted.argv, wanted.command, wanted.cwd)
    return await peer.engine.records.estimates.told(peer.principal.name, spec)


async def history(peer: Peer, wanted: timings.History) -> dict[str, Any]:
    """`history`: finished executions with their durations, newest first, as many as asked for and a reply can hold."""
    found = await peer.engine.records.estimates.past(
        Asked(
            principal=peer.principal.sees_only,
            category=wanted.category,
            program=wanted.program,
            reason=wanted.reason,
            since=_moment(wanted.since),
            before=wanted.before,
            limit=wanted.limit,
        )
    )
    rows: list[dict[str, Any]] = []
    room = REPLY_BYTES
    redacted = peer.engine.gate.redactor.text
    for row in found:
        each = {**row, **{name: redacted(row[name]) for name in _WORDS if row[name] is not None}}
        room -= size_of(each)
        if room < 0:
            return {"executions": rows, "before": rows[-1]["number"], "truncated": True}
        rows.append(each)
    return {"executions": rows, "before": rows[-1]["number"] if rows else wanted.before, "truncated": False}


async def stats(peer: Peer, wanted: timings.Stats) -> dict[str, Any]:
    """`stats`: percentiles of durations, by group, of the runs that came to their own end."""
    asked = Asked(principal=peer.principal.sees_only, category=wanted.category, since=_moment(wanted.since))
    redacted = peer.engine.gate.redactor.text
    groups = await peer.engine.records.estimates.spread(asked, wanted.by)
    return {"by": wanted.by, "groups": [{**group, "name": redacted(group["name"])} for group in groups]}


def _moment(seconds_ago: float | None) -> float | None:
    return time.time() - seconds_ago if seconds_ago is not None else None


TIMING_METHODS = {
    "estimate": Method(timings.Estimate, estimate),
    "history": Method(timings.History, history),
    "stats": Method(timings.Stats, stats),
}
"""Name -> method, served at both doors."""
