"""How many cases each door is fuzzed with, which were worth keeping, and a connection that is not one.

Owns the numbers: `CASES` in all, times CCEXEC_FUZZ (an integer) where somebody has the time. A case is the bytes that a
stranger sends; one that has ever found something is a file in `corpus/DOOR/`, named after what it is, and is played
in every run.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, settings

CASES = {"heads": 2500, "frames": 2500, "calls": 2500, "lines": 2500}
"""Cases of each door in one run."""

FACTOR = int(os.environ.get("CCEXEC_FUZZ", "1"))

CORPUS = Path(__file__).parent / "corpus"

Test = Callable[..., None]


def cases(door: str, *, share: int) -> Callable[[Test], Test]:
    """Give a test so many per cent of a door's cases; it goes above `given`."""

    def apply(test: Test) -> Test:
        count = CASES[door] * share // 100 * FACTOR
        health = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
        bounded = settings(max_examples=count, deadline=None, print_blob=True, suppress_health_check=health)(test)
        return pytest.mark.timeout(120 * FACTOR)(bounded)

    return apply


def kept(door: str) -> pytest.MarkDecorator:
    """Play a door's corpus: `data` is what is in each of its files."""
    files = sorted((CORPUS / door).iterdir())
    assert files, "the corpus is missing"
    return pytest.mark.parametrize("data", [file.read_bytes() for file in files], ids=[file.stem for file in files])


def cut(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """The same bytes in pieces, none of them empty."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return (data[start:end] for start, end in itertools.pairwise(edges))


class Sender(trio.abc.HalfCloseableStream):
    """The other end of a connection: it sends what it has, piece by piece, and keeps what it is answered.

    Args:
        pieces: one for each read.
        stalls: then it says nothing more, for ever, instead of closing its side.

    Attributes:
        received: what it has been sent.
    """

    def __init__(self, pieces: Iterator[bytes], *, stalls: bool = False) -> None:
        self.received = bytearray()
        self._pieces = pieces
        self._stalls = stalls
        self._rest = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        piece = self._rest or next(self._pieces, b"")
        if not piece and self._stalls:
            await trio.sleep_forever()
        end = len(piece) if max_bytes is None else max_bytes
        piece, self._rest = piece[:end], piece[end:]
        return piece

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.received += data

    async def wait_send_all_might_not_block(self) -> None:
        """There is always room."""

    async def send_eof(self) -> None:
        """It is heard."""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
