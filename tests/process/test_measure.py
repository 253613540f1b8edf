"""What processes use, as it is told to people."""

import os
import signal

import pytest

from ccexecd.process import measure
from ccexecd.process.measure import usage, usage_of_each
from ccexecd.protocol.codec import dumps

from .programs import SLEEPER, python, sh
from .stage import lines_of, living, open_stage, stat_of, state_of, wait_for

BUSY = python("import os\nx = bytearray(30 << 20)\nfor _ in range(3_000_000): pass\nprint('done', flush=True)\ninput()")


async def test_a_tree_is_told_as_the_kernel_counts_it():
    """Pid, parent, name, state, processor time and memory of each, and the sums."""
    async with open_stage() as stage:
        execution = stage.begin(sh('setsid sleep 1000 & "$@"; true', *BUSY), stdin_open=True)
        await lines_of(execution, 1)  # then it is about to sleep, and so may be what it started
        pids = await execution.processes()
        await wait_for(lambda: all(state_of(pid) == "S" for pid in pids), "all of them sleep")
        used = await usage(pids)
        assert {each["pid"] for each in used["processes"]} == living(stage.keeper.pid)
        assert used["process_count"] == len(used["processes"]) == 3
        for each in used["processes"]:
            assert each["ppid"] == int(stat_of(each["pid"])[1])
            assert each["state"] == "sleeping"
        assert used["cpu_seconds"] > 0.02
        assert used["memory_bytes"] > 30 << 20
        assert used["memory_bytes"] == sum(each["memory_bytes"] for each in used["processes"])


@pytest.mark.usefixtures("no_thread")
async def test_without_a_thread_it_is_measured_all_the_same():
    """A fork bomb that has taken every thread does not make a silent agent look stalled, nor `status` fail."""
    (told,) = (await usage([os.getpid()]))["processes"]
    assert told["cpu_seconds"] > 0


async def test_what_has_ended_counts_nothing():
    """A pid of nobody is left out, and is no error."""
    async with open_stage() as stage:
        execution = stage.begin(SLEEPER)
        await execution.spawned.wait()
        assert execution.pid is not None
        os.kill(execution.pid, signal.SIGKILL)
        await execution.finished.wait()
        nothing = {"processes": [], "process_count": 0, "cpu_seconds": 0, "memory_bytes": 0}
        assert await usage([execution.pid]) == nothing


async def test_one_pass_sees_so_many_and_no_more(monkeypatch):
    """A fork bomb does not keep the interpreter busy: the first are told, of the rest nothing."""
    monkeypatch.setattr(measure, "MEASURED", 3)
    async with open_stage() as stage:
        first, second = [stage.begin(sh("sleep 1000 & echo ready; wait")) for _ in range(2)]
        for execution in (first, second):
            await lines_of(execution, 1)
        trees = {"first": await first.processes(), "second": await second.processes(), "third": [os.getpid()]}
        used = await usage_of_each(trees)
        assert {name: each["process_count"] for name, each in used.items()} == {"first": 2, "second": 1, "third": 0}


@pytest.mark.parametrize("name", [b"odd \xff\xfe", "ä ö".encode(), b"new\nline"])
async def test_a_name_is_text_whatever_its_bytes(name):
    """JSON can carry it."""
    async with open_stage() as stage:
        execution = stage.begin(
            python(f"open('/proc/self/comm', 'wb').write({name!r})\nprint(1, flush=True)\ninput()"), stdin_open=True
        )
        await lines_of(execution, 1)
        used = await usage(await execution.processes())
        assert used["processes"][0]["name"] == name.decode(errors="replace")
        assert dumps(used)
