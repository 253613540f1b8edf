"""What waited when a daemon died: held by the next one, run when somebody says so, and not otherwise."""

from pathlib import Path

import pytest

from tests.e2e.client import RefusedError, connect
from tests.e2e.daemon_process import Daemon
from tests.in_process import running

LANES = {"max_running": 1, "lanes": ["builds=1"]}


@pytest.fixture
async def left(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The state directory of a daemon that was killed while four waited, and their ids by their labels."""
    daemon = Daemon(tmp_path, max_running=1, lanes="builds=1")
    names = {}
    try:
        async with connect(daemon.address) as one:
            await one.execute("sleep", "300")
            for name, more in (
                ("first", {"env": {"TOKEN": "hush"}, "idempotency_key": "once"}),
                ("lane", {"lane": "builds", "on_disconnect": "cancel"}),
                ("urgent", {"priority": 5}),
                ("dropped", {}),
            ):
                program = ["sh", "-c", f"echo {name} $TOKEN; echo {name} >> {tmp_path}/ran"]
                told = await one.request("execute", argv=program, labels={"name": name}, **more)
                assert told["status"] == "queued"
                names[name] = told["execution_id"]
            daemon.kill()
            await one.cut()
    finally:
        daemon.kill()
    return tmp_path, names


async def ran(directory: Path) -> list[str]:
    """Which programs have run."""
    path = directory / "ran"
    return path.read_text().split() if path.exists() else []


async def test_what_waited_is_held_until_it_is_released(left):
    """Under its own id, for its own principal, with all that was asked for; nothing of it begins by itself."""
    directory, names = left
    async with running(directory, **LANES) as daemon, daemon.client() as one:
        listed = (await one.request("list", state="HELD"))["executions"]
        assert {each["execution_id"] for each in listed} == set(names.values())
        assert {(each["state"], each["queue_position"], each["started_at"]) for each in listed} == {
            ("HELD", None, None)
        }
        assert (await daemon.ask("status"))["executions"]["held"] == 4
        again = await one.request(
            "execute",
            argv=["sh", "-c", f"echo first $TOKEN; echo first >> {directory}/ran"],
            labels={"name": "first"},
            env={"TOKEN": "another"},
            idempotency_key="once",
        )
        assert (again["status"], again["execution_id"]) == ("held", names["first"])
        for kind, more in (("PAUSE", {}), ("SIGNAL", {"signal": "INT"})):
            with pytest.raises(RefusedError, match="-32005"):
                await one.request("control", execution_id=names["first"], type=kind, **more)
        assert await daemon.ask("drop", execution_id=names["dropped"][:8]) == {"dropped": 1, "still_held": 0}
        assert await one.request("release", execution_id=names["lane"]) == {"released": 1, "still_held": 0}
        assert (await one.request("wait", execution_id=names["lane"]))["exit_code"] == 0
        with pytest.raises(RefusedError, match=r"-32005.*FINISHED, not held"):
            await one.request("release", execution_id=names["lane"])
        assert await ran(directory) == ["lane"]
    async with running(directory, **LANES) as daemon:  # a stop in between, and still nothing begins by itself
        assert {each["labels"]["name"] for each in (await daemon.ask("list", state="live"))["executions"]} == {
            "first",
            "urgent",
        }
        blocker = await daemon.ask("execute", argv=["sleep", "300"], on_disconnect="detach")
        assert await daemon.ask("release", all=True) == {"released": 2, "still_held": 0}
        told = [(await daemon.ask("status", execution_id=names[name])) for name in ("urgent", "first")]
        assert [(each["state"], each["queue_position"]) for each in told] == [("QUEUED", 1), ("QUEUED", 2)]
        await daemon.ask("control", execution_id=blocker["execution_id"], type="KILL")
        for name in ("urgent", "first"):
            assert (await daemon.ask("wait", execution_id=names[name]))["exit_code"] == 0
        output = await daemon.ask("read_output", execution_id=names["first"])
        assert [chunk["data"] for chunk in output["chunks"]] == ["first hush\n"]
        assert output["oldest_seq"] > 1
        session = {(await daemon.ask("status", execution_id=names[name]))["session_id"] for name in names}
        assert len(session) == 1
        assert (await daemon.ask("status", execution_id=names["dropped"]))["reason"] == "cancelled"
        assert await ran(directory) == ["lane", "urgent", "first"]
        assert (directory / "waiting").read_bytes() == b""


async def test_what_is_held_is_judged_anew(left):
    """By the rules, lanes and scopes of now; what may not run any more stays held, with the reason on record."""
    directory, names = left
    async with running(directory, allowed_commands=["true"]) as daemon:
        with pytest.raises(RefusedError, match="-32002"):
            await daemon.ask("release", execution_id=names["first"])
        with pytest.raises(RefusedError, match="-32002: there is no lane 'builds' any more"):
            await daemon.ask("release", execution_id=names["lane"])
        assert await daemon.ask("release", all=True) == {"released": 0, "still_held": 4}
        token = (await daemon.ask("token_add", name="ci", scopes=["execute"]))["token"]
        async with daemon.client(token=token) as other:
            with pytest.raises(RefusedError, match="-32003"):
                await other.request("release", execution_id=names["first"])
            assert await other.request("drop", all=True) == {"dropped": 0, "still_held": 0}
            for wrong in ({}, {"all": True, "execution_id": "x"}):
                with pytest.raises(RefusedError, match="-32602"):
                    await other.request("release", **wrong)
        assert await daemon.ask("drop", all=True) == {"dropped": 4, "still_held": 0}
    assert "hush" not in "".join(path.read_text() for path in (directory / "audit").iterdir())


async def test_what_cannot_be_read_any_more_is_lost(left):
    """Nobody waits for what can never run; a line of one that has finished is blanked."""
    directory, names = left
    queue_file = directory / "waiting"
    lines = {line.split()[0].decode(): line for line in queue_file.read_bytes().splitlines(keepends=True)}
    queue_file.write_bytes(lines[names["first"]] + b"%s {}\n" % names["urgent"].encode())
    async with running(directory) as daemon:
        for name in ("urgent", "lane", "dropped"):
            assert (await daemon.ask("status", execution_id=names[name]))["reason"] == "lost"
        await daemon.ask("drop", all=True)
    queue_file.write_bytes(lines[names["first"]])
    async with running(directory) as daemon:
        assert (await daemon.ask("status", execution_id=names["first"]))["reason"] == "cancelled"
        assert queue_file.read_bytes() == b""
