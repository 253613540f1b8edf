"""Limits of executions, each with a real program that goes beyond it."""

import os
import resource
import signal
from pathlib import Path

import pytest
import trio

from ccexecd.core.execution import Outcome, Reason
from ccexecd.core.spec import Limits
from ccexecd.process import limits
from ccexecd.process.containment import Process
from ccexecd.process.control_groups import Leaf
from ccexecd.process.execution import Execution
from ccexecd.process.limits import Watch

from .programs import python, sh
from .stage import end_of, lines_of, living, open_stage, state_of, text_of, wait_for

both_ways = pytest.mark.usefixtures("containment")

BURN = "while True: pass"


def outcome_of(execution: Execution) -> Outcome:
    assert execution.outcome is not None
    return execution.outcome


def oom_score_of(pid: object) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def ended_by(argv: tuple[str, ...], bounds: Limits, **spec: object) -> tuple[Outcome, bytes]:
    """Run something with limits; nothing of it is left."""
    async with open_stage() as stage:
        execution = await stage.run(argv, limits=bounds, **spec)
        assert not living(stage.keeper.pid)
        return outcome_of(execution), text_of(execution, "stdout")


async def test_a_program_has_the_limits_that_were_asked_for():
    """Soft and hard: a program cannot raise them again. What was not asked for is as the daemon has it."""
    code = "import os, resource as r\nprint([r.getrlimit(k) for k in (r.RLIMIT_NOFILE, r.RLIMIT_FSIZE)], os.nice(0))"
    bounds = Limits(open_files=64, file_bytes=4096, nice=7)
    async with open_stage() as stage:
        execution = await stage.run(python(code), limits=bounds)
        assert text_of(execution, "stdout") == b"[(64, 64), (4096, 4096)] 7\n"
        plain = await stage.run(python(code))
        own = [resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)]
        assert text_of(plain, "stdout") == f"{own} {os.nice(0)}\n".encode()


async def test_an_administrators_limit_is_not_raised():
    """A request for more gets what there is."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE)[1])"
    async with open_stage() as stage:
        execution = await stage.run(python(code), limits=Limits(open_files=most + 1))
        assert text_of(execution, "stdout") == f"{most}\n".encode()


@both_ways
@pytest.mark.parametrize("way", ["the leader", "a child", "a daemon", "one after the other"])
async def test_processor_time_is_that_of_the_whole_tree(way):
    """Whichever process burns it, it is told as the limit that it is."""
    burn = f"exec {' '.join(map(repr, python(BURN)))}"
    argv = {
        "the leader": python(BURN),
        "a child": sh(f"({burn})& wait; wait; true"),
        "a daemon": sh(f"(setsid {burn.removeprefix('exec ')})& sleep 1000"),
        "one after the other": sh(f"while :; do timeout 0.1 {burn.removeprefix('exec ')}; done"),
    }[way]
    outcome, _ = await ended_by(argv, Limits(cpu_seconds=0.5), grace=0.5)
    assert (outcome.reason, outcome.limit, outcome.status) == (Reason.LIMIT, "cpu_seconds", "failed")


@both_ways
async def test_a_shell_that_goes_on_after_its_child_hides_nothing():
    """The tree is judged before the kernel acts on one process, and the exit code of a shell is no excuse."""
    burn = " ".join(map(repr, python(BURN)))
    outcome, text = await ended_by(sh(f"{burn}; echo after $?"), Limits(cpu_seconds=1.0), grace=0.5)
    assert (outcome.reason, outcome.limit, text) == (Reason.LIMIT, "cpu_seconds", b"")


@both_ways
@pytest.mark.parametrize(
    ("burn", "signum"), [("while time.process_time() < 0.6: pass", None), (BURN, signal.SIGXCPU)], ids=["exit", "XCPU"]
)
async def test_what_nobody_could_look_at_is_told_of_at_the_end(burn, signum):
    """The keeper takes a last look when the leader has ended; if it is too slow for long, the kernel acts instead."""
    code = f"import time\nprint('up', flush=True)\ninput()\n{burn}"
    async with open_stage() as stage:
        execution = stage.begin(python(code), limits=Limits(cpu_seconds=0.4), stdin_open=True)
        await lines_of(execution, 1)
        leader, keeper = execution.pid, stage.keeper.pid
        assert leader is not None
        os.kill(keeper, signal.SIGSTOP)
        try:
            await execution.stdin.write(b"go\n")
            await wait_for(lambda: state_of(leader) == "Z", "the leader has ended")
        finally:
            os.kill(keeper, signal.SIGCONT)
        await end_of(execution)
        outcome = outcome_of(execution)
        assert (outcome.reason, outcome.limit, outcome.signal) == (Reason.LIMIT, "cpu_seconds", signum)


@both_ways
async def test_children_that_nobody_waits_for_are_counted():
    """A parent that ignores SIGCHLD is told nothing of them, nor is anybody else: what was seen of them counts."""
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "for _ in range(60):\n"
        "    if not os.fork():\n"
        "        while time.process_time() < 0.3: pass\n"
        "        os._exit(0)\n"
        "    try: os.wait()\n"
        "    except ChildProcessError: pass\n"
    )
    outcome, _ = await ended_by(python(code), Limits(cpu_seconds=1.0), grace=0.5)
    assert (outcome.reason, outcome.limit) == (Reason.LIMIT, "cpu_seconds")
    assert outcome.use is None or outcome.use.user_s < 1.0, "it is not in what the kernel tells of the leader"


@both_ways
async def test_nothing_is_counted_twice():
    """What was seen of a child while it lived is in its parent's account when that has waited for it."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    code = (
        "import subprocess, sys, time\n"
        f"for _ in range(3): subprocess.run(['sh', '-c', '\"$0\" -c \"$1\"; true', sys.executable, {burn!r}])\n"
        "print('done', flush=True)\n"
        "time.sleep(1000)\n"
    )
    async with open_stage() as stage:
        execution = stage.begin(python(code), limits=Limits(cpu_seconds=1.5))
        await lines_of(execution, 1)
        await trio.sleep(0.8)  # some looks: it is what must not happen that is waited for
        assert execution.intent is None
        execution.cancel(Reason.CANCELLED, 0.0)
        await end_of(execution)


