"""`estimate`, `history` and `stats`, and the time-outs that come of them."""

from types import SimpleNamespace

import pytest

from ccexecd.core.redaction import Redactor
from ccexecd.keys import Config
from ccexecd.protocol.timings import History
from ccexecd.service import timings
from tests.e2e.client import refused
from tests.e2e.daemon_process import eventually
from tests.in_process import Running, running


@pytest.fixture
async def daemon(tmp_path):
    """One whose machine counts as idle, and which waits for nothing."""
    async with running(tmp_path, estimate_multiplier=1.0, default_execution_timeout=500.0) as one:
        one.daemon._engine.records.estimates.load.measure = _nothing
        yield one


def configure(daemon: Running, **keys: object) -> None:
    """Have other keys in force."""
    engine, config = daemon.daemon._engine, Config(**keys)
    engine.reconfigure(config)
    engine.records.estimates.reconfigure(config)


async def _nothing() -> None:
    """Nobody looks."""


async def settled(daemon: Running) -> None:
    """Wait until the history knows what has finished."""
    archive = daemon.daemon._archive
    await eventually(lambda: archive.is_settled, "the history is written")


async def test_a_command_that_was_never_seen(client):
    """A generous guess with its reason, which ends nothing."""
    told = await client.request("estimate", argv=["make", "-j8"], cwd="/w")
    assert told["reason"] == "no runs to go by; for category build: builds from scratch take up to an hour"
    assert {name: told[name] for name in ("timeout", "stall_timeout", "based_on", "samples", "confidence")} == {
        "timeout": 3600.0,
        "stall_timeout": 1800.0,
        "based_on": "nothing",
        "samples": 0,
        "confidence": 0.0,
    }
    assert (told["multiplier"], told["acts"], told["category"], told["form"]) == (1.0, False, "build", "make -j")
    assert (await client.execute("true", estimate_timeout=True)).reply["timeout_source"] == "default"


async def test_what_was_seen_sets_a_time_out(daemon, client):
    """Five runs of the same command; where it is asked for, or configured; never where the request says one."""
    for _ in range(5):
        assert (await client.run(command="sleep 0.01; true", cwd="/tmp")).reply["timeout_source"] == "default"
    told = await client.request("estimate", command="sleep 0.01; true", cwd="/tmp")
    assert (told["samples"], told["based_on"], told["acts"]) == (5, "same command", True)
    assert 0.01 <= told["median"] <= told["quantile"] < told["timeout"] == 60.0
    assert told["reason"] == "5 runs of the same command in the same directory"
    estimated = (60.0, "estimated")
    for params, expected in (
        ({}, (500.0, "default")),
        ({"estimate_timeout": False}, (500.0, "default")),
        ({"estimate_timeout": True}, estimated),
        ({"timeout": None}, estimated),
        ({"timeout": None, "estimate_timeout": True}, estimated),
        ({"timeout": None, "estimate_timeout": False}, (500.0, "default")),
        ({"timeout": None, "cwd": "/"}, (500.0, "default")),
        ({"estimate_timeout": True, "timeout": 7}, (7.0, "request")),
        ({"estimate_timeout": True, "cwd": "/"}, (500.0, "default")),
    ):
        reply = (await client.run(**{"command": "sleep 0.01; true", "cwd": "/tmp", **params})).reply
        assert (reply["timeout"], reply["timeout_source"]) == expected, params
    configure(daemon, estimate_timeouts=True, estimate_floor=5.0, estimate_multiplier=1.0)
    for params, expected in (
        ({}, (5.0, "estimated")),
        ({"timeout": None}, (5.0, "estimated")),
        ({"estimate_timeout": False}, (None, "none")),
        ({"timeout": 0}, (0.0, "request")),
    ):
        reply = (await client.run(**{"command": "sleep 0.01; true", "cwd": "/tmp", **params})).reply
        assert (reply["timeout"], reply["timeout_source"]) == expected, params
    load = daemon.daemon._engine.records.estimates.load
    assert load._users == 0  # nothing runs: nobody looks at the machine any more
    running_one = await client.execute("sleep", "60")
    assert load._users == 1
    await running_one.control("KILL")


async def test_a_busy_machine_multiplies(daemon, client):
    """From the threshold on, by the configured number, told and done; not what was learnt on a busy machine."""
    configure(daemon, estimate_load=101.0)
    for _ in range(5):
        await client.run("true")
    configure(daemon, estimate_load=-1.0)
    for _ in range(5):
        await client.run("echo")
    for threshold, argv, multiplier in ((101.0, "true", 1.0), (-1.0, "true", 3.0), (-1.0, "echo", 1.0)):
        configure(daemon, estimate_load=threshold)
        told = await client.request("estimate", argv=[argv])
        assert (told["multiplier"], told["timeout"]) == (multiplier, 60.0 * multiplier)
        assert (await client.run(argv, estimate_timeout=True)).reply["timeout"] == 60.0 * multiplier
    assert (await client.request("estimate", argv=["make"]))["multiplier"] == 3.0


async def test_what_hangs_is_ended_and_teaches_no_longer_time_out(daemon, client):
    """It is ended by what its other runs took, and what comes behind it is ended as soon."""
    configure(daemon, estimate_timeouts=True, estimate_floor=1.0, estimate_multiplier=1.0)
    await daemon.ask("list")
    flag = daemon.directory / "hang"
    command = f"test -e {flag} && exec sleep 60; true"
    for _ in range(5):
        await client.run(command=command)
    flag.touch()
    for _ in range(2):
        hung = await client.run(command=command)
        assert (hung.reply["timeout"], (await hung.completed())["reason"]) == (1.0, "timeout")
    told = await client.request("estimate", command=command)
    assert (told["samples"], told["censored"], told["timeout"]) == (5, 2, 1.0)


