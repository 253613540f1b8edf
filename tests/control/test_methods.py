"""What an operator can ask for besides executions."""

import os
import platform
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from ccexecd import __version__
from ccexecd.control.methods import operator_methods
from ccexecd.keys import FIELDS
from ccexecd.service.methods import EXECUTION_METHODS
from tests.e2e.client import RefusedError
from tests.in_process import LogStandIn, Running, children, running


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as one:
        yield one


async def refused(daemon: Running, method: str, **params: object) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        await daemon.ask(method, **params)
    return caught.value


async def test_everything_is_served_here(daemon):
    """The control socket has every method of the client's door, the operator's, and those about tokens and hooks."""
    served = set(operator_methods(daemon.daemon))
    tokens = {"token_show", "token_list", "token_add", "token_rotate", "token_revoke"}
    own = {"status", "health", "config", "version", "reload", "policy", "stop", "hook_test", "hook_run"}
    assert served == {*EXECUTION_METHODS, *tokens, *own}


@pytest.mark.parametrize("method", ["health", "config", "version", "reload"])
async def test_methods_without_params_take_none(daemon, method):
    """A param that is not known is refused with its name, so that a slip cannot pass for an option."""
    error = await refused(daemon, method, force=True)
    assert error.code == -32602
    assert "force" in error.facts[0]["error"]


@pytest.mark.parametrize("params", [{"drain": -1}, {"grace": "soon"}, {"drain": True}, {"now": True}])
async def test_stop_with_wrong_params_stops_nothing(daemon, params):
    """A stop that is not understood is refused before anything ends."""
    assert (await refused(daemon, "stop", **params)).code == -32602
    assert (await daemon.ask("health"))["status"] == "healthy"


async def test_version(daemon):
    """Versions of the daemon, its protocol and its Python."""
    assert await daemon.ask("version") == {
        "version": __version__,
        "protocol": "ccexec.v1",
        "python": platform.python_version(),
    }


class TestStatus:
    """What the daemon is, where, and what it is doing."""

    async def test_who_and_where(self, daemon, tmp_path):
        """Every field that names the daemon or a place of it."""
        status = await daemon.ask("status")
        host, port = daemon.address
        assert status["pid"] == os.getpid()
        assert status["version"] == __version__
        assert status["state"] == "running"
        assert status["address"] == f"{host}:{port}"
        assert status["addresses"] == [status["address"]]
        assert status["url"] == f"ws://{host}:{port}/ws/mcp"
        assert status["state_dir"] == str(tmp_path)
        assert status["control_socket"] == str(tmp_path / "control.sock")
        assert status["pidfile"] == str(tmp_path / "ccexecd.pid")
        assert status["config_file"] is None
        assert status["log_file"] is None
        assert [status["keeper"]["pid"]] == children()
        assert status["memory_bytes"] > 10_000_000

    async def test_files_are_named_where_there_are_some(self, tmp_path):
        """The configuration that was read, and the log that is written."""
        (tmp_path / "ccexecd.toml").write_text("max_sessions = 7\n")
        async with running(tmp_path, log=LogStandIn(tmp_path / "ccexecd.log")) as daemon:
            status = await daemon.ask("status")
            assert status["config_file"] == str(tmp_path / "ccexecd.toml")
            assert status["log_file"] == str(tmp_path / "ccexecd.log")
            assert status["max_sessions"] == 7

    async def test_since_when(self, daemon):
        """The start as ISO 8601 in UTC, and the seconds since, which grow."""
        status = await daemon.ask("status")
        started = datetime.fromisoformat(status["started_at"])
        assert started.tzinfo == UTC
        assert 0 < status["uptime_seconds"] < 60
        assert time.time() - started.timestamp() == pytest.approx(status["uptime_seconds"], abs=5)
        assert (await daemon.ask("status"))["uptime_seconds"] > status["uptime_seconds"]

    async def test_how_much(self, daemon):
        """Sessions, connections and executions are counted, and no longer when they have gone."""
        nothing = await daemon.ask("status")
        assert (nothing["sessions"], nothing["connections"]) == (0, 0)
        most = nothing["executions"].pop("max_running")
        assert nothing["executions"] == {
            "live": 0,
            "finished": 0,
            "total_started": 0,
            "running": 0,
            "queued": 0,
            "held": 0,
        }
        async with daemon.client() as one:
            await one.run("true")
            await one.execute("sleep", "60")
            some = await daemon.ask("status")
            assert (some["sessions"], some["connections"]) == (1, 1)
            assert some["executions"].pop("max_running") == most > 0
            assert some["executions"] == nothing["executions"] | {
                "live": 1,
                "finished": 1,
                "total_started": 2,
                "running": 1,
            }


