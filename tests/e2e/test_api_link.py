"""The client of the Python API and real networks: nothing is lost and nothing is run twice, however often it is cut."""

import hashlib
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import attrs
import pytest

from ccexecctl.api.backoff import Backoff
from ccexecctl.api.client import Client, Started, connect
from ccexecctl.errors import NotPermittedError, NotRunningError, RefusedError, UnreachableError

from .cuttable import Cuttable
from .daemon_process import Daemon

QUICK = Backoff(first=0.01, longest=0.1)


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """All of it holds for both event loops."""
    return request.param


@pytest.fixture
def way(daemon: Daemon) -> Iterator[Cuttable]:
    """A way to the daemon that can be cut."""
    one = Cuttable(daemon.address)
    yield one
    one.close()


async def output_of(started: Started) -> tuple[str, dict]:
    """All that it writes to stdout, and how it ends."""
    pieces = []
    params: dict = {}
    async for method, params in started.watch:
        if method == "process.output" and params["type"] == "stdout":
            pieces.append(params["data"])
    return "".join(pieces), params


def doors(daemon: Daemon) -> dict[str, dict]:
    """How to come in by each."""
    return {"socket": {"state_dir": daemon.state_dir}, "websocket": {"url": daemon.url}}


@pytest.mark.parametrize("door", ["socket", "websocket"])
async def test_both_doors_are_the_same(daemon, door):
    """Output, errors and endings are told alike on the control socket and over WebSocket."""
    async with connect(**doors(daemon)[door]) as client:
        text, ending = await output_of(await client.execute(argv=["sh", "-c", "echo said; exit 3"]))
        assert (text, ending["exit_code"]) == ("said\n", 3)
        with pytest.raises(RefusedError, match="no-such-program"):
            await client.execute(argv=["no-such-program"])
        assert (await client.call("status"))["state"] == "running"


@pytest.mark.parametrize("door", ["socket", "websocket"])
async def test_who_leaves_takes_along_what_runs(daemon, door):
    """Leaving the client ends its executions, also when it is left by a cancellation."""
    async with connect(**doors(daemon)[door]) as client:
        await client.execute(argv=["sleep", "300"])
    with anyio.move_on_after(0.2):
        async with connect(**doors(daemon)[door]) as client:
            started = await client.execute(argv=["sleep", "300"])
            await output_of(started)
    with anyio.fail_after(10):
        while daemon.processes():
            await anyio.sleep(0.01)


async def test_a_stream_that_is_cut_again_and_again_arrives_whole(daemon, way, tmp_path):
    """2 MB with a cut every 150 kB: each byte once and in order, by one execution, whose session is kept."""
    ran = tmp_path / "ran"
    program = f"echo run >>{ran}; for n in $(seq 300000); do echo $n; done; echo run >>{ran}"
    async with connect(way.url, backoff=QUICK, connections=1) as client:
        way.cut_after = 150_000
        started = await client.execute(argv=["sh", "-c", program])
        digest, cuts = hashlib.sha256(), 0
        async for method, params in started.watch:
            if method == "process.output":
                digest.update(params["data"].encode())
                if way.cut_after is None:
                    cuts += 1
                    way.cut_after = 150_000
        assert started.link.session["session_id"] == started.told["session_id"]
    assert digest.hexdigest() == hashlib.sha256("".join(f"{n}\n" for n in range(1, 300_001)).encode()).hexdigest()
    assert cuts >= 5
    assert way.connections > cuts
    assert ran.read_text() == "run\nrun\n"


async def test_a_lost_answer_runs_nothing_twice(daemon, way, tmp_path):
    """Cut before the answer to `execute` has come, the request is sent again, and means the same execution."""
    ran = tmp_path / "ran"
    async with connect(way.url, backoff=QUICK) as client:
        await client.call("status")
        way.cut_after = 1
        text, ending = await output_of(await client.execute(argv=["sh", "-c", f"echo run >>{ran}; echo said"]))
    assert (text, ending["exit_code"]) == ("said\n", 0)
    assert ran.read_text() == "run\n"
    assert way.connections == 2


@pytest.mark.parametrize("door", ["socket", "websocket"])
async def test_two_who_ask_for_the_same(daemon, door, tmp_path):
    """With one key, on one connection, at the same time: one execution, and both get all of it."""
    ran = tmp_path / "ran"
    request = {
        "argv": ["sh", "-c", f"echo run >>{ran}; echo one; sleep 0.3; echo two"],
        "idempotency_key": str(tmp_path),
    }
    results = []

    async def follow(client: Client) -> None:
        results.append(await output_of(await client.execute(**request)))

    async with connect(**doors(daemon)[door], connections=1) as client, anyio.create_task_group() as tasks:
        first = await client.execute(**request)
        async for method, _ in first.watch:
            if method == "process.output":
                break
        for _ in range(2):
            tasks.start_soon(follow, client)
        assert (await output_of(first))[0] == "two\n"
    assert [text for text, _ in results] == ["one\ntwo\n"] * 2
    assert ran.read_text() == "run\n"


