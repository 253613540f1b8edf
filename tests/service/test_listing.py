"""What is told of executions stays small enough for every client, and says what it leaves out."""

import json
import sqlite3
from types import SimpleNamespace

import attrs
import pytest
import trio

from ccexecd.core.redaction import REDACTED, Redactor
from ccexecd.core.spec import Spec
from ccexecd.keys import Config
from ccexecd.process.description import describe
from ccexecd.process.execution import Execution
from ccexecd.process.pump import Pump
from ccexecd.protocol.codec import dumps
from ccexecd.protocol.messages import List
from ccexecd.records import Records
from ccexecd.service import listing
from ccexecd.service.listing import AT_ONCE, list_executions
from tests.e2e.client import RefusedError
from tests.in_process import running

FRAME_LIMIT = 1024 * 1024
"""No frame exceeds 1 MiB, the limit of common clients (the contract)."""


def execution_of(**spec) -> Execution:
    """An accepted execution that nobody starts."""
    made = attrs.evolve(Spec(("true",), "true"), **spec)
    return Execution(made, "session", keeper=None, pump=Pump(), window=1 << 20)


def peer_of(*executions: Execution) -> SimpleNamespace:
    """Somebody who asks a daemon that remembers these."""
    gate = SimpleNamespace(redactor=Redactor())
    engine = SimpleNamespace(
        records=Records(None, Config(), {}), executions={each.id: each for each in executions}, gate=gate
    )
    return SimpleNamespace(engine=engine, sees=lambda _: True, principal=SimpleNamespace(sees_only=None))


@pytest.mark.parametrize(
    "spec",
    [
        {"display": "x" * 5_000_000},
        {"argv": ("x" * 5_000_000,)},
        {"argv": ("x",) * 1_000_000},
        {"cwd": "/" * 5_000_000},
    ],
    ids=lambda spec: next(iter(spec)),
)
def test_a_description_is_short_however_long_the_command(spec):
    """What is cut ends with an ellipsis; the beginning tells the command."""
    described = describe(execution_of(**spec))
    assert len(json.dumps(described)) < 16 * 1024
    name = "command" if "display" in spec else next(iter(spec))
    shown = "".join(described[name])
    assert shown.startswith(next(iter(spec.values()))[0][:900])
    assert shown.endswith("…")


def test_an_ordinary_command_is_told_in_full():
    """Nothing is cut of what people type."""
    described = describe(execution_of(argv=("git", "log", "-n", "3"), display="git log -n 3", cwd="/srv"))
    assert (described["argv"], described["command"]) == (["git", "log", "-n", "3"], "git log -n 3")
    assert described["cwd"] == "/srv"


async def test_a_list_is_one_frame_and_says_that_there_is_more():
    """The newest that a frame can hold are told, and `truncated` says that there are older ones."""
    many = [execution_of(display="x" * 2000, argv=("x" * 2000,)) for _ in range(1000)]
    reply = await list_executions(peer_of(*many), List())
    assert reply["truncated"]
    assert len(dumps(reply)) < FRAME_LIMIT
    ids = [each["execution_id"] for each in reply["executions"]]
    assert 300 < len(ids) < 1000
    assert ids == [each.id for each in reversed(many)][: len(ids)]


async def test_a_long_list_lets_others_have_their_turn():
    """It is told in steps."""
    many = [execution_of() for _ in range(3 * AT_ONCE)]
    steps = []

    async def count() -> None:
        while True:
            steps.append(1)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        reply = await list_executions(peer_of(*many), List())
        nursery.cancel_scope.cancel()
    assert [each["execution_id"] for each in reply["executions"]] == [each.id for each in reversed(many)]
    assert len(steps) >= 2


async def test_a_list_that_fits_is_not_truncated():
    """Asked for fewer, or where there are no more, it is whole."""
    few = [execution_of() for _ in range(3)]
    assert (await list_executions(peer_of(*few), List()))["truncated"] is False
    newest = list_executions(peer_of(*few), List(limit=1))
    assert [each["execution_id"] for each in newest["executions"]] == [few[-1].id]


