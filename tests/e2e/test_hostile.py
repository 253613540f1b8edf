"""Clients that misbehave for long: what they cost. What else may be sent to a daemon is in tests/abuse."""

import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from .client import PATIENCE, RefusedError, connect, size, span
from .daemon_process import Daemon, eventually
from .frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawSocket, call, frame

MEGABYTE = 1 << 20

LIST = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "list"}).encode()

GOODBYE = struct.pack("!H", 1000)


def memory_of(pid: int) -> int:
    """Bytes of memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that keeps no session of those who vanish, so that every test can see that they have left nothing."""
    one = Daemon(tmp_path_factory.mktemp("daemon"), resume_window=0)
    yield one
    one.stop()


class TestFrames:
    """Frames that RFC 6455 forbids, and frames that it allows though few clients send them."""

    async def test_what_is_allowed_is_understood(self, daemon):
        """Empty parts, a ping between parts, a message in 1-byte parts, an unasked pong: legal, and answered."""
        raw = await RawSocket.open(daemon.address)
        async with raw.stream:
            assert (await raw.receive())[0] == TEXT
            await raw.send(frame(b"", final=False), frame(b"here", PING), frame(LIST, CONTINUATION))
            assert await raw.receive() == (PONG, b"here")
            assert json.loads((await raw.receive())[1])["id"] == 1
            parts = [frame(bytes([byte]), CONTINUATION, final=False) for byte in LIST[1:]]
            await raw.send(frame(LIST[:1], final=False), *parts, frame(b"", CONTINUATION), frame(b"x", PONG))
            assert json.loads((await raw.receive())[1])["id"] == 1
            await raw.send(frame(LIST, BINARY))
            assert json.loads((await raw.receive())[1])["error"]["code"] == -32600
            await raw.send(frame(GOODBYE, CLOSE))
            assert await raw.close_code() == 1000

    async def test_a_message_without_end_is_not_endured(self, start_daemon):
        """Parts that hold nothing could go on for ever: they are ended by us."""
        daemon = start_daemon(ws_max_size=64 * 1024)
        raw = await RawSocket.open(daemon.address)
        async with raw.stream:
            await raw.send(frame(b"x", final=False))
            with suppress(trio.BrokenResourceError), trio.fail_after(PATIENCE):
                while True:
                    await raw.send(frame(b"", CONTINUATION, final=False) * 10_000)

    async def test_the_largest_message_is_taken(self, client):
        """A message of just under `ws_max_size` is answered as a small one is."""
        async with client() as one:
            text = "x" * (one.greeting["limits"]["max_message_bytes"] - 200)
            with pytest.raises(RefusedError, match="-32602"):
                await one.request("execute", command="true", labels=text)
            assert (await one.run("echo", "fine")).stdout == "fine\n"


