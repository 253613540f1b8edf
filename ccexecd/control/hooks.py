"""The operator's methods about hooks: `hook_test` and `hook_run`.

Owns their results (`hook_status` is served at both doors, by `service`). Must not run the command that they are asked
about: `hook_run` calls the hook only.
"""

from collections.abc import Awaitable
from typing import Any

from ccexecd.core.hooks import EVENTS, Hook, HookEvent
from ccexecd.engine import default_shell
from ccexecd.judgement import question
from ccexecd.protocol import operation
from ccexecd.protocol.codec import StructureError
from ccexecd.service.dispatch import Kind, Method
from ccexecd.service.peer import Peer


def hook_methods() -> dict[str, Method]:
    """Name -> method."""
    return {
        "hook_test": Method(operation.HookTest, hook_test),
        "hook_run": Method(operation.HookRun, hook_run, Kind.WAITING),
    }


def hook_test(peer: Peer, wanted: operation.HookTest) -> dict[str, Any]:
    """`hook_test`: which hooks would be called for a command, by event and in their order. None is called."""
    hooks = peer.engine.preparation.hooks
    shell = peer.engine.config.shell or default_shell()
    given = {"cwd": wanted.cwd, "lane": wanted.lane or "", "labels": wanted.labels}
    spec = question(wanted.argv, wanted.command, shell, **given)
    principal = wanted.principal or peer.principal.name
    met = hooks.wanted(spec, principal) if hooks is not None else {event: [] for event in EVENTS}
    return {"command": spec.display, "principal": principal, "hooks": met}


def hook_run(peer: Peer, wanted: operation.HookRun) -> Awaitable[dict[str, Any]]:
    """`hook_run`: call one hook for a command that is not run."""
    hooks = peer.engine.preparation.hooks
    hook = hooks.named(wanted.name) if hooks is not None else None
    if hooks is None or hook is None:
        raise StructureError([{"path": "$.name", "error": "there is no such hook; ccexecctl hooks list has them all"}])
    given = {"cwd": wanted.cwd, "lane": wanted.lane or "", "labels": wanted.labels}
    spec = question(wanted.argv, None, "", **given)
    return hooks.trial(hook, _event_of(hook, wanted.event), spec, peer.principal.name)


def _event_of(hook: Hook, event: HookEvent | None) -> HookEvent:
    """The event to call a hook at: the one given, or the only one that the hook has.

    Raises:
        StructureError: the hook does not have this event, or has several and none is given.
    """
    if event is None and len(hook.events) == 1:
        return hook.events[0]
    if event is None or event not in hook.events:
        raise StructureError([{"path": "$.event", "error": f"must be one of {', '.join(hook.events)}"}])
    return event
