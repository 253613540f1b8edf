"""What an execution has to wait for before it can be started: the operator's hooks, and what `stdbuf` needs.

Owns the order. The execution is judged once more, since it may have waited for long; hooks may refuse it, or change
it, which is put on record; then the library of `stdbuf` is looked for. While hooks are asked, the execution can be
cancelled as if it waited for its turn. Must not start it.
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
    """The execution was cancelled before it was started."""


def withdraw(execution: Execution) -> None:
    """End an execution that was cancelled before it was started."""
    execution.stdin.drop()
    execution.has_ended(Outcome(None, execution.intent or Reason.CANCELLED))


class Hooks(Protocol):
    """What the engine and the doors need of the operator's hooks; `hooks.register.Hooks` is the one that there is."""

    def prepares(self, execution: Execution) -> bool:
        """Whether a `pre_execute` hook is about an execution."""

    async def prepare(self, execution: Execution) -> Prepared:
        """Call the `pre_execute` hooks of an execution, and return what they made of its spec.

        Raises:
            HookRefusedError: one of them refuses it, or is required and failed.
        """

    def told(self, *, in_full: bool) -> dict[str, Any]:
        """Each hook with its figures, as JSON values; what it runs, and its last failure, only `in_full`."""

    def wanted(self, spec: Spec, principal: str) -> dict[str, list[str]]:
        """The names of the hooks that would be called for a command, by event."""

    def named(self, name: str) -> Hook | None:
        """The hook of a name; None if there is none."""

    async def trial(self, hook: Hook, event: HookEvent, spec: Spec, principal: str) -> dict[str, Any]:
        """Call a hook about a command that is not run; returns what came of it, as JSON values."""


class Preparation:
    """Prepares the executions of a daemon.

    Args:
        gate: judges them, and puts on record what hooks changed.
        line_buffering: knows where the library of `stdbuf` lies.

    Attributes:
        line_buffering: as given.
        hooks: the operator's hooks; None where none are configured.
    """

    def __init__(self, gate: Gate, line_buffering: LineBuffering) -> None:
        self._gate = gate
        self.line_buffering = line_buffering
        self.hooks: Hooks | None = None

    def is_needed(self, execution: Execution) -> bool:
        """Whether an execution has to be prepared, and so cannot be started in the step in which it was admitted."""
        if execution.spec.stdbuf and not self.line_buffering.is_known:
            return True
        return self.hooks is not None and self.hooks.prepares(execution)

    async def prepare(self, execution: Execution, claim: Claim) -> None:
        """Prepare an execution whose turn has come; hooks may change its spec.

        Args:
            execution: not started yet.
            claim: the session that it belongs to.

        Raises:
            AdmissionError: it may not run, or not without a record and none can be made.
            SpawnError: a hook refuses it, or `stdbuf` is not installed.
            WithdrawnError: it was cancelled meanwhile.
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
    """Let a cancel interrupt the block: the scope of the execution, with its deadline, is kept for its run."""
    scope, execution.scope = execution.scope, trio.CancelScope()
    if execution.intent is not None:
        execution.scope.cancel(reason=execution.intent.value)
    try:
        with execution.scope:
            yield
    finally:
        execution.scope = scope
