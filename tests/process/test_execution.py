"""What may be asked of an execution, and what it then tells: pause, resume, cancel, signal, standard input."""

import signal
from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd.core.entries import Note
from ccexecd.core.execution import IllegalTransitionError, Reason, State
from ccexecd.process.execution import Execution
from ccexecd.process.standard_input import StdinClosedError

from .programs import HOSTILE, NEVER, SELF_STOPPED, SLEEPER, STAYING, TERM_PROOF, Program, python, sh
from .stage import Stage, end_of, lines_of, living, open_stage, state_of, text_of, thread_states, wait_for

COUNTING = Program(sh("trap '' TERM; while :; do echo x; sleep 0.005; done"))


def notes_of(execution: Execution) -> list[str]:
    """The state changes in its log, in order."""
    cursor = execution.log.cursor(0)
    notes = []
    while (entry := cursor.take()) is not None:
        if isinstance(entry, Note):
            notes.append(entry.method.removeprefix("process."))
    cursor.close()
    return notes


async def begun(stage: Stage, program: Program, **spec: object) -> Execution:
    """Have a program executed and wait until it is as bad as it gets."""
    execution = stage.begin(program.argv, **spec)
    await lines_of(execution, program.lines)
    return execution


async def ended(execution: Execution) -> None:
    """End it now."""
    execution.cancel(Reason.CANCELLED, 0.0)
    await end_of(execution)


def states_below(stage: Stage) -> set[str]:
    """The states of all threads that live, in all processes that the keeper keeps."""
    return {letter for pid in living(stage.keeper.pid) for letter in thread_states(pid)} - {"Z", "X"}


# Pause and resume


@pytest.mark.parametrize("name", STAYING)
async def test_a_pause_is_answered_when_all_of_it_has_stopped(name):
    """Descendants that have left the group, and threads, included; a resume lets all of them go on."""
    async with open_stage() as stage:
        execution = await begun(stage, HOSTILE[name])
        assert await execution.pause() == []
        assert states_below(stage) == {"T"}
        assert execution.state is State.PAUSED
        await execution.resume()
        assert "T" not in states_below(stage)
        assert execution.state is State.RUNNING
        await ended(execution)
        assert notes_of(execution) == ["started", "paused", "resumed", "cancelled", "completed"]


@pytest.mark.parametrize("shell", ["sh", "python"])
async def test_a_program_that_starts_others_all_the_time_is_stopped_between_two(shell):
    """Also when the moment falls between a vfork and its exec, where the parent cannot stop."""
    argv = {
        "sh": sh("while :; do /bin/true; done"),
        "python": python("import subprocess\nwhile True: subprocess.run(['/bin/true'])"),
    }[shell]
    async with open_stage() as stage:
        execution = stage.begin(argv)
        await execution.spawned.wait()
        for _ in range(25):
            with trio.fail_after(1):
                assert await execution.pause() == []
            assert states_below(stage) == {"T"}
            await execution.resume()
            await wait_for(lambda: "T" not in states_below(stage), "it goes on")
        await ended(execution)


async def test_computing_threads_are_stopped_when_the_reply_comes():
    """The first thread of a process stops earlier than those that compute."""
    spinning = Program(
        python(
            "import hashlib, threading\n"
            "for _ in range(12):\n"
            "    threading.Thread(target=hashlib.pbkdf2_hmac, args=('sha256', b'x', b'y', 1 << 30)).start()\n"
            "print('ready', flush=True)\n"
        )
    )
    async with open_stage() as stage:
        execution = await begun(stage, spinning)
        for _ in range(5):
            assert await execution.pause() == []
            assert states_below(stage) == {"T"}
            await execution.resume()
        await ended(execution)


async def test_nothing_is_written_while_paused():
    """What the reply promises can be seen in the output."""
    async with open_stage() as stage:
        execution = await begun(stage, COUNTING)
        await execution.pause()
        await wait_all_tasks_blocked(0.05)  # what was in the pipe has been read
        size = execution.log.sizes["stdout"]
        await trio.sleep(0.1)
        assert execution.log.sizes["stdout"] == size
        await execution.resume()
        await wait_for(lambda: execution.log.sizes["stdout"] > size, "it writes again")
        await ended(execution)


async def test_what_is_not_to_be_done_raises_and_changes_nothing():
    """Pausing a paused one, resuming a running one, and anything of a finished one."""

    def refused(act: Callable[[], object]) -> None:
        before = (execution.state, execution.log.next_seq, execution.scope.deadline, execution.intent)
        with pytest.raises(IllegalTransitionError):
            act()
        assert before == (execution.state, execution.log.next_seq, execution.scope.deadline, execution.intent)

    async with open_stage() as stage:
        execution = await begun(stage, TERM_PROOF, timeout=100)
        refused(execution.resume)
        await execution.pause()
        refused(execution.pause)
        assert states_below(stage) == {"T"}
        await execution.resume()
        execution.cancel(Reason.CANCELLED, 0.1)
        refused(execution.pause)
        refused(execution.resume)
        await end_of(execution)
        refused(execution.pause)
        refused(execution.resume)
        refused(lambda: execution.cancel(Reason.CANCELLED))
        refused(lambda: execution.cancel(Reason.CANCELLED, 0.0))


