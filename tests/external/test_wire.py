"""Messages within their time and size, on memory streams and a clock that jumps."""

import math
from collections.abc import AsyncGenerator

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from ccexecd.external.request import Reject, Request, Response
from ccexecd.external.site import Limits
from ccexecd.external.wire import Wire

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /execute HTTP/1.1\r\nHost: localhost\r\n"
OK = Response(200, "text/plain", b"ok")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """No test here touches a socket, so time passes as soon as everybody waits."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Client:
    """The other end: what it sends, and what it has received until it was closed."""

    def __init__(self, **limits: float) -> None:
        self.stream, server = memory_stream_pair()
        self.wire = Wire(server, "test", Limits(**limits))  # type: ignore[arg-type]

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def ask(self, data: bytes, *, fresh: bool = True) -> Request | None:
        """Send bytes and read them as a request."""
        await self.say(data)
        return await self.wire.read_request(fresh=fresh)

    async def hear(self) -> bytes:
        """Receive until the server has closed its side."""
        await self.wire.stream.send_eof()
        return await self.hear_to_end()

    async def hear_to_end(self) -> bytes:
        heard = bytearray()
        while data := await self.stream.receive_some():
            heard += data
        return bytes(heard)


async def trickle(stream: trio.abc.SendStream, data: bytes, every: float) -> None:
    """Send a byte now and then."""
    for byte in data:
        await stream.send_all(bytes([byte]))
        await trio.sleep(every)


async def test_a_trickling_head_gets_no_more_time_than_any_other():
    """The deadline is for the whole head: a byte a second does not extend it (slow loris)."""
    client = Client(head_timeout=10)
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle, client.stream, GET, 1)
        with pytest.raises(Reject, match="not complete after 10 s") as refusal:
            await client.wire.read_request(fresh=True)
        nursery.cancel_scope.cancel()
    assert refusal.value.status == 408
    assert math.isclose(trio.current_time() - started, 10)


async def test_a_silent_client_is_told_so_when_the_deadline_has_passed():
    """A connection that never says anything does not stay."""
    client = Client(head_timeout=10)
    with pytest.raises(Reject, check=lambda refusal: refusal.status == 408):
        await client.wire.read_request(fresh=True)
    assert trio.current_time() == pytest.approx(10, abs=0.1)


async def test_a_head_in_pieces_within_the_deadline_is_read():
    """Segments may cut a head anywhere."""
    client = Client(head_timeout=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle, client.stream, GET, 0.1)
        request = await client.wire.read_request(fresh=True)
    assert request is not None
    assert request.path == "/health"


async def test_an_idle_connection_ends_without_a_word():
    """Between two requests the idle time-out counts, and nobody is told 408 for having nothing to ask."""
    client = Client(idle_timeout=15, head_timeout=10)
    await client.ask(GET)
    await client.wire.send(OK, last=False)
    assert client.wire.begin_next()
    assert await client.wire.read_request(fresh=False) is None
    assert trio.current_time() == pytest.approx(15, abs=0.1)


async def test_the_second_head_has_a_deadline_from_its_first_byte():
    """A keep-alive client that begins a head late still gets the whole time for it, and no more."""
    client = Client(idle_timeout=15, head_timeout=10)
    await client.ask(GET)
    await client.wire.send(OK, last=False)
    assert client.wire.begin_next()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle, client.stream, b"GE", 14)
        with pytest.raises(Reject, check=lambda refusal: refusal.status == 408):
            await client.wire.read_request(fresh=False)
        nursery.cancel_scope.cancel()


async def test_pipelined_requests_are_answered_in_order():
    """Two heads in one segment are two requests."""
    client = Client()
    first = await client.ask(GET + GET.replace(b"/health", b"/readyz"))
    await client.wire.send(OK, last=False)
    assert client.wire.begin_next()
    second = await client.wire.read_request(fresh=False)
    assert first is not None
    assert second is not None
    assert (first.path, second.path) == ("/health", "/readyz")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo"])
async def test_a_client_that_leaves_is_told_apart_from_one_that_leaves_in_the_middle(sent: bytes):
    """Closing before a head is an ending; closing within one is an error that is named."""
    client = Client()
    await client.say(sent)
    await client.stream.send_eof()
    if not sent:
        assert await client.wire.read_request(fresh=True) is None
        return
    with pytest.raises(Reject, match="peer unexpectedly closed") as refusal:
        await client.wire.read_request(fresh=True)
    assert refusal.value.status == 400


@pytest.mark.parametrize("size", [1000, 4096, 100_000])
async def test_a_head_is_bounded_however_it_arrives(size: int):
    """Neither one long line nor many headers get past the limit by more than a read."""
    client = Client(head_bytes=16384)
    filler = b"".join(b"X-%d: %s\r\n" % (n, b"a" * size) for n in range(1 + 40_000 // size))
    with pytest.raises(Reject, check=lambda refusal: refusal.status == 431):
        await client.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + filler + b"\r\n")


async def test_a_head_of_blanks_does_not_stop_the_loop():
    """The head that takes h11 0.6 s of CPU is refused before it gets there."""
    client = Client()
    with pytest.raises(Reject, match="control byte"):
        await client.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\nX:" + b" " * 16000 + b"\0\r\n\r\n")


async def test_bytes_behind_a_head_are_kept():
    """Frames that a WebSocket client sends before it has an answer are there for whoever takes over."""
    client = Client()
    upgrade = GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    await client.ask(upgrade + b"\x81\x00\x81\x00")
    assert client.wire.early == b"\x81\x00\x81\x00"


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;ext=1\r\nllo\r\n0\r\nTrailer: x\r\n\r\n",
    ],
)
async def test_a_body_is_read_and_the_connection_goes_on(body: bytes):
    """Both framings lead to the same body, after which another request can follow."""
    client = Client()
    request = await client.ask(POST + body + GET)
    assert request is not None
    assert await request.body() == b"hello"
    assert await request.body() == b""
    await client.wire.send(OK, last=False)
    assert client.wire.begin_next()
    assert await client.wire.read_request(fresh=False) is not None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"Content-Length: 6\r\n\r\nhello!", 413),
        (b"Content-Length: 99999999999999999999\r\n\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n\r\n6\r\nhello!\r\n0\r\n\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n5\r\nbcdef\r\n0\r\n\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n\r\nnot a length\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 20000, 431),
        (b"Content-Length: 5\r\n\r\nhell", 408),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhell", 408),
    ],
)
async def test_a_body_is_bounded_in_size_and_time(body: bytes, status: int):
    """Too long, malformed and unfinished bodies have their status, before more than the limit is kept."""
    client = Client(body_bytes=5, body_timeout=30, head_bytes=16384)
    request = await client.ask(POST + body)
    assert request is not None
    with pytest.raises(Reject) as refusal:
        await request.body()
    assert refusal.value.status == status


async def test_a_body_that_ends_early_is_named():
    """A client that closes in the middle of its body has sent none."""
    client = Client()
    request = await client.ask(POST + b"Content-Length: 5\r\n\r\nhell")
    await client.stream.send_eof()
    assert request is not None
    with pytest.raises(Reject, check=lambda refusal: refusal.status == 400):
        await request.body()


async def test_a_limit_of_its_own_counts_for_a_body():
    """A route may accept less than the site does."""
    client = Client(body_bytes=100)
    request = await client.ask(POST + b"Content-Length: 5\r\n\r\nhello")
    assert request is not None
    with pytest.raises(Reject, match="longer than 4 bytes"):
        await request.body(limit=4)


async def test_a_client_that_waits_for_permission_gets_it_when_the_body_is_wanted():
    """Expect: 100-continue is answered by reading the body, and not before."""
    client = Client()
    request = await client.ask(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert request is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(request.body)
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await client.say(b"hello")
    await client.wire.send(OK, last=False)
    assert client.wire.begin_next()


async def test_a_client_that_waits_for_permission_may_be_refused_instead():
    """A body that nobody wants is never asked for, and the connection ends with the answer."""
    client = Client()
    await client.ask(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    await client.wire.send(OK, last=False)
    assert not client.wire.begin_next()
    heard = await client.hear()
    assert heard.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in heard


async def test_an_answer_has_what_every_answer_has():
    """Length, type and date are there, nothing may be cached, and nothing is taken for a script."""
    client = Client()
    await client.ask(GET)
    await client.wire.send(Response.json({"a": 1}, 200, (("X-Extra", "y"),)), last=True)
    head, _, body = (await client.hear()).partition(b"\r\n\r\n")
    assert body == b'{"a":1}\n'
    lines = head.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 200")
    for line in (
        b"Content-Type: application/json",
        b"Content-Length: 8",
        b"Cache-Control: no-store",
        b"X-Content-Type-Options: nosniff",
        b"X-Extra: y",
        b"Connection: close",
    ):
        assert line in lines
    assert any(line.startswith(b"Date: ") and line.endswith(b" GMT") for line in lines)


async def pieces(*items: bytes) -> AsyncGenerator[bytes, None]:
    for item in items:
        yield item


@pytest.mark.parametrize("body", [b"hello", None], ids=["whole", "pieces"])
async def test_head_is_answered_like_get_without_the_body(body: bytes | None):
    """HEAD gets the headers of GET and not a byte more."""
    client = Client()
    await client.ask(GET.replace(b"GET", b"HEAD"))
    await client.wire.send(Response(200, "text/plain", body or pieces(b"hello")), last=True)
    heard = await client.hear()
    assert heard.endswith(b"\r\n\r\n")
    assert (b"Content-Length: 5" in heard) is (body is not None)


async def test_an_answer_in_pieces_is_sent_as_it_comes():
    """Each piece is on its way before the next is asked for, in chunks that HTTP/1.1 can read."""
    client = Client()
    await client.ask(GET)
    more = trio.Event()

    async def slow() -> AsyncGenerator[bytes, None]:
        yield b"one"
        await more.wait()
        yield b""
        yield b"two"

    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await client.wire.send(Response(200, "text/event-stream", slow()), last=False)

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        heard = bytes(await client.stream.receive_some())
        assert heard.endswith(b"3\r\none\r\n")
        more.set()
    assert not client.wire.begin_next()
    heard += await client.hear()
    assert b"Transfer-Encoding: chunked" in heard
    assert b"Connection: close" in heard
    assert heard.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_an_old_client_gets_its_pieces_without_chunks():
    """HTTP/1.0 knows no chunks: the end of the connection is the end of the answer."""
    client = Client()
    await client.ask(GET.replace(b"1.1", b"1.0"))
    await client.wire.send(Response(200, "text/plain", pieces(b"one", b"two")), last=False)
    assert (await client.hear()).endswith(b"\r\n\r\nonetwo")


@pytest.mark.parametrize("half", [True, False], ids=["eof", "closed"])
async def test_a_client_that_vanishes_ends_its_answer(half: bool):
    """A source whose reader has gone is closed at once, in the middle of waiting for its next piece."""
    client = Client()
    await client.ask(GET)
    closed = trio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            yield b"one"
            await trio.sleep_forever()
        finally:
            closed.set()

    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await client.wire.send(Response(200, "text/plain", endless()), last=False)

        nursery.start_soon(send)
        await wait_all_tasks_blocked()  # the source waits for its second piece
        await (client.stream.send_eof() if half else client.stream.aclose())
    assert closed.is_set()
    assert not client.wire.begin_next()
    assert not client.wire.can_answer


async def test_what_a_client_says_while_it_is_answered_is_void():
    """A request behind one whose answer comes in pieces is neither answered nor in the way."""
    client = Client()
    await client.ask(GET)
    more = trio.Event()

    async def slow() -> AsyncGenerator[bytes, None]:
        await more.wait()
        yield b"one"

    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await client.wire.send(Response(200, "text/plain", slow()), last=False)

        nursery.start_soon(send)
        await client.say(GET)
        await wait_all_tasks_blocked()
        more.set()
    assert not client.wire.begin_next()
    assert (await client.hear()).endswith(b"3\r\none\r\n0\r\n\r\n")


async def test_a_source_may_be_the_end_of_a_channel():
    """Anything with pieces and aclose() is a body."""
    client = Client()
    await client.ask(GET)
    send, receive = trio.open_memory_channel[bytes](1)
    await send.send(b"one")
    await send.aclose()
    await client.wire.send(Response(200, "text/plain", receive), last=True)
    assert b"3\r\none\r\n0\r\n\r\n" in await client.hear()
    with pytest.raises(trio.ClosedResourceError):
        receive.receive_nowait()


class Sluggish(trio.abc.HalfCloseableStream):
    """A client that has asked, and takes some seconds for each block of the answer."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.taken = seconds, 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep(self.seconds)
        self.taken += len(data)

    async def receive_some(self, _max_bytes: int | None = None) -> bytes:
        return GET

    async def wait_send_all_might_not_block(self) -> None: ...
    async def send_eof(self) -> None: ...
    async def aclose(self) -> None: ...


