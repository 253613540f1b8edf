"""One client's connection: liveness, slowness, and what it costs others."""

import hashlib
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from ccexecd.external.connection import Connection
from ccexecd.protocol.errors import ErrorCode
from ccexecd.service.dispatch import MAX_CALLS, Kind
from tests.e2e.client import RefusedError
from tests.e2e.daemon_process import eventually, state_of
from tests.e2e.frames import PING, PONG, TEXT, RawSocket, call, frame
from tests.in_process import Running, running

MANY_LINES = "seq -f 'line %020.0f' 1 200000"
"""Some 5 MB: more than sockets and a small window hold together."""


@asynccontextmanager
async def opened(daemon: Running, **options: Any) -> AsyncIterator["Slow"]:
    one = await RawSocket.open(daemon.address, **options)
    async with one.stream:
        yield Slow(one)


class Slow:
    """A client that reads only when it is told to, and answers no ping by itself.

    Attributes:
        raw: its socket.
        greeting: the params of the first message.
    """

    def __init__(self, raw: RawSocket) -> None:
        self.raw = raw
        self.greeting: dict[str, Any] = {}

    async def message(self) -> dict[str, Any]:
        """The next message; pings are passed over."""
        while True:
            received = await self.raw.receive()
            assert received is not None, "the connection has ended"
            if received[0] == TEXT:
                return json.loads(received[1])

    async def reply(self, number: int) -> dict[str, Any]:
        """The reply to a request."""
        while (message := await self.message()).get("id") != number:
            pass
        return message

    async def execute(self, **params: Any) -> str:
        """Start an execution; gives its id."""
        await self.raw.send(call("execute", 1, **params))
        return (await self.reply(1))["result"]["execution_id"]

    async def until_completed(self) -> list[dict[str, Any]]:
        """Read to the end of an execution: its notifications."""
        received = [await self.message()]
        while received[-1].get("method") != "process.completed":
            received.append(await self.message())
        return [message for message in received if "method" in message]

    async def is_gone(self) -> int | None:
        """Read to the end; gives the close code."""
        return await self.raw.close_code()


class TestLiveness:
    """Pings tell who is there, whatever TCP believes."""

    async def test_a_client_that_answers_pings_stays(self, tmp_path):
        """Interval after interval, a pong is enough."""
        async with running(tmp_path, ws_ping_interval=0.02, ws_ping_timeout=5) as daemon, opened(daemon) as one:
            for _ in range(10):
                while (received := await one.raw.receive())[0] != PING:
                    pass
                await one.raw.send(frame(received[1], PONG))
            await one.raw.send(call("list", 7))
            assert (await one.reply(7))["result"]["executions"] == []

    async def test_one_pong_answers_all_pings_before_it(self, tmp_path):
        """A client may answer the last of several pings only (RFC 6455 section 5.5.3)."""
        async with running(tmp_path, ws_ping_interval=0.02, ws_ping_timeout=5) as daemon, opened(daemon) as one:
            while (first := await one.raw.receive())[0] != PING:
                pass
            await one.raw.send(frame(b"unasked for", PONG), frame(first[1], PONG))
            while (second := await one.raw.receive())[0] != PING:
                pass
            assert second[1] != first[1]

    async def test_a_client_that_never_pongs_is_gone(self, tmp_path):
        """Messages are no pongs: a client whose reader hangs is dropped, and its session waits to be resumed."""
        async with running(tmp_path, ws_ping_interval=0.05, ws_ping_timeout=0.1) as daemon:
            async with opened(daemon) as one:
                greeting = (await one.message())["params"]
                execution_id = await one.execute(argv=["sleep", "60"])
                assert await one.is_gone() is None
            status = await daemon.ask("status", execution_id=execution_id)
            assert status["state"] == "RUNNING"
            async with daemon.client() as other:
                resumed = await other.request(
                    "resume_session", session_id=greeting["session_id"], resume_token=greeting["resume_token"]
                )
                assert [each["execution_id"] for each in resumed["executions"]] == [execution_id]

    async def test_a_client_that_waits_for_much_may_still_end_it(self, tmp_path):
        """It is not taken for dead, what is too much is refused, and a `control` on its connection gets through."""
        async with running(tmp_path, ws_ping_interval=0.2, ws_ping_timeout=0.6) as daemon, daemon.client() as one:
            execution = await one.execute("sleep", "60", stdin="open")

            async def ask(method: str, count: int, **params: Any) -> list[int]:
                return [await one.ask(method, execution_id=execution.id, **params) for _ in range(count)]

            waits = await ask("wait", 500)
            reads = await ask("read_output", MAX_CALLS[Kind.WAITING] - 500, from_seq=2, wait_s=100.0)
            excess = await ask("wait", 50)
            await ask("write_stdin", 1, data="x" * 2**21)
            await ask("write_stdin", MAX_CALLS[Kind.WRITING] - 1, data="x")
            excess += await ask("write_stdin", 50, data="x")
            for number in excess:
                with pytest.raises(RefusedError) as refused:
                    await one.answer(number)
                assert refused.value.code == ErrorCode.QUEUE_FULL
            pinged = trio.current_time() + 1.2
            await eventually(lambda: trio.current_time() > pinged, "several ping time-outs have passed", 5)
            assert not one._over
            assert (await one.request("control", type="KILL", execution_id=execution.id))["status"] == "killed"
            for number in waits:
                assert (await one.answer(number))["reason"] == "cancelled"
            for number in reads:
                assert (await one.answer(number))["state"] == "FINISHED"
            await one.cut()  # the client's library fails on a ping that comes while it closes

    async def test_an_idle_session_ends_with_a_normal_close(self, tmp_path):
        """A client that runs nothing for session_timeout is told goodbye with 1000."""
        async with running(tmp_path, session_timeout=0.2) as daemon, daemon.client() as one:
            assert await one.closed() == 1000
            await eventually(lambda: not daemon.daemon._engine.sessions, "the session has ended")

    async def test_a_session_that_works_is_not_idle(self, tmp_path):
        """The clock of an idle session stands still while something runs in it."""
        async with running(tmp_path, session_timeout=0.2) as daemon, daemon.client() as one:
            execution = await one.execute(command="sleep 0.4; echo done")
            await execution.completed()
            assert execution.stdout == "done\n"


