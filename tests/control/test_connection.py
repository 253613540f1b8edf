"""The conversation on the control socket: bytes as strangers, programs and accidents send them."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from ccexecd.protocol.framing import DEFAULT_LIMIT
from ccexecd.service.writer import URGENT_LIMIT
from tests.e2e.client import PATIENCE
from tests.e2e.daemon_process import Daemon, eventually, state_of
from tests.in_process import Running, descriptors, running

VERSION = b'{"jsonrpc":"2.0","id":%d,"method":"version"}\n'


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as one:
        yield one


class Wire:
    """A connection of which every byte is ours to choose."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = bytearray()

    async def send(self, data: bytes) -> None:
        with trio.fail_after(PATIENCE):
            await self.stream.send_all(data)

    async def line(self) -> dict[str, Any] | list[dict[str, Any]] | None:
        """The next message; None at the end."""
        with trio.fail_after(PATIENCE):
            while b"\n" not in self._received:
                received = await self.stream.receive_some()
                if not received:
                    assert not self._received, "half a message"
                    return None
                self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    async def lines(self, number: int) -> list[Any]:
        return [await self.line() for _ in range(number)]

    async def replies(self, number: int) -> list[dict[str, Any]]:
        """The next replies; notifications in between are passed over."""
        found: list[dict[str, Any]] = []
        while len(found) < number:
            message = await self.line()
            assert message is not None
            if "method" not in message:
                found.append(message)
        return found


@asynccontextmanager
async def wire(daemon: Running) -> AsyncIterator[Wire]:
    async with await daemon.connect() as stream:
        yield Wire(stream)


def request(method: str, number: int = 1, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"


class TestFraming:
    """One message a line, however the bytes arrive."""

    async def test_a_request_may_come_byte_by_byte(self, daemon):
        """Packets mean nothing: a request that trickles in is answered when its line feed is there."""
        async with wire(daemon) as one:
            for byte in VERSION % 7:
                await one.send(bytes([byte]))
                await trio.lowlevel.checkpoint()
            reply = await one.line()
            assert (reply["id"], reply["result"]["protocol"]) == (7, "ccexec.v1")

    async def test_requests_in_one_packet_are_answered_in_order(self, daemon):
        """Replies of methods that wait for nothing come in the order of the requests, all of them."""
        async with wire(daemon) as one:
            await one.send(b"".join(VERSION % number for number in range(1000)))
            assert [reply["id"] for reply in await one.lines(1000)] == list(range(1000))

    async def test_a_request_that_waits_holds_up_no_other(self, daemon):
        """A pipelined request is answered when its own work is done, not when that of the one before is."""
        async with wire(daemon) as one:
            await one.send(request("execute", 1, argv=["cat"], stdin="open"))
            started = (await one.line())["result"]
            await one.send(request("wait", 2, execution_id=started["execution_id"]) + VERSION % 3)
            assert [reply["id"] for reply in await one.replies(1)] == [3]
            await one.send(request("close_stdin", 4, execution_id=started["execution_id"]))
            assert {reply["id"] for reply in await one.replies(2)} == {2, 4}

    async def test_blank_lines_and_carriage_returns_are_passed_over(self, daemon):
        """People type: what is only white space is no message."""
        async with wire(daemon) as one:
            await one.send(b"\n\r\n  \t\n" + (VERSION % 1).replace(b"\n", b"\r\n"))
            assert (await one.line())["id"] == 1

    async def test_a_batch_is_a_line(self, daemon):
        """A batch is answered by one line with an array."""
        async with wire(daemon) as one:
            await one.send(b"[" + (VERSION % 1).strip() + b"," + (VERSION % 2).strip() + b"]\n")
            assert [reply["id"] for reply in await one.line()] == [1, 2]


class TestNonsense:
    """What is not a request gets an error that says so, and the conversation goes on where it can."""

    @pytest.mark.parametrize(
        ("line", "code"),
        [
            (b"hello", -32700),
            (b'{"jsonrpc":"2.0","id":1,"method":"version"', -32700),
            (b"\xff\xfe\xfd", -32700),
            (b"\0" * 100, -32700),
            (b"[" * 100_000, -32700),
            (b"GET / HTTP/1.1\r", -32700),
            (b"\x16\x03\x01\x02\x00", -32700),
            (b"null", -32600),
            (b"[]", -32600),
            (b"17", -32600),
            (b'"version"', -32600),
            (b"{}", -32600),
            (b'{"jsonrpc":"1.0","id":1,"method":"version"}', -32600),
            (b'{"jsonrpc":"2.0","id":{},"method":"version"}', -32600),
            (b'{"jsonrpc":"2.0","id":1,"method":"become_root"}', -32601),
            (b'{"jsonrpc":"2.0","id":1,"method":"version","params":{"a":1}}', -32602),
            (b'{"jsonrpc":"2.0","id":1,"method":"version","params":[1]}', -32602),
        ],
    )
    async def test_a_bad_line_is_answered_and_the_next_one_too(self, daemon, line, code):
        """Garbage costs its sender an error, not the connection."""
        async with wire(daemon) as one:
            await one.send(line + b"\n" + VERSION % 2)
            bad, good = await one.lines(2)
            assert bad["error"]["code"] == code
            assert good["result"]["protocol"] == "ccexec.v1"

    @pytest.mark.parametrize("ending", [b"", b"\n"], ids=["endless", "complete"])
    async def test_a_line_that_is_too_long_is_told_so_and_the_connection_closed(self, daemon, ending):
        """More than the limit without a line feed: an error with the limit, and the end; nothing of it is kept."""
        async with wire(daemon) as one:
            await one.send(VERSION % 1)
            assert (await one.line())["id"] == 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_as_much_as_is_taken, one, b"x" * (DEFAULT_LIMIT + 1) + ending)
                refusal = await one.line()
            assert refusal["error"]["code"] == -32600
            assert str(DEFAULT_LIMIT) in refusal["error"]["message"]
            assert refusal["id"] is None
            await ended(one)
        assert await daemon.ask("version")

    async def _send_as_much_as_is_taken(self, one: Wire, data: bytes) -> None:
        with suppress(trio.BrokenResourceError):
            await one.send(data)

    async def test_a_line_as_long_as_allowed_is_served(self, daemon):
        """The limit itself is still fine."""
        line = (VERSION % 1).strip()
        async with wire(daemon) as one:
            await one.send(line + b" " * (DEFAULT_LIMIT - len(line)) + b"\n")
            assert (await one.line())["id"] == 1


