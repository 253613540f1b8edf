"""How much of the daemon one principal may take: at both doors, over real sockets."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from ccexecd.keys import Config
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.rates import Rates
from tests.e2e.client import PATIENCE, RefusedError
from tests.in_process import Running, running

SLOW = 0.0001
"""A rate at which nothing flows in as long as a test runs: what there is, is the one of the burst."""


def test_each_kind_is_counted_by_itself():
    """A handshake is no request, and an execution is both a call and an execution."""
    rates = Rates(Config(handshake_rate=0.1, request_rate=0.3, execution_rate=0.1), clock=lambda: 0.0)
    assert rates.handshake("a") == 0.0
    assert rates.handshake("a") == 10.0
    rates.call("a", "execute")
    with pytest.raises(RPCError, match="too many executions") as refused:
        rates.call("a", "execute")
    assert refused.value.data == {"retry_after": 10.0}
    rates.call("a", "list")
    with pytest.raises(RPCError, match="too many requests"):
        rates.call("a", "list")
    rates.call("b", "list")


async def post(daemon: Running, body: dict[str, Any]) -> tuple[int, bytes]:
    text = json.dumps(body).encode()
    head = b"POST /execute HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(text)
    async with await daemon.dial() as stream:
        await stream.send_all(head + text)
        received = b""
        with trio.fail_after(PATIENCE):
            while data := await stream.receive_some():
                received += data
    return int(received.split()[1]), received


async def token_of(daemon: Running, name: str, scope: str = "execute") -> str:
    return (await daemon.ask("token_add", name=name, scopes=[scope]))["token"]


class TestRequests:
    """Calls and requests over HTTP."""

    async def test_one_call_too_many(self, tmp_path: Path):
        """It is -32008 with the time to wait, and nothing of it is done; another principal goes on."""
        async with running(tmp_path, request_rate=SLOW) as daemon:
            token = await token_of(daemon, "ci")
            async with daemon.client(token=token) as one, daemon.client() as other:
                await one.request("list")
                with pytest.raises(RefusedError, match="too many requests of this principal") as refused:
                    await one.request("execute", argv=["true"])
                assert refused.value.code == -32008
                assert refused.value.facts["retry_after"] > 1000
                assert (await other.request("list"))["executions"] == []

    async def test_connections_of_one_principal_share_it(self, tmp_path: Path):
        """Opening another connection helps nobody."""
        async with running(tmp_path, request_rate=SLOW) as daemon:
            token = await token_of(daemon, "ci")
            async with daemon.client(token=token) as one, daemon.client(token=token) as two:
                await one.request("list")
                with pytest.raises(RefusedError, match="-32008"):
                    await two.request("list")

    async def test_one_http_request_too_many(self, tmp_path: Path):
        """It is 429, with the time to wait in the header."""
        async with running(tmp_path, request_rate=SLOW) as daemon:
            assert (await post(daemon, {"argv": ["true"]}))[0] == 200
            status, answer = await post(daemon, {"argv": ["true"]})
            assert status == 429
            assert b"\r\nRetry-After: " in answer
            assert daemon.daemon._engine.started_total == 1
            assert daemon.daemon._refusals.counts["rate"] == 1

    async def test_the_operator_is_not_held_up(self, tmp_path: Path):
        """Whatever its user does on the port: status and stop get through on the control socket."""
        async with running(tmp_path, request_rate=SLOW) as daemon:
            async with daemon.client() as one:
                await one.request("list")
                with pytest.raises(RefusedError, match="-32008"):
                    await one.request("list")
            for _ in range(5):
                assert (await daemon.ask("status"))["state"] == "running"


class TestExecutions:
    """What is started."""

    async def test_one_execution_too_many(self, tmp_path: Path):
        """It is -32008, and other calls go on."""
        async with running(tmp_path, execution_rate=SLOW) as daemon, daemon.client() as one:
            await one.run("true")
            with pytest.raises(RefusedError, match="too many executions") as refused:
                await one.request("execute", argv=["true"])
            assert refused.value.code == -32008
            assert len((await one.request("list"))["executions"]) == 1

    async def test_one_over_http_too_many(self, tmp_path: Path):
        """A list counts for as many as are in it."""
        async with running(tmp_path, execution_rate=0.2) as daemon:
            steps = [{"argv": ["true"]}, {"argv": ["true"]}]
            assert (await post(daemon, {"tasks": steps}))[0] == 200
            status, answer = await post(daemon, {"argv": ["true"]})
            assert (status, b"too many executions" in answer) == (429, True)
            assert daemon.daemon._engine.started_total == 2

    async def test_what_is_refused_for_its_params_is_not_answered_429(self, tmp_path: Path):
        """A request that could never be served says what is wrong with it."""
        async with running(tmp_path, execution_rate=SLOW) as daemon:
            for _ in range(3):
                assert (await post(daemon, {"command": ""}))[0] == 400


class TestHandshakes:
    """Opening WebSockets."""

    async def test_one_too_many(self, tmp_path: Path):
        """It is 429; the connection that there is goes on."""
        async with (
            running(tmp_path, handshake_rate=SLOW) as daemon,
            daemon.client() as one,
            await daemon.dial() as stream,
        ):
            await stream.send_all(b"GET /ws/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with trio.fail_after(PATIENCE):
                assert await stream.receive_some(12) == b"HTTP/1.1 429"
            assert (await one.request("list"))["executions"] == []


async def test_a_reload_changes_the_rates(tmp_path: Path):
    """They count from then on, for connections that are open, too; 0 is no limit."""
    async with running(tmp_path) as daemon, daemon.client() as one:
        (tmp_path / "ccexecd.toml").write_text(f"request_rate = {SLOW}\n")
        assert (await daemon.ask("reload"))["changed"] == ["request_rate"]
        await one.request("list")
        with pytest.raises(RefusedError, match="-32008"):
            await one.request("list")
        (tmp_path / "ccexecd.toml").write_text("request_rate = 0\n")
        await daemon.ask("reload")
        for _ in range(50):
            await one.request("list")
