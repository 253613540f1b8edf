"""The connection to one keeper, from its hello to its end: requests, their answers, and unasked events.

Owns the daemon's end of the socket pair and every request that is under way on it. A link is never mended: when its
keeper is lost, all of its requests fail, and whoever wants to repeat one asks the next keeper. `post` is a plain
function: the request is sent in the step in which it is made, or queued behind those that the socket did not take.
"""

import array
import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

import attrs
import orjson
import trio

from ccexecd.process.packets import MAX_PACKET, Message

ANSWER_PATIENCE = 15.0
"""Seconds until a keeper that does not answer is given up, and everything that it had started is ended. It answers
within milliseconds, except that a hanging file system can delay the start of a program."""

Heard = Callable[[Message | None], None]
"""Called with the answer to a request, in the step in which it is read; None if none will come. Must not raise."""


class KeeperLostError(Exception):
    """The keeper ended before it answered."""


@attrs.frozen
class _Request:
    message: Message
    fds: Sequence[int]
    heard: Heard


class KeeperLink:
    """One socket to one keeper.

    Args:
        connected: our end of the socket pair, non-blocking; the link closes it.
        told: called with each event of the keeper, which are the messages that answer no request.
        patience: seconds in which its first message has to arrive.
    """

    def __init__(self, connected: socket.socket, told: Callable[[Message], None], patience: float) -> None:
        self._socket = connected
        self._told = told
        self._last_id = 0
        self._unsent: deque[tuple[int, _Request]] = deque()
        self._under_way: dict[int, tuple[_Request, float]] = {}  # by id, with the moment it was sent
        self._full = trio.Event()
        self._patience = trio.CancelScope(deadline=trio.current_time() + patience)
        self._is_open = True

    def post(self, message: Message, fds: Sequence[int], heard: Heard) -> None:
        """Send a request, without waiting.

        Args:
            message: the request; its id (`re`) is added here.
            fds: descriptors to pass along; the link closes them.
            heard: called once with the answer, or with None; perhaps before this returns.
        """
        if not self._is_open:
            close_all(fds)
            heard(None)
            return
        self._last_id += 1
        self._unsent.append((self._last_id, _Request(message, fds, heard)))
        if len(self._unsent) == 1 and not self._flush():
            self._full.set()

    async def ask(self, message: Message) -> Message:
        """Send a request and wait for the answer, which is returned.

        Raises:
            KeeperLostError: the link is closed, or the keeper was lost first.
        """
        arrived = trio.Event()
        answer: list[Message | None] = []

        def heard(message: Message | None) -> None:
            answer.append(message)
            arrived.set()

        self.post(message, (), heard)
        await arrived.wait()
        if answer[0] is None:
            raise KeeperLostError
        return answer[0]

    async def run(self) -> bool:
        """Send and receive until the keeper is gone.

        Returns:
            True if the keeper has closed its end; False if it has not answered for `ANSWER_PATIENCE`.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_rest)
            with self._patience:
                await self._receive()
            nursery.cancel_scope.cancel(reason="the keeper is gone")
        return not self._patience.cancelled_caught

    def close(self) -> None:
        """Close the socket, and answer every request with None. A living keeper then ends everything, and itself."""
        if not self._is_open:
            return
        self._is_open = False
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        unsent = [request for _, request in self._unsent]
        unanswered = [request for request, _ in self._under_way.values()]
        self._unsent.clear()
        self._under_way.clear()
        for request in unsent:
            close_all(request.fds)
        for request in [*unanswered, *unsent]:
            request.heard(None)

    # Sending

    def _flush(self) -> bool:
        """Send queued requests as far as the socket takes them. Returns False if the socket is full."""
        while self._unsent:
            number, request = self._unsent[0]
            try:
                self._send(_encode({"re": number, **request.message}), request.fds)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):  # `run` finds out next, and whatever waits is told so
                return True
            except OSError as error:
                self._unsent.popleft()
                close_all(request.fds)
                request.heard({"errno": error.errno, "strerror": error.strerror, "subject": "pipe"})
                continue
            self._unsent.popleft()
            close_all(request.fds)
            if not self._under_way:
                self._patience.deadline = trio.current_time() + ANSWER_PATIENCE
            self._under_way[number] = request, trio.current_time()
        return True

    def _send(self, packet: bytes, fds: Sequence[int]) -> None:
        """Send one packet; one that is too large travels in a memfd."""
        if len(packet) <= MAX_PACKET:
            self._socket.sendmsg([packet], _rights(fds))
            return
        memfd = os.memfd_create("ccexecd-launch", os.MFD_CLOEXEC)
        try:
            os.write(memfd, packet)
            self._socket.sendmsg([_encode({"memfd": len(packet)})], _rights([*fds, memfd]))
        finally:
            os.close(memfd)

    async def _send_rest(self) -> None:
        """Send the rest of the queue whenever the socket was full and has room again."""
        while True:
            await self._full.wait()
            self._full = trio.Event()
            while not self._flush():
                await trio.lowlevel.wait_writable(self._socket)

    # Receiving

    async def _receive(self) -> None:
        while self._is_open:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                packet = self._socket.recv(MAX_PACKET)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return
            if not packet:
                return
            message = orjson.loads(packet)
            if "re" in message:
                self._answered(message)
            else:
                self._told(message)
            oldest = next(iter(self._under_way.values()), None)
            self._patience.deadline = oldest[1] + ANSWER_PATIENCE if oldest is not None else float("inf")

    def _answered(self, message: Message) -> None:
        request, _ = self._under_way.pop(message["re"])
        request.heard(message)


def _rights(fds: Sequence[int]) -> "list[tuple[int, int, array.array[int]]]":
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _encode(message: Message) -> bytes:
    try:
        return orjson.dumps(message)
    except (TypeError, orjson.JSONEncodeError):  # an inherited environment that is not UTF-8 (PEP 383)
        return json.dumps(message).encode()
