"""Control groups: what is born in a leaf stays there, and nothing of ours is left below /sys/fs/cgroup."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ccexecd.process import control_groups
from ccexecd.process.control_groups import Base, Leaf, Leaves

from .programs import python
from .stage import PATIENCE, is_alive


def wait_until(condition: Callable[[], object], what: str) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, f"in vain: waited until {what}"
        time.sleep(0.002)


def group_of(pid: int | str = "self") -> str:
    """The path of a process's group."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def processes_in(group: str | Path) -> set[int]:
    return set(map(int, (Path(group) / "cgroup.procs").read_text().split()))


@pytest.fixture
def leaves(base: Base) -> Iterator[Leaves]:
    """As a keeper has them; afterwards this process is where it was."""
    leaves = Leaves(base.path)
    yield leaves
    control_groups._move_to(str(Path(base.path) / "daemon"))


@contextmanager
def in_leaf(leaves: Leaves, *argv: str, number: int = 7) -> Iterator[tuple["subprocess.Popen[bytes]", Leaf]]:
    """A process that was started in a leaf; its first line has been read."""
    leaf = leaves.take(number)
    assert leaf is not None
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert leaves.settle()
        assert process.stdout
        process.stdout.readline()
        yield process, leaf
        leaf.kill()


def test_a_base_is_made_where_we_are_and_taken_away_again():
    """The daemon moves into it, and back."""
    before = group_of()
    base = control_groups.claim()
    if base is None:
        pytest.skip("no control groups for this user")
    inside = group_of()
    base.dissolve()
    assert inside == str(Path(before, Path(base.path).name, "daemon"))
    assert base.path.endswith(inside.removesuffix("/daemon"))
    assert group_of() == before
    assert not Path(base.path).exists()


def test_what_is_born_in_a_leaf_is_known_whatever_it_does(leaves: Leaves):
    """A daemon without session, group, parent or environment is still the execution's."""
    escape = (
        "import os\n"
        "for _ in range(2):\n"
        "    if os.fork(): os._exit(0)\n"
        "    os.setsid()\n"
        "os.execve('/bin/sh', ['sh', '-c', 'echo $$; exec sleep 1000'], {})"
    )
    leaf = leaves.take(3)
    with subprocess.Popen(python(escape), stdout=subprocess.PIPE) as process:
        assert leaves.settle()
        assert process.stdout
        pid = int(process.stdout.readline())
        assert leaves.number_of(pid) == 3
        assert leaves.number_of(os.getpid()) is None
        assert leaf is not None
        leaf.kill()
    wait_until(lambda: not is_alive(pid), "it is dead")


def test_a_leaf_that_was_not_used_is_the_next_ones(leaves: Leaves):
    """A program that cannot be started costs no group."""
    leaf = leaves.take(1)
    leaves.give_back(leaf)
    assert leaves.take(2) is leaf


def test_a_leaf_is_taken_away_with_its_execution(leaves: Leaves):
    """A hundred executions leave no group behind, and nothing in memory."""
    for number in range(100):
        leaf = leaves.take(number)
        assert leaves.settle()
        leaves.forget(leaf)
    assert len(list(Path(leaves._base).glob("*-*"))) == 1  # the next one's
    assert not leaves._numbers


def test_groups_that_were_made_in_a_leaf_go_with_it(leaves: Leaves):
    """A command may divide its own group, as a daemon inside of it does."""
    with in_leaf(leaves, *python("print(flush=True); import time; time.sleep(1000)")) as (process, leaf):
        inner = Path(leaf.path) / "a" / "b"
        inner.mkdir(parents=True)
        (inner / "cgroup.procs").write_text(str(process.pid))
        assert leaves.number_of(process.pid) == 7
        leaf.kill()
        process.wait(PATIENCE)
    leaves.forget(leaf)
    assert not Path(leaf.path).exists()


