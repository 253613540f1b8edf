"""Whose process is at the other end of a loopback connection: asked of the real kernel, by both ways."""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import pytest

from ccexecd.external import socket_owner
from ccexecd.external.socket_owner import peer_uid

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can open a socket for somebody else")


@contextmanager
def user(uid: int) -> Iterator[None]:
    """Open sockets as another user: a socket belongs to the effective uid that created it."""
    own = os.geteuid()
    if uid != own:
        os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(own)


@pytest.fixture(params=["netlink", "proc"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ask by netlink alone, or where netlink is closed, by /proc alone."""

    def closed(_ends: object) -> None:
        raise PermissionError(errno.EACCES, "this way is closed")

    name = "_ask_netlink" if request.param == "proc" else "_search_proc"
    monkeypatch.setattr(socket_owner, name, closed)
    return request.param


Connect = Callable[..., tuple[socket.socket, socket.socket]]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Give a function that connects a client of some user to a new listener: (client, accepted)."""
    with ExitStack() as stack:

        def pair(
            listen: tuple[socket.AddressFamily, str] = (socket.AF_INET, "127.0.0.1"),
            target: tuple[socket.AddressFamily, str] = (socket.AF_INET, "127.0.0.1"),
            uid: int | None = None,
        ) -> tuple[socket.socket, socket.socket]:
            listener = stack.enter_context(socket.socket(listen[0]))
            if listen == (socket.AF_INET6, "::"):
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind((listen[1], 0))
            listener.listen()
            with user(os.geteuid() if uid is None else uid):
                client = stack.enter_context(socket.socket(target[0]))
            client.connect((target[1], listener.getsockname()[1]))
            accepted, _ = listener.accept()
            return client, stack.enter_context(accepted)

        yield pair


V4 = (socket.AF_INET, "127.0.0.1")
V6 = (socket.AF_INET6, "::1")
BOTH = (socket.AF_INET6, "::")
MAPPED = (socket.AF_INET6, "::ffff:127.0.0.1")


@pytest.mark.parametrize(
    ("listen", "target"),
    [(V4, V4), (V6, V6), (BOTH, V4), (BOTH, V6), (BOTH, MAPPED), (V4, MAPPED), (V4, (socket.AF_INET, "127.9.8.7"))],
    ids=["v4", "v6", "v4-to-dual", "v6-to-dual", "mapped-to-dual", "mapped-to-v4", "other-127"],
)
def test_the_owner_is_found_in_both_families(way: str, connect: Connect, listen, target):
    """The client's uid is found however IPv4 and IPv6 are mixed on the two ends."""
    if target[1] == "127.9.8.7":
        listen = (socket.AF_INET, "0.0.0.0")
    _, accepted = connect(listen, target)
    assert peer_uid(accepted) == os.geteuid()


@as_root
def test_another_users_socket_is_told_apart(way: str, connect: Connect):
    """A client of another user is seen as that user."""
    _, accepted = connect(uid=NOBODY)
    assert peer_uid(accepted) == NOBODY


def test_a_client_that_still_reads_is_known(way: str, connect: Connect):
    """A client that has shut down its sending side (curl does, nc -N does) still has an owner."""
    client, accepted = connect()
    client.shutdown(socket.SHUT_WR)
    assert peer_uid(accepted) == os.geteuid()


def test_a_client_that_has_closed_is_nobody(way: str, connect: Connect):
    """Sending a request and closing at once makes nobody root: the kernel lists such a socket with uid 0."""
    client, accepted = connect()
    client.sendall(b"POST /execute HTTP/1.1\r\n\r\n")
    client.close()
    assert peer_uid(accepted) is None


def test_a_client_that_has_reset_is_nobody(way: str, connect: Connect):
    """Once a reset has arrived the client's port may be anybody's, so nobody owns it."""
    client, accepted = connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert peer_uid(accepted) is None


def test_a_listener_on_the_clients_port_is_not_the_client(way: str):
    """The kernel's offer of a listening socket, where no connection matches, is not taken."""
    with socket.socket() as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        client.bind(("127.0.0.1", 0))
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted, socket.socket() as squatter:
            address = client.getsockname()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ends = socket_owner._Ends.seen_by_peer(accepted)
            client.close()
            squatter.bind(address)
            squatter.listen()
            assert ends is not None
            found = socket_owner._query(ends) if way == "netlink" else socket_owner._search_proc(ends)
            assert found is None


@pytest.mark.parametrize(
    ("state", "inode", "counts"),
    [
        (1, 7, True),
        (4, 7, True),
        (5, 7, True),
        (1, 0, False),
        (2, 7, False),
        (6, 7, False),
        (7, 7, False),
        (10, 7, False),
    ],
)
def test_only_an_open_socket_of_an_established_connection_counts(state: int, inode: int, counts: bool):
    """Neither a closed socket, nor one that is still connecting from the same port, nor a listener is the client."""
    assert (socket_owner._owner(state, 1000, inode) == 1000) is counts


def test_a_connection_that_ends_during_the_search_has_no_owner(monkeypatch: pytest.MonkeyPatch):
    """After a reset the row that was found may be somebody else's, who has taken the port over."""

    class Reset:
        """A socket whose reset arrives after its peer's name was asked once."""

        asked = 0

        def getpeername(self) -> tuple[str, int]:
            self.asked += 1
            if self.asked > 1:
                raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
            return ("127.0.0.1", 40000)

        def getsockname(self) -> tuple[str, int]:
            return ("127.0.0.1", 8003)

    monkeypatch.setattr(socket_owner, "_query", lambda _ends: 0)
    assert peer_uid(Reset()) is None


def test_netlink_without_an_answer_falls_back_to_proc(monkeypatch: pytest.MonkeyPatch, connect: Connect):
    """Where AF_NETLINK is not permitted (RestrictAddressFamilies=) the table in /proc still knows."""

    class Forbidden(socket.socket):
        def __init__(self, family=-1, *args, **kwargs):
            if family == socket.AF_NETLINK:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *args, **kwargs)

    _, accepted = connect()
    monkeypatch.setattr(socket, "socket", Forbidden)
    assert peer_uid(accepted) == os.geteuid()


def test_a_kernel_without_tcp_diag_falls_back_to_proc(monkeypatch: pytest.MonkeyPatch, connect: Connect):
    """ENOENT for our own end too means that the kernel cannot be asked, not that nobody is there."""

    def absent(_ends: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    _, accepted = connect()
    monkeypatch.setattr(socket_owner, "_query", absent)
    assert peer_uid(accepted) == os.geteuid()


def test_a_connection_that_is_not_there_is_told_apart_from_a_kernel_that_cannot_tell(
    monkeypatch: pytest.MonkeyPatch, connect: Connect
):
    """The kernel says ENOENT for both; when it knows our own end, the answer is that nobody is there."""
    _, accepted = connect()
    ends = socket_owner._Ends.seen_by_peer(accepted)
    assert ends is not None
    with pytest.raises(FileNotFoundError):
        socket_owner._query(attrs.evolve(ends, target_port=1))

    def knows_only_us(asked: object) -> int:
        if asked == ends:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return 0

    monkeypatch.setattr(socket_owner, "_query", knows_only_us)
    monkeypatch.setattr(socket_owner, "_search_proc", lambda _ends: pytest.fail("there was no need to look there"))
    assert peer_uid(accepted) is None


def test_an_answer_of_another_kind_is_no_answer():
    """A message that is neither an answer nor an error leads to the other table, not to a uid."""
    with pytest.raises(OSError, match="message type 3"):
        socket_owner._read_answer(struct.pack("=IHHII", 20, 3, 0, 0, 0) + bytes(72))


def test_what_is_not_tcp_has_no_owner():
    """A Unix socket pair is no loopback connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) is None


def test_without_any_table_nobody_is_known(monkeypatch: pytest.MonkeyPatch, connect: Connect, tmp_path: Path):
    """Where the kernel tells nothing, nobody is admitted by uid, and nothing raises."""
    _, accepted = connect()
    monkeypatch.setattr(socket_owner, "_PROC", tmp_path)
    monkeypatch.setattr(socket_owner, "_NETLINK_SOCK_DIAG", 9999)
    assert peer_uid(accepted) is None


def test_only_loopback_is_asked_about():
    """An address of another machine means nothing in this machine's table."""

    class Remote:
        def getpeername(self) -> tuple[str, int]:
            return ("192.0.2.7", 40000)

        def getsockname(self) -> tuple[str, int]:
            return ("192.0.2.1", 8003)

    assert peer_uid(Remote()) is None


def test_the_right_row_is_found_among_many(way: str, connect: Connect):
    """Each of many connections to one machine is found as itself, however similar their ports look."""
    pairs = [connect(uid=NOBODY if os.geteuid() == 0 and n % 2 else None) for n in range(60)]
    expected = [NOBODY if os.geteuid() == 0 and n % 2 else os.geteuid() for n in range(60)]
    assert [peer_uid(accepted) for _, accepted in pairs] == expected
