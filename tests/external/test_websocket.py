"""The seam to trio-websocket: frames as clients, careless ones and hostile ones send them, over real sockets."""

import base64
import itertools
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from ccexecd.external import websocket
from ccexecd.external.websocket import text_frame
from ccexecd.service.writer import URGENT_LIMIT
from tests.e2e.client import PATIENCE
from tests.e2e.daemon_process import Daemon, eventually
from tests.e2e.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawSocket, call, frame
from tests.in_process import Running, running

HANDSHAKE = (
    b"GET /ws/mcp HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: ccexec.v1\r\n\r\n"
)
RESERVED_OPCODE = 0x3
FIRST_CHARACTER = "ä".encode()


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """A daemon whose crash barrier has caught nothing by the end."""
    async with running(tmp_path) as one:
        yield one
        assert one.daemon._door._site.counters.crashed == 0


@asynccontextmanager
async def opened(daemon: Running) -> AsyncIterator[RawSocket]:
    """A WebSocket, greeted, of which every byte is ours to choose."""
    one = await RawSocket.open(daemon.address)
    async with one.stream:
        assert (await message(one))["method"] == "connected"
        yield one


async def message(one: RawSocket) -> dict[str, Any]:
    """The next message; there must be one."""
    received = await one.receive()
    assert received is not None, "the connection has ended"
    opcode, payload = received
    assert opcode == TEXT, received
    return json.loads(payload)


async def still_serves(one: RawSocket, number: int = 99) -> None:
    """This connection goes on."""
    await one.send(call("list", number))
    assert (await message(one))["id"] == number


async def others_are_served(daemon: Running) -> None:
    async with opened(daemon) as other:
        await still_serves(other)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_a_message_is_one_frame(size):
    """Text, final, unmasked, with the shortest header for its length (RFC 6455 section 5.2)."""
    framed = text_frame(b"x" * size)
    header = 2 if size < 126 else 4 if size < 65536 else 10
    announced = framed[1] if size < 126 else int.from_bytes(framed[2:header], "big")
    assert (framed[0], framed[1] >> 7, announced) == (0x81, 0, size)
    assert framed[header:] == b"x" * size


class TestEarlyFrames:
    """Clients may send at once; what comes with the handshake is held until it is answered."""

    @pytest.mark.parametrize("cut", [0, 1, 5, 40, 10_000])
    async def test_frames_in_the_segment_of_the_handshake_are_not_lost(self, daemon, cut):
        """Requests that arrive with the handshake, whole or in part, are answered in order, after the greeting."""
        frames = b"".join(call("list", number) for number in range(10))
        async with await daemon.dial() as stream:
            await stream.send_all(HANDSHAKE + frames[:cut])
            await stream.send_all(frames[cut:])
            one = RawSocket(stream)
            one._received = await head(stream)
            assert (await message(one))["method"] == "connected"
            assert [(await message(one))["id"] for _ in range(10)] == list(range(10))

    async def test_a_close_in_the_segment_of_the_handshake_is_answered(self, daemon):
        """Even a goodbye may come that early."""
        async with await daemon.dial() as stream:
            await stream.send_all(HANDSHAKE + frame(struct.pack("!H", 1000), CLOSE))
            one = RawSocket(stream)
            one._received = await head(stream)
            assert await one.close_code() == 1000

    @pytest.mark.parametrize("early", [b"\xff" * 100, frame(b"x", masked=False), b"GET / HTTP/1.1\r\n\r\n"])
    async def test_garbage_behind_the_handshake_ends_this_connection(self, daemon, early):
        """What is no frame is told so with 1002, however early it comes."""
        async with await daemon.dial() as stream:
            await stream.send_all(HANDSHAKE + early)
            one = RawSocket(stream)
            one._received = await head(stream)
            assert await one.close_code() == 1002
        await others_are_served(daemon)

    async def test_a_client_may_vanish_behind_its_handshake(self, daemon):
        """A reset before the answer is read ends nothing else."""
        for _ in range(20):
            one = RawSocket(await daemon.dial())
            await one.send(HANDSHAKE)
            await one.reset()
        await others_are_served(daemon)


async def head(stream: trio.SocketStream) -> bytes:
    """Read the answer to a handshake; gives what came behind it."""
    received = b""
    with trio.fail_after(PATIENCE):
        while b"\r\n\r\n" not in received:
            received += await stream.receive_some()
    assert received.startswith(b"HTTP/1.1 101 ")
    return received.partition(b"\r\n\r\n")[2]


