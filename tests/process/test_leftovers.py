"""What an execution leaves running because it was asked to: which endings do, what is told, and how it ends later."""

import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd.core.entries import Note
from ccexecd.core.execution import IllegalTransitionError, Reason, State
from ccexecd.process import leftovers, supervisor
from ccexecd.process.execution import Execution
from ccexecd.process.leftovers import Leftovers

from .programs import LEADER_FIRST, PIPE_HOLDER, SLEEPER, Program, python, sh
from .stage import (
    Stage,
    end_of,
    family,
    is_alive,
    lines_of,
    living,
    open_descriptors,
    open_stage,
    state_of,
    text_of,
    wait_for,
)

LEAVING = {
    "a daemon that is deaf to TERM": LEADER_FIRST,
    "a child that holds the pipes": PIPE_HOLDER,
    "a child with an output of its own": Program(sh("echo before; setsid sleep 1000 >/dev/null 2>&1 & exit 0")),
}


def completion_of(execution: Execution) -> dict[str, Any]:
    """The params of its `process.completed`."""
    cursor = execution.log.cursor(0)
    notes = []
    while (entry := cursor.take()) is not None:
        if isinstance(entry, Note):
            notes.append(entry)
    cursor.close()
    assert notes[-1].method == "process.completed"
    return notes[-1].params


async def kept_by(stage: Stage, execution: Execution) -> Leftovers:
    """What the engine keeps of it."""
    kept = Leftovers(stage.keeper)
    assert execution.leader is not None
    kept.add(execution.leader, execution.grace)
    return kept


@pytest.mark.parametrize("name", LEAVING)
async def test_what_is_left_goes_on_running(name):
    """The execution is over, its output read and its pipes closed; the pids of what it left are told, and true."""
    program = LEAVING[name]
    async with open_stage() as stage:
        await stage.run(("true",))
        descriptors = open_descriptors()
        execution = await stage.run(program.argv, leftovers="detach", stdin_open=True)
        told = completion_of(execution)
        assert (told["exit_code"], told["reason"], told["left_running"]) == (0, "exited", True)
        assert set(told["leftovers"]) == living(stage.keeper.pid)
        assert await execution.processes() == told["leftovers"]
        assert execution.leaves_running
        assert text_of(execution, "stdout").count(b"\n") == program.lines
        assert open_descriptors() == descriptors
        await (await kept_by(stage, execution)).end(0.1)
        assert not execution.leaves_running
        assert await execution.processes() == []
        assert told == completion_of(execution)
        await wait_for(lambda: not family(stage.keeper.pid), "the last of it has been reaped")


async def test_what_leaves_nothing_ends_as_ever():
    """A straggler that ends within the moment that all get is nothing to leave."""
    async with open_stage() as stage:
        execution = await stage.run(sh("(sleep 0.1; echo late) & exit 3"), leftovers="detach")
        assert text_of(execution, "stdout") == b"late\n"
        assert completion_of(execution)["leftovers"] == []
        assert "left_running" not in completion_of(execution)
        assert not execution.leaves_running


async def test_what_ends_by_itself_later_is_known_to_have_ended():
    """Whoever asks again learns that nothing runs any more."""
    async with open_stage() as stage:
        execution = await stage.run(sh("sleep 1 & exit 0"), leftovers="detach")
        assert execution.leaves_running
        await wait_for(lambda: not execution.leaves_running, "the rest has ended")
        assert (await kept_by(stage, execution)).longest_grace(None) == 0


@pytest.mark.parametrize("how", ["cancel", "kill", "time-out", "stall", "the nursery"])
async def test_only_its_own_ending_leaves_anything(how):
    """Whatever we end, we end with everything below it."""
    async with open_stage() as stage:
        limits = {"time-out": {"timeout": 0.2}, "stall": {"stall_timeout": 0.2}}.get(how, {})
        async with trio.open_nursery() as stage.nursery:
            execution = stage.begin(sh("setsid sleep 1000 & echo ready; wait"), leftovers="detach", grace=0.2, **limits)
            await lines_of(execution, 1)
            if how in ("cancel", "kill"):
                execution.cancel(Reason.CANCELLED, 0.0 if how == "kill" else None)
            elif how == "the nursery":
                stage.nursery.cancel_scope.cancel()
        assert "left_running" not in completion_of(execution)
        assert not living(stage.keeper.pid)


@pytest.mark.parametrize("kind", ["cancel", "kill"])
async def test_a_cancel_in_the_moment_of_lingering_ends_what_is_left(kind):
    """Its leader has exited, and its execution has not: it is ended whole."""
    async with open_stage() as stage:
        execution = stage.begin(LEADER_FIRST.argv, leftovers="detach", grace=0.2)
        await wait_for(lambda: execution.leader and execution.leader.exited.is_set(), "the leader has exited")
        execution.cancel(Reason.CANCELLED, 0.0 if kind == "kill" else None)
        await end_of(execution)
        assert (execution.outcome.reason, execution.leaves_running) == (Reason.CANCELLED, False)
        assert not living(stage.keeper.pid)


