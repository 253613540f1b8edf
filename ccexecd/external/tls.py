"""TLS around a connection.

Owns loading the certificate, and the two pumps between a TLS stream and a plain one. The plain one is a socket pair, so
that the code behind it writes to a socket of its own, with TLS or without. Who the peer is, is told by the accepted
socket, never by the pair. `ssl` is imported only if a certificate is configured. Must not know what is served inside.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import ssl

_TLSStream = trio.SSLStream[trio.SocketStream]

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 10.0
"""Seconds for a whole TLS handshake, however steadily its bytes trickle in; the same as for a request head."""

LAST_WORDS = 10.0
"""Seconds for a client to take the rest of its answer after its conversation has ended, and for close_notify."""

_GOODBYE = 1.0  # seconds for the client's own close_notify, which few send
_BLOCK = 64 * 1024  # bytes


class CertificateError(OSError):
    """A certificate or key cannot be used. The message says which and why."""


def load(certfile: str | None, keyfile: str | None) -> "ssl.SSLContext | None":
    """Make a context for accepting connections; None where there is no certificate.

    Args:
        certfile: File with the certificate and its chain, PEM; None for no TLS.
        keyfile: File with its private key, PEM; None if the key is in `certfile`.

    Raises:
        CertificateError: One of the files cannot be read, or they do not go together.
    """
    if certfile is None:
        if keyfile is not None:
            raise CertificateError("keyfile is set without certfile; set both, or none of them")
        return None
    import ssl  # noqa: PLC0415  # 2 MiB, of no use without a certificate

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certfile, keyfile, password=_no_password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        files = certfile if keyfile is None else f"{certfile} with the key {keyfile}"
        reason = getattr(error, "strerror", None) or str(error)
        raise CertificateError(f"cannot use the certificate {files}: {reason}") from error
    return context


def fingerprint(certfile: str | None, keyfile: str | None) -> bytes:
    """SHA-256 of the content of both files: it tells whether a certificate or key under the same name has changed."""
    whole = hashlib.sha256()
    for path in (certfile, keyfile):
        with suppress(OSError):
            whole.update(Path(path).read_bytes() if path is not None else b"")
    return whole.digest()


def _no_password() -> str:
    """Refuse an encrypted key. Without this, OpenSSL would ask for the password on the terminal."""
    raise ValueError("the key is encrypted; a daemon has nobody to ask for the password")


async def serve_tls(
    stream: trio.SocketStream, context: "ssl.SSLContext", serve: Callable[[trio.SocketStream], Awaitable[object]]
) -> None:
    """Serve a connection over TLS and close it. Nothing but cancellation leaves this function.

    Args:
        stream: The accepted connection.
        context: Our certificate.
        serve: Serves what is inside; it closes its stream and contains its own failures.
    """
    outer = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    try:
        with trio.fail_after(HANDSHAKE_TIMEOUT):
            await outer.do_handshake()
        await _serve_inside(outer, serve)
    except* (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError) as gone:
        log.debug("a TLS connection failed: %r", gone.exceptions[0])
    except* OSError as exhausted:  # no descriptors are left for the socket pair
        log.warning("a TLS connection cannot be served: %s", exhausted.exceptions[0])
    finally:
        await trio.aclose_forcefully(stream)


async def _serve_inside(outer: _TLSStream, serve: Callable[[trio.SocketStream], Awaitable[object]]) -> None:
    near, far = (trio.SocketStream(end) for end in trio.socket.socketpair())
    async with near, far, trio.open_nursery() as pumps:
        receiver = _Receiver(outer, near)
        pumps.start_soon(receiver.run)
        pumps.start_soon(_send, near, outer, receiver)
        await serve(far)
        pumps.cancel_scope.deadline = trio.current_time() + LAST_WORDS


class _Receiver:
    """Passes on what the client sends, until the client ends or is gone, or `stop` is called."""

    def __init__(self, outer: _TLSStream, near: trio.SocketStream) -> None:
        self._outer = outer
        self._near = near
        self._receiving = trio.CancelScope()
        self._over = trio.Event()

    async def run(self) -> None:
        """Receive until the end."""
        with self._receiving, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while received := await self._outer.receive_some(_BLOCK):
                await self._near.send_all(received)
        self._over.set()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._near.send_eof()

    async def stop(self) -> None:
        """Stop reading: a stream takes one reader at a time, and `unwrap` reads the client's close_notify."""
        self._receiving.cancel(reason="the conversation has ended")
        await self._over.wait()


async def _send(near: trio.SocketStream, outer: _TLSStream, receiver: _Receiver) -> None:
    """Send what is written, then close_notify; if the client is gone, close the pair so that its writer notices."""
    try:
        while data := await near.receive_some(_BLOCK):
            await outer.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await receiver.stop()
        await near.aclose()
        return
    await receiver.stop()
    with trio.move_on_after(_GOODBYE), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await outer.unwrap()