async def test_a_cut_while_nothing_is_said(daemon, way):
    """A command that is silent is followed through a cut."""
    async with connect(way.url, backoff=QUICK) as client:
        started = await client.execute(argv=["sh", "-c", "read line; echo $line"], stdin="open")
        way.cut()
        stdin = {"execution_id": started.execution_id, "data": "after the cut\n", "write_id": "1"}
        await started.link.call("write_stdin", stdin)
        assert (await output_of(started))[0] == "after the cut\n"


async def test_a_network_that_goes_silently(daemon, way):
    """Nothing comes, and no end either: the daemon is asked for a sign of life, and then looked for on another way."""
    async with connect(way.url, backoff=QUICK) as client:
        client._endpoint = attrs.evolve(client._endpoint, probe_interval=0.2)
        started = await client.execute(argv=["sh", "-c", "read line; echo $line"], stdin="open")
        way.is_dead = True
        stdin = {"execution_id": started.execution_id, "data": "after that\n", "write_id": "1"}
        await started.link.call("write_stdin", stdin)
        assert (await output_of(started))[0] == "after that\n"
    assert way.connections == 2


async def test_twenty_at_once_through_cuts(daemon, way):
    """Twenty executions on four connections, cut in the middle: each gets what is its own."""
    texts: dict[int, str] = {}
    started: list[int] = []

    async def follow(client: Client, number: int) -> None:
        program = f"for n in $(seq 200); do echo {number}-$n; done; sleep 0.3; echo end"
        execution = await client.execute(argv=["sh", "-c", program])
        started.append(number)
        texts[number] = (await output_of(execution))[0]

    async with connect(way.url, backoff=QUICK) as client, anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(follow, client, number)
        with anyio.fail_after(30):
            while len(started) < 20:  # so all four are open at our end, too: one that is cut before that was refused
                await anyio.sleep(0.01)
        way.cut()
    assert texts == {number: "".join(f"{number}-{n}\n" for n in range(1, 201)) + "end\n" for number in range(20)}
    assert way.connections > 4


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_daemon_that_dies_is_told_with_what_there_was(start_daemon):
    """Killed and started again, the daemon still knows the output; the end is told as lost."""
    one = start_daemon()
    async with connect(state_dir=one.state_dir, backoff=QUICK) as client:
        started = await client.execute(argv=["sh", "-c", "echo said; sleep 300"])
        async for method, _ in started.watch:
            if method == "process.output":
                break
        one.kill()
        another = Daemon(one.state_dir)
        try:
            _, ending = await output_of(started)
        finally:
            another.stop()
    assert ending["reason"] == "lost"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_daemon_that_stays_away_is_an_error(start_daemon):
    """Whoever follows an execution is told at some point; who comes later is told at once."""
    one = start_daemon()
    async with connect(state_dir=one.state_dir, backoff=QUICK) as client:
        started = await client.execute(argv=["sleep", "300"])
        object.__setattr__(started.link._endpoint, "patience", 0.2)
        one.kill()
        with pytest.raises(NotRunningError):
            await output_of(started)
        with pytest.raises(NotRunningError, match="is not running"):
            await client.call("status")


async def test_a_stranger_is_told_what_to_do(daemon):
    """A wrong token is refused, and the error says what is missing; it is not tried again."""
    with pytest.raises(NotPermittedError, match="401") as refused:
        async with connect(daemon.url, token="wrong") as client:
            await client.call("status")
    assert "token" in refused.value.hint


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that vouches for itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    certificate, key = tmp_path / "one.crt", tmp_path / "one.key"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run([*make, *named], check=True, capture_output=True)
    return certificate, key


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_tls(start_daemon, certificate):
    """`wss://` works with a certificate that is trusted, and with no other."""
    one = start_daemon(certfile=certificate[0], keyfile=certificate[1])
    url = f"wss://localhost:{one.address[1]}"
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    async with connect(url, tls=trusting) as client:
        assert (await output_of(await client.execute(argv=["echo", "said"])))[0] == "said\n"
    with pytest.raises(UnreachableError, match=r"TLS.*certificate"):
        async with connect(url) as client:
            await client.call("status")


async def test_who_is_no_daemon(tmp_path):
    """Nobody there, and somebody else there, are told apart."""
    with pytest.raises(NotRunningError, match="is not running"):
        async with connect(state_dir=tmp_path) as client:
            await client.call("status")
    with pytest.raises(NotRunningError, match="refused"):
        async with connect("ws://127.0.0.1:1/ws/mcp") as client:
            await client.call("status")


async def test_cancelled_while_it_is_asked_for(daemon, way):
    """Who is cancelled before the answer has come leaves nothing running."""
    async with connect(way.url, backoff=QUICK) as client:
        await client.call("status")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.execute(argv=["sleep", "300"])
        with anyio.fail_after(10):
            while daemon.processes():
                await anyio.sleep(0.01)