async def test_a_pause_in_the_moment_of_lingering_does_not_last():
    """Nobody could resume what has no execution any more: what is left running runs."""
    async with open_stage() as stage:
        execution = stage.begin(PIPE_HOLDER.argv, leftovers="detach")
        await wait_for(lambda: execution.leader and execution.leader.exited.is_set(), "the leader has exited")
        await execution.pause()
        assert execution.state is State.PAUSED
        await end_of(execution)
        assert execution.leaves_running
        assert {state_of(pid) for pid in execution.outcome.leftovers} <= {"R", "S"}
        await (await kept_by(stage, execution)).end(0)


async def test_a_resume_that_is_under_way_is_waited_for():
    """It has been decided and not been done: the execution does not finish before it is."""
    async with open_stage() as stage:
        execution = stage.begin(SLEEPER)
        await execution.spawned.wait()
        await execution.pause()
        resuming = execution.resume()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor._let_go_on, execution)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            await resuming
        assert execution.clock.going.is_set()


async def test_a_cancel_overtakes_what_would_let_it_go_on():
    """It is to end, so nobody need resume it."""
    async with open_stage() as stage:
        execution = stage.begin(SLEEPER)
        await execution.spawned.wait()
        async with trio.open_nursery() as nursery:

            async def pause() -> None:
                with suppress(IllegalTransitionError):
                    await execution.pause()

            nursery.start_soon(pause)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(supervisor._let_go_on, execution)
            await trio.lowlevel.checkpoint()
            execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        assert execution.outcome.reason is Reason.CANCELLED


async def test_a_leader_that_a_stranger_killed_leaves_what_it_was_told_to():
    """We did not end it: how it ended is told, and the rest is left."""
    async with open_stage() as stage:
        execution = await stage.run(sh("sleep 1000 & kill -KILL $$"), leftovers="detach")
        told = completion_of(execution)
        assert (told["signal"], told["reason"], told["left_running"]) == (signal.SIGKILL, "signaled", True)
        await (await kept_by(stage, execution)).end(0)


async def test_who_writes_into_the_closed_pipe_is_told_so():
    """As to any pipe that nobody reads: EPIPE, or SIGPIPE for those who do not ask."""
    writer = python(
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        while True:\n"
        "            os.write(1, b'x\\n')\n"
        "            time.sleep(0.02)\n"
        "    except BrokenPipeError:\n"
        "        os.execvp('sleep', ['sleep', '1000'])\n"
    )
    async with open_stage() as stage:
        execution = await stage.run(writer, leftovers="detach")
        [pid] = execution.outcome.leftovers
        size = execution.log.sizes["stdout"]
        assert size > 10
        await wait_for(lambda: b"sleep" in cmdline_of(pid), "it has met EPIPE")
        assert execution.log.sizes["stdout"] == size
        await (await kept_by(stage, execution)).end(0)


def cmdline_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_flood_into_the_pipe_does_not_hold_up_the_end():
    """What a descendant goes on writing is read up to what a pipe can hold, and no further."""
    flood = python("import os, sys\nif os.fork() == 0:\n    while True:\n        os.write(1, b'x' * 65536)\n")
    async with open_stage() as stage:
        execution = stage.begin(flood, leftovers="detach")
        await end_of(execution)
        assert execution.outcome.reason is Reason.EXITED


async def test_the_end_can_be_hurried():
    """Who is told to stop twice waits for no grace."""
    async with open_stage() as stage:
        execution = await stage.run(LEADER_FIRST.argv, leftovers="detach", grace=1000.0)
        kept = await kept_by(stage, execution)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.end, None)
            await trio.sleep(0.05)
            assert execution.leaves_running
            kept.hurry()
        assert not execution.leaves_running


async def test_what_cannot_be_ended_is_named(monkeypatch, caplog):
    """A process of another user, for instance: the log says which."""

    async def fail(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    async with open_stage() as stage:
        execution = await stage.run(PIPE_HOLDER.argv, leftovers="detach")
        kept = await kept_by(stage, execution)
        with monkeypatch.context() as patched:
            patched.setattr(leftovers, "escalate", fail)
            await kept.end(0)
        assert f"processes {list(execution.outcome.leftovers)}, left running, could not be ended" in caplog.text
        await kept.end(0)


async def test_a_lost_keeper_takes_what_was_left_with_it():
    """Who looks after a tree is lost: the tree is ended, as all trees are."""
    async with open_stage() as stage:
        execution = await stage.run(LEADER_FIRST.argv, leftovers="detach")
        [pid] = execution.outcome.leftovers
        assert stage.keeper.pid is not None
        stage.keeper._process.kill()
        await wait_for(lambda: not is_alive(pid), "it has been ended")
        await wait_for(lambda: not execution.leaves_running, "and that is known")