class TestMessages:
    """A message is what its frames hold together."""

    async def test_a_message_may_come_in_fragments_of_any_size(self, daemon):
        """Fragments, empty ones and such that part a character, make one message."""
        text = json.dumps({"jsonrpc": "2.0", "id": "ä€𝄞", "method": "list"}, ensure_ascii=False).encode()
        async with opened(daemon) as one:
            await one.send(frame(text[:1], final=False))
            for byte in text[1:]:
                await one.send(frame(bytes([byte]), CONTINUATION, final=False), frame(b"", CONTINUATION, final=False))
            await one.send(frame(b"", CONTINUATION))
            assert (await message(one))["id"] == "ä€𝄞"

    async def test_control_frames_may_come_between_fragments(self, daemon):
        """A ping in the middle of a message is answered at once, a pong is passed over; the message is whole."""
        text = call("list", 5)[6:]
        async with opened(daemon) as one:
            await one.send(frame(text[:10], final=False), frame(b"now", PING), frame(b"?", PONG))
            assert await one.receive() == (PONG, b"now")
            await one.send(frame(text[10:20], CONTINUATION, final=False), frame(b"", PING))
            assert await one.receive() == (PONG, b"")
            await one.send(frame(text[20:], CONTINUATION))
            assert (await message(one))["id"] == 5

    async def test_a_frame_may_come_byte_by_byte(self, daemon):
        """Packets mean nothing."""
        async with opened(daemon) as one:
            for byte in call("list", 7):
                await one.send(bytes([byte]))
                await trio.lowlevel.checkpoint()
            assert (await message(one))["id"] == 7

    async def test_masks_are_undone(self, daemon):
        """A real mask, as libraries use it."""
        key, text = b"\x12\x34\x56\x78", call("list", 3)[6:]
        masked = bytes(byte ^ mask for byte, mask in zip(text, itertools.cycle(key), strict=False))
        async with opened(daemon) as one:
            await one.send(bytes([0x81, 0x80 | len(text)]) + key + masked)
            assert (await message(one))["id"] == 3

    async def test_a_binary_message_is_refused_and_the_connection_goes_on(self, daemon):
        """Messages are text: a binary one is told so."""
        async with opened(daemon) as one:
            await one.send(frame(call("list")[6:], BINARY))
            reply = await message(one)
            assert (reply["id"], reply["error"]["code"]) == (None, -32600)
            assert "text" in reply["error"]["message"]
            await still_serves(one)

    async def test_a_message_as_large_as_allowed_is_served(self, tmp_path):
        """ws_max_size bytes are fine; one more is told 1009, and others notice nothing."""
        async with running(tmp_path, ws_max_size=100_000) as daemon, opened(daemon) as one:
            text = call("hook_status", 1)[6:]
            await one.send(frame(text + b" " * (100_000 - len(text))))
            assert (await message(one))["id"] == 1
            await one.send(frame(text + b" " * (100_001 - len(text))))
            assert await one.close_code() == 1009
            await others_are_served(daemon)

    async def test_a_message_that_grows_too_large_in_fragments_is_told_so(self, tmp_path):
        """The limit is for the message, not for its frames."""
        async with running(tmp_path, ws_max_size=100_000) as daemon, opened(daemon) as one:
            await one.send(frame(b" " * 60_000, final=False), frame(b" " * 60_000, CONTINUATION, final=False))
            assert await one.close_code() == 1009

    async def test_an_announced_size_is_not_believed(self, daemon):
        """A header that promises 2^62 bytes reserves nothing; what comes counts."""
        async with opened(daemon) as one:
            await one.send(frame(b"x" * 1000, announced=1 << 62))
            await others_are_served(daemon)


VIOLATIONS = {
    "unmasked": (frame(b"{}", masked=False), 1002),
    "reserved bit": (frame(b"{}", reserved=4), 1002),
    "all reserved bits": (frame(b"{}", reserved=7), 1002),
    "reserved opcode": (frame(b"{}", RESERVED_OPCODE), 1002),
    "reserved control opcode": (frame(b"", 0xB), 1002),
    "continuation of nothing": (frame(b"{}", CONTINUATION), 1002),
    "message within a message": (frame(b"{", final=False) + frame(b"}"), 1002),
    "fragmented ping": (frame(b"x", PING, final=False), 1002),
    "long ping": (frame(b"x" * 126, PING), 1002),
    "long close": (frame(struct.pack("!H", 1000) + b"x" * 124, CLOSE), 1002),
    "close of one byte": (frame(b"x", CLOSE), 1002),
    "close with a reserved code": (frame(struct.pack("!H", 1005), CLOSE), 1002),
    "close with a code of no range": (frame(struct.pack("!H", 999), CLOSE), 1002),
    "close with a reason that is no text": (frame(struct.pack("!H", 1000) + b"\xff", CLOSE), 1007),
    "length not in its shortest form": (b"\x81\xfe\x00\x02" + bytes(4) + b"{}", 1002),
    "length of 64 bits with the top bit": (b"\x81\xff" + b"\xff" * 8 + bytes(4), 1002),
    "no text": (frame(b"\xff\xfe"), 1007),
    "half a character": (frame(FIRST_CHARACTER[:1]), 1007),
    "half a character in fragments": (frame(FIRST_CHARACTER[:1], final=False) + frame(b"x", CONTINUATION), 1007),
    "surrogate": (frame(b'"\xed\xa0\x80"'), 1007),
    "not a frame": (b"GET / HTTP/1.1\r\n\r\n", 1002),
}


