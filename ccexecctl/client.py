"""One conversation with the daemon over its control socket.

Owns connecting, one JSON-RPC 2.0 message per line, time-outs, and turning every failure into an exception that has an
exit code. Must not print, and must not know what any method means.

A daemon that is just starting holds its pidfile's lock before its control socket exists, and one that restarts has
neither for a moment. So a socket that is missing or refuses is tried again for a few seconds, but only while the lock
beside it is held: without a lock there is nobody to wait for, and the answer is immediate.
"""

import errno
import itertools
import json
import math
import os
import select
import socket
import struct
import time
from argparse import Namespace
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from ccexecctl.errors import WHO_MAY, CtlError, NotPermittedError, NotRunningError, RefusedError, UnreachableError
from ccexecctl.place import Place, is_held, locate, pidfile_beside
from ccexecd import paths
from ccexecd.protocol.framing import LineBuffer, LineTooLongError

ANSWER_TIMEOUT = 10.0
"""Seconds to wait for an answer (`--timeout`), beyond the time that the request itself may take."""

STARTING_PATIENCE = 3.0
"""Seconds to wait for the control socket of a daemon that holds its lock; a start takes 0.3 s on an idle machine."""

RETRY_INTERVAL = 0.02
"""Seconds between two attempts to connect, or two looks at a lock."""

LINE_LIMIT = 64 * 1024 * 1024
"""Bytes of one answer: `read_output` gives up to 16 MiB of output, and JSON may need several bytes for one."""

RECEIVE_SIZE = 1 << 18
"""Bytes of one read: a socket's usual buffer, so that a busy execution costs few system calls."""

NOBODY_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED}
FORBIDDEN = {errno.EACCES, errno.EPERM}


class Client:
    """An open connection. Close it, or use it as a context manager.

    Args:
        connection: a connected stream socket.
        path: the control socket's path, for messages.
        timeout: seconds to wait for an answer, beyond what a request itself may take.
    """

    def __init__(self, connection: socket.socket, path: Path, timeout: float = ANSWER_TIMEOUT) -> None:
        self.path = path
        self.timeout = timeout
        self._connection = connection
        self._connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", math.ceil(timeout) or 1, 0)
        )
        self._arrivals = select.poll()
        self._arrivals.register(connection, select.POLLIN)
        self._buffer = LineBuffer(LINE_LIMIT)
        self._lines: deque[bytes] = deque()
        self._pending: deque[dict[str, Any]] = deque()
        self._ids = itertools.count(1)
        self._unsent: deque[bytes] = deque()
        self._is_sending = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(self, method: str, params: dict[str, Any] | None = None, *, extra: float = 0.0) -> Any:
        """Send a request and wait for its result. Notifications that come first are kept for `next_message`.

        Args:
            method: a method of docs/protocol.md.
            params: its params by name; those that are None are left out.
            extra: seconds that the daemon may need for it, such as a grace period.

        Returns:
            The result.

        Raises:
            RefusedError: the daemon answered with an error.
            UnreachableError: no answer in time, or none that can be understood.
        """
        request_id = self.send(method, params)
        deadline = time.monotonic() + self.timeout + extra
        while True:
            message = self._receive(deadline, method)
            if "method" in message:
                self._pending.append(message)
            elif message.get("id") in (request_id, None):  # null: refused before the request was read
                return self._result(message)

    def send(self, method: str, params: dict[str, Any] | None = None) -> int:
        """Send a request without waiting for the answer. Safe in a signal handler, whatever that interrupts.

        Returns:
            The request's id.
        """
        request_id = next(self._ids)
        given = {name: value for name, value in (params or {}).items() if value is not None}
        request = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": given}
        self._unsent.append(json.dumps(request).encode() + b"\n")
        while self._unsent and not self._is_sending:  # else a signal has interrupted a send, which goes on with this
            self._is_sending = True
            try:
                self._send_next(method)
            finally:
                self._is_sending = False
        return request_id

    def _send_next(self, method: str) -> None:
        try:
            self._connection.sendall(self._unsent.popleft())
        except IndexError:
            pass  # a signal has interrupted us before we could say that we are sending, and has sent it
        except BlockingIOError as error:  # SO_SNDTIMEO has passed
            raise self._silence(method) from error
        except OSError:
            pass  # a daemon that will not talk to us has said why before it closed: the next read gives the reason

    def message_or(self, descriptor: int) -> tuple[bool, bool]:
        """Wait until a message has begun to arrive, or another descriptor can be read.

        Args:
            descriptor: the other descriptor.

        Returns:
            Whether a message has begun to arrive, and whether the descriptor can be read.
        """
        either = select.poll()
        either.register(self._connection, select.POLLIN)
        either.register(descriptor, select.POLLIN)
        is_here = bool(self._pending or self._lines)
        ready = {ready for ready, _ in either.poll(0 if is_here else None)}
        return is_here or self._connection.fileno() in ready, descriptor in ready

    def next_message(self, within: float | None = None) -> dict[str, Any]:
        """Return the next message: a notification, or the answer to a request of `send`.

        Args:
            within: seconds to wait; None for as long as it takes.

        Raises:
            UnreachableError: the connection ended, or nothing came in time.
        """
        if self._pending:
            return self._pending.popleft()
        return self._receive(None if within is None else time.monotonic() + within, "an execution")

    def _receive(self, deadline: float | None, method: str) -> dict[str, Any]:
        while not self._lines:
            self._read_more(deadline, method)
        try:
            message = json.loads(self._lines.popleft())
        except (ValueError, RecursionError) as error:
            raise self._nonsense("it is not JSON") from error
        if not isinstance(message, dict):
            raise self._nonsense("it is not an object")
        return message

    def _read_more(self, deadline: float | None, method: str) -> None:
        # The socket stays blocking and the time-out is poll's: a signal handler may send on it in the meantime.
        if not self._arrivals.poll(None if deadline is None else max(deadline - time.monotonic(), 0.0) * 1000):
            raise self._silence(method)
        try:
            received = self._connection.recv(RECEIVE_SIZE)
        except OSError as error:
            raise UnreachableError(f"lost the connection to ccexecd at {self.path}: {error.strerror}") from error
        if not received:
            raise UnreachableError(
                f"lost the connection to ccexecd at {self.path}: it closed it",
                "whether it still runs: ccexecctl status; why it ended: its log",
            )
        try:
            self._lines.extend(self._buffer.feed(received))
        except LineTooLongError as error:
            raise self._nonsense(str(error)) from error

    def _result(self, answer: dict[str, Any]) -> Any:
        if isinstance(answer.get("error"), dict):
            raise RefusedError(answer["error"])
        if "result" not in answer:
            raise self._nonsense("it has neither a result nor an error")
        return answer["result"]

    def _silence(self, method: str) -> CtlError:
        return UnreachableError(
            f"ccexecd at {self.path} did not answer {method!r} in time",
            "give it longer with --timeout, or look into its log",
        )

    def _nonsense(self, why: str) -> CtlError:
        return UnreachableError(f"cannot understand the answer of {self.path}: {why}", "is that socket ccexecd's?")