def test_a_leaf_stands_still_and_goes_on(leaves: Leaves):
    """Frozen, it does nothing at all; killed, it need not be thawed."""
    counting = "import itertools\nfor n in itertools.count(): print(n, flush=True)"
    with in_leaf(leaves, *python(counting)) as (process, leaf):
        assert leaf.freeze()
        wait_until(lambda: leaf.is_frozen, "it is frozen")
        used = leaf.cpu_seconds
        assert used > 0
        assert leaf.cpu_seconds == used
        leaf.thaw()
        wait_until(lambda: leaf.cpu_seconds > used or not process.stdout.read(65536), "it goes on")
        leaf.freeze()
        leaf.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_what_is_not_there_is_not_complained_of(tmp_path: Path):
    """A group that has gone, or a controller that we may not use."""
    leaf = Leaf(str(tmp_path / "gone"))
    leaf.kill()
    leaf.thaw()
    leaf.remove()
    assert not leaf.freeze()
    assert not leaf.is_frozen
    assert leaf.cpu_seconds == 0
    assert not leaf.has_run_out_of_memory
    assert not leaf.limit_memory(1 << 30)
    assert not leaf.limit_processes(10)


def test_what_the_kernel_writes_is_understood(tmp_path: Path):
    """The files of a leaf, as the kernel's documentation shows them (cgroup-v2.rst)."""
    leaf = Leaf(str(tmp_path))
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max"):
        (tmp_path / name).touch()
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 1\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n")
    assert leaf.has_run_out_of_memory
    assert leaf.cpu_seconds == 1.5
    assert leaf.limit_memory(1 << 30)
    assert leaf.limit_processes(10)
    written = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name.endswith(("max", "group"))}
    assert written == {"memory.max": "1073741824", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "10"}


def test_without_groups_everything_goes_on(tmp_path: Path):
    """No base, or one that takes no more groups: executions are contained without."""
    for leaves in (Leaves(""), Leaves(str(tmp_path / "full"))):
        leaf = leaves.take(1)
        assert leaf is None
        leaves.settle()
        leaves.forget(leaf)
        assert leaves.number_of(os.getpid()) is None
        leaves.dissolve()


DEAD_DAEMON = """
import os, subprocess, sys
from ccexecd.process.control_groups import Leaves, claim
base = claim()
leaves = Leaves(base.path)
leaves.take(1)
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print(base.path, child.pid, flush=True)
sys.stdin.read()
os.kill(os.getpid(), 9)
"""


def test_what_a_dead_daemon_left_is_ended_by_the_next_and_a_living_ones_is_not(base: Base):
    """Daemon and keeper were killed at once: their lock is free, and nobody else will ever see to it."""
    with subprocess.Popen(
        [sys.executable, "-c", DEAD_DAEMON], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as dead:
        assert dead.stdout
        path, pid = dead.stdout.readline().split()
        home = str(Path(path).parent)
        control_groups._sweep(home)
        assert is_alive(int(pid))
        assert dead.stdin
        dead.stdin.close()
        dead.wait(PATIENCE)
        control_groups._sweep(home)
    wait_until(lambda: not is_alive(int(pid)), "what it left is dead")
    control_groups._sweep(home)
    assert not Path(path).exists()
    assert Path(base.path).exists()


def test_a_group_that_systemd_keeps_to_itself_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where systemd runs, only what it marks as delegated is ours; elsewhere, what we may write."""
    (tmp_path / "cgroup.procs").touch()
    marks: dict[str, bytes] = {}
    exists = os.path.exists
    monkeypatch.setattr(control_groups, "_attribute", lambda _, name: marks.get(name, b""))
    assert control_groups._is_left_to_us(str(tmp_path)) is not exists("/run/systemd/system")
    monkeypatch.setattr(control_groups.os.path, "exists", lambda path: path == "/run/systemd/system" or exists(path))
    assert not control_groups._is_left_to_us(str(tmp_path))
    marks["user.delegate"] = b"1"
    assert control_groups._is_left_to_us(str(tmp_path))
    assert not control_groups._is_left_to_us(str(tmp_path / "gone"))