@pytest.mark.parametrize("count", [3, 4, 7, 8])
async def test_requests_that_overtake_each_other_end_in_the_state_that_was_asked_for_last(count):
    """PAUSE, RESUME, PAUSE … at once: done one after the other, in the order in which they were decided."""
    async with open_stage() as stage:
        execution = await begun(stage, HOSTILE["twenty daemons"])
        asked = [execution.resume() if index % 2 else execution.pause() for index in range(count)]
        async with trio.open_nursery() as nursery:
            for each in reversed(asked):  # whoever waits first is not done first
                nursery.start_soon(_wait, each)
        paused = bool(count % 2)
        assert execution.state is (State.PAUSED if paused else State.RUNNING)
        assert states_below(stage) == {"T"} if paused else "T" not in states_below(stage)
        await ended(execution)


async def _wait(awaitable) -> None:
    await awaitable


async def test_what_is_asked_while_it_is_being_started_is_decided_when_it_has():
    """In the order in which it was asked for, whoever waits first."""
    results = {}
    async with open_stage() as stage:
        execution = stage.begin(TERM_PROOF.argv)
        asked = {"early": execution.resume(), "first": execution.pause(), "again": execution.pause()}
        asked |= {"then": execution.resume(), "last": execution.pause()}
        assert execution.state is State.STARTING

        async def wait(name: str) -> None:
            try:
                results[name] = await asked[name]
            except IllegalTransitionError as refused:
                results[name] = refused.state

        async with trio.open_nursery() as nursery:
            for name in reversed(asked):
                nursery.start_soon(wait, name)
        assert results == {
            "early": State.RUNNING,
            "first": [],
            "again": State.PAUSED,
            "then": [],
            "last": [],
        }
        assert execution.state is State.PAUSED
        assert states_below(stage) == {"T"}
        await ended(execution)


async def test_what_cannot_be_started_cannot_be_paused():
    """Whoever asked in time hears that it has finished."""
    async with open_stage() as stage:
        execution = stage.begin(("/nowhere",))
        with pytest.raises(IllegalTransitionError, match="cannot pause an execution that is FINISHED"):
            await execution.pause()


async def test_what_comes_during_a_pause_does_not_move_the_clock():
    """What was in the pipe, or a terminal's echo: the stall time-out still counts from where it stood."""
    async with open_stage() as stage:
        execution = await begun(stage, TERM_PROOF)
        await execution.pause()
        stood_at = execution.idle_seconds
        await wait_for(lambda: execution.clock._stopped_at + 0.2 < trio.current_time(), "a while has passed")
        execution.has_output("stdout", b"x")
        await execution.resume()
        assert 0 <= execution.idle_seconds < stood_at + 0.2
        await ended(execution)


async def test_what_was_taken_back_at_once_is_not_told_of():
    """PAUSE, RESUME and PAUSE in one go: it was paused once, as far as anybody could see."""
    async with open_stage() as stage:
        execution = await begun(stage, TERM_PROOF)
        deeds = [execution.pause(), execution.resume(), execution.pause()]
        for deed in deeds:
            await deed
        assert notes_of(execution) == ["started", "paused"]
        await execution.resume()
        assert notes_of(execution) == ["started", "paused", "resumed"]
        await ended(execution)


async def test_a_pause_that_nobody_waits_for_any_more_is_done_all_the_same():
    """The client may be gone: what was decided is not half done, and what is decided after it is done, too."""
    async with open_stage() as stage:
        execution = await begun(stage, TERM_PROOF)
        with trio.CancelScope() as client:
            client.cancel()
            await execution.pause()
        assert states_below(stage) == {"T"}
        with trio.fail_after(1):
            await execution.resume()
        assert "T" not in states_below(stage)
        await ended(execution)


async def test_a_program_that_stopped_itself_goes_on_after_a_resume():
    """A resume continues whatever is stopped."""
    async with open_stage() as stage:
        execution = await begun(stage, SELF_STOPPED)
        await wait_for(lambda: states_below(stage) == {"T"}, "it has stopped itself")
        assert await execution.pause() == []
        await execution.resume()
        await lines_of(execution, 2)
        await ended(execution)


# Time


