"""A scripted daemon behind a real Unix socket, and ccexecctl called in this process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ccexecd
from ccexecctl import __main__ as ctl_main
from ccexecctl import launch
from ccexecd import __version__, pidfile

STATUS = {
    "pid": 4711,
    "state": "running",
    "version": __version__,
    "started_at": "2026-01-02T03:04:05Z",
    "uptime_seconds": 7384.2,
    "address": "127.0.0.1:8003",
    "url": "ws://127.0.0.1:8003/ws/mcp",
    "control_socket": "/run/ccexecd/control.sock",
    "pidfile": "/run/ccexecd/ccexecd.pid",
    "log_file": None,
    "state_dir": "/var/lib/ccexecd",
    "config_file": None,
    "sessions": 1,
    "max_sessions": 100,
    "connections": 2,
    "executions": {"live": 3, "finished": 4, "total_started": 7, "queued": 1, "max_running": 64},
    "keeper": {"pid": 4712},
    "memory_bytes": 36_700_160,
}


class Refusal(NamedTuple):
    """An answer that is an error."""

    code: int
    message: str
    data: Any = None


class Conversation:
    """The daemon's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def raw(self, sent: bytes) -> None:
        self.connection.sendall(sent)

    def send(self, message: dict[str, Any]) -> None:
        self.raw(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def reply(self, request: dict[str, Any], result: Any) -> None:
        self.send({"id": request["id"], "result": result})

    def notify(self, method: str, **params: Any) -> None:
        self.send({"method": method, "params": {"execution_id": "e1", **params}})

    def output(self, data: str, stream: str = "stdout", **more: Any) -> None:
        self.notify("process.output", type=stream, data=data, **more)

    def completed(self, exit_code: int | None = 0, reason: str = "exited", **more: Any) -> None:
        self.notify("process.completed", exit_code=exit_code, reason=reason, **more)

    def close(self) -> None:
        # shutdown: the serving thread still holds a file object on the socket, so that close alone would wait for it
        self.connection.shutdown(socket.SHUT_RDWR)


class ScriptedDaemon:
    """Answers what the table `answers` says, and remembers what it was asked.

    An answer is a result, a `Refusal`, or a function of the conversation and the request that does it all itself.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.path = directory / "control.sock"
        self.pidfile = pidfile.PidFile(directory / "ccexecd.pid")
        self.requests: list[dict[str, Any]] = []
        self.arrived = threading.Condition()
        self.answers: dict[str, Any] = {
            "status": {**STATUS, "pid": os.getpid(), "pidfile": str(self.pidfile.path)},
            "health": {"status": "healthy"},
            "config": {
                "config": {"port": 8003, "drain_timeout": 0.0, "process_cleanup_timeout": 1.0},
                "sources": {"port": "default", "drain_timeout": "default", "process_cleanup_timeout": "default"},
            },
            "version": {"version": __version__, "protocol": "ccexec.v1", "python": "3.11.7"},
        }
        self._listener: socket.socket | None = None

    def hold_lock(self) -> None:
        self.pidfile.acquire().write()

    def listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        if self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            self.path.unlink(missing_ok=True)
        self.pidfile.release()

    def asked(self, method: str) -> list[dict[str, Any]]:
        """The params of every request for a method so far."""
        return [request["params"] for request in self.requests if request["method"] == method]

    def wait_for(self, method: str, times: int = 1) -> list[dict[str, Any]]:
        """The same, once there are as many."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.asked(method)) >= times, timeout=10), self.requests
            return self.asked(method)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        conversation = Conversation(connection)
        with connection, connection.makefile("rb") as lines:
            try:
                for line in lines:
                    self._answer(conversation, json.loads(line))
            except OSError:
                return

    def _answer(self, conversation: Conversation, request: dict[str, Any]) -> None:
        with self.arrived:
            self.requests.append(request)
            self.arrived.notify_all()
        answer = self.answers.get(request["method"], Refusal(-32601, f"no method {request['method']!r}"))
        if callable(answer):
            answer(conversation, request)
        elif isinstance(answer, Refusal):
            conversation.send({"id": request["id"], "error": answer._asdict()})
        else:
            conversation.reply(request, answer)


class Said(NamedTuple):
    """What one call of ccexecctl came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def plain(self) -> str:
        """What is on stderr, as if no place had been named."""
        return re.sub(r" --state-dir \S+", "", self.err)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test finds a daemon of this machine, or its configuration."""
    for name in [name for name in os.environ if name.startswith(("CCEXECD_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def stopped_daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    """A daemon that does not run yet, in the place where `ctl` looks."""
    daemon = ScriptedDaemon(tmp_path / "d")
    yield daemon
    daemon.close()


@pytest.fixture
def daemon(stopped_daemon: ScriptedDaemon) -> ScriptedDaemon:
    """A daemon that holds its lock and answers."""
    stopped_daemon.hold_lock()
    stopped_daemon.listen()
    return stopped_daemon


@pytest.fixture
def ctl(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Call ccexecctl about the daemon of this test."""

    def call(*words: str) -> Said:
        try:
            code = ctl_main.main(["--state-dir", str(tmp_path / "d"), *words])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        sys.stdout.flush()
        return Said(int(code), *capfd.readouterr())

    return call


Processes = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def ctl_process(tmp_path: Path) -> Iterator[Processes]:
    """Start ccexecctl as a process of its own, for signals and pipes."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **popen: Any) -> subprocess.Popen[bytes]:
        # As `python -m ccexecctl`, except that the daemon that it would start is that of this process's `launch`.
        program = (
            "import sys; from ccexecctl import __main__ as ctl, launch\n"
            f"launch.DAEMON = {launch.DAEMON!r}\n"
            "sys.exit(ctl.main())"
        )
        command = [sys.executable, "-c", program, "--state-dir", str(tmp_path / "d"), *words]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        started.append(subprocess.Popen(command, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def refusal() -> type[Refusal]:
    """The class of answers that are errors: tests cannot import from here."""
    return Refusal


class StandIn:
    """What the stand-in daemons of a test have left in their directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pidfile = directory / "ccexecd.pid"

    def started(self, pid: int | None = None) -> Any:
        """How they were called: all of them, or the one with this pid."""
        files = self.directory.glob("started-*" if pid is None else f"started-{pid}")
        found = [json.loads(file.read_text()) for file in files]
        return found if pid is None else found[0]

    def silence(self) -> None:
        """Take the control socket away from a running one."""
        (self.directory / "control.sock").unlink()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Whoever starts ccexecd starts the stand-in instead; all that were started are ended."""
    program = str(Path(__file__).with_name("stand_in_daemon.py"))
    monkeypatch.setattr(launch, "DAEMON", (program,))
    monkeypatch.setenv("PYTHONPATH", str(Path(ccexecd.__file__).parent.parent))
    stand_in = StandIn(tmp_path / "d")
    yield stand_in
    pidfile.signal_daemon(stand_in.pidfile, signal.SIGKILL)
