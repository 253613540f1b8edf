"""WebSocket frames, against the standard read once more: what a client meant, however it was framed and cut.

`judged` is RFC 6455 sections 5 to 7 in the plainest words, by itself: what any bytes mean, and with which code a server
must end the connection that they came on.
"""

import codecs
import itertools
import os
import struct
from collections.abc import Iterator

import attrs
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from ccexecd.core.principals import user
from ccexecd.external.request import Request
from ccexecd.external.upgrade import Upgrade
from ccexecd.external.websocket import WebSocket, _Headers, text_frame
from ccexecd.service.writer import Writer
from tests.e2e.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawSocket
from tests.fuzz.cases import Sender, cases, cut, kept

MOST = 4096
"""Bytes of the largest message, so that small cases can be too large."""

REQUEST = Request("GET", "/ws/mcp", "", {}, "peer")


@attrs.define
class Meant:
    """What some bytes come to.

    Attributes:
        messages: the messages, in order.
        pongs: what the pongs that must answer them hold.
        code: of the close frame that must come; None where the client has only gone.
    """

    messages: list[str | bytes] = attrs.field(factory=list)
    pongs: list[bytes] = attrs.field(factory=list)
    code: int | None = None


class BrokenError(Exception):
    """The client breaks the protocol.

    Args:
        code: what it is to be told.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@attrs.frozen
class Frame:
    """A frame, or the beginning of one."""

    opcode: int
    final: bool
    payload: bytes
    announced: int


def frames_of(data: bytes) -> Iterator[Frame]:
    """Section 5.2: every frame, the last one as far as it has come."""
    position = 0
    while len(data) - position >= 2:
        first, second = data[position : position + 2]
        opcode, length = first & 0x0F, second & 0x7F
        if opcode not in {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}:
            raise BrokenError(1002)
        if opcode >= 8 and (not first & 0x80 or length > 125):
            raise BrokenError(1002)
        extended = {126: 2, 127: 8}.get(length, 0)
        start = position + 2 + extended
        if len(data) < start:
            return
        if extended:
            length = int.from_bytes(data[position + 2 : start])
            if length < (126 if extended == 2 else 65536) or length >> 63:
                raise BrokenError(1002)
        if first & 0x70 or not second & 0x80:
            raise BrokenError(1002)
        mask, start = data[start : start + 4], start + 4
        if len(data) < start:
            return
        payload = data[start : start + length]
        unmasked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        yield Frame(opcode, bool(first & 0x80), unmasked, length)
        position = start + length


def judged(data: bytes) -> Meant:
    """What these bytes mean, and how the connection must end when nothing follows them."""
    meant = Meant()
    try:
        _judge(data, meant)
    except BrokenError as broken:
        meant.code = broken.code
    return meant


def _judge(data: bytes, meant: Meant) -> None:
    kind, parts, size, text = None, b"", 0, codecs.getincrementaldecoder("utf-8")()
    for frame in frames_of(data):
        whole = len(frame.payload) == frame.announced
        if frame.opcode >= 8:
            if whole and _control(frame, meant):
                return
            continue
        size += frame.announced
        if size > MOST:
            raise BrokenError(1009)
        if not whole and not frame.payload:
            continue
        if (kind is None) == (frame.opcode == CONTINUATION):
            raise BrokenError(1002)
        kind = frame.opcode or kind
        parts += frame.payload
        final = frame.final and whole
        if kind == TEXT:
            _decoded(text, frame.payload, final=final)
        if final:
            meant.messages.append(parts.decode() if kind == TEXT else parts)
            kind, parts, size = None, b"", 0


def _decoded(text: codecs.IncrementalDecoder, payload: bytes, *, final: bool) -> None:
    try:
        text.decode(payload, final)
    except UnicodeDecodeError:
        raise BrokenError(1007) from None


def _control(frame: Frame, meant: Meant) -> bool:
    """Sections 5.5 and 7.4. Returns whether it was the client's goodbye."""
    if frame.opcode == PING:
        meant.pongs.append(frame.payload)
    if frame.opcode != CLOSE:
        return False
    if len(frame.payload) == 1:
        raise BrokenError(1002)
    code = int.from_bytes(frame.payload[:2]) if frame.payload else 1005
    if frame.payload and (not 1000 <= code <= 4999 or code in {1004, 1005, 1006, 1015} or 1016 <= code <= 2999):
        raise BrokenError(1002)
    _decoded(codecs.getincrementaldecoder("utf-8")(), frame.payload[2:], final=True)
    meant.code = code
    return True


