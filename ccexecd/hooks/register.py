"""The hooks of a daemon: which are in force, and what they do to executions.

Owns the order of `pre_execute` hooks, what their failure means, and the tasks of all other hooks until the daemon ends.
The policy judges a client's request before any hook sees it. A hook acts for the operator, so what it makes of the
command is not judged again (docs/hooks.md). Must not know any wire format.
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
from ccexecd.hooks.delivery import Delivery, warn
from ccexecd.process.execution import Execution
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.pump import Pump

log = logging.getLogger(__name__)

FAREWELL = 5.0
"""Seconds for which the daemon's end waits for hooks that have still to be called; then they are ended, and counted."""

_SHOWN_COMPLAINT = 2000
"""Characters of a hook's standard error that a trial returns."""


class Hooks:
    """All hooks of a daemon. Its tasks live in a nursery that outlives the executions.

    Args:
        keeper: starts and ends the hooks' processes.
        pump: reads their output.
        inherited: the environment that executions inherit.

    Attributes:
        waiting: events that wait for a call of their hook.
        held: bytes of output that wait for a call of their hook.
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
        """Use other hooks for new executions; hooks that listen to a running one go on.

        Args:
            hooks: the hooks, in their order.
            unset_environment: environment variables that no hook inherits.
        """
        self._hooks = hooks
        self._calls.keep_figures_of(hooks)
        self._calls.unset = unset_environment

    async def run(self) -> None:
        """Hold the nursery of the tasks, until `finish` or cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            self._over.set()

    def start(self, deed: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run a function in a task of its own. Returns False, and does not run it, if the daemon is ending."""
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
        """Wait for the tasks under way, for `FAREWELL` seconds at most; then end what still runs."""
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

    # For executions

    def listener(self, execution: Execution) -> Delivery | None:
        """The listener that delivers an execution's events to hooks; None if no hook wants any of them."""
        wanting = [
            hook
            for hook in self._hooks
            if any(
                hook.wants(event, execution.spec, execution.principal) for event in hook.events if event != EVENTS[0]
            )
        ]
        return Delivery(execution, wanting, self._calls, self) if wanting else None

    def prepares(self, execution: Execution) -> bool:
        """Whether a `pre_execute` hook wants to be called for an execution."""
        return any(hook.wants("pre_execute", execution.spec, execution.principal) for hook in self._hooks)

    async def prepare(self, execution: Execution) -> Prepared:
        """Call these hooks, in the order of the file; each sees the command as those before it have changed it.

        Returns:
            The spec to run, and the names of the hooks that have changed it.

        Raises:
            HookRefusedError: a hook refuses the execution, or a required hook failed.
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
        """The field `environment` for a hook: variables named by `pass_environment`, as the command would get them."""
        removed = {*self._calls.unset, *spec.unset}
        values = {**self._inherited, **spec.env}
        names = (name for name in hook.pass_environment if name in values and name not in removed)
        return {"environment": {name: values[name] for name in names}}

    # For operators

    def told(self, *, in_full: bool) -> dict[str, Any]:
        """The result of `hook_status`: each hook and its figures.

        Args:
            in_full: whether to tell what each hook runs, its conditions and its last failure, too.
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
        """Event -> names of the hooks that would be called for a command, in their order. No hook is called."""
        return {event: [hook.name for hook in self._hooks if hook.wants(event, spec, principal)] for event in EVENTS}

    def named(self, name: str) -> Hook | None:
        """The hook with a name; None if there is none."""
        return next((hook for hook in self._hooks if hook.name == name), None)

    async def trial(self, hook: Hook, event: HookEvent, spec: Spec, principal: str) -> dict[str, Any]:
        """Call a hook once, for a command that is not run.

        Args:
            hook: the hook.
            event: the event at which it is called.
            spec: the command.
            principal: name of the caller.

        Returns:
            `{hook, event, status, …}`: the hook's answer, or how the call failed.
        """
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
            "complaint": done.stderr.decode(errors="replace")[:_SHOWN_COMPLAINT],
        }
