"""How busy the machine is: looked at while somebody wants it, never when nobody does, and never waited for."""

import os
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from ccexecd.process import load as load_module
from ccexecd.process.load import Load

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Looks that take no time."""
    monkeypatch.setattr(load_module, "MOMENT", 0.03)
    monkeypatch.setattr(load_module, "GPU_PATIENCE", 0.3)


def smi(directory: Path, script: str) -> str:
    """A PATH with a program in it that stands for nvidia-smi."""
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return f"{directory}:{os.environ['PATH']}"


async def test_nobody_has_looked(tmp_path):
    """The kernel's own average is there at once, within bounds."""
    assert 0 <= Load(str(tmp_path)).busy <= 100


async def test_a_look_is_what_is_told(tmp_path, monkeypatch):
    """As long as it is fresh; then it is the kernel's average again."""
    monkeypatch.setattr(os, "getloadavg", lambda: (-1.0, 0.0, 0.0))
    load = Load(str(tmp_path))
    assert load.busy < 0
    await load.measure()
    assert 0 <= load.busy <= 100
    monkeypatch.setattr(load_module, "FRESH", 0.0)
    load._looked_at -= 1
    assert load.busy < 0


async def test_processors_that_work_are_seen(tmp_path, monkeypatch):
    """All of them at once: near to everything is in use."""
    monkeypatch.setattr(load_module, "MOMENT", 0.3)
    load = Load(str(tmp_path))
    async with trio.open_nursery() as nursery:
        for _ in range(os.cpu_count() or 1):
            nursery.start_soon(trio.run_process, ["sh", "-c", "while :; do :; done"])
        await load.measure()
        nursery.cancel_scope.cancel()
    assert load.busy > 50


@pytest.mark.parametrize(
    ("script", "has_gpu"),
    [("echo 3; echo 100", True), ("echo '[N/A]'", False), ("exit 9", False), ("exec sleep 60", False)],
)
async def test_a_gpu_counts_where_there_is_one(tmp_path, script, has_gpu):
    """The busiest; one that does not answer in time, or with something else, is not asked again."""
    load = Load(smi(tmp_path, script))
    with trio.fail_after(20):
        await load.measure()
    assert load._has_gpu is has_gpu
    assert (load.busy == 100) or not has_gpu


async def test_it_looks_only_while_somebody_wants_it(tmp_path, monkeypatch):
    """Nobody, two, one, nobody: an idle daemon looks at nothing."""
    monkeypatch.setattr(load_module, "INTERVAL", 0.02)
    looks = 0
    counters = load_module._counters

    def counted():
        nonlocal looks
        looks += 1
        return counters()

    monkeypatch.setattr(load_module, "_counters", counted)
    load = Load(str(tmp_path))

    async def more() -> None:
        before = looks
        with trio.fail_after(10):
            while looks <= before + 2:
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        await trio.testing.wait_all_tasks_blocked()
        assert looks == 0
        load.begin()
        load.begin()
        await more()
        load.end()
        await more()
        load.end()
        await trio.sleep(0.2)  # what was under way comes to its end
        before = looks
        await trio.sleep(0.3)
        assert looks == before
        nursery.cancel_scope.cancel()


async def test_a_machine_that_tells_nothing(tmp_path, monkeypatch):
    """Without /proc/stat there is still the kernel's average."""
    monkeypatch.setattr(load_module, "_STAT", tmp_path / "none")
    load = Load(str(tmp_path))
    await load.measure()
    assert 0 <= load.busy <= 100