async def test_the_clock_of_a_time_out_stands_still_while_paused():
    """What was left of it at the pause is left of it at the resume."""
    async with open_stage() as stage:
        execution = await begun(stage, TERM_PROOF, timeout=0.6, grace=0.0)
        await execution.pause()
        await trio.sleep(0.7)
        assert execution.state is State.PAUSED
        await execution.resume()
        assert execution.state is State.RUNNING
        assert 0 < execution.scope.deadline - trio.current_time() < 0.6
        await end_of(execution)
        assert execution.outcome is not None
        assert execution.outcome.reason is Reason.TIMEOUT


@pytest.mark.parametrize("limit", ["timeout", "stall_timeout"])
async def test_requests_that_overtake_each_other_do_not_lose_a_limit(limit):
    """PAUSE, RESUME, PAUSE, RESUME at once: the limit still acts, neither at once nor never."""
    async with open_stage() as stage:
        execution = await begun(stage, TERM_PROOF, grace=0.0, **{limit: 0.6})
        async with trio.open_nursery() as nursery:
            for each in [execution.pause(), execution.resume(), execution.pause()]:
                nursery.start_soon(_wait, each)
        await trio.sleep(0.7)
        assert execution.state is State.PAUSED
        async with trio.open_nursery() as nursery:
            for each in [execution.resume(), execution.pause(), execution.resume()]:
                nursery.start_soon(_wait, each)
        assert execution.state is State.RUNNING
        assert 0 <= execution.idle_seconds < 0.6
        await end_of(execution)
        assert execution.outcome is not None
        assert execution.outcome.reason is {"timeout": Reason.TIMEOUT, "stall_timeout": Reason.STALLED}[limit]


async def test_the_duration_stands_still_once_it_has_finished():
    """From its start to its end, in seconds."""
    async with open_stage() as stage:
        execution = stage.begin(sh("sleep 0.1"))
        assert execution.duration == 0.0
        await end_of(execution)
        duration = execution.duration
        assert 0.05 < duration < 5
        await trio.sleep(0.02)
        assert execution.duration == duration
        assert execution.started_at is not None
        assert execution.finished_at is not None
        assert execution.created_at <= execution.started_at < execution.finished_at


# Cancel


async def test_the_first_decision_gives_the_reason():
    """Whatever else ends it meanwhile."""
    async with open_stage() as stage:
        execution = await begun(stage, TERM_PROOF, grace=0.2, timeout=0.3)
        execution.cancel(Reason.DISCONNECTED)
        execution.cancel(Reason.SHUTDOWN)
        await end_of(execution)
        assert execution.outcome is not None
        assert execution.outcome.reason is Reason.DISCONNECTED


async def test_what_it_tells_of_its_end_comes_last_and_once():
    """After `process.completed` the log is closed."""
    async with open_stage() as stage:
        execution = await begun(stage, COUNTING)
        await ended(execution)
        cursor = execution.log.cursor(0)
        entries = []
        while (entry := cursor.take()) is not None:
            entries.append(entry)
        assert cursor.finished
        last = entries[-1]
        assert isinstance(last, Note)
        assert last.method == "process.completed"
        assert last.params == {
            "status": "failed",
            "exit_code": -9,
            "signal": 9,
            "reason": "cancelled",
            "duration": execution.duration,
            "rusage": last.params["rusage"],
            "stdout_bytes": execution.log.sizes["stdout"],
            "stderr_bytes": 0,
            "dropped_bytes": 0,
            "leftovers": [],
            "pid": execution.pid,
            "pgid": execution.pid,
        }
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert notes_of(execution) == ["started", "cancelled", "completed"]


# Signals


async def test_a_signal_reaches_every_process_of_it():
    """Also one that has left the group and the session."""
    heed = f"trap 'echo heard' USR1; echo ready; {NEVER.replace('sleep 1000', 'sleep 0.01')}"
    program = Program(sh('setsid sh -c "$1" & eval "$1"', heed), lines=2)
    async with open_stage() as stage:
        execution = await begun(stage, program)
        await execution.signal(signal.SIGUSR1)
        await wait_for(lambda: text_of(execution, "stdout").count(b"heard") == 2, "both have heard it")
        await ended(execution)


async def test_a_signal_that_ends_it_is_its_end():
    """Not a cancel: nobody decided to end it."""
    async with open_stage() as stage:
        execution = stage.begin(SLEEPER)
        await execution.spawned.wait()
        await execution.signal(signal.SIGINT)
        await end_of(execution)
        assert execution.outcome is not None
        assert (execution.outcome.exit_code, execution.outcome.reason) == (-signal.SIGINT, Reason.SIGNALED)


async def test_its_processes_are_listed_as_long_as_there_are_some():
    """None before its start, none after its end."""
    async with open_stage() as stage:
        execution = stage.begin(HOSTILE["double fork"].argv)
        assert await execution.processes() == []
        await lines_of(execution, 1)
        assert set(await execution.processes()) == living(stage.keeper.pid)
        await ended(execution)
        assert await execution.processes() == []


