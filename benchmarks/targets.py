"""The programs that are compared: how each is started, what processes it consists of, and how it is stopped.

Owns the life of a server, for one measurement each: nothing that one row did is in the memory that the next one finds.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from client import Connection, RefusedError, connect, until
from processes import descendants, kill_what_is_left

PEERS = Path(__file__).resolve().parent / "peers"

SHELL = "/bin/sh"
"""Runs the commands of all targets, so that not the start of two shells is compared."""

ROOM = "20000"
"""Sessions and connections that ccexecd is told to allow."""

PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
"""The only variables of our environment that servers get: nothing there may tune one of them."""

START_SECONDS = 30.0
STOP_SECONDS = 20.0
WIND_UP_SECONDS = 5.0


class NotStartedError(Exception):
    """A server ended by itself, or did not answer in time."""


@dataclass(frozen=True)
class Target:
    """A program to measure.

    Attributes:
        name: in results and on the command line.
        about: one line for the results.
        command: its words, given its port and a new directory that is its own.
        environment: its variables, given its port.
        params: further params of every `execute`.
        subprotocol: what the client asks for.
    """

    name: str
    about: str
    command: Callable[[int, Path], list[str]]
    environment: Callable[[int], Mapping[str, str]]
    params: dict = field(default_factory=dict)
    subprotocol: str | None = None

    @asynccontextmanager
    async def running(self, work: Path) -> "AsyncIterator[Server]":
        """Start it, and stop it with everything below it.

        Args:
            work: where its directory and its log are made.

        Raises:
            NotStartedError: it does not work.
        """
        server = Server(self, work)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


class Server:
    """A target that runs.

    Attributes:
        start_ms: from its start to its first greeting.
        pid: of the process that was started.
        pids: of that and what it keeps beside it (ccexecd's keeper): all that run before there is any command.
    """

    def __init__(self, target: Target, work: Path):
        self._target = target
        self._port = free_port()
        self._directory = Path(new_directory(work, target.name))
        self._process: subprocess.Popen | None = None
        self._url = f"ws://127.0.0.1:{self._port}/ws/mcp"
        self.start_ms = 0.0
        self.pid = 0
        self.pids: list[int] = []

    async def connect(self) -> Connection:
        """Connect a client."""
        return await connect(self._url, self._target.params, self._target.subprotocol)

    async def start(self) -> None:
        """Start it; return when it has greeted a client."""
        began = time.monotonic()
        self._process = self._launch()
        self.pid = self._process.pid
        connection = await self._first_connection(began + START_SECONDS)
        self.start_ms = (time.monotonic() - began) * 1000
        await connection.close()
        await asyncio.sleep(0.5)  # what starts lazily has started, and the interpreter has settled
        self.pids = [self.pid, *(process.pid for process in descendants(self.pid))]

    async def stop(self) -> None:
        """Stop it as an operator would, then make sure that nothing is left."""
        if self._process is None:
            return
        await self._quiet()
        below = descendants(self.pid)
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{self._target.name}: does not stop, and is killed", file=sys.stderr)
            self._process.kill()
            self._process.wait()
        if left := kill_what_is_left(below):
            print(f"{self._target.name}: left {left} processes behind; they are killed", file=sys.stderr)

    async def _quiet(self) -> None:
        """Let it end what clients that have gone left running, as each target does by itself."""
        with suppress(TimeoutError):
            await until(lambda: len(descendants(self.pid)) <= len(self.pids[1:]), WIND_UP_SECONDS, 0.02)

    def _launch(self) -> subprocess.Popen:
        with (self._directory / "log").open("wb") as log:
            return subprocess.Popen(
                self._target.command(self._port, self._directory),
                env=environment(self._target.environment(self._port)),
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _first_connection(self, until: float) -> Connection:
        while self._process.poll() is None and time.monotonic() < until:
            with suppress(OSError, RefusedError):
                return await self.connect()
            await asyncio.sleep(0.002)
        log = (self._directory / "log").read_text(errors="replace")
        raise NotStartedError(f"{self._target.name} did not start: {log[-500:] or 'it says nothing'}")


def ccexecd(program: Path) -> Target:
    """This project.

    Args:
        program: `ccexecd`, in the environment that it is installed into.
    """
    return Target(
        name="ccexecd",
        about=f"defaults, but for {ROOM} sessions and connections, and {SHELL}",
        command=lambda port, directory: [
            str(program), "--foreground", "--port", str(port), "--state-dir", str(directory / "state"),
        ],
        environment=lambda _: {
            "CCEXECD_MAX_SESSIONS": ROOM, "CCEXECD_MAX_CONNECTIONS": ROOM, "CCEXECD_SHELL": SHELL,
        },
        params={"framing": "lines"},
        subprotocol="ccexec.v1",
    )  # fmt: skip


def _node(name: str, about: str, extra: Mapping[str, str]) -> Target:
    return Target(
        name=name,
        about=about,
        command=lambda *_: ["node", str(PEERS / "node_ws.mjs")],
        environment=lambda port: {"PORT": str(port), "NODE_ENV": "production", **extra},
    )


def _websockets(name: str, about: str, extra: Mapping[str, str]) -> Target:
    return Target(
        name=name,
        about=about,
        command=lambda *_: [sys.executable, str(PEERS / "websockets_asyncio.py")],
        environment=lambda port: {"PORT": str(port), **extra},
    )


KNOWN_PEERS = {
    target.name: target
    for target in (
        _node("node", "child_process; no limit to what waits for a client", {}),
        _node(
            "node-limited", "the same, reading no more output while 1 MiB waits for a client", {"HIGH_WATER": "1048576"}
        ),
        _websockets("websockets", "asyncio", {}),
        _websockets("websockets-uvloop", "the same on uvloop", {"LOOP": "uvloop"}),
    )
}


def missing_for(peer: str) -> str | None:
    """What a peer needs and this machine lacks, with the command that brings it."""
    if peer.startswith("node"):
        if shutil.which("node") is None:
            return f"{peer}: there is no `node` in PATH"
        if not (PEERS / "node_modules" / "ws").is_dir():
            return f"{peer}: no `ws`; run: npm install --prefix benchmarks/peers"
    elif importlib.util.find_spec("websockets") is None:
        return f"{peer}: no `websockets` in this Python; run: {Path(sys.executable).name} -m pip install websockets"
    return None


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server: little, and the same for all."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | dict(extra)


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def new_directory(work: Path, name: str) -> Path:
    """Make a directory that was not there."""
    number = sum(1 for _ in work.iterdir())
    directory = work / f"{number:03}-{name}"
    directory.mkdir()
    return directory
