"""The port under abuse: heads, handshakes, frames, messages and silences of every kind, and nobody else notices."""

import json
import re
import socket
import struct
from contextlib import ExitStack, suppress

import psutil
import pytest

from tests.abuse.sockets import HOST, WebSocket, connected, dialled, handshake, hear, say, vanish
from tests.abuse.texts import METHODS, TEXTS, answers_of, calls_with_wrong_types
from tests.e2e.daemon_process import wait_for
from tests.e2e.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, call, frame
from tests.external.test_http import HOSTILE

MEGABYTE = 1 << 20
LIST = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "hook_status"}).encode()
GET = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
EXECUTE = b"POST /execute HTTP/1.1\r\n" + HOST
GOODBYE = struct.pack("!H", 1000)
GREETED = b"HTTP/1.1 101 "


def body(data: bytes, *lines: bytes) -> bytes:
    """A request for an execution."""
    return EXECUTE + b"".join(line + b"\r\n" for line in (*lines, b"Content-Length: %d" % len(data))) + b"\r\n" + data


class TestHeads:
    """What comes before anything is agreed upon."""

    @pytest.mark.parametrize(
        "name",
        [
            name
            for name, (sent, status) in HOSTILE.items()
            if status != 408 and b"/echo" not in sent and b"/whoami" not in sent  # which only the stand-in site has
        ],
    )
    def test_what_is_refused_there_is_refused_here(self, hostile, name):
        """The inputs that the door by itself is tested with, at the real daemon's."""
        sent, status = HOSTILE[name]
        with dialled(hostile.address) as one:
            say(one, sent)
            hostile.good.serves()
            assert hear(one).startswith(b"HTTP/1.1 %d " % status)

    @pytest.mark.parametrize(
        ("sent", "statuses"),
        [
            pytest.param(GET * 1000, [200] * 100, id="1000 requests in one go"),
            pytest.param(GET * 3 + b"\0" + GET, [200, 200, 200, 400], id="a NUL between requests"),
            pytest.param(GET + handshake().replace(b"13", b"0"), [200, 426], id="bad handshake behind a request"),
            pytest.param(handshake(b"Content-Length: 0") * 2, [101], id="two handshakes"),
            pytest.param(handshake(b"Transfer-Encoding: chunked") + b"0\r\n\r\n", [400], id="handshake with chunks"),
            pytest.param(handshake().replace(b"/ws/mcp", b"/ws/mcp/"), [404], id="handshake next to the path"),
            pytest.param(handshake(b"Sec-WebSocket-Version: 13"), [400], id="version twice"),
            pytest.param(handshake(HOST.strip()), [400], id="handshake with two Hosts"),
            pytest.param(handshake(b"Authorization: Bearer " + b"x" * 8000), [401], id="token of 8 KB"),
            pytest.param(handshake(subprotocol=b"bearer." + b"\xff" * 100), [401], id="token that is no text"),
            pytest.param(handshake(b"X-Forwarded-For: 127.0.0.1\r\nOrigin: http://127.0.0.1"), [403], id="origin"),
            pytest.param(body(b"{}").replace(b"Content-Length: 2", b"Content-Length: 1_0"), [400], id="length 1_0"),
            pytest.param(EXECUTE + b"Content-Length: 5\r\n\r\n{}\r\n" + GET, [400], id="length into the next"),
            pytest.param(
                EXECUTE + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n1\r\nZ\r\nQ", [400], id="CL.TE"
            ),
            pytest.param(
                EXECUTE + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + GET, [501], id="another transfer coding"
            ),
            pytest.param(
                EXECUTE + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + GET, [400], id="vertical tab in coding"
            ),
            pytest.param(
                EXECUTE + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 20_000 + b"\r\n{}\r\n0\r\n\r\n",
                [400],
                id="chunk extension of 20 KB",
            ),
            pytest.param(
                EXECUTE + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 50_000 + b"0\r\n\r\n",
                [400],
                id="50,000 chunks of a blank",
            ),
            pytest.param(
                EXECUTE + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"T: x\r\n" * 5000 + b"\r\n",
                [400],
                id="5000 trailers",
            ),
            pytest.param(body(b"{"), [400], id="body that is no JSON"),
            pytest.param(body(b"[" * 100_000), [400], id="body of brackets"),
            pytest.param(body(b'{"command":"\\ud800"}'), [400], id="body with a lone surrogate"),
            pytest.param(body(b'{"command":"\\u0000"}'), [400], id="body with a NUL"),
            pytest.param(body(b"null"), [400], id="body that is null"),
            pytest.param(body(b'{"tasks":[' + b"{}," * 50_000 + b"{}]}"), [400], id="50,000 tasks"),
            pytest.param(body(b'{"tasks":{"0":"x"}}'), [400], id="tasks that are an object"),
            pytest.param(body(b'{"command":"true","cwd":"/no/such"}'), [422], id="no such directory"),
            pytest.param(body(b"\xff" * 1000), [400], id="body that is no text"),
            pytest.param(body(b" " * 11 * MEGABYTE), [413], id="body of 11 MB"),
        ],
    )
    def test_what_a_client_would_not_send(self, hostile, sent, statuses):
        """Pipelines, smuggled requests, bodies: as many answers as there were requests to agree upon."""
        with dialled(hostile.address) as one:
            one.settimeout(None)
            say(one, sent)
            with suppress(OSError):  # it may have been refused before its end
                one.shutdown(socket.SHUT_WR)
            hostile.good.serves()
            received = hear(one)
        found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]
        assert found == statuses, received[:2000]

    @pytest.mark.parametrize(
        "begun",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"G", id="a letter"),
            pytest.param(GET[:-2], id="no blank line"),
            pytest.param(handshake()[:-1], id="handshake but for a byte"),
            pytest.param(EXECUTE + b"Content-Length: 1000\r\n\r\n{", id="body but for its end"),
            pytest.param(EXECUTE + b"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n", id="permission unused"),
            pytest.param(b"\x16\x03\x01\x02\x00", id="TLS"),
        ],
    )
    @pytest.mark.parametrize("end", ["close", "reset"])
    def test_a_hundred_who_do_not_go_on(self, hostile, begun, end):
        """Who stops in the middle holds up nobody; and gone is gone."""
        with ExitStack() as stack:
            silent = [stack.enter_context(dialled(hostile.address)) for _ in range(100)]
            for each in silent:
                each.sendall(begun)
            hostile.good.serves()
            for each in silent:
                vanish(each) if end == "reset" else each.close()

    def test_a_head_byte_by_byte(self, hostile):
        """Slowly is not wrong."""
        with dialled(hostile.address) as one:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number, byte in enumerate(GET):
                one.sendall(bytes([byte]))
                if not number % 10:
                    hostile.good.serves()
            one.shutdown(socket.SHUT_WR)
            assert hear(one).startswith(b"HTTP/1.1 200 ")

    def test_an_answer_that_is_never_read(self, hostile):
        """What a command prints for somebody who takes none of it ends with its connection."""
        with dialled(hostile.address, receive_buffer=4096) as one:
            one.sendall(body(b'{"command":"yes"}', b"Accept: text/event-stream"))
            wait_for(lambda: hostile.daemon.request("status")["executions"]["live"] == 3, "it runs", 10)
            hostile.good.serves()
            vanish(one)

    @pytest.mark.parametrize("half", [True, False], ids=["half-closed", "reset"])
    def test_a_command_that_nobody_waits_for(self, hostile, half):
        """Half-closed is a client that still reads; one that is gone cancels what it asked for."""
        command = b'{"command":"echo fine"}' if half else b'{"command":"sleep 300"}'
        with dialled(hostile.address) as one:
            one.sendall(body(command))
            if half:
                one.shutdown(socket.SHUT_WR)
                hostile.good.serves()
                assert hear(one).startswith(b"HTTP/1.1 200 ")
            else:
                wait_for(lambda: hostile.daemon.request("status")["executions"]["live"] == 3, "it runs", 10)
                hostile.good.serves()
                vanish(one)


