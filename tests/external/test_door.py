"""The port as a whole: who is let in, what a reload changes, and how everybody is seen off."""

import base64
import json
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd.external import door
from tests.e2e.client import PATIENCE, RefusedError
from tests.e2e.daemon_process import eventually
from tests.e2e.frames import TEXT, RawSocket, call
from tests.in_process import Running, descriptors, running

HEALTH = b"GET /health HTTP/1.1\r\nHost: %s\r\n\r\n"


def post(body: bytes) -> bytes:
    return b"POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def health(stream: trio.SocketStream, host: bytes = b"localhost") -> tuple[int, Any]:
    """Ask on a connection that stays open."""
    await stream.send_all(HEALTH % host)
    received = b""
    with trio.fail_after(PATIENCE):
        while not received.endswith(b"}\n"):
            data = await stream.receive_some()
            assert data, received
            received += data
    return int(received.split()[1]), json.loads(received.partition(b"\r\n\r\n")[2])


class TestReload:
    """What a reload changes counts for what comes."""

    async def test_a_host_may_be_added(self, tmp_path):
        """`allowed_hosts` counts for the next request, even on a connection that is open."""
        async with running(tmp_path) as daemon:
            (tmp_path / "ccexecd.toml").write_text('allowed_hosts = ["Build.Example"]\n')
            async with await daemon.dial() as one, await daemon.dial() as other:
                assert (await health(one, b"build.example:8003"))[0] == 403
                assert (await health(other))[0] == 200
                await daemon.ask("reload")
                assert (await health(other, b"build.example:8003"))[0] == 200

    async def test_the_number_of_connections_may_be_changed(self, tmp_path):
        """`max_connections` counts for the next connection; those that are open stay."""
        async with running(tmp_path) as daemon, await daemon.dial() as first, await daemon.dial() as second:
            assert (await health(first))[0] == (await health(second))[0] == 200
            (tmp_path / "ccexecd.toml").write_text("max_connections = 2\n")
            await daemon.ask("reload")
            async with await daemon.dial() as third:
                assert await third.receive_some(12) == b"HTTP/1.1 503"
            assert (await health(first))[0] == 200
            await first.aclose()
            await eventually(lambda: daemon.daemon._door.open_connections == 1, "the first has gone")
            async with await daemon.dial() as third:
                assert (await health(third))[0] == 200

    async def test_the_size_of_messages_may_be_changed(self, tmp_path):
        """`ws_max_size` counts for the next WebSocket."""
        async with running(tmp_path) as daemon, daemon.client() as old:
            (tmp_path / "ccexecd.toml").write_text("ws_max_size = 2000\n")
            await daemon.ask("reload")
            assert not (await old.request("list", label="x" * 3000))["executions"]
            async with daemon.client() as new:
                assert new.greeting["limits"]["max_message_bytes"] == 2000
                await new.ask("list", label="x" * 3000)
                assert await new.closed() == 1009


def handshake(origin: str, token: str) -> bytes:
    """What a browser sends for `new WebSocket(url, ["ccexec.v1", "bearer." + token])` on a page of that origin."""
    return (
        f"GET /ws/mcp HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Protocol: ccexec.v1, bearer.{token}\r\n\r\n"
    ).encode()


async def head_of(daemon: Running, request: bytes) -> bytes:
    """The head of the answer to a request."""
    async with await daemon.dial() as stream:
        await stream.send_all(request)
        received = b""
        with trio.fail_after(PATIENCE):
            while b"\r\n\r\n" not in received:
                data = await stream.receive_some()
                assert data, received
                received += data
    return received.partition(b"\r\n\r\n")[0]


