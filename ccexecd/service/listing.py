"""`list`: what is told of executions.

Owns the choice, and keeping replies so small that every client can take them. Must not change anything.
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
"""Bytes of JSON of the entries of one reply: with what is around them, less than the 1 MiB that a frame may have."""

AT_ONCE = 50
"""Executions that are told in one step: 5 ms of the event loop."""

MOST_LISTED = 2000
"""Executions of the past that are looked at: more than fit into a reply, 600 bytes of JSON each at least."""

_LISTED = 200
"""Processes of one execution that are told; `process_count` tells how many there are."""


def size_of(entry: dict[str, Any]) -> int:
    """Bytes of an entry and its comma in a reply."""
    return len(dumps(entry)) + 1


def list_executions(peer: Peer, wanted: messages.List) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """What is known of executions, newest first: as many as were asked for and as a reply can hold."""
    visible = (each for each in reversed(peer.engine.executions.values()) if peer.sees(each))
    matching = [each for each in visible if _matches(each, wanted)][: wanted.limit]
    may_be_past = wanted.state in (None, State.FINISHED.value) and len(matching) < wanted.limit
    if may_be_past or wanted.resources or wanted.tree or len(matching) > AT_ONCE:
        return _with_more(peer, wanted, matching, may_be_past=may_be_past)
    return _reply(matching, {}, peer.engine.gate.redactor)


async def _with_more(
    peer: Peer, wanted: messages.List, matching: list[Execution], *, may_be_past: bool
) -> dict[str, Any]:
    """The same, with what costs a moment: what has left the memory, and what uses how much."""
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
    """What each of them that has processes uses: looked at in one pass, the newest first."""
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
    """What is known of an execution, whether it is in memory or not."""
    return execution.description if isinstance(execution, PastExecution) else describe(execution)


def told(described: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """What is known of an execution, as it is told: without the secrets of its command."""
    command, argv = _shown(redactor, described["command"], tuple(described["argv"]))
    return {**described, "command": command, "argv": argv}


@functools.lru_cache(maxsize=2048)  # who looks often looks at the same ones
def _shown(redactor: Redactor, command: str, argv: tuple[str, ...]) -> tuple[str, list[str]]:
    return redactor.text(command), redactor.listed(argv)


def completion_of(execution: Execution | PastExecution) -> dict[str, Any] | None:
    """The params of its `process.completed`; None while it lives."""
    if isinstance(execution, PastExecution):
        return execution.completion
    return execution.completion(execution.outcome) if execution.outcome is not None else None


def has_processes(execution: Execution) -> bool:
    """Whether it lives, or something that it left running does."""
    return execution.is_live or execution.leaves_running


async def _reply_in_steps(
    executions: Sequence[Execution | PastExecution], resources: Mapping[str, dict[str, Any]], redactor: Redactor
) -> dict[str, Any]:
    """A reply about many: others have their turn meanwhile."""
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