async def test_what_sleeps_uses_no_time():
    """Wall time is not processor time."""
    outcome, text = await ended_by(sh("sleep 0.7; echo done"), Limits(cpu_seconds=0.5))
    assert (outcome.reason, outcome.exit_code, text) == (Reason.EXITED, 0, b"done\n")


async def test_a_file_that_grows_too_large_is_told_of(tmp_path: Path):
    """SIGXFSZ ends the leader; the file is as large as it may be."""
    big = tmp_path / "big"
    outcome, _ = await ended_by(("sh", "-c", f"exec head -c 100000 /dev/zero >{big}"), Limits(file_bytes=4096))
    assert (outcome.signal, outcome.reason, outcome.limit) == (signal.SIGXFSZ, Reason.LIMIT, "file_bytes")
    assert big.stat().st_size == 4096


async def test_too_many_processes_are_ended():
    """Without a control group that counts them, they are looked at; a fork bomb does not last."""
    outcome, _ = await ended_by(sh("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait"), Limits(processes=5))
    assert (outcome.reason, outcome.limit) == (Reason.LIMIT, "processes")


async def test_few_processes_are_left_alone():
    """As many as are allowed may be there."""
    outcome, _ = await ended_by(sh("for i in 1 2 3 4; do sleep 0.4 & done; wait"), Limits(processes=5))
    assert (outcome.reason, outcome.exit_code) == (Reason.EXITED, 0)


async def test_memory_of_one_process_is_bounded():
    """Without a control group: the program is told by its own allocation, and ends as it will."""
    code = "try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    print('no memory')"
    outcome, text = await ended_by(python(code), Limits(memory_bytes=256 << 20))
    assert (outcome.reason, text) == (Reason.EXITED, b"no memory\n")


async def test_memory_of_all_processes_is_added_up():
    """Each is within the limit, all together are not."""
    grow = " ".join(map(repr, python("x = b'1' * (40 << 20); import time; time.sleep(1000)")))
    outcome, _ = await ended_by(sh(f"for i in 1 2 3 4; do {grow} & done; wait"), Limits(memory_bytes=100 << 20))
    assert (outcome.reason, outcome.limit) == (Reason.LIMIT, "memory_bytes")


async def test_shared_memory_counts_once():
    """Forks of a large program are not many large programs."""
    code = (
        "import os, time\n"
        "x = b'1' * (60 << 20)\n"
        "for _ in range(8):\n"
        "    if not os.fork(): time.sleep(0.8); os._exit(0)\n"
        "for _ in range(8): os.wait()\n"
    )
    outcome, _ = await ended_by(python(code), Limits(memory_bytes=200 << 20))
    assert (outcome.reason, outcome.exit_code) == (Reason.EXITED, 0)