class TestPages:
    """Web pages: refused, unless their origin is listed."""

    async def test_a_listed_page_opens_a_websocket(self, tmp_path):
        """By its token, as a subprotocol, plain or in base64url; what is selected is the protocol, never the token."""
        async with running(tmp_path, allowed_origins=["https://CI.example"]) as daemon:
            token = (await daemon.ask("token_add", name="page", scopes=["observe"]))["token"]
            encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
            for shown in (token, encoded):
                head = await head_of(daemon, handshake("https://ci.example", shown))
                assert head.startswith(b"HTTP/1.1 101")
                assert b"Sec-WebSocket-Protocol: ccexec.v1" in head.replace(b"sec-websocket-p", b"Sec-WebSocket-P")
                assert b"bearer" not in head
            assert (await head_of(daemon, handshake("https://ci.example", "wrong"))).startswith(b"HTTP/1.1 401")
            assert (await head_of(daemon, handshake("https://evil.example", token))).startswith(b"HTTP/1.1 403")

    async def test_a_reload_lists_another(self, tmp_path):
        """It counts for the next request."""
        async with running(tmp_path) as daemon:
            token = (await daemon.ask("token_show"))["token"]
            assert (await head_of(daemon, handshake("https://ci.example", token))).startswith(b"HTTP/1.1 403")
            (tmp_path / "ccexecd.toml").write_text('allowed_origins = ["https://ci.example"]\n')
            await daemon.ask("reload")
            assert (await head_of(daemon, handshake("https://ci.example", token))).startswith(b"HTTP/1.1 101")

    async def test_every_refusal_has_its_name(self, tmp_path):
        """What a drive-by tries is counted by reason: for a metrics page, and so that the log tells each once."""
        tries = {
            "no_host": [b"X: y"],
            "two_hosts": [b"Host: localhost", b"Host: localhost"],
            "foreign_host": [b"Host: rebound.example"],
            "foreign_origin": [b"Host: localhost", b"Origin: https://evil.example"],
            "null_origin": [b"Host: localhost", b"Origin: null"],
            "wrong_token": [b"Host: localhost", b"Authorization: Bearer wrong"],
        }
        async with running(tmp_path) as daemon:
            for reason, lines in tries.items():
                head = await head_of(daemon, b"\r\n".join([b"GET /execute HTTP/1.1", *lines, b"", b""]))
                status = {"no_host": b"400", "two_hosts": b"400", "wrong_token": b"401"}.get(reason, b"403")
                assert head.split()[1] == status, reason
            assert daemon.daemon._refusals.counts == dict.fromkeys(tries, 1)


async def drain(daemon: Running, nursery: trio.Nursery, seconds: float = PATIENCE) -> None:
    """Tell it to end as soon as what runs has finished, and wait until it has begun to."""
    nursery.start_soon(daemon.daemon.stop, seconds, None)
    await eventually(lambda: daemon.daemon._engine.draining, "it drains")


class TestDraining:
    """A daemon that is going to end lets nobody in and nothing new begin; what runs is served as before."""

    async def test_clients_are_told_until_when(self, tmp_path):
        """Everybody gets `server.draining` with the moment at which all will have ended, at the latest."""
        async with running(tmp_path) as daemon, daemon.client() as one, daemon.client() as other:
            execution = await one.execute("cat", stdin="open", grace=7)
            asked = datetime.now(UTC)
            async with trio.open_nursery() as nursery:
                await drain(daemon, nursery, 20)
                for client in (one, other):
                    deadline = datetime.fromisoformat((await client.notification("server.draining"))["deadline"])
                    assert 27 <= (deadline - asked).total_seconds() < 27 + PATIENCE
                await one.request("close_stdin", execution_id=execution.id)

    async def test_the_grace_of_the_stop_counts_in_it(self, tmp_path):
        """A stop that gives executions more time than they asked for says so."""
        async with running(tmp_path) as daemon, daemon.client() as one, trio.open_nursery() as nursery:
            execution = await one.execute(command="trap '' TERM; echo ready; read; exit 0", stdin="open", grace=1)
            await execution.printed("ready")
            asked = datetime.now(UTC)
            nursery.start_soon(daemon.daemon.stop, 0.0, 40.0)
            deadline = datetime.fromisoformat((await one.notification("server.draining"))["deadline"])
            assert 40 <= (deadline - asked).total_seconds() < 40 + PATIENCE
            await one.request("close_stdin", execution_id=execution.id)

    async def test_it_can_be_reloaded(self, tmp_path):
        """A daemon that no longer listens still takes another configuration."""
        async with running(tmp_path) as daemon, daemon.client() as one, trio.open_nursery() as nursery:
            execution = await one.execute("cat", stdin="open")
            await drain(daemon, nursery)
            await eventually(lambda: not daemon.daemon._door._acceptor.listeners[0].socket.fileno() >= 0, "it is shut")
            (tmp_path / "ccexecd.toml").write_text("max_sessions = 7\n")
            assert (await daemon.ask("reload"))["changed"] == ["max_sessions"]
            await one.request("close_stdin", execution_id=execution.id)

    async def test_nobody_is_let_in(self, tmp_path):
        """New connections are refused by the kernel, so that a balancer looks elsewhere."""
        async with running(tmp_path) as daemon, daemon.client() as one, trio.open_nursery() as nursery:
            execution = await one.execute("cat", stdin="open")
            await drain(daemon, nursery)
            await eventually(lambda: not daemon.daemon._door._acceptor.listeners[0].socket.fileno() >= 0, "it is shut")
            with pytest.raises(OSError, match="failed"):
                await trio.open_tcp_stream(*daemon.address)
            await one.request("close_stdin", execution_id=execution.id)

    async def test_nothing_new_begins(self, tmp_path):
        """-32010 on every WebSocket, 503 over HTTP, where a connection is still open."""
        async with (
            running(tmp_path) as daemon,
            daemon.client() as one,
            daemon.client() as other,
            await daemon.dial() as plain,
            trio.open_nursery() as nursery,
        ):
            assert (await health(plain))[0] == 200
            execution = await one.execute("cat", stdin="open")
            await drain(daemon, nursery)
            for client in (one, other):
                with pytest.raises(RefusedError) as refused:
                    await client.execute("true")
                assert refused.value.code == -32010
            await plain.send_all(post(b'{"command": "true"}'))
            assert (await plain.receive_some(65536)).startswith(b"HTTP/1.1 503 ")
            await one.request("close_stdin", execution_id=execution.id)

    async def test_health_checks_fail(self, tmp_path):
        """503 and `draining`, where a connection is still open."""
        async with running(tmp_path) as daemon, daemon.client() as one, await daemon.dial() as plain:
            assert (await health(plain))[1]["status"] == "healthy"
            async with trio.open_nursery() as nursery:
                execution = await one.execute("cat", stdin="open")
                await drain(daemon, nursery)
                status, body = await health(plain)
                assert (status, body["status"], body["live_executions"]) == (503, "draining", 1)
                await plain.aclose()
                await one.request("close_stdin", execution_id=execution.id)

    async def test_what_runs_is_served_as_before(self, tmp_path):
        """Input, output, control and questions: nothing of it stops."""
        async with running(tmp_path) as daemon, daemon.client() as one, trio.open_nursery() as nursery:
            execution = await one.execute("cat", stdin="open")
            await drain(daemon, nursery)
            await one.request("write_stdin", execution_id=execution.id, data="still\n")
            await execution.printed("still")
            assert (await execution.control("PAUSE"))["status"] == "paused"
            assert (await execution.control("RESUME"))["status"] == "resumed"
            assert (await one.request("list"))["executions"][0]["state"] == "RUNNING"
            await one.request("close_stdin", execution_id=execution.id)
            assert (await execution.completed())["reason"] == "exited"
            assert await one.closed() == 1001


