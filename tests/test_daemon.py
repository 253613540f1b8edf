"""The daemon as a whole: how it comes up, how it goes, and what systemd and signals have to do with it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd import daemon as module
from ccexecd import logs
from ccexecd.config import load
from ccexecd.daemon import Daemon
from ccexecd.systemd import Notifier
from tests.e2e.client import PATIENCE, RefusedError
from tests.e2e.daemon_process import Daemon as Process
from tests.e2e.daemon_process import eventually, state_of, wait_for
from tests.in_process import LogStandIn, Running, children, connect_to, descriptors, running

STUBBORN = "trap '' TERM; echo ready; while :; do read -t 0.02; done"
"""A shell that TERM does not end."""


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as one:
        yield one


def made(directory: Path, ready: Callable[..., object] = lambda _address=None: None, **config: object) -> Daemon:
    """A daemon that does not serve yet."""
    loaded = load({"port": 0, "state_dir": str(directory), **config}, {})
    return Daemon(
        loaded,
        loaded.places(),
        listen_fds={},
        ready=ready,
        umask=0o022,
        environ={"PATH": os.environ["PATH"]},
        notifier=Notifier({}),
        log_output=LogStandIn(),
    )


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions at the bottom of a group."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]


class TestComingUp:
    """Ready means ready, and what cannot come up says why and leaves nothing."""

    async def test_at_ready_both_sockets_answer(self, tmp_path):
        """Whoever is told connects at once, at either door; it is told the address, and only once."""
        told: list[str] = []
        answered: list[str] = []

        def ready(address: str) -> None:
            """Connect while the daemon is still in the middle of telling."""
            told.append(address)
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), 1).close()
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(str(tmp_path / "control.sock"))
            answered.append(address)

        one = made(tmp_path, ready)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.serve)
            await eventually(lambda: answered, "it is ready")
            assert (await asked(tmp_path, "status"))["address"] == told[0]
            await one.stop(0.0, 0.0)
        assert len(told) == 1

    async def test_a_thread_that_computes_does_not_hold_the_event_loop(self, daemon):  # noqa: ARG002  # it has come up
        """The history is written in a thread: the loop gets the interpreter back in less than a round trip takes."""
        assert sys.getswitchinterval() < 0.001

    async def test_a_port_that_is_taken(self, tmp_path):
        """The address and what to do are in the error; socket file and keeper are gone."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(BaseExceptionGroup) as failed, trio.fail_after(PATIENCE):
                await made(tmp_path, port=port).serve()
        (reason,) = leaves(failed.value)
        assert isinstance(reason, OSError)
        assert f"cannot listen on 127.0.0.1:{port}" in str(reason)
        assert "--port" in str(reason)
        self._nothing_is_left(tmp_path)

    async def test_a_place_that_cannot_be_written(self, tmp_path):
        """No control socket, no daemon."""
        one = made(tmp_path, control_socket=str(tmp_path / "missing" / "control.sock"))
        with pytest.raises(FileNotFoundError), trio.fail_after(PATIENCE):
            await one.serve()
        self._nothing_is_left(tmp_path)

    async def test_a_keeper_that_does_not_start(self, tmp_path, monkeypatch):
        """Without a keeper nothing could be run: the daemon does not come up, either."""
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(BaseExceptionGroup) as failed, trio.fail_after(PATIENCE):
            await made(tmp_path).serve()
        (reason,) = leaves(failed.value)
        assert isinstance(reason, OSError)
        assert "keeper" in str(reason)
        self._nothing_is_left(tmp_path)

    @staticmethod
    def _nothing_is_left(directory: Path) -> None:
        assert not (directory / "control.sock").exists()
        assert not children()

    async def test_a_second_life_in_the_same_place(self, tmp_path):
        """What one life leaves is no obstacle to the next, and clients can tell them apart."""
        epochs = set()
        for _ in range(2):
            async with running(tmp_path) as one, one.client() as client:
                epochs.add(client.greeting["server_epoch"])
                assert (await client.run("echo", "fine")).stdout == "fine\n"
        assert len(epochs) == 2

    def test_the_reason_reaches_whoever_starts_it(self, tmp_path):
        """`run`, what the program calls, raises the one reason and not a group of groups."""
        loaded = load({"host": "203.0.113.1", "port": 0, "state_dir": str(tmp_path)}, {})
        with pytest.raises(OSError, match=r"cannot listen on 203\.0\.113\.1:0"):
            module.run(
                loaded,
                loaded.places(),
                listen_fds={},
                ready=lambda _address=None: None,
                umask=0o022,
                log_output=LogStandIn(),
            )


