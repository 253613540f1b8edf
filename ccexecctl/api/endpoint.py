"""Where a daemon is, and how a connection to it is opened.

Owns the two ways in: the control socket of this machine, and a WebSocket address. Must not know what is said on a
connection.
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
"""What to do about a certificate that the machine does not trust."""

TOKEN_VARIABLE = "CCEXEC_TOKEN"  # noqa: S105  # the name of a variable
"""Environment variable with the bearer token, for programs that shall not hold it in their source."""

DEFAULT_PATH = "/ws/mcp"


class Opened(NamedTuple):
    """A connection on which messages can be exchanged.

    Attributes:
        stream: its bytes.
        framing: what they mean.
        early: messages that came right behind the handshake.
    """

    stream: ByteStream
    framing: Framing
    early: list[bytes]


class Endpoint(Protocol):
    """A daemon that can be reached."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def greets(self) -> bool:
        """Whether it opens the conversation, and its sessions survive a cut."""

    @property
    def patience(self) -> float:
        """Seconds of trying again after a connection was lost."""

    @property
    def probe_interval(self) -> float:
        """Seconds of silence after which it is asked for a sign of life; infinite for never."""

    async def open(self) -> Opened:
        """Connect. Raises CutError where it may work later, and CtlError where not."""


@attrs.frozen
class ControlSocket:
    """The daemon of this user, or of this machine, behind its Unix socket.

    Attributes:
        place: where it is looked for.
        starts: a daemon is started when none is there.
        flags: for that daemon.
    """

    place: Place
    starts: bool = False
    flags: tuple[str, ...] = ()
    greets: bool = attrs.field(default=False, init=False)
    patience: float = attrs.field(default=20.0, init=False)  # a restart takes some; what ran has ended with it anyway
    probe_interval: float = attrs.field(default=float("inf"), init=False)

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"ccexecd at {self.place.sockets[0]}"

    async def open(self) -> Opened:
        """Connect, and start the daemon first, if that is wanted and there is none.

        Raises:
            CtlError: there is none, or it does not let us in.
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
        tls: for wss://; None for the machine's certificates.
        patience: as long as the daemon keeps the session of a connection that was cut (`resume_window`).
        probe_interval: as often as the daemon itself pings (`ws_ping_interval`).
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
        """Connect, and shake hands.

        Raises:
            CutError: it may work later.
            CtlError: nobody is there, or does not let us in.
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
    """The kernel's reason, from below what says that none of the addresses would do."""
    while not getattr(error, "errno", None):
        below = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        if below is None:
            return str(error)
        error = below
    number = getattr(error, "errno", 0)
    return (os.strerror(number) if number > 0 else str(error)).lower()  # below 0: getaddrinfo's


def endpoint_of(
    url: str | None = None,
    token: str | None = None,
    state_dir: str | Path | None = None,
    control_socket: str | Path | None = None,
    *,
    start: bool = False,
    tls: ssl.SSLContext | None = None,
) -> Endpoint:
    """Decide which daemon is meant.

    Args:
        url: ws:// or wss:// address; None for the control socket of this machine.
        token: bearer token for the address; None for that of `CCEXEC_TOKEN`, if it is set.
        state_dir: the daemon that keeps everything there; None for this user's.
        control_socket: the daemon behind this socket.
        start: start the daemon of this user when none runs.
        tls: whom to trust, for wss://; None for the certificates of this machine.

    Raises:
        UsageError: they do not go together.
        CtlError: this user has no place for a daemon.
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
    """Whether nobody else can listen to what is sent there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3
