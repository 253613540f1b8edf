"""Opening, taking over, accepting and stopping to accept: real sockets."""

import errno
import logging
import os
import re
import resource
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd.external.listener import Acceptor, ListenError, from_fds, open_listeners, require_secrecy

LOOPBACK = "127.0.0.1"


async def greet(stream: trio.SocketStream) -> None:
    """Say hello, then stay until the client leaves."""
    async with stream:
        await stream.send_all(b"hello")
        await stream.receive_some()


async def greeted(port: int) -> trio.SocketStream:
    """Connect, and return the connection once it is being served."""
    with trio.fail_after(5):
        client = await trio.open_tcp_stream(LOOPBACK, port)
        assert await client.receive_some() == b"hello"
        return client


@asynccontextmanager
async def accepting(serve=greet) -> AsyncIterator[tuple[Acceptor, int]]:
    """Run an acceptor on a free port; its connections end with the block."""
    acceptor = Acceptor(await open_listeners(LOOPBACK, 0), serve)
    port = acceptor.listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as door:
            await door.start(acceptor.run, connections)
            yield acceptor, port
            acceptor.stop_accepting()
        connections.cancel_scope.cancel()


async def test_connections_are_served_side_by_side():
    """Each connection has its own task, and none waits for another to end."""
    async with accepting() as (acceptor, port):
        clients = [await greeted(port) for _ in range(10)]
        assert acceptor.addresses == [f"127.0.0.1:{port}"]
        for client in clients:
            await client.aclose()


