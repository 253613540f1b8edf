"""`status`: of the daemon without an id, of an execution with one."""

import os
import signal
from pathlib import Path

import pytest
import trio

from ccexecd.service.listing import describe
from tests.e2e.client import PATIENCE, RefusedError
from tests.in_process import running


async def test_without_an_id_it_is_the_daemons(tmp_path):
    """At both doors the same."""
    async with running(tmp_path) as daemon, daemon.client() as one:
        theirs, ours = await one.request("status"), await daemon.ask("status")
        assert theirs["pid"] == ours["pid"] == os.getpid()
        assert theirs.keys() == ours.keys()


async def test_what_runs_is_told_with_what_it_uses(tmp_path):
    """All that `list` tells, and the memory, processor time and number of processes of its whole tree, as they are."""
    async with running(tmp_path) as daemon, daemon.client() as one:
        execution = await one.execute("sh", "-c", "sleep 60 & sleep 60 & wait", labels={"job": "a"})
        with trio.fail_after(PATIENCE):
            while True:
                status = await one.request("status", execution_id=execution.id)
                resources = status.pop("resources")
                if [each["name"] for each in resources["processes"]] == ["sh", "sleep", "sleep"]:
                    break
        assert resources["processes"][0]["pid"] == execution.pid
        assert resources["process_count"] == 3
        assert {each["ppid"] for each in resources["processes"][1:]} == {execution.pid}
        for what in ("memory_bytes", "cpu_seconds"):
            assert resources[what] == pytest.approx(sum(each[what] for each in resources["processes"]), abs=0.001)
        assert resources["memory_bytes"] > 100_000
        known = daemon.daemon._engine.executions[execution.id]
        assert status | {"duration": 0} == describe(known) | {"duration": 0}
        assert (status["state"], status["labels"], status["pid"]) == ("RUNNING", {"job": "a"}, execution.pid)


async def test_what_has_finished_uses_nothing(tmp_path):
    """Its end is told, its resources are null."""
    async with running(tmp_path) as daemon, daemon.client() as one:
        execution = await one.run(command="exit 3")
        status = await one.request("status", execution_id=execution.id)
        assert (status["state"], status["exit_code"], status["reason"]) == ("FINISHED", 3, "exited")
        assert status["resources"] is None
        assert status["duration"] == (await one.request("status", execution_id=execution.id))["duration"]


async def test_what_was_left_running_is_told_of(tmp_path):
    """Its execution has finished; what it uses, and that it is there, is told at both doors until it has gone."""
    async with running(tmp_path, leftovers="detach") as daemon, daemon.client() as one:
        execution = await one.run(command="sleep 1000 & echo $!")
        [pid] = (await execution.completed())["leftovers"]
        assert pid == int(execution.stdout)
        for status in (
            await one.request("status", execution_id=execution.id),
            (await one.request("list"))["executions"][0],
        ):
            assert (status["state"], status["leftovers"], status["left_running"]) == ("FINISHED", [pid], True)
        status = await one.request("status", execution_id=execution.id)
        assert [each["pid"] for each in status["resources"]["processes"]] == [pid]
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(PATIENCE):
            while status["left_running"] or status["resources"]:
                status = await one.request("status", execution_id=execution.id)
        assert (status["leftovers"], status["resources"]) == ([pid], None)


async def test_what_ends_while_it_is_being_looked_at_is_told_all_the_same(tmp_path):
    """A process that goes between two looks is no error."""
    async with running(tmp_path) as daemon, daemon.client() as one:
        for _ in range(20):
            asked = len(one.received)
            number = await one.ask("execute", argv=["true"])
            execution_id = (await one.answer(number))["execution_id"]
            looks = [await one.ask("status", execution_id=execution_id) for _ in range(3)]
            for look in looks:
                assert (await one.answer(look))["state"] in {"RUNNING", "FINISHED"}
            assert len(one.received) > asked


@pytest.mark.parametrize("execution_id", ["", "nobody"])
async def test_something_that_does_not_exist(tmp_path: Path, execution_id):
    """-32003, also for an empty id, which is not the same as none."""
    async with running(tmp_path) as daemon, daemon.client() as one:
        with pytest.raises(RefusedError) as refused:
            await one.request("status", execution_id=execution_id)
        assert refused.value.code == -32003