def all_printed(daemon: Running, execution_id: str, size: int) -> bool:
    return daemon.daemon._engine.executions[execution_id].log.sizes["stdout"] == size


async def ended(one: Wire) -> None:
    """The daemon has closed; what we had sent and it had not read makes that a reset."""
    with suppress(trio.BrokenResourceError):
        assert await one.line() is None


class TestTheEnd:
    """A connection may end at any moment."""

    async def test_half_a_request_is_no_request(self, daemon):
        """A client that dies while it writes has asked for nothing."""
        marker = daemon.directory / "marker"
        async with wire(daemon) as one:
            await one.send(VERSION % 1 + request("execute", 2, argv=["touch", str(marker)])[:-1])
            await one.stream.send_eof()
            assert (await one.line())["id"] == 1
            assert await one.line() is None
        assert (await daemon.ask("status"))["executions"]["total_started"] == 0
        assert not marker.exists()

    @pytest.mark.parametrize("method", ["version", "status", "list"])
    async def test_a_client_that_only_stops_sending_still_gets_its_answer(self, daemon, method):
        """`echo '{…}' | nc -N -U control.sock` works, also where the answer takes a moment."""
        async with wire(daemon) as one:
            await one.send(request(method))
            await one.stream.send_eof()
            assert "result" in (await one.line())
            assert await one.line() is None

    async def test_a_client_that_only_stops_sending_does_not_stay_for_ever(self, daemon):
        """Nor does what it asked for keep the connection: it gets a moment, then it is closed."""
        execution = await daemon.ask("execute", argv=["sleep", "60"], on_disconnect="detach")
        async with wire(daemon) as one:
            await one.send(request("wait", execution_id=execution["execution_id"]))
            await one.stream.send_eof()
            assert await one.line() is None

    async def test_a_client_may_vanish_with_its_answers_on_their_way(self, daemon):
        """A reset while replies are written ends that connection only."""
        for _ in range(20):
            async with wire(daemon) as one:
                await one.send(b"".join(request("config", number) for number in range(100)))
        assert await daemon.ask("version")

    async def test_a_client_that_has_vanished_is_let_go_at_once(self, daemon):
        """What it left unread is not waited for, neither now nor when the daemon ends."""
        before = descriptors()
        async with wire(daemon) as one:
            await one.send(b"".join(request("config", number) for number in range(500)))
            await one.line()
        await eventually(lambda: descriptors() == before, "the connection is closed", 1.5)

    async def test_the_last_of_an_execution_comes_before_the_daemon_ends(self, daemon):
        """An operator that is behind when the daemon is stopped still gets how its execution ended, and all before."""
        async with wire(daemon) as one:
            await one.send(request("execute", command="printf '%01000000d' 7; exec sleep 60"))
            started = (await one.replies(1))[0]["result"]
            await eventually(lambda: all_printed(daemon, started["execution_id"], 1_000_000), "all is printed")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon.daemon.stop, 0.0, 0.0)
                with trio.fail_after(PATIENCE):
                    await daemon.daemon._stopped.wait()
                    await wait_all_tasks_blocked()
                received = []
                while (message := await one.line()) is not None:
                    received.append(message)
        assert received[-1]["method"] == "process.completed"
        assert received[-1]["params"]["reason"] == "shutdown"
        assert sum(len(each["params"]["data"]) for each in received if each["method"] == "process.output") == 1_000_000

    async def test_what_an_operator_started_ends_with_its_connection(self, daemon):
        """Executions are cancelled when their operator goes, except those that were to be detached."""
        async with daemon.operator() as one:
            mine = await one.execute("sleep", "60")
            detached = await one.execute("sleep", "60", on_disconnect="detach")
        ended = await daemon.ask("wait", execution_id=mine.id)
        assert (ended["reason"], ended["signal"]) == ("disconnected", 15)
        assert state_of(detached.pid)
        assert (await daemon.ask("status", execution_id=detached.id))["state"] == "RUNNING"

    async def test_executions_that_were_asked_for_at_once_belong_to_one_session(self, daemon):
        """Requests in one packet make one session, and it ends with the connection: nothing is left running."""
        async with wire(daemon) as one:
            await one.send(b"".join(request("execute", number, argv=["sleep", "60"]) for number in range(5)))
            started = [reply["result"] for reply in await one.replies(5)]
            assert len({each["session_id"] for each in started}) == 1
            assert (await daemon.ask("status"))["sessions"] == 1
        for each in started:
            assert (await daemon.ask("wait", execution_id=each["execution_id"]))["reason"] == "disconnected"
        await eventually(lambda: not daemon.daemon._engine.sessions, "the session has ended")

    async def test_an_execution_that_is_being_started_ends_too(self, daemon):
        """An operator that goes before its command runs leaves nothing behind either."""
        for _ in range(20):
            async with wire(daemon) as one:
                await one.send(request("execute", argv=["sleep", "60"]))
        await eventually(lambda: not daemon.daemon._engine.live, "nothing runs any more")
        await eventually(lambda: not daemon.daemon._engine.sessions, "the sessions have ended")


