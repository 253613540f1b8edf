"""Where the output of executions goes: byte for byte, at once, to our own stdout and stderr.

Owns decoding a piece of output as the wire has it. Must not buffer, and must not escape anything: a program's output is
its own business.
"""

import os
import select
from base64 import b64decode
from typing import Any, Protocol

FILE_DESCRIPTORS = {"stdout": 1, "stderr": 2}


class Output(Protocol):
    """Takes pieces of output in the order in which they were written."""

    def write(self, stream: str, piece: bytes) -> None:
        """Take one piece of `stdout` or `stderr`. Raises BrokenPipeError when nobody reads it any more."""


class Passed:
    """Output that goes where our own goes."""

    def write(self, stream: str, piece: bytes) -> None:
        """Write all of it, however slow the reader, also when somebody made the descriptor non-blocking."""
        descriptor, rest = FILE_DESCRIPTORS[stream], memoryview(piece)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                select.select([], [descriptor], [])


class Collected:
    """Output that is kept until the end, for `--json`."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[bytes]] = {stream: [] for stream in FILE_DESCRIPTORS}

    def write(self, stream: str, piece: bytes) -> None:
        """Keep one piece."""
        self._pieces[stream].append(piece)

    def texts(self) -> dict[str, str]:
        """All of both streams as text; bytes that are not UTF-8 are replaced by U+FFFD."""
        return {stream: b"".join(pieces).decode(errors="replace") for stream, pieces in self._pieces.items()}


def piece_of(chunk: dict[str, Any]) -> bytes:
    """The bytes of one `process.output` or one chunk of `read_output`."""
    if chunk.get("encoding") == "base64":
        return b64decode(chunk["data"])
    text: str = chunk["data"]
    return text.encode(errors="replace")
