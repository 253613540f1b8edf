"""The client's door as a whole: the port, the site behind it, and its open WebSockets.

Owns putting the parts of this package together, and ending them in order. Must not know the daemon that runs it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import trio

from ccexecd.config import Config
from ccexecd.core.sessions import Parting
from ccexecd.external import tls
from ccexecd.external.auth import Policy
from ccexecd.external.connection import Connection, Shared
from ccexecd.external.http import serve_connection
from ccexecd.external.listener import Acceptor, from_fds, open_listeners, require_secrecy
from ccexecd.external.request import Route
from ccexecd.external.site import Limits, Site
from ccexecd.external.tokens import Tokens
from ccexecd.external.upgrade import Upgrade
from ccexecd.service.rates import Rates
from ccexecd.service.refusals import Refusals

if TYPE_CHECKING:
    import ssl

FLUSH = 2.0
"""Seconds that connections get at shutdown to take the rest of their output, and then the same again to close."""


class Door:
    """The client's port.

    Args:
        shared: what all WebSocket connections share.
        routes: path -> route that plain HTTP serves.
        config: the configuration in force; `reconfigure` replaces it.
        tokens: the tokens that admit clients; the daemon's own user and root need none over loopback.
        refusals: counts and logs those who are refused.
    """

    def __init__(
        self, shared: Shared, routes: Mapping[str, Route], config: Config, tokens: Tokens, refusals: Refusals
    ) -> None:
        self._shared = shared
        self._tokens = tokens
        tokens.withdrawn = self._withdraw
        self._site = Site(
            policy=self._policy(config),
            websocket=self._converse,
            routes=routes,
            limits=_limits(config),
            rates=shared.rates or Rates(config),
            refusals=refusals,
        )
        self._acceptor: Acceptor | None = None
        self._tls: ssl.SSLContext | None = None
        self._certificate = b""
        self._over_tls = 0
        self._guests: set[Connection] = set()
        self._connections: trio.Nursery | None = None

    async def open(self, config: Config, inherited: list[int]) -> None:
        """Listen on inherited sockets or, if there are none, on the configured address.

        Args:
            config: the configuration.
            inherited: file descriptors of listening sockets, from systemd.

        Raises:
            ListenError: the address cannot be listened on, or must not be without TLS.
            CertificateError: the configured certificate cannot be used.
        """
        listeners = from_fds(inherited) if inherited else await open_listeners(config.host, config.port)
        self._acceptor = Acceptor(listeners, self._serve)
        try:
            self._tls = self._prepared(config)
        except BaseException:
            for listener in listeners:
                listener.socket.close()
            raise

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and serve, until told to stop accepting and the last connection has ended."""
        async with trio.open_nursery() as self._connections:
            await self._connections.start(self._accept, self._connections)
            task_status.started()

    async def _accept(self, connections: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        await self._opened.run(connections, task_status=task_status)

    @property
    def addresses(self) -> list[str]:
        """The addresses that are listened on, as ``host:port``."""
        return self._opened.addresses

    @property
    def url(self) -> str:
        """The URL at which a WebSocket can be opened."""
        return f"{'ws' if self._tls is None else 'wss'}://{self.addresses[0]}{self._site.websocket_paths[0]}"

    @property
    def open_connections(self) -> int:
        """How many connections are being served, WebSockets and others."""
        return self._site.counters.open

    def reconfigure(self, config: Config) -> bool:
        """Use another configuration for new requests; the certificate's files are always read again.

        Returns:
            Whether the certificate or its key has changed.

        Raises:
            ListenError: this address must not be served without TLS; nothing has changed.
            CertificateError: the certificate cannot be used; nothing has changed.
        """
        earlier = self._certificate
        self._tls = self._prepared(config)
        self._site.policy = self._policy(config)
        self._site.limits = _limits(config)
        return self._certificate != earlier

    def announce(self, method: str, params: dict[str, object]) -> None:
        """Send a notification about the daemon to every client."""
        for connection in tuple(self._shared.connections):
            connection.announce(method, params)

    def stop_accepting(self) -> None:
        """Accept no connections any more; those that are open go on."""
        if self._acceptor is not None:
            self._acceptor.stop_accepting()

    async def farewell(self) -> None:
        """Send every client the rest of its output, then close with 1001; both for `FLUSH` seconds at most."""
        with trio.move_on_after(FLUSH):
            async with trio.open_nursery() as finishing:
                for connection in tuple(self._shared.connections):
                    finishing.start_soon(connection.finish, Parting.SHUTDOWN)
        for connection in tuple(self._shared.connections):
            connection.leave(Parting.SHUTDOWN)
        if self._connections is not None:
            self._connections.cancel_scope.deadline = trio.current_time() + FLUSH

    @property
    def _opened(self) -> Acceptor:
        if self._acceptor is None:
            raise AssertionError("the door is not open")
        return self._acceptor

    def _prepared(self, config: Config) -> "ssl.SSLContext | None":
        """The TLS context of a configuration; None without a certificate.

        Raises:
            ListenError: there is no certificate, and the address is beyond loopback.
            CertificateError: the certificate cannot be used.
        """
        context = tls.load(config.certfile, config.keyfile)
        if context is None and not config.allow_plaintext:
            require_secrecy(self._opened.addresses)
        self._certificate = tls.fingerprint(config.certfile, config.keyfile)
        return context

    async def _serve(self, stream: trio.SocketStream) -> None:
        if self._tls is None:
            await serve_connection(stream, self._site)
        elif self._over_tls < self._site.limits.connections + self._site.limits.turned_away:  # handshakes count, too
            self._over_tls += 1
            try:
                await tls.serve_tls(stream, self._tls, lambda inside: serve_connection(inside, self._site, stream))
            finally:
                self._over_tls -= 1
        else:
            await trio.aclose_forcefully(stream)

    async def _converse(self, upgrade: Upgrade) -> None:
        connection = Connection(self._shared, upgrade)
        self._guests.add(connection)  # at once: its token may be withdrawn before the WebSocket is open
        try:
            await connection.serve()
        finally:
            self._guests.discard(connection)

    def _withdraw(self, name: str) -> None:
        self._site.token_lifetimes.withdraw(name)
        for connection in tuple(self._guests):
            connection.withdraw(name)

    def _policy(self, config: Config) -> Policy:
        return Policy(
            self._tokens,
            frozenset(name.lower() for name in config.allowed_hosts),
            frozenset(origin.lower() for origin in config.allowed_origins),
        )


def _limits(config: Config) -> Limits:
    return attrs.evolve(
        Limits(),
        connections=config.max_connections,
        body_bytes=config.ws_max_size,
        write_timeout=config.stream_timeout or Limits().write_timeout,  # with 0, nothing could be answered over HTTP
    )
