"""Where a daemon is, and how a connection to it is opened.

Owns the two ways to connect: a control socket of this machine, and a WebSocket address. Must not know any method.
"""

import ipaddress
import os
import socket
import ssl
import warnings
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult, urlsplit

import anyio
import attrs
from anyio import to_thread
from anyio.abc import ByteStream, UNIXSocketStream
from anyio.streams.tls import TLSStream

from ccexecctl.api.framing import CutError, Framing, Lines, WebSocket
from ccexecctl.client import reach
from ccexecctl.errors import NotPermittedError, NotRunningError, UnreachableError, UsageError
from ccexecctl.launch import daemon_flags, launch
from ccexecctl.place import Place, locate

HANDSHAKE_PATIENCE = 15.0
"""Seconds for a WebSocket to open, name look-up and TLS included."""

WHOM_TO_TRUST = (
    "a certificate of your own: tls=ssl.create_default_context(cafile=...), or the environment's SSL_CERT_FILE"
)
"""Hint of the error about a TLS connection that failed, as it does if this machine does not trust the certificate."""

TOKEN_VARIABLE = "CCEXEC_TOKEN"  # noqa: S105  # the name of a variable
"""Environment variable with the bearer token, for programs that do not have it in their source."""

DEFAULT_PATH = "/ws/mcp"
"""Path of the daemon's WebSocket, for a URL without one."""


class Opened(NamedTuple):
    """A connection on which messages can be exchanged.

    Attributes:
        stream: sends and receives bytes.
        framing: turns messages into bytes and back.
        early: messages that came together with the end of the handshake.
    """

    stream: ByteStream
    framing: Framing
    early: list[bytes]


class Endpoint(Protocol):
    """The address of a daemon, and how to connect to it."""

    @property
    def name(self) -> str:
        """The daemon and its address, for messages."""

    @property
    def greets(self) -> bool:
        """Whether the daemon sends a greeting first, and keeps a session whose connection was cut."""

    @property
    def patience(self) -> float:
        """Seconds of attempts to open a lost connection again."""

    @property
    def probe_interval(self) -> float:
        """Seconds of silence after which the daemon is asked for a sign of life; infinity for never."""

    async def open(self) -> Opened:
        """Connect. Raises CutError if a later attempt may succeed, and CtlError if none will."""


@attrs.frozen
class ControlSocket:
    """The daemon behind a control socket: of this user, or of this machine.

    Attributes:
        place: where its socket is looked for.
        starts: whether a daemon is started when none runs.
        flags: command line flags of a daemon that is started.
        greets: false; see `Endpoint`, as for the others.
        patience: seconds; long enough for a restart of the daemon. Executions do not survive one in any case.
        probe_interval: infinity: the kernel tells at once when the daemon has gone.
    """

    place: Place
    starts: bool = False
    flags: tuple[str, ...] = ()
    greets: bool = attrs.field(default=False, init=False)
    patience: float = attrs.field(default=20.0, init=False)
    probe_interval: float = attrs.field(default=float("inf"), init=False)

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"ccexecd at {self.place.sockets[0]}"

    async def open(self) -> Opened:
        """Connect; if no daemon runs and `starts` is set, start one first.

        Raises:
            CtlError: no daemon runs, it cannot be started, or it refuses this user.
        """
        connected = await to_thread.run_sync(self._reach)
        try:
            connected.setblocking(False)
            return Opened(await UNIXSocketStream.from_socket(connected), Lines(), [])
        except BaseException:
            connected.close()
            raise

    def _reach(self) -> socket.socket:
        try:
            return reach(self.place)[0]
        except (NotRunningError, NotPermittedError):
            if not self.starts or self.place.is_named:
                raise
        launched = launch(self.place.own(), list(self.flags))
        return reach(launched.place)[0]