async def asked(directory: Path, method: str, **params: object) -> Any:
    """The answer of whatever daemon has its control socket here."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    async with await connect_to(directory / "control.sock") as stream:
        await stream.send_all(json.dumps(request).encode() + b"\n")
        received = b""
        with trio.fail_after(PATIENCE):
            while b"\n" not in received:
                received += await stream.receive_some()
    return json.loads(received.partition(b"\n")[0])["result"]


class TestStop:
    """It ends what runs, with grace, tells everybody, and says what it ended."""

    async def test_nothing_to_end(self, daemon):
        """An idle daemon is gone at once, its socket with it; whoever asked hears so before."""
        with trio.fail_after(5):
            assert await daemon.ask("stop") == {"ended": [], "sessions": 0}
            await eventually(lambda: not daemon.control_socket.exists(), "the socket is gone")

    async def test_what_was_ended_is_told(self, daemon):
        """Every execution that the stop ended, with its command, its reason and its exit code; every session."""
        async with daemon.client() as one, daemon.client() as other:
            polite = await one.execute(command="trap 'exit 5' TERM; echo ready; while :; do read -t 0.02; done")
            await polite.printed("ready")
            plain = await other.execute("sleep", "60")
            await other.run("true")
            answer = await daemon.ask("stop")
            assert answer["sessions"] == 2
            assert {each["execution_id"]: each for each in answer["ended"]} == {
                polite.id: {
                    "execution_id": polite.id,
                    "command": "trap 'exit 5' TERM; echo ready; while :; do read -t 0.02; done",
                    "reason": "shutdown",
                    "exit_code": 5,
                },
                plain.id: {"execution_id": plain.id, "command": "sleep 60", "reason": "shutdown", "exit_code": -15},
            }
            assert await one.closed() == await other.closed() == 1001

    async def test_what_runs_detached_or_paused_is_ended_too(self, daemon):
        """Nothing outlives the daemon: not what was to outlive its client, and not what stands still."""
        async with daemon.client() as one:
            detached = await one.execute("sleep", "60", on_disconnect="detach")
            paused = await one.execute("sleep", "60")
            await paused.control("PAUSE")
            answer = await daemon.ask("stop")
            assert {each["execution_id"] for each in answer["ended"]} == {detached.id, paused.id}
            assert state_of(detached.pid) in {"", "Z"}
            assert state_of(paused.pid) in {"", "Z"}

    async def test_what_was_left_running_is_ended_too(self, daemon):
        """Not waited for by a drain, for its execution is over; ended with grace before the stop is answered."""
        async with daemon.client() as one:
            left = await one.run(command=f"({STUBBORN}) & true", leftovers="detach", grace=0.3)
            pids = (await left.completed())["leftovers"]
            assert state_of(pids[0]) in {"R", "S"}
            with trio.fail_after(PATIENCE):
                assert (await daemon.ask("stop", drain=600))["ended"] == []
            assert {state_of(pid) for pid in pids} <= {"", "Z"}

    async def test_asked_again_it_hurries_what_was_left_running(self, daemon):
        """Its grace is not waited for either."""
        async with daemon.client() as one, daemon.operator() as operator:
            await one.run(command=f"({STUBBORN}) & sleep 0.2", leftovers="detach", grace=600)
            first = await operator.ask("stop")
            await one.notification("server.draining")
            with trio.fail_after(PATIENCE):
                await daemon.ask("stop")
                await operator.answer(first)

    async def test_grace_is_what_the_stop_says(self, daemon):
        """`grace` counts instead of what executions have asked for; KILL follows it."""
        async with daemon.client() as one:
            stubborn = await one.execute(command=STUBBORN, grace=600)
            await stubborn.printed("ready")
            with trio.fail_after(PATIENCE):
                answer = await daemon.ask("stop", grace=0.2)
            assert [each["exit_code"] for each in answer["ended"]] == [-9]

    @pytest.mark.parametrize("drain", [0, 600], ids=["ending", "draining"])
    async def test_asked_again_it_hurries(self, daemon, drain):
        """A second stop waits no longer, neither for the end of a drain nor for a grace; both are answered."""
        async with daemon.client() as one, daemon.operator() as operator:
            stubborn = await one.execute(command=STUBBORN, grace=600)
            await stubborn.printed("ready")
            first = await operator.ask("stop", drain=drain)
            await one.notification("server.draining")
            with trio.fail_after(PATIENCE):
                second = await daemon.ask("stop")
                assert [each["exit_code"] for each in second["ended"]] == [-9]
                assert await operator.answer(first) == second

    async def test_what_it_asks_of_nobody_who_is_starting(self, daemon):
        """Commands that were asked for in the very moment of the stop end as well, or never begin."""
        async with daemon.client() as one:
            numbers = [await one.ask("execute", argv=["sleep", "60"]) for _ in range(20)]
            answer = await daemon.ask("stop", grace=1)
            assert await one.closed() == 1001
            begun = {each["execution_id"] for each in answer["ended"]}
            replies = {each["id"]: each for each in one.received if "id" in each}
            refused = [each["error"]["code"] for each in replies.values() if "error" in each]
            assert len(begun) + len(refused) <= len(numbers)
            assert set(refused) <= {-32010}
            for reply in replies.values():
                if "result" in reply:
                    assert reply["result"]["execution_id"] in begun
                    assert state_of(reply["result"]["pid"]) in {"", "Z"}

    async def test_the_operator_is_served_until_the_end(self, daemon):
        """While executions are being ended, status, list, health and control answer."""
        async with daemon.client() as one, daemon.operator() as operator:
            stubborn = await one.execute(command=STUBBORN, grace=600)
            await stubborn.printed("ready")
            stop = await operator.ask("stop")
            announced = await one.notification("server.draining")
            assert (await daemon.ask("status"))["state"] == "draining"
            assert (await daemon.ask("health"))["status"] == "draining"
            assert (await daemon.ask("list"))["executions"][0]["state"] == "TERMINATING"
            with pytest.raises(RefusedError) as refused:
                await daemon.ask("execute", argv=["true"])
            assert refused.value.code == -32010
            assert refused.value.facts == {"deadline": announced["deadline"]}
            assert (await daemon.ask("control", type="KILL", execution_id=stubborn.id))["status"] == "killed"
            assert len((await operator.answer(stop))["ended"]) == 1


class TestDrain:
    """What runs may finish by itself, for as long as it is given."""

    async def test_what_finishes_in_time_was_not_ended(self, daemon):
        """With everything finished by itself, the stop has ended nothing, and does not wait any longer."""
        async with daemon.client() as one:
            execution = await one.execute("cat", stdin="open")
            async with daemon.operator() as operator:
                stop = await operator.ask("stop", drain=600)
                await one.notification("server.draining")
                await one.request("write_stdin", execution_id=execution.id, data="to the end\n")
                await one.request("close_stdin", execution_id=execution.id)
                with trio.fail_after(PATIENCE):
                    assert await operator.answer(stop) == {"ended": [], "sessions": 1}
            assert (await execution.completed())["exit_code"] == 0
            assert execution.stdout == "to the end\n"
            assert await one.closed() == 1001

    async def test_what_does_not_is_ended_when_the_time_is_up(self, daemon):
        """After the drain, TERM and the rest."""
        async with daemon.client() as one:
            await one.execute("sleep", "60")
            with trio.fail_after(PATIENCE):
                answer = await daemon.ask("stop", drain=0.2)
            assert [each["reason"] for each in answer["ended"]] == ["shutdown"]

    async def test_the_configuration_says_how_long_when_the_stop_does_not(self, tmp_path):
        """`drain_timeout` is the default, after a reload the new one."""
        async with running(tmp_path) as daemon, daemon.client() as one:
            (tmp_path / "ccexecd.toml").write_text("drain_timeout = 600\n")
            await daemon.ask("reload")
            execution = await one.execute("cat", stdin="open")
            async with daemon.operator() as operator:
                stop = await operator.ask("stop")
                await one.notification("server.draining")
                assert (await daemon.ask("status", execution_id=execution.id))["state"] == "RUNNING"
                await one.request("close_stdin", execution_id=execution.id)
                assert (await operator.answer(stop))["ended"] == []


class TestFaults:
    """What goes wrong inside or around it."""

    async def test_clients_of_a_keeper_that_is_killed_go_on(self, tmp_path):
        """What it kept is `lost` and gone; connections stay, and the next command runs under the next keeper."""
        async with running(tmp_path) as daemon, daemon.client() as one, daemon.client() as other:
            keeper = (await daemon.ask("status"))["keeper"]["pid"]
            executions = [await client.execute("sh", "-c", "sleep 60 & wait") for client in (one, one, other)]
            os.kill(keeper, signal.SIGKILL)
            for execution in executions:
                ended = await execution.completed()
                assert (ended["reason"], ended["status"]) == ("lost", "failed")
                assert ended["exit_code"] != 0
                assert state_of(execution.pid) in {"", "Z"}
            for client in (one, other):
                assert (await client.run("echo", "fine")).stdout == "fine\n"
            assert (await daemon.ask("status"))["keeper"]["pid"] != keeper
            assert "the keeper ended unexpectedly" in daemon.errors.pop(0)
            daemon.errors.clear()

    async def test_a_fault_that_nobody_expected_ends_it_at_once(self, tmp_path, monkeypatch):
        """It ends with that fault, however much grace somebody has asked for, and nothing goes on running."""

        async def fail(*_: object) -> None:
            await trio.sleep(0.1)
            raise RuntimeError("nobody expected this")

        monkeypatch.setattr(Daemon, "_feed_watchdog", fail)
        pids: list[int] = []
        with pytest.raises(BaseExceptionGroup) as failed, trio.fail_after(PATIENCE):
            await self._serve_with_an_execution(tmp_path, pids)
        assert [str(each) for each in leaves(failed.value)] == ["nobody expected this"]
        assert not (tmp_path / "control.sock").exists()
        await eventually(lambda: state_of(pids[0]) in {"", "Z"}, "its program has been ended")
        await eventually(lambda: not children(), "the keeper is gone")

    @staticmethod
    async def _serve_with_an_execution(directory: Path, pids: list[int]) -> None:
        """Serve, with something running that has ten minutes to end."""
        params = {"argv": ["sleep", "60"], "grace": 600, "on_disconnect": "detach"}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made(directory).serve)
            await eventually((directory / "control.sock").exists, "it is up")
            started = await asked(directory, "execute", **params)
            pids.append(started["pid"])
            await trio.sleep_forever()

    async def test_200_executions_leave_no_descriptor_and_no_task(self, daemon):
        """After any number of commands the daemon has what it had before."""
        async with daemon.client() as one:
            first = await one.run("true")
            await one.request("verify", execution_id=first.id)  # the file of receipts stays open
            await wait_all_tasks_blocked()
            before, tasks = descriptors(), trio.lowlevel.current_statistics().tasks_living
            for _ in range(4):
                async with trio.open_nursery() as nursery:
                    for number in range(50):
                        nursery.start_soon(self._execute, one, number)
            await eventually(lambda: trio.lowlevel.current_statistics().tasks_living == tasks, "no task is left")
            assert descriptors().keys() == before.keys()
        counts = (await daemon.ask("status"))["executions"]
        assert (counts["live"], counts["finished"], counts["total_started"]) == (0, 201, 201)

    @staticmethod
    async def _execute(one: Any, number: int) -> None:
        match number % 5:
            case 0:
                execution = await one.execute("cat", stdin="open")
                await execution.control("KILL")
            case 1:
                execution = await one.execute("sleep", "60")
                await execution.control("CANCEL")
            case 2:
                with pytest.raises(RefusedError):
                    await one.execute("/no/such/program")
                return
            case 3:
                execution = await one.execute(command="sleep 60 & exit 3", grace=0.1)
            case _:
                execution = await one.execute("echo", str(number))
        await execution.completed()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator["Manager"]:
    """A service manager that listens for notifications."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as receiving:
        receiving.bind(str(tmp_path / "notify"))
        receiving.setblocking(False)
        yield Manager(receiving, tmp_path / "notify")