async def _listen(sender: Sender, fd: int) -> list[str | bytes]:
    """Be the server of a connection until its client has gone: as `connection` is, without calls."""
    messages = []
    writer = Writer(fd, 1.0)
    async with trio.open_nursery() as nursery:
        upgrade = Upgrade(sender, REQUEST, "AAAAAAAAAAAAAAAAAAAAAA==", "ccexec.v1", b"", user(0))
        websocket = await WebSocket.accept(upgrade, writer, nursery, MOST)
        while (message := await websocket.receive()) is not None:
            messages.append(message)
        websocket.complain()
        await writer.drained()
        nursery.cancel_scope.cancel()
    assert not writer.broken
    return messages


def heard(data: bytes, cuts: list[int]) -> Meant:
    """What the daemon makes of these bytes, in pieces."""
    fd = os.memfd_create("answers")
    try:
        messages = trio.run(_listen, Sender(cut(data, cuts)), fd)
        answers = RawSocket(None)
        answers._received = os.pread(fd, 1 << 20, 0).partition(b"\r\n\r\n")[2]
    finally:
        os.close(fd)
    found = Meant(messages)
    while (answer := answers._parse()) is not None:
        opcode, payload = answer
        assert opcode in {PONG, CLOSE}
        assert found.code is None, "nothing follows a close frame"
        if opcode == PONG:
            found.pongs.append(payload)
        else:
            found.code = int.from_bytes(payload[:2]) if payload else 1005
    assert not answers._received
    return found


def check(data: bytes, cuts: list[int]) -> None:
    """The daemon hears what the standard says."""
    assert heard(data, cuts) == judged(data)


def framed(
    payload: bytes, opcode: int, *, final: bool = True, reserved: int = 0, mask: bytes | None = b"\x01\x80\xff\x00"
) -> bytes:
    """One frame; without a mask, as no client may send it."""
    length, flag = len(payload), 0 if mask is None else 0x80
    size = bytes([flag | length]) if length < 126 else struct.pack("!BH", flag | 126, length)
    if length > 65535:
        size = struct.pack("!BQ", flag | 127, length)
    head = bytes([final << 7 | reserved << 4 | opcode]) + size
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


OPCODES = st.sampled_from((TEXT, TEXT, CONTINUATION, CONTINUATION, BINARY, CLOSE, PING, PONG, 0x3, 0xB))
PAYLOADS = st.one_of(
    st.text(max_size=20).map(str.encode),
    st.binary(max_size=140),
    st.integers(0, 5000).map(lambda code: struct.pack("!H", code) + b"bye"),
    st.sampled_from((b"", b"\xe2", b"\x82\xac", b"\xed\xa0\x80", b"x" * 3000, "\U0001f600".encode() * 1000)),
)
FRAMES = st.builds(
    framed,
    PAYLOADS,
    OPCODES,
    final=st.sampled_from((True, True, False)),
    reserved=st.sampled_from((0,) * 12 + (1, 2, 4)),
    mask=st.sampled_from((*[bytes(4), b"\x01\x80\xff\x00"] * 6, None)),
)
HEADS = st.builds(
    lambda first, second, rest: bytes([first, second]) + rest,
    st.integers(0, 255),
    st.sampled_from((0x80, 0x85, 0xFE, 0xFF, 0x05, 0x7F)),
    st.sampled_from((b"\0\0", b"\0\x7e", b"\xff" * 8, b"\x7f" * 8, b"\0" * 7 + b"\x10", b"\0\0\0\0\0\1\0\0")).flatmap(
        lambda length: st.binary(max_size=6).map(length.__add__)
    ),
)
CUTS = st.lists(st.integers(0, 5000), max_size=5)


