"""Learning how long commands take: from every execution that ends, for those that begin.

Theory of operation. Every execution has a listener that tells, at its end, what it was and how long it ran: that goes
into the history, and into what is remembered here (`core.experience`). A time-out is looked up in memory, in the step
in which an execution is asked for; nothing waits for a disk or a network. What earlier daemons have seen is read from
the history once, at the start, in its thread; what other daemons see is exchanged in a thread, when there is
something to tell or somebody asks. While no execution runs, nothing happens here.

Owns what is remembered, and the answer to how long something may take. Must not end anything: it gives a time-out,
which is an execution's own from then on.
"""

import logging
import shlex
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from ccexecd.core.execution import Reason
from ccexecd.core.experience import COLD_STARTS, Estimate, Experience, Likeness, came_to_its_end
from ccexecd.core.kinds import Kind, kind_of
from ccexecd.core.spec import Spec
from ccexecd.keys import LONGEST, Config
from ccexecd.process.execution import Execution
from ccexecd.process.listening import Listener
from ccexecd.process.load import Load
from ccexecd.storage.archive import Archive
from ccexecd.storage.past import HistoryUnavailableError
from ccexecd.storage.timings import Asked, Timing, learnt, spread, told
from ccexecd.threads import NoThreadError, in_thread

if TYPE_CHECKING:  # few daemons share
    from ccexecd.storage.shared_timings import SharedTimings

__all__ = ["Asked", "Estimates", "question"]

log = logging.getLogger(__name__)

GATHER = 0.5
"""Seconds for which runs are collected before they are shared with other daemons."""

RETRY = 5.0
"""Least seconds between two attempts to reach a Redis server that did not answer: each may block a thread."""

UNSHARED = 1000
"""Most runs that wait to be shared; of more, the oldest are dropped."""

STALL_SHARE = 0.5
"""Share of a proposed time-out that is proposed as stall time-out: no run was ever silent for longer than it ran."""

LEAST_STALL = 120.0
"""Least stall time-out that is proposed, in seconds: agents and linkers are silent for long."""

_UNLEARNT = frozenset({Reason.LOST, Reason.SPAWN_FAILED})
"""Reasons of an end from which no duration is learnt."""


