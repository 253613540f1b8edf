"""Whose a process is, whether it lives, and that a signal hits nobody else."""

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccexecd.process import containment

from .programs import CLEAN_ENVIRONMENT, DOUBLE_FORK, HEADLESS, HOPPING_LEADER, SLEEPER, Program, python, sh
from .stage import end_all_but, family, living, state_of, thread_states, wait_for

EPOCH = 12345
NUMBER = 77

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs below this process, tagged, and wait until they have written their lines."""
    before = family()
    started: list[subprocess.Popen[bytes]] = []

    def start(program: Program, *, epoch: int = EPOCH, number: int = NUMBER) -> subprocess.Popen[bytes]:
        with containment.tagged(epoch, number):
            process = subprocess.Popen(program.argv, stdout=subprocess.PIPE, start_new_session=True)
        started.append(process)
        assert process.stdout
        for _ in range(program.lines):
            assert process.stdout.readline()
        return process

    yield start
    end_all_but(before)
    for process in started:
        assert process.stdout
        process.stdout.close()
        process.wait()


SILENT = Program(SLEEPER, lines=0)

CHAIN = Program(
    python(
        "import os, time\n"
        "for _ in range(2):\n"
        "    if os.fork():\n"
        "        break\n"
        "    print(os.getpid(), flush=True)\n"
        "time.sleep(1000)\n"
    ),
    lines=0,
)
"""A leader, its child and its grandchild; the latter two print their pids."""


def pids_of(forest: containment.Forest, number: int = NUMBER) -> set[int]:
    return {process.pid for process in forest.members(number)}


# What a process is


def test_a_running_process_is_found_with_its_start_time(start):
    """What is looked up is the process of that pid, and it is neither dead nor stopped."""
    process = start(SILENT)
    found = containment.look_up(process.pid)
    assert found is not None
    assert found.pid == process.pid
    assert found.state not in containment.DEAD | containment.STOPPED
    assert found.started > 0


def test_a_pid_that_nobody_has_is_nobody():
    """A process that has been reaped is not there."""
    process = subprocess.Popen(SLEEPER)
    process.kill()
    process.wait()
    assert containment.look_up(process.pid) is None
    assert containment.children_of(process.pid) == []


def test_a_name_with_brackets_and_spaces_does_not_confuse(tmp_path, start):
    """A program may call itself whatever it likes, also like the end of its name and a state."""
    program = tmp_path / "x) Z 1 (y"
    program.symlink_to("/bin/sleep")
    process = start(Program((str(program), "1000"), lines=0))
    found = containment.look_up(process.pid)
    assert found is not None
    assert found.state not in containment.DEAD


async def test_a_zombie_is_not_alive(start):
    """What has ended and is not reaped is dead, and no member of anything."""
    process = start(Program(("true",), lines=0))
    await wait_for(lambda: state_of(process.pid) == "Z", "it is a zombie")
    forest = containment.Forest(EPOCH)
    forest.leaders[process.pid] = NUMBER
    found = containment.look_up(process.pid)
    assert found is not None
    assert found.state in containment.DEAD
    assert forest.members(NUMBER) == []


async def test_a_process_whose_main_thread_has_ended_is_alive(start):
    """/proc/PID/stat calls it a zombie; another thread of it runs, so it is a member and can be signalled."""
    process = start(HEADLESS)
    await wait_for(lambda: state_of(process.pid) == "Z", "its main thread has ended")
    forest = containment.Forest(EPOCH)
    [found] = forest.members(NUMBER)
    assert found.pid == process.pid
    assert containment.send(found, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL


def test_a_process_is_stopped_when_its_last_thread_is(start):
    """Its first thread may stop long before those that compute."""
    process = start(
        Program(
            python(
                "import hashlib, threading\n"
                "for _ in range(12):\n"
                "    threading.Thread(target=hashlib.pbkdf2_hmac, args=('sha256', b'x', b'y', 1 << 30)).start()\n"
                "print('ready', flush=True)\n"
            )
        )
    )
    for _ in range(5):
        process.send_signal(signal.SIGSTOP)
        while (found := containment.look_up(process.pid)) and found.state not in containment.STOPPED:
            pass
        assert thread_states(process.pid) == {"T"}
        process.send_signal(signal.SIGCONT)


# Signals


async def test_a_signal_reaches_the_process_that_was_meant(start):
    """Same pid and same start time: it is signalled."""
    process = start(SILENT)
    found = containment.look_up(process.pid)
    assert found is not None
    assert containment.send(found, signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_a_recycled_pid_is_never_signalled(start):
    """A process that began at another time than the one that was meant is a stranger."""
    process = start(SILENT)
    found = containment.look_up(process.pid)
    assert found is not None
    for started in (found.started - 1, found.started + 1, 0):
        assert not containment.send(found._replace(started=started), signal.SIGKILL)
    assert process.poll() is None
    assert state_of(process.pid) not in ("", "Z")


def test_a_pid_that_changes_hands_while_it_is_signalled_is_not_hit(start, monkeypatch):
    """The pidfd pins whoever has the pid; who that is, is checked after that and not before."""
    process = start(SILENT)
    found = containment.look_up(process.pid)
    assert found is not None
    order: list[str] = []
    opened = os.pidfd_open

    def pidfd_open(pid: int) -> int:
        order.append("pinned")
        return opened(pid)

    def look_up(pid: int) -> containment.Process:
        order.append("looked up")
        return containment.Process(pid, "S", found.started + 1)

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    monkeypatch.setattr(containment, "look_up", look_up)
    assert not containment.send(found, signal.SIGKILL)
    assert order == ["pinned", "looked up"]
    assert process.poll() is None


def test_a_process_that_has_ended_is_not_signalled():
    """Nobody has its pid: nothing happens."""
    process = subprocess.Popen(SLEEPER)
    found = containment.look_up(process.pid)
    process.kill()
    process.wait()
    assert found is not None
    assert not containment.send(found, signal.SIGKILL)


# Tags


@pytest.mark.parametrize("program", [DOUBLE_FORK, CLEAN_ENVIRONMENT], ids=["double fork", "env -i"])
async def test_what_has_left_every_group_is_found_when_its_leader_is_dead(start, program):
    """The tag survives fork, exec, setsid, an emptied environment and the death of every ancestor."""
    process = start(program)
    below = living(process.pid) if program is CLEAN_ENVIRONMENT else living() - {process.pid}
    process.kill()
    process.wait()
    forest = containment.Forest(EPOCH)
    await wait_for(lambda: {each.pid for each in forest.orphans(NUMBER)} >= below, "they are found as orphans")
    assert forest.members(NUMBER + 1) == []


def test_only_the_soft_limit_carries_the_tag(start):
    """The hard limit stays, so that an execution may have a keeper with tags of its own inside."""
    process = start(SILENT)
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_RTTIME)
    assert soft >= 1 << 60
    assert hard == resource.RLIM_INFINITY


def test_a_hard_limit_of_the_administrator_is_respected():
    """Where real-time computing is limited already, nothing is tagged and nothing is raised or lowered."""
    program = (
        "import resource, sys\n"
        f"sys.path.insert(0, {str(Path(containment.__file__).parents[2])!r})\n"
        "from ccexecd.process import containment\n"
        "resource.setrlimit(resource.RLIMIT_RTTIME, (1000, 5000))\n"
        "with containment.tagged(1, 2):\n"
        "    print(resource.getrlimit(resource.RLIMIT_RTTIME))\n"
        "print(resource.getrlimit(resource.RLIMIT_RTTIME))\n"
    )
    done = subprocess.run(python(program), capture_output=True, check=True)
    assert done.stdout == b"(1000, 5000)\n" * 2


def test_whoever_gives_a_tag_keeps_its_own(start):
    """A keeper may be in an execution of another one, which has to find it."""
    before = resource.getrlimit(resource.RLIMIT_RTTIME)
    with containment.tagged(EPOCH, NUMBER):
        own = resource.getrlimit(resource.RLIMIT_RTTIME)
        inner = start(SILENT, epoch=EPOCH + 1)
        assert resource.getrlimit(resource.RLIMIT_RTTIME) == own
        with pytest.raises(FileNotFoundError), containment.tagged(EPOCH + 1, NUMBER):
            subprocess.run(["/nowhere"], check=False)
        assert resource.getrlimit(resource.RLIMIT_RTTIME) == own
    assert resource.getrlimit(resource.RLIMIT_RTTIME) == before
    assert resource.prlimit(inner.pid, resource.RLIMIT_RTTIME)[0] not in (own[0], before[0])


async def test_the_tags_of_another_keeper_are_not_ours(start):
    """A number means something only together with the epoch of the keeper that gave it."""
    process = start(DOUBLE_FORK, epoch=EPOCH + 1)
    process.kill()
    process.wait()
    assert containment.Forest(EPOCH).members(NUMBER) == []
    assert len(containment.Forest(EPOCH + 1).members(NUMBER)) == 1


def test_two_epochs_differ():
    """Each keeper has one of its own."""
    assert len({containment.new_epoch() for _ in range(100)}) == 100


# Finding


def test_a_leader_is_known_without_its_tag(start):
    """`su` takes the tag off; what descends from a leader belongs to it all the same."""
    process = start(
        Program(
            python(
                "import os, resource, time\n"
                "resource.setrlimit(resource.RLIMIT_RTTIME, (-1, -1))\n"
                "if os.fork() == 0:\n"
                "    os.setsid()\n"
                "    print('ready', flush=True)\n"
                "time.sleep(1000)\n"
            )
        )
    )
    forest = containment.Forest(EPOCH)
    forest.leaders[process.pid] = NUMBER
    assert pids_of(forest) == {process.pid} | living(process.pid)
    assert len(pids_of(forest)) == 2


def test_every_one_of_a_thousand_children_is_found(start):
    """A list of children is longer than what one read of it brings."""
    process = start(
        Program(
            python(
                "import os, signal\n"
                "for _ in range(1000):\n"
                "    if os.fork() == 0:\n"
                "        signal.pause()\n"
                "print('ready', flush=True)\n"
                "signal.pause()\n"
            )
        )
    )
    forest = containment.Forest(EPOCH)
    forest.leaders[process.pid] = NUMBER
    assert len(containment.children_of(process.pid)) == 1000
    assert len(pids_of(forest)) == 1001


async def test_what_a_dying_process_hands_upwards_is_found(start, monkeypatch):
    """A child dies while the tree is walked, and its own child moves to where the walk has been already."""
    process = start(CHAIN)
    assert process.stdout
    child, grandchild = int(process.stdout.readline()), int(process.stdout.readline())
    forest = containment.Forest(EPOCH)
    forest.leaders[process.pid] = NUMBER
    look_up = containment.look_up

    def look_up_too_late(pid: int) -> containment.Process | None:
        if pid == child and state_of(child) != "Z":
            os.kill(child, signal.SIGKILL)
            while state_of(child) != "Z":
                pass
        return look_up(pid)

    monkeypatch.setattr(containment, "look_up", look_up_too_late)
    assert pids_of(forest) == {process.pid, grandchild}


def test_a_process_that_is_another_every_millisecond_never_slips_through(start):
    """However a look falls between its death and its rebirth, the tree is not empty."""
    start(HOPPING_LEADER)
    forest = containment.Forest(EPOCH)
    for _ in range(300):
        assert forest.members(NUMBER)
        _reap()


def _reap() -> None:
    while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
        os.waitpid(-1, os.WNOHANG)


def test_what_changes_faster_than_it_can_be_walked_is_not_taken_for_empty(start, monkeypatch):
    """Where every process that is met has just died, something must be alive that was not met."""
    process = start(SILENT)
    forest = containment.Forest(EPOCH)
    forest.leaders[process.pid] = NUMBER
    pids = iter(range(10**6, 2 * 10**6))
    monkeypatch.setattr(containment, "_walk", lambda _: ([], {next(pids)}))
    [unknown] = forest.members(NUMBER)
    assert unknown.state not in containment.DEAD | containment.STOPPED
    assert not containment.send(unknown, signal.SIGKILL)


async def test_what_lost_its_tag_is_known_again_if_it_was_met_before(start):
    """`su` takes the tag off; then everything dies by which it descended from its leader. A stranger is not known."""
    process = start(
        Program(
            python(
                "import os, resource, time\n"
                "resource.setrlimit(resource.RLIMIT_RTTIME, (-1, -1))\n"
                "if os.fork() == 0:\n"
                "    print(os.getpid(), flush=True)\n"
                "time.sleep(1000)\n"
            ),
            lines=0,
        )
    )
    assert process.stdout
    child = int(process.stdout.readline())
    forest, other = containment.Forest(EPOCH), containment.Forest(EPOCH)
    forest.leaders[process.pid] = NUMBER
    assert pids_of(forest) == {process.pid, child}
    process.kill()
    process.wait()
    del forest.leaders[process.pid]
    assert pids_of(forest) == {child}
    assert not pids_of(other)
    assert child not in {each.pid for each in forest.strays()}
    forest.reaped(child)
    forest._met[NUMBER][child] += 1  # that was another process, of an earlier time
    assert not pids_of(forest)
    forest.reaped(child)
    forest._met[NUMBER][child] -= 1
    assert pids_of(forest) == {child}
    forest.reaped(child)
    forest.forget(NUMBER)
    assert not pids_of(forest)


def test_whose_an_orphan_is_is_found_out_once(start, monkeypatch):
    """There may be thousands, most of them dead: what is asked for all the time must not cost a read for each."""
    process = start(DOUBLE_FORK)
    process.kill()
    process.wait()
    forest = containment.Forest(EPOCH)
    [orphan] = pids_of(forest)
    monkeypatch.setattr(containment, "_tag_of", lambda _: None)
    assert pids_of(forest) == {orphan}
    forest.reaped(orphan)
    forest.forget(NUMBER)
    assert not pids_of(forest)


async def test_strays_are_those_that_carry_no_tag(start):
    """What has taken its tag off and has lost every ancestor belongs to no execution, but is known to be below."""
    process = start(
        Program(
            python(
                "import os, resource, time\n"
                "resource.setrlimit(resource.RLIMIT_RTTIME, (-1, -1))\n"
                "if os.fork() == 0:\n"
                "    print(os.getpid(), flush=True)\n"
                "    time.sleep(1000)\n"
            ),
            lines=0,
        )
    )
    assert process.stdout
    stray = int(process.stdout.readline())
    process.wait()
    forest = containment.Forest(EPOCH)
    assert stray in {each.pid for each in forest.strays()}
    assert forest.members(NUMBER) == []


# vfork


@pytest.fixture
def vforking(tmp_path: Path, start: Start) -> subprocess.Popen[bytes]:
    """A process that waits for its vforked child, which cannot exec before somebody writes to a pipe."""
    os.mkfifo(tmp_path / "door")
    return start(
        Program(
            python(
                "import os, sys, time\n"
                "print('ready', flush=True)\n"
                "os.posix_spawn('/bin/sleep', ['sleep', '1000'], {},"
                " file_actions=[(os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)])\n"
                "time.sleep(1000)\n",
                str(tmp_path / "door"),
            )
        )
    )


async def test_the_child_of_a_vfork_borrows_until_it_has_execed(tmp_path, vforking):
    """A parent that waits for its child to exec cannot stop; who that child is, is told by the memory they share."""
    await wait_for(lambda: state_of(vforking.pid) == "D", "it waits in vfork")
    [child] = containment.children_of(vforking.pid)
    assert [each.pid for each in containment.borrowers(vforking.pid)] == [child]
    (tmp_path / "door").write_bytes(b"")
    await wait_for(lambda: not containment.borrowers(vforking.pid), "the child has memory of its own")
    assert state_of(child) not in ("", "Z")


def test_an_ordinary_child_borrows_nothing(start):
    """A forked child has a copy, an exec'ed one something else."""
    process = start(Program(sh("sleep 1000 & echo ready; wait")))
    assert containment.children_of(process.pid)
    assert containment.borrowers(process.pid) == []


def test_jobs_are_stopped_after_their_shell():
    """Who is in another group than its parent, which still runs, is a job; nobody else waits for anybody."""
    shell = containment.Process(10, "S", 1, parent=1, group=10)
    job, of_pipeline = (containment.Process(pid, "S", 1, parent=10, group=11) for pid in (11, 12))
    below = containment.Process(13, "S", 1, parent=11, group=11)
    plain = containment.Process(14, "S", 1, parent=10, group=10)
    assert containment.jobs([shell, job, of_pipeline, below, plain]) == {11, 12}
    assert containment.jobs([job, of_pipeline, below, plain]) == set()
    assert containment.jobs([]) == set()