class TestFarewell:
    """Everybody gets the last of what is theirs, then 1001, and nobody holds up the end."""

    async def test_the_end_comes_before_the_goodbye(self, tmp_path):
        """`process.completed` with its last output, then the close with 1001, at every client that watches."""
        async with running(tmp_path) as daemon, daemon.client() as one, daemon.client() as other:
            command = "trap 'echo last words; exit 5' TERM; echo ready; while :; do read -t 0.01; done"
            execution = await one.execute(command=command)
            await execution.printed("ready")
            await other.request("attach", execution_id=execution.id, from_seq=0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon.daemon.stop, 0.0, 5.0)
                for client in (one, other):
                    assert (await client.notification("process.completed"))["exit_code"] == 5
                    assert await client.closed() == 1001
                    assert client.received[-1]["method"] == "process.completed"
                    assert client.received[-2]["params"]["data"] == "last words\n"

    async def test_a_client_that_is_behind_gets_it_too(self, tmp_path):
        """Megabytes that wait for a client that reads are waited for."""
        async with running(tmp_path) as daemon:
            one = await RawSocket.open(daemon.address, receive_buffer=4096)
            async with one.stream, trio.open_nursery() as nursery:
                await one.send(call("execute", command="seq -f '%020.0f' 1 100000; exec sleep 60"))
                engine = daemon.daemon._engine
                await eventually(lambda: written(daemon) == 100_000 * 21, "all is written")
                nursery.start_soon(daemon.daemon.stop, 0.0, 0.0)
                await eventually(lambda: not engine.live, "it has ended")
                received, code = b"", None
                while (frame := await one.receive()) is not None:
                    received, code = (received + frame[1], code) if frame[0] == TEXT else (received, frame[1][:2])
            assert received.count(b"process.output") > 10
            assert received.count(b"process.completed") == 1
            assert code == (1001).to_bytes(2)

    async def test_a_client_that_takes_nothing_holds_nobody_up(self, tmp_path, monkeypatch):
        """It gets its bounded time, and is left; another one gets everything meanwhile."""
        monkeypatch.setattr(door, "FLUSH", 0.3)
        async with running(tmp_path) as daemon, daemon.client() as other:
            one = await RawSocket.open(daemon.address, receive_buffer=4096)
            async with one.stream:
                await one.send(call("execute", command="yes"))
                await eventually(lambda: any(each._writer._blocked for each in connections(daemon)), "it is stuck")
                execution = await other.execute("sleep", "60")
                asked = trio.current_time()
                await daemon.daemon.stop(0.0, 0.0)
                assert trio.current_time() - asked < 2
            assert (await execution.completed())["reason"] == "shutdown"
            assert await other.closed() == 1001

    async def test_a_client_that_does_not_answer_the_close_holds_nobody_up(self, tmp_path, monkeypatch):
        """Its half of the close handshake is not waited for longer than for the rest."""
        monkeypatch.setattr(door, "FLUSH", 0.3)
        async with running(tmp_path) as daemon:
            one = await RawSocket.open(daemon.address)
            async with one.stream:
                await eventually(lambda: connections(daemon), "it is open")
                asked = trio.current_time()
                await daemon.daemon.stop(0.0, 0.0)
                assert trio.current_time() - asked < 2
                assert await one.close_code() == 1001

    async def test_an_idle_connection_holds_nobody_up(self, tmp_path, monkeypatch):
        """A health checker that keeps its connection open between two questions is just closed."""
        monkeypatch.setattr(door, "FLUSH", 0.3)
        async with running(tmp_path) as daemon, await daemon.dial() as plain, await daemon.dial() as silent:
            assert (await health(plain))[0] == 200
            asked = trio.current_time()
            await daemon.daemon.stop(0.0, 0.0)
            assert trio.current_time() - asked < 2
            with trio.fail_after(PATIENCE):
                assert await plain.receive_some() == await silent.receive_some() == b""

    async def test_an_exchange_over_http_gets_its_answer(self, tmp_path):
        """Whoever waits for a command over HTTP hears how it ended."""
        async with running(tmp_path) as daemon, await daemon.dial() as plain:
            await plain.send_all(post(b'{"command": "echo begun; exec sleep 60"}'))
            await eventually(lambda: written(daemon) == 6, "it runs")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon.daemon.stop, 0.0, 0.0)
                received = b""
                with trio.fail_after(PATIENCE):
                    while data := await plain.receive_some():
                        received += data
            assert received.startswith(b"HTTP/1.1 200 ")
            assert b'"reason":"shutdown"' in received
            assert rb'"stdout":"begun\n"' in received


