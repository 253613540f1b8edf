"""The TCP sockets of the external door: opening them, or taking them over, and accepting until told to stop.

Owns the listening sockets and the accept loops. Each accepted connection is served by a function that is handed in, in
a nursery that outlives the listening, so that open connections go on when accepting stops. Must not look at the bytes
of a connection.
"""

import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable

import attrs
import trio

from ccexecd.external.address import format_address, is_loopback

_log = logging.getLogger(__name__)

_BACKLOG = 1024  # connections that the kernel completes while the loop is busy, as far as net.core.somaxconn allows
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE = 0.1  # seconds

_HINTS = {
    errno.EADDRINUSE: "another program, or another ccexecd, listens there: stop it or choose another --port",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE: choose another --port",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address: choose another --host",
}


class ListenError(OSError):
    """A listening socket cannot be opened or used. The message says which, why, and what to do."""


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on a host and port.

    Args:
        host: An IP address, or a name, all of whose addresses are listened on.
        port: The port; 0 for one that the kernel chooses (per address).

    Returns:
        The listeners, at least one.

    Raises:
        ListenError: The address is taken, not ours, not permitted or unknown.
    """
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)  # sets SO_REUSEADDR
    except OSError as error:
        raise _cannot_listen(host, port, error) from error


def require_secrecy(addresses: Iterable[str]) -> None:
    """Refuse addresses beyond loopback, where others could read what is sent without TLS.

    Args:
        addresses: The addresses that are listened on, as ``host:port``, with IP addresses as the kernel tells them.

    Raises:
        ListenError: One of them is not a loopback address.
    """
    for address in addresses:
        if not is_loopback(address.rpartition(":")[0].strip("[]")):
            raise ListenError(
                f"cannot listen on {address}, which is beyond loopback, without TLS: tokens and commands would travel "
                "in the clear. Set certfile (and keyfile), or listen on 127.0.0.1; or set allow_plaintext where "
                "something in front of ccexecd speaks TLS"
            )


def from_fds(fds: Iterable[int]) -> list[trio.SocketListener]:
    """Take over listening sockets that were opened by somebody else, as systemd does for a .socket unit.

    Args:
        fds: File descriptors. They belong to the listeners afterwards.

    Returns:
        One listener per descriptor, in order.

    Raises:
        ListenError: One is not a listening TCP socket. The descriptors are left as they are.
    """
    fds = list(fds)
    for fd in fds:
        if not _is_listening_tcp(fd):
            raise ListenError(
                f"file descriptor {fd} is not a listening TCP socket; ListenStream= must give an address and a port"
            )
    return [trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=fd))) for fd in fds]


@attrs.define(eq=False)
class Acceptor:
    """Accepts connections until it is told to stop.

    Attributes:
        listeners: The listening sockets. They are closed when it stops.
        serve: Serves one connection and closes it. It must raise nothing.
        addresses: The addresses listened on, with the ports that the kernel chose; still there after it has stopped.
    """

    listeners: list[trio.SocketListener]
    serve: Callable[[trio.SocketStream], Awaitable[object]]
    addresses: list[str] = attrs.field(init=False)
    _accepting: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def __attrs_post_init__(self) -> None:
        names = [listener.socket.getsockname() for listener in self.listeners]
        self.addresses = [format_address(host, port) for host, port, *_ in names]

    async def run(
        self, connections: trio.Nursery, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept until `stop_accepting` or cancellation, and close the listeners then.

        Args:
            connections: The nursery in which connections are served. They go on after this has returned.
            task_status: Started at once: the kernel has been accepting since the sockets were opened.
        """
        with self._accepting:
            async with trio.open_nursery() as loops:
                for listener in self.listeners:
                    loops.start_soon(self._accept_from, listener, connections)
                task_status.started()

    def stop_accepting(self) -> None:
        """Accept no connections any more; open ones go on. May be called before `run`, and more than once."""
        self._accepting.cancel(reason="told to stop accepting")

    async def _accept_from(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        exhausted = False
        async with listener:
            while True:
                try:
                    stream = await listener.accept()  # skips ECONNABORTED and its kin; sets TCP_NODELAY
                except OSError as error:
                    if error.errno not in _OUT_OF_RESOURCES:
                        raise
                    if not exhausted:
                        _log.error("cannot accept connections: %s; trying on", error.strerror)
                    exhausted = True
                    # The connection stays in the backlog, so accept() would fail again at once and for ever. Nothing
                    # announces that a descriptor has become free, least of all one of another process: so wait a
                    # moment, which is long for the loop and short for the client.
                    await trio.sleep(_PAUSE)
                    continue
                exhausted = False
                connections.start_soon(self.serve, stream)


def _is_listening_tcp(fd: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(fd)) as probe:
            return (
                probe.family in {socket.AF_INET, socket.AF_INET6}
                and probe.type == socket.SOCK_STREAM
                and probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            )
    except OSError:
        return False


def _cannot_listen(host: str, port: int, error: OSError) -> ListenError:
    if isinstance(error, socket.gaierror):
        reason, hint = f"the host name cannot be resolved ({error.strerror})", "choose another --host"
    else:
        code = error.errno or 0
        reason = os.strerror(code)
        reason, hint = reason[:1].lower() + reason[1:], _HINTS.get(code, "choose another --host or --port")
    return ListenError(f"cannot listen on {format_address(host, port)}: {reason}; {hint}")
