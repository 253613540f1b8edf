"""Under load: what happens when places, descriptors and patience run out, to whoever asks and to everybody else."""

import base64
import contextlib
import errno
import os
import resource
import socket
import sqlite3
from collections.abc import Iterator

import psutil
import pytest
import trio

from .client import Client, RefusedError, connect
from .daemon_process import Daemon, eventually

pytestmark = pytest.mark.alone

QUEUED = 10_000

MOST_BYTES_EACH = 16 * 1024
"""Memory of one that waits, with its place in a connection; 10,000 of them are to fit beside what runs."""

DESCRIPTORS = 96
"""Few: a daemon has about thirty for itself."""


@pytest.fixture
def many_sockets() -> Iterator[None]:
    """This process may open as many as it is allowed to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def opened(daemon: Daemon) -> socket.socket:
    """A connection that has become a WebSocket, and will never say another word."""
    idle = socket.create_connection(daemon.address, timeout=30)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        *("GET /ws/mcp HTTP/1.1", f"Host: 127.0.0.1:{daemon.address[1]}", "Upgrade: websocket", "Connection: Upgrade"),
        *("Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Protocol: ccexec.v1", "", ""),
    )
    idle.sendall("\r\n".join(lines).encode())
    return idle


def answer_to(idle: socket.socket) -> bytes:
    """The first line that it has been sent; empty where the other end hung up."""
    try:
        return idle.recv(4096).split(b"\r\n")[0]
    except ConnectionResetError:
        return b""


async def refusals(one: Client, count: int, *argv: str, **params: object) -> list[RefusedError]:
    """Ask for so many executions at once; those that were refused."""
    refused: list[RefusedError] = []

    async def ask() -> None:
        try:
            await one.request("execute", argv=argv, **params)
        except RefusedError as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(ask)
    return refused


async def batches(one: Client, count: int, **params: object) -> list[str]:
    """Ask for so many executions, a thousand in a message; the status of each."""
    call = {"jsonrpc": "2.0", "method": "execute", "params": params}
    for first in range(0, count, 1000):
        await one.send([{**call, "id": f"b{first + number}"} for number in range(1000)])

    def answers() -> list[list[dict]]:
        return [message for message in one.received if isinstance(message, list)]

    await eventually(lambda: sum(map(len, answers())) == count, "all are answered", 60)
    return [each["result"]["status"] for answer in answers() for each in answer]


async def serves(one: Client) -> None:
    """See that a good client is served as ever."""
    assert (await one.run("echo", "still here")).stdout == "still here\n"


async def test_ten_thousand_wait(start_daemon):
    """Each is answered and counted, costs little memory and no file; one more is refused; all go with their client."""
    daemon = start_daemon(max_running=2, max_per_session=1, max_queued=QUEUED)
    process = psutil.Process(daemon.pid)
    async with connect(daemon.address) as good:
        async with connect(daemon.address) as many:
            await many.execute("sleep", "600")
            before, files = process.memory_info().rss, process.num_fds()
            statuses = await batches(many, QUEUED, argv=["true"])
            assert statuses == ["queued"] * QUEUED
            each = (process.memory_info().rss - before) / QUEUED
            assert each < MOST_BYTES_EACH, f"{each:.0f} bytes each"
            assert process.num_fds() <= files + 2
            counts = daemon.request("status")["executions"]
            assert (counts["running"], counts["queued"], counts["max_running"]) == (1, QUEUED, 2)
            (refused,) = await refusals(many, 1, "true")
            assert refused.code == -32008
            assert refused.facts["retry_after"] > 0
            await serves(good)
        await eventually(lambda: daemon.request("status")["executions"]["queued"] == 0, "they are gone", 30)
        await serves(good)


async def test_whoever_waits_gets_a_turn(start_daemon):
    """Hundreds at a time, through a few places, in the order in which they came; no place is ever lost."""
    daemon = start_daemon(max_running=8)
    async with connect(daemon.address) as one:
        async with trio.open_nursery() as nursery:
            for number in range(400):
                nursery.start_soon(ended_as, one, number % 5)
        counts = daemon.request("status")["executions"]
        assert (counts["running"], counts["queued"], counts["finished"]) == (0, 0, 400)


async def ended_as(one: Client, code: int) -> None:
    """Run something that exits so."""
    execution = await one.execute("sh", "-c", f"exit {code}")
    assert (await execution.completed())["exit_code"] == code


async def test_a_thousand_idle_connections(start_daemon, many_sockets):
    """They cost memory and nothing else: a good client is served among them."""
    daemon = start_daemon(max_connections=1100, max_sessions=1100)
    before = psutil.Process(daemon.pid).memory_info().rss
    idle = [opened(daemon) for _ in range(1000)]
    try:
        assert all(answer_to(each).startswith(b"HTTP/1.1 101") for each in idle)
        status = daemon.request("status")
        assert status["connections"] == 1000
        each_bytes = (psutil.Process(daemon.pid).memory_info().rss - before) / 1000
        assert each_bytes < 128 * 1024, f"{each_bytes:.0f} bytes each"
        async with connect(daemon.address) as good:
            await serves(good)
    finally:
        for each in idle:
            each.close()


async def test_a_crash_forgets_neither_keys_nor_who_waited(start_daemon):
    """What ran is lost, what waited is held until it is released, and a repeat starts neither of them."""
    daemon = start_daemon(max_running=1)
    async with connect(daemon.address) as one:
        running = await one.execute("sleep", "600", idempotency_key="ran")
        waiting = await one.execute("true", idempotency_key="waited")
        await eventually(lambda: known(daemon, running.id, waiting.id), "both are in the history")
        daemon.kill()  # before a farewell could end them
    later = Daemon(daemon.state_dir)
    try:
        async with connect(later.address) as one:
            again = await one.request("execute", argv=["sleep", "600"], idempotency_key="ran")
            assert (again["execution_id"], again["outcome"]["reason"]) == (running.id, "lost")
            again = await one.request("execute", argv=["true"], idempotency_key="waited")
            assert (again["execution_id"], again["status"]) == (waiting.id, "held")
            assert not daemon.processes()
            await one.request("release", execution_id=waiting.id)
            assert (await one.request("wait", execution_id=waiting.id))["exit_code"] == 0
            again = await one.request("execute", argv=["true"], idempotency_key="waited")
            assert (again["execution_id"], again["status"]) == (waiting.id, "completed")
    finally:
        later.stop()


def known(daemon: Daemon, *ids: str) -> bool:
    """Whether these executions are in the history on disk."""
    with contextlib.closing(sqlite3.connect(daemon.state_dir / "history.db")) as history:
        found = {name for (name,) in history.execute("SELECT id FROM executions")}
    return found >= set(ids)


async def test_descriptors_run_out(start_daemon):
    """What cannot be started is refused, with the kernel's word for it; what runs goes on, and the rest comes back."""
    daemon = start_daemon(descriptors=DESCRIPTORS, max_running=1000)
    daemon.may_log_errors = True
    async with connect(daemon.address) as one:
        refused = await refusals(one, 100, "sleep", "600")
        assert {error.code for error in refused} == {-32006}
        assert {error.facts["errno"] for error in refused} == {errno.EMFILE}
        assert 0 < len(refused) < 100
        live = (await one.request("list", state="live"))["executions"]
        assert len(live) == 100 - len(refused)
        for each in live[:10]:
            await one.request("control", type="KILL", execution_id=each["execution_id"])
        await serves(one)
    assert daemon.process.poll() is None


