"""The hooks of a daemon: which are in force, and what is done because of them.

Owns the order of `pre_execute` hooks, what their failure means, and the tasks of all others until the daemon ends. What
a client asks for is judged by the policy before any hook sees it; what a hook makes of that is the operator's own word,
and is not judged again (docs/hooks.md). Must not know any wire format.
"""

import logging
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import attrs
import trio

from ccexecd.core.hooks import EVENTS, Change, Hook, HookEvent, HookRefusedError, Prepared
from ccexecd.core.spec import Spec
from ccexecd.hooks.calls import Calls, HookFailedError, Subject
from ccexecd.hooks.telling import Telling, warn
from ccexecd.process.execution import Execution
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.pump import Pump

log = logging.getLogger(__name__)

FAREWELL = 5.0
"""Seconds that hooks get at the daemon's end for what has happened by then; what is left is ended, and counted."""

_SHOWN_COMPLAINT = 2000
"""Characters of a hook's standard error that whoever tries it is shown."""


class Hooks:
    """All hooks of a daemon. Its tasks live in a nursery that outlives the executions.

    Args:
        keeper: starts what is called, and ends it.
        pump: reads what it writes.
        inherited: the environment that executions inherit.

    Attributes:
        waiting: events that wait to be told.
        held: bytes of output that do.
    """

    def __init__(self, keeper: KeeperClient, pump: Pump, inherited: Mapping[str, str]) -> None:
        self._calls = Calls(keeper, pump)
        self._inherited = inherited
        self._hooks: tuple[Hook, ...] = ()
        self._nursery: trio.Nursery | None = None
        self._under_way = 0
        self._idle = trio.Event()
        self._over = trio.Event()
        self._is_ending = False
        self.waiting = self.held = 0

    def reconfigure(self, hooks: tuple[Hook, ...], unset_environment: tuple[str, ...]) -> None:
        """Use these from now on; who listens to an execution already goes on."""
        self._hooks = hooks
        self._calls.keep_figures_of(hooks)
        self._calls.unset = unset_environment

    async def run(self) -> None:
        """Hold the tasks, until `finish` or cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            self._over.set()

    def start(self, deed: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Do something in a task of its own; False where it is too late for that."""
        if self._nursery is None or self._is_ending:
            return False
        self._under_way += 1
        self._idle = trio.Event() if self._under_way == 1 else self._idle
        self._nursery.start_soon(self._do, deed)
        return True

    async def _do(self, deed: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await deed()
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def finish(self) -> None:
        """Let what has happened be told, for a while; then end what still runs."""
        if self._nursery is None:
            return
        with trio.move_on_after(FAREWELL):
            while self._under_way:
                await self._idle.wait()
        self._is_ending = True
        if self._under_way:
            log.warning(
                "hooks were ended with the daemon: %d calls, %d events not told", self._calls.running, self.waiting
            )
        self._nursery.cancel_scope.cancel(reason="the daemon ends")
        await self._over.wait()

    # What executions need of it

    def companion(self, execution: Execution) -> Telling | None:
        """Who listens to an execution that is being admitted; None where no hook wants to hear of it."""
        wanting = [
            hook
            for hook in self._hooks
            if any(
                hook.wants(event, execution.spec, execution.principal) for event in hook.events if event != EVENTS[0]
            )
        ]
        return Telling(execution, wanting, self._calls, self) if wanting else None

    def prepares(self, execution: Execution) -> bool:
        """Whether a hook wants to be asked before it starts."""
        return any(hook.wants("pre_execute", execution.spec, execution.principal) for hook in self._hooks)

    async def prepare(self, execution: Execution) -> Prepared:
        """Ask those hooks, in the order of the file; each sees what the ones before it have made of the command.

        Raises:
            HookRefusedError: it is not to run.
        """
        asked, prepared = execution.spec, Prepared(execution.spec)
        for hook in self._hooks:
            if not hook.wants("pre_execute", asked, execution.principal):
                continue
            change = await self._ask(hook, execution, prepared.spec)
            if change:
                prepared = Prepared(change.of(prepared.spec), (*prepared.hooks, hook.name))
        return prepared

    async def _ask(self, hook: Hook, execution: Execution, spec: Spec) -> Change:
        subject = attrs.evolve(Subject.of(execution), spec=spec)
        try:
            answer = await self._calls.call(hook, "pre_execute", subject, self._environment_for(hook, spec))
        except HookFailedError as failure:
            text = f"hook {hook.name!r} {failure}"
            if hook.required:
                raise HookRefusedError(f"{text}; it is required") from None
            warn(execution, hook, "pre_execute", failure.reason, text)
            return Change()
        if answer.warning:
            warn(execution, hook, "pre_execute", "said", answer.warning)
        if answer.refused:
            raise HookRefusedError(f"hook {hook.name!r} refuses it: {answer.reason or 'it gives no reason'}")
        return answer.change

    def _environment_for(self, hook: Hook, spec: Spec) -> dict[str, Any]:
        """The values that the operator wants a hook to know, as the command would get them."""
        removed = {*self._calls.unset, *spec.unset}
        values = {**self._inherited, **spec.env}
        names = (name for name in hook.pass_environment if name in values and name not in removed)
        return {"environment": {name: values[name] for name in names}}

    # What people ask of it

    def told(self, *, in_full: bool) -> dict[str, Any]:
        """`hook_status`: each hook and its figures; what is run, and where, is the operator's business.

        Args:
            in_full: for whoever may know.
        """
        hooks = [
            {
                "name": hook.name,
                "events": list(hook.events),
                "required": hook.required,
                "timeout": hook.timeout,
                **(self._told_in_full(hook) if in_full else self._calls.figures_of(hook).in_short()),
            }
            for hook in self._hooks
        ]
        return {"enabled": bool(hooks), "hooks": hooks, "running": self._calls.running, "waiting": self.waiting}

    def _told_in_full(self, hook: Hook) -> dict[str, Any]:
        conditions = {name: getattr(hook, name) for name in ("command", "program", "lane", "principal")}
        return {
            "run": list(hook.run),
            "entry_point": hook.entry_point or None,
            "pass_environment": list(hook.pass_environment),
            "conditions": {name: list(patterns) for name, patterns in conditions.items() if patterns is not None}
            | ({"labels": dict(hook.labels)} if hook.labels else {}),
            **self._calls.figures_of(hook).told(),
        }

    def wanted(self, spec: Spec, principal: str) -> dict[str, list[str]]:
        """Which hooks a command would meet, by event, in their order; nothing is called."""
        return {event: [hook.name for hook in self._hooks if hook.wants(event, spec, principal)] for event in EVENTS}

    def named(self, name: str) -> Hook | None:
        """The hook of that name."""
        return next((hook for hook in self._hooks if hook.name == name), None)

    async def trial(self, hook: Hook, event: HookEvent, spec: Spec, principal: str) -> dict[str, Any]:
        """Call a hook once, about a command that is not run, and tell all that came of it."""
        subject = Subject(str(uuid.uuid4()), "", principal, spec, is_trial=True)
        facts = self._environment_for(hook, spec) if event == "pre_execute" else {}
        told: dict[str, Any] = {"hook": hook.name, "event": event}
        try:
            answer, done = await self._calls.call_now(hook, event, subject, facts)
        except HookFailedError as failure:
            return {**told, "status": "failed", "reason": failure.reason, "message": str(failure)}
        return {
            **told,
            "status": "refused" if answer.refused else "ok",
            "message": answer.reason or answer.warning,
            "environment_names": sorted(answer.change.environment),
            "unset": list(answer.change.unset),
            "runs": list(answer.change.of(spec).argv),
            "seconds": round(done.seconds, 6),
            "complaint": done.complaint.decode(errors="replace")[:_SHOWN_COMPLAINT],
        }