def connections(daemon: Running) -> set[Any]:
    return daemon.daemon._shared.connections


def written(daemon: Running) -> int:
    return sum(each.log.sizes["stdout"] for each in daemon.daemon._engine.executions.values())


class TestNothingStays:
    """After any number of clients of any kind, the daemon has what it had before."""

    async def test_200_connections_leave_no_descriptor_and_no_task(self, tmp_path):
        """Those that behave, that are cut, that never say a word, that only ask for health, that are refused."""
        async with running(tmp_path, resume_window=0) as daemon:
            kinds = [behave, vanish, say_nothing, check_health, send_garbage]
            for kind in kinds:  # what is made once and kept is made now
                await kind(daemon)
            await eventually(lambda: is_idle(daemon), "all have gone")
            await eventually(lambda: list(tmp_path.glob("receipts/*.jsonl")), "the first receipts' file is open")
            await wait_all_tasks_blocked()
            before, tasks = descriptors(), trio.lowlevel.current_statistics().tasks_living
            for _ in range(8):
                async with trio.open_nursery() as nursery:
                    for number in range(25):
                        nursery.start_soon(kinds[number % len(kinds)], daemon)
            await eventually(lambda: is_idle(daemon), "all have gone")
            await eventually(lambda: trio.lowlevel.current_statistics().tasks_living == tasks, "no task is left")
            await eventually(lambda: descriptors().keys() == before.keys(), "no descriptor is left")
            assert (await daemon.ask("status"))["sessions"] == 0
            assert daemon.daemon._door._site.counters.crashed == 0


def is_idle(daemon: Running) -> bool:
    engine = daemon.daemon._engine
    return not (engine.live or engine.sessions or daemon.daemon._door.open_connections)


Kind = Callable[[Running], Awaitable[None]]


async def behave(daemon: Running) -> None:
    async with daemon.client() as one:
        await one.run("true")


async def vanish(daemon: Running) -> None:
    one = await RawSocket.open(daemon.address)
    await one.send(call("execute", argv=["sleep", "60"]))
    await one.reset()


async def say_nothing(daemon: Running) -> None:
    async with await daemon.dial():
        await trio.lowlevel.checkpoint()


async def check_health(daemon: Running) -> None:
    async with await daemon.dial() as stream:
        assert (await health(stream))[0] == 200


async def send_garbage(daemon: Running) -> None:
    async with await daemon.dial() as stream:
        await stream.send_all(b"\xff" * 100 + b"\r\n\r\n")
        with trio.fail_after(PATIENCE):
            while await stream.receive_some():
                pass


async def test_sockets_of_systemd_are_served(tmp_path):
    """A socket that was opened for the daemon is served, its address told, and the configured port left alone."""
    with socket.create_server(("127.0.0.1", 0)) as activated:
        port = activated.getsockname()[1]
        async with running(tmp_path, listen_fds={"ws": [activated.detach()]}, port=1) as daemon:
            assert daemon.address == ("127.0.0.1", port)
            async with daemon.client() as one:
                assert (await one.run("echo", "fine")).stdout == "fine\n"