class TestNeverReads:
    """A client that sends and does not read: the memory of the daemon stays, and others are served."""

    MOST = 40 * MEGABYTE
    """More than a window of output and a queue of replies, far less than what is sent."""

    async def test_output(self, start_daemon):
        """200 MB for somebody who takes nothing: the command runs to its end, at the speed of the daemon."""
        daemon = start_daemon()
        async with connect(daemon.address) as one:
            await one.run("seq", "100000")
            before = memory_of(daemon.pid)
            raw = await RawSocket.open(daemon.address, receive_buffer=4096)
            await raw.send(call("execute", command="yes 0123456789 | head -c 200000000", labels={"for": "nobody"}))

            async def finished() -> dict:
                listed = (await one.request("list", label="for=nobody", state="FINISHED"))["executions"]
                return listed[0] if listed else {}

            with trio.fail_after(60):
                while not (ended := await finished()):
                    with trio.fail_after(5):
                        assert (await one.run("echo", "served")).stdout == "served\n"
            assert (ended["exit_code"], ended["stdout_bytes"]) == (0, 200_000_000)
            assert memory_of(daemon.pid) - before < self.MOST
            await raw.reset()

    async def test_it_comes_back(self, daemon):
        """Who reads again gets everything, from the disk, however much it is, and the end comes last."""
        raw = await RawSocket.open(daemon.address, receive_buffer=4096)
        async with raw.stream:
            await raw.send(call("execute", command="yes 0123456789 | head -c 50000000"))
            await eventually(lambda: daemon.request("list", state="live")["executions"], "it runs")
            await eventually(lambda: not daemon.request("list", state="live")["executions"], "it has ended", 60)
            position, had, missing, method = 1, 0, 0, ""
            assert json.loads((await raw.receive())[1])["method"] == "connected"
            assert json.loads((await raw.receive())[1])["id"] == 1
            while method != "process.completed":
                message = json.loads((await raw.receive())[1])
                method, params = message["method"], message["params"]
                assert span(message)[0] == position
                position = span(message)[1] + 1
                if method == "process.gap":
                    missing += params["dropped_bytes"]
                elif method == "process.output":
                    assert params["offset"] == had + missing
                    had += size(params)
            assert (had, missing) == (50_000_000, 0)
            await raw.send(frame(GOODBYE, CLOSE))
            assert await raw.close_code() == 1000

    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(frame(LIST) * 100, id="requests"),
            pytest.param(frame(b"x" * 125, PING) * 500, id="pings"),
            pytest.param(call("wait", execution_id="none") * 500, id="faulty requests"),
        ],
    )
    async def test_answers(self, start_daemon, sent):
        """Who does not take the answers is soon not read from any more."""
        daemon = start_daemon()
        async with connect(daemon.address) as one:
            for _ in range(50):
                await one.run("true")
            before = memory_of(daemon.pid)
            raw = await RawSocket.open(daemon.address, receive_buffer=4096)
            with trio.move_on_after(10) as until_it_blocks:
                while True:
                    with trio.move_on_after(0.5) as one_send:
                        await raw.stream.send_all(sent)
                    if one_send.cancelled_caught:
                        break
            assert not until_it_blocks.cancelled_caught, "it is still read from"
            assert (await one.run("echo", "served")).stdout == "served\n"
            assert memory_of(daemon.pid) - before < self.MOST
            await raw.reset()

    async def test_it_is_given_up(self, start_daemon):
        """Who takes nothing for `stream_timeout` is gone, and its executions as with any cut."""
        daemon = start_daemon(stream_timeout=0.5, resume_window=0)
        raw = await RawSocket.open(daemon.address, receive_buffer=4096)
        await raw.send(call("execute", argv=["yes"]))
        await eventually(daemon.processes, "it runs")
        await eventually(lambda: not daemon.request("status")["connections"], "the connection is given up")
        await eventually(lambda: not daemon.processes(), "its execution has ended")
        await raw.reset()

    async def test_who_answers_no_ping_is_gone(self, start_daemon):
        """A silent client is taken for dead after `ws_ping_interval` and `ws_ping_timeout`; one that answers stays."""
        daemon = start_daemon(ws_ping_interval=0.1, ws_ping_timeout=0.3)
        async with connect(daemon.address) as one:
            raw = await RawSocket.open(daemon.address)
            await eventually(lambda: daemon.request("status")["connections"] == 2, "both are there")
            await eventually(lambda: daemon.request("status")["connections"] == 1, "the silent one is gone")
            assert (await one.run("sh", "-c", "sleep 1; echo alive")).stdout == "alive\n"  # several pings long
            await raw.reset()


async def test_nothing_is_held_on_to(daemon, client):
    """After 100 executions, 50 resets and 50 refusals, daemon and keeper have no more descriptors than before."""
    keeper = daemon.keeper

    def held() -> list[int]:
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (daemon.pid, keeper)]

    async with client() as one:
        await one.run("true")
    await eventually(lambda: not daemon.request("status")["connections"], "the connection is gone")
    before = held()
    async with client() as one:
        for _ in range(50):
            await one.run("true")
            await one.run("cat", stdin="closed")
            raw = await RawSocket.open(daemon.address)
            await raw.send(call("execute", argv=["cat"], stdin="open"))
            await raw.reset()
            with pytest.raises(RefusedError):
                await one.execute("/no/such/program", stdin="open")
    await eventually(lambda: not daemon.request("status")["connections"], "the connections are gone")
    await eventually(lambda: not daemon.processes(), "the executions are gone")
    await eventually(lambda: max(map(int.__sub__, held(), before)) <= 0, f"no more than {before} descriptors are open")