async def test_health(daemon):
    """The same answer as at the client's door."""
    health = await daemon.ask("health")
    assert health.pop("uptime_seconds") > 0
    assert health == {
        "status": "healthy",
        "problems": [],
        "service": "ccexecd",
        "version": __version__,
        "active_sessions": 0,
        "max_sessions": 100,
        "live_executions": 0,
        "queued_executions": 0,
    }


async def test_config(tmp_path):
    """Every key with its value and where it comes from."""
    (tmp_path / "ccexecd.toml").write_text('max_sessions = 7\nallowed_hosts = ["example"]\n')
    async with running(tmp_path) as daemon:
        answer = await daemon.ask("config")
        assert set(answer["config"]) == set(answer["sources"]) == set(FIELDS)
        assert answer["config"]["max_sessions"] == 7
        assert answer["config"]["allowed_hosts"] == ["example"]
        assert answer["sources"]["max_sessions"] == f"file {tmp_path / 'ccexecd.toml'}"
        assert answer["sources"]["port"] == "flag --port"
        assert answer["sources"]["max_buffer_size"] == "default"


class TestReload:
    """All of the new configuration, or nothing of it."""

    async def test_a_good_one_is_in_force_at_once(self, tmp_path):
        """Changed keys are named and count from then on; those that need a restart are named and do not."""
        file = tmp_path / "ccexecd.toml"
        log = LogStandIn(tmp_path / "ccexecd.log")
        async with running(tmp_path, log=log) as daemon:
            file.write_text('max_sessions = 1\nlog_level = "debug"\nhost = "::1"\n')
            assert await daemon.ask("reload") == {"changed": ["log_level", "max_sessions"], "needs_restart": ["host"]}
            config = await daemon.ask("config")
            assert config["config"]["max_sessions"] == 1
            assert config["config"]["host"] == "127.0.0.1"
            assert (log.level, log.reopened) == ("debug", 1)
            assert (await daemon.ask("status"))["config_file"] == str(file)
            async with daemon.client() as one, daemon.client() as other:
                await one.run("true")
                with pytest.raises(RefusedError, match="session limit") as error:
                    await other.execute("true")
                assert error.value.code == -32001

    async def test_a_key_that_waits_for_a_restart_keeps_its_source(self, tmp_path):
        """`config` tells where the value in force comes from, not where the next one will."""
        async with running(tmp_path) as daemon:
            (tmp_path / "ccexecd.toml").write_text('host = "::1"\n')
            await daemon.ask("reload")
            answer = await daemon.ask("config")
            assert (answer["config"]["host"], answer["sources"]["host"]) == ("127.0.0.1", "default")
            assert (await daemon.ask("reload"))["needs_restart"] == ["host"]

    async def test_unchanged(self, daemon):
        """Nothing has changed, and that is said."""
        assert await daemon.ask("reload") == {"changed": [], "needs_restart": []}

    async def test_what_was_changed_and_is_gone_is_the_default_again(self, tmp_path):
        """A key that is taken out of the file has its default again."""
        file = tmp_path / "ccexecd.toml"
        file.write_text("max_sessions = 1\n")
        async with running(tmp_path) as daemon:
            file.unlink()
            assert await daemon.ask("reload") == {"changed": ["max_sessions"], "needs_restart": []}
            assert (await daemon.ask("health"))["max_sessions"] == 100

    async def test_what_runs_keeps_what_it_was_started_with(self, tmp_path):
        """An allow-list that comes later ends nothing."""
        async with running(tmp_path) as daemon, daemon.client() as one:
            execution = await one.execute("cat", stdin="open")
            (tmp_path / "ccexecd.toml").write_text('allowed_commands = ["true"]\n')
            assert (await daemon.ask("reload"))["changed"] == ["allowed_commands"]
            with pytest.raises(RefusedError, match="not allowed"):
                await one.execute("cat")
            await one.request("write_stdin", execution_id=execution.id, data="still here\n")
            await one.request("close_stdin", execution_id=execution.id)
            assert (await execution.completed())["exit_code"] == 0
            assert execution.stdout == "still here\n"

    async def test_a_bad_one_changes_nothing(self, tmp_path):
        """-32111 with key, source and what is allowed, for all that is wrong; the old one stays, the good part too."""
        file = tmp_path / "ccexecd.toml"
        file.write_text("max_sessions = 7\n")
        log = LogStandIn(tmp_path / "ccexecd.log")
        async with running(tmp_path, log=log) as daemon:
            before = await daemon.ask("config")
            file.write_text('max_sessions = 8\nmax_connections = 0\nmax_sesions = 9\nlog_level = "loud"\n')
            error = await refused(daemon, "reload")
            assert error.code == -32111
            assert {problem["path"]: problem["source"] for problem in error.facts} == dict.fromkeys(
                ("max_connections", "max_sesions", "log_level"), f"file {file}"
            )
            texts = {problem["path"]: problem["error"] for problem in error.facts}
            assert "from 1 to 100000" in texts["max_connections"]
            assert "did you mean max_sessions?" in texts["max_sesions"]
            assert "one of debug, info, warning, error, critical" in texts["log_level"]
            assert "the old one stays in force" in error.message
            assert all(name in error.message for name in texts)
            assert await daemon.ask("config") == before
            assert (log.level, log.reopened) == ("", 0)
            async with daemon.client() as one:
                assert (await one.run("echo", "fine")).stdout == "fine\n"

    @pytest.mark.parametrize("text", [b"max_sessions = ", b"\xff\xfe", b"a" * 100_000, b"[a]\n[a]\n"])
    async def test_a_file_that_is_no_toml_changes_nothing(self, tmp_path, text):
        """Half a file, as an editor may leave it for a moment, is named and not used."""
        async with running(tmp_path) as daemon:
            (tmp_path / "ccexecd.toml").write_bytes(text)
            error = await refused(daemon, "reload")
            assert error.code == -32111
            assert str(tmp_path / "ccexecd.toml") in error.facts[0]["source"]

    async def test_a_log_that_cannot_be_opened_changes_nothing(self, tmp_path):
        """Its directory has gone: the operator is told which file and why, and the configuration is the old one."""

        class Closed(LogStandIn):
            def reopen(self) -> None:
                self.path.parent.joinpath("missing", "ccexecd.log").touch()

        log = Closed(tmp_path / "ccexecd.log")
        async with running(tmp_path, log=log) as daemon:
            (tmp_path / "ccexecd.toml").write_text('max_sessions = 7\nlog_level = "debug"\n')
            error = await refused(daemon, "reload")
            assert error.code == -32111
            assert error.facts[0]["path"] == "log_file"
            assert str(log.path) in error.facts[0]["error"]
            assert "No such file or directory" in error.facts[0]["error"]
            assert (await daemon.ask("health"))["max_sessions"] == 100
            assert log.level == ""