async def test_an_agent_that_was_cut_off_does_not_count_as_done(daemon, client):
    """It ends with exit code 0, and without a result: it took at least that long, now and for the next daemon."""
    told = '{"type":"system","subtype":"init","session_id":"s"}'
    result = '{"type":"result","subtype":"success","is_error":false,"result":"4","session_id":"s"}'
    for lines in (told, f"{told}\n{result}"):
        for _ in range(3):
            await client.run("printf", "%s\n", lines, agent="claude")
    await settled(daemon)
    (group,) = (await client.request("stats"))["groups"]
    assert (group["runs"], group["complete"]) == (6, 3)
    cut_off = await client.request("estimate", argv=["printf", "%s\n", told], cwd=None)
    assert (cut_off["samples"], cut_off["censored"], cut_off["based_on"]) == (3, 3, "same program")


async def test_pauses_are_not_counted(daemon, client):
    """Neither by the time-out nor by what is learnt."""
    execution = await client.execute("sleep", "0.3")
    await execution.control("PAUSE")
    await settled(daemon)
    await execution.control("RESUME")
    await execution.completed()
    await settled(daemon)
    (known,) = (await client.request("history"))["executions"]
    assert known["active_seconds"] <= known["duration"]
    assert known["active_seconds"] < 5


async def test_history(daemon, client):
    """What has finished, newest first, page by page; the caller's own."""
    ran = [await client.run("true") for _ in range(3)] + [await client.run("sh", "-c", "exit 3")]
    await settled(daemon)
    first = await client.request("history", limit=3)
    assert [each["execution_id"] for each in first["executions"]] == [each.id for each in reversed(ran)][:3]
    newest = first["executions"][0]
    assert (newest["reason"], newest["exit_code"], newest["command"]) == ("exited", 3, "sh -c 'exit 3'")
    assert (newest["timeout_source"], 0 <= newest["load"] <= 100) == ("default", True)
    rest = await client.request("history", limit=3, before=first["before"])
    assert [each["execution_id"] for each in rest["executions"]] == [ran[0].id]
    assert (await client.request("history", before=rest["before"]))["executions"] == []
    assert len((await client.request("history", program="true", since=60))["executions"]) == 3
    for params, path in (({"limit": 0}, "$.limit"), ({"limit": 10_001}, "$.limit"), ({"category": "x"}, "$.category")):
        error = await refused(client, "history", **params)
        assert (error.code, error.facts[0]["path"]) == (-32602, path)


async def test_secrets_are_not_told(daemon, client):
    """What log and audit leave out of a command is left out here, too."""
    await client.run("echo", "--password=hunter2", "sk-ant-0123456789abcdef")
    await settled(daemon)
    (told,) = (await client.request("history"))["executions"]
    assert told["command"] == "echo --password=[redacted] [redacted]"
    assert "hunter2" not in repr(await client.request("stats", by="form"))


async def test_stats(daemon, client):
    """Percentiles by program, category or form."""
    for _ in range(3):
        await client.run("true")
    await client.run("false")
    await settled(daemon)
    told = await client.request("stats")
    assert told["by"] == "program"
    assert [(each["name"], each["runs"], each["complete"]) for each in told["groups"]] == [
        ("true", 3, 3),
        ("false", 1, 0),
    ]
    (group,) = (await client.request("stats", by="category", since=60))["groups"]
    assert (group["name"], group["runs"]) == ("brief", 4)
    assert 0 < group["p50"] <= group["p95"] <= group["longest"]
    assert (await client.request("stats", category="agent"))["groups"] == []


async def test_nobody_is_told_of_others(daemon, client):
    """Neither in a list, nor in a percentile, nor by an estimate; who may see all is told of all but estimates."""
    for _ in range(5):
        await client.run("true")
    await settled(daemon)
    token = (await daemon.ask("token_add", name="ci", scopes=["execute"]))["token"]
    async with daemon.client(token=token) as other:
        assert (await other.request("history"))["executions"] == []
        assert (await other.request("stats"))["groups"] == []
        assert (await other.request("estimate", argv=["true"]))["samples"] == 0
        await other.run("true")
        await settled(daemon)
        assert len((await other.request("history"))["executions"]) == 1
    assert len((await client.request("history"))["executions"]) == 6
    assert (await client.request("estimate", argv=["true"]))["samples"] == 5


@pytest.mark.parametrize(
    "params", [{}, {"command": " "}, {"argv": []}, {"argv": [""]}, {"command": "a", "argv": ["b"]}]
)
async def test_what_is_no_command_is_refused(client, params):
    """With the path."""
    assert (await refused(client, "estimate", **params)).code == -32602


async def test_a_reply_is_no_larger_than_a_frame():
    """What does not fit is left out, and the reply says where it goes on."""
    rows = [{"number": number, "command": "x" * 1000, "program": "x", "form": None} for number in range(3000, 0, -1)]

    async def past(_):
        return rows

    engine = SimpleNamespace(records=SimpleNamespace(estimates=SimpleNamespace(past=past)))
    engine.gate = SimpleNamespace(redactor=Redactor())
    peer = SimpleNamespace(engine=engine, principal=SimpleNamespace(sees_only=None))
    told = await timings.history(peer, History(limit=3000))
    assert told["truncated"]
    assert told["before"] == told["executions"][-1]["number"]
    assert 900 < len(told["executions"]) < 1024
