"""A program's way to the daemon: a few sessions that share the work.

Owns how many connections there are, and their end. Must not know what is executed.
"""

import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import attrs
from anyio.abc import TaskGroup

from ccexecctl.api.backoff import Backoff
from ccexecctl.api.endpoint import ControlSocket, Endpoint, endpoint_of
from ccexecctl.api.link import Link
from ccexecctl.api.watch import Watch
from ccexecctl.errors import CtlError

CONNECTIONS = 4
"""Connections of one client, unless it is told otherwise. One carries hundreds of executions: several keep a flood of
output on the one from delaying the others."""


@attrs.frozen
class Started:
    """An execution that the daemon has accepted.

    Attributes:
        execution_id: its UUID.
        told: the daemon's answer, as docs/protocol.md has it.
        watch: what it tells of it, from the start.
        link: where it can be asked about.
    """

    execution_id: str
    told: dict[str, Any]
    watch: Watch
    link: Link

    async def control(self, deed: str, **params: Any) -> Any:
        """PAUSE, RESUME, CANCEL or KILL it. Raises CtlError when that is refused."""
        return await self.link.call("control", {"execution_id": self.execution_id, "type": deed, **params})

    def forget(self) -> None:
        """Be told of it no longer."""
        self.link.forget(self.watch)


class Client:
    """An open client, made by `connect`: an asynchronous context manager.

    Its connections are opened when they are needed, and again when they are cut. When it is left, what still runs for
    it is ended, unless it was to outlive it.

    Args:
        endpoint: the daemon.
        connections: how many to have at most.
        backoff: delays before a lost connection is opened again.
    """

    def __init__(self, endpoint: Endpoint, connections: int, backoff: Backoff) -> None:
        self._endpoint = endpoint
        self._limit = connections
        self._backoff = backoff
        self._links: list[Link] = []
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Say goodbye on all connections."""
        tasks, self._tasks = self._tasks, None
        if tasks is None:
            return None
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as goodbyes:
                for link in self._links:
                    goodbyes.start_soon(link.close)
        if isinstance(error, anyio.get_cancelled_exc_class()):
            return await tasks.__aexit__(kind, error, trace)
        await tasks.__aexit__(None, None, None)  # what is raised inside shall be raised outside, and not in a group
        return None

    @property
    def name(self) -> str:
        """Which daemon it is a client of, in words."""
        return self._endpoint.name

    @property
    def is_local(self) -> bool:
        """Whether it is this machine's, by its control socket: so paths mean the same there."""
        return isinstance(self._endpoint, ControlSocket)

    async def call(self, method: str, **params: Any) -> Any:
        """Call any method of docs/protocol.md.

        Returns:
            Its result.

        Raises:
            CtlError: it was refused, or the daemon cannot be reached.
        """
        return await self._link().call(method, params)

    async def execute(self, **params: Any) -> Started:
        """Have a command executed, once, whatever happens to the connection.

        Args:
            **params: those of `execute` in docs/protocol.md: `argv`, `cwd`, `timeout`, …

        Raises:
            CtlError: it was refused, or the daemon cannot be reached.
        """
        link = self._link()
        told, watch = await link.execute(params)
        return Started(told["execution_id"], told, watch, link)

    async def attach(self, execution_id: str, from_seq: int = 0) -> Started:
        """Watch an execution from a position of its log on.

        Raises:
            CtlError: it is not known, or the daemon cannot be reached.
        """
        link = self._link()
        watch = await link.attach(execution_id, from_seq)
        return Started(execution_id, {}, watch, link)

    def _link(self) -> Link:
        """The one with the least to do; a new one when all have something."""
        if self._tasks is None:
            raise CtlError("the client is not open", "use it so: async with connect() as client")
        least = min(self._links, key=lambda link: link.load, default=None)
        if least is None or (least.load and len(self._links) < self._limit):
            least = Link(self._endpoint, self._backoff)
            self._links.append(least)
            self._tasks.start_soon(least.run)
        return least


def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    state_dir: str | Path | None = None,
    control_socket: str | Path | None = None,
    start: bool = False,
    tls: ssl.SSLContext | None = None,
    connections: int = CONNECTIONS,
    backoff: Backoff | None = None,
) -> Client:
    """Name the daemon to be a client of, for ``async with``.

    Args:
        url: `ws://` or `wss://` address; None for the control socket of this machine.
        token: bearer token for the address; None for the one in the environment variable `CCEXEC_TOKEN`.
        state_dir: the daemon that keeps everything there; None for this user's.
        control_socket: the daemon behind this socket.
        start: start the daemon of this user when none runs.
        tls: whom to trust, for `wss://`; None for the certificates of this machine.
        connections: how many to have at most.
        backoff: delays before a lost connection is opened again.

    Raises:
        CtlError: where the daemon is cannot be told from this.
    """
    if connections < 1:
        raise CtlError("a client needs at least one connection")
    endpoint = endpoint_of(url, token, state_dir, control_socket, start=start, tls=tls)
    return Client(endpoint, connections, backoff or Backoff())