class TestViolations:
    """What RFC 6455 forbids ends the connection that it came on, with the code for it, and no other."""

    @pytest.mark.parametrize("name", VIOLATIONS)
    async def test_it_is_told_and_the_connection_closed(self, daemon, name):
        """1002 for what breaks the protocol, 1007 for what is no text; another client goes on."""
        data, code = VIOLATIONS[name]
        async with opened(daemon) as other, opened(daemon) as one:
            await one.send(call("hook_status", 1) + data)
            assert (await message(one))["id"] == 1
            assert await one.close_code() == code
            await still_serves(other)

    @pytest.mark.parametrize("name", VIOLATIONS)
    async def test_whoever_is_gone_already_is_not_told(self, daemon, name):
        """The same with a reset right behind it: nothing is left, and nobody else notices."""
        async with opened(daemon) as other:
            one = await RawSocket.open(daemon.address)
            await one.send(VIOLATIONS[name][0])
            await one.reset()
            await eventually(lambda: len(daemon.daemon._shared.connections) == 1, "it has gone")
            await still_serves(other)

    async def test_what_comes_behind_a_violation_is_not_read(self, daemon):
        """A request behind a broken frame is not obeyed: who knows where it begins."""
        async with opened(daemon) as one:
            await one.send(frame(b"{}", masked=False) + call("execute", argv=["true"]))
            assert await one.close_code() == 1002
        assert daemon.daemon._engine.started_total == 0

    async def test_an_execution_survives_the_violation_of_its_client(self, daemon):
        """A client that breaks off is as one that was cut: its session waits to be resumed."""
        async with opened(daemon) as one:
            await one.send(call("execute", argv=["sleep", "60"]))
            assert (await message(one))["result"]["status"] == "started"
            await one.send(frame(b"", RESERVED_OPCODE))
            assert await one.close_code() == 1002
        assert (await daemon.ask("status"))["executions"]["live"] == 1


class TestClose:
    """Both sides of the close handshake."""

    @pytest.mark.parametrize(
        ("payload", "echoed"),
        [
            (b"", 1005),
            (struct.pack("!H", 1000), 1000),
            (struct.pack("!H", 1001) + b"leaving", 1001),
            (struct.pack("!H", 3000), 3000),
            (struct.pack("!H", 4999) + "ä".encode(), 4999),
        ],
    )
    async def test_the_clients_close_is_answered(self, daemon, payload, echoed):
        """With its own code, and then the connection ends."""
        async with opened(daemon) as one:
            await one.send(frame(payload, CLOSE))
            assert await one.close_code() == echoed
        await eventually(lambda: not daemon.daemon._shared.connections, "it has gone")

    async def test_what_was_asked_before_the_close_is_answered_before_it(self, daemon):
        """Requests and their close in one segment: every answer, then the close."""
        async with opened(daemon) as one:
            await one.send(
                *(call("hook_status", number) for number in range(50)), frame(struct.pack("!H", 1000), CLOSE)
            )
            assert [(await message(one))["id"] for _ in range(50)] == list(range(50))
            assert await one.close_code() == 1000

    async def test_what_comes_behind_the_close_is_void(self, daemon):
        """Frames after a close, another close even, change nothing."""
        async with opened(daemon) as one:
            bye = frame(struct.pack("!H", 1000), CLOSE)
            await one.send(bye + call("execute", argv=["true"]) + frame(b"x", PING) + bye)
            assert await one.close_code() == 1000
        assert daemon.daemon._engine.started_total == 0

    async def test_pings_during_our_close_are_no_trouble(self, daemon):
        """A client that pings while it is being told goodbye gets the goodbye, and nobody else anything."""
        async with opened(daemon) as one:
            session = next(iter(daemon.daemon._engine.sessions))
            await one.send(frame(b"before", PING) * 100)
            session.drop_connection(websocket.Parting.CUT)
            await one.send(*[frame(b"during", PING)] * 100)
            assert await one.close_code() == 4409
        await others_are_served(daemon)

    async def test_a_client_that_does_not_answer_our_close_is_left(self, daemon, monkeypatch):
        """Its half of the handshake is waited for, for a bounded time."""
        monkeypatch.setattr(websocket, "_CLOSE_PATIENCE", 0.1)
        async with opened(daemon) as one:
            session = next(iter(daemon.daemon._engine.sessions))
            session.drop_connection(websocket.Parting.CLOSED)
            assert await one.close_code() == 1000
            await eventually(lambda: not daemon.daemon._shared.connections, "it has gone")

    async def test_a_client_that_goes_on_asking_during_our_close_gets_nothing_more(self, daemon, monkeypatch):
        """What is sent after the decision to close is not obeyed."""
        monkeypatch.setattr(websocket, "_CLOSE_PATIENCE", 0.1)
        async with opened(daemon) as one:
            session = next(iter(daemon.daemon._engine.sessions))
            session.drop_connection(websocket.Parting.CLOSED)
            await one.send(*(call("execute", number, argv=["true"]) for number in range(50)))
            assert await one.close_code() == 1000
        assert daemon.daemon._engine.started_total == 0

    async def test_the_tcp_connection_ends_without_a_close(self, daemon):
        """EOF between frames or inside one: the connection is over, as after a cut."""
        for tail in (b"", call("list")[:9]):
            async with opened(daemon) as one:
                await one.send(tail)
                await one.stream.send_eof()
                await one.close_code()
        await eventually(lambda: not daemon.daemon._shared.connections, "they have gone")


