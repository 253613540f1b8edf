"""What is done for an execution before it is started, where something has to be waited for.

Owns the order: judged once more, since it may have waited for long; then the operator's hooks, on whose word it is
refused or changed, and the change put on record; then whatever its start needs to know. While hooks are asked it can be
ended as if it waited for its turn. Must not start it.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import trio

from ccexecd.admission import AdmissionError, Claim, Gate, Refusal
from ccexecd.core.execution import Outcome, Reason
from ccexecd.core.hooks import Hook, HookEvent, HookRefusedError, Prepared
from ccexecd.core.spec import Spec
from ccexecd.process.execution import Execution
from ccexecd.process.leader import SpawnError
from ccexecd.process.line_buffering import LineBuffering


class WithdrawnError(Exception):
    """It was ended before it was started."""


def withdraw(execution: Execution) -> None:
    """It has ended, and has never run."""
    execution.stdin.drop()
    execution.has_ended(Outcome(None, execution.intent or Reason.CANCELLED))


class Hooks(Protocol):
    """The operator's hooks, as far as others than the daemon need them; `hooks.register` has them."""

    def prepares(self, execution: Execution) -> bool:
        """Whether a hook wants to be asked before it starts."""

    async def prepare(self, execution: Execution) -> Prepared:
        """Ask them. Raises HookRefusedError."""

    def told(self, *, in_full: bool) -> dict[str, Any]:
        """Each of them with its figures, as JSON has it."""

    def wanted(self, spec: Spec, principal: str) -> dict[str, list[str]]:
        """Which of them a command would meet, by event."""

    def named(self, name: str) -> Hook | None:
        """The one of that name."""

    async def trial(self, hook: Hook, event: HookEvent, spec: Spec, principal: str) -> dict[str, Any]:
        """Call one about a command that is not run, and tell what came of it."""


class Preparation:
    """All preparations of a daemon.

    Args:
        gate: judges, and records.
        line_buffering: what `stdbuf` needs.

    Attributes:
        line_buffering: the same.
        hooks: the operator's; None where there are none.
    """

    def __init__(self, gate: Gate, line_buffering: LineBuffering) -> None:
        self._gate = gate
        self.line_buffering = line_buffering
        self.hooks: Hooks | None = None

    def is_needed(self, execution: Execution) -> bool:
        """Whether it cannot be started in the step in which it was admitted."""
        if execution.spec.stdbuf and not self.line_buffering.is_known:
            return True
        return self.hooks is not None and self.hooks.prepares(execution)

    async def prepare(self, execution: Execution, claim: Claim) -> None:
        """Make its spec what is to be started.

        Args:
            execution: its turn has come.
            claim: whose it is.

        Raises:
            AdmissionError: it may not run, or not without a record.
            SpawnError: a hook refuses it, or it needs what is not there.
            WithdrawnError: it has been ended.
        """
        execution.spec = self._gate.ruling(claim, execution.spec).spec
        if self.hooks is not None and self.hooks.prepares(execution):
            await self._ask_hooks(self.hooks, execution, claim)
        if execution.spec.stdbuf:
            await self.line_buffering.find()

    async def _ask_hooks(self, hooks: Hooks, execution: Execution, claim: Claim) -> None:
        with _interruptible(execution):
            try:
                prepared = await hooks.prepare(execution)
            except HookRefusedError as refused:
                self._gate.refused(claim, execution.spec, AdmissionError(Refusal.NOT_ALLOWED, str(refused)))
                raise SpawnError(errno.EACCES, str(refused), "hook") from None
        if execution.intent is not None:
            raise WithdrawnError
        if prepared.hooks:
            execution.spec = prepared.spec
            self._gate.changed(claim, execution, prepared.hooks)


@contextmanager
def _interruptible(execution: Execution) -> Iterator[None]:
    """Let whoever ends it end this first; its own scope, with its deadline, is for its run."""
    scope, execution.scope = execution.scope, trio.CancelScope()
    if execution.intent is not None:
        execution.scope.cancel(reason=execution.intent.value)
    try:
        with execution.scope:
            yield
    finally:
        execution.scope = scope
