"""An execution from its start to its verified end: every way to end, and what is true afterwards."""

import hashlib
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd.core.execution import IllegalTransitionError, Outcome, Reason, State
from ccexecd.core.framing import PIECE
from ccexecd.core.spec import Limits, TerminalSize
from ccexecd.process import keeper_client, supervisor
from ccexecd.process.execution import Execution

from .programs import (
    HOSTILE,
    LAST_WORDS,
    LEADER_FIRST,
    NEVER,
    PIPE_HOLDER,
    SLEEPER,
    STAYING,
    TERM_PROOF,
    Program,
    python,
    sh,
)
from .stage import (
    OF_GLIBC,
    PATIENCE,
    Stage,
    described,
    end_of,
    family,
    is_alive,
    lines_of,
    living,
    open_descriptors,
    open_stage,
    text_of,
    wait_for,
)

both_ways = pytest.mark.usefixtures("containment")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")


async def begun(stage: Stage, program: Program, **spec: object) -> Execution:
    """Have a program executed and wait until it is as bad as it gets."""
    execution = stage.begin(program.argv, **spec)
    await lines_of(execution, program.lines)
    return execution


def outcome_of(execution: Execution) -> Outcome:
    assert execution.outcome is not None
    return execution.outcome


def facts(execution: Execution) -> tuple[int | None, Reason, str]:
    """Exit code, reason, status."""
    outcome = outcome_of(execution)
    return outcome.exit_code, outcome.reason, outcome.status


async def nothing_is_left(stage: Stage) -> None:
    """Nothing lives below the keeper, now; and it has nothing to reap, in a moment."""
    assert not described(living(stage.keeper.pid))
    await wait_for(lambda: not family(stage.keeper.pid), "the last of it has been reaped")


# By itself


@pytest.mark.parametrize(("code", "status"), [(0, "completed"), (1, "failed"), (2, "failed"), (255, "failed")])
async def test_an_exit_code_is_told_as_it_is(code, status):
    """`completed` is 0 and nothing else."""
    async with open_stage() as stage:
        execution = await stage.run(sh(f"echo out; echo err >&2; exit {code}"))
        assert facts(execution) == (code, Reason.EXITED, status)
        assert text_of(execution, "stdout") == b"out\n"
        assert text_of(execution, "stderr") == b"err\n"
        assert outcome_of(execution).leftovers == outcome_of(execution).survivors == ()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGRTMAX])
async def test_a_program_that_a_signal_ended_is_told_of_with_the_number(signum):
    """-N, and nobody on our side had a hand in it."""
    async with open_stage() as stage:
        execution = await stage.run(python(f"import os; os.kill(os.getpid(), {int(signum)})"))
        assert facts(execution) == (-signum, Reason.SIGNALED, "failed")
        assert outcome_of(execution).signal == signum


async def test_what_it_used_is_told():
    """Of the leader and of the children that it waited for."""
    async with open_stage() as stage:
        child = "x = bytearray(50 << 20)\nfor _ in range(10**6): pass"
        execution = await stage.run(
            python(f"import os\nif os.fork() == 0:\n    exec({child!r})\n    os._exit(0)\nos.wait()")
        )
        used = outcome_of(execution).use
        assert used.user_s > 0.01
        assert used.max_rss_bytes > 50 << 20


async def test_the_last_output_arrives_before_the_end():
    """As much as a pipe holds, written by a program that is gone before anybody has read it."""
    async with open_stage() as stage:
        size = 1_000_000
        for _ in range(5):
            execution = await stage.run(python(f"import os; os.write(1, b'x' * {size}); os._exit(0)"), window=1 << 22)
            assert execution.log.sizes["stdout"] == size


async def test_output_that_is_no_text_arrives():
    """NUL bytes, bad UTF-8, a line without an end."""
    odd = bytes(range(256)) + b"\xff\xc3" + b"\0" * 5
    async with open_stage() as stage:
        execution = await stage.run(python(f"import os; os.write(1, {odd!r}); os.write(2, b'no line feed')"))
        assert text_of(execution, "stdout") == odd
        assert text_of(execution, "stderr") == b"no line feed"