class Estimates:
    """Learns how long commands take, and estimates how long the next ones may take.

    Args:
        config: the configuration in force; `reconfigure` replaces it.
        archive: the history of earlier daemons; None for none.
        path: the directories in which to look for nvidia-smi, in the form of PATH.

    Attributes:
        load: how busy the machine is.
    """

    def __init__(self, config: Config, archive: Archive | None, path: str) -> None:
        self.load = Load(path)
        self._config = config
        self._archive = archive
        self._began = time.time()
        self._experience = Experience()
        self._since_start: list[Timing] | None = []  # runs of this daemon, kept until the history has been learnt
        self._shared = _shared(config, archive)
        self._unshared: deque[Timing] = deque(maxlen=UNSHARED)
        self._wanted = trio.Event()
        self._problem = ""
        self._exchanging = trio.Lock()

    def reconfigure(self, config: Config) -> None:
        """Use another configuration from now on."""
        self._config = config

    @property
    def problems(self) -> dict[str, str]:
        """Present problems: why by what, where what is in words for everybody."""
        return {"durations are not shared with other daemons": self._problem} if self._problem else {}

    async def run(self) -> None:
        """Learn from the history, then share runs and sample the machine's load when needed, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.load.run)
            if self._shared is not None:
                nursery.start_soon(self._share, self._shared)
            await self._learn_from_history()

    # Executions

    def listen(self, execution: Execution) -> Listener:
        """Return the listener that learns from an execution."""
        return _Run(self, execution)

    @property
    def is_wanted(self) -> bool:
        """Whether executions get a time-out by past runs without asking for it (key `estimate_timeouts`)."""
        return self._config.estimate_timeouts

    def timeout(
        self, principal: str, argv: Sequence[str], display: str, cwd: str | None, *, shell: bool
    ) -> float | None:
        """Return a time-out in seconds for an execution by past runs; None if too little is known to set one.

        Args:
            principal: name of the principal that it belongs to.
            argv: its words.
            display: the command as people read it.
            cwd: its working directory; None for the root.
            shell: whether `display` is a string for a shell.
        """
        estimate = self._experience.estimate(principal, kind_of(argv, display, cwd, shell=shell))
        self._wanted.set()
        return self._seconds(estimate, self._multiplier(estimate)) if estimate.may_act else None

    def ended(self, execution: Execution, kind: Kind, seconds: float, load: float) -> None:
        """Learn from an execution that has ended.

        Args:
            execution: the execution.
            kind: the marks of its command.
            seconds: how long it ran, pauses not counted.
            load: how busy the machine was, in per cent.
        """
        outcome = execution.outcome
        if outcome is None or outcome.reason in _UNLEARNT:
            return
        if outcome.reason is Reason.TIMEOUT and execution.spec.timeout is not None:
            seconds = min(seconds, execution.spec.timeout)  # it was given some time to end, but not to go on
        is_complete = came_to_its_end(outcome.reason.value, outcome.exit_code, _judged(execution))
        timing = Timing(execution.principal, kind, seconds, is_complete, load)
        self._learn(timing)
        if self._since_start is not None:
            self._since_start.append(timing)
        if self._shared is not None:
            self._unshared.append(timing)
            self._wanted.set()

    # Questions

    async def told(self, principal: str, spec: Spec) -> dict[str, Any]:
        """Answer how long a command may take, as JSON values, with runs of other daemons and the present load."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.load.measure)
            if self._shared is not None and not self._problem:
                nursery.start_soon(self._exchange, self._shared)
        kind = kind_of(spec.argv, spec.display, spec.cwd, shell=spec.shell)
        estimate = self._experience.estimate(principal, kind)
        multiplier = self._multiplier(estimate)
        timeout = self._seconds(estimate, multiplier)
        known = estimate.bound
        return {
            "timeout": timeout,
            "stall_timeout": min(timeout, max(LEAST_STALL, round(STALL_SHARE * timeout, 3))),
            "based_on": estimate.likeness.value,
            "samples": known.complete if known is not None else 0,
            "confidence": estimate.confidence,
            "multiplier": multiplier,
            "censored": known.censored if known is not None else 0,
            "median": round(known.median, 3) if known is not None else None,
            "quantile": round(known.quantile, 3) if known is not None else None,
            "acts": estimate.may_act,
            "category": kind.category.value,
            "program": kind.program,
            "form": kind.form,
            "load": self.load.busy,
            "reason": _reason(estimate),
        }

    async def past(self, asked: Asked) -> list[dict[str, Any]]:
        """Return finished executions with their durations, the newest first."""
        return await self._archive.told(lambda db: told(db, asked)) if self._archive is not None else []

    async def spread(self, asked: Asked, by: str) -> list[dict[str, Any]]:
        """Return percentiles of durations: see `storage.timings.spread`."""
        return await self._archive.told(lambda db: spread(db, asked, by)) if self._archive is not None else []

    def _multiplier(self, estimate: Estimate) -> float:
        """Return the factor for the present load: 1 unless the machine is busy and the estimate is from idle times."""
        is_busy = self._is_busy(self.load.busy) and not estimate.is_of_busy
        return self._config.estimate_multiplier if is_busy else 1.0

    def _is_busy(self, load: float) -> bool:
        return load >= self._config.estimate_load

    def _seconds(self, estimate: Estimate, multiplier: float) -> float:
        return round(min(max(estimate.seconds, self._config.estimate_floor) * multiplier, LONGEST), 3)

    # What is learnt from elsewhere

    def _learn(self, timing: Timing) -> None:
        _teach(self._experience, timing, is_busy=self._is_busy(timing.load))

    async def _learn_from_history(self) -> None:
        """Learn once from the history, then again from the runs since the start, which are newer."""
        if self._archive is not None:
            try:
                found = await self._archive.told(lambda db: learnt(db, self._began))
                experience = await in_thread(partial(self._experience_of, found)) if found else Experience()
            except (HistoryUnavailableError, NoThreadError) as error:
                log.warning("how long commands took earlier is not known: %s", error)
                experience = Experience()
            for timing in self._since_start or ():
                _teach(experience, timing, is_busy=self._is_busy(timing.load))
            self._experience = experience
        self._since_start = None

    def _experience_of(self, timings: Sequence[Timing]) -> Experience:
        """Learn from many runs; called in a thread, since there may be thousands."""
        experience = Experience()
        for timing in timings:
            _teach(experience, timing, is_busy=self._is_busy(timing.load))
        return experience

    async def _share(self, shared: "SharedTimings") -> None:
        """Exchange with other daemons whenever there is something to tell, and once at the start."""
        self._wanted.set()
        while True:
            await self._wanted.wait()
            await trio.sleep(RETRY if self._problem else GATHER)
            self._wanted = trio.Event()
            await self._exchange(shared)

    async def _exchange(self, shared: "SharedTimings") -> None:
        """Exchange runs with other daemons once. A failure is shown by `problems`; the next exchange tries again."""
        from ccexecd.storage.shared_timings import SharingError  # noqa: PLC0415  # it is imported already

        async with self._exchanging:
            ours = list(self._unshared)
            try:
                found = await in_thread(partial(shared.exchange, ours), abandon_on_cancel=True)
            except (SharingError, NoThreadError) as error:
                if not self._problem:
                    log.warning("durations are not shared with other daemons: %s", error)
                self._problem = str(error)
                return
            self._problem = ""
            for _ in range(min(len(ours), len(self._unshared))):
                self._unshared.popleft()
            for timing in found:
                self._learn(timing)


