"""A real daemon for tests: started as a program, found by what it promises, and gone without a trace at the end.

Owns the process and the look at /proc. Every process that a daemon starts inherits a mark of ours in its environment,
whatever group or session it has gone into, so that what is left of it can be told from everything else here.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trio

from ccexecd.paths import socket_address

CHECKOUT = Path(__file__).parents[2]

MARK = "E2E_DAEMON"
"""Environment variable that tells the processes of one daemon."""

START_LIMIT = 30.0
"""Seconds for a daemon to answer; it takes half a second."""

STOP_LIMIT = 30.0
"""Seconds for a daemon to end after SIGTERM, and for everything of it to be gone."""

_PAUSE = 0.01  # between two looks at a condition


class Daemon:
    """A running `ccexecd --foreground --port 0`.

    Args:
        state_dir: where it puts everything; its log is stderr, kept there too.
        descriptors: how many it may have open; None is as many as we may.
        config: keys of its configuration, given in the environment.

    Attributes:
        pid: its main process.
        address: host and port of the WebSocket.
        url: the same as a client writes it.
        may_log_errors: set by a test that provokes errors in the daemon's log.
    """

    def __init__(self, state_dir: Path, *, descriptors: int | None = None, **config: object) -> None:
        self.state_dir = state_dir
        self.may_log_errors = False
        self._mark = uuid.uuid4().hex
        self._log = state_dir / "stderr.log"
        bound = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"] if descriptors is not None else []
        with self._log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*bound, sys.executable, "-m", "ccexecd", "--foreground", "--port", "0", "--state-dir", state_dir],
                cwd=CHECKOUT,
                env=self._environment(config),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests, which then stop it
            )
        self.pid = self.process.pid
        try:
            status = self._ready()
        except BaseException:
            self.kill()
            raise
        self.url: str = status["url"]
        host, _, port = status["address"].rpartition(":")
        self.address = (host, int(port))

    def _environment(self, config: dict[str, object]) -> dict[str, str]:
        """Nothing of ours that could make a difference; coverage measures in there when it is asked to."""
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COV")}
        keys = {f"CCEXECD_{name.upper()}": str(value) for name, value in config.items()}
        return {**kept, "HOME": str(self.state_dir), "LANG": "C.UTF-8", MARK: self._mark, **keys}

    def _ready(self) -> dict[str, Any]:
        def answers() -> dict[str, Any] | None:
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log}")
            try:
                return self.request("status")
            except (FileNotFoundError, ConnectionRefusedError):
                return None

        return wait_for(answers, "the daemon answers", START_LIMIT)

    def request(self, method: str, **params: object) -> Any:
        """Ask at the control socket; blocks for a moment."""
        with ExitStack() as stack:
            stream = stack.enter_context(socket.socket(socket.AF_UNIX))
            stream.settimeout(START_LIMIT)
            stream.connect(socket_address(self.state_dir / "control.sock", stack))
            stream.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
            reply = json.loads(stack.enter_context(stream.makefile()).readline())
        assert "error" not in reply, reply
        return reply["result"]

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="replace")

    @property
    def keeper(self) -> int:
        """The keeper's pid."""
        return self.request("status")["keeper"]["pid"]

    def processes(self, execution_id: str | None = None) -> list[int]:
        """Living processes: of one execution, or of all executions together."""
        name = f"CCEXEC_EXECUTION_ID={execution_id or ''}"
        return sorted(pid for pid, environment in self._marked() if any(each.startswith(name) for each in environment))

    def _marked(self) -> list[tuple[int, list[str]]]:
        mark = f"{MARK}={self._mark}"
        everything = ((int(path.name), environment_of(int(path.name))) for path in Path("/proc").glob("[0-9]*"))
        return [(pid, environment) for pid, environment in everything if mark in environment]

    def kill(self) -> None:
        """End it at once, and wait until all that was of it has gone too: the keeper sees to that."""
        self.process.kill()
        self.process.wait()
        self.wait_until_nothing_is_left()

    def stop(self) -> None:
        """End it as its operator would, and see that nothing at all is left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"SIGTERM did not end the daemon within {STOP_LIMIT} s:\n{self.log}") from None
            assert self.process.returncode == 0, f"the daemon ended with {self.process.returncode}:\n{self.log}"
        self.wait_until_nothing_is_left()
        left = {path.name for path in self.state_dir.iterdir()} & {"control.sock", "ccexecd.pid"}
        assert not left or self.process.returncode == -signal.SIGKILL, f"{left} is left of the daemon"
        with socket.socket() as probe:
            assert probe.connect_ex(self.address) != 0, "somebody still listens on the daemon's port"
        assert self.may_log_errors or not self.errors(), f"the daemon logged errors:\n{self.log}"

    def wait_until_nothing_is_left(self) -> None:
        """Wait until no process has this daemon's mark: neither keeper nor leader nor what they started."""
        try:
            wait_for(lambda: not self._marked(), "no process of the daemon is left", STOP_LIMIT)
        except AssertionError as late:
            left = {pid: command_of(pid) for pid, _ in self._marked()}
            for pid in left:
                os.kill(pid, signal.SIGKILL)  # the tests that follow should not suffer from it
            raise AssertionError(f"{late}: {left}") from None

    def errors(self) -> list[str]:
        """Lines of the log that say that something went wrong inside."""
        return [line for line in self.log.splitlines() if not line.startswith("{") or '"level":"error"' in line]


def environment_of(pid: int) -> list[str]:
    """The environment that a process was started with; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended, or belongs to somebody else
        return []


def state_of(pid: int) -> str:
    """The state letter of a process as proc(5) has it: R, S, T, …; empty when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat[stat.rindex(")") + 2]


def command_of(pid: int) -> list[str]:
    """The words that a process was started with."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def wait_for(condition: Callable[[], Any], what: str, within: float) -> Any:
    """Wait until a condition holds, and give its value."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(_PAUSE)
    return value


async def eventually(condition: Callable[[], Any], what: str, within: float = 10.0) -> Any:
    """Wait until a condition holds, others going on meanwhile, and give its value."""
    deadline = trio.current_time() + within
    while not (value := condition()):
        assert trio.current_time() < deadline, f"not within {within} s: {what}"
        await trio.sleep(_PAUSE)
    return value