async def test_the_budget_keeps_them_from_running_out(start_daemon):
    """Where nobody says how many may run, the rest waits, and nothing is refused or goes wrong."""
    daemon = start_daemon(descriptors=DESCRIPTORS)
    most = daemon.request("status")["executions"]["max_running"]
    assert 0 < most < DESCRIPTORS // 8
    async with connect(daemon.address) as one:
        assert not await refusals(one, 50, "sh", "-c", "echo out; echo err >&2", stdin="open")
        await eventually(lambda: not daemon.request("status")["executions"]["live"], "all have run", 30)
        ended = (await one.request("list"))["executions"]
        assert [each["exit_code"] for each in ended] == [0] * 50


async def test_what_is_started_has_the_usual_limit(start_daemon):
    """The daemon's own is raised, that of programs is not: select(2) and those who close everything rely on it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        daemon = start_daemon()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert psutil.Process(daemon.pid).rlimit(psutil.RLIMIT_NOFILE) == (min(hard, 1 << 20), hard)
    async with connect(daemon.address) as one:
        assert (await one.run("sh", "-c", "ulimit -Sn; ulimit -Hn")).stdout.split() == [str(min(512, hard)), str(hard)]


async def test_more_connections_than_descriptors(start_daemon):
    """Those beyond what it can serve are told so or wait; who is connected is served, and so is who comes later."""
    daemon = start_daemon(descriptors=DESCRIPTORS)
    daemon.may_log_errors = True
    async with connect(daemon.address) as one:
        idle = [opened(daemon) for _ in range(200)]
        try:
            await serves(one)
        finally:
            for each in idle:
                each.close()
        await serves(one)
    async with connect(daemon.address) as later:
        await serves(later)


async def test_processes_run_out(start_daemon):
    """A program that cannot be forked is refused (-32006); the daemon lives, and starts others when it can again."""
    daemon = start_daemon()
    if os.geteuid() == 0:
        pytest.skip("root may start as many processes as it likes")
    async with connect(daemon.address) as one:
        keeper = psutil.Process(daemon.keeper)
        before = keeper.rlimit(psutil.RLIMIT_NPROC)
        keeper.rlimit(psutil.RLIMIT_NPROC, (1, before[1]))
        (refused,) = await refusals(one, 1, "true")
        assert (refused.code, refused.facts["errno"]) == (-32006, errno.EAGAIN)
        keeper.rlimit(psutil.RLIMIT_NPROC, before)
        await serves(one)


async def test_a_flood_of_requests_leaves_others_served(start_daemon):
    """A client that asks for far more than may run holds up nobody but itself."""
    daemon = start_daemon(max_per_session=2, max_queued=500)
    async with connect(daemon.address) as flooding, connect(daemon.address) as good:
        refused: list[RefusedError] = []

        async def flood() -> None:
            refused.extend(await refusals(flooding, 1000, "sleep", "600"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            for _ in range(10):
                await serves(good)
        assert {error.code for error in refused} == {-32008}
        assert len(refused) == 1000 - 502
