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
from ccexecd.process.control_groups import Base, Leaf

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


@contextmanager
def in_leaf(base: Base, *argv: str) -> Iterator[tuple["subprocess.Popen[bytes]", Leaf]]:
    """A process in a leaf of its own, which is killed in the end."""
    leaf = Leaf(str(Path(base.path) / "leaf"))
    Path(leaf.path).mkdir()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
        (Path(leaf.path) / "cgroup.procs").write_text(str(process.pid))
        yield process, leaf
        leaf.kill()
    leaf.remove()
    assert not Path(leaf.path).exists()


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


def test_groups_that_were_made_in_a_leaf_go_with_it(base: Base):
    """A command may divide its own group, as a daemon inside of it does."""
    with in_leaf(base, "sleep", "1000") as (process, leaf):
        inner = Path(leaf.path) / "a" / "b"
        inner.mkdir(parents=True)
        (inner / "cgroup.procs").write_text(str(process.pid))
        leaf.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_a_leaf_stands_still_and_goes_on(base: Base):
    """Frozen, it does nothing at all; killed, it need not be thawed."""
    counting = "import itertools\nfor n in itertools.count(): print(n, flush=True)"
    with in_leaf(base, *python(counting)) as (process, leaf):
        assert process.stdout
        process.stdout.readline()
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


DEAD_DAEMON = """
import os, subprocess, sys
from ccexecd.process.control_groups import claim
base = claim()
os.mkdir(base.path + "/leaf")
open(base.path + "/leaf/cgroup.procs", "w").write("0")
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
    assert not is_alive(int(pid))
    assert not Path(path).exists()
    assert Path(base.path).exists()


@pytest.mark.parametrize(
    "name", ["ccexecd-test-123", "ccexecd-", "ccexecd-0123456", "ccexecd-0123456g", "x-ccexecd-01234567"]
)
def test_a_group_that_is_only_called_similarly_is_not_touched(base: Base, name: str):
    """Somebody else's, with something in it that runs."""
    home = Path(base.path).parent
    other = home / name
    other.mkdir()
    with subprocess.Popen(["sleep", "1000"]) as program:
        try:
            (other / "cgroup.procs").write_text(str(program.pid))
            control_groups._sweep(str(home))
            assert is_alive(program.pid)
        finally:
            program.kill()
            program.wait(PATIENCE)
            wait_until(lambda: control_groups.remove(str(other)), "the group is gone")


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
