"""A program's client of the daemon: a few sessions that share the work.

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
        told: the daemon's answer to `execute` (docs/protocol.md); empty after `Client.attach`.
        watch: its notifications: from the start, or after `Client.attach` from the position that was asked for.
        link: the session in which it is watched and controlled.
    """

    execution_id: str
    told: dict[str, Any]
    watch: Watch
    link: Link

    async def control(self, deed: str, **params: Any) -> Any:
        """Control the execution.

        Args:
            deed: `PAUSE`, `RESUME`, `CANCEL` or `KILL`.
            **params: further params of `control` (docs/protocol.md).

        Returns:
            The daemon's answer.

        Raises:
            CtlError: it was refused, or the daemon cannot be reached.
        """
        return await self.link.call("control", {"execution_id": self.execution_id, "type": deed, **params})

    def forget(self) -> None:
        """End the watch; the execution goes on."""
        self.link.forget(self.watch)


class Client:
    """An open client, made by `connect`: an asynchronous context manager.

    Its connections are opened when they are needed, and again when they are cut. When its context is left, the daemon
    ends the executions that still run for it, except those with `on_disconnect="detach"`.

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
        """Close all connections."""
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
        """The daemon and its address, for messages."""
        return self._endpoint.name

    @property
    def is_local(self) -> bool:
        """Whether the daemon is reached by a control socket, and so runs on this machine: paths mean the same there."""
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
            **params: params of `execute` in docs/protocol.md: `argv`, `cwd`, `timeout`, …

        Returns:
            The execution, which runs or waits for its turn.

        Raises:
            CtlError: it was refused, or the daemon cannot be reached.
        """
        link = self._link()
        told, watch = await link.execute(params)
        return Started(told["execution_id"], told, watch, link)

    async def attach(self, execution_id: str, from_seq: int = 0) -> Started:
        """Watch an execution from a position of its log on.

        Args:
            execution_id: the execution's UUID.
            from_seq: number of the first entry of its log that is wanted; 0 for the start.

        Raises:
            CtlError: it is not known, or the daemon cannot be reached.
        """
        link = self._link()
        watch = await link.attach(execution_id, from_seq)
        return Started(execution_id, {}, watch, link)

    def _link(self) -> Link:
        """Return the session with the least to do; a new one if all are in use and `connections` allows it."""
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
    """Make a client of a daemon, for ``async with``. It connects when it is first used.

    Args:
        url: `ws://` or `wss://` address; None for a control socket of this machine.
        token: bearer token for the address; None for the one in the environment variable `CCEXEC_TOKEN`.
        state_dir: state directory of a daemon of this machine; None for the usual places.
        control_socket: path of a daemon's control socket; None for the usual places.
        start: whether to start the daemon of this user when none runs.
        tls: TLS context for `wss://`; None: the certificates of this machine are trusted.
        connections: how many to have at most.
        backoff: delays before a lost connection is opened again; None for those of `Backoff()`.

    Raises:
        CtlError: the arguments do not go together, or name no daemon.
    """
    if connections < 1:
        raise CtlError("a client needs at least one connection")
    endpoint = endpoint_of(url, token, state_dir, control_socket, start=start, tls=tls)
    return Client(endpoint, connections, backoff or Backoff())
