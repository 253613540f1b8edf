"""A daemon in the process of the tests: its sockets, keeper and executions are real, and its inside can be looked at.

Owns its start, its end, and what must hold after every end: no error in the log, no socket file, no process. The
client of the end-to-end tests speaks through both doors: for the control socket, `operator` dresses it up.
"""

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import trio
from trio_websocket import CloseReason, ConnectionClosed

from ccexecd.config import load
from ccexecd.core.redaction import Redactor
from ccexecd.daemon import Daemon
from ccexecd.paths import socket_address
from ccexecd.systemd import Notifier
from tests.e2e.client import PATIENCE, Client, connect

QUICK = {"port": 0, "process_cleanup_timeout": 2.0}
"""Keys that every daemon of the tests is started with."""


class LogStandIn:
    """The log as the daemon sees it, without taking this process's logging over.

    Attributes:
        path: the log file; None is stderr.
        level: what was set last.
        reopened: how often it was reopened.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.level = ""
        self.reopened = 0

    def set_level(self, level: str) -> None:
        self.level = level

    def redact(self, redactor: Redactor) -> None:
        self.redactor = redactor

    def reopen(self) -> None:
        self.reopened += 1
        if self.path is not None:
            self.path.touch()


class _Errors(logging.Handler):
    """Collects what the daemon logs as an error: nothing, in most tests."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(logging.Formatter().format(record))


class Running:
    """A daemon that serves.

    Attributes:
        daemon: it.
        directory: its state directory.
        control_socket: where its operator finds it.
        address: host and port of its WebSocket.
        errors: what it has logged as an error; a test that provokes one takes it away.
    """

    def __init__(self, daemon: Daemon, directory: Path, control_socket: Path, errors: list[str]) -> None:
        self.daemon = daemon
        self.directory = directory
        self.control_socket = control_socket
        self.errors = errors
        host, _, port = daemon._door.addresses[0].rpartition(":")
        self.address = (host, int(port))

    def client(self, **options: Any) -> AbstractAsyncContextManager[Client]:
        """A client on a WebSocket of its own."""
        return connect(self.address, **options)

    async def connect(self) -> trio.SocketStream:
        """A plain connection to the control socket."""
        return await connect_to(self.control_socket)

    async def dial(self) -> trio.SocketStream:
        """A plain connection to the port."""
        with trio.fail_after(PATIENCE):
            return await trio.open_tcp_stream(*self.address)

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[Client]:
        """An operator on a connection of its own."""
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                stream = await self.connect()
                operator = Client(_Lines(stream), stream)
                nursery.start_soon(operator.read)
                try:
                    yield operator
                except BaseException as error:
                    failure = error
                    raise
                finally:
                    await trio.aclose_forcefully(stream)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup:
            if failure is None:
                raise
            raise failure from None  # a failed assertion reads better outside of the nursery's group

    async def ask(self, method: str, **params: Any) -> Any:
        """Ask one thing as an operator."""
        async with self.operator() as one:
            return await one.request(method, **params)


class _Lines:
    """The control socket with the face of a WebSocket: a message is a line."""

    subprotocol = None

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._received = bytearray()
        self.closed = CloseReason(1005, None)

    async def send_message(self, text: str) -> None:
        await self._stream.send_all(text.encode() + b"\n")

    async def get_message(self) -> str:
        while b"\n" not in self._received:
            try:
                received = await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                received = b""
            if not received:
                raise ConnectionClosed(self.closed)
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    async def aclose(self, _code: int) -> None:
        await self._stream.aclose()


async def connect_to(path: Path) -> trio.SocketStream:
    """Connect to a Unix socket, however long its path is."""
    with ExitStack() as stack:
        plain = trio.socket.socket(trio.socket.AF_UNIX)
        await plain.connect(socket_address(path, stack))
    return trio.SocketStream(plain)


@asynccontextmanager
async def running(
    directory: Path,
    *,
    environ: Mapping[str, str] | None = None,
    listen_fds: Mapping[str, list[int]] | None = None,
    log: LogStandIn | None = None,
    **config: object,
) -> AsyncIterator[Running]:
    """Run a daemon until the block ends, and see that nothing is left of it.

    Args:
        directory: its state directory; a ccexecd.toml in there is its configuration.
        environ: what it learns of systemd from.
        listen_fds: sockets that were opened for it.
        log: its log.
        config: keys of its configuration, stronger than the file.
    """
    loaded = load({**QUICK, "state_dir": str(directory), **config}, {})
    ready, errors, failure = trio.Event(), _Errors(), None
    others = set(children())
    daemon = Daemon(
        loaded,
        loaded.places(),
        listen_fds=listen_fds or {},
        ready=lambda _address=None: ready.set(),
        umask=0o022,
        environ={"PATH": os.environ["PATH"], "HOME": str(directory)},
        notifier=Notifier(environ or {}),
        log_output=log or LogStandIn(),
    )
    # A test may hold on to a connection that the daemon has ended; that is not to be waited for a second each time.
    daemon._door._site.limits = attrs.evolve(daemon._door._site.limits, drain_timeout=0.1)
    logging.getLogger("ccexecd").addHandler(errors)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.serve)
            # What it makes of the garbage collector is for a process of its own.
            with trio.fail_after(PATIENCE), mock.patch("ccexecd.daemon.gc"):
                await ready.wait()
            one = Running(daemon, directory, loaded.places().control_socket, errors.seen)
            try:
                yield one
            except BaseException as error:
                failure = error
                raise
            with trio.fail_after(PATIENCE):
                await daemon.stop(0.0, 0.0)
    except BaseExceptionGroup:
        if failure is None:
            raise
        raise failure from None  # a failed assertion reads better outside of the nursery's group
    finally:
        logging.getLogger("ccexecd").removeHandler(errors)
    assert not errors.seen, "the daemon logged errors:\n" + "\n".join(errors.seen)
    assert not one.control_socket.exists()
    assert not set(children()) - others, "processes of the daemon are left"


def children() -> list[int]:
    """The children of this process: keepers, and what has been inherited from them."""
    lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return [int(pid) for each in lists for pid in each.split()]


def descriptors() -> dict[str, str]:
    """The open descriptors of this process and what they are."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            found[path.name] = str(path.readlink())
        except OSError:  # the one that lists the directory
            continue
    return found