async def test_thirty_megabytes_that_nobody_watches_are_whole():
    """In order, byte for byte, at the program's own pace."""
    size = 30 << 20
    writer = python(
        "import hashlib, os\n"
        "digest = hashlib.sha256()\n"
        "for number in range(480):\n"
        "    block = b'%063d\\n' % number * 1024\n"
        "    digest.update(block)\n"
        "    while block: block = block[os.write(1, block):]\n"
        "os.write(2, digest.hexdigest().encode())\n"
    )
    async with open_stage() as stage:
        execution = await stage.run(writer, window=size * 2)
        assert execution.log.sizes["stdout"] == size
        assert execution.log.dropped_bytes == 0
        assert hashlib.sha256(text_of(execution, "stdout")).hexdigest() == text_of(execution, "stderr").decode()


@pytest.mark.parametrize("unit", ["line", "no line feed"])
async def test_the_memory_of_an_execution_is_bounded(unit):
    """However much it writes, and whether or not its lines ever end: the newest stays, the rest is counted."""
    window = 1 << 20
    word = "b'x' * 99 + b'\\n'" if unit == "line" else "b'x' * 100"
    async with open_stage() as stage:
        execution = stage.begin(python(f"import os\nfor _ in range(200): os.write(1, ({word}) * 1000)"), window=window)
        highest = 0

        def look() -> None:
            nonlocal highest
            highest = max(highest, execution.log.held_bytes)

        execution.watch(look)
        await end_of(execution)
        log = execution.log
        assert log.sizes["stdout"] == 200 * 100_000
        assert highest <= window + PIECE
        assert len(text_of(execution, "stdout")) + log.dropped_bytes == log.sizes["stdout"]


# Not even started


@pytest.mark.parametrize(
    ("argv", "cwd", "errno", "subject"),
    [
        (("/nowhere",), None, 2, "program"),
        (("/etc/passwd",), None, 13, "program"),
        (("/etc",), None, 13, "program"),
        (("true",), "/nowhere", 2, "cwd"),
        (("true",), "/etc/passwd", 20, "cwd"),
        (("true", "x" * 200_000), None, 7, "program"),
        (("true", "a\0b"), None, 22, "program"),
    ],
    ids=["missing", "not executable", "a directory", "cwd missing", "cwd a file", "argument too long", "NUL"],
)
async def test_what_cannot_be_started_has_failed_to_and_leaves_nothing(argv, cwd, errno, subject):
    """No leader, no output, no descriptor; the error is kept."""
    async with open_stage() as stage:
        await stage.run(("true",))
        descriptors = open_descriptors()
        execution = await stage.run(argv, cwd=cwd, stdin_open=True)
        assert execution.spawned.is_set()
        assert execution.spawn_error is not None
        assert (execution.spawn_error.errno, execution.spawn_error.subject) == (errno, subject)
        assert facts(execution) == (None, Reason.SPAWN_FAILED, "failed")
        assert outcome_of(execution).error == str(execution.spawn_error)
        assert execution.pid is None
        assert execution.duration == 0.0
        assert open_descriptors() == descriptors


