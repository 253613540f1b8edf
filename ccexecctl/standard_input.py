"""Our standard input, passed on to an execution.

Owns what has been read and not been taken yet: `LIMIT` bytes at most, and one request under way at a time, so that a
program which does not read holds up whoever writes to us, as a pipe would. Must not wait: the one who waits for the
daemon asks whether there is something to read (`wants`), and hands over the answers.
"""

import os
import signal
from binascii import b2a_base64
from typing import Any

from ccexecctl import terminal
from ccexecctl.client import Client
from ccexecctl.errors import RefusedError
from ccexecd.protocol.errors import ErrorCode

LIMIT = 32 * 1024
"""Bytes of one request, and of what waits behind it. As base64 they fit into a socket's buffer: asking never waits."""

NOBODY_READS = {ErrorCode.STDIN_CLOSED, ErrorCode.INVALID_STATE, ErrorCode.PROCESS_NOT_FOUND}
"""Refusals that say that the program takes no more, or is no more. Its ending tells the rest."""


class StandardInput:
    """Passes our standard input on to one execution.

    Args:
        client: the connection to the daemon.
        may_detach: whether the detach key is looked for.
        ends: whether end of file is passed on to the program; on a terminal in raw mode it means that the terminal is
            gone.

    Attributes:
        descriptor: the descriptor that is read.
        is_left: the detach key was typed.
    """

    def __init__(self, client: Client, *, may_detach: bool = False, ends: bool = True) -> None:
        self.descriptor = terminal.KEYBOARD
        self.is_left = False
        self._client = client
        self._may_detach = may_detach
        self._ends = ends
        self._execution_id = ""
        self._waiting = bytearray()
        self._under_way: int | None = None
        self._is_at_end = False
        self._is_over = False  # nothing more is to be sent

    def begin(self, execution_id: str) -> None:
        """Begin to pass input on, to this execution."""
        self._execution_id = execution_id

    @property
    def wants(self) -> bool:
        """Whether it is to be read now; also when the program takes no more, since the detach key may come."""
        if self._is_at_end or (self._is_over and not self._may_detach):
            return False
        return len(self._waiting) < LIMIT

    def read(self) -> None:
        """Read what is there, and send it.

        Raises:
            SignalledError: the terminal is gone.
        """
        try:
            piece = os.read(self.descriptor, LIMIT - len(self._waiting))
        except OSError:  # EIO: a terminal that is gone, or that others have in the foreground
            piece = b""
        if not piece and not self._ends:
            raise terminal.SignalledError(signal.SIGHUP)
        self._is_at_end = not piece
        if self._may_detach:
            piece, self.is_left = terminal.up_to_detach_key(piece)
        if not self._is_over:
            self._waiting += piece
            self._pass_on()

    def heard(self, answer: dict[str, Any]) -> None:
        """Take an answer of the daemon; answers to requests of others are ignored.

        Raises:
            RefusedError: a write was refused, for another reason than that the program reads no more.
        """
        if self._under_way is None or answer.get("id") != self._under_way:
            return
        self._under_way = None
        if "error" in answer:
            self._is_over = True
            self._waiting.clear()
            if answer["error"].get("code") not in NOBODY_READS:
                raise RefusedError(answer["error"])
        self._pass_on()

    def _pass_on(self) -> None:
        if self._is_over or (self._under_way is not None and not self.is_left):
            return
        if self._waiting:
            text = b2a_base64(self._waiting, newline=False).decode()
            self._waiting.clear()
            self._under_way = self._ask("write_stdin", data_base64=text)
        elif self._is_at_end:
            self._is_over = True
            self._ask("close_stdin")

    def _ask(self, method: str, **params: str) -> int:
        return self._client.send(method, {"execution_id": self._execution_id, **params})