class TestFloods:
    """However much of it comes, the memory it takes is bounded and others are served."""

    async def test_every_ping_is_answered_in_order(self, daemon):
        """5000 pings, 5000 pongs, and requests in between."""
        async with opened(daemon) as one, trio.open_nursery() as nursery:
            pings = [frame(b"%d" % number, PING) for number in range(5000)]
            nursery.start_soon(one.send, *pings, call("hook_status", 1))
            assert [await one.receive() for _ in pings] == [(PONG, b"%d" % number) for number in range(5000)]
            assert (await message(one))["id"] == 1

    async def test_a_client_that_only_pings_is_not_cut(self, tmp_path):
        """Somebody who watches for days and pings all the while never sends a message: that is no offence."""
        async with running(tmp_path, ws_max_size=1024) as daemon, opened(daemon) as one:
            number = int(1.2 * websocket._MESSAGE_OVERHEAD / 131)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.send, frame(b"x" * 125, PING) * number)
                for _ in range(number):
                    assert await one.receive() == (PONG, b"x" * 125)
            await still_serves(one)

    async def test_pongs_that_nobody_reads_stop_the_reading(self, daemon):
        """A client that pings and never reads is not read from any more, once enough waits for it."""
        sent = 0

        async def flood(one: RawSocket) -> None:
            nonlocal sent
            while True:
                await one.stream.send_all(frame(b"x" * 125, PING) * 500)
                sent += 500

        async with opened(daemon) as one, trio.open_nursery() as nursery:
            nursery.start_soon(flood, one)
            with trio.fail_after(PATIENCE):
                await wait_all_tasks_blocked()
            (connection,) = daemon.daemon._shared.connections
            assert connection._writer._urgent_bytes < 2 * URGENT_LIMIT
            await others_are_served(daemon)
            nursery.cancel_scope.cancel()

    async def test_a_message_is_too_long_by_its_bytes(self, tmp_path):
        """Not by its characters; what came before it in the same packet is answered, and what follows is not read."""
        text = "\U0001f600" * 256
        async with running(tmp_path, ws_max_size=1024) as daemon, opened(daemon) as one:
            await one.send(frame(text.encode()))
            assert (await message(one))["error"]["code"] == -32700
            await one.send(call("nothing", 7), frame(f"{text} ".encode()), call("nothing", 8))
            assert (await message(one))["id"] == 7
            assert await one.close_code() == 1009
            await others_are_served(daemon)

    async def test_a_message_of_empty_fragments_does_not_go_on_for_ever(self, daemon):
        """Frames that add nothing to a message are counted, too; when there are too many, it is too large."""
        empty = frame(b"", CONTINUATION, final=False)
        async with opened(daemon) as one:
            ended = trio.Event()

            async def flood() -> None:
                await one.stream.send_all(frame(b"", final=False))
                with trio.fail_after(PATIENCE):
                    while not ended.is_set():
                        try:
                            await one.stream.send_all(empty * 10_000)
                        except trio.BrokenResourceError:
                            return

            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                assert await one.close_code() == 1009
                ended.set()
        await others_are_served(daemon)

    async def test_many_large_messages_may_wait(self, tmp_path):
        """Messages within the limit are served, however many are sent before the first can be: none is too large."""
        async with running(tmp_path, ws_max_size=1_000_000) as daemon, opened(daemon) as one:
            await one.send(call("execute", 0, argv=["sleep", "60"], framing="raw"))
            execution_id = (await message(one))["result"]["execution_id"]
            assert (await message(one))["method"] == "process.started"
            waits = [call("wait", number, execution_id=execution_id) for number in range(1, 130)]
            large = [call("list", 200 + number, label="x" * 900_000) for number in range(15)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.send, *waits, *large)
                with trio.fail_after(PATIENCE):
                    await wait_all_tasks_blocked()
                await daemon.ask("control", type="KILL", execution_id=execution_id)
                replies = set()
                while len(replies) < 129 + 15:
                    received = await message(one)
                    replies |= {received["id"]} if "id" in received else set()
            assert replies == {*range(1, 130), *range(200, 215)}