FORBIDDEN = {
    "unmasked": (frame(LIST, masked=False), 1002),
    "first reserved bit: compressed": (frame(LIST, reserved=4), 1002),
    "second reserved bit": (frame(LIST, reserved=2), 1002),
    "last reserved bit": (frame(LIST, reserved=1), 1002),
    "reserved bit of a ping": (frame(b"", PING, reserved=4), 1002),
    "reserved opcode": (frame(LIST, opcode=0x3), 1002),
    "reserved control opcode": (frame(b"", opcode=0xB), 1002),
    "continuation of nothing": (frame(b"rest", CONTINUATION), 1002),
    "text inside of a message": (frame(b"a", final=False) + frame(b"b"), 1002),
    "binary inside of a text": (frame(b"a", final=False) + frame(b"b", BINARY), 1002),
    "long ping": (frame(b"x" * 126, PING), 1002),
    "long pong": (frame(b"x" * 70_000, PONG), 1002),
    "long close": (frame(GOODBYE + b"x" * 124, CLOSE), 1002),
    "ping in parts": (frame(b"x", PING, final=False), 1002),
    "close in parts": (frame(GOODBYE, CLOSE, final=False), 1002),
    "close with half a code": (frame(b"\x03", CLOSE), 1002),
    "close with a code that is never sent": (frame(struct.pack("!H", 1005), CLOSE), 1002),
    "close with the code of a cut": (frame(struct.pack("!H", 1006), CLOSE), 1002),
    "close with no code at all": (frame(struct.pack("!H", 999), CLOSE), 1002),
    "close with a code beyond all": (frame(struct.pack("!H", 65535), CLOSE), 1002),
    "close with a reason that is no text": (frame(GOODBYE + b"\xff", CLOSE), 1007),
    "text that is no UTF-8": (frame(b'{"a": "\xff\xfe"}'), 1007),
    "half a character": (frame("é".encode()[:1]), 1007),
    "half a character in parts": (frame("é".encode()[:1], final=False) + frame(b"", CONTINUATION), 1007),
    "a surrogate": (frame("\ud800".encode(errors="surrogatepass")), 1007),
    "an overlong character": (frame(b"\xc0\xaf"), 1007),
    "more than 1 MB": (frame(b"x" * (MEGABYTE + 1)), 1009),
    "more than 1 MB, of few characters": (frame("\U0001f600".encode() * (MEGABYTE // 4) + b"x"), 1009),
    "more than 1 MB, announced": (frame(b"", announced=MEGABYTE + 1), 1009),
    "more than 1 MB in parts": (
        frame(b"x" * 100_000, final=False) + frame(b"x" * 100_000, CONTINUATION, final=False) * 10,
        1009,
    ),
    "2 GB announced": (frame(b"", announced=1 << 31), 1009),
    "64 bits of length": (b"\x81\xff" + struct.pack("!Q", 1 << 63) + bytes(4), 1002),
    "length in more bytes than needed": (b"\x81\xfe\x00\x05" + bytes(4) + b"hello", 1002),
    "HTTP": (GET, 1002),
    "zeros": (bytes(1000), 1002),
}

CUT = {
    "nothing": b"",
    "a byte": frame(LIST)[:1],
    "half a frame": frame(LIST)[:9],
    "half a message": frame(b"half", final=False),
    "100 requests": frame(LIST) * 100,
    "100 pings": frame(b"", PING) * 100,
    "close": frame(GOODBYE, CLOSE),
    "close and more": frame(GOODBYE, CLOSE) + frame(LIST) * 10,
    "a forbidden frame": frame(LIST, masked=False),
    "a large message, nearly": frame(b"x", announced=MEGABYTE - 1),
    "execute": call("execute", argv=["sleep", "300"]),
    "execute, detached from nobody": call("execute", argv=["sleep", "300"], on_disconnect="cancel"),
    "much output": call("execute", argv=["seq", "1000000"]),
    "endless output": call("execute", argv=["yes"]),
    "no such program": call("execute", argv=["/no/such/program"]),
    "a terminal": call("execute", argv=["cat"], pty={"cols": 80, "rows": 24}),
    "a wait": call("execute", argv=["sleep", "300"]) + call("control", type="CANCEL"),
    "a hundred at once": b"".join(call("execute", number, argv=["sleep", "300"]) for number in range(100)),
}


class TestFrames:
    """What comes after the handshake."""

    @pytest.mark.parametrize("name", FORBIDDEN)
    def test_what_is_forbidden_ends_its_connection_only(self, hostile, name):
        """The close code says what was wrong; an execution that the client had goes as with a cut."""
        sent, code = FORBIDDEN[name]
        with connected(hostile.address) as one:
            one.socket.settimeout(None)
            say(one.socket, call("execute", argv=["sleep", "300"]) + sent)
            hostile.good.serves()
            assert one.close_code() == code

    @pytest.mark.parametrize("name", CUT)
    @pytest.mark.parametrize("end", ["reset", "half-closed"])
    def test_gone_in_the_middle(self, hostile, name, end):
        """Of a frame, a message, an answer, a start: nothing of that client stays."""
        with connected(hostile.address) as one:
            one.socket.sendall(CUT[name])
            if end == "reset":
                vanish(one.socket)
                hostile.good.serves()
                return
            one.socket.shutdown(socket.SHUT_WR)
            hostile.good.serves()
            hear(one.socket)

    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(frame(b"x" * 125, PING) * 5000, id="5000 pings"),
            pytest.param(frame(b"x", PONG) * 20_000, id="20,000 pongs that nobody asked for"),
            pytest.param(frame(b" ", final=False) + frame(b" ", CONTINUATION, final=False) * 50_000, id="50,000 parts"),
            pytest.param(
                frame(b"", final=False) + (frame(b"", CONTINUATION, final=False) + frame(b"", PING)) * 10_000,
                id="empty parts between pings",
            ),
            pytest.param(frame(b"\0" * 1000, BINARY) * 200, id="200 binary messages"),
            pytest.param(frame(b"") * 20_000, id="20,000 empty messages"),
            pytest.param(call("no such method") * 5000, id="5000 requests for nothing"),
            pytest.param(frame(LIST) * 5000, id="5000 requests"),
        ],
    )
    @pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
    def test_a_flood(self, hostile, sent, reads):
        """Many small things, whose answers are read or not."""
        with connected(hostile.address, receive_buffer=None if reads else 4096) as one:
            one.socket.settimeout(0.2 if not reads else 30)
            try:
                one.socket.sendall(sent)
            except TimeoutError:
                assert not reads, "it is not read from"
            hostile.good.serves()
            if reads:
                one.socket.shutdown(socket.SHUT_WR)
                hear(one.socket)
            else:
                vanish(one.socket)

    def test_what_is_allowed_is_understood_among_all_that(self, hostile):
        """Empty parts, pings in between, one byte at a time, a pong that nobody asked for."""
        with connected(hostile.address) as one:
            parts = [frame(bytes([byte]), CONTINUATION, final=False) + frame(b"here", PING) for byte in LIST[1:]]
            one.socket.sendall(frame(LIST[:1], final=False) + b"".join(parts) + frame(b"", PONG))
            hostile.good.serves()
            one.socket.sendall(frame(b"", CONTINUATION))
            assert [one.frame() for _ in LIST[1:]] == [(PONG, b"here")] * (len(LIST) - 1)
            assert one.message()["id"] == 1

    def test_no_compression_is_agreed_upon(self, hostile):
        """Who offers it is not promised any, and may not use it."""
        with dialled(hostile.address) as plain:
            one = WebSocket(plain, handshake(b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"))
            assert b"extensions" not in one.head.lower()
            plain.sendall(frame(b"\xaa\x56\x2a", reserved=4))
            hostile.good.serves()
            assert one.close_code() == 1002

    def test_many_who_say_nothing(self, hostile):
        """90 WebSockets that are opened and left alone: nearly as many sessions as may be."""
        with ExitStack() as stack:
            silent = [stack.enter_context(dialled(hostile.address)) for _ in range(90)]
            for each in silent:
                each.sendall(handshake())
            assert all(each.recv(100).startswith(GREETED) for each in silent)
            hostile.good.serves()


class TestMessages:
    """What is no request, or one that cannot be served."""

    @pytest.mark.parametrize("name", TEXTS)
    def test_a_message_that_no_careful_client_sends(self, hostile, name):
        """It is answered for what it is, and the connection goes on."""
        sent, expected = TEXTS[name]
        with connected(hostile.address) as one:
            one.socket.sendall(frame(sent, TEXT) + call("hook_status", 99))
            hostile.good.serves()
            answers = [answers_of(one.message()) for _ in range(len(expected) + 1)]
            assert sorted(answers, key=repr) == sorted([*expected, (99, None)], key=repr)

    @pytest.mark.parametrize("method", METHODS)
    def test_every_param_of_every_type(self, hostile, method):
        """Taken or refused with a reason; nothing of it is a fault of ours."""
        tried = calls_with_wrong_types(method)
        with connected(hostile.address) as one:
            one.socket.sendall(b"".join(call(method, number, **params) for number, params in enumerate(tried)))
            hostile.good.serves()
            replies = {}
            while len(replies) < len(tried):
                message = one.message()
                if "id" in message:
                    replies[message["id"]] = message
        codes = {reply["error"]["code"] for reply in replies.values() if "error" in reply}
        assert -32603 not in codes
        assert codes


def test_nothing_stays(hostile):
    """Six hundred connections of every kind: what each has held is free again."""
    heads, frames = list(HOSTILE.values()), [*FORBIDDEN.values()]
    heads = [sent for sent, status in heads if status != 408 and len(sent) < 10_000]
    frames = [sent for sent, _ in frames if len(sent) < 10_000]

    def play(rounds: int) -> None:
        for number in range(rounds):
            with dialled(hostile.address) as one:
                say(one, heads[number % len(heads)])
                hear(one) if number % 2 else vanish(one)
            with connected(hostile.address) as one:
                say(one.socket, frames[number % len(frames)])
                one.close_code() if number % 2 else vanish(one.socket)

    play(100)
    before = psutil.Process(hostile.daemon.pid).memory_info().rss
    hostile.good.serves()
    play(300)
    assert psutil.Process(hostile.daemon.pid).memory_info().rss - before < 24 * MEGABYTE