class TestIds:
    """People may shorten."""

    async def test_the_beginning_of_an_id_is_enough(self, daemon):
        """Four characters or more that only one execution begins with name it, in every method."""
        async with daemon.operator() as one:
            execution = await one.execute("sleep", "60")
            short = execution.id[:6]
            assert (await one.request("status", execution_id=short))["execution_id"] == execution.id
            ended = await one.request("control", type="KILL", execution_id=short)
            assert (ended["status"], ended["execution_id"]) == ("killed", execution.id)
            assert (await one.request("wait", execution_id=short))["reason"] == "cancelled"

    @pytest.mark.parametrize("name", ["", "abc", "no-such-id"])
    async def test_too_short_or_unknown(self, daemon, name):
        """Less than four characters, or none that begins so: not found."""
        async with daemon.operator() as one:
            await one.execute("sleep", "60")
            assert (await refused(daemon, "status", execution_id=name)).code == -32003

    async def test_three_characters_of_the_right_id_are_too_few(self, daemon):
        """A slip of the finger must not end somebody's work."""
        async with daemon.operator() as one:
            execution = await one.execute("sleep", "60")
            assert (await refused(daemon, "control", type="KILL", execution_id=execution.id[:3])).code == -32003

    async def test_an_ambiguous_beginning_names_nobody(self, daemon, monkeypatch):
        """Two executions that begin alike: whoever is meant has to be named longer."""
        numbers = iter(range(10))
        monkeypatch.setattr("ccexecd.process.execution.uuid.uuid4", lambda: f"aaaa-{next(numbers)}")
        async with daemon.operator() as one:
            await one.execute("sleep", "60")
            await one.execute("sleep", "60")
            error = await refused(daemon, "status", execution_id="aaaa")
            assert (error.code, error.facts) == (-32014, {"executions": ["aaaa-1", "aaaa-2"]})
            assert (await daemon.ask("status", execution_id="aaaa-1"))["state"] == "RUNNING"


async def test_output_comes_raw_and_exact(daemon):
    """On this door output is what was written, at once and to the byte: half a line, and bytes that are no text."""
    async with daemon.operator() as one:
        execution = await one.execute(command="printf 'name? '; read x; printf '\\377\\376'", stdin="open")
        assert (await execution.printed("name? "))["offset"] == 0
        await one.request("write_stdin", execution_id=execution.id, data="x\n")
        await execution.completed()
        assert execution.output() == b"name? \xff\xfe"


async def test_an_idle_operator_is_let_go_when_its_session_ends(tmp_path):
    """A session without executions ends after session_timeout, and its connection with it."""
    async with running(tmp_path, session_timeout=0.2) as daemon, daemon.operator() as one:
        await one.run("true")
        assert await one.closed()
        with trio.fail_after(5):
            while (await daemon.ask("status"))["sessions"]:
                pass
