"""Reads what a daemon that died left of an execution: its log, and its records in the audit.

Owns reading an unfinished log and completing it: output that no line of the journal stands for yet (half a line, or the
last read) gets one, and a last entry says how the execution ended. Must not decide how long anything is kept.
"""

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import attrs

from ccexecd.core.entries import Chunk, Entry, Note, Stream
from ccexecd.core.execution import Outcome, Reason, State
from ccexecd.core.framing import Framer
from ccexecd.storage import journal
from ccexecd.storage.chain import files_in, open_records, opened
from ccexecd.storage.history import Record
from ccexecd.storage.journal import Line, Place
from ccexecd.storage.log_files import LogFiles
from ccexecd.storage.plain_file import open_plain
from ccexecd.storage.room import Room
from ccexecd.storage.stored_log import JOURNAL, STREAMS, StoredLog

ONCE = "once"
"""Key that only descriptions in a journal have: the execution's idempotency key and fingerprint."""

_TAIL = 64 * 1024
"""Bytes of a journal's end that are read first; what is needed is usually among its last few lines."""

_READ = 1024 * 1024
_AUDIT_TAIL = 1024 * 1024
"""Bytes of the audit's end that are read: some two thousand executions, of which only the last few are needed."""

_AFTER_START = 2
"""The number of the entry after `process.started`, which is the first entry of every execution that has started."""

_STAT_BLOCK = 512  # bytes, whatever the file system's block is: stat(2)


@attrs.frozen
class Trace:
    """What is left on disk of an execution.

    Attributes:
        log: its log, for reading.
        next_seq: the number after that of its last entry.
        sizes: bytes that each stream has had.
        started: the params of `process.started`; None if it is not known to have started.
        completion: the params of `process.completed`; None if its log does not have that entry.
        last_sign: when its files were last written to, in seconds since the epoch.
    """

    log: StoredLog
    next_seq: int
    sizes: dict[Stream, int]
    started: dict[str, Any] | None
    completion: dict[str, Any] | None
    last_sign: float

    @property
    def disk_bytes(self) -> int:
        """Bytes that its files and their directory take on disk. It blocks."""
        files = list(self.log.directory.iterdir())
        return sum(each.lstat().st_blocks for each in (self.log.directory, *files)) * _STAT_BLOCK


class Recorded(NamedTuple):
    """What the audit tells of an execution.

    Attributes:
        decision: the fields of the record that admitted it; if that is too far back, those of the record of its end.
        outcome: the fields of the record of its end; None if there is none.
    """

    decision: Mapping[str, Any]
    outcome: Mapping[str, Any] | None


class _Uncounted:
    """The room of logs that are being completed: it does not count their bytes, which the spool inherits afterwards.

    Args:
        room: what all logs share.
    """

    def __init__(self, room: Room) -> None:
        self.most_bytes = room.most_bytes
        self.fails, self.works, self.is_over, self.postpone = room.fails, room.works, room.is_over, room.postpone

    def takes(self, size: int) -> None:
        """Does nothing: bytes are counted in the event loop, and this is another thread."""

    def reads(self, files: LogFiles) -> None:
        """Does nothing: only one log is open at a time."""


def trace(directory: Path, room: Room) -> Trace:
    """Read what is left of an execution, and complete its journal: all output in its files gets an entry.

    Args:
        directory: the log's directory.
        room: what all logs share.

    Raises:
        JournalError: it holds no log, or one of a later version.
        OSError: the log cannot be read or completed.
    """
    log = StoredLog.reopened(directory, _Uncounted(room))
    fd = open_plain(directory / JOURNAL)
    try:
        start, size = log.journal_bounds
        last_sign = os.fstat(fd).st_mtime
        first = (said for _, _, said in journal.lines(fd, start, min(size, start + _TAIL)))
        started = next((params for said in first if (params := _params(said, "process.started"))), None)
        end, next_seq, ends, completion = _last_lines(fd, start, size)
    finally:
        os.close(fd)
    sizes: dict[Stream, int] = {}
    entries: list[Entry] = []
    for stream in STREAMS:
        path = directory / stream
        if path.exists():
            status = path.stat()
            sizes[stream] = max(status.st_size, ends[stream])
            last_sign = max(last_sign, status.st_mtime)
        else:
            sizes[stream] = ends[stream]
        if completion is None:
            left = list(_left_over(path, stream, ends[stream], next_seq))
            entries += left
            next_seq += len(left)
    if entries:
        log.append(end, entries)
    return Trace(log, next_seq, sizes, started, completion, last_sign)


