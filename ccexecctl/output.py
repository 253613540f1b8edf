"""Where the output of executions goes: byte for byte, at once, to the stdout and stderr of ccexecctl.

Owns decoding a piece of output from its form on the wire. Must not buffer what it passes on, and must not escape
anything in it.
"""

import os
import select
from base64 import b64decode
from typing import Any, Protocol

FILE_DESCRIPTORS = {"stdout": 1, "stderr": 2}
"""Descriptor of each of our own streams."""


class Output(Protocol):
    """Takes the pieces of an execution's output, in their order."""

    def write(self, stream: str, piece: bytes) -> None:
        """Take one piece of `stdout` or `stderr`. Raises BrokenPipeError if nobody reads our stream any more."""


class Passed:
    """Passes output on to our own stdout and stderr."""

    def write(self, stream: str, piece: bytes) -> None:
        """Write a whole piece, however slow the reader is, even if another process made the descriptor non-blocking."""
        descriptor, rest = FILE_DESCRIPTORS[stream], memoryview(piece)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                select.select([], [descriptor], [])


class Collected:
    """Keeps output in memory until the end, for `--json`."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[bytes]] = {stream: [] for stream in FILE_DESCRIPTORS}

    def write(self, stream: str, piece: bytes) -> None:
        """Keep one piece."""
        self._pieces[stream].append(piece)

    def texts(self) -> dict[str, str]:
        """Return all of each stream as text, by its name; bytes that are not UTF-8 are replaced by U+FFFD."""
        return {stream: b"".join(pieces).decode(errors="replace") for stream, pieces in self._pieces.items()}


def piece_of(chunk: dict[str, Any]) -> bytes:
    """Return the bytes of one piece of output.

    Args:
        chunk: the params of `process.output`, or one chunk of `read_output`.
    """
    if chunk.get("encoding") == "base64":
        return b64decode(chunk["data"])
    text: str = chunk["data"]
    return text.encode(errors="replace")