async def test_an_accepted_connection_sends_small_answers_at_once():
    """Nagle's algorithm is off: a line of output does not wait for the acknowledgement of the one before."""
    options: list[int] = []

    async def look(stream: trio.SocketStream) -> None:
        options.append(stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await greet(stream)

    async with accepting(look) as (_, port):
        await (await greeted(port)).aclose()
    assert options == [1]


async def test_stopping_lets_nobody_in_and_ends_no_conversation():
    """After stop_accepting() new clients are refused, the loop has returned, and accepted ones go on."""
    acceptor = Acceptor(await open_listeners(LOOPBACK, 0), greet)
    port = acceptor.listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as door:
            await door.start(acceptor.run, connections)
            client = await greeted(port)
            acceptor.stop_accepting()
            acceptor.stop_accepting()
        with pytest.raises(OSError, match=f"{port} failed"):
            await trio.open_tcp_stream(LOOPBACK, port)
        assert acceptor.addresses == [f"127.0.0.1:{port}"]
        await wait_all_tasks_blocked()
        assert len(connections.child_tasks) == 1
        with trio.fail_after(5):
            await client.send_eof()
            assert await client.receive_some() == b""
    await client.aclose()


async def test_stopping_before_the_start_closes_the_sockets():
    """A daemon that is told to stop while it starts up leaves no socket listening."""
    acceptor = Acceptor(await open_listeners(LOOPBACK, 0), greet)
    port = acceptor.listeners[0].socket.getsockname()[1]
    acceptor.stop_accepting()
    async with trio.open_nursery() as connections:
        with trio.fail_after(5):
            await acceptor.run(connections)
    with pytest.raises(OSError, match=f"{port} failed"):
        await trio.open_tcp_stream(LOOPBACK, port)


async def test_a_taken_port_is_named_with_a_hint():
    """Whoever starts a second daemon reads which address is taken and what to do."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as error:
            await open_listeners(LOOPBACK, port)
    message = str(error.value)
    assert message.startswith(f"cannot listen on 127.0.0.1:{port}: address already in use; ")
    assert "--port" in message
    assert isinstance(error.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("192.0.2.1", "192.0.2.1:0: cannot assign requested address; no interface of this machine"),
        ("not a host name", "not a host name:0: the host name cannot be resolved"),
    ],
)
async def test_an_address_that_is_not_ours_is_named_with_a_hint(host: str, words: str):
    """A wrong host is told apart from a taken port."""
    with pytest.raises(ListenError) as error:
        await open_listeners(host, 0)
    assert words in str(error.value)


async def test_a_port_that_was_just_closed_can_be_taken_again():
    """A restart does not wait for connections of the last daemon to leave TIME_WAIT."""
    with socket.create_server((LOOPBACK, 0)) as first:
        port = first.getsockname()[1]
        client = socket.create_connection((LOOPBACK, port))
        accepted, _ = first.accept()
        accepted.close()  # our side closes first, so TIME_WAIT stays on our port
        client.close()
    for listener in await open_listeners(LOOPBACK, port):
        await listener.aclose()


async def test_an_inherited_socket_is_served():
    """A socket that systemd has opened is accepted from like one of our own."""
    inherited = socket.create_server((LOOPBACK, 0))
    port = inherited.getsockname()[1]
    acceptor = Acceptor(from_fds([inherited.detach()]), greet)
    async with trio.open_nursery() as connections:
        await connections.start(acceptor.run, connections)
        await (await greeted(port)).aclose()
        acceptor.stop_accepting()


@pytest.mark.parametrize("kind", ["connected", "udp", "unix", "file", "closed"])
async def test_a_descriptor_that_does_not_listen_on_tcp_is_refused(kind: str):
    """A wrong descriptor is named, and all of them are left as they were."""
    good = socket.create_server((LOOPBACK, 0))
    pair = socket.socketpair()
    bad = {
        "connected": pair[0].detach,
        "udp": lambda: socket.socket(type=socket.SOCK_DGRAM).detach(),
        "unix": pair[0].detach,
        "file": lambda: os.open(os.devnull, os.O_RDONLY),
        "closed": lambda: 999_999,
    }[kind]()
    with pytest.raises(ListenError, match=f"file descriptor {bad} is not a listening TCP socket"):
        from_fds([good.fileno(), bad])
    assert stat.S_ISSOCK(os.fstat(good.fileno()).st_mode)
    good.close()
    for end in pair:
        end.close()
    if kind != "closed":
        os.close(bad)


class Exhausted(trio.abc.Listener[trio.SocketStream]):
    """A listener whose accept() fails some times before it yields a connection, and then waits."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)
        self.closed = False
        self.socket = SimpleNamespace(getsockname=lambda: (LOOPBACK, 8003))

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        if self.errors:
            code = self.errors.pop(0)
            if code:
                raise OSError(code, os.strerror(code))
            ours, theirs = socket.socketpair()
            theirs.close()
            return trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        return await trio.sleep_forever()

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_running_out_of_descriptors_is_survived(code: int, caplog: pytest.LogCaptureFixture):
    """Accepting goes on after a pause, and each shortage is logged once however long it lasts."""
    both = trio.Event()
    served = []

    async def serve(stream: trio.SocketStream) -> None:
        await stream.aclose()
        served.append(stream)
        if len(served) == 2:
            both.set()

    listener = Exhausted(code, code, code, 0, code, 0)
    acceptor = Acceptor([listener], serve)  # type: ignore[list-item]
    started = trio.current_time()
    with caplog.at_level(logging.INFO):
        async with trio.open_nursery() as connections:
            await connections.start(acceptor.run, connections)
            await both.wait()
            acceptor.stop_accepting()
    assert trio.current_time() - started == pytest.approx(0.4, abs=0.05)
    assert [record.message for record in caplog.records] == [
        f"cannot accept connections: {os.strerror(code)}; trying on"
    ] * 2
    assert listener.closed


async def test_another_failure_of_accept_is_not_hidden():
    """A listening socket that is broken ends the daemon, which would otherwise sit there unreachable."""
    acceptor = Acceptor([Exhausted(errno.EBADF)], greet)  # type: ignore[list-item]
    async with trio.open_nursery() as connections:
        with pytest.RaisesGroup(pytest.RaisesExc(OSError, check=lambda error: error.errno == errno.EBADF)):
            await acceptor.run(connections)


@contextmanager
def no_descriptor_free() -> Iterator[None]:
    """Take every descriptor that this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_real_shortage_of_descriptors_is_survived(caplog: pytest.LogCaptureFixture):
    """A client that connects while no descriptor is free is served as soon as there is one."""
    async with accepting() as (_, port):
        client = socket.socket()
        client.setblocking(False)
        with no_descriptor_free(), trio.fail_after(5):
            with pytest.raises(BlockingIOError):
                client.connect((LOOPBACK, port))
            while not caplog.records:
                await trio.sleep(0.01)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
        with trio.fail_after(5):
            assert await stream.receive_some() == b"hello"
        await stream.aclose()


@pytest.mark.parametrize("addresses", [[], ["127.0.0.1:8003"], ["[::1]:8003", "127.1.2.3:1"], ["[::ffff:127.0.0.1]:1"]])
def test_on_loopback_nobody_else_can_listen(addresses: list[str]):
    """Plain text is as secret there as anything on this machine."""
    require_secrecy(addresses)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:8003", "[::]:8003", "192.0.2.1:1", "[2001:db8::1]:443", "[::ffff:192.0.2.1]:1"]
)
def test_beyond_loopback_somebody_can(address: str):
    """One such address is enough; the error names it, and what can be done."""
    with pytest.raises(ListenError, match=re.escape(f"cannot listen on {address}, which is beyond loopback")):
        require_secrecy(["127.0.0.1:1", address])