class TestFlood:
    """A client that asks and never reads costs a bounded amount of memory, and nobody else anything."""

    async def test_requests_wait_where_replies_are_not_read(self, daemon):
        """The daemon stops reading from it, serves others meanwhile, and answers all once it reads, in order."""
        number = 20_000
        flood = b"".join(request("config", each) for each in range(number))
        reply = len(json.dumps(await daemon.ask("config")))
        assert number * reply > 20 * URGENT_LIMIT
        before = resident()
        async with wire(daemon) as one, trio.open_nursery() as nursery:
            nursery.start_soon(one.send, flood)
            with trio.fail_after(PATIENCE):
                await wait_all_tasks_blocked()
            assert await daemon.ask("version")
            assert resident() - before < 4 * URGENT_LIMIT + len(flood)
            assert [reply["id"] for reply in await one.lines(number)] == list(range(number))

    async def test_answers_wait_where_replies_are_not_read(self, daemon):
        """Large answers, whose work is done in tasks of their own, are not made before there is room for them."""
        execution = await daemon.ask("execute", command="head -c 4000000 /dev/zero", on_disconnect="detach")
        await daemon.ask("wait", execution_id=execution["execution_id"])
        before = resident()
        async with wire(daemon) as one, trio.open_nursery() as nursery:
            asked = [request("read_output", each, execution_id=execution["execution_id"]) for each in range(100)]
            nursery.start_soon(one.send, b"".join(asked))
            with trio.fail_after(PATIENCE):
                await wait_all_tasks_blocked()
            assert await daemon.ask("version")
            assert resident() - before < 40 * URGENT_LIMIT
            nursery.cancel_scope.cancel()

    async def test_the_answer_to_a_batch_is_bounded(self, daemon):
        """Results that do not fit together any more are refused; what is small comes, and so do the refusals."""
        execution = await daemon.ask("execute", command="seq 1 200000", on_disconnect="detach", framing="lines")
        await daemon.ask("wait", execution_id=execution["execution_id"])
        calls = [request("read_output", number, execution_id=execution["execution_id"]) for number in range(200)]
        calls.append(request("execute", 200, argv=["true"]))
        before = resident()
        async with wire(daemon) as one:
            await one.send(b"[" + b",".join(each.strip() for each in calls) + b"]\n")
            answers = {each["id"]: each for each in await one.line()}
        assert resident() - before < 20 * URGENT_LIMIT
        assert len(answers) == 201
        assert answers[200]["result"]["status"] == "started"
        fitting = [each for number, each in answers.items() if "result" in each and number != 200]
        refused = [each["error"] for each in answers.values() if "error" in each]
        assert len(fitting) == 1
        assert {error["code"] for error in refused} == {-32009}
        assert "batch" in refused[0]["message"]
        assert len(json.dumps(list(answers.values()))) < 1.1 * URGENT_LIMIT


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestWhoMayEnter:
    """The kernel says who has connected; the mode of the socket is only the first door."""

    @pytest.fixture
    def open_place(self) -> Iterator[Path]:
        """A directory that every user can enter."""
        directory = Path(tempfile.mkdtemp(prefix="ccexecd-", dir="/tmp"))
        directory.chmod(0o755)
        yield directory
        shutil.rmtree(directory)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    async def test_a_stranger_is_told_so_and_nothing_else(self, open_place):
        """Another uid that gets as far as connecting hears NOT_PERMITTED; what it sent is not even read."""
        nobody = pwd.getpwnam("nobody").pw_uid
        async with running(open_place) as daemon:
            daemon.control_socket.chmod(0o666)
            heard = await as_user(nobody, daemon.control_socket, request("execute", argv=["touch", "/tmp/never"]))
            reply = json.loads(heard)
            assert (reply["id"], reply["error"]["code"]) == (None, -32110)
            assert str(nobody) in reply["error"]["message"]
            assert (await daemon.ask("status"))["executions"]["total_started"] == 0

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    async def test_a_stranger_cannot_even_connect(self, open_place):
        """The socket's own mode keeps others out already."""
        nobody = pwd.getpwnam("nobody").pw_uid
        async with running(open_place) as daemon:
            with pytest.raises(subprocess.CalledProcessError) as refused:
                await as_user(nobody, daemon.control_socket, b"")
            assert b"PermissionError" in refused.value.stderr