class Manager:
    """What systemd would hear.

    Attributes:
        environ: what a daemon needs to speak to it.
    """

    def __init__(self, receiving: socket.socket, path: Path) -> None:
        self.environ = {"NOTIFY_SOCKET": str(path)}
        self._receiving = receiving

    def heard(self) -> list[dict[str, str]]:
        """What has been notified since the last time."""
        found = []
        while True:
            try:
                text = self._receiving.recv(4096).decode()
            except BlockingIOError:
                return found
            found.append(dict(line.split("=", 1) for line in text.splitlines()))


class TestServiceManager:
    """systemd hears the truth at each turn (sd_notify(3))."""

    async def test_from_ready_to_stopping(self, tmp_path, manager):
        """READY with pid and status when it serves; STOPPING with what it is about to end, and for how long."""
        async with running(tmp_path, environ=manager.environ) as daemon, daemon.client() as one:
            (ready,) = manager.heard()
            assert ready.pop("STATUS") == f"listening on 127.0.0.1:{daemon.address[1]}"
            assert ready == {"READY": "1", "MAINPID": str(os.getpid())}
            await one.execute("sleep", "60", grace=20)
            await daemon.ask("stop", drain=0.1)
            stopping, extension = manager.heard()
            assert stopping == {"STOPPING": "1", "STATUS": "ending 1 executions"}
            assert 50_100_000 <= int(extension["EXTEND_TIMEOUT_USEC"]) < 60_000_000
        assert manager.heard() == []

    @pytest.mark.parametrize("text", ["max_sessions = 7\n", "max_sessions = 0\n"], ids=["good", "bad"])
    async def test_a_reload_is_announced_and_ended(self, tmp_path, manager, text):
        """RELOADING with its time, then READY: also when the new configuration is not taken."""
        async with running(tmp_path, environ=manager.environ) as daemon:
            manager.heard()
            (tmp_path / "ccexecd.toml").write_text(text)
            async with daemon.operator() as one:
                number = await one.ask("reload")
                await one.until(lambda message: message.get("id") == number)
            reloading, ready = manager.heard()
            assert reloading["RELOADING"] == "1"
            assert int(reloading["MONOTONIC_USEC"]) > 0
            assert ready["READY"] == "1"

    async def test_the_watchdog_is_fed(self, tmp_path, manager):
        """Three times in each interval that systemd asks for, until the end."""
        environ = {**manager.environ, "WATCHDOG_USEC": "60000"}
        async with running(tmp_path, environ=environ):
            fed = 0
            with trio.fail_after(PATIENCE):
                while fed < 6:
                    fed += manager.heard().count({"WATCHDOG": "1"})
                    await trio.lowlevel.checkpoint()

    async def test_the_watchdog_is_fed_while_executions_are_being_ended(self, tmp_path, manager):
        """A long grace is no hang."""
        environ = {**manager.environ, "WATCHDOG_USEC": "60000"}
        async with running(tmp_path, environ=environ) as daemon, daemon.client() as one:
            stubborn = await one.execute(command=STUBBORN, grace=600)
            await stubborn.printed("ready")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon.daemon.stop, 0.0, None)
                await one.notification("server.draining")
                manager.heard()
                with trio.fail_after(PATIENCE):
                    while {"WATCHDOG": "1"} not in manager.heard():
                        await trio.lowlevel.checkpoint()
                await stubborn.control("KILL")

    async def test_a_manager_that_does_not_listen_is_no_trouble(self, tmp_path):
        """A socket that is gone, or full, keeps the daemon from nothing."""
        async with running(tmp_path, environ={"NOTIFY_SOCKET": str(tmp_path / "gone")}) as daemon:
            assert await daemon.ask("reload") == {"changed": [], "needs_restart": []}