def concluded(known: Record | None, left: Trace | None, outcome: Mapping[str, Any] | None = None) -> Record:
    """Make the final record of an execution; if nobody knows its end, it is lost, and its log is told so, too.

    Args:
        known: its record in the history; None if there is none.
        left: what is left of its log; None if there is none. At least one of these two is given.
        outcome: the fields of the audit's record of its end; used only if there is no log.

    Raises:
        KeyError, TypeError, ValueError, OSError: what was read is not ours, or the log cannot be completed.
    """
    description = dict(known.description if known is not None else left.log.execution if left is not None else {})
    key, fingerprint = description.pop(ONCE, (None, None))
    if known is not None:
        key, fingerprint = known.idempotency_key, known.fingerprint
    description |= {"state": State.FINISHED.value, "queue_position": None}
    if left is not None:
        description |= _told_by(left, description)
    end, completion = _end_of(description, left, outcome)
    if completion is None:
        completion = _lost(description, end)
        if left is not None:
            left.log.append(left.log.journal_bounds[1], [Note(left.next_seq, "process.completed", completion)])
    taken = ("exit_code", "signal", "reason", "duration", "stdout_bytes", "stderr_bytes", "dropped_bytes", "leftovers")
    description |= {key: completion[key] for key in taken}
    description["limit"] = completion.get("limit")
    if "agent" in completion:
        description["agent"] = completion["agent"]
    description["finished_at"] = datetime.fromtimestamp(end, UTC).isoformat()
    if left is not None:
        is_new = left.completion is None
        description |= {"next_seq": left.next_seq + is_new, "oldest_seq": left.log.oldest_seq}
    else:  # clients may have seen its `process.started`
        description["next_seq"] = max(description["next_seq"], _AFTER_START) + 1
    return Record(
        id=description["execution_id"],
        session_id=description["session_id"],
        principal=description["principal"],
        created_at=_seconds(description["created_at"]),
        finished_at=end,
        reason=completion["reason"],
        exit_code=completion["exit_code"],
        duration=completion["duration"],
        command=description["command"],
        output_bytes=left.disk_bytes if left is not None else 0,
        description=description,
        completion=completion,
        idempotency_key=key,
        fingerprint=fingerprint,
    )