async def test_a_list_tells_what_each_uses(tmp_path):
    """Of what runs and what was left running, not of what is over; its processes only where they are asked for."""
    async with running(tmp_path, leftovers="detach") as daemon, daemon.client() as one:
        over = await one.run("true")
        left = await one.run(command="sleep 1000 & true")
        tree = await one.execute("sh", "-c", "sleep 1000 & echo ready; wait")
        await tree.printed("ready")
        plain = {each["execution_id"]: each for each in (await one.request("list"))["executions"]}
        used = {each["execution_id"]: each for each in (await one.request("list", resources=True))["executions"]}
        drawn = {each["execution_id"]: each for each in (await one.request("list", tree=True))["executions"]}
        assert not any("process_count" in each for each in plain.values())
        assert {name: used[name].get("process_count") for name in used} == {over.id: None, left.id: 1, tree.id: 2}
        assert used[tree.id]["memory_bytes"] > 100_000
        assert used[tree.id]["cpu_seconds"] >= 0
        assert not any("processes" in each for each in used.values())
        assert [each["pid"] for each in drawn[left.id]["processes"]] == drawn[left.id]["leftovers"]
        assert [each["ppid"] for each in drawn[tree.id]["processes"]][1] == tree.pid
        assert drawn[tree.id].keys() - plain[tree.id].keys() == {
            *("cpu_seconds", "memory_bytes", "process_count", "processes"),
        }


async def test_a_history_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    """A list has what is in memory and says what it lacks; a name, or a key, is not taken for one that is not there."""
    monkeypatch.setattr("ccexecd.storage.history.BUSY", 0.01)
    somebody = sqlite3.connect(tmp_path / "history.db", isolation_level=None)
    somebody.execute("PRAGMA locking_mode = EXCLUSIVE")
    somebody.execute("BEGIN EXCLUSIVE")
    async with running(tmp_path) as daemon, daemon.client() as one:
        done = await one.run("true")
        reply = await one.request("list")
        assert [each["execution_id"] for each in reply["executions"]] == [done.id]
        assert reply["missing"].startswith("finished executions that have left the memory: the history cannot be read")
        assert "missing" not in await one.request("list", state="live")
        for method, params in (
            ("status", {"execution_id": "0" * 36}),
            ("execute", {"argv": ["true"], "idempotency_key": "k"}),
        ):
            with pytest.raises(RefusedError, match="-32015") as refused:
                await one.request(method, **params)
            assert refused.value.facts["retry_after"] > 0
        assert [each["execution_id"] for each in (await one.request("list"))["executions"]] == [done.id]
        daemon.errors.clear()
        somebody.close()


async def test_what_a_list_tells_of_processes_is_bounded(tmp_path, monkeypatch):
    """So many of each execution, and so many together; the count of an execution that was looked at is true."""
    monkeypatch.setattr(listing, "_LISTED", 2)
    monkeypatch.setattr(listing, "MEASURED", 4)
    async with running(tmp_path) as daemon, daemon.client() as one:
        for _ in range(3):
            execution = await one.execute("sh", "-c", "sleep 1000 & sleep 1000 & echo ready; wait")
            await execution.printed("ready")
        counts = [
            (each.get("process_count"), len(each.get("processes", [])))
            for each in (await one.request("list", tree=True))["executions"]
        ]
        assert counts == [(3, 2), (3, 2), (None, 0)]


async def test_secrets_of_a_command_line_are_not_told(tmp_path):
    """By `list`, `status` and `stop`, of what runs and of what is past, by what is known and by configuration."""
    argv = ["sh", "-c", "sleep 60", "--password", "hunter2", "ACME-777", "sk-ant-" + "x" * 40]
    async with running(tmp_path, redact=["ACME-[0-9]+"]) as daemon, daemon.client() as one:
        execution = await one.execute(*argv)
        hidden = [*argv[:4], REDACTED, REDACTED, REDACTED]
        [listed] = (await one.request("list"))["executions"]
        status = await one.request("status", execution_id=execution.id)
        assert listed["argv"] == status["argv"] == hidden
        stopped = await daemon.ask("stop", grace=0)
    for told in (listed["command"], status["command"], stopped["ended"][0]["command"]):
        assert "sleep 60" in told
        assert not [secret for secret in ("hunter2", "ACME-777", "x" * 40) if secret in told]
    async with running(tmp_path, redact=["ACME-[0-9]+"]) as daemon:
        assert (await daemon.ask("status", execution_id=execution.id))["argv"] == hidden
