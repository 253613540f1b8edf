"""The operator's socket: born with the right mode, never seen half-made, known peers only.

Owns the Unix socket and its accept loop, and who may enter: root and the daemon's own user, as the kernel tells. Must
not know what is asked.
"""

import contextlib
import os
import socket
import struct
from pathlib import Path

import attrs
import trio

from ccexecd.paths import socket_address

_BACKLOG = 64

_UCRED = struct.Struct("3i")  # struct ucred (unix(7)): pid, uid, gid


@attrs.frozen
class PeerCredentials:
    """Who connected, as the kernel knew it at that moment."""

    pid: int
    uid: int
    gid: int

    @property
    def may_operate(self) -> bool:
        """Whether it is root or the user that the daemon runs as."""
        return self.uid in (0, os.geteuid())


def credentials(connected: trio.SocketStream) -> PeerCredentials:
    """The other end's credentials."""
    raw = connected.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return PeerCredentials(*_UCRED.unpack(raw))


def bind(path: Path) -> trio.SocketListener:
    """Listen on a path, replacing what is there: the pidfile's lock says that it is nobody's any more.

    The socket is bound under another name, mode 0600 from its first moment, listens, and is then renamed into place: a
    client sees the old one, or this one ready, or none.

    Raises:
        OSError: the directory cannot be written.
    """
    made = path.with_name(f".{path.name}.{os.getpid()}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            address = socket_address(made, stack)
            previous = os.umask(0o177)
            try:
                listening.bind(address)
            finally:
                os.umask(previous)
        listening.listen(_BACKLOG)
        made.rename(path)
    except BaseException:
        listening.close()
        made.unlink(missing_ok=True)
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


def remove(path: Path) -> None:
    """Take the socket's name away; while the pidfile's lock is held, it is ours."""
    path.unlink(missing_ok=True)
