"""Turns an execution's log into a client's notifications.

Owns the encoding of log entries, and one watcher's place in a log. Must not decide when anything is sent: the writer
asks for frames when the socket has room.
"""

import base64
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import attrs
import trio

from ccexecd.core.display import Display
from ccexecd.core.entries import Chunk, Entry, Gap, Note
from ccexecd.core.framing import Piece
from ccexecd.core.output import OutputLog
from ccexecd.protocol.jsonrpc import notification
from ccexecd.service.writer import GATHER, Writer

Wrap = Callable[[bytes], bytes]
"""Makes one message into a frame of the transport: adds a WebSocket header in front, or a line feed behind."""


class Watched(Protocol):
    """An execution as a watcher sees it, live or past."""

    @property
    def id(self) -> str:
        """Its UUID."""

    @property
    def log(self) -> OutputLog:
        """Its output and state changes."""

    @property
    def shown_as(self) -> Display:
        """How its request asked for its output to be shown."""

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call this function whenever the log has grown."""

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """Call this function no longer."""

    def was_read(self) -> None:
        """Called by a watcher that has moved on in the log, or has gone."""


def output_params(chunk: Chunk, shown_as: Display, *, from_seq: int = 0) -> list[dict[str, Any]]:
    """The params of `process.output` for each entry of a chunk, without the execution's id.

    Args:
        chunk: the chunk; of several lines, each is an entry.
        shown_as: how the output is shown.
        from_seq: entries with smaller numbers are left out.
    """
    piece = chunk.piece
    if chunk.count == 1:
        params = _one(chunk.seq, chunk, chunk.offset, piece, shown_as)
        if piece.parts > 1:
            params |= {"chunk_index": piece.part, "total_chunks": piece.parts}
        return [params]
    entries = []
    offset = chunk.offset
    for seq, line in enumerate(piece.text.split(b"\n")[:-1], chunk.seq):
        if seq >= from_seq:
            entries.append(_one(seq, chunk, offset, Piece(line + b"\n"), shown_as))
        offset += len(line) + 1
    return entries


def _one(seq: int, chunk: Chunk, offset: int, piece: Piece, shown_as: Display) -> dict[str, Any]:
    text = piece.text if shown_as.max_line_bytes is None else shown_as.cut(piece)
    is_cut = len(text) < len(piece.text)
    params = {"seq": seq, "type": chunk.stream, "data": "", "offset": offset, "truncated": is_cut}
    try:
        params["data"] = text.decode()
    except UnicodeDecodeError:
        if shown_as.exact:
            params["data"] = base64.b64encode(text).decode()
            params["encoding"] = "base64"
        else:
            params["data"] = text.decode(errors="replace")
    return params


def notifications(entry: Entry | Gap, shown_as: Display, *, from_seq: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Method and params of the notifications that tell of a log entry, without the execution's id.

    Args:
        entry: an entry that a cursor returned.
        shown_as: how output is shown.
        from_seq: entries with smaller numbers are left out.
    """
    match entry:
        case Chunk():
            for params in output_params(entry, shown_as, from_seq=from_seq):
                yield "process.output", params
        case Note():
            yield entry.method, {"seq": entry.seq, **entry.params}
        case Gap():
            yield "process.gap", attrs.asdict(entry)


async def growth(execution: Watched) -> None:
    """Wait until an execution's log has grown."""
    grown = trio.Event()
    execution.watch(grown.set)
    try:
        await grown.wait()
    finally:
        execution.unwatch(grown.set)


class Subscription:
    """One connection's place in one execution's log. It is taken when this is made; nothing is sent before `begin`.

    Args:
        execution: the execution to watch.
        from_seq: number of the first entry wanted; 0 is the start of the log, None its present end.
        writer: the connection's writer.
        wrap: makes a message into a frame of the connection.
        on_end: called with the execution's id when the last entry has been taken, or the subscription is closed.
    """

    def __init__(
        self, execution: Watched, from_seq: int | None, writer: Writer, wrap: Wrap, on_end: Callable[[str], object]
    ) -> None:
        self._execution = execution
        self._cursor = execution.log.cursor(from_seq)
        self._first_seq = self._cursor.seq
        self._writer = writer
        self._wrap = wrap
        self._on_end = on_end
        self._shown_as = execution.shown_as

    def begin(self) -> None:
        """Send the entries that are there, and then each one that comes."""
        self._execution.watch(self._wake)
        self._wake()

    def close(self) -> None:
        """End watching."""
        self._execution.unwatch(self._wake)
        self._cursor.close()
        self._execution.was_read()
        self._writer.forget(self)
        self._on_end(self._execution.id)

    def next_frames(self) -> bytes | None:
        """Frames of the next entries, `GATHER` bytes or a little more; None if there are none now. For the writer."""
        frames: list[bytes] = []
        size = 0
        while size < GATHER and (entry := self._cursor.take()) is not None:
            for frame in self._frames(entry):
                frames.append(frame)
                size += len(frame)
        if self._cursor.finished:
            self.close()
        else:
            self._execution.was_read()
        return b"".join(frames) if frames else None

    def _wake(self) -> None:
        self._writer.has_output(self)

    def _frames(self, entry: Entry | Gap) -> list[bytes]:
        return [
            self._wrap(notification(method, {"execution_id": self._execution.id, **params}))
            for method, params in notifications(entry, self._shown_as, from_seq=self._first_seq)
        ]
