"""The control socket under abuse: lines without end, descriptors that nobody wants, callers who do not listen."""

import array
import json
import os
import socket
from contextlib import ExitStack, suppress

import psutil
import pytest

from tests.abuse.sockets import hear, operating, say, vanish
from tests.abuse.texts import METHODS, TEXTS, answers_of, calls_with_wrong_types
from tests.e2e.daemon_process import wait_for

MEGABYTE = 1 << 20


def line(method: str, number: object = 1, **params: object) -> bytes:
    """A request."""
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"


LAST = line("version", "last")


def answers(received: bytes) -> list[object]:
    """What was answered, notifications left out; every line of it is one message."""
    assert not received or received.endswith(b"\n")
    replies = [json.loads(each) for each in received.splitlines()]
    return [answers_of(reply) for reply in replies if isinstance(reply, list) or "method" not in reply]


@pytest.mark.parametrize("name", [name for name, (text, _) in TEXTS.items() if b"\n" not in text and text.strip()])
def test_a_line_that_no_careful_operator_sends(hostile, name):
    """It is answered for what it is, and the next line as ever."""
    sent, expected = TEXTS[name]
    with operating(hostile.control_socket) as one:
        one.sendall(sent + b"\n" + LAST)
        hostile.good.serves()
        one.shutdown(socket.SHUT_WR)
        found = answers(hear(one))
    assert sorted(found, key=repr) == sorted([*expected, ("last", None)], key=repr)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"\n" * 1_000_000, [], id="a million line feeds"),
        pytest.param(b"\r\n \n\t\n", [], id="blank lines"),
        pytest.param(LAST[:-1], [], id="no line feed"),
        pytest.param(LAST[:-1] + b"\r\n", [("last", None)], id="carriage return"),
        pytest.param(b"\0" * 100_000 + b"\n" + LAST, [(None, -32700), ("last", None)], id="NULs"),
        pytest.param(
            bytes(range(256)) * 100 + b"\n" + LAST, [(None, -32700)] * 101 + [("last", None)], id="every byte"
        ),
        pytest.param(b"\x81\x85\0\0\0\0hello\n" + LAST, [(None, -32700), ("last", None)], id="a WebSocket frame"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", [(None, -32700)] * 2, id="HTTP"),
        pytest.param(b"x" * 11 * MEGABYTE, [(None, -32600)], id="a line without end"),
        pytest.param(b"[" * 11 * MEGABYTE, [(None, -32600)], id="a line of brackets without end"),
        pytest.param(LAST + b"x" * 11 * MEGABYTE + LAST, [("last", None), (None, -32600)], id="one line, then no end"),
        pytest.param(b" " * 9 * MEGABYTE + LAST, [("last", None)], id="9 MB of blanks before a request"),
        pytest.param(b'"' + b"\\u0000" * MEGABYTE + b'"\n' + LAST, [(None, -32600), ("last", None)], id="6 MB of NULs"),
        pytest.param(LAST * 3000, [("last", None)] * 3000, id="3000 requests in one go"),
    ],
)
def test_what_is_no_line_or_too_much_of_one(hostile, sent, expected):
    """As many answers as there were lines to answer; whoever goes on without end is told so, and let go."""
    with operating(hostile.control_socket) as one:
        say(one, sent)
        hostile.good.serves()
        with suppress(OSError):  # it may have been refused before its end
            one.shutdown(socket.SHUT_WR)
        assert answers(hear(one)) == expected


def test_descriptors_that_nobody_wants(hostile):
    """What is passed along is closed by the kernel, since nobody takes it: the daemon has no more open than before."""
    process = psutil.Process(hostile.daemon.pid)
    before = process.num_fds()
    passed = array.array("i", [os.open("/dev/null", os.O_RDONLY) for _ in range(250)])
    try:
        with operating(hostile.control_socket) as one:
            one.sendmsg([LAST], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
            one.sendmsg([b'{"js'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed[:1])])
            assert json.loads(one.recv(65536))["id"] == "last"
            hostile.good.serves()
            assert process.num_fds() <= before + 1
    finally:
        for each in passed:
            os.close(each)


def test_credentials_that_are_sent_along(hostile):
    """The kernel's word is asked for by us; what a caller says of itself is not listened to."""
    with operating(hostile.control_socket) as one:
        claim = array.array("i", [os.getpid(), os.getuid(), os.getgid()])
        one.sendmsg([LAST], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, claim)])
        hostile.good.serves()
        assert json.loads(one.recv(65536))["id"] == "last"


@pytest.mark.parametrize("sent", [b"", b"{", LAST[:-1], LAST], ids=["silent", "half", "no line feed", "one request"])
def test_many_at_once(hostile, sent):
    """200 who connect and say little; whoever comes next is served."""
    with ExitStack() as stack:
        silent = [stack.enter_context(operating(hostile.control_socket)) for _ in range(200)]
        for each in silent:
            each.sendall(sent)
        hostile.good.serves()
        assert hostile.daemon.request("version")["protocol"] == "ccexec.v1"


def test_come_and_gone(hostile):
    """500 who hang up at once."""
    for _ in range(500):
        with operating(hostile.control_socket):
            pass
    hostile.good.serves()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(LAST, id="requests"),
        pytest.param(b"nonsense\n", id="nonsense"),
        pytest.param(b"[" + b",".join([LAST.strip()] * 500) + b"]\n", id="batches"),
        pytest.param(line("execute", argv=["yes"]), id="endless output"),
    ],
)
def test_who_never_reads(hostile, sent):
    """Answers and output are bounded by what is sent, and that by not being read from."""
    before = psutil.Process(hostile.daemon.pid).memory_info().rss
    with operating(hostile.control_socket) as one:
        one.settimeout(0.3)
        one.sendall(sent)
        if b"execute" not in sent:
            with pytest.raises(TimeoutError):
                one.sendall(sent * (20 * MEGABYTE // len(sent)))
        hostile.good.serves()
        assert psutil.Process(hostile.daemon.pid).memory_info().rss - before < 40 * MEGABYTE
        vanish(one)


@pytest.mark.parametrize(
    "sent", [b"", LAST * 100, line("execute", argv=["sleep", "300"])], ids=["idle", "busy", "runs"]
)
def test_gone_with_answers_on_their_way(hostile, sent):
    """An operator that vanishes leaves nothing behind, and what it started goes with it."""
    with operating(hostile.control_socket) as one:
        one.sendall(sent)
        one.recv(1) if sent else None
    hostile.good.serves()


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"stop"}))
def test_every_param_of_every_type(hostile, method):
    """Taken or refused with a reason; nothing of it is a fault of ours."""
    tried = calls_with_wrong_types(method)
    with operating(hostile.control_socket) as one:
        one.sendall(b"".join(line(method, number, **params) for number, params in enumerate(tried)))
        hostile.good.serves()
        one.shutdown(socket.SHUT_WR)
        codes = {code for _, code in answers(hear(one))}
    assert -32603 not in codes
    assert codes - {None}


def test_all_lines_of_a_kind_at_once(hostile):
    """Every message of the table on one connection, one after the other: each has its answer."""
    texts = [(text, expected) for text, expected in TEXTS.values() if b"\n" not in text and text.strip()]
    with operating(hostile.control_socket) as one:
        one.sendall(b"".join(text + b"\n" for text, _ in texts))
        hostile.good.serves()
        one.shutdown(socket.SHUT_WR)
        found = answers(hear(one))
    wanted = [each for _, expected in texts for each in expected]
    assert sorted(found, key=repr) == sorted(wanted, key=repr)
    wait_for(lambda: hostile.daemon.request("health")["status"] == "healthy", "it is well", 5)