_SPEAK = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as one:
    one.connect(sys.argv[1])
    try:
        one.sendall(sys.stdin.buffer.read())
        one.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass
    while received := one.recv(65536):
        sys.stdout.buffer.write(received)
        sys.stdout.flush()
"""


async def as_user(uid: int, path: Path, data: bytes) -> bytes:
    """What a program of another user hears when it sends this to the socket."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [sys.executable, "-I", "-c", _SPEAK, str(path), str(uid)],
            stdin=data,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    if done.returncode and not done.stdout:
        raise subprocess.CalledProcessError(done.returncode, "connect", done.stdout, done.stderr)
    return done.stdout


METHODS = (
    "execute",
    "control",
    "attach",
    "detach",
    "read_output",
    "wait",
    "list",
    "status",
    "resume_session",
    "reload",
)
"""Of those that are called with anything at all: not `stop`."""

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(("execution_id", "argv", "command", "type", "timeout", "from_seq", "limit", "streams", "env"))
CALLS = st.fixed_dictionaries(
    {"jsonrpc": st.sampled_from(("2.0", "2.0", "2.0", "1.0", 2))},
    optional={
        "id": JUNK,
        "method": st.sampled_from(METHODS) | JUNK,
        "params": st.dictionaries(NAMES, JUNK, max_size=4) | JUNK,
    },
)
LINES = st.one_of(
    st.binary(max_size=200),
    JUNK.map(lambda value: json.dumps(value).encode()),
    CALLS.map(lambda value: json.dumps(value).encode()),
    st.lists(CALLS, max_size=4).map(lambda value: json.dumps(value).encode()),
)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon in a process of its own, whose end is a failure and whose log must say nothing."""
    one = Daemon(tmp_path_factory.mktemp("fuzz"), allowed_commands="true")
    yield one
    one.stop()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines=st.lists(LINES, min_size=1, max_size=5), cut=st.integers(0, 40), reset=st.booleans())
def test_no_bytes_disturb_another_operator(process, lines, cut, reset):
    """Lines of every degree of nonsense, cut short anywhere, read to the end or not: others are served as before."""
    data = b"\n".join(lines) + b"\n"
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(PATIENCE)
        one.connect(str(process.state_dir / "control.sock"))
        one.sendall(data[: len(data) - cut])
        if not reset:
            one.shutdown(socket.SHUT_WR)
            while one.recv(65536):
                pass
    assert process.request("version")["protocol"] == "ccexec.v1"
    assert process.process.poll() is None