@kept("frames")
def test_what_has_ever_been_found(data):
    """The corpus, whole, halved, and byte by byte."""
    check(data, [])
    check(data, [len(data) // 2])
    if len(data) < 1000:
        check(data, list(range(len(data))))


@cases("frames", share=60)
@given(pieces=st.lists(FRAMES | FRAMES | HEADS, min_size=1, max_size=6), lost=st.integers(0, 20), cuts=CUTS)
@example(pieces=[framed(b"", CLOSE), framed(b"", PING)], lost=0, cuts=[])
def test_any_frames_mean_what_the_standard_says(pieces, lost, cuts):
    """Messages, pongs and the closing code of frames of every degree of nonsense, broken off anywhere."""
    data = b"".join(pieces)
    check(data[: len(data) - lost], cuts)


MESSAGES = st.text(max_size=40) | st.binary(max_size=80)


@cases("frames", share=30)
@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=4),
    parts=st.lists(st.integers(0, 160), max_size=4),
    between=st.lists(st.sampled_from((None, PING, PONG)), min_size=1, max_size=6),
    mask=st.binary(min_size=4, max_size=4),
    cuts=CUTS,
)
def test_a_message_means_the_same_in_any_frames(messages, parts, between, mask, cuts):
    """In one frame or in many, empty ones too, with pings in between, under any mask, in any segments."""
    data, pings = bytearray(), []
    for message in messages:
        payload = message.encode() if isinstance(message, str) else message
        edges = [0, *sorted(part % (len(payload) + 1) for part in parts), len(payload)]
        opcode = TEXT if isinstance(message, str) else BINARY
        for number, (start, end) in enumerate(itertools.pairwise(edges)):
            data += framed(payload[start:end], 0 if number else opcode, final=number == len(parts), mask=mask)
            control = between[number % len(between)]
            if control is not None:
                data += framed(bytes([number]), control, mask=mask)
            pings += [bytes([number])] if control == PING else []
    assert heard(bytes(data), cuts) == Meant(messages, pings)


@cases("frames", share=10)
@given(text=st.binary(max_size=300) | st.integers(0, 70_000).map(bytes), data=st.binary(max_size=60), cuts=CUTS)
def test_what_is_written_is_read_and_any_bytes_are_counted(text, data, cuts):
    """Our own frames hold what was put in them, and no bytes at all confuse the count of headers."""
    answers = RawSocket(None)
    answers._received = text_frame(text)
    assert answers._parse() == (TEXT, text)
    whole, pieces = _Headers(MOST), _Headers(MOST)
    end, passed = whole.pass_by(data), 0
    for piece in cut(data, cuts):
        found = pieces.pass_by(piece)
        if found is not None:
            assert passed + found == end
            break
        passed += len(piece)
    assert (pieces.size, pieces.verdict) == (whole.size, whole.verdict)


def test_the_standard_is_read_as_it_is_meant():
    """`judged` knows the examples of section 5.7, and what is wrong with them without a mask."""
    hello = bytes.fromhex("818537fa213d7f9f4d5158")
    assert judged(hello) == Meant(["Hello"])
    assert judged(bytes.fromhex("898537fa213d7f9f4d5158")) == Meant([], [b"Hello"])
    assert judged(bytes.fromhex("810548656c6c6f")) == Meant([], [], 1002)


@pytest.mark.parametrize("size", [MOST, MOST + 1])
@pytest.mark.parametrize("character", ["x", "\U0001f600"])
def test_a_message_is_as_long_as_its_bytes(size, character):
    """What `ws_max_size` bounds is bytes, however many characters they are."""
    text = (character * size)[: size // len(character.encode())] + "x" * (size % len(character.encode()))
    check(framed(text.encode(), TEXT), [])
