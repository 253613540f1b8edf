"""The operator's Unix socket: it appears under its name only when it is ready, with the right mode.

Owns the socket, the file modes that let callers connect, and reading the credentials that the kernel reports of them.
callers.py decides what a caller may do. Must not know what is asked.
"""

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Collection
from pathlib import Path

import attrs
import trio

from ccexecd.paths import socket_address

_BACKLOG = 64

_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_PEERGROUPS_BYTES = 1024  # the most that Python's getsockopt() takes: 256 groups
_GID = struct.Struct("I")
_UCRED = struct.Struct("3i")  # struct ucred (unix(7)): pid, uid, gid


@attrs.frozen
class PeerCredentials:
    """Process id, user and group of the process that connected, at the moment when it did."""

    pid: int
    uid: int
    gid: int


def credentials(connected: trio.SocketStream) -> PeerCredentials:
    """The credentials of the process at the other end."""
    raw = connected.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return PeerCredentials(*_UCRED.unpack(raw))


def groups_of(connected: trio.SocketStream) -> list[int]:
    """The gids of the process at the other end, its own and the supplementary ones, at the moment when it connected."""
    own = credentials(connected)
    try:
        raw = connected.socket.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _PEERGROUPS_BYTES)
    except OSError:  # more groups than fit, or a kernel before 4.13: use those of the user in the group database
        return _groups_by_user(own)
    return [own.gid, *(gid for (gid,) in _GID.iter_unpack(raw))]


def _groups_by_user(who: PeerCredentials) -> list[int]:
    import pwd  # noqa: PLC0415  # rarely needed

    try:
        return [who.gid, *os.getgrouplist(pwd.getpwuid(who.uid).pw_name, who.gid)]
    except KeyError:
        return [who.gid]


def bind(path: Path, signpost: Path | None = None, groups: Collection[int] = ()) -> trio.SocketListener:
    """Listen on a path, replacing a socket that nobody listens on any more.

    The socket is bound under another name with mode 0600, listens, and is then renamed into place: a client sees the
    old socket, or this one ready, or none. If groups may connect, its mode and group are changed before the renaming.

    Args:
        path: path of the socket.
        signpost: another path where clients look for it, which gets a symbolic link to it; None for none.
        groups: gids whose members may connect besides root and our own user.

    Raises:
        OSError: the directory cannot be written, the path is taken by something else, or we may not use the group.
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
        if groups:
            _let_in(made, groups)
            for place in filter(None, (path, signpost)):
                _let_through(place.parent, groups)
        made.rename(path)
        if signpost is not None:
            _point(signpost, path)
    except BaseException:
        listening.close()
        made.unlink(missing_ok=True)
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


def _let_in(made: Path, groups: Collection[int]) -> None:
    """Let the members of groups connect. A file has one group: for several, everybody may, and `callers` judges."""
    if len(groups) > 1:
        made.chmod(0o666)
        return
    (gid,) = groups
    try:
        os.chown(made, -1, gid)
    except PermissionError as error:
        raise OSError(
            error.errno, f"cannot let group {gid} use the control socket: only root or a member of it can", str(made)
        ) from error
    made.chmod(0o660)


def _let_through(directory: Path, groups: Collection[int]) -> None:
    """Let the members of groups pass through a directory of ours, without letting them list it."""
    status = directory.stat()
    if status.st_mode & stat.S_IXOTH or status.st_uid != os.geteuid():
        return
    if len(groups) > 1:
        directory.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)
        return
    (gid,) = groups
    if status.st_gid != gid:
        os.chown(directory, -1, gid)
        others = stat.S_IMODE(status.st_mode) & ~stat.S_IRWXG  # rights of the former group are not for this one
        directory.chmod(others | stat.S_IXGRP)
    else:
        directory.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXGRP)


def _require_free(path: Path) -> None:
    """Check that a path may be replaced.

    Raises:
        OSError: it is neither a socket nor a link, or another program listens there.
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
    """Remove the socket's path, and the link to it, unless something else stands there."""
    if path.is_socket() and not path.is_symlink():
        path.unlink(missing_ok=True)
    if signpost is not None and signpost.is_symlink():
        signpost.unlink(missing_ok=True)