def connect(place: Place, timeout: float | None = None) -> Client:
    """Connect to the first control socket that answers.

    Args:
        place: where to look.
        timeout: seconds to wait for each answer; None for the default.

    Raises:
        NotRunningError: nobody is behind any of the sockets.
        NotPermittedError: one is there, but not for us.
        UnreachableError: a daemon holds the lock, but its socket does not answer.
    """
    connection, path = reach(place)
    return Client(connection, path, ANSWER_TIMEOUT if timeout is None else timeout)


def reach(place: Place) -> tuple[socket.socket, Path]:
    """Connect to the first control socket that answers, and send nothing.

    Returns:
        The connected socket, which blocks, and its path.

    Raises:
        NotRunningError: nobody is behind any of the sockets.
        NotPermittedError: one is there, but not for us.
        UnreachableError: a daemon holds the lock, but its socket does not answer.
    """
    failures: list[CtlError] = []
    for path in place.sockets:
        try:
            return _open(path), path
        except OSError as error:
            failures.append(_explain(path, error, is_fallback=place.is_fallback(path)))
    # A daemon that is there tells the user more than the place where none is.
    raise next((each for each in failures if not isinstance(each, NotRunningError)), failures[0])


def connect_to(arguments: Namespace) -> Client:
    """Connect to the daemon that the options name; the first step of every verb about a running daemon."""
    return connect(locate(arguments), arguments.timeout)


def _open(path: Path) -> socket.socket:
    """Connect, waiting out a daemon that is starting or has more callers than it can accept at once."""
    deadline = time.monotonic() + STARTING_PATIENCE
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with ExitStack() as stack:
                _require_held(path)
                connection.setblocking(False)  # a full backlog is EAGAIN at once, not a wait without end
                connection.connect(paths.socket_address(path, stack))
                connection.setblocking(True)
        except OSError as error:
            connection.close()
            is_worth_waiting = error.errno == errno.EAGAIN or (
                error.errno in NOBODY_THERE and is_held(pidfile_beside(path))
            )
            if not is_worth_waiting or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_INTERVAL)
        else:
            return connection


def _require_held(path: Path) -> None:
    """Check that a symbolic link to a control socket belongs to a living daemon: that the lock beside it is held.

    Raises:
        FileNotFoundError: it was left by a daemon that was killed; its target may belong to another daemon by now.
    """
    beside = pidfile_beside(path)
    if path.is_symlink() and beside.exists() and not is_held(beside):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _explain(path: Path, error: OSError, *, is_fallback: bool) -> CtlError:
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    why = f"cannot reach ccexecd at {path}: {reason}"
    nobody = f"ccexecd is not running ({path}: {reason})"
    if error.errno in FORBIDDEN and is_fallback and not is_held(pidfile_beside(path)):
        # Nothing shows that the machine has a daemon, and this user could not use it: only the own one counts.
        return NotRunningError(nobody)
    if error.errno in FORBIDDEN:
        return NotPermittedError(why, WHO_MAY)
    if error.errno not in NOBODY_THERE:
        return UnreachableError(why)
    if is_held(pidfile_beside(path)):
        return UnreachableError(f"{why}, although a daemon holds its lock", "end it with: ccexecctl stop --force")
    return NotRunningError(nobody, "start it with: ccexecctl start")
