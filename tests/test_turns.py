"""Executions that wait for their turn: what they are told, when they begin, and what ends them before that."""

from collections.abc import Iterator

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd import turns
from ccexecd.core.entries import Note
from ccexecd.core.execution import IllegalTransitionError, Reason, State
from ccexecd.core.sessions import Parting
from ccexecd.core.spec import Spec
from ccexecd.engine import AdmissionError, Engine, Execution, Refusal, Session

from .process.programs import SLEEPER, sh
from .process.stage import end_of, nothing_left, open_descriptors, running_engine, wait_for


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """Walk what is below this process once a test is over, and fail on whatever it left."""
    with nothing_left():
        yield


def begin(engine: Engine, session: Session, argv: tuple[str, ...] = SLEEPER, **spec: object) -> Execution:
    """Have something executed, some time."""
    return engine.admit(session, Spec(argv, argv[0], **{"grace": 5.0, **spec}))  # type: ignore[arg-type]


async def end(execution: Execution) -> None:
    """End it, and wait until it has."""
    execution.cancel(Reason.CANCELLED, 0.0)
    await end_of(execution)


def told(execution: Execution) -> list[str]:
    """What its log has of it: the methods of its notes, and the positions in between."""
    cursor = execution.log.cursor(0)
    notes = [entry for entry in iter(cursor.take, None) if isinstance(entry, Note)]
    cursor.close()
    return [str(each.params.get("queue_position", each.method.removeprefix("process."))) for each in notes]


async def test_what_is_beyond_the_limit_waits_and_is_told_so():
    """It begins when a place gets free, and its log has its way there, in one sequence with all that follows."""
    async with running_engine(max_running=1) as engine:
        session = await engine.open_session("somebody")
        first, second, third = (begin(engine, session) for _ in range(3))
        assert (first.state, second.state, third.state) == (State.STARTING, State.QUEUED, State.QUEUED)
        assert second.turn is not None
        assert (second.turn.position, third.turn.position) == (1, 2)
        assert third.started_at is None
        await end(first)
        await second.spawned.wait()
        assert second.state is State.RUNNING
        assert third.state is State.QUEUED
        await end(second)
        await end(third)
        assert told(third) == ["2", "1", "started", "cancelled", "completed"]
        assert engine.turns.running == len(engine.turns) == 0


async def test_a_plain_execution_hears_nothing_of_a_queue():
    """Where there is room its log begins with its start."""
    async with running_engine() as engine:
        session = await engine.open_session("somebody")
        execution = begin(engine, session, ("true",))
        await end_of(execution)
        assert told(execution) == ["started", "completed"]


async def test_a_higher_priority_begins_first():
    """Those that wait are told nothing of being overtaken."""
    async with running_engine(max_running=1) as engine:
        session = await engine.open_session("somebody")
        first, plain, urgent = begin(engine, session), begin(engine, session), begin(engine, session, priority=5)
        assert plain.turn is not None
        assert plain.turn.position == 2
        await end(first)
        await urgent.spawned.wait()
        assert plain.state is State.QUEUED
        assert told(plain) == ["1"]


@pytest.mark.parametrize(
    "config", [{"max_per_session": 1}, {"lanes": ("builds=1",)}], ids=["of a session", "of a lane"]
)
async def test_a_limit_holds_up_its_own_only(config):
    """Another session, or what is in no lane, begins at once."""
    async with running_engine(**config) as engine:
        session, other = await engine.open_session("somebody"), await engine.open_session("somebody")
        first, second = begin(engine, session, lane="builds"), begin(engine, session, lane="builds")
        free = begin(engine, other)
        await free.spawned.wait()
        assert (second.state, free.state) == (State.QUEUED, State.RUNNING)
        await end(first)
        await second.spawned.wait()