async def test_a_lack_of_descriptors_is_told_and_passes():
    """The daemon goes on, and so does the next execution."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with open_stage() as stage:
        descriptors = open_descriptors()
        lowest = os.dup(0)
        os.close(lowest)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 3, limits[1]))
            execution = await stage.run(("true",))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert execution.spawn_error is not None
        assert (execution.spawn_error.errno, execution.spawn_error.subject) == (24, "pipe")
        assert open_descriptors() == descriptors
        assert facts(await stage.run(("true",))) == (0, Reason.EXITED, "completed")


# What a program finds


SIGNAL_SETS = ("SigB", "SigI", "SigC")  # blocked, ignored, caught


async def test_a_program_finds_a_clean_place():
    """Three descriptors, nothing to read, default signals, a session of its own, the umask of whoever started us."""
    look = (
        "import os, sys\n"
        "status = dict(line.split(':\\t') for line in open('/proc/self/status') if ':\\t' in line)\n"
        "print(sorted(os.listdir('/proc/self/fd'))[:-1], os.readlink('/proc/self/fd/0'), os.read(0, 1))\n"
        "print(*(int(status[name], 16) for name in ('SigBlk', 'SigIgn')))\n"
        "print(os.getsid(0) == os.getpgid(0) == os.getpid(), os.umask(0))\n"
    )
    async with open_stage(umask=0o027) as stage:
        other = stage.begin(SLEEPER, stdin_open=True)
        await other.spawned.wait()
        execution = await stage.run(python(look))
        status = await stage.run(("cat", "/proc/self/status"))
        assert text_of(execution, "stdout").decode().splitlines() == [
            "['0', '1', '2'] /dev/null b''",
            f"0 {1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1 | OF_GLIBC}",  # the first two are Python's own
            f"True {0o027}",
        ]
        masks = [line.split()[1] for line in text_of(status, "stdout").decode().splitlines() if line[:4] in SIGNAL_SETS]
        assert [int(mask, 16) & ~OF_GLIBC for mask in masks] == [0, 0, 0]


async def test_the_pipes_of_a_program_hold_a_mebibyte():
    """Both of them, as the program sees it."""
    async with open_stage() as stage:
        execution = await stage.run(python("import fcntl; print(fcntl.fcntl(1, 1032), fcntl.fcntl(2, 1032))"))
        assert text_of(execution, "stdout") == b"1048576 1048576\n"


# Ended by us


@both_ways
@pytest.mark.parametrize("name", HOSTILE)
async def test_nothing_of_it_is_left(name):
    """Whatever it did to escape, and whatever it does at TERM."""
    async with open_stage() as stage:
        execution = await begun(stage, HOSTILE[name], grace=0.2)
        if execution.is_live:
            execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        await nothing_is_left(stage)
        assert outcome_of(execution).survivors == ()
        assert execution.state is State.FINISHED


@both_ways
async def test_nothing_is_left_of_all_of_them_killed_at_once():
    """Their trees grow and shrink and change their parents beside each other."""
    async with open_stage() as stage:
        executions = {name: await begun(stage, program) for name, program in HOSTILE.items()}
        for execution in executions.values():
            if execution.is_live:
                execution.cancel(Reason.CANCELLED, 0.0)
        for execution in executions.values():
            await end_of(execution)
        await nothing_is_left(stage)
        assert {name: outcome_of(execution).survivors for name, execution in executions.items()} == dict.fromkeys(
            HOSTILE, ()
        )


async def test_a_time_out_ends_it_and_keeps_what_it_wrote():
    """The output is there, the reason says why, and nothing is left, whatever the program."""
    async with open_stage() as stage:
        executions = {name: stage.begin(program.argv, grace=0.1, timeout=1.0) for name, program in STAYING.items()}
        for execution in executions.values():
            await end_of(execution)
        await nothing_is_left(stage)
        assert {name: outcome_of(each).reason for name, each in executions.items()} == dict.fromkeys(
            STAYING, Reason.TIMEOUT
        )
        assert [name for name, each in executions.items() if b"ready\n" not in text_of(each, "stdout")] == []


async def test_a_stall_is_warned_of_and_then_ends_it():
    """No byte on either stream for so long; any byte begins the wait anew."""
    async with open_stage() as stage:
        noisy = stage.begin(sh("for i in 1 2 3 4 5 6 7 8; do sleep 0.1; echo x >&2; done"), stall_timeout=0.6)
        silent = stage.begin(sh("echo x; exec sleep 1000"), stall_timeout=0.3)
        await end_of(silent)
        assert outcome_of(silent).reason is Reason.STALLED
        assert text_of(silent, "stdout") == b"x\n"
        await end_of(noisy)
        assert facts(noisy) == (0, Reason.EXITED, "completed")


async def test_the_grace_is_respected():
    """A program has all of it, and no more."""
    async with open_stage() as stage:
        execution = await begun(stage, TERM_PROOF, grace=0.4)
        began = time.monotonic()
        execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        assert 0.4 <= time.monotonic() - began < 0.4 + 2
        assert facts(execution) == (-signal.SIGKILL, Reason.CANCELLED, "failed")


@pytest.mark.parametrize("how", ["a second cancel", "a kill", "hurry"])
async def test_a_grace_can_be_cut_short(how):
    """Whoever has waited long enough asks again, with more force; a longer grace asked for later changes nothing."""
    async with open_stage() as stage:
        execution = await begun(stage, TERM_PROOF, grace=PATIENCE * 2)
        execution.cancel(Reason.CANCELLED)
        await wait_all_tasks_blocked(0.02)
        if how == "hurry":
            execution.hurry.cancel()
        else:
            execution.cancel(Reason.CANCELLED, 0.1 if how == "a second cancel" else 0.0)
            execution.cancel(Reason.CANCELLED, 1000)
        await end_of(execution)
        assert facts(execution) == (-signal.SIGKILL, Reason.CANCELLED, "failed")


async def test_last_words_arrive():
    """Output is read until the end of the grace: a program that writes in its TERM handler does not meet EPIPE."""
    async with open_stage() as stage:
        execution = await begun(stage, LAST_WORDS)
        execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        assert text_of(execution, "stdout") == b"ready\n" + b"." * 20 + b"last words\n"
        assert facts(execution) == (7, Reason.CANCELLED, "failed")


async def test_a_kill_lets_no_handler_run():
    """No TERM before it: what a program would do at TERM is not begun."""
    async with open_stage() as stage:
        execution = await begun(stage, LAST_WORDS)
        execution.cancel(Reason.CANCELLED, 0.0)
        await end_of(execution)
        assert text_of(execution, "stdout") == b"ready\n"
        assert facts(execution) == (-signal.SIGKILL, Reason.CANCELLED, "failed")


async def test_a_paused_program_hears_that_it_is_to_end():
    """TERM reaches a stopped process only when it goes on."""
    async with open_stage() as stage:
        execution = await begun(stage, LAST_WORDS, grace=PATIENCE * 2)
        await execution.pause()
        execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        assert text_of(execution, "stdout").endswith(b"last words\n")
        assert facts(execution) == (7, Reason.CANCELLED, "failed")


async def test_a_cancel_overtakes_a_pause_that_has_just_been_decided():
    """The program ends in its own way, whichever of both the keeper hears first: it is not stopped in its handler."""
    async with open_stage() as stage:
        for steps in range(4):
            execution = await begun(stage, LAST_WORDS, grace=PATIENCE * 2)
            pausing = execution.pause()

            async def wait(pausing: Awaitable[object] = pausing) -> None:
                with suppress(IllegalTransitionError):
                    await pausing

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                execution.cancel(Reason.CANCELLED)
            await end_of(execution)
            assert facts(execution) == (7, Reason.CANCELLED, "failed")


# At the wrong moment


@pytest.mark.parametrize("how", ["cancel", "kill", "the nursery"])
async def test_a_cancel_is_not_lost_in_the_start(how):
    """Before it is asked for, while it is under way, and just after: it is ended, and nothing is left."""
    async with open_stage() as stage:
        for steps in (0, 1, 2, 3, 4, 5, 8):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as stage.nursery:
                    execution = stage.begin(SLEEPER)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    if how == "the nursery":
                        scope.cancel()
                    else:
                        execution.cancel(Reason.CANCELLED, 0.0 if how == "kill" else None)
            await end_of(execution)
            assert outcome_of(execution).reason is (Reason.SHUTDOWN if how == "the nursery" else Reason.CANCELLED)
            assert outcome_of(execution).exit_code == (-signal.SIGKILL if how == "kill" else -signal.SIGTERM)
            await nothing_is_left(stage)


async def test_a_cancel_of_what_cannot_be_started_ends_it():
    """It failed to start; that is its reason, and nobody waits."""
    async with open_stage() as stage:
        execution = stage.begin(("/nowhere",))
        await trio.lowlevel.checkpoint()
        execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        assert outcome_of(execution).reason is Reason.SPAWN_FAILED


async def test_a_burst_of_spawns_with_cancels_in_the_middle():
    """Two hundred at once, half of them cancelled at some moment of their start: each ends as it was told."""
    async with open_stage() as stage:
        executions = [stage.begin(SLEEPER if number % 2 else ("true",)) for number in range(200)]
        for execution in executions[1::2]:
            await trio.lowlevel.checkpoint()
            execution.cancel(Reason.CANCELLED)
        for execution in executions:
            await end_of(execution)
        assert {facts(each) for each in executions[0::2]} == {(0, Reason.EXITED, "completed")}
        assert {facts(each) for each in executions[1::2]} == {(-signal.SIGTERM, Reason.CANCELLED, "failed")}
        await nothing_is_left(stage)


@both_ways
async def test_two_hundred_are_stopped_in_two_seconds():
    """All at once, each with its own verified end."""
    async with open_stage() as stage:
        executions = [stage.begin(SLEEPER) for _ in range(200)]
        for execution in executions:
            await execution.spawned.wait()
        with trio.fail_after(2):
            for execution in executions:
                execution.cancel(Reason.SHUTDOWN)
            for execution in executions:
                await execution.finished.wait()
        assert {facts(each) for each in executions} == {(-signal.SIGTERM, Reason.SHUTDOWN, "failed")}
        await nothing_is_left(stage)


@both_ways
async def test_nothing_adds_up():
    """Descriptors and tasks are back where they were after a thousand executions of every kind."""
    async with open_stage() as stage:

        async def some() -> None:
            executions = [
                *[stage.begin(("true",), stdin_open=bool(number % 2)) for number in range(20)],
                *[stage.begin(("true",), pty=TerminalSize(80, 24), stdin_open=True) for _ in range(5)],
                *[stage.begin(("true",), limits=Limits(open_files=99, cpu_seconds=99.0)) for _ in range(5)],
                *[stage.begin(sh("echo x; exec sleep 1000"), timeout=0.05) for _ in range(15)],
                *[stage.begin(("/nowhere",)) for _ in range(15)],
                *[stage.begin(SLEEPER) for _ in range(15)],
            ]
            for execution in executions[-15:]:
                execution.cancel(Reason.CANCELLED, 0.0)
            for execution in executions:
                await end_of(execution)

        await some()
        await wait_all_tasks_blocked()
        before = (open_descriptors(), trio.lowlevel.current_statistics().tasks_living)
        of_keeper = open_descriptors(stage.keeper.pid)
        for _ in range(13):
            await some()
        await wait_all_tasks_blocked()
        assert (open_descriptors(), trio.lowlevel.current_statistics().tasks_living) == before
        await wait_for(
            lambda: open_descriptors(stage.keeper.pid) <= of_keeper, "the keeper has no more open than before"
        )
        assert not stage.keeper._leaders
        assert not stage.pump._sources


# What it leaves


async def test_what_outlives_its_leader_is_ended_and_listed():
    """The leader's exit is the truth about the execution; its stragglers are named."""
    async with open_stage() as stage:
        execution = stage.begin(LEADER_FIRST.argv, grace=0.2)
        await lines_of(execution, 2)
        await wait_for(lambda: len(living(stage.keeper.pid)) == 1, "the leader has ended")
        straggler = living(stage.keeper.pid)
        await end_of(execution)
        assert facts(execution) == (0, Reason.EXITED, "completed")
        assert set(outcome_of(execution).leftovers) == straggler
        assert outcome_of(execution).survivors == ()
        await nothing_is_left(stage)


