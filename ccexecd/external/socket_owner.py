"""Which user owns the other end of a loopback connection, from the kernel's socket table.

Owns the two ways to ask: sock_diag(7) over netlink, which looks up one connection by its four numbers, and
/proc/net/tcp{,6}, which has to be read row by row, for places where netlink is closed (RestrictAddressFamilies=,
seccomp, a kernel without tcp_diag). It judges nobody; auth.py does.

Both tables go on listing a connection after its process has closed it, and then name uid 0 (TIME_WAIT, and any closed
socket before Linux 6.17): someone who sends a request and closes at once would be taken for root. Such a row has
inode 0, so a row counts only with an inode and in a state that an open socket of an established connection can have.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Protocol, Self

import attrs

from ccexecd.external.address import parse_ip

# Names and layouts: linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h. Numbers are in host order except the ports.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_DIAG_REQUEST = struct.Struct("=BBBBI")  # family, protocol, extensions, padding, states
_DIAG_SOCKID = struct.Struct("=4s16s16sI8s")  # both ports, both addresses, interface, cookie
_DIAG_ANSWER = struct.Struct("=xBxx48x12xII")  # state, uid, inode
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = b"\xff" * 8  # INET_DIAG_NOCOOKIE twice

# net/tcp_states.h: ESTABLISHED, and FIN_WAIT1 and FIN_WAIT2 for a client that has shut down its sending side only.
_OPEN_STATES = frozenset({1, 4, 5})

_PROC = Path("/proc/self/net")


class ConnectedSocket(Protocol):
    """The two questions that are asked of a connected TCP socket."""

    def getpeername(self) -> Any:
        """Return the other end's address; OSError when the connection is gone."""
        ...

    def getsockname(self) -> Any:
        """Return this end's address."""
        ...


@attrs.frozen
class _Ends:
    """A connection as one of its ends sees it: where it comes from and where it goes."""

    source: IPv4Address | IPv6Address
    source_port: int
    target: IPv4Address | IPv6Address
    target_port: int

    @classmethod
    def seen_by_peer(cls, sock: ConnectedSocket) -> Self | None:
        """Return the ends from the peer's side; None when the connection is gone or is not IP."""
        try:
            peer, local = sock.getpeername(), sock.getsockname()
        except OSError:
            return None
        if not isinstance(peer, tuple):  # a path, or nothing: a Unix socket
            return None
        source, target = parse_ip(peer[0]), parse_ip(local[0])
        return cls(source, peer[1], target, local[1]) if source and target else None

    def reversed(self) -> "_Ends":
        """Return the same connection as its other end sees it."""
        return _Ends(self.target, self.target_port, self.source, self.source_port)


def peer_uid(sock: ConnectedSocket) -> int | None:
    """Find out whose process is at the other end.

    Args:
        sock: Our end of a TCP connection.

    Returns:
        The uid that opened the other end's socket. None when the connection does not run over loopback, when the other
        end is closed already (nobody is there to be asked), or when the kernel does not tell.
    """
    ends = _Ends.seen_by_peer(sock)
    if ends is None or not ends.source.is_loopback:
        return None
    try:
        uid = _ask_netlink(ends)
    except OSError:
        uid = _search_proc(ends)
    # After a reset the client's port is free for anybody, so the row may be a stranger's. While our end is still part
    # of a connection the four numbers are taken, and nobody else's socket can be in a state that counts.
    return uid if _Ends.seen_by_peer(sock) == ends else None


def _ask_netlink(ends: _Ends) -> int | None:
    """Look the socket up; OSError when that is not possible here."""
    try:
        return _query(ends)
    except FileNotFoundError:
        # ENOENT says that there is no such socket, and also that the kernel has no tcp_diag. Our own end exists.
        _query(ends.reversed())
        return None


def _query(ends: _Ends) -> int | None:
    ports = struct.pack("!HH", ends.source_port, ends.target_port)
    # An IPv4 question also finds an AF_INET6 socket that is connected to a mapped address.
    family = socket.AF_INET if ends.source.version == 4 else socket.AF_INET6
    packet = _DIAG_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + _DIAG_SOCKID.pack(
        ports, ends.source.packed, ends.target.packed, 0, _NO_COOKIE
    )
    header = _NLMSGHDR.pack(_NLMSGHDR.size + len(packet), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.send(header + packet)
        answer = netlink.recv(4096, socket.MSG_DONTWAIT)  # the kernel answers before send() returns
    return _read_answer(answer)


def _read_answer(answer: bytes) -> int | None:
    kind = _NLMSGHDR.unpack_from(answer)[1]
    if kind == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _NLMSGHDR.size)
        raise OSError(-code, os.strerror(-code))
    if kind != _SOCK_DIAG_BY_FAMILY:
        raise OSError(errno.EPROTO, f"sock_diag answered with message type {kind}")
    # Where no connection matches, the kernel offers a listener on the client's port; its state does not count.
    return _owner(*_DIAG_ANSWER.unpack_from(answer, _NLMSGHDR.size))


def _search_proc(ends: _Ends) -> int | None:
    for name, needle in _proc_needles(ends):
        try:
            with (_PROC / name).open("rb") as table:
                row = _find_row(table, needle)
        except OSError:
            continue
        if row is not None:
            return row
    return None


def _find_row(table: Iterable[bytes], needle: bytes) -> int | None:
    """Search the table for a connection, splitting only the row that matches."""
    for line in table:
        if needle in line:
            fields = line.split()  # sl local remote st queues timer retransmits uid timeout inode ...
            return _owner(int(fields[3], 16), int(fields[7]), int(fields[9]))
    return None


def _owner(state: int, uid: int, inode: int) -> int | None:
    return uid if inode and state in _OPEN_STATES else None


def _proc_needles(ends: _Ends) -> list[tuple[str, bytes]]:
    """Return the tables to search and the columns to search for; an IPv4 peer may have used an AF_INET6 socket."""
    source, target = ends.source.packed, ends.target.packed
    rows = [("tcp6", source, target)]
    if ends.source.version == 4:
        mapped = b"\0" * 10 + b"\xff\xff"
        rows = [("tcp", source, target), ("tcp6", mapped + source, mapped + target)]
    return [
        (name, b" %s:%04X %s:%04X " % (_hex(a), ends.source_port, _hex(b), ends.target_port)) for name, a, b in rows
    ]


def _hex(packed: bytes) -> bytes:
    """Write an address as the table does: each 32-bit word in host order."""
    return b"".join(b"%08X" % word for (word,) in struct.iter_unpack("=I", packed))