@attrs.frozen
class WebSocketAddress:
    """A daemon behind a URL.

    Attributes:
        url: ws:// or wss://, host, port and path.
        token: bearer token; empty for none, which is enough for the daemon's own user on its machine.
        tls: TLS context for wss://; None: the certificates of this machine are trusted.
        greets: true; see `Endpoint`.
        patience: seconds; as long as the daemon keeps the session of a connection that was cut (`resume_window`).
        probe_interval: seconds; as often as the daemon itself pings (`ws_ping_interval`).
    """

    url: str
    token: str = attrs.field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    greets: bool = attrs.field(default=True, init=False)
    patience: float = 300.0
    probe_interval: float = 20.0

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"ccexecd at {self.url}"

    async def open(self) -> Opened:
        """Connect, within `HANDSHAKE_PATIENCE` seconds.

        Raises:
            CutError: it failed in a way that a later attempt may not.
            CtlError: no daemon listens there, TLS fails, or the daemon refuses the connection.
        """
        try:
            with anyio.fail_after(HANDSHAKE_PATIENCE):
                return await self._open()
        except TimeoutError as error:
            raise CutError(f"{self.name} did not answer within {HANDSHAKE_PATIENCE:g} s") from error

    async def _open(self) -> Opened:
        parts = urlsplit(self.url)
        is_tls = parts.scheme == "wss"
        host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
        try:
            stream: ByteStream = await anyio.connect_tcp(host, port)
        except OSError as error:
            message = f"cannot reach {self.name}: {_why(error)}"
            raise NotRunningError(message, "does it run, and listen there? ccexecctl status") from error
        try:
            if is_tls:
                stream = await self._secured(stream, host)
            return await self._shake_hands(stream, parts)
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise

    async def _secured(self, stream: ByteStream, host: str) -> ByteStream:
        try:
            return await TLSStream.wrap(stream, hostname=host, ssl_context=self.tls, standard_compatible=False)
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", "") or error.reason or str(error)
            raise UnreachableError(f"cannot speak TLS with {self.name}: {why}", WHOM_TO_TRUST) from error
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError) as error:
            raise CutError(f"{self.name} closed the connection during the TLS handshake") from error

    async def _shake_hands(self, stream: ByteStream, parts: SplitResult) -> Opened:
        target = (parts.path or DEFAULT_PATH) + (f"?{parts.query}" if parts.query else "")
        framing = WebSocket(parts.netloc.rpartition("@")[2], target, self.token)
        messages: list[bytes] = []
        try:
            await stream.send(framing.handshake())
            while not framing.is_open:
                arrived = framing.feed(await stream.receive())
                messages += arrived.messages
                if arrived.replies:
                    await stream.send(arrived.replies)
                if arrived.ending is not None:
                    raise arrived.ending
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            advice = "" if parts.scheme == "wss" else "; if it speaks TLS, its address begins with wss://"
            raise CutError(f"{self.name} closed the connection during the handshake{advice}") from error
        return Opened(stream, framing, messages)


def _why(error: BaseException) -> str:
    """The operating system's reason for an error: that of the first one among its causes that has an `errno`."""
    while not getattr(error, "errno", None):
        below = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        if below is None:
            return str(error)
        error = below
    number = getattr(error, "errno", 0)
    return (os.strerror(number) if number > 0 else str(error)).lower()  # getaddrinfo's numbers are negative


def endpoint_of(
    url: str | None = None,
    token: str | None = None,
    state_dir: str | Path | None = None,
    control_socket: str | Path | None = None,
    *,
    start: bool = False,
    tls: ssl.SSLContext | None = None,
) -> Endpoint:
    """Decide which daemon is meant. The arguments are those of `connect`.

    Args:
        url: ws:// or wss:// address; None for a control socket of this machine.
        token: bearer token for the address; None for that of `CCEXEC_TOKEN`, if it is set.
        state_dir: state directory of a daemon of this machine; None for the usual places.
        control_socket: path of a daemon's control socket; None for the usual places.
        start: whether to start the daemon of this user when none runs.
        tls: TLS context for wss://; None: the certificates of this machine are trusted.

    Returns:
        The control socket if `url` is None, else the WebSocket address.

    Raises:
        UsageError: the arguments do not go together, or the URL is not one of a WebSocket.
        CtlError: this user has no home directory, so there is no usual place for a daemon.
    """
    if url is None:
        options = {"state_dir": state_dir, "socket": control_socket}
        arguments = Namespace(**{name: str(path) if path is not None else None for name, path in options.items()})
        place = locate(arguments)
        return ControlSocket(place, start, tuple(daemon_flags(arguments, place)))
    if state_dir is not None or control_socket is not None or start:
        raise UsageError("a URL names the daemon: state_dir, control_socket and start belong to that of this machine")
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise UsageError(f"{url!r} is not the address of a WebSocket", "such as ws://127.0.0.1:8003/ws/mcp")
    if parts.username or parts.password:
        raise UsageError("a URL is no place for a secret: it ends up in logs", "give it as token=...")
    if token is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
    if token and parts.scheme == "ws" and not _is_this_machine(parts.hostname):
        warnings.warn(f"the token travels to {parts.hostname} unencrypted; use wss://", stacklevel=3)
    return WebSocketAddress(url, token, tls)


def _is_this_machine(host: str) -> bool:
    """Whether a host is this machine, so that what is sent to it crosses no network."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3