async def test_a_straggler_that_ends_by_itself_is_waited_for():
    """The last process of a pipeline may be a moment later than the leader; what it writes arrives."""
    async with open_stage() as stage:
        execution = await stage.run(sh("(sleep 0.1; echo late) & exit 3"))
        assert facts(execution) == (3, Reason.EXITED, "failed")
        assert text_of(execution, "stdout") == b"late\n"
        assert outcome_of(execution).leftovers == ()


async def test_a_straggler_has_its_grace():
    """TERM first: what it does at its end is done."""
    late = python(
        "import os, signal, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'straggler ends\\n'), os._exit(0)))\n"
        "    os.write(1, b'ready\\n')\n"
        "    time.sleep(1000)\n"
    )
    async with open_stage() as stage:
        execution = await stage.run(late)
        assert text_of(execution, "stdout") == b"ready\nstraggler ends\n"
        assert len(outcome_of(execution).leftovers) == 1


async def test_a_pipe_that_a_descendant_holds_does_not_keep_it_from_its_end():
    """The end of the leader counts, not that of its output."""
    async with open_stage() as stage:
        execution = await stage.run(PIPE_HOLDER.argv)
        assert facts(execution) == (0, Reason.EXITED, "completed")
        assert text_of(execution, "stdout") == b"before\n"
        assert len(outcome_of(execution).leftovers) == 1


