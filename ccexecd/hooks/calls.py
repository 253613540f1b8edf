"""Calling a hook: what it is given, how many calls run at a time, and what the result was.

Owns one call from waiting for its turn to its answer, and the figures of each hook. Must not decide what an answer or a
failure means for the execution.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal

import attrs
import trio

from ccexecd.core.hooks import Hook, HookEvent
from ccexecd.core.spec import Spec
from ccexecd.hooks.answer import Answer, AnswerError, answer_of
from ccexecd.process.execution import Execution
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.leader import Launch, SpawnError
from ccexecd.process.oneshot import CompletedProgram, run_program
from ccexecd.process.pump import Pump

log = logging.getLogger(__name__)

AT_A_TIME = 8
"""Calls of `pre_execute` at a time, and as many of all other events together: hooks that hang there delay no start."""

LOG_INTERVAL = 60.0
"""Seconds after which the failures of one hook are logged again, with how many there were meanwhile."""

VERSION = 1
"""Version of the documents that a hook reads and writes."""


class HookFailedError(Exception):
    """A call has failed; the text says how, to be read behind the hook's name.

    Attributes:
        reason: the kind of failure.
    """

    def __init__(self, reason: Literal["not started", "timeout", "exit", "answer"], text: str) -> None:
        super().__init__(text)
        self.reason = reason


@attrs.frozen
class Subject:
    """The execution that a call is about.

    Attributes:
        id: its UUID.
        session_id: the id of its session; empty for a trial.
        principal: the name of its principal.
        spec: its spec, as the hooks before this one have changed it.
        pid: process id of its leader; None before it has one.
        is_trial: whether there is no execution, since an operator only tries a hook.
    """

    id: str
    session_id: str
    principal: str
    spec: Spec
    pid: int | None = None
    is_trial: bool = False

    @classmethod
    def of(cls, execution: Execution) -> "Subject":
        """The subject for an execution as it is now."""
        return cls(execution.id, execution.session_id, execution.principal, execution.spec, execution.pid)

    def told(self) -> dict[str, Any]:
        """What a hook is told of it, as JSON values. Of the environment, that is only the names set or removed."""
        spec = self.spec
        return {
            "execution_id": self.id,
            "session_id": self.session_id,
            "principal": self.principal,
            "command": spec.display,
            "argv": list(spec.argv),
            "shell": spec.shell,
            "cwd": spec.cwd or "/",
            "environment_names": sorted(spec.env),
            "unset": sorted(spec.unset),
            "lane": spec.lane or None,
            "labels": dict(spec.labels),
            "timeout": spec.timeout,
            "run_as": spec.run_as,
            "pid": self.pid,
            **({"trial": True} if self.is_trial else {}),
        }


@attrs.define
class Figures:
    """What one hook has done since it was configured.

    Attributes:
        calls: calls that have ended, failed ones included.
        failures: calls that failed.
        refusals: commands that the hook refused.
        unmade: calls that were not made, because too many waited or the daemon ended.
        seconds: seconds that all calls took together.
        last_failure: `{at, event, message}` of the last call that failed; None if none has.
    """

    calls: int = 0
    failures: int = 0
    refusals: int = 0
    unmade: int = 0
    seconds: float = 0.0
    last_failure: dict[str, str] | None = None
    _logged_at: float = -LOG_INTERVAL
    _unlogged: int = 0

    def told(self) -> dict[str, Any]:
        """The figures as `hook_status` returns them to callers with the scope `admin`."""
        return attrs.asdict(self, filter=lambda field, _: not field.name.startswith("_")) | {
            "seconds": round(self.seconds, 6)
        }

    def in_short(self) -> dict[str, Any]:
        """The figures for all other callers: without the last failure."""
        return {name: value for name, value in self.told().items() if name != "last_failure"}

    def has_failed(self, hook: Hook, event: HookEvent, subject: Subject, failure: str, complaint: str) -> None:
        """Count a failed call, and log it unless another failure of this hook was logged lately.

        Args:
            hook: the hook that was called.
            event: the event at which it was called.
            subject: the execution that the call was about.
            failure: how the call failed.
            complaint: what the hook wrote to standard error.
        """
        self.failures += 1
        self.last_failure = {"at": datetime.now(UTC).isoformat(), "event": event, "message": failure}
        now = trio.current_time()
        if now - self._logged_at < LOG_INTERVAL:
            self._unlogged += 1
            return
        facts = {"execution_id": subject.id, "complaint": complaint, "failures_not_logged": self._unlogged}
        log.warning("hook %s failed at %s: %s", hook.name, event, failure, extra=facts)
        self._logged_at, self._unlogged = now, 0


class Calls:
    """All calls of hooks in a daemon.

    Args:
        keeper: starts and ends the hooks' processes.
        pump: reads their output.

    Attributes:
        unset: environment variables that no hook inherits.
        running: calls that are under way.
    """

    def __init__(self, keeper: KeeperClient, pump: Pump) -> None:
        self._keeper = keeper
        self._pump = pump
        self._figures: dict[Hook, Figures] = {}
        self._before_start = trio.CapacityLimiter(AT_A_TIME)
        self._other_events = trio.CapacityLimiter(AT_A_TIME)
        self.unset: tuple[str, ...] = ()

    def figures_of(self, hook: Hook) -> Figures:
        """The figures of a hook."""
        return self._figures.setdefault(hook, Figures())

    def keep_figures_of(self, hooks: tuple[Hook, ...]) -> None:
        """Forget the figures of all other hooks."""
        self._figures = {hook: self.figures_of(hook) for hook in hooks}

    @property
    def running(self) -> int:
        """Calls that are under way."""
        return self._before_start.borrowed_tokens + self._other_events.borrowed_tokens

    async def call(self, hook: Hook, event: HookEvent, subject: Subject, facts: dict[str, Any]) -> Answer:
        """Call a hook, once fewer than `AT_A_TIME` calls of its kind are under way.

        Args:
            hook: the hook.
            event: the event at which it is called.
            subject: the execution that the call is about.
            facts: further fields of what the hook is given.

        Returns:
            Its answer.

        Raises:
            HookFailedError: it could not be started, did not end well, or its answer cannot be used.
        """
        async with self._before_start if event == "pre_execute" else self._other_events:
            answer, _ = await self.call_now(hook, event, subject, facts)
        return answer

    async def call_now(
        self, hook: Hook, event: HookEvent, subject: Subject, facts: dict[str, Any]
    ) -> tuple[Answer, CompletedProgram]:
        """Call a hook at once, for the rest like `call`. Returns its answer, and how its program went."""
        figures = self.figures_of(hook)
        document = {"version": VERSION, "event": event, "hook": hook.name, "execution": subject.told(), **facts}
        names = {
            "CCEXEC_HOOK_EVENT": event,
            "CCEXEC_SESSION_ID": subject.session_id,
            "CCEXEC_EXECUTION_ID": subject.id,
        }
        launch = Launch(hook.run, "/", names, 0.0, self.unset)
        complaint = ""
        try:
            try:
                done = await run_program(self._keeper, self._pump, launch, json.dumps(document).encode(), hook.timeout)
            except SpawnError as error:
                raise HookFailedError("not started", f"could not be started: {error.strerror}") from None
            figures.seconds += done.seconds
            complaint = done.stderr.decode(errors="replace").strip()
            answer = _judged(hook, event, done)
        except HookFailedError as failure:
            figures.has_failed(hook, event, subject, str(failure), complaint)
            raise
        finally:
            figures.calls += 1
        figures.refusals += answer.refused
        return answer, done


def _judged(hook: Hook, event: HookEvent, done: CompletedProgram) -> Answer:
    """The answer of a hook's program that has ended.

    Raises:
        HookFailedError: it did not end well, or its answer cannot be used.
    """
    if done.timed_out:
        raise HookFailedError("timeout", f"took longer than {hook.timeout:g} s, and was ended")
    if done.exit_code is None:
        raise HookFailedError("exit", "was lost: nobody could learn how it ended")
    if done.exit_code < 0:
        raise HookFailedError("exit", f"was ended by signal {-done.exit_code}")
    if done.exit_code:
        raise HookFailedError("exit", f"ended with exit code {done.exit_code}")
    if done.is_truncated:
        raise HookFailedError("answer", "wrote more to its standard output than an answer may have")
    try:
        return answer_of(event, done.stdout)
    except AnswerError as error:
        raise HookFailedError("answer", str(error)) from None