# Standard input


async def test_what_is_written_is_read_in_order_and_ends_when_closed():
    """Writes that overlap do not mix, and the end comes after all of them."""
    async with open_stage() as stage:
        execution = stage.begin(("cat",), stdin_open=True, window=1 << 22)
        await execution.spawned.wait()
        texts = [bytes([letter]) * 200_000 for letter in b"abcdef"]
        async with trio.open_nursery() as nursery:
            for text in texts:
                nursery.start_soon(execution.stdin.write, text)
                await wait_all_tasks_blocked()
            nursery.start_soon(execution.stdin.close)
        await end_of(execution)
        assert text_of(execution, "stdout") == b"".join(texts)
        assert execution.outcome is not None
        assert execution.outcome.exit_code == 0


async def test_a_write_waits_for_a_program_that_does_not_read():
    """As much as the pipe takes, then back-pressure, until somebody reads."""
    async with open_stage() as stage:
        execution = await begun(stage, Program(sh("echo ready; kill -STOP $$; wc -c")), stdin_open=True)
        written = trio.Event()

        async def write() -> None:
            await execution.stdin.write(b"x" * 1_000_000)
            written.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await wait_all_tasks_blocked(0.05)
            assert not written.is_set()
            await execution.signal(signal.SIGCONT)
            await written.wait()
        await execution.stdin.close()
        await end_of(execution)
        assert text_of(execution, "stdout").split()[-1] == b"1000000"


async def test_nothing_can_be_written_where_nothing_is_read():
    """Never opened, closed, or the program is done with it: each time the text says so."""
    async with open_stage() as stage:
        closed = stage.begin(SLEEPER)
        await closed.spawned.wait()
        with pytest.raises(StdinClosedError, match="stdin: open"):
            await closed.stdin.write(b"x")
        await closed.stdin.close()
        await ended(closed)

        opened = stage.begin(SLEEPER, stdin_open=True)
        await opened.spawned.wait()
        await opened.stdin.close()
        with pytest.raises(StdinClosedError, match="closed"):
            await opened.stdin.write(b"x")
        await ended(opened)

        done = await begun(stage, Program(sh("exec <&-; echo ready; sleep 1000")), stdin_open=True)
        with pytest.raises(StdinClosedError, match="no more input"):
            await done.stdin.write(b"x")
        await ended(done)
        with pytest.raises(StdinClosedError):
            await done.stdin.write(b"x")


async def test_a_write_that_waits_fails_when_the_program_ends():
    """It does not wait for a reader that will never come."""
    async with open_stage() as stage:
        execution = stage.begin(SLEEPER, stdin_open=True)
        await execution.spawned.wait()

        async def write() -> None:
            with pytest.raises(StdinClosedError):
                await execution.stdin.write(b"x" * 1_000_000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await wait_all_tasks_blocked(0.02)
            await ended(execution)


async def test_a_descendant_that_holds_standard_input_does_not_keep_a_write_waiting():
    """The execution has finished: its input is closed on our side, whoever has the other."""
    holder = Program(sh("setsid sleep 1000 <&0 & echo ready; exec sleep 1000"))
    async with open_stage() as stage:
        execution = await begun(stage, holder, stdin_open=True)

        async def write() -> None:
            with pytest.raises(StdinClosedError):
                await execution.stdin.write(b"x" * 1_000_000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await wait_all_tasks_blocked(0.02)
            await ended(execution)


async def test_an_input_that_is_never_closed_keeps_nobody_alive():
    """It is closed when the program has ended."""
    async with open_stage() as stage:
        execution = await stage.run(("true",), stdin_open=True)
        assert execution.stdin._pipe is None


# Watchers


async def test_a_watcher_is_told_in_the_step_in_which_the_log_grows():
    """Whenever it looks, it finds everything; when it has left, it is not told any more."""
    async with open_stage() as stage:
        execution = stage.begin(sh("echo a; echo b >&2; sleep 0.05; echo c"))
        seen = []

        def look() -> None:
            seen.append(execution.log.next_seq)

        def look_once() -> None:
            execution.unwatch(look_once)
            seen.append(0)

        execution.watch(look)
        execution.watch(look_once)
        await end_of(execution)
        assert seen.count(0) == 1
        assert seen[-1] == execution.log.next_seq
        assert execution.log.closed
        assert execution.watchers == {look}


async def test_a_program_that_is_gone_is_no_state_letter():
    """The tests' own look at /proc tells nothing of a process that has been reaped."""
    async with open_stage() as stage:
        execution = await stage.run(("true",))
        assert execution.pid is not None
        assert state_of(execution.pid) == ""