async def test_a_pipe_that_a_stranger_holds_does_not_keep_it_from_its_end():
    """Nobody knows whose that process is; the pipe is closed after a moment, with everything read that was in it."""
    stray = python(
        "import os, resource, time\n"
        "resource.setrlimit(resource.RLIMIT_RTTIME, (-1, -1))\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    time.sleep(1000)\n"
        "print('leader', flush=True)\n"
    )
    async with open_stage() as stage:
        with trio.fail_after(supervisor.LINGER + 3):
            execution = await stage.run(stray)
        assert facts(execution) == (0, Reason.EXITED, "completed")
        assert text_of(execution, "stdout") == b"leader\n"
        descriptors = open_descriptors()
        await stage.run(("true",))
        assert open_descriptors() == descriptors


async def test_a_stop_asked_for_while_stragglers_end_is_heard():
    """Its leader has exited; the rest of it can still be killed at once."""
    async with open_stage() as stage:
        execution = stage.begin(LEADER_FIRST.argv, grace=PATIENCE * 2)
        await wait_for(lambda: execution.leader and execution.leader.exited.is_set(), "the leader has exited")
        began = time.monotonic()
        execution.cancel(Reason.CANCELLED, 0.0)
        await end_of(execution)
        assert time.monotonic() - began < supervisor.STRAGGLER_GRACE
        assert outcome_of(execution).exit_code == 0
        await nothing_is_left(stage)


