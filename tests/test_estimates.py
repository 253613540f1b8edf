"""Learning: from what earlier daemons have left, from others, and nothing that would hold anybody up."""

import gc
import signal
import time
import weakref
from pathlib import Path

import pytest
import trio

from ccexecd import estimates
from ccexecd.config import Config
from ccexecd.core.execution import Outcome, Reason
from ccexecd.core.kinds import kind_of
from ccexecd.core.spec import Spec
from ccexecd.estimates import Estimates
from ccexecd.process.execution import Execution
from ccexecd.storage import shared_timings
from ccexecd.storage.timings import Timing
from tests.e2e.daemon_process import eventually
from tests.in_process import Running, running
from tests.redis_server import redis_server

pytestmark = pytest.mark.anyio


def estimates_of(daemon: Running) -> Estimates:
    return daemon.daemon._engine.records.estimates


async def samples(daemon: Running, *argv: str) -> int:
    """How many runs of a command a daemon knows."""
    async with daemon.client() as client:
        return (await client.request("estimate", argv=list(argv)))["samples"]


async def test_a_daemon_knows_what_the_one_before_has_seen(tmp_path):
    """From its history, once; what it sees itself counts on."""
    async with running(tmp_path) as first, first.client() as client:
        for _ in range(4):
            await client.run("true")
    async with running(tmp_path) as second, second.client() as client:
        await eventually(lambda: estimates_of(second)._since_start is None, "it comes to that")
        assert await samples(second, "true") == 4
        await client.run("true")
        assert await samples(second, "true") == 5
        assert (await client.execute("true", estimate_timeout=True)).reply["timeout_source"] == "estimated"


async def test_what_is_seen_while_it_learns_counts_once():
    """The history is read in a thread; an execution that ends meanwhile is newer."""
    known = Estimates(Config(), None, "")
    kind = kind_of(("true",), "true", None, shell=False)
    execution = _Ended()
    known.ended(execution, kind, 1.0, 0.0)
    assert known._experience.estimate("me", kind).bound is None  # one run is not worth telling
    asked: list[float] = []

    class _Archive:
        async def told(self, _question):
            asked.append(time.time())
            known.ended(execution, kind, 1.0, 0.0)
            return [_timing(kind)] * 3

    known._archive = _Archive()
    await known._learn_from_history()
    assert len(asked) == 1
    assert known._experience.estimate("me", kind).bound.complete == 5
    known.ended(execution, kind, 1.0, 0.0)
    assert known._experience.estimate("me", kind).bound.complete == 6
    assert known._since_start is None


class _Ended:
    """As much of an execution as is looked at when it has ended."""

    def __init__(self) -> None:
        self.outcome = Outcome(0, Reason.EXITED)
        self.spec = Spec(("true",), "true")
        self.principal = "me"
        self.listeners = ()


def _timing(kind):
    return Timing("me", kind, 1.0, True)


async def test_an_execution_that_has_ended_is_let_go_of(tmp_path):
    """No cycle of references keeps it, and its output, until the collector comes around to it."""
    gc.disable()
    try:
        async with running(tmp_path) as daemon, daemon.client() as client:
            ran = await client.run("true")
            engine = daemon.daemon._engine
            execution: Execution | None = engine.executions.pop(ran.id)
            engine.sessions.get(execution.session_id).executions.pop(ran.id)
            engine.records._remembered.clear()
            engine.idempotency_keys.forget(execution)
            gone = weakref.ref(execution)
            execution = None
            await eventually(lambda: daemon.daemon._archive.is_settled, "it comes to that")
            await eventually(lambda: gone() is None, "it comes to that")
    finally:
        gc.enable()


async def test_a_time_out_is_looked_up_without_waiting(tmp_path):
    """In one step, with a history of thousands of commands: no thread, no disk, and less than a millisecond."""
    known = Estimates(Config(), None, "")
    execution = _Ended()
    for number in range(2000):
        command = f"make target{number % 500} N={number}"
        known.ended(execution, kind_of(("sh", "-c", command), command, "/w", shell=True), 1.0, 0.0)
    took = []
    for number in range(300):
        command = f"make target{number} N={number}"
        began = time.perf_counter()
        known.timeout("me", ("sh", "-c", command), command, "/w", shell=True)
        took.append(time.perf_counter() - began)
    assert sorted(took)[len(took) // 2] < 0.001


class TestSharing:
    """Daemons that share what they learn by way of a Redis server."""

    @pytest.fixture
    def server(self, tmp_path):
        with redis_server(tmp_path) as one:
            yield one

    async def test_one_learns_from_another(self, server, tmp_path: Path, monkeypatch):
        """Without having run anything; and both stay well when the server hangs, and share again when it answers."""
        monkeypatch.setattr(shared_timings, "PATIENCE", 0.3)
        monkeypatch.setattr(estimates, "RETRY", 0.1)
        keys = {"estimate_redis": server.url, "estimate_redis_password_file": str(server.password_file)}
        (tmp_path / "one").mkdir()
        (tmp_path / "other").mkdir()
        async with (
            running(tmp_path / "one", **keys) as one,
            running(tmp_path / "other", **keys) as other,
            one.client() as client,
        ):
            for _ in range(5):
                await client.run("true", cwd="/")
            await eventually(lambda: not estimates_of(one)._unshared, "it comes to that")
            assert await samples(other, "true") == 5
            assert (await other.ask("health"))["status"] == "healthy"
            server.pause(signal.SIGSTOP)
            await client.run("true", cwd="/")
            await eventually(lambda: estimates_of(one).problems, "it comes to that")
            health = await one.ask("health")
            assert health["status"] == "degraded"
            assert health["problems"] == ["durations are not shared with other daemons"]
            assert await samples(one, "true") == 6
            server.pause(signal.SIGCONT)
            await client.run("true", cwd="/")
            await eventually(lambda: not estimates_of(one).problems, "it comes to that")
            assert (await one.ask("health"))["status"] == "healthy"

    async def test_one_that_is_not_there_costs_nothing(self, tmp_path):
        """The daemon starts, runs, says what is wrong, and stops."""
        async with running(tmp_path, estimate_redis=f"unix://{tmp_path}/none") as daemon, daemon.client() as client:
            with trio.fail_after(20):
                assert (await client.run("true")).reply["status"] == "started"
                await eventually(lambda: estimates_of(daemon).problems, "it comes to that")
                assert (await daemon.ask("status"))["problems"].keys() == {
                    "durations are not shared with other daemons"
                }