class _Run(Listener):
    """Listens to one execution, and measures how long it takes."""

    def __init__(self, estimates: Estimates, execution: Execution) -> None:
        self._estimates = estimates
        self._execution: Execution | None = execution  # it refers to this listener: the cycle is broken at the end
        self._started_at: float | None = None
        self._is_sampled = False
        self._kept: dict[str, Any] = {}

    def has_started(self) -> None:
        """Note the start on the execution's own clock; sample the machine's load from now on if `is_wanted`."""
        if self._execution is not None:
            self._started_at = self._execution.clock.now
        if self._estimates.is_wanted:
            self._is_sampled = True
            self._estimates.load.begin()

    def has_ended(self) -> None:
        """Note the marks of the command, how long it ran, and how busy the machine was."""
        execution, self._execution = self._execution, None
        if execution is None:
            return
        spec = execution.spec
        kind = kind_of(spec.argv, spec.display, spec.cwd, shell=spec.shell)
        seconds = execution.clock.now - self._started_at if self._started_at is not None else None
        load = self._estimates.load.busy
        self._kept = {
            "category": kind.category.value,
            "program": kind.program,
            "form": kind.form,
            "same": kind.same,
            "place": kind.place,
            "active_seconds": round(seconds, 6) if seconds is not None else None,
            "load": load,
        }
        if seconds is not None:
            self._estimates.ended(execution, kind, seconds, load)
        if self._is_sampled:
            self._estimates.load.end()

    def kept(self) -> Mapping[str, Any]:
        """The columns of the history's record: marks, duration and load."""
        return self._kept


def _shared(config: Config, archive: Archive | None) -> "SharedTimings | None":
    if config.estimate_redis is None or archive is None:
        return None
    from ccexecd.storage.shared_timings import SharedTimings  # noqa: PLC0415  # few have one

    file = config.estimate_redis_password_file
    return SharedTimings(config.estimate_redis, Path(file) if file else None, archive.spool.root)


def _judged(execution: Execution) -> object:
    """Whether an agent succeeded, by its verdict; None if that is not known, or the command is no agent."""
    for listener in execution.listeners:
        agent = listener.facts().get("agent")
        verdict = agent.get("verdict") if isinstance(agent, Mapping) else None
        if isinstance(verdict, Mapping):
            return verdict.get("is_success")
    return None


def _teach(experience: Experience, timing: Timing, *, is_busy: bool) -> None:
    principal, kind, seconds = timing.principal, timing.kind, timing.seconds
    experience.learn(principal, kind, seconds, is_complete=timing.is_complete, is_busy=is_busy)


_SHARED_MARKS = {
    Likeness.SAME: "of the same command in the same directory",
    Likeness.PLACE: "of commands of the same form in the same directory",
    Likeness.FORM: "of commands of the same form",
    Likeness.PROGRAM: "of the same program",
    Likeness.CATEGORY: "of commands of the same category",
}


def _reason(estimate: Estimate) -> str:
    """Say in words what an estimate is based on, and whether it may end a run."""
    known, cold = estimate.bound, COLD_STARTS[estimate.kind.category]
    if known is None:
        return f"no runs to go by; for category {estimate.kind.category.value}: {cold.reason}"
    ended = f", {known.censored} more were ended or failed" if known.censored else ""
    use = "" if estimate.may_act else "; too little in common, or too few, to end anything by it"
    return f"{known.complete} runs {_SHARED_MARKS[estimate.likeness]}{ended}{use}"


def question(argv: Sequence[str] | None, command: str | None, cwd: str | None) -> Spec:
    """Return the spec of a command that is asked about, good for its marks only.

    Args:
        argv: its words; not used if there is a command string.
        command: its command string; None if it is given as words.
        cwd: its working directory; None for the root.
    """
    if command is not None:
        return Spec(("sh", "-c", command), command, shell=True, cwd=cwd)  # noqa: S604  # nothing is called here
    words = tuple(argv or ())
    return Spec(words, shlex.join(words), cwd=cwd)