@both_ways
async def test_a_zombie_is_not_waited_for():
    """A process that has ended and that its parent never reaps is no straggler, and does not run."""
    zombie = Program(
        python(
            "import os, signal, time\n"
            "if os.fork() == 0:\n"
            "    os._exit(0)\n"
            "os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)\n"
            "print('ready', flush=True)\n"
            "signal.pause()\n"
        )
    )
    async with open_stage() as stage:
        execution = await begun(stage, zombie)
        assert len(family(stage.keeper.pid)) == 2
        assert await execution.processes() == [execution.pid]
        with trio.fail_after(1):
            assert await execution.pause() == []
            await execution.resume()
            execution.cancel(Reason.CANCELLED)
            await execution.finished.wait()
        assert outcome_of(execution).leftovers == ()
        await nothing_is_left(stage)


# Other users


@as_root
@both_ways
@pytest.mark.parametrize("how", ["cancel", "kill"])
@pytest.mark.parametrize("program", ["su", "runuser", "setpriv"])
async def test_what_runs_as_another_user_is_ended(program, how):
    """`su` puts a session of its own and other limits around it."""
    if not shutil.which(program):
        pytest.skip(f"no {program} here")
    inside = "sleep 1000 & echo ready; wait"  # nothing forks while it is ended: see the next test
    argv = {
        "su": ("su", "nobody", "-s", "/bin/sh", "-c", inside),
        "runuser": ("runuser", "-u", "nobody", "--", *sh(inside)),
        "setpriv": ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *sh(inside)),
    }[program]
    async with open_stage() as stage:
        execution = await begun(stage, Program(argv), grace=1.0)
        execution.cancel(Reason.CANCELLED, 0.0 if how == "kill" else None)
        await end_of(execution)
        await wait_for(lambda: not family(stage.keeper.pid), "nothing is left")
        assert outcome_of(execution).survivors == ()


@as_root
@both_ways
async def test_a_tree_that_grows_into_every_gap_is_ended():
    """As many as its user may have, and each forks all the time: who is killed makes room for another."""
    for program in ("prlimit", "setpriv"):
        if not shutil.which(program):
            pytest.skip(f"no {program} here")
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for _ in range(10**9):\n"
        "    try:\n"
        "        if not os.fork(): os.setsid()\n"
        "    except BlockingIOError:\n"
        "        os.write(1, b'full\\n')\n"
        "    time.sleep(0.001)\n"
    )
    limited = ("prlimit", "--nproc=80", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *python(code))
    async with open_stage() as stage:
        execution = await begun(stage, Program(limited))
        execution.cancel(Reason.CANCELLED, 0.0)
        await end_of(execution)
        assert outcome_of(execution).survivors == ()
        await nothing_is_left(stage)


@as_root
@both_ways
async def test_a_daemon_of_another_user_is_ended_when_it_was_met():
    """`su` resets every limit (pam_limits), the tag among them; but its leader lives when it is looked for."""
    await _leave_a_daemon_of_another_user("sleep 1000")


@as_root
@pytest.mark.usefixtures("groups")
async def test_a_daemon_that_another_user_leaves_behind_is_ended():
    """With everything gone between it and the keeper, only its control group tells whose it is."""
    await _leave_a_daemon_of_another_user("exit 0")


async def _leave_a_daemon_of_another_user(then: str) -> None:
    if not shutil.which("su"):
        pytest.skip("no su here")
    inside = f"setsid sh -c \"trap '' TERM; echo ready; {NEVER}\" & {then}"
    async with open_stage() as stage:
        execution = await begun(stage, Program(("su", "-", "nobody", "-s", "/bin/sh", "-c", inside)), grace=0.5)
        if execution.is_live:
            execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        await nothing_is_left(stage)