class TestLog:
    """The log can be rotated under it."""

    async def test_it_is_reopened(self, tmp_path):
        """After a rename and a reload, what is logged goes into a new file at the old path."""
        path = tmp_path / "ccexecd.log"
        fd = logs.open_file(path)
        lines = logs._LineHandler(fd, has_priorities=False)
        module.log.addHandler(lines)
        module.log.setLevel("INFO")
        try:
            async with running(tmp_path, log=logs.Log(lines, path)) as daemon:
                assert "listening" in path.read_text()
                path.rename(tmp_path / "ccexecd.log.1")
                await daemon.ask("reload")
                assert "reloaded" in path.read_text()
                assert "reloaded" not in (tmp_path / "ccexecd.log.1").read_text()
                assert (await daemon.ask("status"))["log_file"] == str(path)
        finally:
            module.log.removeHandler(lines)
            module.log.setLevel("NOTSET")
            logs.logging.getLogger().setLevel("WARNING")
            os.close(fd)


class TestSignals:
    """A daemon in a process of its own, and what `kill` does to it."""

    @pytest.fixture
    def process(self, tmp_path: Path) -> Iterator[Process]:
        one = Process(tmp_path)
        yield one
        one.stop()

    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_it_ends(self, process, signum):
        """TERM, or Ctrl-C: what runs is ended, nothing is left, and the exit status is 0."""
        process.request("execute", argv=["sleep", "60"], on_disconnect="detach")
        process.process.send_signal(signum)
        assert process.process.wait(PATIENCE) == 0
        assert f"{signum.name} received" in process.log

    def test_asked_again_it_hurries(self, process):
        """A second TERM does not wait for anybody's grace."""
        execution = process.request("execute", command=STUBBORN, grace=600, on_disconnect="detach")
        ready = partial(process.request, "read_output", execution_id=execution["execution_id"])
        wait_for(lambda: ready()["chunks"], "it is ready", PATIENCE)
        process.process.send_signal(signal.SIGTERM)
        wait_for(lambda: process.request("status")["state"] == "draining", "it drains", PATIENCE)
        assert process.process.poll() is None
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(PATIENCE) == 0

    def test_hup_is_a_reload(self, process):
        """A good configuration is taken, a bad one logged and not taken; the daemon goes on either way."""
        file = process.state_dir / "ccexecd.toml"
        file.write_text("max_sessions = 7\n")
        process.process.send_signal(signal.SIGHUP)
        wait_for(lambda: process.request("health")["max_sessions"] == 7, "it has reloaded", PATIENCE)
        file.write_text("max_sessions = 0\n")
        process.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "not reloaded" in process.log, "it has refused", PATIENCE)
        refusal = json.loads(process.log.splitlines()[-1])
        assert refusal["level"] == "warning"
        assert "max_sessions" in refusal["message"]
        assert str(file) in refusal["message"]
        assert process.request("health")["max_sessions"] == 7

    def test_a_storm_of_signals(self, process):
        """Any number of HUPs at once is one reload or a few; it serves on."""
        for _ in range(200):
            process.process.send_signal(signal.SIGHUP)
        assert process.request("health")["status"] == "healthy"

    def test_a_detached_one_reopens_its_log_on_hup(self, tmp_path):
        """logrotate's way: rename, HUP; the new file appears with what comes."""
        command = [sys.executable, "-m", "ccexecd", "--port", "0", "--state-dir", str(tmp_path)]
        started = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
        pid = int(started.stdout.partition("pid ")[2].partition(")")[0])
        log = tmp_path / "ccexecd.log"
        try:
            log.rename(tmp_path / "ccexecd.log.1")
            os.kill(pid, signal.SIGHUP)
            wait_for(lambda: log.exists() and "reloaded" in log.read_text(), "it writes there", PATIENCE)
        finally:
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: state_of(pid) in {"", "Z"}, "it has ended", PATIENCE)
        assert "SIGTERM received" in log.read_text()