def _told_by(left: Trace, known: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the description that the log knows better, besides those of the end."""
    told = {"stdout_bytes": left.sizes["stdout"], "stderr_bytes": left.sizes["stderr"]}
    told |= {"dropped_bytes": left.log.dropped[0]}
    told |= {key: left.started[key] for key in ("pid", "pgid") if left.started is not None}
    return {**told, "started_at": known["started_at"] or left.log.execution.get("started_at")}


def recorded(directory: Path) -> dict[str, Recorded]:
    """Executions of the last daemon that the history may lack, as the audit tells of them.

    These are all that had not ended, with those that waited for their turn; if that daemon was killed, also those that
    had ended.

    Args:
        directory: directory of the audit's files.

    Returns:
        Execution id -> what the audit has; empty if there is no audit, or it cannot be read.
    """
    decisions: dict[str, dict[str, Any]] = {}  # of earlier daemons, too: one of those may have admitted what was held
    begun: dict[str, Recorded] = {}
    ended: dict[str, Recorded] = {}
    try:
        for fields in (record.fields for record in map(opened, _last_records(directory)) if record is not None):
            kind, name = fields.get("kind"), str(fields.get("execution_id"))
            if kind == "began":
                begun, ended = {}, {}
            elif kind == "ended":  # the daemon stopped in good order: the history has all that had ended
                ended = {}
            elif kind == "decision" and fields.get("decision") == "allowed":
                decisions[name] = fields
                begun[name] = Recorded(fields, None)
            elif kind == "outcome":
                begun.pop(name, None)
                ended[name] = Recorded(decisions.get(name, fields), fields)
    except OSError:
        return {}
    return begun | ended


def _last_records(directory: Path) -> list[bytes]:
    """The last lines of the audit, `_AUDIT_TAIL` bytes at most; the first one may be only part of a line."""
    text = b""
    for file in reversed(files_in(directory)[-2:]):
        with open_records(file) as stream:
            stream.seek(max(0, file.stat().st_size + len(text) - _AUDIT_TAIL))
            text = stream.read() + text
    return text.splitlines(keepends=True)


def begun(execution_id: str, fields: Mapping[str, Any]) -> Record:
    """Make the record of an execution of which only the audit has anything.

    Args:
        execution_id: its id.
        fields: the fields of the audit's record that admitted it.

    Raises:
        KeyError, ValueError: the fields are not as this program writes them.
    """
    session_id, principal, command = (str(fields.get(name, "")) for name in ("session_id", "principal", "command"))
    description: dict[str, Any] = {
        **dict.fromkeys(("pid", "pgid", "started_at", "finished_at", "exit_code", "signal", "reason", "limit")),
        **dict.fromkeys(("stdout_bytes", "stderr_bytes", "dropped_bytes"), 0),
        "execution_id": execution_id,
        "session_id": session_id,
        "principal": principal,
        "command": command,
        "argv": [command],
        "cwd": str(fields.get("cwd", "/")),
        "created_at": str(fields["t"]),
        "labels": {},
        "timeout": None,
        "timeout_source": "none",
        "limits": {},
        "error": "",
        "leftovers": [],
        "left_running": False,
        "next_seq": 1,
        "oldest_seq": 1,
        "framing": "lines",
        "max_line_bytes": None,
        "stdin": "closed",
        "pty": None,
    }
    created = _seconds(description["created_at"])
    key = str(fields["idempotency_key"]) if "idempotency_key" in fields else None
    known = Record(execution_id, session_id, principal, created, None, None, None, 0.0, command, 0, description, None)
    return attrs.evolve(known, idempotency_key=key)


def _end_of(
    description: dict[str, Any], left: Trace | None, outcome: Mapping[str, Any] | None
) -> tuple[float, dict[str, Any] | None]:
    """When an execution ended or was last seen, in seconds since the epoch, and the params of `process.completed`.

    These are None if nobody knows how it ended.
    """
    began = _seconds(description["started_at"] or description["created_at"])
    if left is not None:  # file times are some milliseconds behind the clock: it must not end before it began
        return max(left.last_sign, began), left.completion
    if outcome is None:
        return began, None
    end = _seconds(outcome["t"])
    return end, _ended(description, end, outcome)


def _ended(description: dict[str, Any], end: float, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The params of `process.completed`, made from the audit's record of the end; completes the description, too."""
    outcome = Outcome(fields["exit_code"], Reason(fields["outcome"]), error=str(fields.get("error", "")))
    duration, pid = float(fields["duration"]), fields["pid"]
    if pid is not None:
        started = description["started_at"] or datetime.fromtimestamp(end - duration, UTC).isoformat()
        description |= {"pid": pid, "pgid": pid, "started_at": started}
    description["error"] = outcome.error
    sizes: dict[Stream, int] = {"stdout": description["stdout_bytes"], "stderr": description["stderr_bytes"]}
    return {**outcome.told(duration, sizes, description["dropped_bytes"]), "pid": pid, "pgid": pid}


def _lost(description: dict[str, Any], end: float) -> dict[str, Any]:
    """The params of `process.completed` for an execution that is lost: nobody knows how it ended."""
    began = description["started_at"]
    duration = round(max(0.0, end - _seconds(began)), 6) if began else 0.0
    sizes: dict[Stream, int] = {"stdout": description["stdout_bytes"], "stderr": description["stderr_bytes"]}
    told = Outcome(None, Reason.LOST).told(duration, sizes, description["dropped_bytes"])
    return {**told, "pid": description["pid"], "pgid": description["pgid"]}


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _params(said: Line, method: str) -> dict[str, Any] | None:
    """The params of a line that is a state change of this method; None for every other line."""
    return said.params if isinstance(said, Note) and said.method == method else None


def _last_lines(fd: int, start: int, size: int) -> tuple[int, int, dict[Stream, int], dict[str, Any] | None]:
    """Read the end of a journal, further and further back until a chunk of each stream has been found.

    Returns:
        The offset where the last whole line ends, the number after that of its entry, for each stream the offset where
        its last chunk ends, and the params of `process.completed`, or None.
    """
    span = _TAIL
    while True:
        end, next_seq = start, 1
        completion: dict[str, Any] | None = None
        ends: dict[Stream, int] = {}
        for _, after, said in journal.lines(fd, max(start, size - span), size):
            end, next_seq = after, said.seq + said.count
            if isinstance(said, Place):
                ends[said.stream] = said.offset + said.size
            else:
                completion = _params(said, "process.completed") or completion
        if len(ends) == len(STREAMS) or span >= size - start:
            return end, next_seq, {stream: ends.get(stream, 0) for stream in STREAMS}, completion
        span *= 8


def _left_over(path: Path, stream: Stream, offset: int, seq: int) -> Iterator[Chunk]:
    """Make chunks for the output of a stream from an offset on, numbered from `seq` on."""
    if not path.exists():
        return
    framer = Framer("raw", 0)
    with open(open_plain(path), "rb") as file:  # noqa: PTH123  # a descriptor
        file.seek(offset)
        reads = iter(partial(file.read, _READ), b"")
        for piece in chain(chain.from_iterable(map(framer.feed, reads)), framer.finish()):
            yield Chunk(seq, 1, stream, offset, piece)
            seq += 1
            offset += len(piece.text)
