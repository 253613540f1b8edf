"""One message per line: the framing of the control socket.

Owns cutting a byte stream into lines and bounding their length; JSON itself never holds a raw line feed. Standard
library only: ccexecctl imports it on every start.
"""

DEFAULT_LIMIT = 10 * 1024 * 1024
"""Bytes of one line: the same bound as for a WebSocket message (`ws_max_size`)."""


class LineTooLongError(ValueError):
    """A peer sent more than the limit without a line feed."""


class LineBuffer:
    """Collects bytes and gives back whole lines.

    Args:
        limit: bytes that one line may have, its line feed not counted.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._begun = bytearray()  # the line in progress

    def feed(self, received: bytes) -> list[bytes]:
        """Take what arrived and return the lines that it completed, without their line feeds.

        Raises:
            LineTooLongError: the line in progress, or one that was completed, is over the limit.
        """
        head, *rest = received.split(b"\n")
        self._begun += head
        if len(self._begun) > self._limit or any(len(line) > self._limit for line in rest):
            raise LineTooLongError(f"a line is longer than {self._limit} bytes")
        if not rest:
            return []
        lines = [bytes(self._begun), *rest[:-1]]
        self._begun = bytearray(rest[-1])
        return lines