async def test_a_cancel_is_a_cancel_whatever_its_limits():
    """Whoever decided first gives the reason."""
    async with open_stage() as stage:
        execution = stage.begin(sh("trap '' XCPU; echo up; while :; do :; done"), limits=Limits(cpu_seconds=1000))
        await lines_of(execution, 1)
        execution.cancel(Reason.CANCELLED, 0.0)
        await end_of(execution)
        assert (outcome_of(execution).reason, outcome_of(execution).limit) == (Reason.CANCELLED, None)


async def test_a_paused_program_uses_nothing_and_its_limit_acts_later():
    """The watch goes on where it was."""
    async with open_stage() as stage:
        execution = stage.begin(python("print(flush=True)\n" + BURN), limits=Limits(cpu_seconds=0.5), grace=0.2)
        await lines_of(execution, 1)
        await execution.pause()
        await trio.sleep(0.8)  # longer than its limit: it is what must not happen that is waited for
        assert execution.is_live
        await execution.resume()
        await end_of(execution)
        assert outcome_of(execution).limit == "cpu_seconds"


async def test_what_is_started_goes_first_when_memory_is_short():
    """The daemon and its keeper keep their place."""
    async with open_stage() as stage:
        execution = await stage.run(("cat", "/proc/self/oom_score_adj"))
        own = oom_score_of("self")
        assert int(text_of(execution, "stdout")) == min(own + limits.OOM_SCORE, 1000)
        assert oom_score_of(stage.keeper.pid) == own


def test_only_the_kernels_own_signs_are_believed():
    """A program that kills itself, or exits, was not ended by its limits."""
    bounds = {"cpu_seconds": 1.0, "file_bytes": 1}
    assert limits.told_by(-signal.SIGXCPU, bounds, None) == "cpu_seconds"
    assert limits.told_by(-signal.SIGXFSZ, bounds, None) == "file_bytes"
    assert limits.told_by(-signal.SIGXCPU, {}, None) is None
    assert limits.told_by(-signal.SIGKILL, bounds, None) is None
    assert limits.told_by(-signal.SIGRTMIN, bounds, None) is None
    assert limits.told_by(152, bounds, None) is None


@pytest.mark.parametrize(
    ("argv", "errno", "subject"), [(("/etc/passwd",), 13, "program"), (("/nosuch",), 2, "program")]
)
async def test_what_cannot_be_started_with_limits_is_told_as_without(argv, errno, subject):
    """The long way round loses no reason, and leaves no process."""
    async with open_stage() as stage:
        execution = await stage.run(argv, limits=Limits(open_files=10))
        assert execution.spawn_error is not None
        assert (execution.spawn_error.errno, execution.spawn_error.subject) == (errno, subject)
        assert not living(stage.keeper.pid)


async def test_limits_change_nothing_else():
    """Dispositions of signals, descriptors, session: as without."""
    code = (
        "import os, signal\n"
        "ignored = [s for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN]\n"
        "print(sorted(os.listdir('/proc/self/fd'))[:-1], os.getsid(0) == os.getpgid(0) == os.getpid(), ignored)\n"
    )
    async with open_stage() as stage:
        limited = await stage.run(python(code), limits=Limits(open_files=64))
        plain = await stage.run(python(code))
        assert text_of(limited, "stdout") == text_of(plain, "stdout")
        assert b"True" in text_of(plain, "stdout")


def test_nothing_is_looked_at_sooner_than_it_matters():
    """Much processor time that a group counts needs no look for some seconds; little of it, a look soon."""
    me = [Process(os.getpid(), "R", 0)]
    used = sum(os.times()[:4])
    far, uncounted, near, memory = (
        Watch({"cpu_seconds": 3600.0}, Leaf("/nowhere")),
        Watch({"cpu_seconds": used + 3600.0}, None),
        Watch({"cpu_seconds": used + 0.001}, None),
        Watch({"memory_bytes": 1 << 40}, None),
    )
    assert (far.exceeded(me), memory.exceeded(me)) == (None, None)
    for watch in (near, uncounted):
        watch.exceeded(me)
    assert far.interval > 1 > memory.interval > near.interval > 0
    assert uncounted.interval == memory.interval