HEADS = st.builds(
    lambda first, second, rest: bytes([first, second]) + rest,
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=20),
)
PAYLOADS = st.binary(max_size=200) | st.text(max_size=50).map(str.encode) | st.just(call("list")[6:])
FRAMES = st.builds(
    frame,
    PAYLOADS,
    st.sampled_from((CONTINUATION, TEXT, TEXT, BINARY, CLOSE, PING, PONG, RESERVED_OPCODE, 0xB)),
    final=st.booleans() | st.just(True),
    reserved=st.sampled_from((0, 0, 0, 0, 0, 1, 2, 4)),
    masked=st.sampled_from((True, True, True, True, False)),
    announced=st.none() | st.none() | st.none() | st.integers(0, 1 << 20),
)
CLOSES = st.integers(0, 5000).map(lambda code: frame(struct.pack("!H", code), CLOSE))


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon in a process of its own, whose end is a failure and whose log must say nothing."""
    one = Daemon(tmp_path_factory.mktemp("fuzz"), allowed_commands="true", resume_window=0)
    yield one
    one.stop()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=st.lists(FRAMES | HEADS | CLOSES, min_size=1, max_size=6), cut=st.integers(0, 30), reset=st.booleans())
@example(pieces=[frame(b"", CLOSE), frame(b"", PING)], cut=0, reset=False)
@example(pieces=[frame(b"", final=False), frame(b"x", PING), frame(b"", CLOSE)], cut=0, reset=True)
def test_no_frames_disturb_another_client(process, good, pieces, cut, reset):
    """Frames of every degree of nonsense, cut short anywhere, read to the end or not: a good client goes on."""
    data = b"".join(pieces)
    with shaken(process.address) as one:
        one.sendall(data[: len(data) - cut])
        if reset:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            one.shutdown(socket.SHUT_WR)
            read_all(one)
    good.sendall(call("hook_status"))
    assert b'"hooks"' in good.recv(65536)
    assert process.process.poll() is None


@pytest.fixture(scope="module")
def good(process: Daemon) -> Iterator[socket.socket]:
    """A client that does everything right."""
    with shaken(process.address) as one:
        yield one


def shaken(address: tuple[str, int]) -> "closing[socket.socket]":
    """A WebSocket, greeted, for blocking use."""
    one = socket.create_connection(address, PATIENCE)
    key = base64.b64encode(os.urandom(16))
    one.sendall(HANDSHAKE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", key))
    received = b""
    while b'"connected"' not in received:
        received += one.recv(65536)
    return closing(one)


def read_all(one: socket.socket) -> None:
    """Read until the daemon has closed; it may do so with a reset, for what it had not read."""
    try:
        while one.recv(65536):
            pass
    except ConnectionResetError:
        pass


@given(
    frames=st.lists(st.tuples(st.sampled_from((TEXT, CONTINUATION, PING)), st.booleans(), st.integers(0, 70_000))),
    cuts=st.lists(st.integers(1, 70_000), max_size=10),
)
@settings(max_examples=100, deadline=None)
def test_headers_are_counted_however_they_are_cut(frames, cuts):
    """The headers of the message under way, and no byte of its payload, wherever reads begin and end."""
    data, expected = b"", 0
    for opcode, final, length in frames:
        whole = frame(b"\x8f" * length, opcode, final=final)
        data += whole
        if opcode != PING:
            expected = 0 if final else expected + len(whole) - length
    headers = websocket._Headers(1 << 20)
    for size in [*cuts, len(data)]:
        headers.pass_by(data[:size])
        data = data[size:]
    assert headers.size == expected