async def test_a_held_lane_waits_for_a_reload():
    """However much room there is otherwise; the reload begins what waited, and so does a higher limit."""
    async with running_engine(lanes=("nightly=0",)) as engine:
        session = await engine.open_session("somebody")
        held, free = begin(engine, session, lane="nightly"), begin(engine, session)
        await free.spawned.wait()
        assert held.state is State.QUEUED
        engine.reconfigure(attrs.evolve(engine.config, lanes=("nightly=1",)))
        await held.spawned.wait()
        engine.reconfigure(attrs.evolve(engine.config, max_running=1))
        waiting = begin(engine, session)
        assert waiting.state is State.QUEUED
        engine.reconfigure(attrs.evolve(engine.config, max_running=None))
        await waiting.spawned.wait()


async def test_a_full_queue_refuses_and_says_when_to_come_back():
    """Nothing of it exists; where there is room to run, a queue of none refuses nobody."""
    async with running_engine(max_running=1, max_queued=1) as engine:
        session = await engine.open_session("somebody")
        first, waiting = begin(engine, session), begin(engine, session)
        with pytest.raises(AdmissionError, match="queue full: 1 executions run and 1 wait") as refused:
            begin(engine, session)
        assert refused.value.refusal is Refusal.QUEUE_FULL
        assert refused.value.facts == {"retry_after": turns.FIRST_RETRY}
        assert list(engine.executions) == [first.id, waiting.id]
        waiting.cancel(Reason.CANCELLED)
        begin(engine, session)
    async with running_engine(max_queued=0) as engine:
        await end(begin(engine, await engine.open_session("somebody")))


async def test_what_is_told_of_another_try_follows_the_ends():
    """A place that gets free every two seconds is worth a try in two seconds."""
    async with running_engine(max_running=1, max_queued=1) as engine:
        recent = engine.turns
        recent._ends.extend(100.0 - each * 2.0 for each in range(16, 0, -1))
        assert recent._retry_after(100.0) == 2.0
        recent._ends.extend([-1e6] * turns.RECENT_ENDS)
        assert recent._retry_after(100.0) == turns.MOST_RETRY
        recent._ends.extend([100.0] * turns.RECENT_ENDS)
        assert recent._retry_after(100.0) == turns.LEAST_RETRY


async def test_a_cancel_ends_what_waits_at_once():
    """It has never run: no process, no exit code; whoever waits behind it moves up."""
    async with running_engine(max_running=1) as engine:
        session = await engine.open_session("somebody")
        first, second, third = (begin(engine, session) for _ in range(3))
        second.cancel(Reason.CANCELLED)
        assert second.finished.is_set()
        assert second.outcome is not None
        assert (second.outcome.exit_code, second.outcome.reason, second.duration) == (None, Reason.CANCELLED, 0.0)
        assert told(second) == ["1", "cancelled", "completed"]
        assert told(third) == ["2", "1"]
        assert list(engine.live) == list(session.live) == [first.id, third.id]
        with pytest.raises(IllegalTransitionError):
            third.pause()


@pytest.mark.parametrize(
    ("parting", "on_disconnect", "ends"),
    [
        (Parting.CLOSED, "auto", Reason.DISCONNECTED),
        (Parting.CUT, "auto", None),
        (Parting.CUT, "cancel", Reason.DISCONNECTED),
        (Parting.CLOSED, "detach", None),
    ],
)
async def test_a_parting_means_for_what_waits_what_it_means_for_what_runs(parting, on_disconnect, ends):
    """What is to outlive its session begins after that has ended."""
    async with running_engine(max_running=1) as engine:
        session, other = await engine.open_session("somebody"), await engine.open_session("somebody")
        first, waiting = begin(engine, other), begin(engine, session, on_disconnect=on_disconnect)
        engine.sessions.connection_lost(session, parting)
        await wait_all_tasks_blocked()
        assert (waiting.outcome.reason if waiting.outcome else None) is ends
        if ends is None:
            await end(first)
            await waiting.spawned.wait()
            assert waiting.state is State.RUNNING


