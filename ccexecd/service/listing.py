"""The method `list`, and how an execution is described to clients.

Owns the choice of executions, and keeping a reply within what every client can take. Must not change anything.
"""

import functools
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any

import trio

from ccexecd.core.execution import State
from ccexecd.core.redaction import Redactor
from ccexecd.engine import Execution, HistoryUnavailableError, PastExecution, Wanted
from ccexecd.process.description import describe
from ccexecd.process.measure import MEASURED, usage_of_each
from ccexecd.protocol import messages
from ccexecd.protocol.codec import dumps
from ccexecd.service.peer import Peer

REPLY_BYTES = 1000 * 1024
"""Bytes of JSON for the entries of one reply: with the rest of it, less than the 1 MiB that a frame may have."""

AT_ONCE = 50
"""Executions that are described in one step: 5 ms of the event loop."""

MOST_LISTED = 2000
"""Past executions read for one reply: more than fit into it, since each takes 600 bytes of JSON at least."""

_LISTED = 200
"""Processes of one execution that a reply lists; `process_count` tells how many there are."""


def size_of(entry: dict[str, Any]) -> int:
    """Bytes of an entry and its comma in a reply."""
    return len(dumps(entry)) + 1


def list_executions(peer: Peer, wanted: messages.List) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """`list`: descriptions of executions, the newest first: as many as were asked for and a reply can hold."""
    visible = (each for each in reversed(peer.engine.executions.values()) if peer.sees(each))
    matching = [each for each in visible if _matches(each, wanted)][: wanted.limit]
    may_be_past = wanted.state in (None, State.FINISHED.value) and len(matching) < wanted.limit
    if may_be_past or wanted.resources or wanted.tree or len(matching) > AT_ONCE:
        return _with_more(peer, wanted, matching, may_be_past=may_be_past)
    return _reply(matching, {}, peer.engine.gate.redactor)


async def _with_more(
    peer: Peer, wanted: messages.List, matching: list[Execution], *, may_be_past: bool
) -> dict[str, Any]:
    """`list` where that takes longer: past executions, the use of resources, or many executions."""
    past: Sequence[PastExecution] = ()
    missing = ""
    if may_be_past:
        known, limit = tuple(peer.engine.executions), min(wanted.limit - len(matching), MOST_LISTED)
        asked = Wanted(wanted.label, wanted.session, peer.principal.sees_only, known, limit)
        try:
            past = await peer.engine.records.newest(asked)
        except HistoryUnavailableError as error:
            missing = f"finished executions that have left the memory: {error}"
    resources = await _resources(matching, tree=wanted.tree) if wanted.resources or wanted.tree else {}
    reply = await _reply_in_steps([*matching, *past], resources, peer.engine.gate.redactor)
    return reply | {"missing": missing} if missing else reply


async def _resources(executions: Sequence[Execution], *, tree: bool) -> dict[str, dict[str, Any]]:
    """Execution id -> what its processes use, measured in one pass; `MEASURED` bounds how many processes.

    Args:
        executions: the executions, the newest first. Those without processes are left out.
        tree: whether to list each process.
    """
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
    return resources


def described_of(execution: Execution | PastExecution) -> dict[str, Any]:
    """The description of an execution, live or past, with the secrets of its command."""
    return execution.description if isinstance(execution, PastExecution) else describe(execution)


def told(described: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """A description as clients get it: the secrets in its command are redacted."""
    command, argv = _shown(redactor, described["command"], tuple(described["argv"]))
    return {**described, "command": command, "argv": argv}


@functools.lru_cache(maxsize=2048)  # repeated calls mostly list the same executions
def _shown(redactor: Redactor, command: str, argv: tuple[str, ...]) -> tuple[str, list[str]]:
    return redactor.text(command), redactor.listed(argv)


def completion_of(execution: Execution | PastExecution) -> dict[str, Any] | None:
    """The params of an execution's `process.completed`; None as long as it has not finished."""
    if isinstance(execution, PastExecution):
        return execution.completion
    return execution.completion(execution.outcome) if execution.outcome is not None else None


def has_processes(execution: Execution) -> bool:
    """Whether an execution is live, or has left processes running."""
    return execution.is_live or execution.leaves_running


async def _reply_in_steps(
    executions: Sequence[Execution | PastExecution], resources: Mapping[str, dict[str, Any]], redactor: Redactor
) -> dict[str, Any]:
    """A reply about many executions, made in steps of `AT_ONCE`, so that other tasks run in between."""
    found: list[dict[str, Any]] = []
    room = REPLY_BYTES
    for start in range(0, len(executions), AT_ONCE):
        part = _reply(executions[start : start + AT_ONCE], resources, redactor, room)
        found += part["executions"]
        if part["truncated"]:
            return {"executions": found, "truncated": True}
        room -= sum(map(size_of, part["executions"]))
        await trio.lowlevel.checkpoint()
    return {"executions": found, "truncated": False}


def _reply(
    executions: Iterable[Execution | PastExecution],
    resources: Mapping[str, dict[str, Any]],
    redactor: Redactor,
    room: int = REPLY_BYTES,
) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    for execution in executions:
        described = told(described_of(execution), redactor) | resources.get(execution.id, {})
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