@pytest.fixture
def powerless_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A keeper that may not signal processes of other users, as that of an ordinary user may not."""
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv here")
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-kill --inh-caps=-all {sys.executable} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(keeper_client.sys, "executable", str(program))
    monkeypatch.setattr(supervisor, "VERIFY_PATIENCE", 0.3)
    yield
    for pid in living():  # here, we may
        os.kill(pid, signal.SIGKILL)


@as_root
async def test_what_may_not_be_signalled_is_named(powerless_keeper):
    """A set-uid program: the execution finishes, and says what it could not end."""
    other_user = "setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'echo ready; exec sleep 1000' & wait"
    async with open_stage() as stage:
        execution = await begun(stage, Program(sh(other_user)), grace=0.1)
        untouchable = living(stage.keeper.pid) - {execution.pid}
        execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        assert facts(execution) == (-signal.SIGTERM, Reason.CANCELLED, "failed")
        assert set(outcome_of(execution).survivors) == untouchable
        assert all(map(is_alive, untouchable))
        os.kill(untouchable.pop(), signal.SIGKILL)


@as_root
async def test_a_leader_that_may_not_be_signalled_is_lost(powerless_keeper):
    """It runs on; how it will end, nobody can say."""
    argv = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *sh("echo ready; exec sleep 1000"))
    async with open_stage() as stage:
        execution = await begun(stage, Program(argv), grace=0.1)
        execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        assert facts(execution) == (None, Reason.LOST, "failed")
        assert outcome_of(execution).survivors == (execution.pid,)
        assert execution.pid is not None
        os.kill(execution.pid, signal.SIGKILL)
        assert facts(await stage.run(("true",))) == (0, Reason.EXITED, "completed")


# Without a keeper


@both_ways
async def test_a_keeper_that_is_killed_loses_nothing():
    """Twenty hostile programs in the middle of their work: each ends as lost, with its output, and all is reaped."""
    programs = [*HOSTILE.values(), TERM_PROOF, *[Program(sh("while :; do echo x; sleep 0.01; done"))] * 6][:20]
    async with open_stage() as stage:
        executions = [stage.begin(program.argv) for program in programs]
        for execution, program in zip(executions, programs, strict=True):
            await lines_of(execution, program.lines)
            if program in HOSTILE.values() and program not in STAYING.values():
                await wait_for(lambda e=execution: e.leader.exited.is_set(), "the leader has ended by itself")
        paused = executions[0]
        await paused.pause()
        running = [each for each in executions if each.leader and not each.leader.exited.is_set()]
        assert stage.keeper.pid is not None
        os.kill(stage.keeper.pid, signal.SIGKILL)
        for execution in executions:
            await end_of(execution)
        assert {outcome_of(each).reason for each in running} == {Reason.LOST}
        assert {outcome_of(each).status for each in running} == {"failed"}
        assert all(text_of(each, "stdout") for each in executions)
        await wait_for(lambda: living() == {stage.keeper.pid}, "another keeper, and nothing else, is there")
        assert family() == {stage.keeper.pid}
        assert facts(await stage.run(sh("echo next"))) == (0, Reason.EXITED, "completed")


async def test_a_keeper_that_is_killed_while_it_ends_something():
    """The end that was asked for comes, and is told as it can be told."""
    async with open_stage() as stage:
        execution = await begun(stage, HOSTILE["twenty daemons"], grace=PATIENCE * 2)
        execution.cancel(Reason.CANCELLED)
        await wait_for(lambda: execution.leader and execution.leader.exited.is_set(), "the leader has ended at TERM")
        assert stage.keeper.pid is not None
        os.kill(stage.keeper.pid, signal.SIGKILL)
        await end_of(execution)
        assert facts(execution) == (-signal.SIGTERM, Reason.CANCELLED, "failed")
        await wait_for(lambda: living() <= {stage.keeper.pid}, "all twenty are gone")


async def test_everything_is_cancelled_at_once():
    """Keeper, pump and executions lose their nursery in the same moment, as when a daemon fails: nothing is left."""
    from ccexecd.process.keeper_client import KeeperClient  # noqa: PLC0415
    from ccexecd.process.pump import Pump  # noqa: PLC0415

    descriptors = open_descriptors()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            keeper, pump = KeeperClient(0o022), Pump()
            await nursery.start(keeper.run)
            nursery.start_soon(pump.run)
            stage = Stage(keeper, pump, nursery)
            executions = [stage.begin(program.argv, grace=0.2) for program in HOSTILE.values()]
            for execution, program in zip(executions, HOSTILE.values(), strict=True):
                await lines_of(execution, program.lines)
            nursery.cancel_scope.cancel()
    assert all(each.outcome for each in executions)
    await wait_for(lambda: not described(living()), "nothing is left")
    assert keeper._process is not None
    keeper._process.wait()
    assert open_descriptors() == descriptors


# Two keepers


async def test_two_keepers_do_not_touch_each_other():
    """Both give the same numbers; the end of one's execution is not the end of the other's."""
    async with open_stage() as first, open_stage() as second:
        mine = await begun(first, HOSTILE["twenty daemons"], grace=0.1)
        theirs = await begun(second, HOSTILE["twenty daemons"], grace=0.1)
        assert mine.leader is not None
        assert theirs.leader is not None
        assert mine.leader.number == theirs.leader.number
        mine.cancel(Reason.CANCELLED)
        await end_of(mine)
        assert not living(first.keeper.pid)
        assert len(living(second.keeper.pid)) == 21
        theirs.cancel(Reason.CANCELLED)
        await end_of(theirs)


NESTED = """
import os, sys, trio
sys.path[:0] = sys.argv[2:]
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.leader import Launch