async def test_a_stop_ends_what_waits_without_starting_it():
    """As every live execution: reason shutdown, and nothing begins in between."""
    async with running_engine(max_running=1) as engine:
        session = await engine.open_session("somebody")
        _, *waiting = (begin(engine, session) for _ in range(10))
        ended = await engine.end_all(0.0)
        assert len(ended) == 10
        assert {each.outcome.reason for each in waiting if each.outcome} == {Reason.SHUTDOWN}
        assert not [each for each in waiting if each.leader is not None]


async def test_what_ends_together_tells_nobody_that_it_moved_up():
    """Of those that wait, the last is ended first."""
    async with running_engine(max_running=1) as engine:
        session, other = await engine.open_session("somebody"), await engine.open_session("somebody")
        begin(engine, other)
        waiting = [begin(engine, session) for _ in range(5)]
        engine.sessions.connection_lost(session, Parting.CLOSED)
        await wait_all_tasks_blocked()
        assert [told(each) for each in waiting] == [[str(place), "completed"] for place in range(1, 6)]


async def test_a_timeout_counts_from_the_start():
    """However long it has waited before."""
    async with running_engine(max_running=1) as engine:
        session = await engine.open_session("somebody")
        first, second = begin(engine, session), begin(engine, session, timeout=0.05)
        await trio.sleep(0.1)  # the time that must not count
        assert second.state is State.QUEUED
        await end(first)
        await end_of(second)
        assert second.outcome is not None
        assert second.outcome.reason is Reason.TIMEOUT
        assert second.duration >= 0.05


async def test_what_may_not_run_any_more_does_not():
    """It is judged again when its turn comes: rules and files may have changed while it waited."""
    async with running_engine(max_running=1) as engine:
        session = await engine.open_session("somebody")
        first, second, third = begin(engine, session), begin(engine, session, ("true",)), begin(engine, session)
        engine.reconfigure(attrs.evolve(engine.config, allowed_commands=(SLEEPER[0],)))
        await end(first)
        await end_of(second)
        assert second.outcome is not None
        assert (second.outcome.reason, second.leader) == (Reason.SPAWN_FAILED, None)
        assert "command not allowed" in second.outcome.error
        await third.spawned.wait()


async def test_what_cannot_be_started_gives_its_place_away():
    """A program that is not there keeps nobody waiting."""
    async with running_engine(max_running=1) as engine:
        session = await engine.open_session("somebody")
        first, absent, last = begin(engine, session), begin(engine, session, ("/absent",)), begin(engine, session)
        await end(first)
        await end_of(absent)
        await last.spawned.wait()
        assert last.state is State.RUNNING


async def test_what_begins_all_at_once_begins_in_portions(monkeypatch):
    """A reload that makes room for many does not hold the event loop up; a newcomer overtakes none of them."""
    monkeypatch.setattr(turns, "BURST", 2)
    async with running_engine(max_running=1) as engine:
        session = await engine.open_session("somebody")
        first, *waiting = (begin(engine, session) for _ in range(8))
        engine.reconfigure(attrs.evolve(engine.config, max_running=20))
        assert [each.state for each in waiting].count(State.STARTING) == 2
        newcomer = begin(engine, session)
        assert newcomer.state is State.QUEUED
        for execution in (*waiting, newcomer):
            await execution.spawned.wait()
        assert first.state is State.RUNNING


async def test_what_waits_has_no_file_and_no_process():
    """Ten thousand of them cost memory alone, and little of that."""
    async with running_engine(max_running=1) as engine:
        session = await engine.open_session("somebody")
        first = begin(engine, session)
        await first.spawned.wait()
        await wait_for(lambda: first.state is State.RUNNING, "the first one runs")
        before = open_descriptors()
        waiting = [begin(engine, session, sh(f"echo {number}")) for number in range(100)]
        assert open_descriptors() == before
        await end(first)
        for execution in waiting:
            await end_of(execution)
        assert [each.outcome.exit_code for each in waiting if each.outcome] == [0] * 100
        started = [each.started_at for each in waiting if each.started_at]
        assert started == sorted(started)