async def test_a_client_that_does_not_read_counts_as_gone():
    """An answer is not written into a full pipe for ever."""
    wire = Wire(Sluggish(seconds=math.inf), "test", Limits(write_timeout=10))
    await wire.read_request(fresh=True)
    with pytest.raises(trio.BrokenResourceError, match="does not read"):
        await wire.send(OK, last=True)
    assert trio.current_time() == pytest.approx(10, abs=0.1)


async def test_a_long_answer_has_time_for_each_of_its_blocks():
    """A client on a slow line gets all of a long answer, as long as it keeps taking it."""
    stream = Sluggish(seconds=9)
    wire = Wire(stream, "test", Limits(write_timeout=10))
    await wire.read_request(fresh=True)
    await wire.send(Response(200, "text/plain", b"x" * 1_000_000), last=True)
    assert stream.taken > 1_000_000


@pytest.mark.parametrize(("flood", "seconds"), [(0, 1), (1000, 0)])
async def test_parting_is_bounded_in_time_and_bytes(flood: int, seconds: float):
    """Neither a client that keeps its side open nor one that floods us can stretch the farewell."""
    client = Client(drain_bytes=500, drain_timeout=1)
    await client.say(b"x" * flood)
    await client.wire.part()
    assert trio.current_time() == pytest.approx(seconds, abs=0.1)
    assert await client.hear_to_end() == b""


async def test_parting_ends_when_the_client_closes():
    """A client that has read its answer and closed is not waited for any longer."""
    client = Client(drain_timeout=1)
    await client.say(b"rest")
    await client.stream.send_eof()
    await client.wire.part()
    assert trio.current_time() == pytest.approx(0, abs=0.1)


async def test_nothing_is_answered_after_handing_over():
    """Once somebody else speaks on the stream, HTTP does not."""
    client = Client()
    await client.ask(GET)
    assert client.wire.can_answer
    client.wire.hand_over()
    assert not client.wire.can_answer