class TestSlowness:
    """A client that is slow pays for it itself."""

    async def test_a_reader_that_stops_for_a_while_hears_what_it_missed(self, tmp_path):
        """One gap, or a few, say exactly which entries, bytes and lines went; all else comes, in order, to the end."""
        no_spool = {"max_buffer_size": 65536, "spool_execution_bytes": 0}
        async with running(tmp_path, **no_spool) as daemon, opened(daemon, receive_buffer=4096) as one:
            execution_id = await one.execute(command=MANY_LINES, framing="line")
            outcome = await daemon.ask("wait", execution_id=execution_id)
            messages = await one.until_completed()
        check_account(messages, outcome)
        gaps = [each["params"] for each in messages if each["method"] == "process.gap"]
        assert gaps
        entries = sum(gap["to_seq"] - gap["from_seq"] + 1 for gap in gaps)
        entries -= all(each["method"] != "process.started" for each in messages)  # it went, too, and was no line
        assert sum(gap["dropped_lines"] for gap in gaps) == entries

    async def test_a_reader_that_stops_again_and_again_hears_it_every_time(self, tmp_path):
        """The account holds over many stops and both streams."""
        both = "for i in $(seq 1 20); do seq -f 'out %0500.0f' 1 1000; seq -f 'err %0500.0f' 1 1000 >&2; read; done"
        no_spool = {"max_buffer_size": 65536, "spool_execution_bytes": 0}
        async with running(tmp_path, **no_spool) as daemon, opened(daemon, receive_buffer=4096) as one:
            execution_id = await one.execute(command=both, stdin="open")
            messages = []
            for _ in range(20):
                messages += [await one.message() for _ in range(3)]
                await one.raw.send(call("write_stdin", 2, execution_id=execution_id, data="\n"))
            messages += await one.until_completed()
            outcome = await daemon.ask("wait", execution_id=execution_id)
        check_account([each for each in messages if "method" in each], outcome)

    async def test_a_slow_reader_delays_nobody(self, tmp_path):
        """While one client is stuck behind megabytes, another runs commands, and the stuck one's runs to its end."""
        async with running(tmp_path, max_buffer_size=65536) as daemon, opened(daemon, receive_buffer=4096) as one:
            stuck = await one.execute(command="yes")
            await eventually(lambda: writer_of(daemon)._blocked, "it is stuck")
            async with daemon.client() as other:
                with trio.fail_after(10):
                    for number in range(20):
                        assert (await other.run("echo", str(number))).stdout == f"{number}\n"
            before = (await daemon.ask("status", execution_id=stuck))["stdout_bytes"]
            await eventually(lambda: bytes_of(daemon, stuck) > before + 10_000_000, "it writes as ever")

    @pytest.mark.parametrize("window", [65536, 8 << 20], ids=["from disk", "from memory"])
    async def test_twenty_watchers_at_twenty_speeds(self, tmp_path, window):
        """Each gets every byte, in order, in its own time; one of them stands still till the end."""
        async with running(tmp_path, max_buffer_size=window) as daemon, daemon.client() as one:
            source = await one.execute("sh", "-c", f"{MANY_LINES}; read go; {MANY_LINES}", stdin="open")
            standing = trio.Event()
            hashes: list[str] = []
            async with trio.open_nursery() as nursery:
                for speed in range(20):
                    await nursery.start(self._watch, daemon, source.id, speed, standing, hashes)
                await one.request("write_stdin", execution_id=source.id, data="\n")
                outcome = await one.request("wait", execution_id=source.id)
                assert outcome["stdout_bytes"] == 2 * 200_000 * 26
                standing.set()
            text = "".join(f"line {number:020d}\n" for number in range(1, 200_001)).encode() * 2
            assert hashes == [hashlib.sha256(text).hexdigest()] * 20

    async def _watch(
        self,
        daemon: Running,
        execution_id: str,
        speed: int,
        standing: trio.Event,
        hashes: list[str],
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Read all of it: the slower, the more others do between two messages; the slowest waits for the end."""
        hashed, position = hashlib.sha256(), 0
        async with opened(daemon, receive_buffer=4096) as one:
            await one.raw.send(call("attach", 1, execution_id=execution_id, from_seq=0))
            await one.reply(1)
            task_status.started()
            if speed == 19:
                await standing.wait()
            while True:
                told = await one.message()
                assert told["method"] != "process.gap"
                if told["method"] == "process.completed":
                    break
                if told["method"] == "process.output":
                    assert told["params"]["offset"] == position
                    position += len(told["params"]["data"])
                    hashed.update(told["params"]["data"].encode())
                for _ in range(speed * 5):
                    await trio.lowlevel.checkpoint()
        hashes.append(hashed.hexdigest())

    async def test_replies_overtake_output(self, tmp_path):
        """A reply does not wait behind the backlog: it comes after what the sockets held when it was made."""
        async with running(tmp_path) as daemon, opened(daemon, receive_buffer=4096) as one:
            execution_id = await one.execute(command=f"{MANY_LINES} && {MANY_LINES}; read", stdin="open")
            await eventually(lambda: bytes_of(daemon, execution_id) == 2 * 200_000 * 26, "all is written")
            await one.raw.send(call("control", 5, type="KILL", execution_id=execution_id))
            before, after = 0, 0
            while (message := await one.message()).get("id") != 5:
                before += size_of(message)
            while (message := await one.message()).get("method") != "process.completed":
                after += size_of(message)
            assert after > before

    async def test_pongs_overtake_output(self, tmp_path):
        """A client that pings in the middle of a flood of output is answered before the flood has passed."""
        async with running(tmp_path) as daemon, opened(daemon, receive_buffer=4096) as one:
            execution_id = await one.execute(command=f"{MANY_LINES} && {MANY_LINES}; read", stdin="open")
            await eventually(lambda: bytes_of(daemon, execution_id) == 2 * 200_000 * 26, "all is written")
            await one.raw.send(frame(b"there?", PING))
            before = 0
            while (received := await one.raw.receive()) != (PONG, b"there?"):
                before += len(received[1])
            assert before < 4_000_000

    async def test_a_client_that_takes_nothing_is_given_up(self, tmp_path):
        """After stream_timeout without a byte taken it is gone; what it ran goes on, and may be resumed."""
        async with running(tmp_path, stream_timeout=0.2) as daemon, opened(daemon, receive_buffer=4096) as one:
            greeting = (await one.message())["params"]
            execution_id = await one.execute(command="yes")
            await eventually(lambda: not daemon.daemon._shared.connections, "it is given up")
            async with daemon.client() as other:
                resumed = await other.request(
                    "resume_session", session_id=greeting["session_id"], resume_token=greeting["resume_token"]
                )
                assert [each["state"] for each in resumed["executions"]] == ["RUNNING"]
                assert resumed["executions"][0]["execution_id"] == execution_id

    async def test_a_client_that_takes_a_little_is_kept(self, tmp_path):
        """The clock counts from the last byte that was taken: slow is not dead."""
        config = {"stream_timeout": 0.5, "max_buffer_size": 65536}
        async with running(tmp_path, **config) as daemon, opened(daemon, receive_buffer=4096) as one:
            await one.execute(command="yes")
            await eventually(lambda: writer_of(daemon)._blocked, "it is stuck")
            patient = trio.current_time() + 1.2
            while trio.current_time() < patient:
                await one.message()
                await trio.sleep(0.01)  # that is how slow it is
            assert daemon.daemon._shared.connections


def check_account(messages: list[dict[str, Any]], outcome: dict[str, Any]) -> None:
    """Sequence numbers, offsets, bytes and lines add up, what gaps tell included."""
    expected, dropped = 1, 0
    offsets = {"stdout": 0, "stderr": 0}
    received = {"stdout": 0, "stderr": 0}
    for each in messages:
        params = each["params"]
        if each["method"] == "process.gap":
            assert params["from_seq"] == expected
            expected = params["to_seq"] + 1
            dropped += params["dropped_bytes"]
            continue
        assert params["seq"] == expected
        expected += 1
        if each["method"] == "process.output":
            assert params["offset"] >= offsets[params["type"]]
            offsets[params["type"]] = params["offset"] + len(params["data"])
            received[params["type"]] += len(params["data"])
    assert messages[-1]["method"] == "process.completed"
    written = {stream: outcome[f"{stream}_bytes"] for stream in offsets}
    assert all(offsets[stream] <= written[stream] for stream in offsets)  # the last of a stream may lie in a gap
    assert sum(received.values()) + dropped == sum(written.values())


def size_of(message: dict[str, Any]) -> int:
    return len(message["params"]["data"]) if message.get("method") == "process.output" else 0


def bytes_of(daemon: Running, execution_id: str) -> int:
    return daemon.daemon._engine.executions[execution_id].log.sizes["stdout"]


def writer_of(daemon: Running) -> Any:
    """The writer of the only connection."""
    (connection,) = daemon.daemon._shared.connections
    return connection._writer


class TestEnds:
    """However a connection ends, nothing of it stays."""

    async def test_clients_that_vanish_while_they_start_something(self, tmp_path):
        """A reset at any moment of an execute: with no window to resume, nothing runs and no session stays."""
        async with running(tmp_path, resume_window=0) as daemon:
            for delay in itertools.islice(itertools.cycle(range(10)), 50):
                one = await RawSocket.open(daemon.address)
                await one.send(call("execute", argv=["sleep", "60"]))
                for _ in range(delay):
                    await trio.lowlevel.checkpoint()
                await one.reset()
            engine = daemon.daemon._engine
            await eventually(lambda: not engine.live and not engine.sessions, "nothing is left", 20)

    async def test_a_taken_over_connection_is_told_so(self, tmp_path):
        """4409, and what it watched goes on at the new one."""
        async with running(tmp_path) as daemon, daemon.client() as old, daemon.client() as new:
            execution = await old.execute("cat", stdin="open")
            await new.request(
                "resume_session", session_id=old.greeting["session_id"], resume_token=old.greeting["resume_token"]
            )
            assert await old.closed() == 4409
            assert state_of(execution.pid)
            await new.request("control", type="CANCEL")

    async def test_a_fault_of_ours_ends_one_connection(self, tmp_path, monkeypatch):
        """What nobody expected is logged with its traceback, ends this connection, and no other."""

        async def fail(*_: object) -> None:
            raise RuntimeError("nobody expected this")

        async with running(tmp_path) as daemon, daemon.client() as other:
            with monkeypatch.context() as broken:
                broken.setattr(Connection, "_read", fail)
                async with opened(daemon) as one:
                    assert (await one.message())["method"] == "connected"
                    assert await one.is_gone() is None
            assert (await other.run("echo", "fine")).stdout == "fine\n"
            assert "nobody expected this" in daemon.errors.pop()
            assert daemon.daemon._door._site.counters.crashed == 1

    async def test_a_session_too_many_may_still_look(self, tmp_path):
        """Beyond max_sessions a client is let in, may list, and is refused when it executes."""
        async with running(tmp_path, max_sessions=1) as daemon, daemon.client() as first, daemon.client() as second:
            await first.run("true")
            assert len((await second.request("list"))["executions"]) == 1
            with pytest.raises(RefusedError) as refused:
                await second.execute("true")
            assert (refused.value.code, refused.value.facts) == (-32001, {"max_sessions": 1})
            await first.close()
            await eventually(lambda: len(daemon.daemon._engine.sessions) == 1, "the first has gone")
            assert (await second.run("echo", "mine")).stdout == "mine\n"