async def main():
    async with trio.open_nursery() as nursery:
        keeper = KeeperClient(0o022)
        await nursery.start(keeper.run)
        deaf = "trap '' TERM; echo ready; exec sleep 1000"
        argv = ("sh", "-c", 'setsid sh -c "$1" & setsid sh -c "$1" & read go', "sh", deaf)
        send, receive = trio.open_memory_channel(1)
        keeper.spawn(Launch(argv, None, dict(os.environ), 0.6), [os.dup(n) for n in range(3)], send.send_nowait)
        leader = await receive.receive()
        await leader.exited.wait()
        print("survivors", len(leader.exit.survivors), flush=True)
        if sys.argv[1] == "ends":
            await keeper.kill(leader)
            await leader.gone.wait()
            print("gone", flush=True)
            nursery.cancel_scope.cancel()
        else:
            await trio.sleep_forever()

trio.run(main)
"""


def nested(how: str) -> tuple[str, ...]:
    """A program that has a keeper of its own, which keeps two deaf daemons; it `ends` them, or `stays`."""
    paths = {str(Path(module.__file__ or "").parents[depth]) for module, depth in ((trio, 1), (keeper_client, 2))}
    return (sys.executable, "-c", NESTED, how, *paths)


async def test_a_keeper_inside_an_execution_ends_only_its_own():
    """Its tags are its own: what the execution around it has started stays."""
    async with open_stage() as stage:
        script = 'setsid sleep 1000 & "$@"; echo "left $?"; exec sleep 1000'
        outer = stage.begin(sh(script, *nested("ends")), grace=0.2, stdin_open=True)
        await lines_of(outer, 2)
        await outer.stdin.write(b"go\n")
        await lines_of(outer, 5)
        assert text_of(outer, "stdout") == b"ready\nready\nsurvivors 2\ngone\nleft 0\n"
        assert len(living(stage.keeper.pid)) == 2
        outer.cancel(Reason.CANCELLED)
        await end_of(outer)
        await nothing_is_left(stage)


@pytest.mark.parametrize("how", ["cancel", "kill", "its daemon is killed"])
async def test_a_keeper_inside_an_execution_ends_with_it(how):
    """With everything that it keeps, for as long as it takes: it belongs to the execution, whatever tags it gives."""
    async with open_stage() as stage:
        outer = stage.begin(nested("stays"), grace=5.0, stdin_open=True)
        await lines_of(outer, 2)
        await outer.stdin.write(b"go\n")
        await lines_of(outer, 3)
        assert len(living(stage.keeper.pid)) == 4  # daemon, keeper, and what it keeps
        if how == "its daemon is killed":
            assert outer.pid is not None
            os.kill(outer.pid, signal.SIGKILL)
        else:
            outer.cancel(Reason.CANCELLED, 0.0 if how == "kill" else None)
        await end_of(outer)
        await nothing_is_left(stage)
