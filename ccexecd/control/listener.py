"""The operator's socket: born with the right mode, never seen half-made, known peers only.

Owns the Unix socket and its accept loop, and who may enter: root and the daemon's own user, as the kernel tells. Must
not know what is asked.
"""

import contextlib
import errno
import os
import socket
import stat
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


def bind(path: Path, signpost: Path | None = None) -> trio.SocketListener:
    """Listen on a path, replacing a socket that nobody listens on any more.

    The socket is bound under another name, mode 0600 from its first moment, listens, and is then renamed into place: a
    client sees the old one, or this one ready, or none.

    Args:
        path: of the socket.
        signpost: a place where it is looked for, too: gets a symbolic link to it.

    Raises:
        OSError: the directory cannot be written, or what is there is somebody's.
    """
    for place in (path, signpost):
        if place is not None:
            _require_free(place)
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
        if signpost is not None:
            _point(signpost, path)
    except BaseException:
        listening.close()
        made.unlink(missing_ok=True)
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


def _require_free(path: Path) -> None:
    """See that nothing is lost when a path is replaced.

    Raises:
        OSError: it is no socket and no link, or somebody listens there.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISSOCK(mode) and _is_listened_on(path):
        raise OSError(errno.EADDRINUSE, "another program listens on this control socket; choose another", str(path))
    if not (stat.S_ISSOCK(mode) or stat.S_ISLNK(mode)):
        raise OSError(errno.EEXIST, "not a socket, so it stays; move it, or choose another control socket", str(path))


def _is_listened_on(path: Path) -> bool:
    with (
        contextlib.ExitStack() as stack,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as trial,
    ):
        return trial.connect_ex(socket_address(path, stack)) in {0, errno.EAGAIN}  # EAGAIN: its backlog is full


def _point(signpost: Path, path: Path) -> None:
    made = signpost.with_name(f".{signpost.name}.{os.getpid()}")
    made.unlink(missing_ok=True)
    made.symlink_to(path)
    made.rename(signpost)


def remove(path: Path, signpost: Path | None = None) -> None:
    """Take the socket's name away, and the link to it; never what somebody else has put there."""
    if path.is_socket() and not path.is_symlink():
        path.unlink(missing_ok=True)
    if signpost is not None and signpost.is_symlink():
        signpost.unlink(missing_ok=True)
