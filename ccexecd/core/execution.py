"""What can happen to one execution, and in which order.

Theory of operation. An execution is in exactly one `State`; the only thing that changes it is an `Event`, and the
only place that says what an event does is the table `TRANSITIONS`. A pair that is not in the table is an error that
names both, and changes nothing. Whoever acts on an execution applies the event first and does the deed after it, so
that two requests cannot both believe that they paused it.

    HELD ◀──HOLD/RELEASE──▶ QUEUED ──ADMIT──▶ STARTING ──SPAWNED──▶ RUNNING ◀──RESUME/PAUSE──▶ PAUSED
                                                  │                    └────TERMINATE──▶ TERMINATING ◀─┘
                                                  └──────── END from every state ─────────▶ FINISHED

`END` is applied once, by the execution's supervisor, when everything of it is known to be over. An `Outcome` says how
it ended; what could not be learnt is `lost`, never 0.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import attrs

from ccexecd.core.entries import Stream


class State(Enum):
    """Where an execution stands. The value is its name on the wire."""

    HELD = "HELD"
    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    TERMINATING = "TERMINATING"
    FINISHED = "FINISHED"


class Event(Enum):
    """What happens to an execution."""

    HOLD = "hold"
    RELEASE = "release"
    ADMIT = "admit"
    SPAWNED = "spawned"
    PAUSE = "pause"
    RESUME = "resume"
    TERMINATE = "terminate"
    END = "end"


class Reason(Enum):
    """Why an execution ended: the contract's list, in full."""

    EXITED = "exited"
    SIGNALED = "signaled"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    CANCELLED = "cancelled"
    DISCONNECTED = "disconnected"
    SESSION_EXPIRED = "session_expired"
    SHUTDOWN = "shutdown"
    POST_RESULT = "post_result"
    LIMIT = "limit"
    LOST = "lost"
    SPAWN_FAILED = "spawn_failed"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.HELD: {Event.RELEASE: State.QUEUED, Event.TERMINATE: State.TERMINATING, Event.END: State.FINISHED},
    State.QUEUED: {
        Event.HOLD: State.HELD,
        Event.ADMIT: State.STARTING,
        Event.TERMINATE: State.TERMINATING,
        Event.END: State.FINISHED,
    },
    State.STARTING: {
        Event.SPAWNED: State.RUNNING,
        Event.TERMINATE: State.TERMINATING,
        Event.END: State.FINISHED,
    },
    State.RUNNING: {
        Event.PAUSE: State.PAUSED,
        Event.TERMINATE: State.TERMINATING,
        Event.END: State.FINISHED,
    },
    State.PAUSED: {
        Event.RESUME: State.RUNNING,
        Event.TERMINATE: State.TERMINATING,
        Event.END: State.FINISHED,
    },
    # SPAWNED: a cancel that overtook the spawn. TERMINATE: asked again, perhaps with more force.
    State.TERMINATING: {
        Event.SPAWNED: State.TERMINATING,
        Event.TERMINATE: State.TERMINATING,
        Event.END: State.FINISHED,
    },
    State.FINISHED: {},
}


class IllegalTransitionError(Exception):
    """An event that the state does not admit. Nothing has changed.

    Attributes:
        state: where the execution stands.
        event: what was to happen.
    """

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"cannot {event.value} an execution that is {state.value}")
        self.state = state
        self.event = event


def step(state: State, event: Event) -> State:
    """The state after an event.

    Raises:
        IllegalTransitionError: the table has no such pair.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransitionError(state, event) from None


@attrs.frozen
class ResourceUse:
    """What the leader and the children it waited for used, as the kernel counted it (getrusage)."""

    user_s: float = 0.0
    system_s: float = 0.0
    max_rss_bytes: int = 0


@attrs.frozen
class Exit:
    """How the leader ended, as its parent learnt it.

    Attributes:
        code: its exit status, or -N when signal N ended it; None when nobody could learn it.
        use: the resources that it used.
        survivors: pids of the tree that were alive when the leader was reaped.
        supervision_lost: the keeper ended before the leader did.
        limit: which of its limits ended it, as far as the kernel says so.
    """

    code: int | None
    use: ResourceUse = ResourceUse()
    survivors: tuple[int, ...] = ()
    supervision_lost: bool = False
    limit: str | None = None


@attrs.frozen
class Outcome:
    """How an execution ended. Never changes once it is made.

    Attributes:
        exit_code: 0 to 255, -N when signal N ended the leader, None when it is not known or was never started.
        reason: why it ended.
        use: resources of the leader and of the children it waited for.
        leftovers: pids of its tree that outlived the leader: they were ended after it, or are left running.
        detached: they are left running.
        survivors: pids of its tree that could not be ended.
        error: what went wrong in starting it; empty otherwise.
        limit: which of its limits it was beyond, where that is the reason.
    """

    exit_code: int | None
    reason: Reason
    use: ResourceUse = ResourceUse()
    leftovers: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()
    error: str = ""
    limit: str | None = None
    detached: bool = False

    @property
    def signal(self) -> int | None:
        """The number of the signal that ended the leader."""
        return -self.exit_code if self.exit_code is not None and self.exit_code < 0 else None

    @property
    def status(self) -> str:
        """`completed` for exit code 0 only; all else is `failed`."""
        return "completed" if self.exit_code == 0 else "failed"

    def told(self, duration: float, sizes: Mapping[Stream, int], dropped_bytes: int) -> dict[str, Any]:
        """What `process.completed` says of it and of its execution, in the order of the contract.

        Args:
            duration: seconds from the start to the end.
            sizes: bytes of each stream.
            dropped_bytes: how many of them can be had no more.
        """
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "reason": self.reason.value,
            **({"limit": self.limit} if self.limit is not None else {}),
            "duration": duration,
            "rusage": attrs.asdict(self.use),
            **{f"{stream}_bytes": size for stream, size in sizes.items()},
            "dropped_bytes": dropped_bytes,
            "leftovers": list(self.leftovers),
            **({"left_running": True} if self.detached else {}),
        }


def judge(exited: Exit, intent: Reason | None) -> Reason:
    """Why an execution ended, from what was learnt of its leader and what we had asked for.

    A leader that ended by itself before our signal could be the cause keeps its own reason only where no intent was
    recorded: once we decided to end it, that decision is why it ended. Without its keeper, a signal that ended it may
    have been the one by which we clean up; an exit code is its own.
    """
    if exited.code is None or (exited.supervision_lost and exited.code < 0):
        return Reason.LOST
    if intent is not None:
        return intent
    if exited.limit is not None:
        return Reason.LIMIT
    return Reason.SIGNALED if exited.code < 0 else Reason.EXITED
