"""Whether what arrived is what was written: every byte, in order.

Owns the sinks that rows give to the client. They keep what arrives; the checking waits until the clock has stopped.
"""

import hashlib
from collections.abc import Iterable

from client import Execution


class WrongOutputError(Exception):
    """A server delivered something else than what the command wrote: its figures do not count."""


class Kept:
    """Keeps the text.

    Attributes:
        parts: as they arrived.
    """

    def __init__(self):
        self.parts: list[str] = []

    def take(self, text: str, at: int) -> None:  # noqa: ARG002  # the time is for other sinks
        self.parts.append(text)

    def digest(self) -> str:
        """SHA-256 of all of it."""
        return digest(part.encode() for part in self.parts)

    def must_be(self, wanted: str, size: int) -> None:
        """Compare with a digest and a number of bytes.

        Raises:
            WrongOutputError: it is something else.
        """
        if self.digest() != wanted:
            arrived = sum(len(part.encode()) for part in self.parts)
            raise WrongOutputError(f"{arrived} bytes arrived of {size}, or other ones")


class Ticks:
    """Reads the ticker's lines.

    Attributes:
        delays: nanoseconds from the write of each line until it was here.
        misplaced: lines that are not the one after the line before.
    """

    def __init__(self):
        self.delays: list[int] = []
        self.misplaced = 0
        self._rest = ""
        self._expected = 0

    def take(self, text: str, at: int) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            number, written = map(int, line.split())
            self.misplaced += number != self._expected
            self._expected = number + 1
            self.delays.append(at - written)

    def must_be(self, count: int) -> None:
        """Check that each line arrived once and in order.

        Raises:
            WrongOutputError: it did not.
        """
        if len(self.delays) != count or self.misplaced or self._rest:
            raise WrongOutputError(
                f"{len(self.delays)} lines arrived of {count}, {self.misplaced} not after the one before"
            )


class Repeated:
    """Counts an endless repetition, as of `yes`.

    Attributes:
        characters: how many arrived.
        last_ns: when the last of them did, as `client.now`.
        is_right: whether it was nothing else than the unit again and again.
    """

    def __init__(self, unit: str):
        self._unit = unit
        self._long = unit * (1 << 17)
        self.characters = self.last_ns = 0
        self.is_right = True

    def take(self, text: str, at: int) -> None:
        begin = self.characters % len(self._unit)
        if len(text) + begin > len(self._long):
            self._long = self._unit * len(text)
        self.is_right = self.is_right and text == self._long[begin : begin + len(text)]
        self.characters += len(text)
        self.last_ns = at

    def must_be_right(self) -> None:
        """Check that it was nothing else.

        Raises:
            WrongOutputError: it was.
        """
        if not self.is_right:
            raise WrongOutputError("something arrived that the command did not write")


def digest(pieces: Iterable[bytes]) -> str:
    """SHA-256 over pieces."""
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()


def must_have_worked(execution: Execution, exit_code: int = 0) -> None:
    """Check that a command ended as it should, and that the server reported no loss.

    Raises:
        WrongOutputError: it did not.
    """
    if execution.exit_code != exit_code:
        raise WrongOutputError(f"exit code {execution.exit_code} in place of {exit_code}")
    if execution.dropped_bytes:
        raise WrongOutputError(f"{execution.dropped_bytes} bytes were left out")
    must_be_in_order(execution)


def must_be_in_order(execution: Execution) -> None:
    """Check what holds for an endless output as well, of which a slow reader may miss a part.

    Raises:
        WrongOutputError: notifications came out of order, or a line was cut.
    """
    if execution.flaws:
        raise WrongOutputError("; ".join(execution.flaws[:3]))
